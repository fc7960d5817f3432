"""What a session is: the fold of its log.

``fold`` takes a session and an event and returns the session after it. Sessions are values; what one
shares with the next is shared by reference, so a fold costs the same in turn 10,001 as in turn 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from stateline.core import acting
from stateline.core import events as e
from stateline.core.acting import Act, Pending
from stateline.core.billing import Counted, Reserved
from stateline.core.calls import Usage
from stateline.core.context import Context, item_bytes
from stateline.core.errors import IllegalTransition
from stateline.core.hosted import Hosting, output_bytes
from stateline.core.ids import SessionRef, item_id
from stateline.core.items import PREFIXES, FunctionCall, Item, McpCall, Sidecar
from stateline.core.limits import SNAPSHOT_CONTEXT_BYTES_MAX, SNAPSHOT_WASTE_BYTES_MIN, TOOL_OUTPUT_SHOWN_BYTES
from stateline.core.reading import offered
from stateline.core.tools import Agent, Answer, History, McpTool, ServerTools
from stateline.core.transitions import TurnState, next_state

FOLD_VERSION = 1
"""Raised whenever ``SnapshotState`` or the meaning of a fold changes; older snapshots are discarded."""


TURN_BYTES = 1_000
"""Roughly what the events of a turn, or of a failed call, take beside their items."""


RETRY_INDEX = 1_000_000
"""Indexes of items that are made when a person wants a call made anew begin here; input has fewer."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A model call in flight. ``seq`` is where its ModelCallStarted stands in the log."""

    step: int
    seq: int
    deployment: str
    origin: str
    stream: bool
    reserved: Reserved | None = None
    counted: tuple[Counted, ...] = ()
    at_ms: int = 0


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """The running turn.

    Attributes:
        seq: where its TurnRequested stands in the log.
        number: of its next stream event.
        output_index: of its next output item.
        failures: failed calls in a row.
        tried: the deployments that failed in this round of tries; a wait begins another round.
        hopeful: one of them may do better at another try.
        due_ms: when it goes on, while it waits.
        stateful: its input or its output is kept in a session (DESIGN 7, Workload).
        hosting: the hosted tools that its model may call, once they are listed.
        acts: the tool calls of its model's last answer, or those that persons have let go.
        tool_calls: how many were dispatched.
        shown_bytes: what its model is shown of one tool's output of text.
    """

    response_id: str
    number_in_session: int
    seq: int
    state: TurnState
    request: e.TurnRequest
    input: tuple[Item, ...]
    sidecars: dict[str, Sidecar]
    limits: e.TurnLimits
    requested_at_ms: int
    number: int
    output_index: int = 0
    steps: int = 0
    failures: int = 0
    tried: tuple[str, ...] = ()
    hopeful: bool = False
    due_ms: int | None = None
    call: Call | None = None
    output: tuple[Item, ...] = ()
    output_sidecars: dict[str, Sidecar] = {}
    usage: Usage = Usage()
    cancelling: bool = False
    overdue: bool = False
    principal: str = ""
    user: str = ""
    stateful: bool = True
    agent: Agent | None = None
    hosting: Hosting | None = None
    acts: tuple[Act, ...] = ()
    tool_calls: int = 0
    traceparent: str = ""
    shown_bytes: int = TOOL_OUTPUT_SHOWN_BYTES

    @property
    def model(self) -> str:
        """The model that its calls go to, as requests name it."""
        return self.request.model if self.agent is None else self.agent.model

    @property
    def agent_name(self) -> str:
        """Empty where no agent does it."""
        return "" if self.agent is None else self.agent.name

    @property
    def servers(self) -> tuple[McpTool, ...]:
        """Those whose tools it has."""
        return acting.wanted(self.request, self.agent)

    @property
    def tool_calls_max(self) -> int | None:
        asked = self.request.max_tool_calls
        most = None if self.agent is None else self.agent.max_tool_calls
        return most if asked is None else asked if most is None else min(asked, most)

    @property
    def deadline_ms(self) -> int:
        """Unix time at which the turn's wall time is over."""
        return self.requested_at_ms + self.limits.wall_time_ms_max


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's state after the event ``seq``.

    Attributes:
        read_bytes: roughly what reading it takes, from its last snapshot on.
        servers: what was last heard of each server's tools, by label.
        pending: calls that wait for a person: by the id of the approval request, or of the call.
        history: what policies may ask of what it did.
    """

    ref: SessionRef
    seq: int = 0
    epoch: int = 0
    kind: Literal["chain", "conversation", "system"] = "chain"
    created_at_ms: int = 0
    metadata: dict[str, str] = {}
    deleted: bool = False
    quarantined: bool = False
    context: Context = Context()
    turns: int = 0
    last_response_id: str | None = None
    deleted_responses: frozenset[str] = frozenset()
    crashes: int = 0
    turn: Turn | None = None
    read_bytes: int = 0
    servers: dict[str, ServerTools] = {}
    pending: dict[str, Pending] = {}
    history: History = History()

    @property
    def worth_snapshot(self) -> bool:
        """Whether reading it again would read much that its context no longer holds.

        Only what was compacted away, deleted or failed makes a snapshot worth its writing; a context
        that only grew is read as fast from its events. One that a single event may not hold has none.
        """
        useful = self.context.bytes + self.context.count * TURN_BYTES
        if useful > SNAPSHOT_CONTEXT_BYTES_MAX:
            return False
        return self.turn is None and self.read_bytes > useful + max(SNAPSHOT_WASTE_BYTES_MIN, useful // 8)

    @property
    def wake_at_ms(self) -> int | None:
        """The earliest pending timer of the fold."""
        turn = self.turn
        if turn is None:
            return None
        return turn.deadline_ms if turn.due_ms is None else min(turn.due_ms, turn.deadline_ms)


def new_session(ref: SessionRef) -> Session:
    """A session before its first event."""
    return Session(ref=ref)


def fold_all(session: Session, events: Iterable[e.Event]) -> Session:
    for event in events:
        session = fold(session, event)
    return session


def fold(session: Session, event: e.Event) -> Session:
    """The session after ``event``.

    Raises:
        IllegalTransition: the event cannot follow what the log holds, or its number does not grow.
    """
    # Here and wherever a turn passes: `type(x) is C`, since isinstance asks the class of a msgspec class first.
    body = event.body
    if event.seq <= session.seq:
        raise IllegalTransition(f"event {event.seq} of {event.session.id} after {session.seq}")
    if type(body) is e.Chunk:
        # A chunk changes what readers see, and nothing that is decided.
        return _with(session, event)
    if type(body) in _TURN_EVENTS:
        return _fold_turn(session, event, body)
    if type(body) is e.Snapshot:
        return restore(session, event, body)
    return _fold_session(session, event, body)


def _with(session: Session, event: e.Event, **changes: object) -> Session:
    return msgspec.structs.replace(
        session, ref=event.session, seq=event.seq, epoch=max(event.epoch, session.epoch), **changes
    )


def _fold_session(session: Session, event: e.Event, body: e.Body) -> Session:
    match body:
        case e.SessionCreated():
            return _with(
                session,
                event,
                kind=body.kind,
                created_at_ms=event.at_ms,
                metadata=body.metadata,
                deleted=False,
                quarantined=False,
                crashes=0,
                turn=None,
            )
        case e.SessionUpdated():
            return _with(session, event, metadata=body.metadata)
        case e.SessionDeleted():
            return _with(session, event, deleted=True)
        case e.ItemsAdded():
            read_bytes = session.read_bytes + sum(map(item_bytes, body.items)) + TURN_BYTES
            return _with(session, event, context=session.context.append(body.items, {}), read_bytes=read_bytes)
        case e.ItemDeleted():
            context = session.context.without(body.item_id)
            return _with(session, event, context=context, read_bytes=session.read_bytes + TURN_BYTES)
        case e.ResponseDeleted():
            return _with(session, event, deleted_responses=session.deleted_responses | {body.response_id})
        case e.SessionQuarantined():
            return _with(session, event, quarantined=True)
        case _:
            # Rejected inputs and key events change nothing that a turn depends on.
            return _with(session, event)


_TURN_EVENTS: frozenset[type] = frozenset(
    (
        e.TurnRequested,
        e.TurnResumed,
        e.CancelRequested,
        e.DeadlinePassed,
        e.ModelCallStarted,
        e.ModelCallFinished,
        e.ModelCallFailed,
        e.TimerSet,
        e.TimerFired,
        e.ToolsListed,
        *e.EFFECTS,
        *e.TERMINAL,
    )
)


def _fold_turn(session: Session, event: e.Event, body: e.Body) -> Session:
    turn = session.turn
    state = next_state(turn.state if turn else None, type(body))
    if type(body) is e.TurnRequested:
        return _begin_turn(session, event, body)
    assert turn is not None
    if state is None:
        return _end_turn(session, event, turn, body)
    crashes, read_bytes = session.crashes, session.read_bytes
    changes: dict[str, object] = {"state": state}
    if type(body) is e.ModelCallStarted:
        changes |= {"steps": body.step, "call": _call(event, body), "due_ms": None, "acts": ()}
    elif type(body) is e.ModelCallFinished:
        crashes = 0
        changes |= {
            "call": None,
            "failures": 0,
            "tried": (),
            "hopeful": False,
            "output": turn.output + body.items,
            "output_sidecars": {**turn.output_sidecars, **body.sidecars},
            "output_index": turn.output_index + len(body.items),
            "number": max(turn.number, body.next_number),
            "usage": turn.usage + (body.usage or Usage()),
        }
        if body.calls:
            changes["acts"] = tuple([Act(call=call) for call in body.calls])
    elif type(body) in e.EFFECTS or type(body) is e.ToolsListed:
        return _fold_effect(session, event, turn, state, body)
    elif type(body) is e.ModelCallFailed:
        read_bytes += sum(map(item_bytes, body.items)) + TURN_BYTES
        lost = body.code == "worker_lost"
        # A lost worker says nothing about the model; an answer, even a refusal, clears its session of crashes.
        crashes = crashes if lost else 0
        assert turn.call is not None
        changes |= {
            "call": None,
            "failures": turn.failures + (not lost),
            "output_index": turn.output_index + len(body.items),
            "number": max(turn.number, body.next_number),
            "usage": turn.usage + (body.usage or Usage()),
            "tried": turn.tried if lost else (*turn.tried, turn.call.deployment),
            "hopeful": turn.hopeful or (body.retryable and not lost),
        }
    elif type(body) is e.TimerSet:
        changes |= {"steps": body.step, "due_ms": body.due_ms, "tried": (), "hopeful": False}
    elif type(body) is e.TimerFired:
        changes["due_ms"] = None
    elif type(body) is e.CancelRequested:
        changes["cancelling"] = True
    elif type(body) is e.DeadlinePassed:
        changes["overdue"] = True
    else:
        assert isinstance(body, e.TurnResumed)
        crashes = 0 if body.clean else 1 if body.progress else crashes + 1
    turn = msgspec.structs.replace(turn, **changes)
    return _with(session, event, crashes=crashes, read_bytes=read_bytes, turn=turn)


def _begin_turn(session: Session, event: e.Event, body: e.TurnRequested) -> Session:
    started = Turn(
        response_id=body.response_id,
        number_in_session=body.turn,
        seq=event.seq,
        state="ready",
        request=body.request,
        input=body.input,
        sidecars=body.sidecars,
        limits=body.limits,
        requested_at_ms=event.at_ms,
        number=3 if body.request.background else 2,
        principal=body.principal,
        user=body.user,
        stateful=body.stateful,
        agent=body.agent,
        traceparent=body.traceparent,
        shown_bytes=body.shown_bytes,
    )
    if body.answers or session.pending:
        return _answered(session, event, started, body.answers)
    return _with(session, event, turns=body.turn, turn=started)


def _answered(session: Session, event: e.Event, turn: Turn, answers: tuple[Answer, ...]) -> Session:
    """A turn begins with what persons have said of calls of earlier ones."""
    pending, acts = dict(session.pending), list[Act]()
    for answer in answers:
        found = pending.pop(answer.id, None)
        call = found.call if found is not None else answer.call
        asked = found.asked if found is not None else answer.asked
        if call is None:
            continue
        if answer.decision == "approve":
            another = answer.by_another
            acts.append(Act(call=call, approval=answer.id, asked=asked, by_another=another, tries=answer.tries))
        elif answer.decision == "retry":
            # Its item is another: that of the first call stays as it is.
            id_ = item_id(PREFIXES[McpCall], event.session.id, turn.number_in_session, 0, RETRY_INDEX + len(acts))
            call = msgspec.structs.replace(call, id=id_)
            acts.append(Act(call=call, first=found, asked=asked))
    # Not before: what was answered in time may be recorded later, and the model is told then why it is not made.
    pending = acting.still_open(pending, event.at_ms)
    history = acting.answered(session.history, [answer.decision for answer in answers])
    turn = msgspec.structs.replace(turn, acts=tuple(acts))
    return _with(session, event, turns=turn.number_in_session, turn=turn, pending=pending, history=history)


def _fold_effect(session: Session, event: e.Event, turn: Turn, state: TurnState, body: e.Body) -> Session:
    """The session after an event of a tool call, or of the list of tools."""
    changes: dict[str, object] = {"state": state}
    if type(body) is e.ToolsListed:
        servers = acting.known(session.servers, body)
        hosting = acting.hosting(servers, body, turn.request)
        longest = max([session.context.longest_output, *map(output_bytes, turn.input)])
        hosting = offered(hosting, longest, turn.shown_bytes)
        changes |= {"hosting": hosting, "output": turn.output + body.items}
        changes |= _shown(turn, body.number, len(body.items) * acting.LIST_EVENTS, len(body.items))
        return _with(session, event, servers=servers, turn=msgspec.structs.replace(turn, **changes))
    if type(body) is e.EffectDispatched:
        acts = acting.begun(
            turn.acts, body.call, status="dispatched", step=body.step, effect=body.effect, at_ms=event.at_ms
        )
        changes |= {"acts": acts, "steps": body.step, "tool_calls": turn.tool_calls + 1}
        changes |= {"output": (*turn.output, acting.dispatched_item(body))}
        changes |= _shown(turn, body.number, acting.DISPATCH_EVENTS, 1)
        history = acting.after(session.history, body)
        return _with(session, event, history=history, turn=msgspec.structs.replace(turn, **changes))
    if type(body) is e.EffectRefused:
        changes |= {"acts": acting.begun(turn.acts, body.call, status="done")}
        changes |= {"output": (*turn.output, acting.refused_item(body))}
        changes |= _shown(turn, body.number, acting.REFUSE_EVENTS, 1)
        return _with(session, event, turn=msgspec.structs.replace(turn, **changes))
    pending = session.pending
    if type(body) is e.ApprovalRequested:
        changes |= {"acts": acting.begun(turn.acts, body.call, status="asked", asked=body.asked)}
        changes |= {"output": (*turn.output, acting.asked_item(body))}
        changes |= _shown(turn, body.number, acting.ASK_EVENTS, 1)
        waits = Pending(
            call=body.call,
            response_id=turn.response_id,
            turn=turn.number_in_session,
            asked=body.asked,
            principal=body.asked.principal,
            agent=body.asked.agent,
        )
        pending = {**pending, body.id: waits}
        return _with(session, event, pending=pending, turn=msgspec.structs.replace(turn, **changes))
    assert type(body) is e.EffectCommitted or type(body) is e.EffectFailed or type(body) is e.EffectUnknown
    act = acting.act_of(turn.acts, body.id, "dispatched")
    item = next(item for item in turn.output if item.id == body.id)
    assert type(item) is McpCall
    item = acting.ended_item(item, body)
    changes |= {
        "acts": acting.ended(turn.acts, act, unknown=type(body) is e.EffectUnknown),
        "output": acting.with_item(turn.output, item),
        "number": body.number + acting.END_EVENTS,
    }
    if turn.hosting is not None:
        changes["hosting"] = offered(turn.hosting, output_bytes(item), turn.shown_bytes)
    if type(body) is e.EffectUnknown:
        waits = Pending(
            call=act.call,
            response_id=turn.response_id,
            turn=turn.number_in_session,
            step=act.step,
            effect=act.effect,
            code=body.code,
            asked=act.asked,
            principal=turn.principal if act.asked is None else act.asked.principal,
            agent=turn.agent_name if act.asked is None else act.asked.agent,
        )
        pending = {**pending, body.id: waits}
    return _with(session, event, crashes=0, pending=pending, turn=msgspec.structs.replace(turn, **changes))


def _shown(turn: Turn, number: int, events: int, items: int) -> dict[str, object]:
    """What items that are shown at once change in the counts of a turn."""
    return {"number": max(turn.number, number + events), "output_index": turn.output_index + items}


def _call(event: e.Event, body: e.ModelCallStarted) -> Call:
    return Call(
        step=body.step,
        seq=event.seq,
        deployment=body.deployment,
        origin=body.origin,
        stream=body.stream,
        reserved=body.reserved,
        counted=body.counted,
        at_ms=event.at_ms,
    )


def _end_turn(session: Session, event: e.Event, turn: Turn, body: e.Body) -> Session:
    read_bytes = session.read_bytes + sum(map(item_bytes, turn.input + turn.output)) + TURN_BYTES
    pending = session.pending
    if turn.acts:
        pending = {**pending, **acting.unused(turn.response_id, turn.number_in_session, turn.acts)}
    if type(body) is e.TurnFailed and not acting.did(turn.input + turn.output):
        # A failed turn said nothing, so it leaves nothing in the context; the client may ask again.
        return _with(session, event, turn=None, crashes=0, read_bytes=read_bytes, pending=pending)
    said = tuple([item for item in turn.output if type(item) is not FunctionCall or item.status == "completed"])
    context = session.context.append(turn.input + said, {**turn.sidecars, **turn.output_sidecars})
    # What a turn did stays done when it failed later: whoever asks again, from where the client was, is told of it.
    failed = type(body) is e.TurnFailed
    return _with(
        session,
        event,
        turn=None,
        context=context,
        last_response_id=session.last_response_id if failed else turn.response_id,
        crashes=0,
        read_bytes=read_bytes,
        pending=pending,
    )


# -- snapshots -------------------------------------------------------------------------------------------


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An idle session, as a Snapshot holds it."""

    kind: Literal["chain", "conversation", "system"]
    created_at_ms: int
    metadata: dict[str, str] = {}
    deleted: bool = False
    quarantined: bool = False
    items: tuple[Item, ...] = ()
    sidecars: dict[str, Sidecar] = {}
    turns: int = 0
    last_response_id: str | None = None
    deleted_responses: tuple[str, ...] = ()
    servers: dict[str, ServerTools] = {}
    pending: dict[str, Pending] = {}
    history: History = History()


