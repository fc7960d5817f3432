"""A backup of a PostgreSQL database: whole, of one instant, and put back as it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
from tests.ops.histories import DAY_MS, Writing, on_disk
from tests.postgres import ask, new_database

from stateline.core.errors import StoreUnavailable
from stateline.core.ids import SessionRef
from stateline.ports import Balance, Hold
from stateline.stores.postgres import backup, open_postgres
from stateline.stores.postgres.connecting import Connection, place_of
from stateline.stores.postgres.store import PostgresStore
from stateline.testing import ManualClock
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_checks.log import picture
from stateline.testing.store_rig import START_MS, text

HELD = Hold(budget="budget/team/2027-01", held=Decimal("1.50"), spent=Decimal("0.000001"), expires_ms=START_MS)


class House(NamedTuple):
    url: str
    store: PostgresStore
    writing: Writing
    clock: ManualClock


@pytest_asyncio.fixture
async def house(postgres: PostgresServer) -> AsyncGenerator[House]:
    url, clock = await new_database(postgres), ManualClock(START_MS)
    store = await open_postgres(url, clock=clock)
    assert isinstance(store, PostgresStore)
    yield House(url, store, Writing(store), clock)
    await store.close()


async def tables(url: str) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables that a backup holds."""

    async def look(db: Connection) -> dict[str, list[tuple[object, ...]]]:
        found: dict[str, list[tuple[object, ...]]] = {}
        for name in backup.TABLES:
            rows = await db.fetch(f"SELECT * FROM stateline_{name}")
            found[name] = sorted((tuple(row) for row in rows), key=repr)
        return found

    return await ask(url, look)


async def filled(house: House) -> None:
    parent = await house.writing.create("parent")
    await house.writing.turn(parent, START_MS)
    fork = await house.writing.create("fork", parent)
    await house.writing.append(fork, START_MS, picture(), holds=[HELD])
    running = await house.writing.create("running", tenant="other")
    await house.writing.turn(running, START_MS, release=False)
    await house.store.post(fork, text(fork, 0))


async def test_a_restored_database_is_as_it_was_and_goes_on(
    house: House, postgres: PostgresServer, tmp_path: Path
) -> None:
    await filled(house)
    before = await tables(house.url)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    made = await house.store.maintenance.backup(str(tmp_path / "b"), progress=tell)
    assert (made.sessions, made.files, made.created_at) == (3, 2, START_MS // 1000)
    assert told[-1] == (made.bytes, made.bytes)
    assert made.bytes == sum(path.stat().st_size for path in (tmp_path / "b").glob("*.copy"))
    elsewhere = await new_database(postgres)
    done = await backup.restore(elsewhere, tmp_path / "b", force=False)
    assert (done.sessions, done.bytes) == (made.sessions, made.bytes)
    assert await tables(elsewhere) == before
    again = await open_postgres(elsewhere, clock=house.clock)
    for name, tenant in (("parent", "t"), ("fork", "t"), ("running", "other")):
        ref = SessionRef(tenant, name)
        read = [event async for event in again.read(ref, chunks=True)]
        assert read == [event async for event in house.store.read(ref, chunks=True)]
    assert await again.balances([HELD.budget]) == {HELD.budget: Balance(HELD.held, HELD.spent)}
    # No number of a session or a tenant is given twice.
    writing = Writing(again)
    await writing.turn(await writing.create("new", tenant="third"), START_MS)
    claimed = await again.claim("b", 10)
    assert {own.session.id for own in claimed} == {"fork", "running"}
    await again.close()


async def test_a_backup_is_of_one_instant_while_nodes_write(
    house: House, postgres: PostgresServer, tmp_path: Path
) -> None:
    await filled(house)
    stop = asyncio.Event()

    async def write() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            await house.writing.turn(await house.writing.create(f"w{number:05}"), START_MS)
        return number

    writer = asyncio.ensure_future(write())
    await asyncio.sleep(0.1)
    made = await house.store.maintenance.backup(str(tmp_path / "b"))
    stop.set()
    assert await writer > 3
    elsewhere = await new_database(postgres)
    await backup.restore(elsewhere, tmp_path / "b", force=False)
    found = await tables(elsewhere)
    assert len(found["sessions"]) == made.sessions
    # Each session is there whole, or its row alone: it was made, and nothing appended yet.
    again = await open_postgres(elsewhere, clock=house.clock)
    for row in found["sessions"]:
        ref = SessionRef("t" if row[2] != "running" else "other", str(row[2]))
        assert len([event async for event in again.read(ref, chunks=True)]) in (0, 5, 6)
    await again.close()


async def test_a_backup_of_a_release_without_balances_is_put_back(
    house: House, postgres: PostgresServer, tmp_path: Path
) -> None:
    await filled(house)
    await house.store.maintenance.backup(str(tmp_path / "b"))
    before = await tables(house.url)
    path = tmp_path / "b" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["tables"]["balances"], manifest["tables"]["readers"]
    # Of this release it would not be whole.
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreUnavailable, match="not the tables"):
        backup.verify(tmp_path / "b")
    path.write_text(json.dumps(manifest | {"schema_version": 2}))
    # What was there before goes all the same.
    await house.store.close()
    await backup.restore(house.url, tmp_path / "b", force=True)
    assert await tables(house.url) == before | {"balances": []}


