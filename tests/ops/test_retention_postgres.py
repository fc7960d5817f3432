"""The retention takes the same away on PostgreSQL, from every table, whichever node looks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.ops.histories import DAY_MS, Writing
from tests.ops.test_retention import ACTS, Act, Model, do, keep, over
from tests.postgres import ask, new_database

from stateline.core import events as e
from stateline.core.ids import SessionRef
from stateline.core.limits import CHUNK_PART_S, Retention
from stateline.core.session import FOLD_VERSION
from stateline.ports import Ownership, Pruned, SessionMissing
from stateline.stores.postgres import open_postgres, retention
from stateline.stores.postgres.connecting import Connection
from stateline.stores.postgres.store import PostgresStore
from stateline.stores.retention import Cutoffs
from stateline.testing import ManualClock
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_checks.log import picture
from stateline.testing.store_rig import START_MS, text

TABLES = ("events", "chunks", "snapshots", "inbox", "dedup", "blob_refs")


async def named_rows(url: str) -> dict[str, set[str]]:
    """Of which sessions each table has rows; a number in place of a name where the session is gone."""

    async def look(db: Connection) -> dict[str, set[str]]:
        names = {row[0]: row[1] for row in await db.fetch("SELECT n, id FROM stateline_sessions")}
        found = {"sessions": set(names.values())}
        for table in TABLES:
            rows = await db.fetch(f"SELECT DISTINCT session FROM stateline_{table}")
            found[table] = {names.get(n, str(n)) for (n,) in rows}
        return found

    return await ask(url, look)


async def counted(store: PostgresStore, policy: Retention) -> tuple[int, int, int]:
    """What a dry run promises must be what is done."""
    promised = await store.maintenance.prune(policy, dry_run=True)
    done = await store.maintenance.prune(policy)
    assert (done.chunks, done.sessions, done.snapshots) == (promised.chunks, promised.sessions, promised.snapshots)
    assert len(done.erased) == done.sessions
    assert await store.maintenance.prune(policy) == Pruned()
    return done.chunks, done.sessions, done.snapshots


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock(START_MS + 100 * DAY_MS)


async def opened(postgres: PostgresServer, clock: ManualClock) -> tuple[str, PostgresStore]:
    url = await new_database(postgres)
    store = await open_postgres(url, clock=clock)
    assert isinstance(store, PostgresStore)
    return url, store


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    acts=st.lists(ACTS, min_size=3, max_size=20),
    deleted=st.integers(0, 100),
    idle=st.one_of(st.none(), st.integers(1, 100)),
)
# One that is both deleted and idle is counted once.
@example(acts=[Act("begin", 0, 0), Act("begin", 0, 0), Act("delete", 0, 0)], deleted=0, idle=1)
def test_any_history_loses_what_is_over_and_nothing_else(
    postgres: PostgresServer, acts: list[Act], deleted: int, idle: int | None
) -> None:
    async def run() -> None:
        clock = ManualClock(START_MS)
        url, store = await opened(postgres, clock)
        writing = Writing(store)
        sessions: dict[str, Model] = {}
        try:
            for act in acts:
                await do(act, writing, sessions)
            clock.advance(100 * 24 * 3600)
            policy = keep(deleted=deleted) if idle is None else keep(deleted=deleted, idle=idle)
            expected = over(sessions, policy)
            before = await named_rows(url)
            assert await store.maintenance.prune(policy, dry_run=True) == Pruned(sessions=len(expected))
            assert await named_rows(url) == before
            pruned = await store.maintenance.prune(policy)
            assert {ref.id for ref in pruned.erased} == expected
            assert await named_rows(url) == {table: names - expected for table, names in before.items()}
            for name in sessions.keys() - expected:
                events = store.read(SessionRef("t", name), chunks=True)
                seqs = [event.seq async for event in events]
                assert seqs == [*range(1, writing.heads[SessionRef("t", name)] + 1)]
        finally:
            await store.close()

    asyncio.run(run())


async def test_what_only_a_deleted_session_refers_to_goes_with_it(postgres: PostgresServer, clock: ManualClock) -> None:
    url, store = await opened(postgres, clock)
    writing = Writing(store)
    for name in ("gone", "kept"):
        ref = await writing.create(name)
        await writing.append(ref, START_MS, e.SessionCreated(kind="conversation"), picture())
    alone = await writing.create("alone")
    await writing.append(alone, START_MS, picture("B"), e.SessionDeleted())
    await writing.append(SessionRef("t", "gone"), START_MS, e.SessionDeleted())

    async def blobs(db: Connection) -> list[int]:
        return sorted(row[0] for row in await db.fetch("SELECT refs FROM stateline_blobs"))

    assert await ask(url, blobs) == [1, 1, 2, 2]
    assert await counted(store, keep(deleted=1)) == (0, 2, 0)
    assert await ask(url, blobs) == [1, 1]
    with pytest.raises(SessionMissing):
        [event async for event in store.read(alone)]
    await store.close()


async def test_a_session_that_is_used_again_after_the_look_stays(
    postgres: PostgresServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = await opened(postgres, clock)
    writing = Writing(store)
    ref = await writing.create("talk")
    await writing.append(ref, START_MS, e.SessionCreated(kind="conversation"))
    look = retention.idle

    async def then_used(db: Connection, cutoffs: Cutoffs, below: int, gone: set[int]) -> retention.Survey:
        found = await look(db, cutoffs, below, gone)
        if found.over:
            await writing.turn(ref, START_MS + 100 * DAY_MS)
        return found

    monkeypatch.setattr(retention, "idle", then_used)
    assert (await store.maintenance.prune(keep(idle=1))).sessions == 0
    assert [event async for event in store.read(ref)]
    await store.close()


async def test_a_session_that_has_an_owner_or_a_post_is_not_touched(
    postgres: PostgresServer, clock: ManualClock
) -> None:
    _, store = await opened(postgres, clock)
    writing = Writing(store)
    owned, waiting = await writing.create("owned"), await writing.create("waiting")
    await writing.append(owned, START_MS, e.SessionDeleted(), release=False)
    await writing.append(waiting, START_MS, e.SessionDeleted())
    await store.post(waiting, text(waiting, 0))
    assert await counted(store, keep(deleted=0)) == (0, 0, 0)
    own = Ownership(session=owned, owner="a", epoch=1, head=writing.heads[owned])
    await store.release(own, 0)
    assert await counted(store, keep(deleted=0)) == (0, 1, 0)
    await store.close()


async def test_many_sessions_are_looked_at_some_at_a_time(postgres: PostgresServer, clock: ManualClock) -> None:
    _, store = await opened(postgres, clock)
    writing = Writing(store)
    count = retention.PRUNE_SESSIONS_MAX + 7
    for number in range(count):
        await writing.append(await writing.create(f"s{number:03}"), START_MS, e.SessionDeleted())
    assert await counted(store, keep(deleted=0)) == (0, count, 0)
    await store.close()


async def test_keys_are_never_idle(postgres: PostgresServer, clock: ManualClock) -> None:
    _, store = await opened(postgres, clock)
    writing = Writing(store)
    ref = await writing.create("keys")
    await writing.append(ref, START_MS, e.SessionCreated(kind="system"))
    assert await counted(store, keep(idle=1)) == (0, 0, 0)
    await store.close()


async def test_snapshots_that_only_an_older_release_reads_go_after_their_time(
    postgres: PostgresServer, clock: ManualClock
) -> None:
    url, store = await opened(postgres, clock)
    writing = Writing(store)
    for name, fold in (("old", FOLD_VERSION - 1), ("new", FOLD_VERSION)):
        ref = await writing.create(name)
        await writing.append(ref, START_MS, e.Snapshot(fold=fold, state=msgspec.Raw(b"{}")))
    assert await counted(store, keep(snapshots=101)) == (0, 0, 0)
    assert await counted(store, keep(snapshots=7)) == (0, 0, 1)
    assert (await named_rows(url))["snapshots"] == {"new"}
    await store.close()


async def test_a_dry_run_counts_the_chunks_that_go(postgres: PostgresServer, clock: ManualClock) -> None:
    _, store = await opened(postgres, clock)
    writing = Writing(store)
    await writing.turn(await writing.create("old"), START_MS)
    clock.advance(3 * CHUNK_PART_S)
    await store.tend()
    await writing.turn(await writing.create("young"), START_MS)
    days = 3 * CHUNK_PART_S // (24 * 3600)
    policy = msgspec.structs.replace(keep(), chunks_s=max(days, 1) * 24 * 3600 // 2)
    assert await counted(store, policy) == (2, 0, 0)
    await store.close()


async def test_whoever_must_see_a_session_before_it_goes_sees_it_whole(
    postgres: PostgresServer, clock: ManualClock
) -> None:
    _, store = await opened(postgres, clock)
    writing = Writing(store)
    seen: list[tuple[str, list[SessionRef], int]] = []

    class Seeing:
        async def keep(self, refs: Sequence[SessionRef]) -> None:
            events = sum([len([event async for event in store.read(ref)]) for ref in refs])
            seen.append(("keep", list(refs), events))

        async def forget(self, refs: Sequence[SessionRef]) -> None:
            for ref in refs:
                with pytest.raises(SessionMissing):
                    [event async for event in store.read(ref)]
            seen.append(("forget", list(refs), 0))

    ref = await writing.create("gone")
    await writing.turn(ref, START_MS)
    await writing.append(ref, START_MS, e.SessionDeleted())
    assert (await store.maintenance.prune(keep(deleted=0), dry_run=True, witness=Seeing())).sessions == 1
    assert seen == []
    assert (await store.maintenance.prune(keep(deleted=0), witness=Seeing())).erased == (ref,)
    assert [what for what, *_ in seen] == ["keep", "forget"]
    assert all(refs == [ref] for _, refs, _ in seen)
    assert seen[0][2] > 0
    await store.close()
