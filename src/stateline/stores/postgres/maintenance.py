"""What an operator asks of the store: the retention's walk, a backup, and how large it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from stateline.core.ids import SessionRef
from stateline.core.limits import Retention
from stateline.ports import Backup, Progress, Pruned, StoreStatus, Witness
from stateline.stores.postgres import backup, chunks, retention, schema
from stateline.stores.postgres.connecting import Connection, Place
from stateline.stores.retention import END, Cutoffs, Seen, cutoffs

_T = TypeVar("_T")


class _Run(Protocol):
    """Runs a job on a connection and gives its result."""

    async def __call__(self, job: Callable[[Connection], Awaitable[_T]], /) -> _T: ...


class PostgresMaintenance:
    """A ``stateline.ports.Maintenance`` over an open store.

    Args:
        place: where a backup connects to.
        read: runs a job that reads.
        apart: runs a job that writes, on a connection that the committer does not use.
        retire: takes a session away if it is as it was seen; whether it was.
        now_ms: Unix time; None: the database's own.
    """

    def __init__(
        self,
        place: Place,
        read: _Run,
        apart: _Run,
        retire: Callable[[SessionRef, Seen], Awaitable[bool]],
        now_ms: Callable[[], int | None],
    ) -> None:
        self._place = place
        self._read = read
        self._apart = apart
        self._retire = retire
        self._pruning = asyncio.Lock()
        self._stop = False
        self._now_ms = now_ms

    def stop(self) -> None:
        """End a backup that is being made."""
        self._stop = True

    async def prune(self, keep: Retention, *, dry_run: bool = False, witness: Witness | None = None) -> Pruned:
        """See the port. Each node may do so; the first one that finds something over takes it away."""

        async def walk(db: Connection) -> Pruned:
            now_ms = self._now_ms()
            at_ms = now_ms if now_ms is not None else await db.fetchval(_DATABASE_NOW_MS)
            limits = cutoffs(keep, at_ms)
            over = chunks.count if dry_run else chunks.prune
            chunk_count = await over(db, limits.chunks_ms, now_ms)
            erased = await self._over(db, limits, witness, dry_run=dry_run)
            snapshots = await self._stale(db, limits, dry_run=dry_run)
            gone = () if dry_run else tuple(erased)
            return Pruned(chunks=chunk_count, sessions=len(erased), snapshots=snapshots, erased=gone)

        if dry_run:
            return await self._read(walk)
        async with self._pruning:
            return await self._apart(walk)

    async def _over(
        self, db: Connection, limits: Cutoffs, witness: Witness | None, *, dry_run: bool
    ) -> list[SessionRef]:
        out: list[SessionRef] = []
        gone: set[int] = set()
        looks = (retention.deleted,) if limits.idle_ms is None else (retention.deleted, retention.idle)
        for look in looks:
            below: int | None = END
            while below is not None:
                found = await look(db, limits, below, gone)
                sees = None if dry_run or not found.over else witness
                if sees is not None:
                    await sees.keep([ref for ref, _ in found.over])
                went = [ref for ref, seen in found.over if dry_run or await self._retire(ref, seen)]
                if sees is not None:
                    await sees.forget(went)
                out += went
                below = found.below
        return out

    async def _stale(self, db: Connection, limits: Cutoffs, *, dry_run: bool) -> int:
        count = 0
        after: int | None = 0
        while after is not None:
            stale, after = await retention.stale_snapshots(db, limits.snapshots_ms, after)
            if stale:
                count += len(stale) if dry_run else await retention.drop_snapshots(db, stale)
        return count

    async def backup(self, target: str, *, force: bool = False, progress: Progress | None = None) -> Backup:
        """See the port; the work is done on a thread of its own, since it writes files."""
        made = backup.make(
            self._place,
            Path(target),
            force=force,
            progress=progress,
            stopped=lambda: self._stop,
            now_ms=self._now_ms(),
        )
        return await asyncio.to_thread(asyncio.run, made)

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
