"""Chains of sessions in a real store: signed, kept through an erasure, and checked."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from tests.ops.histories import DAY_MS, Writing, on_disk
from tests.unit.core.examples import EVERY_BODY

from stateline.core import audit
from stateline.core import events as e
from stateline.core.audit import Verdict, Writer
from stateline.core.errors import BadRequest, NotFound, StoreUnavailable
from stateline.core.ids import SessionRef
from stateline.core.limits import AUDIT_ANCHORS_WAITING_MAX, AUDIT_SEGMENT_RECORDS_MAX, Retention
from stateline.core.links import Anchor, Record
from stateline.identity.audit import Auditor, apart, audit_keys, check_signature, public_keys
from stateline.identity.raw_keys import new_key
from stateline.ops.anchoring import Anchoring, Signer
from stateline.ports import SessionMissing
from stateline.stores.sqlite import SqliteStore, open_sqlite
from stateline.testing import ManualClock
from stateline.testing.store_rig import START_MS

KEYS = audit_keys(new_key(lambda count: b"k" * count))
SAID = "a sentence that must not outlive its session"
NOW = Retention(chunks_s=1, deleted_s=0, snapshots_s=0)


@pytest_asyncio.fixture
async def clock() -> ManualClock:
    return ManualClock(START_MS + 100 * DAY_MS)


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncGenerator[SqliteStore]:
    opened = await open_sqlite(tmp_path / "a.db", clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def writing(store: SqliteStore) -> Writing:
    return Writing(store)


@pytest.fixture
def auditor(store: SqliteStore, clock: ManualClock) -> Auditor:
    return Auditor(store, clock, os.urandom, KEYS)


def checked(*chains: list[str]) -> Verdict:
    writer = Writer([each.public for each in KEYS])
    out = writer.begin()
    for chain in chains:
        out += writer.chain(line.encode() for line in chain)
    out += writer.end(1, KEYS[0].sign)
    return audit.verify(out.splitlines(keepends=True), check_signature, [KEYS[0].public])


def records(chain: list[str]) -> list[Record]:
    return [msgspec.json.decode(line, type=Record) for line in chain if line.startswith('{"type":"record"')]


def anchors(chain: list[str]) -> list[Anchor]:
    return [msgspec.json.decode(line, type=Anchor) for line in chain if line.startswith('{"type":"anchor"')]


def reword(database: Path) -> None:
    """Change what was SAID, behind the back of the store."""
    with closing(sqlite3.connect(database)) as db:
        words = "CAST(replace(CAST(body AS TEXT), 'sentence', 'sentense') AS BLOB)"
        changed = db.execute(f"UPDATE events SET body = {words} WHERE instr(body, CAST('sentence' AS BLOB))").rowcount
        db.commit()
    assert changed


async def delete(writing: Writing, ref: SessionRef) -> None:
    await writing.append(ref, START_MS, e.SessionDeleted())


async def test_a_chain_holds_and_is_anchored_once_as_long_as_nothing_happens(
    writing: Writing, auditor: Auditor
) -> None:
    ref = await writing.create("one")
    await writing.turn(ref, START_MS, SAID)
    first = await auditor.chain(*ref)
    assert [each.kind for each in records(first)] == ["session", "prompt", "end"]
    assert checked(first)[:5] == (1, 3, 0, 1, (KEYS[0].public,))
    assert await auditor.chain(*ref) == first
    await delete(writing, ref)
    second = await auditor.chain(*ref)
    assert [each.count for each in anchors(second)] == [3, 4]
    assert checked(second).broken is None


async def test_a_chain_holds_after_erasure_and_neither_content_nor_salt_is_left(
    store: SqliteStore, writing: Writing, auditor: Auditor, tmp_path: Path
) -> None:
    ref = await writing.create("one")
    await writing.turn(ref, START_MS, SAID)
    before = await auditor.chain(*ref)
    (salt,) = [
        b64encode(event.body.salt)
        async for event in store.read(apart("salt", ref))
        if isinstance(event.body, e.AuditSalted)
    ]
    assert salt in on_disk(tmp_path)
    await delete(writing, ref)
    pruned = await store.maintenance.prune(NOW, witness=auditor)
    assert pruned.erased == (ref,)
    with pytest.raises(SessionMissing):
        [event async for event in store.read(ref)]
    after = await auditor.chain(*ref)
    verdict = checked(after)
    assert (verdict.broken, verdict.erased, verdict.records) == (None, 1, 4)
    # What was exported before is the beginning of what is left.
    assert [each.link for each in records(after)][:3] == [each.link for each in records(before)]
    assert anchors(before)[0] in anchors(after)
    with pytest.raises(SessionMissing):
        [event async for event in store.read(apart("salt", ref))]
    await store.close()
    left = on_disk(tmp_path)
    assert SAID.encode() not in left
    assert salt not in left
    assert b64encode(records(after)[0].leaf) in left


async def test_a_change_in_the_database_after_a_signature_is_found(
    store: SqliteStore, writing: Writing, auditor: Auditor, clock: ManualClock, tmp_path: Path
) -> None:
    ref = await writing.create("one")
    await writing.turn(ref, START_MS, SAID)
    await auditor.chain(*ref)
    await store.close()
    reword(tmp_path / "a.db")
    again = await open_sqlite(tmp_path / "a.db", clock=clock)
    try:
        broken = checked(await Auditor(again, clock, os.urandom, KEYS).chain(*ref)).broken
    finally:
        await again.close()
    assert broken is not None
    assert (broken.session, "not those that were signed" in broken.what) == (ref.id, True)


async def test_a_fork_is_checked_with_its_parents_records(
    store: SqliteStore, writing: Writing, auditor: Auditor
) -> None:
    parent = await writing.create("parent")
    await writing.turn(parent, START_MS, SAID)
    fork = await writing.create("fork", parent)
    await writing.turn(fork, START_MS)
    mine, other = await auditor.chain(*fork), await auditor.chain(*parent)
    assert checked(mine, other).broken is None
    assert [each.leaf for each in records(mine)][:3] == [each.leaf for each in records(other)]
    await delete(writing, fork)
    await store.maintenance.prune(NOW, witness=auditor)
    assert checked(await auditor.chain(*fork), await auditor.chain(*parent))[:3] == (2, 10, 1)
    await delete(writing, parent)
    await store.maintenance.prune(NOW, witness=auditor)
    verdict = checked(await auditor.chain(*fork), await auditor.chain(*parent))
    assert (verdict.broken, verdict.erased) == (None, 2)


async def test_a_long_chain_is_kept_in_segments_each_signed(
    store: SqliteStore, writing: Writing, auditor: Auditor
) -> None:
    ref = await writing.create("long")
    created = e.SessionCreated(kind="conversation")
    await writing.append(ref, START_MS, created, *[e.ItemsAdded(items=())] * (AUDIT_SEGMENT_RECORDS_MAX - 1))
    await writing.append(ref, START_MS, e.ItemsAdded(items=()))
    await delete(writing, ref)
    await store.maintenance.prune(NOW, witness=auditor)
    chain = await auditor.chain(*ref)
    assert [each.count for each in anchors(chain)] == [AUDIT_SEGMENT_RECORDS_MAX, AUDIT_SEGMENT_RECORDS_MAX + 2]
    assert checked(chain).broken is None


async def test_an_erasure_that_was_cut_short_keeps_one_chain(
    store: SqliteStore, writing: Writing, auditor: Auditor, clock: ManualClock
) -> None:
    ref = await writing.create("one")
    await writing.turn(ref, START_MS)
    await delete(writing, ref)
    await auditor.keep([ref])
    # It lives on, and says more than when it was seen.
    await writing.append(ref, START_MS, e.ResponseDeleted(response_id="r"))
    assert checked(await auditor.chain(*ref)).broken is None
    await auditor.keep([ref, SessionRef("t", "gone")])
    await store.erase(ref)
    # The process died before the salt was destroyed: the next one's first walk does it.
    assert [event async for event in store.read(apart("salt", ref))]
    other = await writing.create("other")
    await writing.turn(other, START_MS)
    later = Auditor(store, clock, os.urandom, KEYS)
    await later.keep([other])
    with pytest.raises(SessionMissing):
        [event async for event in store.read(apart("salt", ref))]
    assert [event async for event in store.read(apart("salt", other))]
    verdict = checked(await later.chain(*ref))
    assert (verdict.broken, verdict.records, verdict.erased) == (None, 5, 1)


async def test_every_kind_of_event_goes_through_a_store_and_holds(writing: Writing, auditor: Auditor) -> None:
    ref = await writing.create("every")
    bodies = [body for body in EVERY_BODY if type(body) not in (e.SessionCreated, e.Snapshot, e.Chunk)]
    await writing.append(ref, START_MS, e.SessionCreated(kind="conversation"), *bodies)
    chain = await auditor.chain(*ref)
    assert checked(chain).broken is None
    assert {each.kind for each in records(chain)} >= {"prompt", "placement", "policy", "approval", "effect", "cost"}


async def test_sessions_that_are_not_there_have_no_chain(writing: Writing, auditor: Auditor) -> None:
    ref = await writing.create("one")
    await writing.turn(ref, START_MS)
    await auditor.chain(*ref)
    for missing in (SessionRef("t", "two"), SessionRef("other", "one"), apart("salt", ref), apart("chain", ref)):
        with pytest.raises(NotFound):
            await auditor.chain(*missing)


@pytest.mark.parametrize("text", ["", "x", "AAAA", "\n".join([new_key(os.urandom)] * 9)])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="key") as refused:
        audit_keys(text)
    assert refused.value.code == "audit_key_invalid"
    with pytest.raises(BadRequest):
        public_keys(text.split())


def test_a_signature_of_another_key_or_of_none_does_not_hold() -> None:
    other = audit_keys(new_key(os.urandom))[0]
    assert check_signature(KEYS[0].public, KEYS[0].sign(b"m"), b"m")
    assert not check_signature(other.public, KEYS[0].sign(b"m"), b"m")
    assert not check_signature(b"short", KEYS[0].sign(b"m"), b"m")


# -- while it grows ------------------------------------------------------------------------------------------


class Signing:
    """Signs with an auditor, if it is given one, and fails where it is told to."""

    def __init__(self, auditor: Auditor | None = None) -> None:
        self.signed: list[str] = []
        self.error: Exception | None = None
        self._auditor = auditor
        self._moved = asyncio.Condition()

    async def anchor(self, ref: SessionRef) -> bool:
        if self.error is not None:
            raise self.error
        gone_on = self._auditor is None or await self._auditor.anchor(ref)
        self.signed.append(ref.id)
        async with self._moved:
            self._moved.notify_all()
        return gone_on

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5), self._moved:
            await self._moved.wait_for(lambda: len(self.signed) >= count)


@asynccontextmanager
async def anchoring(signer: Signer, clock: ManualClock) -> AsyncGenerator[Anchoring]:
    one = Anchoring(signer, clock, 60.0)
    task = asyncio.create_task(one.keep())
    await asyncio.sleep(0.01)
    yield one
    task.cancel()


async def test_a_change_is_found_though_nobody_has_exported_before_it(
    store: SqliteStore, writing: Writing, auditor: Auditor, clock: ManualClock, tmp_path: Path
) -> None:
    ref = await writing.create("one")
    await writing.turn(ref, START_MS, SAID)
    signer = Signing(auditor)
    async with anchoring(signer, clock) as one:
        one.ended(ref)
        clock.advance(60)
        await signer.until(1)
    await store.close()
    reword(tmp_path / "a.db")
    again = await open_sqlite(tmp_path / "a.db", clock=clock)
    try:
        broken = checked(await Auditor(again, clock, os.urandom, KEYS).chain(*ref)).broken
    finally:
        await again.close()
    assert broken is not None
    assert "not those that were signed" in broken.what


async def kept(store: SqliteStore, ref: SessionRef) -> int:
    """Anchors that are kept of a session's chain."""
    try:
        return len([event async for event in store.read(apart("chain", ref)) if isinstance(event.body, e.AuditKept)])
    except SessionMissing:
        return 0


