"""Stored bodies: what was ever written is read for ever, and nothing else is."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.examples import EVERY_BODY

from stateline.core import events as e

GOLDEN = Path(__file__).parent / "golden" / "events-v1.jsonl"
TAGS = {str(kind.__struct_config__.tag) for kind in typing.get_args(e.Body)}


@pytest.mark.parametrize("body", EVERY_BODY, ids=lambda body: type(body).__name__)
def test_every_body_is_read_as_it_was_written(body: e.Body) -> None:
    raw = e.encode_body(body)
    again = e.decode_body(raw)
    assert type(again) is type(body)
    assert e.encode_body(again) == raw
    if not isinstance(body, e.Snapshot):  # Raw bytes have no equality of their own.
        assert again == body


def test_every_kind_of_event_has_an_example_and_a_versioned_tag() -> None:
    assert {type(body) for body in EVERY_BODY} == set(typing.get_args(e.Body))
    assert all(tag.rpartition("/")[2].isdigit() for tag in TAGS)


# -- what lies on disks already -----------------------------------------------------------------------
# These lines are never edited and never removed: they are what released versions wrote. A new kind or
# version of an event adds lines.


def golden() -> list[bytes]:
    return GOLDEN.read_bytes().splitlines()


@pytest.mark.parametrize("line", golden(), ids=lambda line: msgspec.json.decode(line)["type"])
def test_a_stored_body_is_read_by_this_release(line: bytes) -> None:
    body = e.decode_body(line)
    stored = msgspec.json.decode(line)
    if stored["type"] in TAGS:
        # Nothing of it may be dropped in silence; what it says is what is read.
        assert msgspec.json.decode(e.encode_body(body)) == stored


def test_the_golden_file_has_every_kind_of_event_as_it_is_written_now() -> None:
    lines = golden()
    missing = [raw.decode() for body in EVERY_BODY if (raw := e.encode_body(body)) not in lines]
    assert missing == [], "add these lines to the golden file; never edit those that are there"


# -- versions ------------------------------------------------------------------------------------------------


def _steps_to_limit(old: dict[str, Any]) -> dict[str, Any]:
    return {"type": "deadline_passed/0.5", "turn": old["number"]}


def _to_current(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "type": "deadline_passed/1"}


CHAIN: dict[str, e.Upcast] = {"deadline_passed/0": _steps_to_limit, "deadline_passed/0.5": _to_current}


def test_an_old_body_is_carried_up_version_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert e.upcast({"type": "deadline_passed/0", "number": 3}, CHAIN) == e.DeadlinePassed(turn=3)
    for tag, step in CHAIN.items():
        monkeypatch.setitem(e.UPCASTS, tag, step)
    assert e.decode_body(b'{"type":"deadline_passed/0","number":3}') == e.DeadlinePassed(turn=3)
    assert e.decode_body(b'{"type":"deadline_passed/0.5","turn":4}') == e.DeadlinePassed(turn=4)


def test_an_old_snapshot_is_carried_up_with_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(e.UPCASTS, "snapshot/0", lambda old: {**old, "type": "snapshot/1"})
    body = e.decode_body(b'{"type":"snapshot/0","fold":1,"state":{"kind":"chain","created_at_ms":1}}')
    assert isinstance(body, e.Snapshot)
    assert msgspec.json.decode(body.state) == {"kind": "chain", "created_at_ms": 1}


def test_a_chain_that_leads_nowhere_or_in_a_circle_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(e.UPCASTS, "a/0", lambda old: {**old, "type": "b/0"})
    monkeypatch.setitem(e.UPCASTS, "b/0", lambda old: {**old, "type": "a/0"})
    monkeypatch.setitem(e.UPCASTS, "c/0", lambda old: {**old, "type": "gone/0"})
    for tag in ("a/0", "c/0"):
        with pytest.raises(msgspec.ValidationError):
            e.decode_body(b'{"type":"%s"}' % tag.encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"type":"turn_completed/2","response_id":"r"}',
        b'{"type":"turn_completed/1"}',
        b'{"type":"turn_completed/1","response_id":7}',
        b'{"type":"turn_completed","response_id":"r"}',
        b'{"type":["turn_completed/1"]}',
        b'{"type":null}',
        b"{}",
        b"[]",
        b'"turn_completed/1"',
        b"{",
        b"",
        b"\xff",
    ],
)
def test_what_no_version_wrote_is_refused(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        e.decode_body(raw)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_decode_error(raw: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        e.decode_body(raw)


def test_text_of_every_plane_is_kept() -> None:
    text = "a\u0000\u00e9\u2028\ud7ff\ufffd\U0001f600\U0010ffff"
    body = e.ItemDeleted(item_id=text)
    assert e.decode_body(e.encode_body(body)) == body
