"""The table of a turn's transitions: what is in it happens, everything else raises."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.core.driver import REF, START_MS
from tests.unit.core.examples import EVERY_BODY, PLANNED

from stateline.core import events as e
from stateline.core.acting import Act
from stateline.core.errors import IllegalTransition
from stateline.core.items import McpCall
from stateline.core.session import Session, fold, fold_all, new_session
from stateline.core.transitions import TRANSITIONS, TurnState, next_state

STATES: tuple[TurnState | None, ...] = (None, *typing.get_args(TurnState))
OF_A_TURN = sorted({event for _, event in TRANSITIONS}, key=lambda kind: kind.__name__)
PAIRS = list(itertools.product(STATES, OF_A_TURN))
BODIES: dict[type, e.Body] = {type(body): body for body in EVERY_BODY}

REACHES: dict[TurnState | None, Sequence[type]] = {
    None: (),
    "ready": (e.TurnRequested,),
    "calling": (e.TurnRequested, e.ModelCallStarted),
    "answered": (e.TurnRequested, e.ModelCallStarted, e.ModelCallFinished),
    "stumbled": (e.TurnRequested, e.ModelCallStarted, e.ModelCallFailed),
    "acting": (e.TurnRequested, e.ModelCallStarted, e.ModelCallFinished, e.EffectDispatched),
    "waiting": (e.TurnRequested, e.ModelCallStarted, e.ModelCallFailed, e.TimerSet),
}
"""A history for each state."""


def numbered(kinds: Sequence[type], after: int = 0) -> list[e.Event]:
    return [e.Event(session=REF, seq=after + at, at_ms=START_MS, body=BODIES[kind]) for at, kind in enumerate(kinds, 1)]


def session_in(state: TurnState | None, before: type = e.EffectDispatched) -> Session:
    """A session in that state, whose turn has the call that an event of a tool call is about."""
    session = fold_all(new_session(REF), numbered(REACHES[state]))
    turn = session.turn
    assert (turn.state if turn else None) == state
    if turn is None:
        return session
    ended = before in (e.EffectCommitted, e.EffectFailed, e.EffectUnknown)
    act = Act(call=PLANNED, status="dispatched" if ended else "planned")
    output = (McpCall(id=PLANNED.id, server_label="payments", name="refund", arguments=""),)
    turn = msgspec.structs.replace(turn, acts=(act,), output=output)
    return msgspec.structs.replace(session, turn=turn)


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_fold_takes_what_the_table_has_and_raises_for_the_rest(state: TurnState | None, event: type) -> None:
    session = session_in(state, event)
    (following,) = numbered([event], after=session.seq)
    if (state, event) in TRANSITIONS:
        turn = fold(session, following).turn
        assert (turn.state if turn else None) == TRANSITIONS[state, event]
        assert next_state(state, event) == TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition) as caught:
            fold(session, following)
        assert caught.value.code == "illegal_transition"
        assert event.__name__ in caught.value.message
        assert (state or "no turn") in caught.value.message


@pytest.mark.parametrize("state", STATES)
def test_what_is_no_event_of_the_turn_follows_in_any_state(state: TurnState | None) -> None:
    others = set(typing.get_args(e.Body)) - set(OF_A_TURN) - {e.Snapshot, e.SessionCreated}
    for kind in sorted(others, key=lambda kind: kind.__name__):
        session = session_in(state)
        (following,) = numbered([kind], after=session.seq)
        turn = fold(session, following).turn
        assert (turn.state if turn else None) == state


@pytest.mark.parametrize("name", sorted(kind.__name__ for kind in BODIES))
def test_a_number_that_does_not_grow_is_refused(name: str) -> None:
    kind = next(kind for kind in BODIES if kind.__name__ == name)
    session = session_in("calling")
    for seq in (session.seq, session.seq - 1):
        event = e.Event(session=REF, seq=seq, at_ms=START_MS, body=BODIES[kind])
        with pytest.raises(IllegalTransition):
            fold(session, event)


def test_every_state_leads_to_the_end_of_the_turn() -> None:
    reached: set[TurnState | None] = {None}
    while True:
        before = len(reached)
        reached.update([state for (state, _), after in TRANSITIONS.items() if after in reached])
        if len(reached) == before:
            break
    assert reached == set(STATES)


def test_a_call_ends_before_its_turn_does() -> None:
    assert not [event for state, event in TRANSITIONS if state == "calling" and event in e.TERMINAL]


def test_only_tool_calls_come_between_an_answer_and_the_end_of_its_turn() -> None:
    after = {event for state, event in TRANSITIONS if state == "answered"}
    assert after == {*e.TERMINAL, e.EffectDispatched, e.EffectRefused, e.ApprovalRequested}


def test_a_fold_leaves_the_session_before_it_as_it_was() -> None:
    session = session_in("calling")
    before = msgspec.structs.asdict(session)
    fold(session, *numbered([e.ModelCallFinished], after=session.seq))
    assert msgspec.structs.asdict(session) == before
