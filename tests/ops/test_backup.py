"""A backup is whole, of one instant, and can be put back; nothing else may happen to what is there."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio
from tests.ops.histories import Writing, dump, on_disk

from stateline.core import events as e
from stateline.core.errors import StoreUnavailable
from stateline.core.ids import SessionRef
from stateline.core.limits import BACKUP_COPY_BYTES
from stateline.ports import Hold
from stateline.stores.sqlite import SqliteStore, backup, open_sqlite, schema, writer
from stateline.testing.store_checks.log import picture
from stateline.testing.store_rig import START_MS


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    opened = await open_sqlite(tmp_path / "a.db")
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def writing(store: SqliteStore) -> Writing:
    """A store with a few sessions, one of them with large content and a hold, one of them owned."""
    made = Writing(store)
    for name in ("one", "two"):
        await made.turn(await made.create(name), START_MS, f"words of {name}")
    held = Hold(budget="budget/team/2027-01", held=Decimal("1.50"), spent=Decimal("0.000001"))
    await made.append(SessionRef("t", "two"), START_MS, picture("A"), picture("B"), holds=[held])
    await made.turn(await made.create("owned"), START_MS, release=False)
    return made


def error_of(caught: pytest.ExceptionInfo[StoreUnavailable]) -> str:
    assert "\n" not in caught.value.message
    assert caught.value.blame == "operator"
    return caught.value.code


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def hidden(folder: Path) -> list[str]:
    """What was left of a backup that was not finished."""
    return [name for name in names(folder) if name.startswith(".")]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def restored(folder: Path, database: Path, *, force: bool = False) -> dict[str, list[tuple[object, ...]]]:
    backup.restore(folder, database, force=force)
    return dump(database)


async def test_a_backup_is_what_was_there_and_can_be_put_back(
    store: SqliteStore, writing: Writing, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> None:
        seen.append((done, total))

    made = await store.maintenance.backup(tmp_path / "backup", progress=watch)
    assert (made.files, made.sessions, made.schema_version) == (4, 3, schema.VERSION)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0
    assert names(tmp_path / "backup") == ["manifest.json", "stateline.db", "stateline.db.blobs"]
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    before = dump(tmp_path / "a.db")
    (tmp_path / "other").mkdir()
    assert restored(tmp_path / "backup", tmp_path / "other" / "b.db") == before
    assert [row[2:4] for row in before["balances"]] == [("1.50", "0.000001")]
    again = await open_sqlite(tmp_path / "other" / "b.db")
    read = [event.body async for event in again.read(SessionRef("t", "two"))]
    assert read[-2:] == [picture("A"), picture("B")]
    # What ran when the backup was made goes on.
    assert [own.session.id for own in await again.claim("b", 10)] == ["owned"]
    await again.close()


async def test_a_backup_while_turns_are_written_is_of_one_instant(
    store: SqliteStore, writing: Writing, tmp_path: Path
) -> None:
    ref = await writing.create("busy")
    stop = False

    async def write() -> None:
        while not stop:
            await writing.turn(ref, START_MS, "x" * 2000)
            await writing.append(ref, START_MS, picture(chr(65 + writing.heads[ref] % 26)))

    task = asyncio.create_task(write())
    for number in range(5):
        target = tmp_path / f"backup{number}"
        await store.maintenance.backup(target)
        backup.verify(target)
        found = dump(target / "stateline.db")
        seqs = {row[4] for row in [*found["events"], *found["chunks"]] if row[0] == "busy"}
        assert seqs == {*range(1, len(seqs) + 1)}
    stop = True
    await task


async def test_an_existing_backup_is_replaced_only_by_force_and_anything_else_never(
    store: SqliteStore, writing: Writing, tmp_path: Path
) -> None:
    await store.maintenance.backup(tmp_path / "backup")
    before = on_disk(tmp_path / "backup")
    with pytest.raises(StoreUnavailable, match="--force") as caught:
        await store.maintenance.backup(tmp_path / "backup")
    assert error_of(caught) == "backup_exists"
    assert on_disk(tmp_path / "backup") == before
    await writing.turn(await writing.create("later"), START_MS)
    assert (await store.maintenance.backup(tmp_path / "backup", force=True)).sessions == 4
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with pytest.raises(StoreUnavailable, match="is no backup") as caught:
        await store.maintenance.backup(tmp_path / "precious", force=True)
    assert on_disk(tmp_path / "precious") == b"x"
    with pytest.raises(StoreUnavailable, match="does not exist"):
        await store.maintenance.backup(tmp_path / "no" / "where")
    assert hidden(tmp_path) == []


async def test_a_backup_that_fails_leaves_the_earlier_one(
    store: SqliteStore, writing: Writing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.maintenance.backup(tmp_path / "backup")
    before = on_disk(tmp_path / "backup")
    lost = files(tmp_path / "a.db.blobs")[0]
    content = lost.read_bytes()
    for damage in (b"changed", None):
        lost.unlink()
        if damage is not None:
            lost.write_bytes(damage)
        with pytest.raises(StoreUnavailable) as caught:
            await store.maintenance.backup(tmp_path / "backup", force=True)
        assert error_of(caught) == "blob_lost"
    lost.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(backup.os, "fsync", _no_space)
        with pytest.raises(StoreUnavailable, match="No space") as caught:
            await store.maintenance.backup(tmp_path / "backup", force=True)
    assert error_of(caught) == "backup_failed"
    assert on_disk(tmp_path / "backup") == before
    assert hidden(tmp_path) == []


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


async def test_what_a_dead_process_left_of_a_backup_is_no_hindrance(
    store: SqliteStore, writing: Writing, tmp_path: Path
) -> None:
    for name in (".backup.partial", ".backup.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    await store.maintenance.backup(tmp_path / "backup")
    backup.verify(tmp_path / "backup")
    assert hidden(tmp_path) == []


async def test_a_stop_ends_a_backup(store: SqliteStore, writing: Writing, tmp_path: Path) -> None:
    store.maintenance.stop()
    with pytest.raises(StoreUnavailable, match="stopping"):
        await store.maintenance.backup(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_an_erasure_during_a_backup_holds_nobody_up_and_is_whole_afterwards(
    store: SqliteStore, writing: Writing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup reads an earlier instant: its rows and files must stay until it is done, and no longer."""
    monkeypatch.setattr(writer, "SCRUB_RETRY_MS", 0)
    monkeypatch.setattr(writer, "SCRUB_WAIT_MS", 10)
    reached, go_on = threading.Event(), threading.Event()
    copy = backup.Making._copy_database  # pyright: ignore[reportPrivateUsage]

    def halted(self: backup.Making, target: Path) -> None:
        with closing(sqlite3.connect(f"file:{tmp_path / 'a.db'}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN").execute("SELECT * FROM sessions").fetchone()
            copy(self, target)
            reached.set()
            assert go_on.wait(20)

    monkeypatch.setattr(backup.Making, "_copy_database", halted)
    making = asyncio.create_task(store.maintenance.backup(tmp_path / "backup"))
    assert await asyncio.to_thread(reached.wait, 20)
    await store.erase(SessionRef("t", "two"))
    await writing.turn(SessionRef("t", "one"), START_MS)
    assert b"words of two" in (tmp_path / "a.db-wal").read_bytes()
    go_on.set()
    assert (await making).files == 4
    backup.verify(tmp_path / "backup")
    await writing.turn(SessionRef("t", "one"), START_MS)
    shutil.rmtree(tmp_path / "backup")
    await store.maintenance.backup(tmp_path / "next")
    assert b"words of two" not in on_disk(tmp_path)
    assert files(tmp_path / "a.db.blobs") == []


async def test_a_large_file_is_copied_in_pieces(store: SqliteStore, tmp_path: Path) -> None:
    made = Writing(store)
    ref = await made.create("s")
    await made.append(ref, START_MS, picture("A", 2 * BACKUP_COPY_BYTES + 10))
    seen: list[int] = []
    await store.maintenance.backup(tmp_path / "backup", progress=lambda done, _: seen.append(done))
    assert len(seen) >= 6
    backup.verify(tmp_path / "backup")


# -- the way back --------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def made(store: SqliteStore, writing: Writing, tmp_path: Path) -> Path:
    await store.maintenance.backup(tmp_path / "backup")
    return tmp_path / "backup"


@pytest.mark.parametrize(
    "damage", ["manifest", "database", "cut", "page", "newer", "version", "file", "lost", "folder"]
)
async def test_a_damaged_backup_is_refused_and_nothing_is_touched(made: Path, tmp_path: Path, damage: str) -> None:
    database = made / "stateline.db"
    blob = files(made / "stateline.db.blobs")[0]
    raw = bytearray(database.read_bytes())
    match damage:
        case "manifest":
            (made / "manifest.json").write_text("{}")
        case "database":
            database.unlink()
        case "cut":
            database.write_bytes(raw[: len(raw) - schema.PAGE_BYTES])
        case "page":
            raw[3 * schema.PAGE_BYTES : 4 * schema.PAGE_BYTES] = bytes(schema.PAGE_BYTES)
            database.write_bytes(raw)
        case "newer" | "version":
            with closing(sqlite3.connect(database)) as db:
                db.execute(f"PRAGMA user_version = {schema.VERSION + 1 if damage == 'newer' else 0}")
        case "file":
            blob.write_bytes(b"other content")
        case "lost":
            blob.unlink()
        case _:
            made = tmp_path / "nothing"
    target = tmp_path / "new" / "b.db"
    target.parent.mkdir()
    with pytest.raises(StoreUnavailable) as caught:
        backup.restore(made, target, force=True)
    assert error_of(caught) in ("backup_invalid", "blob_lost", "store_corrupt", "store_newer")
    assert names(target.parent) == ["b.db.lock"]


async def test_a_database_in_use_is_never_replaced(made: Path, tmp_path: Path) -> None:
    before = dump(tmp_path / "a.db")
    with pytest.raises(StoreUnavailable) as caught:
        backup.restore(made, tmp_path / "a.db", force=True)
    assert error_of(caught) == "store_in_use"
    assert dump(tmp_path / "a.db") == before


async def test_an_existing_database_is_replaced_only_by_force(
    store: SqliteStore, writing: Writing, made: Path, tmp_path: Path
) -> None:
    before = dump(tmp_path / "a.db")
    await writing.turn(await writing.create("later"), START_MS)
    await store.close()
    with pytest.raises(StoreUnavailable, match="--force") as caught:
        backup.restore(made, tmp_path / "a.db", force=False)
    assert error_of(caught) == "store_exists"
    assert "later" in {row[0] for row in dump(tmp_path / "a.db")["sessions"]}
    assert restored(made, tmp_path / "a.db", force=True) == before
    again = await open_sqlite(tmp_path / "a.db")
    await again.close()


async def test_a_journal_of_the_old_database_does_not_reach_the_new_one(made: Path, tmp_path: Path) -> None:
    """As a process leaves it that was killed."""
    before = dump(made / "stateline.db")
    old = tmp_path / "old" / "b.db"
    old.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{tmp_path / 'a.db'}{suffix}", f"{old}{suffix}")
    assert old.with_name("b.db-wal").stat().st_size > 0
    assert restored(made, old, force=True) == before
    again = await open_sqlite(old)
    await again.close()


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + bytes(200)])
async def test_the_file_of_another_program_is_not_replaced_by_force(made: Path, tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "b.db"
    target.write_bytes(content)
    with pytest.raises(StoreUnavailable) as caught:
        backup.restore(made, target, force=True)
    assert error_of(caught) == "store_foreign"
    assert target.read_bytes() == content


async def test_a_damaged_database_is_replaced_by_force(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.db"
    target.write_bytes((made / "stateline.db").read_bytes()[:3000])
    assert restored(made, target, force=True) == dump(made / "stateline.db")


@pytest.mark.parametrize("step", ["replace", "unlink", "fsync"])
async def test_a_restore_that_fails_anywhere_leaves_the_old_database_or_the_new_one(
    writing: Writing, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await writing.turn(await writing.create("later"), START_MS)
    await writing.store.close()
    old, new = dump(tmp_path / "a.db"), dump(made / "stateline.db")
    real = getattr(Path if step != "fsync" else backup.os, step)
    for count in range(40):
        calls = 0

        def fails(*args: object, limit: int = count, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise OSError(5, "Input/output error")
            return real(*args, **options)

        shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-{count}")
        folder = tmp_path.parent / f"{tmp_path.name}-{count}"
        with monkeypatch.context() as patch:
            patch.setattr(Path if step != "fsync" else backup.os, step, fails)
            try:
                backup.restore(made, folder / "a.db", force=True)
                finished = True
            except StoreUnavailable:
                finished = False
        assert dump(folder / "a.db") in ([new] if finished else [old, new])
        await (await open_sqlite(folder / "a.db")).close()
        if finished:
            return
    raise AssertionError("it never came to its end")


async def test_what_was_erased_is_not_in_a_later_backup(store: SqliteStore, writing: Writing, tmp_path: Path) -> None:
    await store.maintenance.backup(tmp_path / "first")
    await writing.append(SessionRef("t", "one"), START_MS, e.SessionUpdated(metadata={"said": "more"}))
    await store.erase(SessionRef("t", "one"))
    await store.maintenance.backup(tmp_path / "second")
    assert b"words of one" in on_disk(tmp_path / "first")
    assert b"words of one" not in on_disk(tmp_path / "second")
