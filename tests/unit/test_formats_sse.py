"""Cutting a byte stream into events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.errors import ModelError
from stateline.models.formats import sse
from stateline.models.formats.sse import EventSplitter

_TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1, max_size=20)
_DATA = _TEXT.map(lambda text: text.strip().encode()).filter(bool)


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(at)]


@given(
    events=st.lists(_DATA, max_size=6),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    prefix=st.sampled_from([b"data: ", b"data:", b"event: x%sdata: ", b": ping%s%sdata: "]),
    ended=st.booleans(),
)
def test_events_come_out_whole_whatever_the_pieces(
    events: list[bytes], cuts: list[int], newline: bytes, prefix: bytes, ended: bool
) -> None:
    head = prefix.replace(b"%s", newline)
    stream = b"".join(head + event + newline * 2 for event in events)
    if not ended:
        stream = stream.removesuffix(newline * 2)
    splitter = EventSplitter()
    out = [event for piece in _pieces(stream, cuts) for event in splitter.feed(piece)]
    assert out + splitter.eof() == events


_LINES = st.sampled_from(
    [b"data: a", b"data: ", b"data:b", b"data", b"database", b"event: e", b"id: data: c", b": note", b"xdata: d", b""]
)


_EVENTS = st.sampled_from(
    [b"event: e\ndata: a\n", b"data: b\n", b"data: b\r\n\r", b"data: \n", b"event: e\r\ndata: a\r\n\r"]
)


@given(st.lists(_EVENTS, max_size=4) | st.lists(_EVENTS | _LINES, max_size=12))
def test_what_comes_in_one_read_is_cut_as_what_comes_byte_by_byte(lines: list[bytes]) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    at_once, by_byte = EventSplitter(), EventSplitter()
    slowly = [event for byte in stream for event in by_byte.feed(bytes([byte]))]
    assert at_once.feed(stream) + at_once.eof() == slowly + by_byte.eof()


def test_the_data_lines_of_one_event_are_joined() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: {\ndata: }\n\n") == [b"{\n}"]


def test_comments_names_ids_and_empty_events_say_nothing() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b": hello\n\nevent: x\nid: 3\nretry: 9\n\n\n\n") == []
    assert splitter.eof() == []


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: " + b"x" * 40],
        [b"data: ", b"x" * 20, b"x" * 20],
        [b"data: xxxx\n"] * 8,
        [b"data: xxxx\n" * 9],
    ],
)
def test_an_event_without_end_is_refused_at_the_bound(pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "ANSWER_EVENT_BYTES_MAX", 30)
    splitter = EventSplitter()
    for piece in pieces[:-1]:
        splitter.feed(piece)
    with pytest.raises(ModelError) as caught:
        splitter.feed(pieces[-1])
    assert caught.value.code == "malformed_stream"
    assert not caught.value.retryable


def test_the_bound_is_for_one_event_not_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "ANSWER_EVENT_BYTES_MAX", 30)
    splitter = EventSplitter()
    for _ in range(10):
        assert splitter.feed(b"data: 0123456789\n\n") == [b"0123456789"]
        assert splitter.feed(b"data: 01234") == []
        assert splitter.feed(b"56789\n\n") == [b"0123456789"]
