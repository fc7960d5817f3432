"""Cutting a JSON array that comes in pieces into its objects."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.errors import ModelError
from stateline.models.formats import json_stream
from stateline.models.formats.json_stream import ArraySplitter

_TEXT = st.text(max_size=8) | st.sampled_from(['"', "\\", '\\"', "{", "}", "]", ",", 'a\\\\"}', "[{"])
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | _TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner)
)
_OBJECTS = st.dictionaries(_TEXT, _VALUES, max_size=3)


def _read(pieces: list[bytes]) -> list[Any]:
    splitter = ArraySplitter()
    out = [json.loads(each) for piece in pieces for each in splitter.feed(piece)]
    assert splitter.eof() == []
    return out


@given(
    objects=st.lists(_OBJECTS, max_size=4),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_objects_come_out_whole_whatever_the_pieces(
    objects: list[Any], cuts: list[int], indent: int | None, ascii_only: bool, newline: str
) -> None:
    text = json.dumps(objects, indent=indent, ensure_ascii=ascii_only) + newline
    body = text.replace("\n", newline).encode("utf-8", "surrogatepass")
    at = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    assert _read([body[begin:end] for begin, end in itertools.pairwise(at)]) == objects
    assert _read([body[byte : byte + 1] for byte in range(len(body))]) == objects


@given(only=_OBJECTS, cut=st.integers(0, 10_000))
def test_an_object_that_stands_alone_is_a_stream_of_one_event(only: Any, cut: int) -> None:
    body = json.dumps(only).encode() + b"\n"
    at = cut % (len(body) + 1)
    assert _read([body[:at], body[at:]]) == [only]


def test_an_object_is_given_with_its_last_brace() -> None:
    splitter = ArraySplitter()
    assert splitter.feed(b'[{"a": {"b": 1}') == []
    assert splitter.feed(b"}") == [b'{"a": {"b": 1}}']
    assert splitter.feed(b',\r\n{"c": "}\\"') == []
    assert splitter.feed(b'"}]') == [b'{"c": "}\\""}']


@pytest.mark.parametrize("body", [b"", b" ", b"[", b"[{}", b"[{},", b'[{"a": "}]', b'{"a"', b'[{"a": "\\'])
def test_an_array_without_its_end_is_cut(body: bytes) -> None:
    splitter = ArraySplitter()
    splitter.feed(body)
    with pytest.raises(ModelError) as caught:
        splitter.eof()
    assert (caught.value.code, caught.value.retryable) == ("answer_cut", True)


@pytest.mark.parametrize("body", [b"x", b"[1]", b"[{}{}]", b"[,{}]", b"[{},]", b"[]]", b"{},{}", b"[[{}]]", b"]", b"}"])
def test_what_is_no_array_of_objects_is_malformed(body: bytes) -> None:
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        splitter = ArraySplitter()
        with pytest.raises(ModelError) as caught:
            [splitter.feed(piece) for piece in pieces]
        assert caught.value.code == "malformed_stream"


def test_an_object_past_the_bound_is_refused_in_whatever_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "ANSWER_EVENT_BYTES_MAX", 20)
    splitter = ArraySplitter()
    splitter.feed(b'[{"a": "0123')
    assert len(splitter.feed(b'4567"}')) == 1
    # What came before it is not added up.
    splitter.feed(b',{"a": "0123')
    splitter.feed(b"456789")
    with pytest.raises(ModelError, match="more than 20 bytes") as caught:
        splitter.feed(b"456789")
    assert (caught.value.code, caught.value.retryable) == ("malformed_stream", False)
