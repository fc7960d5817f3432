"""What happens next: ``decide`` takes a session and the event it has just folded.

It returns events that follow at once and effects to perform once those are durable. It knows no clock:
time is the event's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast, final

import msgspec

from stateline.core import acting, carrying
from stateline.core import events as e
from stateline.core.acting import settled
from stateline.core.calls import AllowedTools, FinishReason, ModelParams, ModelRequest, ToolChoice
from stateline.core.carrying import Dropped
from stateline.core.hosted import for_model, function_of
from stateline.core.ids import digest, effect_key, item_id
from stateline.core.items import HOSTED_ITEMS, PREFIXES, FunctionCall, FunctionCallOutput, Item, ModelItem
from stateline.core.limits import (
    CRASHES_MAX,
    RETRY_AFTER_MS_MAX,
    RETRY_BACKOFF_MS_BASE,
    RETRY_BACKOFF_MS_MAX,
)
from stateline.core.ops import Op
from stateline.core.session import Session, Turn
from stateline.core.stream import replay


@final
class CallModel(msgspec.Struct, frozen=True, kw_only=True):
    """Effect: place and make a model call. ``key`` is ``session/turn/step``."""

    turn: int
    step: int
    key: str


@final
class StopCall(msgspec.Struct, frozen=True, kw_only=True):
    """Effect: end the calls in flight, keeping what a model said, for ``reason``."""

    reason: FinishReason


@final
class ListTools(msgspec.Struct, frozen=True, kw_only=True):
    """Effect: ask the turn's servers what they offer. It ends in ToolsListed, or in the end of the turn."""

    turn: int


