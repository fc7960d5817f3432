"""What may be opened as a database, and what is refused with one line and left as it was."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from stateline.core.errors import StoreUnavailable
from stateline.core.ids import SessionRef
from stateline.ports import Balance, Hold, Ownership
from stateline.stores.sqlite import open_sqlite, opening, schema
from stateline.testing.store_rig import texts


async def refused(path: Path) -> StoreUnavailable:
    """The error of opening ``path``, which must say so in one line."""
    with pytest.raises(StoreUnavailable) as caught:
        await open_sqlite(path)
    assert "\n" not in caught.value.message
    assert caught.value.blame == "operator"
    return caught.value


async def refused_untouched(path: Path) -> StoreUnavailable:
    before = content(path)
    error = await refused(path)
    assert content(path) == before
    return error


def content(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mtime_ns


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def made(path: Path) -> Path:
    store = await open_sqlite(path)
    await store.create(SessionRef("t", "s"))
    await store.close()
    return path


async def test_the_first_open_makes_a_database_that_says_whose_it_is(tmp_path: Path) -> None:
    path = await made(tmp_path / "a.db")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert names(tmp_path) == ["a.db", "a.db.lock"]


async def test_an_empty_file_is_one_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    await made(tmp_path / "a.db")


async def test_what_an_interrupted_creation_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "a.db.new").write_bytes(b"half")
    (tmp_path / "a.db.new-journal").write_bytes(b"half")
    await made(tmp_path / "a.db")


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "a.db")
    code = (
        "import asyncio, sys\n"
        "from stateline.stores.sqlite import open_sqlite\n"
        "try: asyncio.run(open_sqlite(sys.argv[1]))\n"
        "except Exception as error: print(error.code, error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.db")]
    said = (await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)).stdout
    assert said.startswith("store_in_use")
    assert len(said.splitlines()) == 1
    await store.close()
    await made(tmp_path / "b.db")
    await (await open_sqlite(tmp_path / "a.db")).close()


@pytest.mark.parametrize("content", [b"hello", b"<html>" * 100, b"SQLite format 2\0" + bytes(200)])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.db").write_bytes(content)
    assert (await refused_untouched(tmp_path / "a.db")).code == "store_foreign"


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute("CREATE TABLE theirs (x)")
    assert (await refused_untouched(tmp_path / "a.db")).code == "store_foreign"
    assert not (tmp_path / "a.db.lock").exists()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = await made(tmp_path / "a.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    error = await refused_untouched(path)
    assert error.code == "store_newer"
    assert str(schema.VERSION + 1) in error.message


async def test_a_newer_schema_that_is_in_the_journal_alone_is_refused(tmp_path: Path) -> None:
    path = await made(tmp_path / "a.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            (tmp_path / f"b.db{suffix}").write_bytes(source.read_bytes())
    assert (await refused_untouched(tmp_path / "b.db")).code == "store_newer"


@pytest.mark.parametrize("damage", ["cut header", "cut file", "zeroed page", "garbage", "no tables"])
async def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = await made(tmp_path / "a.db")
    raw = bytearray(path.read_bytes())
    page = schema.PAGE_BYTES
    if damage == "cut header":
        raw = raw[:50]
    elif damage == "cut file":
        raw = raw[: len(raw) - page]
    elif damage == "zeroed page":
        raw[3 * page : 4 * page] = bytes(page)
    elif damage == "garbage":
        raw[page:] = os.urandom(len(raw) - page)
    path.write_bytes(raw)
    if damage == "no tables":
        with closing(sqlite3.connect(path)) as db:
            db.execute("DROP TABLE inbox")
            db.execute("PRAGMA journal_mode = DELETE")
            db.commit()
    error = await refused_untouched(path)
    assert error.code == "store_corrupt"
    assert "restore" in error.message


async def test_a_journal_without_its_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db-wal").write_bytes(b"x" * 100)
    assert (await refused(tmp_path / "a.db")).code == "store_corrupt"
    assert not (tmp_path / "a.db").exists()


async def test_places_that_cannot_hold_a_database_are_refused(tmp_path: Path) -> None:
    assert (await refused(tmp_path / "none" / "a.db")).code == "store_unwritable"
    assert (await refused(tmp_path)).code == "store_foreign"
    (tmp_path / "name").symlink_to(tmp_path / "name")
    assert (await refused(tmp_path / "name")).code == "store_unwritable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o500)
    assert (await refused(tmp_path / "a.db")).code == "store_unwritable"


def mounts(tmp_path: Path, *lines: tuple[str, str]) -> Path:
    file = tmp_path / "mountinfo"
    text = [f"36 35 98:0 / {point} rw,noatime master:1 - {kind} /dev/x rw" for point, kind in lines]
    file.write_text("\n".join(text) + "\n")
    return file


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_network_file_systems_are_refused(tmp_path: Path, kind: str) -> None:
    table = mounts(tmp_path, ("/", "ext4"), (str(tmp_path), kind))
    with pytest.raises(StoreUnavailable, match=kind) as caught:
        opening.check_place(tmp_path / "a.db", table)
    assert caught.value.code == "store_network_fs"


def test_the_innermost_and_latest_mount_counts(tmp_path: Path) -> None:
    point = tmp_path / "my disk"
    inner = point / "data"
    inner.mkdir(parents=True)
    escaped = str(point).replace(" ", "\\040")
    table = mounts(tmp_path, ("/", "nfs"), (escaped, "nfs"), (escaped, "xfs"))
    assert opening.filesystem(inner, table) == "xfs"
    assert opening.filesystem(tmp_path, table) == "nfs"
    assert opening.filesystem(inner, tmp_path / "none") is None


async def test_a_failing_migration_leaves_the_version_before_it(tmp_path: Path) -> None:
    path = await made(tmp_path / "a.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        more = ("CREATE TABLE added (x);\nCREATE INDEX added_x ON added (x);\n", "CREATE TABLE y (x);\nNONSENSE;\n")
        with pytest.raises(sqlite3.OperationalError):
            schema.migrate(db, (*schema.MIGRATIONS, *more))
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION + 1,)
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_schema")}
        assert {"added", "added_x"} < tables
        assert "y" not in tables
        assert not db.in_transaction


async def test_a_migration_killed_at_any_statement_starts_again(tmp_path: Path) -> None:
    """A process that dies inside a migration leaves a transaction that was never committed."""
    whole = schema.statements(schema.MIGRATIONS[0])
    assert len(whole) > 10
    for count in range(len(whole)):
        path = tmp_path / f"{count}.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            for statement in whole[:count]:
                db.execute(statement)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            schema.migrate(db)
            assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


async def test_a_database_of_a_release_without_balances_gets_them(tmp_path: Path) -> None:
    path = await made(tmp_path / "a.db")
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE balances; PRAGMA user_version = 2;")
    store = await open_sqlite(path)
    own = Ownership(session=SessionRef("t", "held"), owner="a", epoch=1, head=0)
    hold = Hold(budget="b", held=Decimal(1))
    await store.append(own, 0, texts(own.session, 1, 1), [hold], create=True)
    assert await store.balances(["b"]) == {"b": Balance(Decimal(1))}
    await store.close()


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 30, 0))
    with pytest.raises(StoreUnavailable, match="too old"):
        opening.open_writer(tmp_path / "a.db", 0)
