"""Agents over Chat Completions and Messages: a stored turn, whose stream becomes the deltas of a bare call.

The client keeps the context, so each request is a session of its own. What the turn's tools did is in that session,
under the ids that the answer's ``stateline`` field names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import msgspec

from stateline.api.call import Call
from stateline.api.service import Service
from stateline.core import response as shapes
from stateline.core.calls import (
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    FinishReason,
    ItemStart,
    ModelDelta,
    ModelParams,
    ModelRequest,
    PartStart,
    ReasoningDelta,
    RefusalDelta,
    SidecarDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import Blame, StatelineError
from stateline.core.events import TurnRequest
from stateline.core.ids import digest
from stateline.core.items import FunctionCall, Item, Message, Reasoning
from stateline.core.response import AskField, Response, StreamEvent
from stateline.core.tools import AGENT_PREFIX
from stateline.engine import Submission

_STATUS = {"contract_denied": 403, "insufficient_quota": 429, "rate_limit_exceeded": 429, "no_deployment": 503}
_REASONS: dict[str, FinishReason] = {"content_filter": "content_filter", "tool_outcome_unknown": "stop"}
_PARAMS = tuple(field.name for field in msgspec.structs.fields(ModelParams))


class AgentTurnField(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Stateline's own facts about an agent's answer in another API's shape.

    Attributes:
        response_id: ``/v1/responses`` has the turn under it, and goes on from it.
        waits_for: calls that wait for a person.
    """

    response_id: str
    session: str
    agent: str
    waits_for: tuple[AskField, ...] = ()


class Told:
    """What is known of a turn when it has ended; its encoder writes it with the end."""

    __slots__ = ("field",)

    def __init__(self) -> None:
        self.field: AgentTurnField | msgspec.UnsetType = msgspec.UNSET


class AgentTurnFailed(StatelineError):
    """The turn of an agent has failed, with the code that its response has."""

    code = "turn_failed"
    status = 502
    blame: Blame = "upstream"


def is_agent(model: str) -> bool:
    return model.startswith(AGENT_PREFIX)


async def agent_deltas(
    service: Service, call: Call, request: ModelRequest, body: bytes, told: Told, *, one_text: bool
) -> AsyncGenerator[list[ModelDelta], None]:
    """Post the turn, and give what its model says as it is said; ``told`` is filled before the last delta.

    The turn goes on when the client hangs up, and a retry of the same request finds it.

    Args:
        one_text: the dialect has one text for all messages of the turn, so they are parted by an empty line.

    Raises:
        AgentTurnFailed: the turn failed.
        StatelineError: see ``Engine.submit``.
    """
    engine, params = service.engine, request.params
    accepted = await engine.submit(
        Submission(
            tenant=call.tenant,
            principal=call.principal.id,
            user=call.principal.user,
            request=TurnRequest(**{name: getattr(params, name) for name in _PARAMS}, stream=request.stream),
            input=cast("tuple[Item, ...]", tuple(request.items)),
            digest=digest(call.path.encode(), body),
            idempotency_key=call.idempotency_key(),
            retry=call.is_retry(),
            traceparent=call.traceparent(),
        )
    )
    call.durable = True
    reader = _Reader(one_text=one_text)
    async with aclosing(engine.stream(accepted)) as batches:
        async for events in batches:
            deltas: list[ModelDelta] = []
            for event in events:
                if type(event) is shapes.ResponseEvent:
                    deltas += _end(event.response, told)
                else:
                    deltas += reader.deltas(event)
            if deltas:
                yield deltas


class _Reader:
    """Stream events of a response back into deltas; what hosted tools do has none."""

    def __init__(self, *, one_text: bool) -> None:
        self._one_text = one_text
        self._said = False
        self._parted = False
        self._parts: set[str] = set()

    def deltas(self, event: StreamEvent) -> list[ModelDelta]:
        kind = event.type
        if type(event) is shapes.TextDeltaEvent:
            return [*self._apart(), TextDelta(event.delta, event.logprobs or None)]
        if type(event) is shapes.ArgumentsDeltaEvent:
            # A hosted tool's arguments are of the same shape, and no business of the client's.
            mine = kind == "response.function_call_arguments.delta"
            return [CallDelta(event.output_index, event.delta)] if mine else []
        if type(event) is shapes.ContentDeltaEvent:
            if kind == "response.refusal.delta":
                return [RefusalDelta(event.delta)]
            return [ReasoningDelta(event.delta)]
        if type(event) is shapes.SummaryDeltaEvent:
            return [SummaryDelta(event.delta)]
        if type(event) is shapes.AnnotationEvent:
            return [AnnotationDelta(event.annotation)]
        if type(event) is shapes.ContentPartEvent or type(event) is shapes.SummaryPartEvent:
            return self._part(event.item_id) if kind.endswith(".added") else []
        if type(event) is shapes.ItemEvent:
            return self._item(event, added=kind.endswith(".added"))
        return []

    def _apart(self) -> list[ModelDelta]:
        """What stands between the text of an earlier message and this one's."""
        parted, self._parted, said, self._said = self._parted, False, self._said, True
        return [TextDelta("\n\n")] if parted and said and self._one_text else []

    def _part(self, item_id: str) -> list[ModelDelta]:
        first = item_id not in self._parts
        self._parts.add(item_id)
        return [] if first else [PartStart()]

    def _item(self, event: shapes.ItemEvent, *, added: bool) -> list[ModelDelta]:
        item = event.item
        if added and type(item) is Message:
            self._parted = True
            return [ItemStart("message")]
        if added and type(item) is Reasoning:
            return [ItemStart("reasoning")]
        if added and type(item) is FunctionCall:
            return [CallStart(event.output_index, item.call_id, item.name)]
        if type(item) is Reasoning and isinstance(item.encrypted_content, str):
            return [SidecarDelta({"encrypted_content": item.encrypted_content})]
        return []


def _end(response: Response, told: Told) -> list[ModelDelta]:
    """The end of a response that has one.

    Raises:
        AgentTurnFailed: it failed.
    """
    if response.status in ("queued", "in_progress"):
        return []
    about = response.stateline
    assert isinstance(about, shapes.StatelineField)
    told.field = AgentTurnField(
        response_id=response.id, session=about.session, agent=about.agent or "", waits_for=about.waits_for
    )
    if response.error is not None:
        code = response.error.code
        raise AgentTurnFailed(response.error.message, code=code, status=_STATUS.get(code, 502))
    out: list[ModelDelta] = []
    if about.waits_for:
        # Most clients show a text and nothing else.
        said = any(type(item) is Message for item in response.output)
        out = [ItemStart("message"), TextDelta(("\n\n" if said else "") + "\n".join(map(_waits, about.waits_for)))]
    return [*out, Finish(reason=_reason(response), usage=_usage(response))]


def _waits(each: AskField) -> str:
    if each.demanded_by is not None:
        return f"[The call {each.server_label}/{each.name} waits for a person's approval, {each.id}.]"
    return f"[Whether the call {each.server_label}/{each.name} took effect is not known. A person must say: {each.id}.]"


def _reason(response: Response) -> FinishReason:
    details = response.incomplete_details
    if details is not None:
        return _REASONS.get(details.reason, "length")
    if response.status == "cancelled":
        return "cancelled"
    # A call that is the client's to make ends the turn.
    return "tool_calls" if any(type(item) is FunctionCall for item in response.output) else "stop"


def _usage(response: Response) -> Usage | None:
    usage = response.usage
    if usage is None:
        return None
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.input_tokens_details.cached_tokens,
        reasoning_tokens=usage.output_tokens_details.reasoning_tokens,
    )
