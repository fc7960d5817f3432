"""What spans measure, under the conventions' names, and what /metrics shows, under ours."""

from __future__ import annotations

from typing import Any, Literal

from stateline.core.limits import TELEMETRY_ATTRIBUTE_CHARS_MAX
from stateline.core.measures import HISTOGRAMS, SHOWN, Measure, bare_name, label, labels_of, measures_of
from stateline.core.spans import Span


def span(
    kind: Literal["internal", "client", "server"], *, first_ms: int = 0, error: str | None = None, **more: Any
) -> Span:
    """A span of 1.5 s; ``more`` are attributes, with ``__`` for dots."""
    return Span(
        name="",
        kind=kind,
        trace_id="0" * 32,
        span_id="0" * 16,
        parent_id="",
        start_ms=1000,
        end_ms=2500,
        attributes={name.replace("__", "."): value for name, value in more.items()},
        first_ms=first_ms,
        error=error,
    )


def test_a_model_call_has_its_duration_its_first_words_and_its_tokens() -> None:
    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.response.model": "gpt-5-1",
        "stateline.deployment": "d",
    }
    told = span(
        "client",
        first_ms=1250,
        gen_ai__operation__name="chat",
        gen_ai__provider__name="openai",
        gen_ai__request__model="gpt-5",
        gen_ai__response__model="gpt-5-1",
        gen_ai__conversation__id="conv",
        gen_ai__usage__input_tokens=7,
        gen_ai__usage__output_tokens=0,
        stateline__deployment="d",
    )
    assert measures_of(told) == [
        Measure("gen_ai.client.operation.duration", 1.5, about),
        Measure("gen_ai.client.operation.time_to_first_chunk", 0.25, about),
        Measure("gen_ai.client.token.usage", 7, about | {"gen_ai.token.type": "input"}),
        Measure("gen_ai.client.token.usage", 0, about | {"gen_ai.token.type": "output"}),
    ]


def test_a_failed_call_says_with_what_and_counts_no_tokens() -> None:
    (only,) = measures_of(span("client", error="upstream_timeout", gen_ai__operation__name="chat"))
    assert only.attributes == {"gen_ai.operation.name": "chat", "error.type": "upstream_timeout"}


def test_a_tool_call_of_an_mcp_server_is_measured_as_one_too() -> None:
    names: dict[str, Any] = {"gen_ai__operation__name": "execute_tool", "gen_ai__tool__name": "refund"}
    (plain,) = measures_of(span("client", **names))
    assert plain == Measure("gen_ai.execute_tool.duration", 1.5, {"gen_ai.tool.name": "refund"})
    tool, remote = measures_of(span("client", error="tool_said_no", mcp__method__name="tools/call", **names))
    assert tool.attributes["error.type"] == "tool_said_no"
    assert (remote.name, remote.value) == ("mcp.client.operation.duration", 1.5)
    assert remote.attributes == {
        "mcp.method.name": "tools/call",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "refund",
        "error.type": "tool_error",
    }
    _, lost = measures_of(span("client", error="tool_timeout", mcp__method__name="tools/call", **names))
    assert lost.attributes["error.type"] == "tool_timeout"


def test_what_callers_see_is_measured_and_a_model_that_they_made_up_is_not_named() -> None:
    turn = measures_of(span("internal", first_ms=1100, gen_ai__request__model="m", stateline__tenant="t"))
    assert [(each.name, each.value) for each in turn] == [
        ("gen_ai.server.request.duration", 1.5),
        ("gen_ai.server.time_to_first_token", 0.1),
    ]
    about = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "stateline", "gen_ai.request.model": "m"}
    assert turn[0].attributes == turn[1].attributes == about
    (unknown,) = measures_of(
        span("server", error="model_not_found", gen_ai__request__model="made up", stateline__tries=0)
    )
    assert "gen_ai.request.model" not in unknown.attributes
    _, agent = measures_of(
        span("internal", gen_ai__operation__name="invoke_agent", gen_ai__agent__name="clerk", error="max_steps")
    )
    assert agent == Measure(
        "gen_ai.invoke_agent.duration", 1.5, {"gen_ai.agent.name": "clerk", "error.type": "max_steps"}
    )


def test_a_name_that_is_too_long_is_cut() -> None:
    (only,) = measures_of(span("client", gen_ai__operation__name="chat", gen_ai__response__model="x" * 10_000))
    assert only.attributes["gen_ai.response.model"] == "x" * TELEMETRY_ATTRIBUTE_CHARS_MAX


def test_buckets_rise_and_units_are_said() -> None:
    for each in HISTOGRAMS.values():
        assert list(each.bounds) == sorted(set(each.bounds))
        assert each.unit in ("s", "{token}")
    assert len({each.name for each in SHOWN.values()}) == len(SHOWN)


def test_labels_come_back_as_they_were() -> None:
    odd = 'a "b"\\n\n}'
    series = f'deployment_window_calls{{deployment="{label(odd)}",status="200"}}'
    assert bare_name(series) == "deployment_window_calls"
    assert labels_of(series) == {"stateline.deployment": odd, "http.response.status_code": "200"}
    assert (bare_name("active_turns"), labels_of("active_turns")) == ("active_turns", {})
