"""What is measured: OpenTelemetry's metrics for generative AI, made of spans; and our own, made of what /metrics shows.

https://github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai: gen-ai-metrics, mcp), names, units and
buckets alike. Attributes name models, deployments, tools and errors: never a session, a user, or what was said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from stateline.core.limits import TELEMETRY_ATTRIBUTE_CHARS_MAX
from stateline.core.spans import Span

_CALL_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_AGENT_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
_FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_MCP_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class Histogram(NamedTuple):
    """How an instrument that spans feed is made. ``unit`` is UCUM's; ``bounds`` are of its buckets, in that unit."""

    unit: str
    about: str
    bounds: tuple[float, ...]


HISTOGRAMS: Mapping[str, Histogram] = {
    "gen_ai.client.operation.duration": Histogram("s", "A model call, from its start to its end.", _CALL_S),
    "gen_ai.client.operation.time_to_first_chunk": Histogram("s", "A streamed call, to its first words.", _CALL_S),
    "gen_ai.client.token.usage": Histogram("{token}", "Tokens of a model call, by type.", _TOKENS),
    "gen_ai.execute_tool.duration": Histogram("s", "A tool call, from its sending to its end.", _CALL_S),
    "gen_ai.invoke_agent.duration": Histogram("s", "A turn of an agent.", _AGENT_S),
    "gen_ai.server.request.duration": Histogram("s", "A turn or a bare call, as its caller sees it.", _CALL_S),
    "gen_ai.server.time_to_first_token": Histogram("s", "The same to the first words, where streamed.", _FIRST_S),
    "mcp.client.operation.duration": Histogram("s", "A tool call of an MCP server.", _MCP_S),
}


class Measure(NamedTuple):
    """One value of one of ``HISTOGRAMS``."""

    name: str
    value: float
    attributes: Mapping[str, str]


def measures_of(span: Span) -> list[Measure]:
    """What a span measures."""
    if span.kind != "client":
        return _served(span)
    if span.attributes["gen_ai.operation.name"] == "execute_tool":
        return _tool(span)
    about = _picked(span, "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")
    about |= _picked(span, "gen_ai.response.model", "stateline.deployment")
    duration = Measure("gen_ai.client.operation.duration", _duration_s(span), about | _error(span))
    out = [duration]
    if span.first_ms:
        out.append(Measure("gen_ai.client.operation.time_to_first_chunk", _first_s(span), about))
    for kind in ("input", "output"):
        tokens = span.attributes.get(f"gen_ai.usage.{kind}_tokens")
        if isinstance(tokens, int):
            out.append(Measure("gen_ai.client.token.usage", tokens, about | {"gen_ai.token.type": kind}))
    return out


def _served(span: Span) -> list[Measure]:
    """Of what a caller asked for: a turn, or a bare call."""
    about = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "stateline"}
    about |= _picked(span, "gen_ai.operation.name")
    if span.attributes.get("stateline.tries") != 0:
        # Where no deployment was tried the model's name is what the caller made up, and there is no end of those.
        about |= _picked(span, "gen_ai.request.model")
    out = [Measure("gen_ai.server.request.duration", _duration_s(span), about | _error(span))]
    if span.first_ms:
        out.append(Measure("gen_ai.server.time_to_first_token", _first_s(span), about))
    agent = _picked(span, "gen_ai.agent.name")
    if agent:
        out.append(Measure("gen_ai.invoke_agent.duration", _duration_s(span), agent | _error(span)))
    return out


def _tool(span: Span) -> list[Measure]:
    about = _picked(span, "gen_ai.tool.name") | _error(span)
    out = [Measure("gen_ai.execute_tool.duration", _duration_s(span), about)]
    method = _picked(span, "mcp.method.name")
    if method:
        remote = about | method | _picked(span, "gen_ai.operation.name")
        if span.error == "tool_said_no":
            # The name that the conventions have for it, on this metric alone.
            remote["error.type"] = "tool_error"
        out.append(Measure("mcp.client.operation.duration", _duration_s(span), remote))
    return out


def _picked(span: Span, *names: str) -> dict[str, str]:
    chars_max = TELEMETRY_ATTRIBUTE_CHARS_MAX
    return {name: str(span.attributes[name])[:chars_max] for name in names if name in span.attributes}


def _error(span: Span) -> dict[str, str]:
    return {} if span.error is None else {"error.type": span.error}


def _duration_s(span: Span) -> float:
    return max(0, span.end_ms - span.start_ms) / 1000


def _first_s(span: Span) -> float:
    return max(0, span.first_ms - span.start_ms) / 1000


# -- what /metrics shows -----------------------------------------------------------------------------------


class Readings(NamedTuple):
    """What is counted and measured, by the name and labels of its series in ``/metrics``, ``stateline_`` left out.

    ``gauges`` are present values, ``counters`` counts since the start.
    """

    gauges: Mapping[str, float]
    counters: Mapping[str, float]


class Shown(NamedTuple):
    """What a series of ``/metrics`` is called over OTLP."""

    name: str
    unit: str
    kind: Literal["gauge", "counter"]


SHOWN: Mapping[str, Shown] = {
    "active_turns": Shown("stateline.turns.active", "{turn}", "gauge"),
    "budget_held": Shown("stateline.budget.held", "{currency}", "gauge"),
    "budget_limit": Shown("stateline.budget.limit", "{currency}", "gauge"),
    "budget_spent": Shown("stateline.budget.spent", "{currency}", "gauge"),
    "cached_session_bytes": Shown("stateline.sessions.cached_size", "By", "gauge"),
    "cached_sessions": Shown("stateline.sessions.cached", "{session}", "gauge"),
    "charged_total": Shown("stateline.charged", "{currency}", "counter"),
    "deployment_calls_in_flight": Shown("stateline.deployment.calls_in_flight", "{call}", "gauge"),
    "deployment_circuit_open": Shown("stateline.deployment.circuit_open", "1", "gauge"),
    "deployment_first_delta_ms": Shown("stateline.deployment.first_delta", "ms", "gauge"),
    "deployment_window_calls": Shown("stateline.deployment.window_calls", "{call}", "gauge"),
    "deployment_window_failures": Shown("stateline.deployment.window_failures", "{call}", "gauge"),
    "events_recorded_total": Shown("stateline.events.recorded", "{event}", "counter"),
    "http_requests_in_flight": Shown("http.server.active_requests", "{request}", "gauge"),
    "http_requests_total": Shown("stateline.http.requests", "{request}", "counter"),
    "lease_losses_total": Shown("stateline.lease.losses", "{loss}", "counter"),
    "placement_verdicts_total": Shown("stateline.placement.verdicts", "{verdict}", "counter"),
    "telemetry_dropped_total": Shown("stateline.telemetry.dropped", "{operation}", "counter"),
    "websockets_open": Shown("stateline.websockets.open", "{connection}", "gauge"),
}
"""By the name in ``/metrics``, ``stateline_`` left out."""

_ATTRIBUTES = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
}
"""Attributes' names by labels'; of the others, ``stateline.`` stands before."""
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def bare_name(series: str) -> str:
    """A series' name without its labels."""
    return series.partition("{")[0]


def labels_of(series: str) -> dict[str, str]:
    """The labels that a series' name ends in (``calls{deployment="a"}``), by their attributes' names."""
    return {
        _ATTRIBUTES.get(name) or f"stateline.{name}": _ESCAPED.sub(_unescaped, value)
        for name, value in _LABEL.findall(series)
    }


def label(value: str) -> str:
    r"""A label's value as Prometheus' text has it: ``\``, ``"`` and line breaks escaped."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]
