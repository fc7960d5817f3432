"""What a turn did, as spans of OpenTelemetry's conventions for generative AI; pure, and made of the log's own events.

https://github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai: spans, agent spans, execute tool). Ids are
derived, so a span has the same whoever reports it. Content is left out unless it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from stateline.core import events as e
from stateline.core.calls import Usage
from stateline.core.ids import digest, effect_key
from stateline.core.session import Session, Turn, fold

Value = str | int | tuple[str, ...]
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
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
        error: the stable code of what it failed with.
    """

    name: str
    kind: Literal["internal", "client"]
    trace_id: str
    span_id: str
    parent_id: str
    start_ms: int
    end_ms: int
    attributes: Mapping[str, Value]
    error: str | None = None


def traced(traceparent: str) -> tuple[str, str] | None:
    """The trace and the span of a W3C ``traceparent``; None where it is none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return None if found is None else (found[1], found[2])


def trace_id(turn: Turn) -> str:
    """The trace that a turn is of: its caller's, or one of its own."""
    caller = traced(turn.traceparent)
    return digest(turn.response_id.encode()) if caller is None else caller[0]


def turn_span_id(turn: Turn) -> str:
    return digest(b"turn", turn.response_id.encode())[:16]


def spans_of(session: Session, events: Iterable[e.Event], *, content: bool = False) -> list[Span]:
    """The operations that these events end.

    Args:
        session: as it was before them.
        content: whether arguments and outputs of tools, and the texts of turns, are told.
    """
    out: list[Span] = []
    for event in events:
        body, turn = event.body, session.turn
        if turn is not None:
            if type(body) is e.ModelCallFinished or type(body) is e.ModelCallFailed:
                out.append(_model_call(session, turn, event, body))
            elif type(body) is e.EffectCommitted or type(body) is e.EffectFailed or type(body) is e.EffectUnknown:
                out.append(_tool_call(session, turn, event, body, content=content))
            elif type(body) in e.TERMINAL:
                out.append(_turn(session, turn, event, content=content))
        session = fold(session, event)
    return out


def _model_call(session: Session, turn: Turn, event: e.Event, body: e.ModelCallFinished | e.ModelCallFailed) -> Span:
    call = turn.call
    assert call is not None
    cloud = call.origin.split("/")[1] if "/" in call.origin else ""
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(cloud, cloud or "unknown"),
        "gen_ai.request.model": turn.model,
        "gen_ai.conversation.id": session.ref.id,
        "stateline.deployment": call.deployment,
        "stateline.step": call.step,
    }
    _add_usage(attributes, body.usage)
    if type(body) is e.ModelCallFinished:
        attributes["gen_ai.response.finish_reasons"] = (body.finish_reason,)
        if body.upstream_model is not None:
            attributes["gen_ai.response.model"] = body.upstream_model
        if body.upstream_id is not None:
            attributes["gen_ai.response.id"] = body.upstream_id
    key = effect_key(session.ref.id, turn.number_in_session, call.step)
    return Span(
        name=f"chat {turn.model}",
        kind="client",
        trace_id=trace_id(turn),
        span_id=digest(key.encode())[:16],
        parent_id=turn_span_id(turn),
        start_ms=call.at_ms,
        end_ms=event.at_ms,
        attributes=attributes,
        error=body.code if type(body) is e.ModelCallFailed else None,
    )


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
    key = effect_key(session.ref.id, turn.number_in_session, act.step)
    return Span(
        name=f"execute_tool {act.call.tool}",
        kind="client",
        trace_id=trace_id(turn),
        span_id=digest(key.encode())[:16],
        parent_id=turn_span_id(turn),
        start_ms=act.at_ms,
        end_ms=event.at_ms,
        attributes=attributes,
        error=error,
    )


def _turn(session: Session, turn: Turn, event: e.Event, *, content: bool) -> Span:
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
    _add_usage(attributes, turn.usage)
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
        trace_id=trace_id(turn),
        span_id=turn_span_id(turn),
        parent_id="" if caller is None else caller[1],
        start_ms=turn.requested_at_ms,
        end_ms=event.at_ms,
        attributes=attributes,
        error=error,
    )


def _add_usage(attributes: dict[str, Value], usage: Usage | None) -> None:
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.input_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.output_tokens
