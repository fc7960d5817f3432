"""What the retention takes away, and that it takes nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.histories import DAY_MS, Writing, dump, on_disk, without

from stateline.core import events as e
from stateline.core.ids import SessionRef
from stateline.core.limits import Retention
from stateline.core.session import FOLD_VERSION
from stateline.ports import Ownership, Pruned, SessionMissing
from stateline.stores.sqlite import SqliteStore, open_sqlite, retention, schema
from stateline.testing import ManualClock
from stateline.testing.store_checks.log import picture
from stateline.testing.store_rig import START_MS, text

FOREVER_S = 1000 * 365 * 24 * 3600
KEEP_ALL = Retention(chunks_s=FOREVER_S, deleted_s=FOREVER_S, snapshots_s=FOREVER_S)


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


def keep(**days: int) -> Retention:
    return msgspec.structs.replace(KEEP_ALL, **{f"{name}_s": value * 24 * 3600 for name, value in days.items()})


async def counted(store: SqliteStore, policy: Retention) -> tuple[int, int, int]:
    """What a dry run promises must be what is done."""
    promised = await store.maintenance.prune(policy, dry_run=True)
    done = await store.maintenance.prune(policy)
    assert (done.chunks, done.sessions, done.snapshots) == (promised.chunks, promised.sessions, promised.snapshots)
    assert len(done.erased) == done.sessions
    assert await store.maintenance.prune(policy) == Pruned()
    return done.chunks, done.sessions, done.snapshots


async def test_a_deleted_conversation_is_erased_after_its_time_and_nothing_else(
    store: SqliteStore, writing: Writing, tmp_path: Path
) -> None:
    for name in ("kept", "old", "young"):
        ref = await writing.create(name)
        await writing.turn(ref, START_MS)
        if name != "kept":
            await writing.append(ref, START_MS + (95 if name == "young" else 1) * DAY_MS, e.SessionDeleted())
    before = dump(tmp_path / "a.db")
    assert await counted(store, KEEP_ALL) == (0, 0, 0)
    assert dump(tmp_path / "a.db") == before
    assert await counted(store, keep(deleted=30)) == (0, 1, 0)
    assert dump(tmp_path / "a.db") == without(before, "old")
    with pytest.raises(SessionMissing):
        [event async for event in store.read(SessionRef("t", "old"))]


async def test_a_chain_goes_once_its_last_response_is_deleted(store: SqliteStore, writing: Writing) -> None:
    ref = await writing.create("chain")
    first = await writing.turn(ref, START_MS)
    second = await writing.turn(ref, START_MS)
    await writing.append(ref, START_MS, e.ResponseDeleted(response_id=first))
    assert await counted(store, keep(deleted=30)) == (0, 0, 0)
    await writing.append(ref, START_MS, e.ResponseDeleted(response_id=second))
    assert await counted(store, keep(deleted=30)) == (0, 1, 0)


async def test_a_conversation_outlives_its_deleted_responses(store: SqliteStore, writing: Writing) -> None:
    ref = await writing.create("talk")
    await writing.append(ref, START_MS, e.SessionCreated(kind="conversation"))
    made = await writing.turn(ref, START_MS)
    await writing.append(ref, START_MS, e.ResponseDeleted(response_id=made))
    assert await counted(store, keep(deleted=0)) == (0, 0, 0)


async def test_what_a_living_fork_stands_on_stays_until_the_fork_goes(
    store: SqliteStore, writing: Writing, tmp_path: Path
) -> None:
    parent = await writing.create("parent")
    first = await writing.turn(parent, START_MS, "the parent's words")
    fork = await writing.create("fork", parent)
    second = await writing.turn(fork, START_MS)
    await writing.append(parent, START_MS, e.ResponseDeleted(response_id=first))
    before = dump(tmp_path / "a.db")
    assert await counted(store, keep(deleted=0)) == (0, 0, 0)
    assert dump(tmp_path / "a.db") == before
    assert len([event async for event in store.read(fork)]) == 6
    await writing.append(fork, START_MS, e.ResponseDeleted(response_id=second))
    assert await counted(store, keep(deleted=0)) == (0, 2, 0)


async def test_an_idle_session_is_erased_only_where_that_is_wished(
    store: SqliteStore, writing: Writing, clock: ManualClock, tmp_path: Path
) -> None:
    for name, days in (("idle", 1), ("used", 200)):
        await writing.turn(await writing.create(name), START_MS + days * DAY_MS)
    clock.advance(150 * 24 * 3600)
    before = dump(tmp_path / "a.db")
    assert await counted(store, keep(deleted=0)) == (0, 0, 0)
    assert await counted(store, keep(idle=90)) == (0, 1, 0)
    assert dump(tmp_path / "a.db") == without(before, "idle")


async def test_keys_are_never_idle(store: SqliteStore, writing: Writing, clock: ManualClock) -> None:
    ref = await writing.create("keys", tenant="system")
    created = e.KeyCreated(key_id="key_1", tenant="t", name="n", hash="0")
    await writing.append(ref, START_MS, e.SessionCreated(kind="system"), created)
    clock.advance(9999 * 24 * 3600)
    assert await counted(store, keep(idle=1)) == (0, 0, 0)


@pytest.mark.parametrize("state", ["owned", "posted", "waiting"])
async def test_a_session_that_runs_or_waits_is_not_touched(
    store: SqliteStore, writing: Writing, clock: ManualClock, tmp_path: Path, state: str
) -> None:
    ref = await writing.create("busy")
    await writing.turn(ref, START_MS, release=False)
    writing.epochs[ref] -= 1
    await writing.append(ref, START_MS, e.SessionDeleted(), release=False)
    own = writing_own(writing, ref)
    if state == "waiting":
        assert await store.release(own, 0, wake_at_ms=clock.now_ms() + 10**12)
    elif state == "posted":
        assert await store.release(own, 0)
        await store.post(ref, text(ref, 0))
    clock.advance(1000 * 24 * 3600)
    before = dump(tmp_path / "a.db")
    assert await counted(store, Retention(chunks_s=1, deleted_s=0, idle_s=1, snapshots_s=0)) == (0, 0, 0)
    assert dump(tmp_path / "a.db") == before


def writing_own(writing: Writing, ref: SessionRef) -> Ownership:
    return Ownership(session=ref, owner="a", epoch=writing.epochs[ref], head=writing.heads[ref])


async def test_snapshots_that_only_an_older_release_reads_go_after_their_time(
    store: SqliteStore, writing: Writing, tmp_path: Path
) -> None:
    for name, fold in (("old", FOLD_VERSION - 1), ("new", FOLD_VERSION)):
        ref = await writing.create(name)
        await writing.append(ref, START_MS, e.Snapshot(fold=fold, state=msgspec.Raw(b"{}")))
    before = dump(tmp_path / "a.db")
    assert await counted(store, keep(snapshots=101)) == (0, 0, 0)
    assert await counted(store, keep(snapshots=7)) == (0, 0, 1)
    expected = before | {"snapshots": [row for row in before["snapshots"] if row[0] == "new"]}
    assert dump(tmp_path / "a.db") == expected


async def test_old_chunks_go_and_the_answers_stay(store: SqliteStore, writing: Writing, tmp_path: Path) -> None:
    await writing.turn(await writing.create("old"), START_MS)
    await writing.turn(await writing.create("young"), START_MS + 100 * DAY_MS)
    before = dump(tmp_path / "a.db")
    assert await counted(store, keep(chunks=1)) == (2, 0, 0)
    assert dump(tmp_path / "a.db") == before | {"chunks": [row for row in before["chunks"] if row[0] == "young"]}


async def test_what_is_erased_is_in_no_file_any_more(store: SqliteStore, writing: Writing, tmp_path: Path) -> None:
    """Neither in the database, its free pages and its journal, nor beside it, nor in the next backup."""
    other = await writing.create("other")
    await writing.turn(other, START_MS, "stays")
    ref = await writing.create("gone")
    for _ in range(30):
        await writing.turn(ref, START_MS, "planted-string " * 50)
    await writing.append(ref, START_MS, e.Snapshot(fold=FOLD_VERSION, state=msgspec.Raw(b'{"x":"planted-string"}')))
    await writing.append(ref, START_MS, e.Snapshot(fold=FOLD_VERSION, state=msgspec.Raw(b'{"x":"superseded"}')))
    await store.post(ref, text(ref, 0, "planted-string in the inbox"), "planted-string-key")
    [own] = await store.claim("b", 1)
    consumed = text(ref, own.head + 1, "planted-string in the inbox", post=own.inbox[0].post)
    await store.append(own, own.head, [consumed], release=True)
    writing.heads[ref], writing.epochs[ref] = own.head + 1, own.epoch
    await writing.append(ref, START_MS, picture("P"))
    assert on_disk(tmp_path).count(b"planted-string") > 100
    assert b"P" * 1000 in on_disk(tmp_path)
    # Chunks go long before the session does; their bytes must not wait in free pages.
    assert (await store.maintenance.prune(keep(chunks=1))).chunks == 62
    await writing.append(ref, START_MS, e.SessionDeleted())
    assert (await store.maintenance.prune(keep(deleted=0))).sessions == 1
    await store.maintenance.backup(tmp_path / "backup")
    for found in (on_disk(tmp_path), on_disk(tmp_path / "backup")):
        assert b"planted-string" not in found
        assert b"P" * 1000 not in found
        assert b"stays" in found


async def test_an_erasure_that_was_cut_short_is_finished_and_nobody_sees_it_half(
    store: SqliteStore, writing: Writing, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PRUNE_ROWS_MAX", 3)
    ref = await writing.create("gone")
    for _ in range(5):
        await writing.turn(ref, START_MS)
    await writing.append(ref, START_MS, e.SessionDeleted())
    walks = 0
    run = retention.Sweep.run

    def dies(self: retention.Sweep, tx: Any) -> retention.Swept:
        nonlocal walks
        walks += 1
        if walks == 3:
            raise SessionMissing("as if the process died here")
        return run(self, tx)

    with monkeypatch.context() as patch:
        patch.setattr(retention.Sweep, "run", dies)
        with pytest.raises(SessionMissing):
            await store.maintenance.prune(keep(deleted=0))
    assert dump(tmp_path / "a.db")["events"]
    with pytest.raises(SessionMissing):
        [event async for event in store.read(ref)]
    await store.close()
    again = await open_sqlite(tmp_path / "a.db", clock=clock)
    await again.maintenance.prune(KEEP_ALL)
    assert not any(dump(tmp_path / "a.db").values())
    await again.close()


async def test_one_transaction_deletes_no_more_than_its_bytes(
    store: SqliteStore, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PRUNE_BYTES_MAX", 10_000)
    ref = await writing.create("gone")
    for _ in range(5):
        await writing.turn(ref, START_MS, "x" * 8_000)
    await writing.append(ref, START_MS, e.SessionDeleted())
    sweeps: list[bool] = []
    run = retention.Sweep.run

    def counted_run(self: retention.Sweep, tx: Any) -> retention.Swept:
        swept = run(self, tx)
        sweeps.append(swept.more)
        return swept

    monkeypatch.setattr(retention.Sweep, "run", counted_run)
    await store.maintenance.prune(keep(deleted=0))
    assert sweeps.count(True) >= 5


async def test_many_sessions_are_looked_at_some_at_a_time(
    store: SqliteStore, writing: Writing, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PRUNE_SESSIONS_MAX", 4)
    for number in range(11):
        ref = await writing.create(f"s{number:02}")
        await writing.turn(ref, START_MS)
        await writing.append(ref, START_MS, e.SessionDeleted())
    assert await counted(store, keep(deleted=0)) == (0, 11, 0)
    for number in range(11):
        await writing.turn(await writing.create(f"i{number:02}"), START_MS)
    clock.advance(10 * 24 * 3600)
    assert await counted(store, keep(idle=1)) == (0, 11, 0)


async def test_a_database_of_the_first_schema_knows_what_was_deleted(
    store: SqliteStore, writing: Writing, clock: ManualClock, tmp_path: Path
) -> None:
    ref = await writing.create("deleted")
    await writing.turn(ref, START_MS)
    await writing.append(ref, START_MS, e.SessionDeleted())
    await writing.turn(await writing.create("kept"), START_MS)
    await store.close()
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.executescript("DROP TABLE deletions; DROP TABLE erasing; DROP TABLE balances; PRAGMA user_version = 1;")
        db.commit()
    again = await open_sqlite(tmp_path / "a.db", clock=clock)
    assert (await again.maintenance.status()).schema_version == schema.VERSION
    assert await counted(again, keep(deleted=30)) == (0, 1, 0)
    await again.close()


# -- any history ---------------------------------------------------------------------------------------


class Act(NamedTuple):
    """``what`` is done to the session ``to`` of those that exist, ``day`` days after the start."""

    what: str
    to: int
    day: int


ACTS = st.builds(
    Act,
    st.sampled_from(["begin", "turn", "turn", "fork", "fork", "delete", "delete response", "own"]),
    st.integers(0, 30),
    st.integers(0, 99),
)


class Model:
    """What a session is, as simply as it can be said."""

    def __init__(self, parent: str | None) -> None:
        self.parent = parent
        self.days = [100]
        self.responses: set[str] = set()
        self.hidden: set[str] = set()
        self.deleted_on: int | None = None
        self.gone_whole = False
        self.owned = False


def over(sessions: dict[str, Model], policy: Retention) -> set[str]:
    """The names of the sessions that are to be erased."""
    deleted_day = 100 - policy.deleted_s // (24 * 3600)
    idle_day = None if policy.idle_s is None else 100 - policy.idle_s // (24 * 3600)
    gone: set[str] = set()
    for name, one in reversed(sessions.items()):
        children = {child for child, each in sessions.items() if each.parent == name}
        hidden = one.gone_whole or (bool(one.responses) and one.responses <= one.hidden)
        deleted = hidden and one.deleted_on is not None and one.deleted_on <= deleted_day
        idle = idle_day is not None and one.days[-1] <= idle_day
        if not one.owned and children <= gone and (deleted or idle):
            gone.add(name)
    return gone


@settings(max_examples=60)
@given(
    acts=st.lists(ACTS, min_size=3, max_size=25),
    deleted=st.integers(0, 100),
    idle=st.one_of(st.none(), st.integers(1, 100)),
)
async def test_any_history_loses_what_is_over_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, acts: list[Act], deleted: int, idle: int | None
) -> None:
    folder = tmp_path_factory.mktemp("history")
    # Sessions are made on day 0, so that only their events say when they were used.
    clock = ManualClock(START_MS)
    store = await open_sqlite(folder / "a.db", clock=clock)
    writing = Writing(store)
    sessions: dict[str, Model] = {}
    try:
        for act in acts:
            await do(act, writing, sessions)
        clock.advance(100 * 24 * 3600)
        policy = keep(deleted=deleted) if idle is None else keep(deleted=deleted, idle=idle)
        expected = over(sessions, policy)
        before = dump(folder / "a.db")
        assert await store.maintenance.prune(policy, dry_run=True) == Pruned(sessions=len(expected))
        assert dump(folder / "a.db") == before
        pruned = await store.maintenance.prune(policy)
        assert {ref.id for ref in pruned.erased} == expected
        assert dump(folder / "a.db") == without(before, *expected)
        for name in sessions.keys() - expected:
            ref = SessionRef("t", name)
            assert [event.seq async for event in store.read(ref, chunks=True)] == [*range(1, writing.heads[ref] + 1)]
    finally:
        await store.close()


async def do(act: Act, writing: Writing, sessions: dict[str, Model]) -> None:
    names = list(sessions)
    free = [name for name in names if not sessions[name].owned]
    if act.what == "begin" or not free:
        name, parent = f"s{len(names)}", None
    else:
        name = free[act.to % len(free)]
        parent = SessionRef("t", name)
        if act.what == "fork":
            name = f"s{len(names)}"
    at_ms = START_MS + act.day * DAY_MS
    if name not in sessions:
        ref = await writing.create(name, parent)
        sessions[name] = Model(None if parent is None else parent.id)
    else:
        ref = SessionRef("t", name)
    one = sessions[name]
    one.days.append(act.day)
    if act.what == "delete" and parent is not None:
        await writing.append(ref, at_ms, e.SessionDeleted())
        one.gone_whole, one.deleted_on = True, act.day
    elif act.what == "delete response" and one.responses:
        response = sorted(one.responses)[act.to % len(one.responses)]
        await writing.append(ref, at_ms, e.ResponseDeleted(response_id=response))
        one.hidden.add(response)
        one.deleted_on = act.day
    else:
        one.owned = act.what == "own"
        one.responses.add(await writing.turn(ref, at_ms, release=not one.owned))
