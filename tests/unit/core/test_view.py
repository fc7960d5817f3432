"""A turn as its client sees it: with chunks, without them, from any cursor, after any loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.driver import EXAMPLES, PLANS, REF, START_MS, Attempt, Driver, TurnPlan
from tests.unit.core.examples import EVERY_BODY, NOTE, REQUEST
from tests.unit.core.streams import Client, Json, numbers, shown, stream

from stateline.core import events as e
from stateline.core.billing import Charge
from stateline.core.calls import (
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    ItemStart,
    ReasoningDelta,
    RefusalDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)
from stateline.core.view import NO_EVENTS, TurnView, opening_events

STREAMED = PLANS.map(lambda plan: dataclasses.replace(plan, stream=True))


def played(plan: TurnPlan) -> tuple[list[e.Event], str]:
    driver = Driver()
    response_id = driver.play(plan)
    assert response_id is not None
    return driver.log, response_id


@given(STREAMED)
@settings(max_examples=EXAMPLES)
def test_a_stream_is_legal_and_numbered_without_a_gap(plan: TurnPlan) -> None:
    log, response_id = played(plan)
    events, response = stream(log, response_id)
    assert numbers(events) == list(range(len(events)))
    client = Client().follow(events)
    assert client.final == shown(response)


@given(STREAMED)
@settings(max_examples=EXAMPLES)
def test_a_pruned_stream_is_legal_and_keeps_its_numbers(plan: TurnPlan) -> None:
    log, response_id = played(plan)
    full, response = stream(log, response_id)
    pruned, again = stream(log, response_id, pruned=True)
    assert again == response
    assert Client().follow(pruned).final == shown(response)
    by_number = {event["sequence_number"]: event for event in full}
    for event in pruned:
        same = by_number[event["sequence_number"]]
        assert event["type"] == same["type"]
        assert event == same or event["type"].endswith(".delta")


@given(PLANS)
@settings(max_examples=EXAMPLES)
def test_a_response_does_not_depend_on_how_it_was_streamed(plan: TurnPlan) -> None:
    streamed, plain = [played(dataclasses.replace(plan, stream=how)) for how in (True, False)]
    events, response = stream(*plain)
    assert not [event for event in plain[0] if isinstance(event.body, e.Chunk)]
    assert Client().follow(events).final == shown(response)
    if not any(attempt.ending == "lost" for attempt in plan.attempts):
        # What a lost worker had put into the log is progress, which keeps a session out of quarantine.
        ended = [msgspec.to_builtins(stream(*how)[1]) for how in (streamed, plain)]
        for of in ended:
            # Abandoned pieces of streams have no place in the output, so this is all that may differ.
            del of["completed_at"]
        assert ended[0] == ended[1]


def test_a_plain_call_is_numbered_without_a_gap() -> None:
    said = [
        ReasoningDelta("a"),
        SummaryDelta("b"),
        TextDelta("c"),
        AnnotationDelta(NOTE),
        RefusalDelta("d"),
        CallStart(0, "x", "f"),
        CallDelta(0, "{}"),
    ]
    events, _ = stream(*played(TurnPlan(stream=False, attempts=[Attempt(said=said)])))
    assert numbers(events) == list(range(len(events)))


@given(STREAMED)
@settings(max_examples=EXAMPLES)
def test_a_reader_that_comes_back_gets_the_rest_and_nothing_twice(plan: TurnPlan) -> None:
    log, response_id = played(plan)
    full, response = stream(log, response_id)
    for cursor in range(-1, len(full) + 1):
        rest, again = stream(log, response_id, cursor=cursor)
        assert rest == full[cursor + 1 :]
        assert again == response


@given(STREAMED)
@settings(max_examples=EXAMPLES)
def test_a_reader_that_comes_back_after_pruning_gets_no_text_twice(plan: TurnPlan) -> None:
    log, response_id = played(plan)
    full, response = stream(log, response_id)
    structural = [event for event in full if not event["type"].endswith(".delta")]
    for cursor in range(-1, len(full)):
        rest, _ = stream(log, response_id, cursor=cursor, pruned=True)
        client = Client(lossy=True).follow(full[: cursor + 1])
        known = {
            (at, key): (part.text, part.said) for at, item in client.items.items() for key, part in item.parts.items()
        }
        for event in rest:
            if event["type"].endswith(".delta"):
                had = known.get((event["output_index"], place(event)), ("", False))
                assert had == ("", False), "a delta of a part that the client has deltas of"
        client.follow(rest)
        assert [event for event in rest if not event["type"].endswith(".delta")] == [
            event for event in structural if event["sequence_number"] > cursor
        ]
        if cursor < len(full) - 1:
            assert client.final == shown(response)


def place(event: Json) -> tuple[str, int]:
    for name in ("content", "summary"):
        if f"{name}_index" in event:
            return name, event[f"{name}_index"]
    return "arguments", 0


@given(STREAMED, st.lists(st.booleans(), min_size=1, max_size=8))
@settings(max_examples=EXAMPLES)
def test_a_stream_whose_chunks_are_pruned_while_it_is_read_stays_legal(plan: TurnPlan, lost: Sequence[bool]) -> None:
    log, response_id = played(plan)
    chunks = [event.seq for event in log if isinstance(event.body, e.Chunk)]
    gone = {seq for at, seq in enumerate(chunks) if lost[at % len(lost)]}
    events, response = stream([event for event in log if event.seq not in gone], response_id)
    assert Client(lossy=True).follow(events).final == shown(response)


# -- one case at a time -----------------------------------------------------------------------------------------


def deltas_of(events: Sequence[Json]) -> list[str]:
    return [event["delta"] for event in events if event["type"].endswith(".delta")]


def test_function_calls_side_by_side_come_in_the_order_of_their_numbers_after_pruning() -> None:
    said = [CallStart(0, "c0", "f"), CallStart(1, "c1", "g"), CallDelta(1, "[1]"), CallDelta(0, "[0]")]
    log, response_id = played(TurnPlan(attempts=[Attempt(said=said, cuts=[True])]))
    pruned, _ = stream(log, response_id, pruned=True)
    assert numbers(pruned) == sorted(numbers(pruned))
    assert pruned == stream(log, response_id)[0]


def test_arguments_that_the_client_has_begun_to_read_are_not_sent_again_after_pruning() -> None:
    said = [CallStart(0, "c0", "f"), CallDelta(0, "[1"), CallDelta(0, ",2]")]
    log, response_id = played(TurnPlan(attempts=[Attempt(said=said, cuts=[True])]))
    full, _ = stream(log, response_id)
    (first, _) = [ev["sequence_number"] for ev in full if ev["type"].endswith("arguments.delta")]
    rest, _ = stream(log, response_id, cursor=first, pruned=True)
    assert deltas_of(rest) == []
    assert [event["arguments"] for event in rest if event["type"].endswith("arguments.done")] == ["[1,2]"]
    assert deltas_of(stream(log, response_id, cursor=first - 1, pruned=True)[0]) == ["[1,2]"]


def test_a_chunk_behind_a_pruned_one_shows_nothing_and_the_finished_item_tells_both() -> None:
    # What falls to this case by chance falls to it here on every run.
    said = [TextDelta("one "), TextDelta("two "), TextDelta("three")]
    log, response_id = played(TurnPlan(attempts=[Attempt(said=said, cuts=[True])]))
    first, *rest = [event for event in log if isinstance(event.body, e.Chunk)]
    assert rest
    events, response = stream([event for event in log if event is not first], response_id)
    assert deltas_of(events) == ["one two three"]
    assert Client(lossy=True).follow(events).final == shown(response)


@pytest.mark.parametrize("ending", ["lost", "handed_back", "fail"])
def test_an_abandoned_attempt_is_closed_and_left_out_of_the_output(ending: str) -> None:
    broken = Attempt(said=[TextDelta("half a"), ItemStart("message"), TextDelta("thought")], cuts=[True])
    attempts = [dataclasses.replace(broken, ending=ending), Attempt(said=[TextDelta("whole")])]
    log, response_id = played(TurnPlan(attempts=attempts))
    events, response = stream(log, response_id)
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [(event["output_index"], event["item"]["status"]) for event in done] == [
        (0, "completed"),
        (1, "incomplete"),
        (2, "completed"),
    ]
    assert [item.id for item in response.output] == [done[2]["item"]["id"]]
    assert response.status == "completed"


def test_what_a_lost_worker_had_not_written_down_was_never_shown() -> None:
    lost = Attempt(said=[TextDelta("shown"), TextDelta("never")], cuts=[True, False], ending="lost")
    events, _ = stream(*played(TurnPlan(attempts=[lost])))
    assert deltas_of(events) == ["shown"]


def test_a_background_response_is_queued_first() -> None:
    events, _ = stream(*played(TurnPlan(background=True)))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
    ]
    assert [event["response"]["status"] for event in events] == ["queued", "queued", "in_progress", "completed"]
    assert opening_events(request_background=True) == 3


@pytest.mark.parametrize(
    ("attempt", "last", "status", "reason", "code"),
    [
        (Attempt(), "completed", "completed", None, None),
        (Attempt(finish=Finish(reason="length")), "incomplete", "incomplete", "max_output_tokens", None),
        (Attempt(finish=Finish(reason="content_filter")), "incomplete", "incomplete", "content_filter", None),
        (Attempt(finish=Finish(reason="max_output_bytes")), "incomplete", "incomplete", "max_output_bytes", None),
        (Attempt(outside=["deadline"]), "incomplete", "incomplete", "max_wall_time", None),
        (Attempt(outside=["cancel"]), "incomplete", "cancelled", None, None),
        (Attempt(ending="fatal"), "failed", "failed", None, "upstream_error"),
    ],
)
def test_the_last_event_says_how_the_turn_ended(
    attempt: Attempt, last: str, status: str, reason: str | None, code: str | None
) -> None:
    log, response_id = played(TurnPlan(attempts=[attempt]))
    events, response = stream(log, response_id)
    assert events[-1]["type"] == f"response.{last}"
    assert response.status == status
    assert (response.incomplete_details and response.incomplete_details.reason) == reason
    assert (response.error and response.error.code) == code
    assert response.completed_at == (log[-1].at_ms // 1000 if status == "completed" else None)
    assert response.created_at == START_MS // 1000


def test_a_turn_is_told_from_the_others_of_its_session() -> None:
    driver = Driver()
    said = [driver.play(TurnPlan(attempts=[Attempt(said=[TextDelta(text)])])) for text in ("a", "b", "c")]
    for response_id, text in zip(said, "abc", strict=True):
        assert response_id is not None
        events, response = stream(driver.log, response_id)
        assert deltas_of(events) == [text]
        assert response.id == response_id


def test_an_unfinished_turn_shows_what_has_ended_so_far() -> None:
    driver = Driver()
    response_id = driver.play(TurnPlan(attempts=[Attempt(said=[TextDelta("a")], finish=FULL)]))
    assert response_id is not None
    view = TurnView(response_id)
    for event in driver.log[:-1]:
        view.apply(event)
    assert not view.finished
    response = view.response()
    assert (response.status, response.usage, len(response.output)) == ("in_progress", None, 1)
    view.apply(driver.log[-1])
    assert view.response().usage is not None


FULL = Finish(
    reason="stop",
    usage=Usage(input_tokens=4, output_tokens=3, cached_tokens=2, reasoning_tokens=1),
    upstream_model="m-2026",
    service_tier="flex",
)


def test_usage_is_summed_and_facts_are_the_last_calls() -> None:
    log, response_id = played(TurnPlan(attempts=[Attempt(ending="fail"), Attempt(finish=FULL)]))
    _, response = stream(log, response_id)
    assert response.usage is not None
    assert msgspec.to_builtins(response.usage) == {
        "input_tokens": 4,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 7,
    }
    assert response.service_tier == "flex"
    assert msgspec.to_builtins(response.stateline) == {
        "session": log[0].session.id,
        "turn": 1,
        "steps": 3,  # A call that failed, the wait after it, and the call that answered.
        "deployment": "d3",
        "upstream_model": "m-2026",
    }


def test_two_calls_of_a_turn_add_up() -> None:
    # No step follows an answer yet, so the log is made by hand.
    log, response_id = played(TurnPlan(attempts=[Attempt(said=[TextDelta("a")], finish=FULL)]))
    (answer,) = [event for event in log if isinstance(event.body, e.ModelCallFinished)]
    at = log.index(answer)
    again = msgspec.structs.replace(answer.body, items=(), marks=(), output_index=1)
    doubled = [*log[: at + 1], msgspec.structs.replace(answer, body=again), *log[at + 1 :]]
    _, response = stream(doubled, response_id)
    assert response.usage is not None
    assert response.usage.total_tokens == 14


def test_who_wants_the_response_alone_gets_no_events() -> None:
    log, response_id = played(TurnPlan(attempts=[Attempt(said=[TextDelta("a")], cuts=[True])]))
    events, response = stream(log, response_id, cursor=NO_EVENTS)
    assert events == []
    assert response == stream(log, response_id)[1]


def test_the_response_repeats_what_was_asked() -> None:
    request = msgspec.structs.replace(REQUEST, background=False)
    driver = Driver(kind="conversation")
    response_id = driver.play(TurnPlan(request=request))
    assert response_id is not None
    _, response = stream(driver.log, response_id)
    said = msgspec.to_builtins(response)
    for name in ("model", "instructions", "tools", "tool_choice", "truncation", "parallel_tool_calls"):
        assert said[name] == msgspec.to_builtins(getattr(request, name))
    for name in ("top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "max_output_tokens"):
        assert said[name] == getattr(request, name)
    for name in ("max_tool_calls", "service_tier", "metadata", "safety_identifier", "prompt_cache_key"):
        assert said[name] == getattr(request, name)
    assert said["conversation"] == {"id": f"conv_{driver.ref.id}"}
    assert said["reasoning"] == {"effort": "low", "summary": "auto"}
    assert said["text"]["verbosity"] == "low"


def test_the_schema_is_echoed_where_the_dialect_wants_it() -> None:
    log, response_id = played(TurnPlan(request=REQUEST))
    formats = [stream(log, response_id, dialect=d)[1].text["format"] for d in ("open-responses", "openai")]
    assert [text["schema"] for text in formats] == [None, {"type": "object"}]


def test_reasoning_deltas_have_each_dialects_name() -> None:
    log, response_id = played(TurnPlan(attempts=[Attempt(said=[ReasoningDelta("a")], cuts=[True])]))
    names = [{event["type"] for event in stream(log, response_id, dialect=d)[0]} for d in ("open-responses", "openai")]
    assert names[0] - names[1] == {"response.reasoning.delta", "response.reasoning.done"}
    assert names[1] - names[0] == {"response.reasoning_text.delta", "response.reasoning_text.done"}


def test_events_that_no_reader_sees_show_nothing() -> None:
    log, response_id = played(TurnPlan())
    view = TurnView(response_id)
    assert [view.apply(event) for event in log[:1]] == [[]]
    view.apply(log[1])
    quiet = [e.CancelRequested, e.DeadlinePassed, e.TurnResumed, e.TimerSet, e.TimerFired, e.SessionUpdated]
    for body in EVERY_BODY:
        if type(body) in quiet:
            assert view.apply(msgspec.structs.replace(log[1], body=body)) == []


def test_a_response_adds_up_what_its_calls_cost_by_currency_failed_ones_included() -> None:
    def charge(amount: str, currency: str = "USD", *, estimated: bool = False) -> Charge:
        return Charge(tariff="trf", amount=Decimal(amount), currency=currency, estimated=estimated)

    bodies: list[e.Body] = [
        e.TurnRequested(response_id="resp_1", turn=1, request=e.TurnRequest(model="m"), input=()),
        e.ModelCallFailed(
            turn=1, step=1, code="answer_cut", message="cut", retryable=True, charge=charge("0.5", estimated=True)
        ),
        e.ModelCallFailed(turn=1, step=2, code="x", message="x", retryable=True, charge=charge("0.1", "EUR")),
        e.ModelCallFinished(turn=1, step=3, finish_reason="stop", charge=charge("0.0000001")),
        e.TurnCompleted(response_id="resp_1"),
    ]
    view = TurnView("resp_1", cursor=NO_EVENTS)
    for seq, body in enumerate(bodies, 1):
        view.apply(e.Event(session=REF, seq=seq, at_ms=START_MS, body=body))
    shown_field = view.response().stateline
    assert shown_field
    assert [(each.amount, each.currency, each.estimated) for each in shown_field.cost] == [
        ("0.5000001", "USD", True),
        ("0.1", "EUR", False),
    ]
