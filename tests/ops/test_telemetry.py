"""What a collector is told by the real server: traces and metrics, with their callers' traces and without content.

One that is away costs spans alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from tests.crash.harness import Server
from tests.engine.conftest import Lab, asking, user
from tests.engine.test_money import budget, meter
from tests.engine.tool_lab import FREE, box, calling, tools
from tests.ops.collector import Collector, collecting, told
from tests.unit.core.driver import REF, START_MS

from stateline.config import ConfigError, Telemetry
from stateline.core import events as e
from stateline.core.call_spans import BareCall
from stateline.core.limits import TELEMETRY_BEGUN_MAX, TELEMETRY_SERIES_MAX, TELEMETRY_SPANS_MAX
from stateline.core.measures import SHOWN, Readings
from stateline.core.session import new_session
from stateline.core.spans import Span
from stateline.ops.measuring import Measuring
from stateline.ops.telemetry import telemetry_of
from stateline.testing import ScriptedUpstream
from stateline.testing.scripted import Answer

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs stateline[otel]")
TRACE = "0123456789abcdef0123456789abcdef"
CALLER = f"00-{TRACE}-0123456789abcdef-01"
AWAY = "http://127.0.0.1:9"
TURN = [
    e.TurnRequested(response_id="resp_1", turn=1, request=e.TurnRequest(model="m"), input=()),
    e.TurnCancelled(response_id="resp_1"),
]
EVENTS = [e.Event(session=REF, seq=at, at_ms=START_MS + at, body=body) for at, body in enumerate(TURN, start=1)]
PAIR = """
[[deployments]]
name = "away"
model = "moving"
cloud = "openai-compatible"
format = "openai-chat"
base_url = "http://127.0.0.1:9/v1"
auth = "none"
priority = 1

[[deployments]]
name = "there"
model = "moving"
cloud = "openai-compatible"
format = "openai-chat"
base_url = "{url}"
auth = "none"
priority = 2

[[agents]]
name = "clerk"
model = "scripted"
instructions = "keep a secret"

[telemetry]
endpoint = "{collector}"
metrics = true
"""
BUDGET = """
[[budgets]]
name = "all"
tenant = "default"
usd_per_month = 500
mode = "warn"

