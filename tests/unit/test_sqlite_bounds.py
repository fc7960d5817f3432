"""Every bound of the stores is reached, and nothing is lost at it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio

from stateline.core.errors import BadRequest, Overloaded
from stateline.core.events import Dedup, Event
from stateline.core.ids import SessionRef
from stateline.ports import Balance, BudgetExceeded, Hold, Ownership, SessionMissing, Watch
from stateline.stores import recent, rules
from stateline.stores.sqlite import SqliteStore, open_sqlite, pruning, reader, transaction, writer
from stateline.stores.sqlite import store as store_module
from stateline.testing import ManualClock
from stateline.testing.store_checks.log import chunk
from stateline.testing.store_rig import event, raises, text, texts

REF = SessionRef("t", "s")
OWN = Ownership(session=REF, owner="a", epoch=1, head=0)


@pytest_asyncio.fixture
async def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncGenerator[SqliteStore]:
    opened = await open_sqlite(tmp_path / "a.db", clock=clock)
    await opened.create(REF)
    yield opened
    await opened.close()


async def followed(store: SqliteStore, ref: SessionRef = REF, after: int = 0) -> list[int]:
    """All events after a cursor, call by call."""
    seen: list[int] = []
    while records := await store.tail([Watch(session=ref, after=after, post=0)]):
        seen += [record.seq for record in records if isinstance(record, Event)]
        after = seen[-1]
    return seen


@pytest.mark.parametrize("bound", ["RECENT_EVENTS_MAX", "RECENT_BYTES_MAX", "RECENT_SESSIONS_MAX", "TAIL_EVENTS_MAX"])
async def test_what_memory_does_not_hold_is_followed_from_the_disk(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(recent, bound, 600 if bound == "RECENT_BYTES_MAX" else 3)
    others = [SessionRef("t", f"o{n}") for n in range(5)]
    head = 0
    for ref in others:
        await store.create(ref)
        await store.append(Ownership(session=ref, owner="a", epoch=1, head=0), 0, texts(ref, 1, 2))
        head = await store.append(OWN, head, [*texts(REF, head + 1, 2), event(REF, head + 3, chunk(head))])
        assert await followed(store) == list(range(1, head + 1))
    assert await followed(store, after=head - 1) == [head]
    for ref in others:
        assert await followed(store, ref) == [1, 2]


async def test_more_sessions_than_memory_knows_end_a_tail_all_the_same(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "RECENT_SESSIONS_MAX", 3)
    monkeypatch.setattr(store_module, "TAIL_READS_MAX", 2)
    watches = [Watch(session=SessionRef("t", f"none {n}"), after=0, post=0) for n in range(10)]
    assert await store.tail(watches) == []
    assert await store.tail(watches, 0.01) == []


@pytest.mark.parametrize("bound", ["READ_PAGE_EVENTS_MAX", "READ_PAGE_BYTES_MAX"])
async def test_a_reading_is_cut_into_pages(store: SqliteStore, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    pages: list[int] = []
    page = reader.Readers.page

    def counted(self: reader.Readers, db: sqlite3.Connection, span: reader.Span) -> reader.Page:
        made = page(self, db, span)
        pages.append(len(made.events))
        return made

    monkeypatch.setattr(reader, bound, 4 if bound == "READ_PAGE_EVENTS_MAX" else 150)
    monkeypatch.setattr(reader.Readers, "page", counted)
    await store.append(OWN, 0, [*texts(REF, 1, 9), event(REF, 10, chunk(0)), *texts(REF, 11, 9)])
    assert [e.seq async for e in store.read(REF, chunks=True)] == list(range(1, 20))
    assert len(pages) > 3
    assert max(pages) <= 4


async def test_an_erasure_in_the_middle_of_a_reading_is_no_short_log(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "READ_PAGE_EVENTS_MAX", 4)
    await store.append(OWN, 0, texts(REF, 1, 20))
    seen = 0
    with pytest.raises(SessionMissing):  # noqa: PT012
        async for _ in store.read(REF):
            seen += 1
            if seen == 2:
                await store.erase(REF)
    assert seen == 4


async def test_too_many_readings_are_refused(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "STORE_QUEUE_MAX", 2)
    results = await asyncio.gather(*(store.find_duplicate("t", "k") for _ in range(4)), return_exceptions=True)
    assert results[:2] == [None, None]
    assert [type(result) for result in results[2:]] == [Overloaded] * 2


async def test_an_event_that_is_too_large_is_refused_before_it_is_queued(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "EVENT_BYTES_MAX", 20_000)
    with pytest.raises(BadRequest, match="20000 at most") as caught:
        await store.append(OWN, 0, [text(REF, 1, "x" * 20_000)])
    assert caught.value.code == "event_too_large"
    with pytest.raises(BadRequest):
        await store.post(REF, text(REF, 0, "x" * 20_000))
    assert await store.append(OWN, 0, texts(REF, 1, 1)) == 1


async def test_expired_keys_are_cleared_some_at_a_time(
    store: SqliteStore, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "EXPIRED_ROWS_MAX", 4)
    head = 0
    for n in range(10):
        key = Dedup(key=f"k{n}", ref="r", digest="", ttl_s=60 if n else 6000)
        head = await store.append(OWN, head, [text(REF, head + 1, dedup=[key])])
    counts: list[int] = []
    clock.advance(60)
    for _ in range(5):
        await store.renew("a", 60)
        with closing(sqlite3.connect(tmp_path / "a.db")) as db:
            counts.append(db.execute("SELECT count(*) FROM dedup").fetchone()[0])
    assert counts == [6, 2, 1, 1, 1]


async def test_expired_balances_are_cleared_some_at_a_time_and_stand_at_zero_then(
    store: SqliteStore, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "EXPIRED_ROWS_MAX", 4)
    soon = clock.now_ms() + 60_000
    one = Decimal(1)
    holds = [Hold(budget=f"b{n}", held=one, expires_ms=soon if n else None) for n in range(10)]
    head = await store.append(OWN, 0, texts(REF, 1, 1), holds)
    counts: list[int] = []
    clock.advance(60)
    for _ in range(4):
        await store.renew("a", 60)
        with closing(sqlite3.connect(tmp_path / "a.db")) as db:
            counts.append(db.execute("SELECT count(*) FROM balances").fetchone()[0])
    assert counts == [6, 2, 1, 1]
    # The writer remembers none of them, and what this very commit moved is not lost with what is cleared.
    clock.advance(60)
    again = [Hold(budget="b1", held=one, limit=one, expires_ms=soon), Hold(budget="b0", held=one, limit=2 * one)]
    await store.append(OWN, head, texts(REF, 2, 1), again)
    assert await store.balances(["b0", "b1"]) == {"b0": Balance(2 * one)}


async def test_few_balances_are_remembered_and_all_are_found(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "_BALANCES_MAX", 3)
    for head in range(20):
        hold = Hold(budget=f"b{head % 5}", held=Decimal(1), limit=Decimal(4))
        await store.append(OWN, head, texts(REF, head + 1, 1), [hold])
    for number in range(5):
        hold = Hold(budget=f"b{number}", held=Decimal(1), limit=Decimal(4))
        await raises(BudgetExceeded, store.append(OWN, 20, texts(REF, 21, 1), [hold]))


async def test_the_journal_is_carried_into_the_database_as_it_grows(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAL_BYTES_MAX", 200_000)
    sizes: list[int] = []
    head = 0
    for _ in range(100):
        head = await store.append(OWN, head, texts(REF, head + 1, 50))
        assert [e.seq async for e in store.read(REF, head - 1)] == [head]
        sizes.append(journal_bytes(tmp_path))
    assert max(sizes) < 2_000_000
    assert len([e async for e in store.read(REF)]) == head


def journal_bytes(tmp_path: Path) -> int:
    return (tmp_path / "a.db-wal").stat().st_size


async def test_rows_kept_in_memory_are_let_go(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "_ROWS_MAX", 3)
    owns: list[Ownership] = []
    for n in range(10):
        ref = SessionRef("t", f"s{n}")
        await store.create(ref)
        owns.append(Ownership(session=ref, owner="a", epoch=1, head=0))
    for head in range(3):
        calls = [store.append(own, head, texts(own.session, head + 1, 1)) for own in owns]
        assert await asyncio.gather(*calls) == [head + 1] * 10


async def test_old_chunks_of_sessions_at_rest_are_pruned_and_followers_go_on(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PRUNE_ROWS_MAX", 3)
    chunks = [event(REF, seq, chunk(seq)) for seq in range(2, 10)]
    await store.append(OWN, 0, [text(REF, 1), *chunks, text(REF, 10), event(REF, 11, chunk(11))])
    young = clock.now_ms() + 1_000_000
    assert await store.prune_chunks(young) == 0  # It has an owner, whose turn may need them.
    assert await store.release(OWN, 0)
    assert await store.prune_chunks(event(REF, 5, chunk(5)).at_ms) == 3
    assert [e.seq async for e in store.read(REF, chunks=True)] == [1, 5, 6, 7, 8, 9, 10, 11]
    assert await store.prune_chunks(young) == 6
    assert [e.seq async for e in store.read(REF, chunks=True)] == [1, 10]


async def test_a_cursor_before_what_was_pruned_or_evicted_does_not_look_for_ever(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "RECENT_EVENTS_MAX", 1)
    looks: list[int] = []
    look_up = reader.Readers.look_up

    def counted(self: reader.Readers, db: sqlite3.Connection, watches: Sequence[Watch]) -> list[reader.Found]:
        looks.append(len(watches))
        return look_up(self, db, watches)

    monkeypatch.setattr(reader.Readers, "look_up", counted)
    await store.append(OWN, 0, [text(REF, 1), event(REF, 2, chunk(0)), event(REF, 3, chunk(1))], release=True)
    assert await followed(store) == [1, 2, 3]
    assert await store.prune_chunks(clock.now_ms() + 1_000_000) == 2
    looks.clear()
    for _ in range(5):
        assert await store.tail([Watch(session=REF, after=1)], 0.001) == []
    assert len(looks) == 1
    again = Ownership(session=REF, owner="a", epoch=2, head=3)
    await store.append(again, 3, texts(REF, 4, 1))
    assert await followed(store, after=1) == [4]
