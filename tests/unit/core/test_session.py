"""Sessions as values: contexts, sizes, snapshots."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.driver import REF, START_MS, Driver, TurnPlan, seen, user
from tests.unit.core.examples import EVERY_BODY

from stateline.core import events as e
from stateline.core.ids import SessionRef
from stateline.core.items import (
    Compaction,
    FunctionCall,
    FunctionCallOutput,
    InputText,
    Item,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    Sidecar,
    SummaryText,
)
from stateline.core.limits import EVENT_BYTES_MAX, SNAPSHOT_CONTEXT_BYTES_MAX, SNAPSHOT_WASTE_BYTES_MIN
from stateline.core.session import (
    FOLD_VERSION,
    TURN_BYTES,
    Context,
    SnapshotStale,
    fold,
    fold_all,
    item_bytes,
    new_session,
    snapshot,
)

BATCHES = st.lists(st.lists(st.integers(0, 20), max_size=3), max_size=8)
"""Item numbers, as they are appended; every seventh is a compaction."""


def item(number: int) -> Item:
    return Compaction(id=f"{number}", encrypted_content="c") if number % 7 == 6 else user(str(number))


@given(BATCHES)
def test_a_context_is_its_batches_from_the_last_compaction_on(batches: list[list[int]]) -> None:
    context, expected = Context(), list[Item]()
    sidecars: dict[str, Sidecar] = {}
    for at, batch in enumerate(batches):
        items = tuple(map(item, batch))
        of_batch = {each.id: Sidecar(origin="o", data={"at": at}) for each in items}
        before = list(context)
        grown = context.append(items, of_batch)
        assert list(context) == before, "an append must not change what others hold"
        context = grown
        for each in items:
            if isinstance(each, Compaction):
                expected = []
            expected.append(each)
        compacted = any(isinstance(each, Compaction) for each in items)
        sidecars = {**({} if compacted else sidecars), **of_batch}
    assert list(context) == expected
    assert len(context) == len(expected)
    assert context.bytes == sum(map(item_bytes, expected))
    assert context.sidecars() == sidecars


def test_an_item_is_found_and_left_out_by_its_id() -> None:
    context = Context().append((user("a"), user("b")), {}).append((user("c"),), {"x": Sidecar(origin="o", data={})})
    assert context.find(user("b").id) == user("b")
    assert context.find("nobody") is None
    shorter = context.without(user("b").id)
    assert list(shorter) == [user("a"), user("c")]
    assert shorter.bytes == item_bytes(user("a")) + item_bytes(user("c"))
    assert shorter.sidecars() == context.sidecars()
    assert context.without("nobody") is context


def test_a_long_context_is_read_without_recursion() -> None:
    context = Context()
    for at in range(5_000):
        context = context.append((user(str(at)),), {})
    assert len(list(context)) == 5_000


TEXT = "x" * 1_000


@pytest.mark.parametrize(
    "value",
    [
        Message(id="a", role="user", content=(InputText(text=TEXT),)),
        Message(id="a", role="assistant", content=(OutputText(text=TEXT),)),
        FunctionCall(id="a", call_id="c", name="f", arguments=TEXT),
        FunctionCallOutput(id="a", call_id="c", output=TEXT),
        FunctionCallOutput(id="a", call_id="c", output=(InputText(text=TEXT),)),
        Reasoning(id="a", summary=(SummaryText(text=TEXT),)),
        Reasoning(id="a", content=(ReasoningText(text=TEXT),)),
        Reasoning(id="a", encrypted_content=TEXT),
        Compaction(id="a", encrypted_content=TEXT),
    ],
)
def test_the_size_of_an_item_goes_with_its_text(value: Item) -> None:
    assert 1_000 <= item_bytes(value) <= 1_000 + 600


@given(st.text(max_size=50))
def test_a_longer_text_is_no_smaller_item(text: str) -> None:
    assert item_bytes(user(text + "y")) == item_bytes(user(text)) + 1


# -- snapshots ----------------------------------------------------------------------------------------------


def test_a_snapshot_holds_all_of_an_idle_session() -> None:
    driver = Driver(kind="conversation")
    driver.add(*[each for body in EVERY_BODY if isinstance(body, e.ItemsAdded) for each in body.items])
    driver.record(e.SessionUpdated(metadata={"a": "b"}))
    driver.play(TurnPlan())
    driver.record(e.ResponseDeleted(response_id="resp_b"))
    driver.record(e.ResponseDeleted(response_id="resp_a"))
    driver.record(e.SessionQuarantined(crashes=3))
    driver.record(e.SessionDeleted())
    driver.take_snapshot()
    restored = fold(new_session(REF), driver.log[-1])
    assert seen(restored) == seen(driver.session)


def test_a_snapshot_of_another_fold_is_stale() -> None:
    driver = Driver()
    driver.take_snapshot()
    other = msgspec.structs.replace(snapshot(driver.session), fold=FOLD_VERSION + 1)
    event = msgspec.structs.replace(driver.log[-1], body=other)
    with pytest.raises(SnapshotStale):
        fold(new_session(REF), event)
    # In the course of a reading it is passed over.
    assert seen(fold_all(new_session(REF), [*driver.log[:-1], event])) == seen(driver.session)


def test_only_what_is_gone_makes_a_snapshot_worth_its_writing() -> None:
    driver = Driver()
    assert not driver.session.worth_snapshot
    for at in range(3):
        driver.add(user("x" * SNAPSHOT_WASTE_BYTES_MIN, at))
        assert not driver.session.worth_snapshot
    driver.add(Compaction(id="cmp_1", encrypted_content="c"))
    assert driver.session.worth_snapshot
    driver.take_snapshot()
    assert not driver.session.worth_snapshot


def test_a_context_that_one_event_may_not_hold_has_no_snapshot() -> None:
    driver = Driver()
    text = "\x01" * (SNAPSHOT_CONTEXT_BYTES_MAX - 4 * TURN_BYTES)
    long = msgspec.structs.replace(user(""), content=(InputText(text=text),))
    driver.add(*[long] * 4, Compaction(id="cmp_1", encrypted_content="c"), long)
    assert driver.session.worth_snapshot
    # At its longest as JSON it is an event that the store takes.
    assert len(e.encode_body(snapshot(driver.session))) < EVENT_BYTES_MAX
    driver.add(user("x" * 4 * TURN_BYTES))
    assert not driver.session.worth_snapshot


def test_a_running_turn_is_never_worth_a_snapshot() -> None:
    driver = Driver()
    driver.add(user("x" * 9 * SNAPSHOT_WASTE_BYTES_MIN), Compaction(id="cmp_1", encrypted_content="c"))
    driver.record(e.TurnRequested(response_id="r", turn=1, request=e.TurnRequest(model="m"), input=()))
    assert not driver.session.worth_snapshot


# -- forks ------------------------------------------------------------------------------------------------------


def test_a_fork_begins_with_a_clean_slate_and_the_shared_context() -> None:
    driver = Driver()
    response_id = driver.play(TurnPlan(input=[user("shared")]))
    assert response_id is not None
    driver.record(e.SessionUpdated(metadata={"of": "the parent"}))
    driver.record(e.SessionQuarantined(crashes=3))
    driver.record(e.SessionDeleted())
    fork = driver.fork(response_id, SessionRef("acme", "z" * 24))
    session = fork.session
    assert (session.ref, session.kind, session.turns) == (fork.ref, "chain", 1)
    assert (session.deleted, session.quarantined, session.crashes, session.metadata) == (False, False, 0, {})
    assert session.last_response_id == response_id
    assert list(session.context) == [user("shared")]
    assert session.created_at_ms > START_MS
