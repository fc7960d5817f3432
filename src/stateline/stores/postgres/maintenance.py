"""What an operator asks of the store. Copies are PostgreSQL's own affair: pg_dump, or its base backups."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from stateline.core.errors import StoreUnavailable
from stateline.core.limits import Retention
from stateline.ports import Backup, Progress, Pruned, StoreStatus
from stateline.stores.postgres import chunks, schema
from stateline.stores.postgres.connecting import Connection

_T = TypeVar("_T")


class _Run(Protocol):
    """Runs a job on a connection and gives its result."""

    async def __call__(self, job: Callable[[Connection], Awaitable[_T]], /) -> _T: ...


class PostgresMaintenance:
    """A ``stateline.ports.Maintenance`` over an open store.

    Args:
        read: runs a job that reads.
        apart: runs a job that writes, on a connection that the committer does not use.
        now_ms: Unix time; None: the database's own.
    """

    def __init__(self, read: _Run, apart: _Run, now_ms: Callable[[], int | None]) -> None:
        self._read = read
        self._apart = apart
        self._now_ms = now_ms

    def stop(self) -> None:
        """There is nothing that takes long."""

    async def prune(self, keep: Retention, *, dry_run: bool = False) -> Pruned:
        """Chunks alone, as yet; each node may do so, and the first one that does finds them."""

        async def job(db: Connection) -> int:
            now_ms = self._now_ms()
            at_ms = now_ms if now_ms is not None else await db.fetchval(_DATABASE_NOW_MS)
            before_ms = at_ms - keep.chunks_s * 1000
            if dry_run:
                return await db.fetchval("SELECT count(*) FROM stateline_chunks WHERE at_ms < $1", before_ms)
            return await chunks.prune(db, before_ms, now_ms)

        return Pruned(chunks=await (self._read(job) if dry_run else self._apart(job)))

    async def backup(self, target: str, *, force: bool = False, progress: Progress | None = None) -> Backup:
        raise StoreUnavailable(
            "a PostgreSQL database is copied by its own tools: pg_dump, or a base backup", code="backup_unsupported"
        )

    async def status(self) -> StoreStatus:
        async def job(db: Connection) -> StoreStatus:
            row = await db.fetchrow(
                "SELECT current_setting('server_version'), (SELECT count(*) FROM stateline_sessions),"
                " pg_database_size(current_database())"
            )
            assert row is not None
            return StoreStatus(
                kind="postgresql", version=row[0], schema_version=schema.VERSION, sessions=row[1], bytes=row[2]
            )

        return await self._read(job)


_DATABASE_NOW_MS = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
