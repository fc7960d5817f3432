"""The chain that is derived from a session's events, and what a check of an export finds."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.examples import EVERY_BODY

from stateline.core import audit
from stateline.core import events as e
from stateline.core.audit import Broken, NotAnExport, Verdict
from stateline.core.ids import SessionRef
from stateline.core.links import Anchor, Chain, End, Header, Record

GOLDEN = Path(__file__).parent / "golden" / "events-v1.jsonl"
REF = SessionRef("acme", "0123456789abcdefghjkmnpq")
FORK = SessionRef("acme", "0123456789abcdefghjkmnpr")
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
SALTS = {REF.id: b"s" * 32, FORK.id: b"f" * 32}
TURN = next(body for body in EVERY_BODY if type(body) is e.TurnRequested)
QUIET = (e.Chunk, e.Snapshot, e.KeyCreated)


def check(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def logged(bodies: Iterable[e.Body], ref: SessionRef = REF, after: int = 0) -> list[e.Event]:
    return [
        e.Event(session=ref, seq=seq, at_ms=1_750_000_000_000 + seq, body=body)
        for seq, body in enumerate(bodies, after + 1)
    ]


LOG = logged(EVERY_BODY)
RECORDS = audit.records_of(LOG, REF, SALTS)


def anchor(records: Sequence[Record], ref: SessionRef = REF) -> Anchor:
    return audit.anchored(ref, records, 5, PUBLIC, KEY.sign)


def chain(
    records: Sequence[Record], anchors: Sequence[Anchor], *, ref: SessionRef = REF, erased: bool = False
) -> list[bytes]:
    head = Chain(tenant=ref.tenant, session=ref.id, erased=erased)
    return list(audit.chain_lines(head, records, anchors))


def export(*chains: list[bytes]) -> list[bytes]:
    writer = audit.Writer([PUBLIC])
    out = writer.begin() + b"".join(writer.chain(each) for each in chains) + writer.end(6, KEY.sign)
    return out.splitlines(keepends=True)


def verify(lines: Iterable[bytes], trusted: Sequence[bytes] = (PUBLIC,)) -> Verdict:
    return audit.verify(lines, check, trusted)


def broken(lines: Iterable[bytes], trusted: Sequence[bytes] = (PUBLIC,)) -> Broken:
    found = verify(lines, trusted).broken
    assert found is not None
    return found


@cache
def whole() -> list[bytes]:
    return export(chain(RECORDS, [anchor(RECORDS[:7]), anchor(RECORDS)]))


# -- what is recorded ----------------------------------------------------------------------------------


def test_every_kind_of_record_is_there_and_most_events_give_none_or_one() -> None:
    assert {record.kind for record in RECORDS} == {
        *(
            "session",
            "deletion",
            "prompt",
            "placement",
            "answer",
            "cost",
            "tools",
            "policy",
            "approval",
            "effect",
            "end",
        )
    }
    assert all(audit.contents_of(body) == [] for body in EVERY_BODY if type(body) in QUIET)
    turn = msgspec.structs.replace(TURN, answers=())
    assert [content.kind for content in audit.contents_of(turn)] == ["prompt"]


def test_a_content_is_the_same_whenever_it_is_derived() -> None:
    again = [msgspec.structs.replace(event, body=e.decode_body(e.encode_body(event.body))) for event in LOG]
    assert audit.records_of(again, REF, SALTS) == RECORDS


def test_form_1_stays_as_it_is() -> None:
    """Chains that were signed are checked against what is derived now: whoever changes a content makes a new form."""
    stored = GOLDEN.read_bytes().splitlines()[:50]
    first = audit.records_of(logged(map(e.decode_body, stored)), REF, SALTS)
    digest = hashlib.sha256(b"".join(record.link for record in first)).hexdigest()
    assert digest == "85f15e1c3451ad16eed3135889588f6dc002c516dca4c90a018130f91879c537"


def test_the_same_content_gives_other_leaves_in_another_place() -> None:
    two = audit.records_of(logged([e.SessionDeleted(), e.SessionDeleted()]), REF, SALTS)
    assert len({record.leaf for record in two} | {record.salt for record in two}) == 4


# -- what holds ----------------------------------------------------------------------------------------


def test_an_export_holds_and_is_counted() -> None:
    assert verify(whole()) == Verdict(1, len(RECORDS), 0, 2, (PUBLIC,), None)
    assert verify(whole(), ()).broken is None
    assert verify(export()).broken is None
    empty = verify(export(chain([], [anchor([])])))
    assert (empty.broken, empty.chains, empty.records) == (None, 1, 0)


def test_it_holds_after_content_and_salts_are_gone() -> None:
    kept = [audit.kept_of(record) for record in RECORDS]
    lines = export(chain(kept, [anchor(RECORDS)], erased=True))
    assert verify(lines) == Verdict(1, len(RECORDS), 1, 1, (PUBLIC,), None)
    assert b"content" not in b"".join(lines)
    assert not any(
        record.salt and msgspec.json.encode(record.salt)[1:-1] in line for line in lines for record in RECORDS
    )


def test_a_fork_has_its_parents_records_in_a_chain_of_its_own() -> None:
    log = [*LOG[:9], *logged(EVERY_BODY[9:], FORK, 9)]
    records = audit.records_of(log, FORK, SALTS)
    assert [record.leaf for record in records[:8]] == [record.leaf for record in RECORDS[:8]]
    assert {record.link for record in records}.isdisjoint(record.link for record in RECORDS)
    lines = export(chain(RECORDS, [anchor(RECORDS)]), chain(records, [anchor(records, FORK)], ref=FORK))
    assert verify(lines).broken is None
    assert "not follow" in broken(export(chain(records, [anchor(records)]))).what


# -- what does not hold --------------------------------------------------------------------------------


def found_at(bit: int) -> None:
    """The change is found at the line that it is in, and named with its record."""
    lines, at, line = whole(), bit // 8, 0
    while at >= len(lines[line]):
        at, line = at - len(lines[line]), line + 1
    raw = bytearray(b"".join(lines))
    raw[bit // 8] ^= 1 << bit % 8
    changed = bytes(raw).split(b"\n")
    try:
        named = broken([each + b"\n" for each in changed[:-1]] + ([changed[-1]] if changed[-1] else []))
    except NotAnExport:
        assert line == 0
        return
    # What a chain is of goes into its first link, so a change of that is found there.
    assert named.line in ((2, 3) if line == 1 else (line + 1,)), named
    record = msgspec.json.decode(lines[line])
    if record["type"] == "record" and named.kind:
        assert (named.session, named.tenant) == REF[::-1]


def test_each_of_a_thousand_random_bits_is_found() -> None:
    size = len(b"".join(whole())) * 8
    chosen = random.Random(20261126).sample(range(size), 1000)
    for bit in chosen:
        found_at(bit)


@given(st.data())
def test_any_single_bit_is_found(data: st.DataObject) -> None:
    found_at(data.draw(st.integers(0, len(b"".join(whole())) * 8 - 1)))


def test_a_changed_content_salt_or_number_is_named_with_its_record() -> None:
    number = 4
    was = RECORDS[number]
    for change, what in (
        ({"content": "{}"}, "digested"),
        ({"salt": b"x" * 32}, "digested"),
        ({"at_ms": 1}, "not follow"),
        ({"seq": 1}, "not follow"),
        ({"kind": "end"}, "not follow"),
        ({"link": b"x" * 32}, "not follow"),
        ({"content": None}, "missing"),
        ({"content": None, "salt": None}, "missing"),
    ):
        records = list(RECORDS)
        records[number] = now = msgspec.structs.replace(was, **change)
        named = broken(export(chain(records, [anchor(RECORDS)])))
        assert what in named.what
        assert named[:5] == (3 + number, *REF, now.seq, now.kind)


def test_an_erased_chain_shows_no_content_and_no_salt() -> None:
    for half in ({"content": None}, {"salt": None}):
        records = [audit.kept_of(record) for record in RECORDS]
        records[3] = msgspec.structs.replace(RECORDS[3], **half)
        assert "missing" in broken(export(chain(records, [anchor(RECORDS)], erased=True))).what


def test_records_that_are_left_out_added_or_moved_are_found() -> None:
    lines = whole()
    for changed in (
        lines[:5] + lines[6:],
        [*lines[:5], lines[6], lines[5], *lines[7:]],
        [*lines[:5], lines[5], *lines[5:]],
    ):
        assert "not follow" in broken(changed).what
    assert "no anchor" in broken(export(chain(RECORDS, [anchor(RECORDS[:-1])]))).what
    assert "over" in broken(export(chain(RECORDS[:-1], [anchor(RECORDS)]))).what
    assert "no anchor" in broken([line for line in lines if b'"anchor"' not in line]).what


def test_a_chain_that_was_made_anew_is_not_what_was_signed() -> None:
    forged = audit.records_of(logged([*EVERY_BODY[:-1], e.SessionDeleted()]), REF, SALTS)
    forged = forged[: len(RECORDS)]
    other = audit.records_of(logged([e.SessionDeleted(), *EVERY_BODY[1:]]), REF, SALTS)
    assert "not those that were signed" in broken(export(chain(other, [anchor(RECORDS[:3]), anchor(other)]))).what
    by_other = audit.anchored(REF, forged, 5, OTHER.public_key().public_bytes_raw(), OTHER.sign)
    assert "not trusted" in broken(export(chain(forged, [by_other]))).what
    unsigned = msgspec.structs.replace(anchor(RECORDS), signature=b"x" * 64)
    assert "signature" in broken(export(chain(RECORDS, [unsigned]))).what


def test_an_export_that_is_cut_off_is_found_at_an_anchor_too() -> None:
    lines = whole()
    assert "end is missing" in broken(lines[:-1]).what
    assert "end is missing" in broken(lines[:10]).what
    assert "cut off" in broken([*lines[:4], lines[4][:-1]]).what
    one, two = chain(RECORDS, [anchor(RECORDS)]), chain([], [anchor([], FORK)], ref=FORK)
    both = export(one, two)
    assert "not what is here" in broken([*both[:-3], both[-1]]).what
    swapped = [both[0], *both[-3:-1], *both[1:-3], both[-1]]
    assert "not those that were exported" in broken(swapped).what


def test_lines_out_of_place_are_found() -> None:
    lines, one = whole(), chain(RECORDS, [anchor(RECORDS)])
    assert "twice" in broken(export(one, one)).what
    assert "after the end" in broken([*lines, lines[1]]).what
    assert "second header" in broken([lines[0], *lines]).what
    assert "a record of no chain" in broken([lines[0], lines[2]]).what
    assert "an anchor of no chain" in broken([lines[0], msgspec.json.encode(anchor([])) + b"\n"]).what
    assert "not one of an export" in broken([lines[0], b'{"type":"other"}\n']).what
    assert "not one of an export" in broken([lines[0], b"\xff\n"]).what
    assert "as it was made" in broken([lines[0].replace(b",", b", ", 1), *lines[1:]]).what
    spaced = broken([*lines[:2], lines[2].replace(b",", b", ", 1), *lines[3:]])
    assert ("as it was made" in spaced.what, spaced.seq) == (True, RECORDS[0].seq)


def test_a_header_with_a_key_that_is_not_trusted_is_found() -> None:
    named = broken(whole(), (OTHER.public_key().public_bytes_raw(),))
    assert (named.line, "not trusted" in named.what) == (1, True)


def test_an_end_that_somebody_else_signed_is_found() -> None:
    lines = whole()
    end = msgspec.json.decode(lines[-1], type=End)
    forged = msgspec.structs.replace(end, chains=2)
    assert "signature" in broken([*lines[:-1], msgspec.json.encode(forged) + b"\n"]).what


@pytest.mark.parametrize(
    "lines",
    [[], [b"\n"], [b"{}\n"], [b"\xff\n"], [msgspec.json.encode(Header(form=2, keys=())) + b"\n"], whole()[1:]],
    ids=["empty", "blank", "object", "bytes", "form", "headless"],
)
def test_what_is_no_export_is_said_to_be_none(lines: list[bytes]) -> None:
    with pytest.raises(NotAnExport):
        verify(lines)