def snapshot(session: Session) -> e.Snapshot:
    """The event from which ``restore`` makes this session again. The session must be idle."""
    assert session.turn is None
    state = SnapshotState(
        kind=session.kind,
        created_at_ms=session.created_at_ms,
        metadata=session.metadata,
        deleted=session.deleted,
        quarantined=session.quarantined,
        items=tuple(session.context),
        sidecars=session.context.sidecars(),
        turns=session.turns,
        last_response_id=session.last_response_id,
        deleted_responses=tuple(sorted(session.deleted_responses)),
        servers=session.servers,
        pending=session.pending,
        history=session.history,
    )
    return e.Snapshot(fold=FOLD_VERSION, state=msgspec.Raw(msgspec.json.encode(state)))


def restore(session: Session, event: e.Event, body: e.Snapshot) -> Session:
    """The session that a snapshot holds.

    Raises:
        SnapshotStale: it was made by another version of the fold; read from the beginning instead.
    """
    if session.seq:
        # Reached in the course of a reading: it says nothing new.
        return _with(session, event, read_bytes=session.context.bytes)
    if body.fold != FOLD_VERSION:
        raise SnapshotStale
    state = msgspec.json.decode(body.state, type=SnapshotState)
    context = Context(state.items, state.sidecars)
    return Session(
        ref=event.session,
        seq=event.seq,
        epoch=event.epoch,
        kind=state.kind,
        created_at_ms=state.created_at_ms,
        metadata=state.metadata,
        deleted=state.deleted,
        quarantined=state.quarantined,
        context=context,
        turns=state.turns,
        last_response_id=state.last_response_id,
        deleted_responses=frozenset(state.deleted_responses),
        read_bytes=context.bytes,
        servers=state.servers,
        pending=state.pending,
        history=state.history,
    )


class SnapshotStale(Exception):
    """A snapshot of another fold version."""
