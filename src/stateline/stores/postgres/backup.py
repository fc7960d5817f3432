"""A backup: a folder with each table as PostgreSQL's binary COPY writes it, and a manifest.

All tables are read in one transaction, so a backup is of one instant and may be taken while nodes serve; no
program of the database's is needed, and a pooler may stand between. What belongs to running processes alone
(leases, the last commits of writers) is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec

from stateline.core.errors import StoreUnavailable
from stateline.core.limits import BACKUP_COPY_BYTES
from stateline.ports import Backup, Progress
from stateline.stores.backups import MANIFEST, Folder
from stateline.stores.postgres import chunks, connecting, opening, schema, walls
from stateline.stores.postgres.clock import now_sql
from stateline.stores.postgres.connecting import Connection, Place

TABLES = (
    "meta",
    "tenants",
    "sessions",
    "events",
    "snapshots",
    "chunks",
    "inbox",
    "dedup",
    "blobs",
    "blob_refs",
    "balances",
    "readers",
)
"""What is copied, in the order in which it is put back; without the prefix."""
_SINCE = {"balances": 3, "readers": 4}
"""The schema version that first had a table, where it was not the first."""
_OF_PROCESSES = ("nodes", "writers")
_COLUMNS = (
    "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"
    " ORDER BY attnum"
)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table's file. ``columns`` are as that release had them; later ones have defaults."""

    columns: tuple[str, ...]
    rows: int
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself. ``created_at`` is Unix seconds; ``last_session`` is never used again."""

    kind: Literal["postgresql"]
    format: Literal[1] = 1
    created_at: int
    schema_version: int
    sessions: int
    blobs: int
    last_session: int
    chunk_parts: tuple[int, ...]
    tables: dict[str, Table]

    @property
    def bytes(self) -> int:
        return sum(table.bytes for table in self.tables.values())


async def make(
    place: Place,
    target: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    now_ms: int | None = None,
) -> Backup:
    """Copy the database into a new folder, on a connection of its own. It writes and syncs files as it goes.

    Raises:
        StoreUnavailable: ``backup_exists`` or ``backup_failed``; nothing is left, and an earlier backup is as it was.
    """
    folder = Folder(target, force=force)
    progress = progress or _nobody
    db = await connecting.connect(place)
    try:
        with folder.filled(_words) as path:
            await db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            manifest = await _copy(db, path, progress, stopped, now_ms)
            (path / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    finally:
        await connecting.close(db)
    progress(manifest.bytes, manifest.bytes)
    return _shown(folder.target, manifest)


def _nobody(done: int, total: int) -> None:
    """Nobody watches."""


async def _copy(
    db: Connection, path: Path, progress: Progress, stopped: Callable[[], bool], now_ms: int | None
) -> Manifest:
    total = int(
        await db.fetchval(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c"
            " WHERE c.relname LIKE 'stateline\\_%' AND c.relkind = 'r' AND pg_table_is_visible(c.oid)"
        )
    )
    copying = _Copying(db, path, progress, stopped, total)
    tables = {name: await copying.table(name) for name in TABLES}
    found = await db.fetchrow(f"SELECT {now_sql()}, (SELECT last_value FROM stateline_session_numbers)", now_ms)
    assert found is not None
    return Manifest(
        kind="postgresql",
        created_at=found[0] // 1000,
        schema_version=int(await db.fetchval("SELECT max(version) FROM stateline_schema")),
        sessions=tables["sessions"].rows,
        blobs=tables["blobs"].rows,
        last_session=found[1],
        chunk_parts=tuple(part.number for part in await chunks.parts(db)),
        tables=tables,
    )


class _Copying:
    """Writes tables into files, and tells how far it is."""

    def __init__(
        self, db: Connection, folder: Path, progress: Progress, stopped: Callable[[], bool], total: int
    ) -> None:
        self._db = db
        self._folder = folder
        self._progress = progress
        self._stopped = stopped
        self._total = total
        self._done = 0

    async def table(self, name: str) -> Table:
        columns = tuple(row[0] for row in await self._db.fetch(_COLUMNS, f"stateline_{name}"))
        digest, begun = hashlib.sha256(), self._done
        with (self._folder / f"{name}.copy").open("wb") as file:

            async def write(data: bytes) -> None:
                if self._stopped():
                    raise InterruptedError(0, "the server is stopping")
                file.write(data)
                digest.update(data)
                self._done += len(data)
                self._progress(self._done, max(self._total, self._done))

            query = f"SELECT {', '.join(columns)} FROM stateline_{name}"
            tag = await self._db.copy_from_query(query, output=write, format="binary")
        size = self._done - begun
        return Table(columns=columns, rows=int(tag.split()[-1]), bytes=size, sha256=digest.hexdigest())


# -- the way back --------------------------------------------------------------------------------------


def verify(folder: Path) -> Manifest:
    """Check a backup whole: its manifest, and each table's file by its hash.

    Raises:
        StoreUnavailable: ``backup_invalid``.
    """
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise _invalid(f"{folder} is no backup of a PostgreSQL database: {MANIFEST}: {error}") from None
    if not 1 <= manifest.schema_version <= schema.VERSION:
        raise _invalid(f"{folder} has schema version {manifest.schema_version}, this release knows {schema.VERSION}")
    if manifest.tables.keys() != {name for name in TABLES if _SINCE.get(name, 1) <= manifest.schema_version}:
        raise _invalid(f"{folder} has not the tables of a backup")
    for name, table in manifest.tables.items():
        try:
            with (folder / f"{name}.copy").open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == table.sha256
        except OSError as error:
            raise _invalid(f"{folder} is damaged: {name}.copy: {error.strerror}") from None
        if not whole:
            raise _invalid(f"{folder} is damaged: {name}.copy has changed")
    return manifest


async def restore(url: str, folder: Path, *, force: bool, progress: Progress | None = None) -> Backup:
    """Put a verified backup in the place of what the database has, whole or not at all. No node may run on it.

    Raises:
        StoreUnavailable: ``store_in_use``, ``store_exists``, ``backup_invalid``, ``backup_failed``, or what keeps
            the database from being used; nothing was changed.
    """
    manifest = verify(folder)
    place = connecting.place_of(url)
    db = await connecting.connect(place)
    try:
        await opening.prepare(db, place, None)
        async with _transaction(db, folder):
            # Nodes that start now wait for this, and find what was restored.
            await db.execute(f"SELECT pg_advisory_xact_lock({schema.LOCK})")
            await db.execute("LOCK TABLE stateline_nodes IN ACCESS EXCLUSIVE MODE")
            await _check_replaceable(db, place.shown, force=force)
            await _put_back(db, folder, manifest, progress)
    finally:
        await connecting.close(db)
    return _shown(folder, manifest)


@asynccontextmanager
async def _transaction(db: Connection, folder: Path) -> AsyncGenerator[None]:
    await db.execute("BEGIN")
    try:
        yield
        await db.execute("COMMIT")
    except BaseException as error:
        if not db.is_closed():
            await db.execute("ROLLBACK")
        if (words := _words(error)) is None:
            raise
        raise StoreUnavailable(f"{folder} was not restored: {words}", code="backup_failed") from error


async def _check_replaceable(db: Connection, shown: str, *, force: bool) -> None:
    living = await db.fetchval(f"SELECT count(*) FROM stateline_nodes WHERE expires_ms > {now_sql()}", None)
    if living:
        raise StoreUnavailable(
            f"{living} nodes run on {shown}; stop them, and wait until their leases are over", code="store_in_use"
        )
    if not force and await db.fetchval("SELECT EXISTS (SELECT 1 FROM stateline_sessions)"):
        raise StoreUnavailable(
            f"{shown} has sessions already; --force replaces them by the backup", code="store_exists"
        )


async def _put_back(db: Connection, folder: Path, manifest: Manifest, progress: Progress | None) -> None:
    names = ", ".join(f"stateline_{name}" for name in (*TABLES, *_OF_PROCESSES))
    await db.execute(f"TRUNCATE {names}")
    await chunks.make_missing(db, manifest.chunk_parts)
    lifted = await walls.lift(db)
    done = 0
    for name in TABLES:
        if (table := manifest.tables.get(name)) is None:
            continue  # An older release had none of it.

        async def pieces(path: Path = folder / f"{name}.copy") -> AsyncIterator[bytes]:
            nonlocal done
            with path.open("rb") as file:
                while piece := file.read(BACKUP_COPY_BYTES):
                    done += len(piece)
                    if progress is not None:
                        progress(done, manifest.bytes)
                    yield piece

        await db.copy_to_table(f"stateline_{name}", source=pieces(), columns=list(table.columns), format="binary")
    await walls.force(db, lifted)
    await db.execute("SELECT setval('stateline_session_numbers', $1)", manifest.last_session)
    await db.execute(
        "SELECT setval(pg_get_serial_sequence('stateline_tenants', 'n'), greatest(max(n), 1)) FROM stateline_tenants"
    )


# -- what both ways share ------------------------------------------------------------------------------


def _shown(folder: Path, manifest: Manifest) -> Backup:
    return Backup(
        path=str(folder),
        bytes=manifest.bytes,
        files=manifest.blobs,
        sessions=manifest.sessions,
        created_at=manifest.created_at,
        schema_version=manifest.schema_version,
    )


def _words(error: BaseException) -> str | None:
    return connecting.reason_of(error) if connecting.is_theirs(error) else None


def _invalid(message: str) -> StoreUnavailable:
    return StoreUnavailable(message, code="backup_invalid")
