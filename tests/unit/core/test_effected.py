"""What agents did to the world, as a log tells it."""

from __future__ import annotations

from tests.unit.core.driver import REF, START_MS, Attempt, TurnPlan
from tests.unit.core.examples import AGENT, EVERY_BODY, PLANNED
from tests.unit.core.tool_driver import TOOL_REQUEST, End, Ruled, ToolDriver

from stateline.core import events as e
from stateline.core.calls import CallStart, Finish
from stateline.core.effected import TAGS, EffectRecord, Effects
from stateline.core.ids import effect_key
from stateline.core.tools import Answer


def calls(*names: str) -> TurnPlan:
    said = [CallStart(at, f"c{at}", name) for at, name in enumerate(names)]
    return TurnPlan(attempts=[Attempt(said=said, finish=Finish(reason="tool_calls"))], request=TOOL_REQUEST)


def driver(*rulings: Ruled, ends: tuple[End, ...] = ()) -> ToolDriver:
    return ToolDriver(ends=ends, rulings=rulings)


def records(driver: ToolDriver) -> list[EffectRecord]:
    found = Effects()
    for event in driver.log:
        found.see(event)
    return list(found.records.values())


def test_each_call_stands_there_once_with_what_became_of_it() -> None:
    one = driver("dispatch", "refuse", "ask")
    one.play(calls("a-look", "b-put", "a-refund"))
    look, put, refund = records(one)
    assert (look.status, look.key, look.effect) == ("committed", effect_key(REF.id, 1, 2), "read")
    assert (look.deployment, look.model, look.response_id) == ("d1", "m", one.session.last_response_id)
    assert (put.status, put.code, put.message, put.key) == ("refused", "no", "no", "")
    assert (refund.status, refund.principal, refund.asked is not None) == ("waiting", "p", True)


def test_what_was_not_answered_in_time_has_expired() -> None:
    one = driver("ask", "dispatch")
    one.play(calls("a-refund", "a-look"))
    found = Effects()
    for event in one.log:
        found.see(event)
    refund, look = found.records.values()
    assert refund.asked is not None
    assert found.as_of(refund.asked.expires_ms - 1) == [refund, look]
    expired, same = found.as_of(refund.asked.expires_ms)
    assert (expired.status, expired.ended_ms, same) == ("expired", refund.asked.expires_ms, look)


def test_a_call_without_an_answer_is_failed_or_unknown() -> None:
    one = driver(ends=("failed",))
    one.play(calls("a-look", "a-refund"))
    assert [(each.status, each.code) for each in records(one)] == [("failed", "c"), ("unknown", "c")]


def test_what_a_person_says_is_told_with_who_said_it() -> None:
    for decision, status in (("approve", "committed"), ("reject", "rejected")):
        one = driver("ask")
        one.play(calls("a-refund"))
        (id_,) = one.session.pending
        one.answers_next = (Answer(id=id_, decision=decision, by="q"),)  # pyright: ignore[reportArgumentType]
        one.play(calls())
        (record,) = records(one)
        assert (record.status, record.decided_by, record.approval) == (status, "q", id_)
    for decision, status in (("committed", "resolved"), ("abandoned", "abandoned"), ("retry", "resolved")):
        one = driver(ends=("failed",))
        one.play(calls("a-refund"))
        (id_,) = one.session.pending
        one.answers_next = (Answer(id=id_, decision=decision, by="q"),)  # pyright: ignore[reportArgumentType]
        one.play(calls())
        record, *again = records(one)
        assert (record.status, record.decided_by) == (status, "q")
        assert [each.status for each in again] == (["committed"] if decision == "retry" else [])


def seen(*bodies: e.Body) -> list[EffectRecord]:
    found = Effects()
    for seq, body in enumerate(bodies, 1):
        found.see(e.Event(session=REF, seq=seq, at_ms=START_MS, body=body))
    return list(found.records.values())


DISPATCHED = e.EffectDispatched(turn=1, step=1, call=PLANNED, effect="read")


def test_a_call_that_a_turn_makes_first_is_its_agents_and_of_no_deployment() -> None:
    request = e.TurnRequest(model="agent/clerk")
    requested = e.TurnRequested(response_id="r", turn=1, request=request, input=(), agent=AGENT)
    (record,) = seen(requested, DISPATCHED)
    assert (record.agent, record.agent_version, record.model, record.deployment) == ("clerk", "3", "gpt-5", "")


def test_nothing_is_told_of_a_call_whose_beginning_the_log_has_lost() -> None:
    answer = Answer(id="mcpr_1", decision="approve", by="q")
    requested = e.TurnRequested(response_id="r", turn=1, request=e.TurnRequest(model="m"), input=(), answers=(answer,))
    ended = e.EffectCommitted(turn=1, step=1, id=PLANNED.id)
    assert seen(DISPATCHED, ended) == []
    assert seen(requested, ended) == []


def test_a_reading_may_leave_out_all_but_these_events() -> None:
    tags = {str(type(body).__struct_config__.tag).partition("/")[0] for body in EVERY_BODY}
    assert set(TAGS) <= tags
    one = driver("dispatch", "ask", ends=("failed",))
    one.play(calls("a-refund", "b-put"))
    found = Effects()
    for event in one.log:
        if str(type(event.body).__struct_config__.tag).partition("/")[0] in TAGS:
            found.see(event)
    assert list(found.records.values()) == records(one)