async def test_a_chain_that_has_not_gone_on_is_not_signed_again(
    store: SqliteStore, writing: Writing, auditor: Auditor
) -> None:
    ref = await writing.create("one")
    await writing.turn(ref, START_MS, SAID)
    assert [await auditor.anchor(ref), await auditor.anchor(ref)] == [True, False]
    assert await kept(store, ref) == 1
    with pytest.raises(SessionMissing):
        await auditor.anchor(SessionRef("acme", "nobody"))


async def test_what_cannot_be_signed_now_is_signed_later_and_what_is_gone_never(clock: ManualClock) -> None:
    signer = Signing()
    one = Anchoring(signer, clock, 60.0)
    signer.error = StoreUnavailable("away")
    one.ended(SessionRef("acme", "a"))
    await one.close()
    signer.error = SessionMissing("gone")
    one.ended(SessionRef("acme", "a"))
    await one.close()
    signer.error = None
    await one.close()
    assert signer.signed == []
    signer.error = StoreUnavailable("away")
    one.ended(SessionRef("acme", "b"))
    await one.close()
    signer.error = None
    await one.close()
    assert signer.signed == ["b"]


async def test_many_that_wait_are_signed_at_once_and_too_many_are_bounded(clock: ManualClock) -> None:
    signer = Signing()
    async with anchoring(signer, clock) as one:
        for at in range(AUDIT_ANCHORS_WAITING_MAX):
            one.ended(SessionRef("acme", f"{at}"))
        await signer.until(AUDIT_ANCHORS_WAITING_MAX)  # The clock stands still.
    signer.signed.clear()
    still = Anchoring(signer, clock, 60.0)
    for at in range(2 * AUDIT_ANCHORS_WAITING_MAX + 5):
        still.ended(SessionRef("acme", f"{at}"))
    await still.close()
    assert len(signer.signed) == 2 * AUDIT_ANCHORS_WAITING_MAX
    assert signer.signed[0] == "5"
