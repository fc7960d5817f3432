"""Traces reach a collector from the real server, with their caller's trace and without content; one that is away costs
spans alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.crash.harness import Server
from tests.unit.core.driver import REF, START_MS

from stateline.config import ConfigError, Telemetry
from stateline.core import events as e
from stateline.core.limits import TELEMETRY_SPANS_MAX
from stateline.core.session import new_session
from stateline.ops.telemetry import tracing_of
from stateline.testing import ScriptedUpstream

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs stateline[otel]")
CALLER = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
TURN = [
    e.TurnRequested(response_id="resp_1", turn=1, request=e.TurnRequest(model="m"), input=()),
    e.TurnCancelled(response_id="resp_1"),
]
EVENTS = [e.Event(session=REF, seq=at, at_ms=START_MS + at, body=body) for at, body in enumerate(TURN, start=1)]


@contextlib.asynccontextmanager
async def collector() -> AsyncGenerator[tuple[str, list[Any], asyncio.Event]]:
    """A collector: its URL, the spans that it was sent, and whether any were."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Any] = []
    came = asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        body: Any = ExportTraceServiceRequest.FromString(await request.read())
        spans.extend(span for group in body.resource_spans for scope in group.scope_spans for span in scope.spans)
        came.set()
        return web.Response(body=b"", content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", spans, came
    finally:
        await runner.cleanup()


async def test_a_turn_of_the_real_server_is_told_to_a_collector(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, collector() as (url, spans, came):
        server = Server(tmp_path, upstream, settings=f'\n[telemetry]\nendpoint = "{url}"\n')
        try:
            await server.start()
            async with server.client(max_retries=0) as client:
                await client.responses.create(
                    model="scripted", input="a secret question", extra_headers={"traceparent": CALLER}
                )
            async with asyncio.timeout(20):
                await came.wait()
                while len(spans) < 2:  # noqa: ASYNC110 - The collector says only that something came.
                    await asyncio.sleep(0.02)
        finally:
            await server.close()
    by_name = {span.name: span for span in spans}
    turn, call = by_name["stateline.turn"], by_name["chat scripted"]
    assert turn.trace_id.hex() == call.trace_id.hex() == CALLER.split("-")[1]
    assert turn.parent_span_id.hex() == CALLER.split("-")[2]
    assert call.parent_span_id == turn.span_id
    assert b"secret" not in b"".join(span.SerializeToString() for span in spans)


async def test_a_collector_that_is_away_costs_spans_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    tracing = tracing_of(Telemetry(endpoint="http://127.0.0.1:9"), {}, "1")
    assert tracing is not None
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    with caplog.at_level(logging.WARNING, logger="stateline"):
        for _ in range(2):
            tracing.observe(new_session(REF), EVENTS)
            await tracing.flush()
    assert tracing.dropped == 2
    assert [record.message for record in caplog.records if record.name == "stateline"] == [
        "traces cannot be sent to the collector; they are dropped until it answers"
    ]


async def test_what_waits_to_be_sent_is_bounded() -> None:
    tracing = tracing_of(Telemetry(endpoint="http://127.0.0.1:9"), {}, "1")
    assert tracing is not None
    for _ in range(TELEMETRY_SPANS_MAX + 3):
        tracing.observe(new_session(REF), EVENTS)
    assert tracing.dropped == 3


def test_without_an_endpoint_there_is_nothing_and_a_secret_that_is_not_there_is_refused() -> None:
    assert tracing_of(Telemetry(), {}, "1") is None
    with pytest.raises(ConfigError, match="OTLP_TOKEN is not set"):
        tracing_of(Telemetry(endpoint="http://x", headers_env={"Authorization": "OTLP_TOKEN"}), {}, "1")
