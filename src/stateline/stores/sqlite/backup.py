"""A backup: a folder with a compact copy of the database, its large content, and a manifest.

The copy is made by ``VACUUM INTO`` in one reading, so it is of one instant, holds no free page, and may be
taken while others write. Everything is synced before the folder gets its name, so a folder with that name
is whole.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from stateline.core.blobs import blob_name, tenant_key
from stateline.core.errors import StoreUnavailable
from stateline.core.limits import BACKUP_COPY_BYTES
from stateline.ports import Backup, Progress
from stateline.stores.backups import MANIFEST, Folder, sync_folder
from stateline.stores.sqlite import opening, schema

DATABASE = "stateline.db"
BLOBS = "stateline.db.blobs"
_TICK = 200_000
"""Steps of SQLite's machine between two looks at how far the copy is."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself. ``created_at`` is Unix seconds."""

    format: int = 1
    created_at: int
    schema_version: int
    sessions: int
    files: int
    bytes: int


class Making:
    """One backup that is made.

    Args:
        database: it may be in use.
        target: the folder to make; its parent must be there.
        force: replace an earlier backup of that name once the new one is whole.
        stopped: asked now and then; True ends the work.
    """

    def __init__(
        self, database: Path, target: Path, *, force: bool, progress: Progress | None, stopped: Callable[[], bool]
    ) -> None:
        self._database = database
        self._folder = Folder(target, force=force)
        self._progress = progress or nothing
        self._stopped = stopped
        self._done = 0
        self._total = size_of(database)

    def run(self, now_ms: int) -> Backup:
        """Make it. Where that fails, nothing is left of it and an earlier backup is as it was.

        Raises:
            StoreUnavailable: ``backup_exists``, ``backup_failed`` or ``blob_lost``, in one line.
        """
        with self._folder.filled(lambda error: str(error) if isinstance(error, sqlite3.Error) else None) as folder:
            made = self._fill(folder, now_ms)
        self._progress(self._total, self._total)
        return made

    def _fill(self, folder: Path, now_ms: int) -> Backup:
        copy = folder / DATABASE
        self._copy_database(copy)
        with contextlib.closing(opening.connect(copy, "ro")) as db:
            sessions: int = db.execute("SELECT count(*) FROM sessions").fetchone()[0]
            version: int = db.execute("PRAGMA user_version").fetchone()[0]
            files = self._copy_blobs(folder, db)
        manifest = Manifest(
            created_at=now_ms // 1000,
            schema_version=version,
            sessions=sessions,
            files=files,
            bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        )
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
        return shown(self._folder.target, manifest)

    def _copy_database(self, copy: Path) -> None:
        def look() -> bool:
            with contextlib.suppress(OSError):
                self._say(copy.stat().st_size)
            return self._stopped()

        with contextlib.closing(opening.connect(self._database, "ro")) as db:
            db.set_progress_handler(look, _TICK)
            db.execute("VACUUM INTO ?", (str(copy),))
        self._done = copy.stat().st_size

    def _copy_blobs(self, folder: Path, db: sqlite3.Connection) -> int:
        source = blob_folder(self._database)
        count = 0
        for name, key in references(db):
            target = folder / BLOBS / name[:2] / name
            target.parent.mkdir(parents=True, exist_ok=True)
            check_blob(source / name[:2] / name, name, key)
            with (source / name[:2] / name).open("rb") as file, target.open("wb") as out:
                self._copy(file, out)
            count += 1
        return count

    def _copy(self, file: BinaryIO, out: BinaryIO) -> None:
        while piece := file.read(BACKUP_COPY_BYTES):
            if self._stopped():
                raise InterruptedError(0, "the server is stopping")
            out.write(piece)
            self._done += len(piece)
            self._say(0)

    def _say(self, more: int) -> None:
        done = self._done + more
        # The database may have free pages, which are not copied, or grow meanwhile.
        self._total = max(self._total, done)
        self._progress(done, self._total)


def nothing(done: int, total: int) -> None:
    """Nobody watches."""


# -- what both ways share ------------------------------------------------------------------------------


def blob_folder(database: Path) -> Path:
    return database.with_name(database.name + ".blobs")


def references(db: sqlite3.Connection) -> Iterator[tuple[str, bytes]]:
    """The names of all large content that the database refers to, each with its tenant's key."""
    secret: bytes = db.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()[0]
    rows = db.execute("SELECT DISTINCT b.name, t.name FROM blob_refs b JOIN tenants t ON t.n = b.tenant ORDER BY 1")
    for name, tenant in rows:
        yield name, tenant_key(secret, tenant)