[prices]
unpriced = "allow"
"""


async def ask_everything(server: Server) -> None:
    """A turn, one that is not kept, bare calls on each path, and one that is refused; each with a secret in it."""
    trace = {"traceparent": CALLER, "x-mine": "secret-header"}
    async with server.client(max_retries=0).with_options(default_headers=trace) as client:
        await client.responses.create(model="scripted", input="a secret question")
        await client.responses.create(model="scripted", input="a secret question", store=False)
        said: list[Any] = [{"role": "user", "content": "a secret question"}]
        await client.chat.completions.create(model="agent/clerk", messages=said)
        stream = await client.chat.completions.create(model="moving", messages=said, stream=True)
        async for _ in stream:
            pass
        await client.embeddings.create(model="scripted", input="a secret text")
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="secret-model", messages=said)
    body = {"model": "scripted", "max_tokens": 9, "messages": [{"role": "user", "content": "a secret question"}]}
    async with aiohttp.ClientSession(headers=trace) as http:
        async with http.post(f"{server.base_url}/messages", json=body) as reply:
            assert reply.status == 200
        async with http.get(f"{server.root}/metrics") as reply:
            text = await reply.text()
    shown = set(re.findall(r"^# TYPE stateline_(\w+) (?:gauge|counter)$", text, re.MULTILINE))
    assert shown <= SHOWN.keys(), "all of /metrics is told over OTLP"
    assert {"budget_spent", "events_recorded_total", "http_requests_total", "lease_losses_total"} <= shown


async def test_the_real_server_tells_a_collector_what_it_did_and_nothing_that_was_said(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, collecting() as collector:
        settings = PAIR.format(url=upstream, collector=collector.url) + BUDGET
        server = Server(tmp_path, upstream, settings=settings, environment={"OTEL_METRIC_EXPORT_INTERVAL": "250"})
        try:
            await server.start()
            await ask_everything(server)
            await collector.until(lambda: len(collector.spans) >= 14)
            await collector.until(lambda: collector.counted("stateline.http.requests", http__route="/v1/messages"))
            await collector.until(lambda: "gen_ai.client.operation.time_to_first_chunk" in collector.metrics)
        finally:
            await server.close()
        check_spans(collector)
        check_metrics(collector)
        log = server.log.read_text()
        assert b"secret" not in b"".join(collector.raw).replace(b"secret-model", b"")
        assert b"secret-model" not in b"".join(each.SerializeToString() for each in collector.metrics.values())
        assert "secret" not in log
        lines = [json.loads(line) for line in log.splitlines()]
        asked = [each for each in lines if str(each.get("path", "")).startswith("/v1/")]
        assert len(asked) == 7
        spans = {span.span_id.hex(): span.name for span in collector.spans}
        assert {each["trace_id"] for each in asked} == {TRACE}
        names = [spans[each["span_id"]] for each in asked]
        assert names == ["stateline.turn"] * 2 + ["invoke_agent clerk"] + ["stateline.call"] * 4


def check_spans(collector: Collector) -> None:
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    bare = collector.named("stateline.call")
    roots = [*collector.named("stateline.turn"), *collector.named("invoke_agent clerk"), *bare]
    assert len(roots) == 7
    assert {span.parent_span_id.hex() for span in roots} == {CALLER.split("-")[2]}
    calls = {told(span.attributes)["stateline.interface"] + str(span.status.code): span for span in bare}
    assert calls.keys() == {"chat0", "embeddings0", "messages0", "chat2"}
    assert {span.kind for span in calls.values()} == {2}, "each is a server's"
    assert told(calls["chat2"].attributes)["error.type"] == "model_not_found"
    lost, kept = [span for span in collector.spans if span.parent_span_id == calls["chat0"].span_id]
    assert (lost.name, lost.kind, told(lost.attributes)["stateline.deployment"]) == ("chat moving", 3, "away")
    assert told(lost.attributes)["error.type"] == "upstream_unreachable"
    about = told(kept.attributes)
    assert (about["stateline.deployment"], about["gen_ai.response.finish_reasons"]) == ("there", ("stop",))
    assert about["gen_ai.usage.output_tokens"] > 0
    assert collector.named("embeddings scripted")[0].parent_span_id == calls["embeddings0"].span_id
    assert len(collector.named("chat scripted")) == 4


def check_metrics(collector: Collector) -> None:
    units = {name: collector.metrics[name].unit for name in ("gen_ai.client.token.usage", "stateline.budget.spent")}
    assert units == {"gen_ai.client.token.usage": "{token}", "stateline.budget.spent": "{currency}"}
    calls = {
        (about["gen_ai.request.model"], about["stateline.deployment"], about.get("error.type")): point.count
        for about, point in collector.points("gen_ai.client.operation.duration")
    }
    assert calls[("moving", "away", "upstream_unreachable")] == calls[("moving", "there", None)] == 1
    assert list(collector.points("gen_ai.client.operation.duration")[0][1].explicit_bounds)[:3] == [0.01, 0.02, 0.04]
    assert {about["gen_ai.token.type"] for about, _ in collector.points("gen_ai.client.token.usage")} == {
        "input",
        "output",
    }
    served = collector.points("gen_ai.server.request.duration")
    assert sum(point.count for _, point in served) == 7
    assert [about for about, _ in collector.points("gen_ai.invoke_agent.duration")] == [{"gen_ai.agent.name": "clerk"}]
    assert [about for about, _ in served if about.get("error.type") == "model_not_found"] == [
        {
            "error.type": "model_not_found",
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "stateline",
        }
    ]
    assert collector.counted("stateline.events.recorded", stateline__type="TurnCompleted") == 2
    assert [about for about, _ in collector.points("stateline.budget.limit")] == [
        {"stateline.budget": "all", "stateline.currency": "USD"}
    ]
    assert collector.counted("stateline.telemetry.dropped") == 0


async def test_tools_are_measured_and_what_they_are_given_and_say_is_told_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab(tmp_path)
    lab.script(calling("look"))
    async with collecting() as collector, lab.engine(toolbox=box(tools(look="a secret output"))) as engine:
        telemetry = telemetry_of(Telemetry(endpoint=collector.url, metrics=True), {}, "1")
        assert telemetry is not None
        engine.trace(telemetry.observe, telemetry.observe_call)
        with caplog.at_level(logging.DEBUG):
            accepted = await engine.submit(asking((user("a secret question"),), servers=(FREE,)))
            await engine.wait(accepted, "open-responses")
            await telemetry.close()
        (tool,) = collector.named("execute_tool look")
        assert told(tool.attributes)["mcp.method.name"] == "tools/call"
        for name in ("gen_ai.execute_tool.duration", "mcp.client.operation.duration"):
            ((about, point),) = collector.points(name)
            assert (about["gen_ai.tool.name"], point.count) == ("look", 1)
        raw = b"".join(collector.raw)
        for word in (b"secret", b'"n"', accepted.session.id.encode()):
            assert word not in b"".join(each.SerializeToString() for each in collector.metrics.values())
            assert word not in raw or word == accepted.session.id.encode(), "spans may name the session"
        assert "secret" not in caplog.text


async def test_what_the_engine_counts_is_told_to_the_end_and_budgets_as_they_stood_when_the_store_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    async with collecting() as collector:
        telemetry = telemetry_of(Telemetry(endpoint=collector.url, metrics=True, traces=False), {}, "1")
        assert telemetry is not None
        lab = Lab(tmp_path)
        lab.script({"m": Answer(text="an answer")})
        async with lab.engine(meter=meter(budget("100"))) as engine:
            keeping = asyncio.get_running_loop().create_task(telemetry.keep(engine))
            await collector.until(lambda: collector.counted("stateline.budget.limit"))
            assert not collector.counted("stateline.events.recorded")
            await engine.wait(await engine.submit(asking("go")), "open-responses")
            keeping.cancel()
        await telemetry.close()
        assert collector.counted("stateline.events.recorded", stateline__type="TurnCompleted") == 1
        assert collector.counted("stateline.budget.limit") == 100
        assert sum(point.count for _, point in collector.points("gen_ai.server.request.duration")) == 1


async def test_an_engine_that_cannot_be_read_costs_its_values_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def readings(self, *, budgets: bool = True) -> Readings:
            raise RuntimeError(f"a defect, budgets {budgets}")

    async with collecting() as collector:
        telemetry = telemetry_of(Telemetry(endpoint=collector.url, metrics=True, traces=False), {}, "1")
        assert telemetry is not None
        assert telemetry.measuring is not None
        telemetry.measuring.read_from(Broken())
        telemetry.measuring.record([of_model("m")])
        with caplog.at_level(logging.WARNING, logger="stateline"):
            await telemetry.close()
        assert "cannot be told to the collector: RuntimeError" in caplog.text
        assert len(collector.points("gen_ai.client.operation.duration")) == 1


async def test_a_collector_that_is_away_costs_spans_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = telemetry_of(Telemetry(endpoint=AWAY), {}, "1")
    assert telemetry is not None
    assert telemetry.tracing is not None
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    with caplog.at_level(logging.WARNING, logger="stateline"):
        for _ in range(2):
            telemetry.observe(new_session(REF), EVENTS)
            await telemetry.collect()
            await telemetry.tracing.flush()
    assert telemetry.counts().counters == {"telemetry_dropped_total": 2}
    assert [record.message for record in caplog.records if record.name == "stateline"] == [
        "traces cannot be sent to the collector; they are dropped until it answers"
    ]


async def test_what_waits_is_bounded_and_counted_at_each_place() -> None:
    telemetry = telemetry_of(Telemetry(endpoint=AWAY), {}, "1")
    assert telemetry is not None
    for _ in range(TELEMETRY_SPANS_MAX):
        telemetry.observe(new_session(REF), EVENTS)
    bare = BareCall(key="k", tenant="t", interface="chat", model="m", stream=False, traceparent="", began_ms=1)
    for _ in range(3):
        telemetry.observe_call(bare)
    assert telemetry.dropped == 3
    await telemetry.collect()
    telemetry.observe_call(bare)
    await telemetry.collect()
    assert telemetry.counts().counters == {"telemetry_dropped_total": 4}, "a collector that takes none fills the next"


def test_what_is_remembered_of_calls_under_way_is_bounded_and_forgotten_at_their_end() -> None:
    telemetry = telemetry_of(Telemetry(endpoint=AWAY), {}, "1")
    assert telemetry is not None
    remembered: Any = vars(telemetry)["_begun"]
    requested = e.Event(session=REF, seq=1, at_ms=START_MS, body=TURN[0])
    started = e.ModelCallStarted(turn=1, step=1, deployment="d", origin="openai-chat/openai", model="m")
    chunk = e.Chunk(turn=1, step=1, first=0, ops=())
    ends = [e.ModelCallFinished(turn=1, step=1, finish_reason="stop"), e.TurnCompleted(response_id="resp_1")]
    log = [requested] + [
        e.Event(session=REF, seq=at, at_ms=START_MS + at, body=body)
        for at, body in enumerate([started, chunk, *ends], start=2)
    ]
    telemetry.observe(new_session(REF), log[:3])
    assert len(remembered) == 2
    telemetry.observe(new_session(REF), log)
    assert not remembered
    for at in range(TELEMETRY_BEGUN_MAX):
        body = e.Chunk(turn=1, step=at + 1, first=0, ops=())
        telemetry.observe(new_session(REF), [e.Event(session=REF, seq=1, at_ms=START_MS, body=body)])
    assert len(remembered) == TELEMETRY_BEGUN_MAX


async def test_an_instrument_has_a_bounded_number_of_series() -> None:
    async with collecting() as collector:
        telemetry = telemetry_of(Telemetry(endpoint=collector.url, metrics=True, traces=False), {}, "1")
        assert telemetry is not None
        assert isinstance(telemetry.measuring, Measuring)
        telemetry.measuring.record([of_model(f"m{at}") for at in range(TELEMETRY_SERIES_MAX + 5)])
        telemetry.measuring.record([of_model("m0")])
        await telemetry.close()
        points = collector.points("gen_ai.client.operation.duration")
    assert len(points) == TELEMETRY_SERIES_MAX + 1
    assert [point.count for about, point in points if about.get("otel.metric.overflow")] == [5]
    assert [point.count for about, point in points if about.get("gen_ai.request.model") == "m0"] == [2]


def of_model(model: str) -> Span:
    return Span(
        name="",
        kind="client",
        trace_id=TRACE,
        span_id="0" * 16,
        parent_id="",
        start_ms=0,
        end_ms=1,
        attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": model},
    )


async def test_without_an_endpoint_there_is_nothing_and_a_secret_that_is_not_there_is_refused() -> None:
    assert telemetry_of(Telemetry(), {}, "1") is None
    assert telemetry_of(Telemetry(endpoint=AWAY, traces=False), {}, "1") is None
    only = telemetry_of(Telemetry(endpoint=AWAY), {}, "1")
    assert only is not None
    assert only.measuring is None, "metrics are off unless they are asked for"
    with pytest.raises(ConfigError, match="OTLP_TOKEN is not set"):
        telemetry_of(Telemetry(endpoint="http://x", headers_env={"Authorization": "OTLP_TOKEN"}), {}, "1")
