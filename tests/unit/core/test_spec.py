"""Streams and responses against the published descriptions, and through the SDK's own accumulator."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from openai import omit
from openai._models import construct_type_unchecked  # How the SDK itself reads an event.
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from tests.unit.core.driver import EXAMPLES, PLANS, Attempt, Driver, TurnPlan, user
from tests.unit.core.examples import LOGPROB, NOTE, REQUEST
from tests.unit.core.streams import Json, stream

from stateline.core import events as e
from stateline.core.calls import (
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    ReasoningDelta,
    RefusalDelta,
    SidecarDelta,
    SummaryDelta,
    TextDelta,
)
from stateline.core.response import Dialect

OPEN_RESPONSES = "open-responses-2026-04-24.json"
OPENAI = "openai-2.3.0-subset.json"
MADE_BY_THE_API = {"error"}
"""Written when a stream itself breaks, so no turn has it."""

SDK_EVENT: Any = ResponseStreamEvent

# The fixture only finds the folder; each example may share it.
LOOK_UP = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

EVERYTHING = TurnPlan(
    background=True,
    input=[user("hi")],
    request=msgspec.structs.replace(REQUEST, tool_choice="auto"),
    attempts=[
        Attempt(said=[ReasoningDelta("first "), TextDelta("try")], cuts=[True], ending="lost"),
        Attempt(said=[RefusalDelta("second")], cuts=[True], ending="fail"),
        Attempt(
            said=[
                ReasoningDelta("a"),
                SummaryDelta("b"),
                SidecarDelta({"encrypted_content": "c"}),
                TextDelta("d", [LOGPROB]),
                AnnotationDelta(NOTE),
                RefusalDelta("e"),
                CallStart(0, "call_0", "f"),
                CallStart(1, "call_1", "g"),
                CallDelta(1, "{}"),
                CallDelta(0, "{}"),
            ],
            cuts=[True, False],
            finish=Finish(reason="tool_calls"),
        ),
    ],
)
ENDINGS = [
    Attempt(finish=Finish(reason="length"), said=[TextDelta("cut")]),
    Attempt(outside=["cancel"], said=[TextDelta("cut")]),
    Attempt(ending="fatal"),
]
WHOLE = [EVERYTHING, *[TurnPlan(attempts=[attempt]) for attempt in ENDINGS]]


@functools.cache
def described(path: Path) -> Json:
    return msgspec.json.decode(path.read_bytes())["components"]


@functools.cache
def validator(path: Path, name: str) -> Any:
    schema = {"$ref": f"#/components/schemas/{name}", "components": described(path)}
    return jsonschema.Draft202012Validator(schema)


@functools.cache
def schemas_by_type(path: Path) -> dict[str, str]:
    """The name of each stream event's schema, by the event's type."""
    out: dict[str, str] = {}
    for name, schema in described(path)["schemas"].items():
        properties = schema.get("properties", {})
        (kind,) = properties.get("type", {}).get("enum", [""])[:1] or [""]
        if "sequence_number" in properties and kind:
            out[kind] = name
    return out


def as_openai_says(value: Json) -> Json:
    """With the two things changed in which its own server, or ours, departs from its description."""
    response = value.get("response", value)
    if response.get("object") == "response":
        if response["usage"] is None:  # Optional and not nullable there; the server sends null, and so do we.
            del response["usage"]
        if response["error"] is not None:  # A closed list there; our codes are the same on every surface.
            response["error"]["code"] = "server_error"
    return value


def check(path: Path, name: str, value: Json) -> None:
    if path.name == OPENAI:
        value = as_openai_says(value)
    error = next(iter(validator(path, name).iter_errors(value)), None)
    assert error is None, f"{name}: {error.json_path}: {error.message[:300]}"


def played(plan: TurnPlan) -> tuple[list[e.Event], str]:
    driver = Driver()
    response_id = driver.play(plan)
    assert response_id is not None
    return driver.log, response_id


def test_every_event_type_of_open_responses_is_produced(shared: Path) -> None:
    known = set(schemas_by_type(shared / "spec" / OPEN_RESPONSES))
    assert len(known) == 24
    produced = {event["type"] for plan in WHOLE for event in stream(*played(plan))[0]}
    assert produced == known - MADE_BY_THE_API


@pytest.mark.parametrize("plan", WHOLE)
@pytest.mark.parametrize(("file", "dialect"), [(OPEN_RESPONSES, "open-responses"), (OPENAI, "openai")])
def test_each_event_is_as_its_dialect_describes_it(shared: Path, plan: TurnPlan, file: str, dialect: Dialect) -> None:
    path = shared / "spec" / file
    by_type = schemas_by_type(path)
    for pruned in (False, True):
        for event in stream(*played(plan), dialect=dialect, pruned=pruned)[0]:
            check(path, by_type[event["type"]], event)


@pytest.mark.parametrize("file", [OPEN_RESPONSES, OPENAI])
def test_the_response_is_as_its_dialect_describes_it(shared: Path, file: str) -> None:
    dialect: Dialect = "openai" if file == OPENAI else "open-responses"
    name = "Response" if file == OPENAI else "ResponseResource"
    full = dataclasses.replace(EVERYTHING, request=REQUEST)
    for plan in (full, *WHOLE):
        driver = Driver(kind="conversation")
        response_id = driver.play(plan)
        assert response_id is not None
        response = stream(driver.log, response_id, dialect=dialect)[1]
        check(shared / "spec" / file, name, msgspec.json.decode(msgspec.json.encode(response)))


@given(PLANS)
@settings(max_examples=EXAMPLES // 2, suppress_health_check=LOOK_UP)
def test_whatever_a_turn_does_its_stream_is_as_described(shared: Path, plan: TurnPlan) -> None:
    path = shared / "spec" / OPEN_RESPONSES
    by_type = schemas_by_type(path)
    for event in stream(*played(plan))[0]:
        check(path, by_type[event["type"]], event)


# -- the SDK --------------------------------------------------------------------------------------------------


def accumulate(events: list[Json]) -> Any:
    """Feed the accumulator as the SDK does; what it made of a completed response."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        read: Any = construct_type_unchecked(value=event, type_=SDK_EVENT)
        state.handle_event(read)
    return state._completed_response  # pyright: ignore[reportPrivateUsage] - what get_final_response() returns


