"""What an operator asks of the store: the retention's walk, a backup, and how large it is."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from stateline.core.ids import SessionRef
from stateline.core.limits import Retention
from stateline.ports import Backup, Clock, Progress, Pruned, StoreStatus, Witness
from stateline.stores.retention import END, Cutoffs, Seen, cutoffs
from stateline.stores.sqlite import backup, schema
from stateline.stores.sqlite.blobs import Blobs
from stateline.stores.sqlite.pruning import Prune, count_chunks
from stateline.stores.sqlite.reader import Readers
from stateline.stores.sqlite.requests import Request
from stateline.stores.sqlite.retention import Retire, Stale, Sweep, Swept, refs_of, stale_snapshots, survey


class SqliteMaintenance:
    """A ``stateline.ports.Maintenance`` over an open store.

    Args:
        submit: queues a request for the writer.
        drop: deletes large content that lost its last reference.
    """

    def __init__(
        self,
        blobs: Blobs,
        readers: Readers,
        clock: Clock,
        submit: Callable[[Request], Coroutine[Any, Any, Any]],
        drop: Callable[[Iterable[str]], Coroutine[Any, Any, None]],
    ) -> None:
        self._blobs = blobs
        self._readers = readers
        self._clock = clock
        self._submit = submit
        self._drop = drop
        self._pruning = asyncio.Lock()
        self._stop = False

    def stop(self) -> None:
        """End a backup that is being made."""
        self._stop = True

    # -- retention ---------------------------------------------------------------------------------

    async def prune(self, keep: Retention, *, dry_run: bool = False, witness: Witness | None = None) -> Pruned:
        """See the port. One walk at a time; what was cut short before is finished."""
        limits = cutoffs(keep, self._clock.now_ms())
        async with self._pruning:
            if dry_run:
                return await self._readers.run(partial(_count, cutoffs=limits))
            chunks = await self.prune_chunks(limits.chunks_ms)
            erased = await self._erase(limits, witness)
            snapshots = await self._prune_snapshots(limits.snapshots_ms)
        return Pruned(chunks=chunks, sessions=len(erased), snapshots=snapshots, erased=tuple(erased))

    async def prune_chunks(self, before_ms: int) -> int:
        """Delete chunks written before ``before_ms`` (Unix time) of sessions that are at rest; how many."""
        pruned, after = 0, 0
        while after is not None:
            some, after = await self._submit(Prune(before_ms, after))
            pruned += some
        return pruned

    async def _erase(self, limits: Cutoffs, witness: Witness | None) -> list[SessionRef]:
        erased: list[SessionRef] = []
        gone: set[int] = set()
        below: int | None = END
        while below is not None:
            found = await self._readers.run(partial(survey, cutoffs=limits, below=below, gone=gone))
            if found.over and witness is not None:
                await witness.keep(await self._readers.run(partial(refs_of, over=found.over)))
            if found.over or found.partly:
                retired: list[SessionRef] = await self._submit(Retire(found.over, found.partly))
                erased += retired
                if retired and witness is not None:
                    await witness.forget(retired)
            below = found.below
        swept = Swept([], True)
        while swept.more:
            swept = await self._submit(Sweep())
            if swept.names:
                await self._drop(swept.names)
        return erased

    async def _prune_snapshots(self, before_ms: int) -> int:
        pruned, after = 0, 0
        while after is not None:
            stale, after = await self._readers.run(partial(stale_snapshots, before_ms=before_ms, after=after))
            if stale:
                pruned += await self._submit(Stale(stale))
        return pruned

    # -- copies and sizes ----------------------------------------------------------------------------

    async def backup(self, target: str | Path, *, force: bool = False, progress: Progress | None = None) -> Backup:
        """See the port; the work is done on a thread of its own."""
        made = backup.Making(
            self._blobs.database, Path(target), force=force, progress=progress, stopped=lambda: self._stop
        )
        with self._blobs.held():
            result = await asyncio.to_thread(made.run, self._clock.now_ms())
        await self._drop(())
        return result

    async def status(self) -> StoreStatus:
        def look(db: sqlite3.Connection) -> int:
            return db.execute("SELECT count(*) FROM sessions").fetchone()[0]

        database = self._blobs.database
        return StoreStatus(
            kind="sqlite",
            version=sqlite3.sqlite_version,
            schema_version=schema.VERSION,
            sessions=await self._readers.run(look),
            bytes=await asyncio.to_thread(backup.size_of, database),
        )


def _count(db: sqlite3.Connection, cutoffs: Cutoffs) -> Pruned:
    """What a walk would take away."""
    gone: set[int] = set()
    below: int | None = END
    found: list[Seen] = []
    while below is not None:
        seen = survey(db, cutoffs, below, gone)
        found += seen.over
        below = seen.below
    after: int | None = 0
    snapshots = 0
    while after is not None:
        stale, after = stale_snapshots(db, cutoffs.snapshots_ms, after)
        snapshots += len(stale)
    return Pruned(chunks=count_chunks(db, cutoffs.chunks_ms), sessions=len(found), snapshots=snapshots)
