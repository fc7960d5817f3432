"""Events that are known by what stands around their text are read as if each were read alone."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.models.formats.alike import Alike

_NASTY = st.lists(
    st.sampled_from([b'"', b"\\", b",", b'","', b'\\"', b"a", b"\\n", b"\\u00e9", "é".encode(), b"\x00", b"\xff", b""]),
    max_size=6,
).map(b"".join)


def event(inside: bytes) -> bytes:
    return b'{"type":"x","text":"' + inside + b'","index":0}'


def learned(text: str = "hello") -> Alike:
    alike = Alike(b'"text":')
    alike.learn(event(text.encode()), text)
    assert alike.known
    return alike


def read(data: bytes) -> str | None:
    """The text of one event by itself; None where it is no event like these."""
    try:
        found = msgspec.json.decode(data, type=dict[str, str | int])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return str(found["text"]) if found.keys() == {"type", "text", "index"} else None


@given(st.lists(_NASTY, max_size=6))
def test_what_is_taken_together_is_what_each_event_says(insides: Sequence[bytes]) -> None:
    events = [event(inside) for inside in insides]
    count, text = learned().take(events, 0)
    alone = [read(each) for each in events[:count]]
    assert None not in alone
    assert text == "".join(each or "" for each in alone)


@given(st.lists(st.text(), min_size=1), st.integers(0, 3))
def test_any_texts_are_taken_up_to_the_first_that_ends_in_a_backslash(texts: list[str], skipped: int) -> None:
    events = [event(json.dumps(text)[1:-1].encode()) for text in texts]
    plain = [text.endswith("\\") for text in texts]
    until = plain.index(True) if True in plain else len(texts)
    at = min(skipped, until)
    assert learned().take(events, at) == (until - at, "".join(texts[at:until]))


def test_another_event_ends_what_is_taken() -> None:
    events = [event(b"a"), event(b"b"), b'{"type":"x","text":"c","index":1}', event(b"d")]
    assert learned().take(events, 0) == (2, "ab")
    assert learned().take(events, 2) == (0, "")


def test_what_stands_around_the_text_may_not_overlap() -> None:
    alike = Alike(b'"t":')
    alike.learn(b'{"t":"aa"}', "aa")
    assert alike.take([b'{"t":"}', b'{"t":""}'], 0) == (0, "")
    assert alike.take([b'{"t":""}'], 0) == (1, "")


def test_a_space_after_the_colon_is_no_hindrance() -> None:
    alike = Alike(b'"text":')
    alike.learn(b'{"text": "a", "n": 1}', "a")
    assert alike.take([b'{"text": "b", "n": 1}'], 0) == (1, "b")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"text":"a","more":{"text":"a"}}', "a"),  # Which of them is it?
        (b'{"text":"\\u0061"}', "a"),  # Not as we would write it.
        (b'{"content":"a"}', "a"),
    ],
)
def test_an_event_that_leaves_a_doubt_teaches_nothing(data: bytes, text: str) -> None:
    alike = Alike(b'"text":')
    for _ in range(10):
        alike.learn(data, text)
    assert not alike.known
    alike.learn(event(b"a"), "a")
    assert not alike.known  # It has been tried often enough.


def test_what_was_learned_can_be_forgotten_and_learned_again() -> None:
    alike = learned()
    alike.forget()
    assert not alike.known
    alike.learn(event(b"a"), "a")
    assert alike.known