@final
class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Effect: decide on the turn's planned tool calls, and make those that may be made.

    ``step`` is the first one's: each that is dispatched takes the next.
    """

    turn: int
    step: int


@final
class TakeUp(msgspec.Struct, frozen=True, kw_only=True):
    """Effect: find out about the tool calls that a lost worker had dispatched.

    Those that may run twice run again under their keys. Of an unsafe one its tool may prove that it took effect; else
    it is unknown, and never made again.
    """

    turn: int


Effect = CallModel | StopCall | ListTools | Act | TakeUp


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    events: tuple[e.Body, ...] = ()
    effects: tuple[Effect, ...] = ()


NOTHING = Decision()

_REASONS: dict[FinishReason, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
    "max_output_bytes": "max_output_bytes",
    "max_wall_time": "max_wall_time",
}
"""Finish reasons that leave a turn incomplete, and the name each gets."""


def decide(session: Session, event: e.Event) -> Decision:
    """What follows from ``event``, which ``session`` has just folded."""
    turn = session.turn
    if turn is None:
        return NOTHING
    body = event.body
    if type(body) is e.Chunk or type(body) is e.ModelCallStarted:
        return NOTHING
    if type(body) is e.TurnRequested or type(body) is e.TimerFired:
        return _call(session, turn)
    if type(body) is e.ModelCallFinished:
        return _answered(session, turn, body)
    if type(body) in e.EFFECTS:
        return _acted(session, turn)
    if type(body) is e.ToolsListed:
        return _call(session, turn)
    if type(body) is e.ModelCallFailed:
        return _stumbled(session, turn, event.at_ms, body)
    if type(body) is e.CancelRequested:
        return _stop(turn, "cancelled", e.TurnCancelled(response_id=turn.response_id))
    if type(body) is e.DeadlinePassed:
        return _stop(turn, "max_wall_time", _incomplete(turn, "max_wall_time"))
    if type(body) is e.TurnResumed:
        return _resumed(session, turn)
    return NOTHING


def _incomplete(turn: Turn, reason: str) -> e.TurnIncomplete:
    return e.TurnIncomplete(response_id=turn.response_id, reason=reason)


def _call(session: Session, turn: Turn) -> Decision:
    """What comes next of a turn in which nothing runs: tools listed, calls made, or another model call."""
    if turn.cancelling:
        return Decision(events=(e.TurnCancelled(response_id=turn.response_id),))
    if turn.overdue:
        return Decision(events=(_incomplete(turn, "max_wall_time"),))
    if turn.steps >= turn.limits.steps_max:
        return Decision(events=(_incomplete(turn, "max_steps"),))
    if turn.hosting is None and turn.servers:
        return Decision(effects=(ListTools(turn=turn.number_in_session),))
    step = turn.steps + 1
    if any(act.status == "planned" for act in turn.acts):
        return Decision(effects=(Act(turn=turn.number_in_session, step=step),))
    key = effect_key(session.ref.id, turn.number_in_session, step)
    return Decision(effects=(CallModel(turn=turn.number_in_session, step=step, key=key),))


def _answered(session: Session, turn: Turn, body: e.ModelCallFinished) -> Decision:
    end: e.Body
    if turn.cancelling or body.finish_reason == "cancelled":
        end = e.TurnCancelled(response_id=turn.response_id)
    elif body.finish_reason in _REASONS:
        end = _incomplete(turn, _REASONS[body.finish_reason])
    elif turn.usage.total_tokens > turn.limits.turn_tokens_max:
        end = _incomplete(turn, "max_turn_tokens")
    elif body.calls:
        most = turn.tool_calls_max
        if most is not None and turn.tool_calls + len(body.calls) > most:
            end = _incomplete(turn, "max_tool_calls")
        else:
            return _call(session, turn)
    else:
        # Function calls are the client's to make: the turn ends with them, and the next brings their outputs.
        end = e.TurnCompleted(response_id=turn.response_id)
    return Decision(events=(end,))


def _acted(session: Session, turn: Turn) -> Decision:
    """Something became of a tool call; what follows is decided once all of them are settled."""
    if not settled(turn.acts) or session.quarantined:
        return NOTHING
    if turn.cancelling or turn.overdue:
        return _call(session, turn)
    if any(act.status == "unknown" for act in turn.acts):
        return Decision(events=(_incomplete(turn, "tool_outcome_unknown"),))
    if any(act.status == "asked" for act in turn.acts) or unanswered_calls(turn.output):
        # A person is to answer first, or the client, whose functions were called beside.
        return Decision(events=(e.TurnCompleted(response_id=turn.response_id),))
    return _call(session, turn)


def _stumbled(session: Session, turn: Turn, at_ms: int, body: e.ModelCallFailed) -> Decision:
    if turn.cancelling or turn.overdue:
        return _call(session, turn)
    if body.code == "worker_lost":
        return _resumed(session, turn)
    if body.elsewhere:
        # It has not been tried in this round, so there is nothing to wait for.
        return _call(session, turn)
    if not body.retryable or turn.failures >= turn.limits.model_failures_max:
        failed = e.TurnFailed(response_id=turn.response_id, code=body.code, message=body.message)
        return Decision(events=(failed,))
    if turn.steps + 1 >= turn.limits.steps_max:
        # The timer would be the last step, with no call left to follow it.
        return Decision(events=(_incomplete(turn, "max_steps"),))
    step = turn.steps + 1
    wait_ms = backoff_ms(turn.failures, effect_key(session.ref.id, turn.number_in_session, step), body.retry_after_ms)
    return Decision(events=(e.TimerSet(turn=turn.number_in_session, step=step, due_ms=at_ms + wait_ms),))


def _stop(turn: Turn, reason: FinishReason, end: e.Body) -> Decision:
    # What is only planned runs nowhere: it waits for a list of tools, and nothing would come of stopping it.
    if turn.state == "calling" or any(act.status == "dispatched" for act in turn.acts):
        return Decision(effects=(StopCall(reason=reason),))
    return Decision(events=(end,))


def _resumed(session: Session, turn: Turn) -> Decision:
    """A new owner goes on. A call in flight is closed first, by ``lost_call``."""
    if turn.state == "calling":
        return NOTHING
    if session.crashes >= CRASHES_MAX:
        message = f"the worker crashed {session.crashes} times on this session without a step between"
        lost = acting.lost(turn.acts, turn.number_in_session, turn.number, "session_quarantined", message)
        return Decision(
            events=(
                e.SessionQuarantined(crashes=session.crashes),
                *lost,
                e.TurnFailed(response_id=turn.response_id, code="session_quarantined", message=message),
            )
        )
    if turn.state == "waiting" and not (turn.cancelling or turn.overdue):
        return NOTHING
    if any(act.status == "dispatched" for act in turn.acts):
        return Decision(effects=(TakeUp(turn=turn.number_in_session),))
    return _call(session, turn)


def backoff_ms(failures: int, key: str, retry_after_ms: int | None) -> int:
    """How long to wait after the ``failures``-th failure in a row.

    Exponential, spread by up to a half that the effect's key derives, so that a restart waits the
    same; the provider's own ``Retry-After`` counts where it is longer, up to a limit.
    """
    full = min(RETRY_BACKOFF_MS_BASE * 2 ** min(failures - 1, 16), RETRY_BACKOFF_MS_MAX)
    spread = int(digest(key.encode())[:4], 16) / 0xFFFF
    own = int(full * (0.5 + spread / 2))
    return max(own, min(retry_after_ms or 0, RETRY_AFTER_MS_MAX))


def lost_call(session: Session, chunks: Iterable[tuple[Op, ...]]) -> e.ModelCallFailed:
    """What ends a call whose worker is gone, given the operations that it left in the log.

    Its open items are closed as incomplete, so that its readers' stream stays well formed.
    """
    turn = session.turn
    assert turn is not None
    assert turn.call is not None
    assembly = replay(turn.number, turn.output_index, list(chunks))
    items = assembly.assembled("incomplete")
    assembly.close()
    return e.ModelCallFailed(
        turn=turn.number_in_session,
        step=turn.call.step,
        code="worker_lost",
        message="the worker was lost during this call",
        retryable=True,
        items=items,
        marks=assembly.marks(),
        output_index=turn.output_index,
        next_number=assembly.number,
    )


def refusal(session: Session, body: e.TurnRequested) -> e.InputRejected | None:
    """Why this turn cannot begin now, or None when it can.

    The codes: ``session_deleted``, ``session_quarantined``, ``conversation_locked`` (a turn runs),
    ``parent_moved`` (another turn continued the parent first: make a fork).
    """

    def reject(code: str, message: str) -> e.InputRejected:
        return e.InputRejected(response_id=body.response_id, code=code, message=message)

    if session.deleted:
        return reject("session_deleted", "it was deleted")
    if session.quarantined:
        return reject(
            "session_quarantined",
            "its worker crashed too often; start a new one from an earlier response",
        )
    if session.turn is not None:
        return reject("conversation_locked", "another response is being made in it; wait until that has ended")
    if not body.request.in_conversation and body.request.previous_response_id != session.last_response_id:
        return reject("parent_moved", "another response continues from there already")
    return None


def unanswered_calls(items: Iterable[Item]) -> list[str]:
    """Call ids of function calls that have no output among ``items``; no model accepts such a context."""
    calls: dict[str, None] = {}
    for item in items:
        if type(item) is FunctionCall:
            calls[item.call_id] = None
        elif type(item) is FunctionCallOutput:
            calls.pop(item.call_id, None)
    return list(calls)


def dropped(session: Session, origin: str) -> tuple[Dropped, ...]:
    """What the turn's next call does not get of the context where it goes to ``origin``."""
    turn = session.turn
    assert turn is not None
    late, beside = _late(turn), {**turn.sidecars, **turn.output_sidecars}
    context = session.context
    if context.hosted:
        late = for_model((*context, *turn.input, *turn.output), turn.shown_bytes)
        return carrying.dropped(late, {**context.sidecars(), **beside}, origin)
    if context.origins <= {origin}:
        # Nothing before this turn is another's.
        return carrying.dropped(late, beside, origin)
    before = cast("Iterable[ModelItem]", context)
    return carrying.dropped((*before, *late), {**context.sidecars(), **beside}, origin)


