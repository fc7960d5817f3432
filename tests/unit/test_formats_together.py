"""Events that are decoded at once say what each says alone, and a broken one hides nothing that came before it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.models.formats.together import BROKEN, decoded


class Event(msgspec.Struct):
    text: str
    index: int = 0


ONE = msgspec.json.Decoder(Event).decode
MANY = msgspec.json.Decoder(list[Event]).decode

_SOUND = st.builds(Event, st.text(st.characters(codec="utf-8")), st.integers(0, 9)).map(msgspec.json.encode)
_BROKEN = st.sampled_from([b"", b"{", b'{"text":1}', b"[]", b'{"text":"\xff"}', b'{"text":"a"', b'"a"', b"[DONE]"])


def alone(events: list[bytes]) -> tuple[list[Event], bool]:
    """The events up to the first that cannot be read, and whether there is one."""
    out: list[Event] = []
    for each in events:
        try:
            out.append(ONE(each))
        except BROKEN:
            return out, True
    return out, False


def together(events: list[bytes]) -> tuple[list[Event], bool]:
    out: list[Event] = []
    try:
        for each in decoded(events, MANY, ONE):
            out.append(each)
    except BROKEN:
        return out, True
    return out, False


@given(st.lists(_SOUND, max_size=8))
def test_sound_events_are_read_in_one_call(events: list[bytes]) -> None:
    def never(_: bytes) -> Event:
        raise AssertionError

    assert list(decoded(events, MANY, never)) == [ONE(each) for each in events]


@given(st.lists(_SOUND | _BROKEN, max_size=8))
def test_a_broken_event_is_an_error_where_it_stands(events: list[bytes]) -> None:
    assert together(events) == alone(events)


@pytest.mark.parametrize(
    "events",
    [
        [b'{"text":"a"},{"text":"b"}'],
        [b'{"text":"a","more":[1', b"2]}"],
        [b'{"text":"a"}', b'{"text":"b"},{"text":"c"}'],
    ],
)
def test_events_that_are_objects_only_together_are_broken(events: list[bytes]) -> None:
    assert together(events) == alone(events)
    assert together(events)[1]


def test_what_stands_behind_the_event_that_is_asked_for_last_is_not_read() -> None:
    found = iter(decoded([b'{"text":"a"}', b"[DONE]"], MANY, ONE))
    assert next(found) == Event("a")
