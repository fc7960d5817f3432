"""What a turn did, as spans of OpenTelemetry's conventions for generative AI; pure, and made of the log's own events.

https://github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai: spans, agent spans, execute tool). Ids are
derived, so a span has the same whoever reports it. Content is left out unless it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from stateline.core import events as e
from stateline.core.calls import Usage
from stateline.core.hosted import OWN_SERVER
from stateline.core.ids import digest, effect_key
from stateline.core.placing import Ruling
from stateline.core.session import Session, Turn, fold

Value = str | int | tuple[str, ...]
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
_LOCAL_HOSTS = frozenset({OWN_SERVER, "functions", "sandbox"})
"""Labels of the tool hosts that are no MCP servers."""
_PROVIDERS = {
    "openai": "openai",
    "azure": "azure.ai.openai",
    "anthropic": "anthropic",
    "aws": "aws.bedrock",
    "google": "gcp.gen_ai",
}
"""By cloud: well-known values of ``gen_ai.provider.name``."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One operation that has ended.

    Attributes:
        trace_id, span_id, parent_id: hexadecimal, of 16 and 8 bytes; ``parent_id`` is empty at the root.
        first_ms: when it first said something, where it was asked to say it piece by piece (Unix time); 0 elsewhere.
        error: the stable code of what it failed with.
    """

    name: str
    kind: Literal["internal", "client", "server"]
    trace_id: str
    span_id: str
    parent_id: str
    start_ms: int
    end_ms: int
    attributes: Mapping[str, Value]
    first_ms: int = 0
    error: str | None = None


class StepKey(NamedTuple):
    """A step of a session's turn; step 0 is the turn itself."""

    session: str
    turn: int
    step: int


class Begun(NamedTuple):
    """What a span tells that the fold does not keep until its end.

    Attributes:
        first_ms: when its first words were recorded (Unix time); 0: not yet.
        ruling: the verdict on where a model call went; None where there are no contracts.
    """

    first_ms: int = 0
    ruling: Ruling | None = None


_NOTHING_KNOWN = Begun()


def traced(traceparent: str) -> tuple[str, str] | None:
    """The trace and the span of a W3C ``traceparent``; None where it is none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return None if found is None else (found[1], found[2])


def trace_id(response_id: str, traceparent: str) -> str:
    """The trace that a turn is of: its caller's, or one of its own."""
    caller = traced(traceparent)
    return digest(response_id.encode()) if caller is None else caller[0]


def turn_span_id(response_id: str) -> str:
    return digest(b"turn", response_id.encode())[:16]


def provider_of(origin: str) -> str:
    """``gen_ai.provider.name`` of whoever answers with this origin (``core.origin``)."""
    cloud = origin.split("/")[1] if "/" in origin else ""
    return _PROVIDERS.get(cloud, cloud or "unknown")


def add_usage(attributes: dict[str, Value], usage: Usage | None) -> None:
    """What a call used, under the conventions' names."""
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.input_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.output_tokens


def add_ruling(attributes: dict[str, Value], ruling: Ruling | None) -> None:
    """What the contracts say of where a call went, and the clause that decided."""
    if ruling is not None:
        attributes["stateline.verdict"] = ruling.outcome
        if ruling.clause is not None:
            attributes["stateline.clause"] = ruling.clause


def spans_of(
    session: Session, events: Iterable[e.Event], *, content: bool = False, begun: Mapping[StepKey, Begun] | None = None
) -> list[Span]:
    """The operations that these events end.

    Args:
        session: as it was before them.
        content: whether arguments and outputs of tools, and the texts of turns, are told.
        begun: what is known of those that have not ended.
    """
    out: list[Span] = []
    known = begun or {}
    before: e.Event | None = None
    for event in events:
        if before is not None:
            session = fold(session, before)
        body, turn, before = event.body, session.turn, event
        if turn is not None:
            if type(body) is e.ModelCallFinished or type(body) is e.ModelCallFailed:
                key = StepKey(session.ref.id, turn.number_in_session, body.step)
                out.append(_model_call(session, turn, event, body, known.get(key, _NOTHING_KNOWN)))
            elif type(body) is e.EffectCommitted or type(body) is e.EffectFailed or type(body) is e.EffectUnknown:
                out.append(_tool_call(session, turn, event, body, content=content))
            elif type(body) in e.TERMINAL:
                key = StepKey(session.ref.id, turn.number_in_session, 0)
                out.append(_turn(session, turn, event, known.get(key, _NOTHING_KNOWN), content=content))
    return out


