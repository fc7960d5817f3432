"""Whatever happens to a session, in whatever legal order: its turns end, and its log says what was said."""

from __future__ import annotations

from typing import Literal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.driver import EXAMPLES, PLANS, REF, Attempt, Driver, TurnPlan, seen, user

from stateline.core import events as e
from stateline.core.ids import SessionRef
from stateline.core.items import Compaction
from stateline.core.session import fold_all, new_session

Between = tuple[str, int]
"""Something done between two turns, and a number that says to which item or how."""
BETWEEN = st.tuples(
    st.sampled_from(["add", "delete", "compact", "snapshot", "update", "hide"]),
    st.integers(0, 9),
)
HISTORIES: st.SearchStrategy[list[TurnPlan | Between]] = st.lists(PLANS | BETWEEN, max_size=6)


def do(driver: Driver, what: Between) -> None:
    name, at = what
    if name == "add":
        driver.add(user("added", at), user("added too", at))
    elif name == "delete" and driver.said:
        driver.delete(driver.said[at % len(driver.said)].id)
    elif name == "compact":
        driver.add(user("forgotten", at), Compaction(id=f"cmp_{at}", encrypted_content="c"), user("kept", at))
    elif name == "snapshot":
        driver.take_snapshot()
    elif name == "update":
        driver.record(e.SessionUpdated(metadata={"at": str(at)}))
    elif name == "hide" and driver.ends:
        driver.record(e.ResponseDeleted(response_id=list(driver.ends)[at % len(driver.ends)]))


def played(history: list[TurnPlan | Between], kind: Literal["chain", "conversation"] = "chain") -> Driver:
    driver = Driver(kind=kind)
    for step in history:
        if isinstance(step, TurnPlan):
            driver.play(step)
        else:
            do(driver, step)
    return driver


@given(HISTORIES, st.sampled_from(["chain", "conversation"]))
@settings(max_examples=EXAMPLES)
def test_every_turn_ends_and_the_context_is_what_was_said(
    history: list[TurnPlan | Between], kind: Literal["chain", "conversation"]
) -> None:
    driver = played(history, kind)
    assert list(driver.session.context) == driver.said
    assert driver.session.turn is None
    assert driver.session.seq == len(driver.log)
    asked = [event.body for event in driver.log if isinstance(event.body, e.TurnRequested)]
    ended = [event.body.response_id for event in driver.log if isinstance(event.body, e.TERMINAL)]
    assert ended == [body.response_id for body in asked]
    assert [body.turn for body in asked] == list(range(1, len(asked) + 1))


@given(HISTORIES)
@settings(max_examples=EXAMPLES)
def test_the_fold_of_what_is_stored_is_the_fold_of_what_happened(history: list[TurnPlan | Between]) -> None:
    driver = played(history)
    stored = [msgspec.structs.replace(ev, body=e.decode_body(e.encode_body(ev.body))) for ev in driver.log]
    assert seen(fold_all(new_session(REF), stored)) == seen(driver.session)


@given(HISTORIES)
@settings(max_examples=EXAMPLES)
def test_the_fold_needs_no_chunks(history: list[TurnPlan | Between]) -> None:
    driver = played(history)
    structural = [event for event in driver.log if not isinstance(event.body, e.Chunk)]
    assert seen(fold_all(new_session(REF), structural)) == seen(driver.session)


@given(HISTORIES, HISTORIES)
@settings(max_examples=EXAMPLES)
def test_a_snapshot_and_the_rest_fold_to_the_same(
    history: list[TurnPlan | Between], rest: list[TurnPlan | Between]
) -> None:
    driver = played(history)
    driver.take_snapshot()
    at = driver.session.seq
    for step in rest:
        if isinstance(step, TurnPlan):
            driver.play(step)
        else:
            do(driver, step)
    stored = [msgspec.structs.replace(ev, body=e.decode_body(e.encode_body(ev.body))) for ev in driver.log]
    assert seen(fold_all(new_session(REF), stored[at - 1 :])) == seen(driver.session)


@given(HISTORIES, st.integers(0, 9), HISTORIES, HISTORIES)
@settings(max_examples=EXAMPLES // 2)
def test_a_fork_has_its_prefix_and_nothing_of_the_other_branch(
    history: list[TurnPlan | Between],
    at: int,
    here: list[TurnPlan | Between],
    there: list[TurnPlan | Between],
) -> None:
    driver = played(history)
    if not driver.ends:
        return
    ended = list(driver.ends)
    fork = driver.fork(ended[at % len(ended)], SessionRef("acme", "zzzzzzzzzzzzzzzzzzzzzzzz"))
    shared = len(fork.log) - 1
    for step in here:
        driver.play(step) if isinstance(step, TurnPlan) else do(driver, step)
    for step in there:
        fork.play(step) if isinstance(step, TurnPlan) else do(fork, step)
    assert list(fork.session.context) == fork.said
    assert list(driver.session.context) == driver.said
    assert fork.log[:shared] == driver.log[:shared]
    assert seen(fold_all(new_session(fork.ref), fork.log)) == seen(fork.session)


@given(PLANS)
@settings(max_examples=EXAMPLES)
def test_steps_are_counted_without_a_gap_and_stay_in_their_limit(plan: TurnPlan) -> None:
    driver = Driver()
    driver.play(plan)
    steps = [event.body.step for event in driver.log if isinstance(event.body, e.ModelCallStarted | e.TimerSet)]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) <= plan.limits.steps_max


@given(PLANS)
@settings(max_examples=EXAMPLES)
def test_no_timer_is_set_that_no_call_can_follow(plan: TurnPlan) -> None:
    driver = Driver()
    driver.play(plan)
    timers = [event.body.step for event in driver.log if isinstance(event.body, e.TimerSet)]
    assert all(step < plan.limits.steps_max for step in timers)


@given(PLANS)
@settings(max_examples=EXAMPLES)
def test_items_of_a_turn_have_their_own_ids_and_places(plan: TurnPlan) -> None:
    driver = Driver()
    driver.play(plan)
    ends = [ev.body for ev in driver.log if isinstance(ev.body, e.ModelCallFinished | e.ModelCallFailed)]
    names = [item.id for body in ends for item in body.items]
    assert len(set(names)) == len(names)
    index, number = 0, 3 if plan.background else 2
    for body in ends:
        assert body.output_index == index
        assert body.next_number >= number
        assert len(body.marks) == len(body.items)
        index, number = index + len(body.items), body.next_number


def test_a_session_that_kills_its_workers_is_quarantined() -> None:
    driver = Driver()
    driver.play(TurnPlan(attempts=[Attempt(ending="lost")] * 5))
    kinds = [type(event.body) for event in driver.log]
    assert kinds.count(e.TurnResumed) == 3
    assert kinds[-2:] == [e.SessionQuarantined, e.TurnFailed]
    assert driver.session.quarantined
    assert driver.play(TurnPlan()) is None


def test_a_step_that_ended_between_crashes_keeps_a_session_out_of_quarantine() -> None:
    lost, failed = Attempt(ending="lost"), Attempt(ending="fail")
    driver = Driver()
    driver.play(TurnPlan(attempts=[lost, lost, failed, lost, lost]))
    assert isinstance(driver.log[-1].body, e.TurnCompleted)


def test_a_failed_turn_leaves_no_crashes_to_the_next() -> None:
    lost, fatal = Attempt(ending="lost"), Attempt(ending="fatal")
    driver = Driver()
    driver.play(TurnPlan(attempts=[lost, lost, fatal]))
    assert driver.session.crashes == 0
