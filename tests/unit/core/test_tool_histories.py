"""Whatever happens to turns that call tools: they end, their streams run on, and no unsafe call is made twice."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.driver import EXAMPLES, REF, TurnPlan, seen
from tests.unit.core.streams import numbers, shown, stream
from tests.unit.core.tool_driver import TOOL_DRIVERS, TOOL_PLANS, ToolDriver

from stateline.core import events as e
from stateline.core.acting import unused
from stateline.core.session import fold_all, new_session, snapshot

HISTORIES = st.lists(TOOL_PLANS, min_size=1, max_size=3)


def played(driver: ToolDriver, plans: list[TurnPlan]) -> list[str]:
    """The ids of the turns; each answers what waits from those before it."""
    return [name for plan in plans if (name := driver.play(plan)) is not None]


@given(TOOL_DRIVERS, HISTORIES)
@settings(max_examples=EXAMPLES // 2)
def test_a_stream_has_each_number_once_from_whatever_cursor_it_is_read(
    driver: ToolDriver, plans: list[TurnPlan]
) -> None:
    for name in played(driver, plans):
        every, _ = stream(driver.log, name)
        assert numbers(every) == list(range(len(every)))
        for cursor in range(len(every)):
            rest, _ = stream(driver.log, name, cursor=cursor)
            assert rest == every[cursor + 1 :]


@given(TOOL_DRIVERS, HISTORIES)
@settings(max_examples=EXAMPLES // 2)
def test_a_response_has_the_last_state_of_each_item(driver: ToolDriver, plans: list[TurnPlan]) -> None:
    for name in played(driver, plans):
        events, response = stream(driver.log, name)
        done = {each["item"]["id"]: each["item"] for each in events if each["type"] == "response.output_item.done"}
        output = [shown(item) for item in response.output]
        assert output == [done[item["id"]] for item in output]
        added = [each["output_index"] for each in events if each["type"] == "response.output_item.added"]
        assert added == sorted(added)
        assert len({item["id"] for item in output}) == len(output)
        kept = {item.id: item for item in driver.session.context}
        assert all(kept.get(item.id, item) == item for item in response.output)


@given(TOOL_DRIVERS, HISTORIES)
@settings(max_examples=EXAMPLES // 2)
def test_a_pruned_stream_keeps_its_numbers(driver: ToolDriver, plans: list[TurnPlan]) -> None:
    for name in played(driver, plans):
        every, response = stream(driver.log, name)
        pruned, again = stream(driver.log, name, pruned=True)
        assert numbers(pruned) == sorted(set(numbers(pruned)))
        assert numbers(pruned)[-1] == numbers(every)[-1]
        assert again == response


@given(TOOL_DRIVERS, TOOL_PLANS, st.data())
@settings(max_examples=EXAMPLES // 2)
def test_no_unsafe_call_is_sent_twice_wherever_the_worker_is_lost(
    driver: ToolDriver, plan: TurnPlan, data: st.DataObject
) -> None:
    name = driver.play(plan)
    assert name is not None
    cut = ToolDriver.cut(driver, data.draw(st.sampled_from(driver.edges)))
    if cut.session.turn is not None:
        cut.resume()
        cut.finish()
    unsafe = {
        ev.body.call.id for ev in cut.log if isinstance(ev.body, e.EffectDispatched) and ev.body.effect == "unsafe"
    }
    assert all(cut.sent[id_] == 1 for id_ in unsafe)
    keys = Counter(ev.body.step for ev in cut.log if isinstance(ev.body, e.EffectDispatched | e.ModelCallStarted))
    assert all(count == 1 for count in keys.values()), "two effects would have one key"
    if cut.log and any(isinstance(ev.body, e.TurnRequested) for ev in cut.log):
        every, _ = stream(cut.log, name)
        assert numbers(every) == list(range(len(every)))


@given(TOOL_DRIVERS, HISTORIES)
@settings(max_examples=EXAMPLES // 2)
def test_what_waits_and_what_was_done_outlive_the_log(driver: ToolDriver, plans: list[TurnPlan]) -> None:
    played(driver, plans)
    stored = [msgspec.structs.replace(ev, body=e.decode_body(e.encode_body(ev.body))) for ev in driver.log]
    assert seen(fold_all(new_session(REF), stored)) == seen(driver.session)
    taken = e.Event(session=REF, seq=driver.session.seq + 1, at_ms=driver.now_ms, body=snapshot(driver.session))
    restored = fold_all(new_session(REF), [taken])
    for name in ("pending", "history", "servers"):
        assert getattr(restored, name) == getattr(driver.session, name)
    assert not unused("r", 1, ())


@given(TOOL_DRIVERS, HISTORIES)
@settings(max_examples=EXAMPLES // 2)
def test_every_dispatched_call_ends_and_what_nobody_knows_waits_for_a_person(
    driver: ToolDriver, plans: list[TurnPlan]
) -> None:
    played(driver, plans)
    sent = [ev.body.call.id for ev in driver.log if isinstance(ev.body, e.EffectDispatched)]
    ended = [
        ev.body.id for ev in driver.log if isinstance(ev.body, e.EffectCommitted | e.EffectFailed | e.EffectUnknown)
    ]
    assert sorted(sent) == sorted(ended)
    unknown = {ev.body.id for ev in driver.log if isinstance(ev.body, e.EffectUnknown)}
    asked = {ev.body.id for ev in driver.log if isinstance(ev.body, e.ApprovalRequested)}
    assert len(set(sent)) == len(sent), "one approval, or one answer of a model, made two calls"
    assert driver.session.pending.keys() <= unknown | asked
    assert sum(driver.session.history.calls.values()) == len(sent)