@pytest.mark.parametrize("plan", WHOLE)
def test_the_sdk_accumulates_every_kind_of_event(plan: TurnPlan) -> None:
    log, response_id = played(plan)
    for pruned in (False, True):
        events, response = stream(log, response_id, dialect="openai", pruned=pruned)
        final = accumulate(events)
        if response.status == "completed":
            assert final.id == response_id
            assert [item.id for item in final.output] == [item.id for item in response.output]


@given(PLANS)
@settings(max_examples=EXAMPLES)
def test_the_sdk_accumulates_whatever_a_turn_does(plan: TurnPlan) -> None:
    log, response_id = played(plan)
    full, response = stream(log, response_id, dialect="openai")
    pruned, _ = stream(log, response_id, dialect="openai", pruned=True)
    for events in (full, pruned):
        final = accumulate(events)
        assert (final is not None) == (response.status == "completed")


@given(PLANS)
@settings(max_examples=EXAMPLES // 4)
def test_the_sdk_goes_on_from_every_cursor(plan: TurnPlan) -> None:
    log, response_id = played(plan)
    full, response = stream(log, response_id, dialect="openai")
    for at, last in enumerate(full[:-1]):
        # A call whose pieces came interleaved in one body leaves numbers out, so a place is no number.
        rest, _ = stream(log, response_id, dialect="openai", cursor=last["sequence_number"], pruned=True)
        final = accumulate([*full[: at + 1], *rest])
        assert (final is not None) == (response.status == "completed")