def _model_call(
    session: Session, turn: Turn, event: e.Event, body: e.ModelCallFinished | e.ModelCallFailed, begun: Begun
) -> Span:
    call = turn.call
    assert call is not None
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider_of(call.origin),
        "gen_ai.request.model": turn.model,
        "gen_ai.conversation.id": session.ref.id,
        "stateline.deployment": call.deployment,
        "stateline.step": call.step,
    }
    add_ruling(attributes, begun.ruling)
    add_usage(attributes, body.usage)
    if type(body) is e.ModelCallFinished:
        attributes["gen_ai.response.finish_reasons"] = (body.finish_reason,)
        if body.upstream_model is not None:
            attributes["gen_ai.response.model"] = body.upstream_model
        if body.upstream_id is not None:
            attributes["gen_ai.response.id"] = body.upstream_id
    return Span(
        name=f"chat {turn.model}",
        kind="client",
        trace_id=trace_id(turn.response_id, turn.traceparent),
        span_id=_step_span_id(session, turn, call.step),
        parent_id=turn_span_id(turn.response_id),
        start_ms=call.at_ms,
        end_ms=event.at_ms,
        attributes=attributes,
        first_ms=begun.first_ms if call.stream else 0,
        error=body.code if type(body) is e.ModelCallFailed else None,
    )


def _step_span_id(session: Session, turn: Turn, step: int) -> str:
    """Of a model or tool call, whoever tells of it: the key of its effect, in short."""
    return digest(effect_key(session.ref.id, turn.number_in_session, step).encode())[:16]


def _tool_call(
    session: Session,
    turn: Turn,
    event: e.Event,
    body: e.EffectCommitted | e.EffectFailed | e.EffectUnknown,
    *,
    content: bool,
) -> Span:
    act = next(each for each in turn.acts if each.call.id == body.id)
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": act.call.tool,
        "gen_ai.tool.call.id": act.call.id,
        "gen_ai.conversation.id": session.ref.id,
        "stateline.server": act.call.server,
        "stateline.effect": act.effect,
        "stateline.step": act.step,
    }
    if act.call.server not in _LOCAL_HOSTS:
        attributes["mcp.method.name"] = "tools/call"
    if content:
        attributes["gen_ai.tool.call.arguments"] = act.call.arguments
        if type(body) is e.EffectCommitted:
            attributes["gen_ai.tool.call.result"] = (
                body.output if isinstance(body.output, str) else msgspec.json.encode(body.output).decode()
            )
    error = None
    if type(body) is e.EffectFailed or type(body) is e.EffectUnknown:
        error = body.code
    elif type(body) is e.EffectCommitted and body.failed:
        error = "tool_said_no"
    return Span(
        name=f"execute_tool {act.call.tool}",
        kind="client",
        trace_id=trace_id(turn.response_id, turn.traceparent),
        span_id=_step_span_id(session, turn, act.step),
        parent_id=turn_span_id(turn.response_id),
        start_ms=act.at_ms,
        end_ms=event.at_ms,
        attributes=attributes,
        error=error,
    )


def _turn(session: Session, turn: Turn, event: e.Event, begun: Begun, *, content: bool) -> Span:
    body = event.body
    attributes: dict[str, Value] = {
        "gen_ai.conversation.id": session.ref.id,
        "gen_ai.request.model": turn.model,
        "gen_ai.response.id": turn.response_id,
        "stateline.tenant": session.ref.tenant,
        "stateline.steps": turn.steps,
    }
    name = "stateline.turn"
    if turn.agent is not None:
        name = f"invoke_agent {turn.agent.name}"
        attributes |= {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": turn.agent.name,
            "gen_ai.agent.version": turn.agent.version,
        }
    add_usage(attributes, turn.usage)
    if content:
        attributes["gen_ai.input.messages"] = msgspec.json.encode(turn.input).decode()
        attributes["gen_ai.output.messages"] = msgspec.json.encode(turn.output).decode()
    error = None
    if type(body) is e.TurnFailed:
        error = body.code
    elif type(body) is e.TurnIncomplete:
        error = body.reason
    caller = traced(turn.traceparent)
    return Span(
        name=name,
        kind="internal",
        trace_id=trace_id(turn.response_id, turn.traceparent),
        span_id=turn_span_id(turn.response_id),
        parent_id="" if caller is None else caller[1],
        start_ms=turn.requested_at_ms,
        end_ms=event.at_ms,
        attributes=attributes,
        first_ms=begun.first_ms if turn.request.stream else 0,
        error=error,
    )
