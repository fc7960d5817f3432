"""What a log says of where its calls went."""

from __future__ import annotations

import pytest

from stateline.core import events as e
from stateline.core.ids import SessionRef
from stateline.core.placed import TAGS, Placements
from stateline.core.placing import CallFacts, Passed

REF = SessionRef("t", "s")
STARTED = e.ModelCallStarted(turn=1, step=1, deployment="one", origin="openai-chat/openai", model="up")


def event(body: e.Body, ref: SessionRef = REF) -> e.Event:
    return e.Event(session=ref, seq=1, at_ms=7, body=body)


def requested(*, from_session: bool = False, **options: object) -> e.TurnRequested:
    request = e.TurnRequest(model="m", **options)  # pyright: ignore[reportArgumentType]
    return e.TurnRequested(
        response_id="r", turn=1, request=request, input=(), principal="key_1", from_session=from_session
    )


def test_a_call_is_told_with_the_turn_that_asked_for_it() -> None:
    log = Placements()
    assert log.see(event(requested(service_tier="flex"))) is None
    placed = log.see(event(STARTED))
    assert placed is not None
    assert (placed.id, placed.response_id, placed.at_ms, placed.model) == ("s/1/1", "r", 7, "m")
    assert (placed.deployment, placed.origin, placed.affinity) == ("one", "openai-chat/openai", "s")
    assert placed.call == CallFacts("t", "key_1", "stateful", "responses", "flex")


@pytest.mark.parametrize(("from_session", "workload"), [(False, "stateless"), (True, "stateful")])
def test_a_turn_that_is_not_stored_is_stateful_where_it_goes_on_from_one_that_is(
    from_session: bool, workload: str
) -> None:
    log = Placements()
    log.see(event(requested(store=False, from_session=from_session, prompt_cache_key="shared")))
    placed = log.see(event(STARTED))
    assert placed is not None
    assert (placed.call.workload, placed.affinity) == (workload, "shared")


def test_a_wait_for_a_deployment_is_a_placement_nowhere_and_another_wait_is_none() -> None:
    log = Placements()
    log.see(event(requested()))
    waits = e.TimerSet(turn=1, step=2, due_ms=9, passed=(Passed("one", "rate_limited"),))
    placed = log.see(event(waits))
    assert placed is not None
    assert (placed.deployment, placed.origin, placed.verdict, placed.passed) == (None, None, None, waits.passed)
    assert log.see(event(e.TimerSet(turn=1, step=2, due_ms=9))) is None
    assert log.see(event(e.TurnCompleted(response_id="r"))) is None


def test_a_call_of_which_the_turn_is_not_known_is_left_out() -> None:
    log = Placements()
    assert log.see(event(STARTED)) is None
    log.see(event(requested()))
    assert log.see(event(STARTED, SessionRef("t", "other"))) is None


def test_the_tags_are_those_of_the_events_that_are_looked_at() -> None:
    bodies = (requested(), STARTED, e.TimerSet(turn=1, step=1, due_ms=1))
    found = [e.encode_body(body).partition(b"/")[0].decode().rpartition('"')[2] for body in bodies]
    assert tuple(found) == TAGS