def check_blob(path: Path, name: str, key: bytes) -> None:
    """Refuse a file that is gone or is not what its name says.

    Raises:
        StoreUnavailable: ``blob_lost``.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        why = "it is gone"
    else:
        if blob_name(key, content) == name:
            return
        why = "its content has changed"
    raise StoreUnavailable(f"the large content {path} cannot be used: {why}", code="blob_lost")


def size_of(database: Path) -> int:
    """Bytes of the database, its journal and its large content."""
    paths = [database, database.with_name(database.name + "-wal"), *blob_folder(database).rglob("*")]
    size = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def shown(folder: Path, manifest: Manifest) -> Backup:
    return Backup(
        path=str(folder),
        bytes=manifest.bytes,
        files=manifest.files,
        sessions=manifest.sessions,
        created_at=manifest.created_at,
        schema_version=manifest.schema_version,
    )


# -- the way back --------------------------------------------------------------------------------------


def verify(folder: Path) -> Manifest:
    """Check a backup whole: its manifest, its database page by page, and each file of large content.

    Raises:
        StoreUnavailable: ``backup_invalid``, or what is wrong with its database.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise opening.refuse("backup_invalid", f"{folder} is no backup: {MANIFEST}: {error}") from None
    database = folder / DATABASE
    if not opening.check_file(database):
        raise opening.refuse("backup_invalid", f"{database} is missing or empty")
    try:
        with contextlib.closing(opening.connect(database, "ro")) as db:
            found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise opening.refuse("backup_invalid", f"{database} is damaged: {' '.join(str(found).split())}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if not 1 <= version <= schema.VERSION or version != manifest.schema_version:
                raise opening.refuse("backup_invalid", f"{database} has schema version {version}")
            for name, key in references(db):
                check_blob(folder / BLOBS / name[:2] / name, name, key)
    except sqlite3.Error as error:
        raise opening.refuse("backup_invalid", f"{database} is damaged: {error}") from None
    return manifest


def restore(folder: Path, database: Path, *, force: bool, progress: Progress | None = None) -> Backup:
    """Put a verified backup in a database's place. At any crash either the old or the new one is there, whole.

    Raises:
        StoreUnavailable: ``store_in_use``, ``store_exists``, ``backup_invalid``, ``blob_lost``; nothing was changed.
    """
    database = database.absolute()
    opening.check_place(database)
    lock = opening.lock(database)
    try:
        _check_replaceable(database, force=force)
        manifest = verify(folder)
        _put_back(folder, database, manifest, progress or nothing)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise opening.refuse("backup_failed", f"{folder} was not restored: {reason}") from error
    finally:
        lock.close()
    return shown(folder, manifest)


def _check_replaceable(database: Path, *, force: bool) -> None:
    if not database.exists() or not database.stat().st_size:
        return
    if not force:
        raise opening.refuse("store_exists", f"{database} is there already; --force replaces it by the backup")
    try:
        opening.check_file(database)
    except StoreUnavailable as error:
        # One that is damaged, or of a newer release, is what a backup is for; another program's is not ours.
        if error.code == "store_foreign":
            raise


def _put_back(folder: Path, database: Path, manifest: Manifest, progress: Progress) -> None:
    new = database.with_name(database.name + ".restoring")
    done = 0
    # Files are named by their content and an installation's secret, so the old database's are no hindrance.
    for path in [*(folder / BLOBS).rglob("*"), folder / DATABASE]:
        if not path.is_file():
            continue
        target = new if path.name == DATABASE else blob_folder(database) / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        with path.open("rb") as file, temporary.open("wb") as out:
            while piece := file.read(BACKUP_COPY_BYTES):
                out.write(piece)
                done += len(piece)
                progress(done, manifest.bytes)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    if (blobs := blob_folder(database)).is_dir():
        sync_folder(blobs)
    _without_journal(database)
    new.replace(database)
    sync_folder(database.parent)
    progress(manifest.bytes, manifest.bytes)


def _without_journal(database: Path) -> None:
    """Carry the old journal into the old database: beside the new one it would destroy it."""
    journal = database.with_name(database.name + "-wal")
    if journal.exists() and database.exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(opening.connect(database, "rw")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    sync_folder(database.parent)
