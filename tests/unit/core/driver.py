"""A small engine for the tests of the core: no I/O, no clock, the same rules as the real one.

It records what happens, folds and decides after each event, and answers the effects with what a plan
says: answers, failures, lost workers, timers, cancels, deadlines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from hypothesis import strategies as st
from tests.unit.core.answers import FINISHES, saids

from stateline.core import events as e
from stateline.core import ids
from stateline.core.calls import Finish, FinishReason, ModelDelta
from stateline.core.ids import SessionRef
from stateline.core.items import Compaction, FunctionCall, InputText, Item, Message
from stateline.core.limits import TOOL_OUTPUT_SHOWN_BYTES, TurnLimits
from stateline.core.session import Session, fold, fold_all, new_session, snapshot
from stateline.core.stream import StreamBuilder
from stateline.core.tools import Answer
from stateline.core.turn import CallModel, Effect, StopCall, decide, lost_call, refusal

REF = SessionRef("acme", "0123456789abcdefghjkmnpq")
START_MS = 1_750_000_000_123

Ending = Literal["finish", "fail", "moved", "fatal", "lost", "handed_back"]
"""``moved``: another deployment takes the failed call at once."""
Outside = Literal["cancel", "deadline"]
Waiting = Literal["fire", "cancel", "deadline", "lost", "handed_back"]

CUT: frozenset[FinishReason] = frozenset({"length", "content_filter", "cancelled", "max_output_bytes", "max_wall_time"})

STOP = Finish(reason="stop")
LIMITS_DEFAULT = TurnLimits()


@dataclass(frozen=True)
class Attempt:
    """One model call: what it says, where that is cut into chunks, what comes from outside, how it ends."""

    said: Sequence[ModelDelta] = ()
    cuts: Sequence[bool] = (False,)
    outside: Sequence[Outside] = ()
    ending: Ending = "finish"
    finish: Finish = STOP
    retry_after_ms: int | None = None


@dataclass(frozen=True)
class TurnPlan:
    """A request, and what happens to its turn. Calls and waits beyond the plan end well."""

    attempts: Sequence[Attempt] = ()
    waits: Sequence[Waiting] = ()
    input: Sequence[Item] = ()
    limits: TurnLimits = LIMITS_DEFAULT
    background: bool = False
    stream: bool = True
    request: e.TurnRequest = field(default_factory=lambda: e.TurnRequest(model="m"))


class Driver:
    """Plays a session.

    Attributes:
        log: all events, chunks included.
        said: the context that the log's readers expect, kept by plain means.
        ends: the sequence number of each ended turn's last event, by response id.
        shown_bytes: of each turn.
    """

    shown_bytes = TOOL_OUTPUT_SHOWN_BYTES

    def __init__(self, ref: SessionRef = REF, kind: Literal["chain", "conversation"] = "chain") -> None:
        self.session: Session = new_session(ref)
        self.ref = ref
        self.log: list[e.Event] = []
        self.said: list[Item] = []
        self.ends: dict[str, int] = {}
        self.said_at: dict[str, list[Item]] = {}
        self.now_ms = START_MS
        self._stop: FinishReason | None = None
        self.record(e.SessionCreated(kind=kind))

    # -- recording, as the engine does it -----------------------------------------------------------------

    def record(self, *bodies: e.Body) -> None:
        self.now_ms += 7
        queue = deque(bodies)
        while queue:
            body = queue.popleft()
            event = e.Event(session=self.ref, seq=self.session.seq + 1, at_ms=self.now_ms, body=body, epoch=1)
            self.session = fold(self.session, event)
            self.log.append(event)
            decision = decide(self.session, event)
            queue.extendleft(reversed(decision.events))
            for effect in decision.effects:
                if isinstance(effect, StopCall):
                    self._stop = effect.reason
                else:
                    queue.extendleft(reversed(list(self._follow(effect))))
        self._check()

    def _follow(self, effect: Effect) -> Iterable[e.Body]:
        assert isinstance(effect, CallModel)
        return (self._place(effect),)

    def _place(self, effect: CallModel) -> e.Body:
        turn = self.session.turn
        assert turn is not None
        assert effect.key == ids.effect_key(self.ref.id, turn.number_in_session, effect.step)
        assert effect.turn == turn.number_in_session
        return e.ModelCallStarted(
            turn=effect.turn,
            step=effect.step,
            deployment=f"d{effect.step}",
            origin="openai-chat/openai",
            model=turn.request.model,
            stream=turn.request.stream,
        )

    def _check(self) -> None:
        """What holds after every append."""
        turn, session = self.session.turn, self.session
        if turn is None:
            assert session.wake_at_ms is None
            return
        # Nothing rests half decided: what follows from an event is appended with it.
        assert turn.state in ("calling", "waiting")
        assert (turn.call is not None) == (turn.state == "calling")
        assert (turn.due_ms is not None) == (turn.state == "waiting")
        assert turn.steps <= turn.limits.steps_max
        wakes = [turn.deadline_ms] if turn.due_ms is None else [turn.deadline_ms, turn.due_ms]
        assert session.wake_at_ms == min(wakes)

    # -- one turn ------------------------------------------------------------------------------------------

    def play(self, plan: TurnPlan) -> str | None:
        """Play a turn to its end; its response id, or None where the session takes no turn."""
        session = self.session
        requested = e.TurnRequested(
            response_id=ids.response_id(self.ref.id, ids.base32(session.seq, 8), session.seq),
            turn=session.turns + 1,
            request=msgspec.structs.replace(
                plan.request,
                background=plan.background,
                stream=plan.stream,
                in_conversation=session.kind == "conversation",
                previous_response_id=None if session.kind == "conversation" else session.last_response_id,
            ),
            input=tuple(plan.input),
            limits=plan.limits,
            answers=self._answers(),
            shown_bytes=self.shown_bytes,
        )
        if refusal(session, requested) is not None:
            return None
        begun = len(self.log)
        self.record(requested)
        attempts, waits = deque(plan.attempts), deque(plan.waits)
        rounds = 0
        while self.session.turn is not None:
            if self.session.turn.state == "calling":
                self._call(attempts.popleft() if attempts else Attempt())
            else:
                self._wait(waits.popleft() if waits else "fire")
            rounds += 1
            assert rounds <= plan.limits.steps_max + len(plan.waits) + 1
        self._remember(requested, self.log[begun:])
        return requested.response_id

    def _answers(self) -> tuple[Answer, ...]:
        return ()

    def _remember(self, requested: e.TurnRequested, events: Sequence[e.Event]) -> None:
        last = events[-1].body
        if not isinstance(last, e.TurnFailed):
            answered = [event.body for event in events if isinstance(event.body, e.ModelCallFinished)]
            items = [*requested.input, *(item for body in answered for item in body.items)]
            kept = [item for item in items if not (isinstance(item, FunctionCall) and item.status != "completed")]
            self.say(kept)
        self.ends[requested.response_id] = events[-1].seq
        self.said_at[requested.response_id] = list(self.said)

    def say(self, items: Iterable[Item]) -> None:
        for item in items:
            if isinstance(item, Compaction):
                self.said = []
            self.said.append(item)

    def _call(self, attempt: Attempt) -> None:
        turn = self.session.turn
        assert turn is not None
        assert turn.call is not None
        number, step, stream = turn.number_in_session, turn.call.step, turn.call.stream
        builder = StreamBuilder(self.ref.id, number, step, turn.number, turn.output_index, hosting=turn.hosting)
        self._stop = None
        for at, delta in enumerate(attempt.said):
            builder.feed([delta])
            if stream and attempt.cuts[at % len(attempt.cuts)] and builder.pending:
                first, ops = builder.take()
                self.record(e.Chunk(turn=number, step=step, first=first, ops=ops))
        for what in attempt.outside:
            self._from_outside(what)
        if attempt.ending in ("lost", "handed_back"):
            self.resume(clean=attempt.ending == "handed_back")
            return
        bodies: list[e.Body] = []
        first, ops = builder.take()
        if stream and ops:
            bodies.append(e.Chunk(turn=number, step=step, first=first, ops=ops))
        if attempt.ending == "finish":
            bodies.append(self._finished(attempt, builder, step))
        else:
            bodies.append(self._failed(attempt, builder, step))
        self.record(*bodies)

    def _finished(self, attempt: Attempt, builder: StreamBuilder, step: int) -> e.ModelCallFinished:
        turn = self.session.turn
        assert turn is not None
        finish = attempt.finish
        reason = self._stop or finish.reason
        items, marks, next_number = builder.end("incomplete" if reason in CUT else "completed")
        return e.ModelCallFinished(
            turn=turn.number_in_session,
            step=step,
            finish_reason=reason,
            items=items,
            marks=marks,
            output_index=turn.output_index,
            next_number=next_number,
            usage=finish.usage,
            sidecars=builder.item_sidecars("openai-chat/openai"),
            upstream_model=finish.upstream_model,
            service_tier=finish.service_tier,
            calls=() if reason in CUT else builder.calls(),
        )

    def _failed(self, attempt: Attempt, builder: StreamBuilder, step: int) -> e.ModelCallFailed:
        turn = self.session.turn
        assert turn is not None
        assert turn.call is not None
        items, marks, next_number = builder.end("incomplete")
        if not turn.call.stream:
            items, marks, next_number = (), (), turn.number
        return e.ModelCallFailed(
            turn=turn.number_in_session,
            step=step,
            code="upstream_error",
            message="it is down",
            retryable=attempt.ending == "fail",
            elsewhere=attempt.ending == "moved",
            retry_after_ms=attempt.retry_after_ms,
            items=items,
            marks=marks,
            output_index=turn.output_index,
            next_number=next_number,
        )

    def _wait(self, what: Waiting) -> None:
        turn = self.session.turn
        assert turn is not None
        assert turn.due_ms is not None
        if what == "fire":
            self.now_ms = max(self.now_ms, turn.due_ms)
            self.record(e.TimerFired(turn=turn.number_in_session, step=turn.steps))
        elif what in ("lost", "handed_back"):
            self.resume(clean=what == "handed_back")
        else:
            self._from_outside(what)

    def _from_outside(self, what: Outside) -> None:
        turn = self.session.turn
        assert turn is not None
        if what == "cancel":
            self.record(e.CancelRequested(response_id=turn.response_id))
        else:
            self.record(e.DeadlinePassed(turn=turn.number_in_session))

    def resume(self, *, clean: bool = False) -> None:
        """The worker is gone; another one reads the log and goes on."""
        before = self.session
        structural = [event for event in self.log if not isinstance(event.body, e.Chunk)]
        session = fold_all(new_session(self.ref), structural)
        turn = session.turn
        assert turn is not None
        chunks: list[e.Chunk] = []
        for event in self.log if turn.call is not None else []:
            if isinstance(event.body, e.Chunk) and turn.call is not None and event.seq > turn.call.seq:
                chunks.append(event.body)
                session = session if event.seq <= session.seq else fold(session, event)
        assert seen(session) == seen(before)
        self.session = session
        bodies: list[e.Body] = [e.TurnResumed(owner="o2", clean=clean, progress=bool(chunks))]
        if turn.call is not None:
            bodies.append(lost_call(session, [chunk.ops for chunk in chunks]))
        self.record(*bodies)

    # -- between turns -------------------------------------------------------------------------------------

    def add(self, *items: Item) -> None:
        self.record(e.ItemsAdded(items=items))
        self.say(items)

    def delete(self, item_id: str) -> None:
        self.record(e.ItemDeleted(item_id=item_id))
        self.said = [item for item in self.said if item.id != item_id]

    def take_snapshot(self) -> None:
        self.record(snapshot(self.session))

    def fork(self, response_id: str, ref: SessionRef) -> Driver:
        """A session that shares this one's log up to the end of a response."""
        other = Driver.__new__(Driver)
        end = self.ends[response_id]
        other.ref, other.now_ms, other._stop = ref, self.now_ms, None
        other.log = self.log[:end]
        other.said = list(self.said_at[response_id])
        other.ends = {name: seq for name, seq in self.ends.items() if seq <= end}
        other.said_at = {name: self.said_at[name] for name in other.ends}
        other.session = fold_all(new_session(ref), other.log)
        other.record(e.SessionCreated(kind="chain", parent=(response_id, end)))
        return other


