"""Amazon's event streams, against botocore's own reader, whole and in pieces, sound and spoilt."""

from __future__ import annotations

import importlib
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.errors import ModelError
from stateline.core.limits import ANSWER_EVENT_BYTES_MAX, EVENT_HEADERS_KEPT_MAX, EVENT_PRELUDES_KEPT_MAX
from stateline.models.formats.aws_eventstream import Headers, MessageSplitter, headers_of, prelude_of
from stateline.testing.converse import event, exception, message

BUFFER: Any = importlib.import_module("botocore.eventstream").EventStreamBuffer
UUID = 9


def packed(name: str, kind: int, value: Any) -> bytes:
    """One header, as the specification lays it out."""
    formats = {2: ">b", 3: ">h", 4: ">i", 5: ">q", 8: ">q"}
    if kind in formats:
        body = struct.pack(formats[kind], value)
    elif kind in (6, 7):
        raw = value.encode() if kind == 7 else value
        body = struct.pack(">H", len(raw)) + raw
    else:
        body = value if kind == UUID else b""
    return struct.pack(">B", len(name.encode())) + name.encode() + bytes([kind]) + body


def wrapped(headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    return prelude + headers + payload + struct.pack(">I", zlib.crc32(prelude + headers + payload))


VALUES: st.SearchStrategy[tuple[int, Any]] = st.one_of(
    st.tuples(st.sampled_from([0, 1]), st.none()),
    st.tuples(st.just(2), st.integers(-(2**7), 2**7 - 1)),
    st.tuples(st.just(3), st.integers(-(2**15), 2**15 - 1)),
    st.tuples(st.just(4), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.sampled_from([5, 8]), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just(6), st.binary(max_size=40)),
    st.tuples(st.just(7), st.text(st.characters(codec="utf-8"), max_size=20)),
    st.tuples(st.just(UUID), st.binary(min_size=16, max_size=16)),
)
HEADERS = st.dictionaries(st.text("abcdefghij-:é", min_size=1, max_size=12), VALUES, max_size=6)


def _message(headers: dict[str, tuple[int, Any]], payload: bytes) -> bytes:
    return wrapped(b"".join(packed(name, *value) for name, value in headers.items()), payload)


MESSAGES = st.builds(_message, HEADERS, st.binary(max_size=80))
STREAMS = st.lists(MESSAGES, min_size=1, max_size=4).map(b"".join)


def theirs(data: bytes) -> list[tuple[dict[str, Any], bytes]]:
    buffer = BUFFER()
    buffer.add_data(data)
    return [(each.headers, each.payload) for each in buffer]


@given(STREAMS)
def test_what_botocore_reads_is_read_the_same(data: bytes) -> None:
    splitter = MessageSplitter()
    assert [(dict(headers.values), payload) for headers, payload in splitter.feed(data)] == theirs(data)
    assert not splitter.partial


@given(STREAMS)
def test_where_the_bytes_are_cut_makes_no_difference(data: bytes) -> None:
    whole = MessageSplitter().feed(data)
    bytewise = MessageSplitter()
    assert [each for at in range(len(data)) for each in bytewise.feed(data[at : at + 1])] == whole
    for at in range(len(data) + 1):
        cut = MessageSplitter()
        assert cut.feed(data[:at]) + cut.feed(data[at:]) == whole
        assert not cut.partial


@given(MESSAGES, st.data())
def test_a_flipped_bit_is_never_read_as_a_message(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    spoilt = bytearray(data)
    spoilt[at] ^= 1 << draw.draw(st.integers(0, 7))
    splitter = MessageSplitter()
    with pytest.raises(ModelError) as caught:
        splitter.feed(bytes(spoilt))
    assert caught.value.code == "malformed_stream"
    assert caught.value.retryable


def test_the_kind_and_name_of_a_message_are_read_from_its_headers() -> None:
    failed = message({":message-type": "error", ":error-code": "Broken", ":error-message": "words"}, b"")
    read = MessageSplitter().feed(event("metadata", {"a": 1}) + exception("throttlingException", "slow") + failed)
    assert [(headers.kind, headers.name, payload) for headers, payload in read] == [
        ("event", "metadata", b'{"a":1}'),
        ("exception", "throttlingException", b'{"message":"slow"}'),
        ("error", "Broken", b""),
    ]
    assert read[2][0].values[":error-message"] == "words"
    assert MessageSplitter().feed(wrapped(b"", b"x")) == [(Headers("event", "", {}), b"x")]


@pytest.mark.parametrize(
    "data",
    [
        b"<html>this is no event stream</html>",
        wrapped(packed("a", 7, "b")[:-1], b""),
        wrapped(b"\x05a", b""),
        wrapped(packed("a", 4, 1)[:-2], b""),
        wrapped(b"\x01a\x0a", b""),
        wrapped(packed("a", 7, "b") * 2, b""),
        wrapped(b"\x01\xff\x00", b""),
    ],
    ids=["html", "cut text", "cut name", "cut number", "unknown type", "twice", "no utf-8"],
)
def test_what_is_no_message_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        MessageSplitter().feed(data)
    assert caught.value.code == "malformed_stream"


def test_headers_are_remembered_up_to_the_bound_and_read_beyond_it() -> None:
    splitter = MessageSplitter()
    for at in range(EVENT_HEADERS_KEPT_MAX + 10):
        ((headers, _),) = splitter.feed(event(f"event-{at}", {}))
        assert headers.name == f"event-{at}"
    assert headers_of.cache_info().currsize == EVENT_HEADERS_KEPT_MAX
    ((headers, _),) = splitter.feed(event("event-1", {}))
    assert headers.name == "event-1"


def test_preludes_are_remembered_up_to_the_bound_and_read_beyond_it() -> None:
    splitter = MessageSplitter()
    for length in (*range(EVENT_PRELUDES_KEPT_MAX + 10), 0):
        assert splitter.feed(wrapped(b"", b"x" * length)) == [(Headers("event", "", {}), b"x" * length)]
    assert prelude_of.cache_info().currsize == EVENT_PRELUDES_KEPT_MAX


def test_a_message_larger_than_the_bound_is_refused_by_its_prelude_alone() -> None:
    for length, headers in ((ANSWER_EVENT_BYTES_MAX + 1, 0), (15, 0), (20, 5)):
        prelude = struct.pack(">II", length, headers)
        with pytest.raises(ModelError) as caught:
            MessageSplitter().feed(prelude + struct.pack(">I", zlib.crc32(prelude)))
        assert caught.value.code == "malformed_stream"
    prelude = struct.pack(">II", ANSWER_EVENT_BYTES_MAX, 0)
    assert MessageSplitter().feed(prelude + struct.pack(">I", zlib.crc32(prelude))) == []