def _late(turn: Turn) -> Sequence[ModelItem]:
    """The turn's own items as models get them."""
    items = (*turn.input, *turn.output)
    if turn.tool_calls or turn.servers or any(type(item) in HOSTED_ITEMS for item in turn.input):
        return for_model(items, turn.shown_bytes)
    return cast("Sequence[ModelItem]", items)


def asked(turn: Turn) -> ModelParams:
    """What the turn's model calls ask, its agent and its hosted tools with it."""
    request, agent, hosting = turn.request, turn.agent, turn.hosting
    changes: dict[str, object] = {}
    if agent is not None:
        told = [text for text in (agent.instructions, request.instructions) if text]
        changes |= {"model": agent.model, "instructions": "\n\n".join(told) or None}
        most = [each for each in (request.max_output_tokens, agent.max_output_tokens) if each is not None]
        changes["max_output_tokens"] = min(most, default=None)
    if (turn.tool_calls or turn.acts) and request.tool_choice not in ("auto", "none"):
        # What had to be called was; a choice that went on would have the model call it for ever.
        changes["tool_choice"] = _at_will(request.tool_choice)
    if hosting is not None and hosting.tools:
        changes["tools"] = (*request.tools, *[function_of(each) for each in hosting.tools.values()])
    return msgspec.structs.replace(request, **changes) if changes else request


def _at_will(choice: ToolChoice) -> ToolChoice:
    """The choice without what it demands."""
    return msgspec.structs.replace(choice, mode="auto") if type(choice) is AllowedTools else "auto"


def model_request(session: Session, effect: CallModel, *, stream: bool) -> ModelRequest:
    """The request of the turn's next model call: the session's context, the turn's input and output."""
    turn = session.turn
    assert turn is not None
    items: Sequence[ModelItem]
    if session.context.hosted:
        items = for_model((*session.context, *turn.input, *turn.output), turn.shown_bytes)
    else:
        items = [*cast("Iterable[ModelItem]", session.context), *_late(turn)]
    return ModelRequest(
        params=asked(turn),
        items=items,
        key=effect.key,
        stream=stream,
        sidecars={**session.context.sidecars(), **turn.sidecars, **turn.output_sidecars},
    )


def with_ids(items: tuple[Item, ...], session: Session, turn: int) -> tuple[Item, ...]:
    """Input items with ids: those that came with one keep it, unless it is taken twice."""
    seen: set[str] = set()
    out: list[Item] = []
    for at, item in enumerate(items):
        kept = item
        if not item.id or item.id in seen:
            made = item_id(PREFIXES[type(item)], session.ref.id, turn, 0, at)
            kept = msgspec.structs.replace(item, id=made)
        seen.add(kept.id)
        out.append(kept)
    return tuple(out)