async def test_what_was_erased_is_not_in_the_next_backup(house: House, tmp_path: Path) -> None:
    ref = await house.writing.create("secret")
    await house.writing.turn(ref, START_MS, "the password is swordfish")
    await house.store.maintenance.backup(str(tmp_path / "before"))
    await house.store.erase(ref)
    await house.store.maintenance.backup(str(tmp_path / "after"))

    def holds(folder: Path) -> bool:
        return any(b"swordfish" in path.read_bytes() for path in folder.iterdir())

    assert (holds(tmp_path / "before"), holds(tmp_path / "after")) == (True, False)


async def test_a_restore_replaces_what_is_there_only_by_force_and_only_where_nobody_runs(
    house: House, tmp_path: Path
) -> None:
    await filled(house)
    before = await tables(house.url)
    await house.store.maintenance.backup(str(tmp_path / "b"))
    await house.writing.turn(await house.writing.create("later"), START_MS + DAY_MS)
    await house.store.close()
    after = await tables(house.url)

    async def lives(seconds: int) -> None:
        async def say(db: Connection) -> None:
            await db.execute(
                "INSERT INTO stateline_nodes VALUES ('n', (extract(epoch FROM now()) * 1000)::bigint + $1)"
                " ON CONFLICT (owner) DO UPDATE SET expires_ms = EXCLUDED.expires_ms",
                seconds * 1000,
            )

        await ask(house.url, say)

    for force, seconds, code in ((False, -1, "store_exists"), (True, 60, "store_in_use")):
        await lives(seconds)
        with pytest.raises(StoreUnavailable) as caught:
            await backup.restore(house.url, tmp_path / "b", force=force)
        assert caught.value.code == code
        assert await tables(house.url) == after
    await lives(-1)
    await backup.restore(house.url, tmp_path / "b", force=True)
    assert await tables(house.url) == before


async def test_a_damaged_backup_changes_nothing(house: House, tmp_path: Path) -> None:
    await filled(house)
    await house.store.maintenance.backup(str(tmp_path / "b"))
    before = await tables(house.url)
    await house.store.close()
    whole = {path: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    manifest = json.loads(whole[tmp_path / "b" / "manifest.json"])
    damages = {
        "events.copy": whole[tmp_path / "b" / "events.copy"][:-1] + b"?",
        "manifest.json": json.dumps(manifest | {"schema_version": 99}).encode(),
        "blobs.copy": None,
    }
    for name, content in damages.items():
        path = tmp_path / "b" / name
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(StoreUnavailable) as caught:
            await backup.restore(house.url, tmp_path / "b", force=True)
        assert caught.value.code == "backup_invalid"
        path.write_bytes(whole[path])
    # One whose hashes are right and whose content is none: the transaction is given up.
    events = tmp_path / "b" / "events.copy"
    events.write_bytes(b"no copy at all")
    manifest["tables"]["events"]["sha256"] = hashlib.sha256(b"no copy at all").hexdigest()
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreUnavailable) as caught:
        await backup.restore(house.url, tmp_path / "b", force=True)
    assert caught.value.code == "backup_failed"
    assert await tables(house.url) == before


async def test_a_backup_that_fails_leaves_nothing_and_the_earlier_one(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(house)
    await house.store.maintenance.backup(str(tmp_path / "b"))
    before = on_disk(tmp_path / "b")
    with pytest.raises(StoreUnavailable) as caught:
        await house.store.maintenance.backup(str(tmp_path / "b"))
    assert caught.value.code == "backup_exists"
    monkeypatch.setattr(backup, "TABLES", (*backup.TABLES, "nowhere"))
    with pytest.raises(StoreUnavailable) as caught:
        await house.store.maintenance.backup(str(tmp_path / "b"), force=True)
    assert caught.value.code == "backup_failed"
    monkeypatch.undo()
    asked = iter([False])
    with pytest.raises(StoreUnavailable, match="stopping"):
        await backup.make(place_of(house.url), tmp_path / "b", force=True, stopped=lambda: next(asked, True))
    # Nothing lies beside the earlier backup, and that is as it was.
    assert on_disk(tmp_path) == on_disk(tmp_path / "b") == before