def seen(session: Session) -> dict[str, object]:
    """All that a session is, in values that compare."""
    out = {name: getattr(session, name) for name in session.__struct_fields__}
    out["context"] = (tuple(session.context), session.context.sidecars(), session.context.bytes, len(session.context))
    return out


def user(text: str, at: int = 0) -> Message:
    return Message(id=f"msg_in_{at}_{text}", role="user", content=(InputText(text=text),))


EXAMPLES = 40
"""Of each property of whole histories: one costs as much as a hundred of a codec's."""

# -- strategies ---------------------------------------------------------------------------------------------

ATTEMPTS = st.builds(
    Attempt,
    said=saids(),
    cuts=st.lists(st.booleans(), min_size=1, max_size=6),
    outside=st.lists(st.sampled_from(["cancel", "deadline"]), max_size=2)
    | st.just([])  # Mostly nothing comes from outside, so that turns grow long enough.
    | st.just([]),
    ending=st.sampled_from(["finish", "fail", "fail", "moved", "fatal", "lost", "lost", "handed_back"]),
    finish=FINISHES,
    retry_after_ms=st.none() | st.integers(-5, 3_600_000),
)
LIMITS = st.builds(
    TurnLimits,
    steps_max=st.integers(0, 9),
    turn_tokens_max=st.sampled_from([10, 10_000]),
    model_failures_max=st.integers(0, 4),
    wall_time_ms_max=st.sampled_from([1, 60_000, 1_800_000]),
)
PLANS = st.builds(
    TurnPlan,
    attempts=st.lists(ATTEMPTS, max_size=4),
    waits=st.lists(st.sampled_from(["fire", "fire", "fire", "cancel", "deadline", "lost", "handed_back"]), max_size=4),
    input=st.lists(st.builds(user, st.text(max_size=3), st.integers(0, 9)), max_size=2),
    limits=LIMITS,
    background=st.booleans(),
    stream=st.booleans(),
)
