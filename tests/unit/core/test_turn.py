"""What happens next, and what may not begin."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.driver import REF, START_MS, Attempt, Driver, Ending, Outside, TurnPlan, user
from tests.unit.core.examples import SIDECARS

from stateline.core import events as e
from stateline.core.calls import CallDelta, CallStart, Finish, SidecarDelta, TextDelta, Usage
from stateline.core.items import FunctionCall, FunctionCallOutput, Item, Message
from stateline.core.limits import RETRY_AFTER_MS_MAX, RETRY_BACKOFF_MS_BASE, RETRY_BACKOFF_MS_MAX, TurnLimits
from stateline.core.session import Session, fold, new_session
from stateline.core.turn import (
    NOTHING,
    CallModel,
    backoff_ms,
    decide,
    model_request,
    refusal,
    unanswered_calls,
    with_ids,
)

KEYS = st.builds("{}/{}/{}".format, st.text(max_size=5), st.integers(1, 9), st.integers(1, 99))


@given(st.integers(1, 10**6), KEYS, st.none() | st.integers(-(10**9), 10**12))
def test_a_wait_lies_between_half_and_all_of_its_step_or_is_what_the_provider_asks(
    failures: int, key: str, retry_after_ms: int | None
) -> None:
    full = min(RETRY_BACKOFF_MS_BASE * 2 ** min(failures - 1, 60), RETRY_BACKOFF_MS_MAX)
    own = backoff_ms(failures, key, None)
    assert full // 2 <= own <= full
    wait = backoff_ms(failures, key, retry_after_ms)
    assert wait == max(own, min(retry_after_ms or 0, RETRY_AFTER_MS_MAX))
    assert wait == backoff_ms(failures, key, retry_after_ms), "a restart would wait otherwise"


def test_waits_are_spread() -> None:
    assert len({backoff_ms(1, f"s/1/{step}", None) for step in range(50)}) > 40


# -- what may begin ---------------------------------------------------------------------------------------

LAST = "resp_last"
IDLE = msgspec.structs.replace(new_session(REF), seq=9, turns=2, last_response_id=LAST)


def asked(previous: str | None = LAST, *, in_conversation: bool = False) -> e.TurnRequested:
    request = e.TurnRequest(model="m", previous_response_id=previous, in_conversation=in_conversation)
    return e.TurnRequested(response_id="resp_new", turn=3, request=request, input=())


def busy() -> Session:
    driver = Driver()
    driver.record(e.TurnRequested(response_id="r", turn=1, request=e.TurnRequest(model="m"), input=()))
    return driver.session


@pytest.mark.parametrize(
    ("session", "body", "code"),
    [
        (IDLE, asked(), None),
        (IDLE, asked(None, in_conversation=True), None),
        (new_session(REF), asked(None), None),
        (IDLE, asked("resp_older"), "parent_moved"),
        (IDLE, asked(None), "parent_moved"),
        (busy(), asked(), "conversation_locked"),
        (busy(), asked(None, in_conversation=True), "conversation_locked"),
        (msgspec.structs.replace(IDLE, deleted=True), asked(), "session_deleted"),
        (msgspec.structs.replace(IDLE, quarantined=True), asked(), "session_quarantined"),
        (msgspec.structs.replace(IDLE, quarantined=True, deleted=True), asked(), "session_deleted"),
        (msgspec.structs.replace(busy(), quarantined=True), asked(), "session_quarantined"),
    ],
)
def test_a_turn_that_may_not_begin_is_refused_with_a_code(session: Session, body: e.TurnRequested, code: str) -> None:
    rejected = refusal(session, body)
    assert (rejected and rejected.code) == code
    if rejected is not None:
        assert rejected.response_id == body.response_id
        assert rejected.message


# -- function calls and their outputs ----------------------------------------------------------------------


def call(call_id: str) -> Item:
    return FunctionCall(id=f"fc_{call_id}", call_id=call_id, name="f", arguments="{}")


def output(call_id: str) -> Item:
    return FunctionCallOutput(id=f"fco_{call_id}", call_id=call_id, output="ok")


@pytest.mark.parametrize(
    ("items", "left"),
    [
        ([], []),
        ([user("hi"), call("a"), output("a")], []),
        ([call("a"), call("b"), output("b")], ["a"]),
        ([call("b"), call("a")], ["b", "a"]),
        ([output("a"), call("a")], ["a"]),
        ([output("x")], []),
    ],
)
def test_calls_without_an_output_are_named_in_their_order(items: list[Item], left: list[str]) -> None:
    assert unanswered_calls(items) == left


@given(st.lists(st.sampled_from("abc")), st.data())
def test_a_context_whose_calls_all_have_outputs_after_them_is_complete(names: list[str], data: st.DataObject) -> None:
    calls = [call(name) for name in names]
    outputs = data.draw(st.permutations([output(name) for name in set(names)]))
    assert unanswered_calls([*calls, *outputs]) == []


# -- the request of a call ---------------------------------------------------------------------------------


def test_a_call_asks_with_the_context_the_input_and_what_providers_need_back() -> None:
    driver = Driver()
    driver.play(TurnPlan(input=[user("one")], attempts=[Attempt(said=[TextDelta("two"), SidecarDelta({"id": "u"})])]))
    driver.record(
        e.TurnRequested(
            response_id="r2",
            turn=2,
            request=e.TurnRequest(model="m", previous_response_id=driver.session.last_response_id),
            input=(user("three"),),
            sidecars=SIDECARS,
        )
    )
    effect = CallModel(turn=2, step=1, key=f"{REF.id}/2/1")
    request = model_request(driver.session, effect, stream=False)
    assert list(request.items) == [*driver.said, user("three")]
    assert (request.key, request.stream, request.params.model) == (effect.key, False, "m")
    kept = [event.body.sidecars for event in driver.log if isinstance(event.body, e.ModelCallFinished)]
    assert request.sidecars == {**kept[0], **SIDECARS}


# -- how turns end ---------------------------------------------------------------------------------------------


def ended(plan: TurnPlan) -> e.Body:
    driver = Driver()
    driver.play(plan)
    return driver.log[-1].body


def reason(plan: TurnPlan) -> str:
    body = ended(plan)
    assert isinstance(body, e.TurnIncomplete)
    return body.reason


def test_each_limit_ends_a_turn_with_its_name() -> None:
    fail = Attempt(ending="fail")
    much = Attempt(finish=Finish(reason="stop", usage=Usage(input_tokens=6, output_tokens=5)))
    assert reason(TurnPlan(limits=TurnLimits(steps_max=0))) == "max_steps"
    assert reason(TurnPlan(limits=TurnLimits(steps_max=1), attempts=[fail])) == "max_steps"
    assert reason(TurnPlan(limits=TurnLimits(steps_max=2), attempts=[fail])) == "max_steps"
    assert isinstance(ended(TurnPlan(limits=TurnLimits(steps_max=3), attempts=[fail])), e.TurnCompleted)
    assert reason(TurnPlan(limits=TurnLimits(turn_tokens_max=10), attempts=[much])) == "max_turn_tokens"
    assert isinstance(ended(TurnPlan(limits=TurnLimits(turn_tokens_max=11), attempts=[much])), e.TurnCompleted)
    assert reason(TurnPlan(attempts=[Attempt(outside=["deadline"])])) == "max_wall_time"
    assert reason(TurnPlan(attempts=[fail], waits=["deadline"])) == "max_wall_time"


def test_retryable_failures_in_a_row_end_a_turn_with_the_last_one() -> None:
    fail = Attempt(ending="fail")
    limits = TurnLimits(model_failures_max=3)
    body = ended(TurnPlan(limits=limits, attempts=[fail] * 3))
    assert body == e.TurnFailed(
        response_id=getattr(body, "response_id", ""), code="upstream_error", message="it is down"
    )
    assert isinstance(ended(TurnPlan(limits=limits, attempts=[fail] * 2)), e.TurnCompleted)


def test_a_lost_worker_is_no_failure_of_the_model() -> None:
    limits = TurnLimits(model_failures_max=1)
    plan = TurnPlan(limits=limits, attempts=[Attempt(ending="lost"), Attempt(ending="handed_back")])
    assert isinstance(ended(plan), e.TurnCompleted)


@pytest.mark.parametrize("ending", ["finish", "fail", "fatal", "lost", "handed_back"])
def test_a_cancelled_turn_is_cancelled_however_its_call_ends(ending: Ending) -> None:
    orders: list[list[Outside]] = [["cancel"], ["cancel", "deadline"], ["deadline", "cancel"]]
    for outside in orders:
        assert isinstance(ended(TurnPlan(attempts=[Attempt(outside=outside, ending=ending)])), e.TurnCancelled)


@pytest.mark.parametrize("ending", ["fail", "fatal", "lost", "handed_back"])
def test_an_overdue_turn_ends_with_its_call(ending: Ending) -> None:
    assert reason(TurnPlan(attempts=[Attempt(outside=["deadline"], ending=ending)])) == "max_wall_time"


def test_a_waiting_turn_is_cancelled_at_once_and_survives_a_new_owner() -> None:
    fail = Attempt(ending="fail")
    assert isinstance(ended(TurnPlan(attempts=[fail], waits=["cancel"])), e.TurnCancelled)
    assert isinstance(ended(TurnPlan(attempts=[fail], waits=["lost", "handed_back", "fire"])), e.TurnCompleted)


def test_a_cut_function_call_is_no_part_of_the_context() -> None:
    driver = Driver()
    said = [TextDelta("I look."), CallStart(0, "c", "f"), CallDelta(0, '{"ci')]
    driver.play(TurnPlan(attempts=[Attempt(said=said, finish=Finish(reason="length"))]))
    assert [type(item) for item in driver.session.context] == [Message]
    assert unanswered_calls(driver.session.context) == []


def test_nothing_follows_from_an_event_of_an_idle_session() -> None:
    event = e.Event(session=REF, seq=10, at_ms=START_MS, body=e.SessionUpdated(metadata={}))
    assert decide(IDLE, event) == NOTHING
    assert decide(busy(), event) == NOTHING


# -- a log that was left in the middle of an append ------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "end"),
    [
        (e.CancelRequested(response_id="r"), e.TurnCancelled(response_id="r")),
        (e.DeadlinePassed(turn=1), e.TurnIncomplete(response_id="r", reason="max_wall_time")),
    ],
)
def test_a_waiting_turn_that_was_told_to_end_ends_when_it_is_taken_up(left: e.Body, end: e.Body) -> None:
    """Not when its timer fires, which may be after its deadline."""
    failed = e.ModelCallFailed(turn=1, step=1, code="upstream_error", message="", retryable=True)
    bodies = [
        e.SessionCreated(kind="chain"),
        e.TurnRequested(response_id="r", turn=1, request=e.TurnRequest(model="m"), input=()),
        e.ModelCallStarted(turn=1, step=1, deployment="d", origin="o", model="m"),
        failed,
        e.TimerSet(turn=1, step=2, due_ms=START_MS + 9_000),
        left,
        e.TurnResumed(owner="o"),
    ]
    events = [e.Event(session=REF, seq=at, at_ms=START_MS, body=body) for at, body in enumerate(bodies, 1)]
    session = new_session(REF)
    for event in events:
        session = fold(session, event)
    assert decide(session, events[-1]).events == (end,)


# -- input items -------------------------------------------------------------------------------------------


def test_input_items_keep_the_ids_that_they_came_with_unless_one_is_taken_twice() -> None:
    items = tuple(msgspec.structs.replace(user("x"), id=name) for name in ("", "msg_own", "msg_own", ""))
    session = new_session(REF)
    named = with_ids(items, session, 3)
    assert named[1] is items[1]
    made = [item.id for item in named]
    assert made == [f"msg_{REF.id}t3s0i0", "msg_own", f"msg_{REF.id}t3s0i2", f"msg_{REF.id}t3s0i3"]
    assert with_ids(items, session, 3) == named
