"""The store on one SQLite file: requests to the writer, pages from the readers, memory for followers."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, Any

from stateline.core.blobs import MARK
from stateline.core.errors import StatelineError
from stateline.core.events import Event
from stateline.core.ids import SessionRef
from stateline.core.limits import BLOB_GRACE_S, TAIL_READS_MAX
from stateline.ports import Balance, Clock, Duplicate, Hold, Ownership, Posted, Watch
from stateline.stores.clock import SystemClock
from stateline.stores.recent import Recent
from stateline.stores.rules import is_unreadable, log_unreadable
from stateline.stores.sqlite import opening
from stateline.stores.sqlite.blobs import Blobs
from stateline.stores.sqlite.claiming import Claim, Claimed, SetAside
from stateline.stores.sqlite.maintenance import SqliteMaintenance
from stateline.stores.sqlite.reader import Readers
from stateline.stores.sqlite.requests import (
    Append,
    Create,
    Erase,
    Post,
    Release,
    Renew,
    Request,
)
from stateline.stores.sqlite.writer import Writer

log = logging.getLogger("stateline.stores")


async def open_sqlite(path: str | Path, *, clock: Clock | None = None) -> SqliteStore:
    """Open the database at ``path``, making it if there is none. One process may have it at a time.

    Raises:
        StoreUnavailable: in use, foreign, newer, damaged, not writable or on a network file system.
            The message is one line; the file was not touched.
    """
    path, lock = opening.reserve(path)
    try:
        clock = clock or SystemClock()
        writer = Writer(path, clock, Recent())
        secret = await writer.start()
    except BaseException:
        lock.close()
        raise
    return SqliteStore(writer, Blobs(path, secret), lock, clock)


class SqliteStore:
    """A ``stateline.ports.Store``. Made by ``open_sqlite``; used on the event loop that opened it."""

    def __init__(self, writer: Writer, blobs: Blobs, lock: IO[bytes], clock: Clock) -> None:
        self._lock = lock
        self.clock = clock
        self._writer = writer
        self._recent = writer.recent
        self._blobs = blobs
        self._readers = Readers(blobs)
        self._blob_thread = ThreadPoolExecutor(1, "stateline-blobs")
        self._held: dict[SessionRef, deque[Request]] = {}
        """Requests of sessions whose large content is being written, in order."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._collection: asyncio.TimerHandle | None = None
        self.maintenance = SqliteMaintenance(blobs, self._readers, clock, self._submit, self._drop)
        writer.settled = blobs.settled
        self._collect_later(0.0)

    # -- the port ----------------------------------------------------------------------------------

    # What writes is queued by the call itself, not when its result is first awaited: so calls keep
    # their order, however they are awaited.

    def create(self, session: SessionRef, parent: tuple[SessionRef, int] | None = None) -> Coroutine[Any, Any, None]:
        return self._submit(Create(session, parent))

    def append(
        self,
        own: Ownership,
        expected_seq: int,
        events: Sequence[Event],
        holds: Sequence[Hold] = (),
        *,
        create: bool = False,
        release: bool = False,
    ) -> Coroutine[Any, Any, int]:
        try:
            request = Append(own, expected_seq, events, holds, create=create, release=release)
        except StatelineError as error:
            return _raise(error)
        return self._submit(request)

    async def balances(self, names: Sequence[str]) -> dict[str, Balance]:
        def look(db: sqlite3.Connection) -> dict[str, Balance]:
            rows = db.execute(
                "SELECT b.name, b.held, b.spent FROM json_each(?) w CROSS JOIN balances b ON b.name = w.value",
                (json.dumps(list(names)),),
            )
            return {name: Balance(Decimal(held), Decimal(spent)) for name, held, spent in rows}

        return await self._readers.run(look)

    async def read(
        self,
        session: SessionRef,
        after: int = 0,
        *,
        until: int | None = None,
        chunks: bool = False,
        snapshot: bool = False,
    ) -> AsyncIterator[Event]:
        readers = self._readers
        page = await readers.run(
            partial(readers.first, ref=session, after=after, until=until, chunks=chunks, snapshot=snapshot)
        )
        while True:
            for event in page.events:
                yield event
            if page.rest is None:
                return
            page = await readers.run(partial(readers.page, span=page.rest))

    async def find_duplicate(self, tenant: str, dedup_key: str) -> Duplicate | None:
        now_ms = self.clock.now_ms()

        def look(db: sqlite3.Connection) -> Duplicate | None:
            row = db.execute(
                "SELECT ref, digest FROM dedup JOIN tenants ON tenants.n = dedup.tenant"
                " WHERE tenants.name = ? AND key = ? AND expires_ms > ?",
                (tenant, dedup_key, now_ms),
            ).fetchone()
            return Duplicate(row[0], row[1]) if row is not None else None

        return await self._readers.run(look)

    async def sessions(self, tenant: str, before: str | None, limit: int) -> list[str]:
        def look(db: sqlite3.Connection) -> list[str]:
            rows = db.execute(
                "SELECT id FROM sessions WHERE tenant = (SELECT n FROM tenants WHERE name = ?) AND id < ?"
                " ORDER BY id DESC LIMIT ?",
                # As texts compare, no id of ours is above this.
                (tenant, "\U0010ffff" if before is None else before, limit),
            )
            return [row[0] for row in rows]

        return await self._readers.run(look)

    async def tail(self, watched: Sequence[Watch], wait_s: float = 0.0) -> list[Event | Posted]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        # Each look makes sessions known; only with more of them than memory holds would it not end.
        looks = len(watched) // TAIL_READS_MAX + 2
        while True:
            out: list[Event | Posted] = []
            unknown = self._recent.since(watched, out)
            if unknown and looks:
                looks -= 1
                await self._look_up(unknown[:TAIL_READS_MAX], out)
                if not out:
                    continue
            rest = deadline - loop.time()
            if out or unknown or rest <= 0:
                return out
            await self._recent.wait(watched, rest)

    async def _look_up(self, watches: list[Watch], out: list[Event | Posted]) -> None:
        recent, readers = self._recent, self._readers
        changes, evictions = recent.inbox_changes, recent.evictions
        for found in await readers.run(partial(readers.look_up, watches=watches)):
            watch = found.watch
            inbox = found.inbox if recent.inbox_changes == changes else None
            nothing = not found.events and recent.evictions == evictions
            recent.looked_up(watch, found.last, nothing, inbox)
            out.extend(found.events)
            if watch.post is not None:
                out.extend(posted for posted in found.inbox if posted.post > watch.post)

    def post(self, session: SessionRef, event: Event, dedup_key: str | None = None) -> Coroutine[Any, Any, None]:
        return self._submit(Post(session, event, dedup_key))

    async def claim(self, node: str, limit: int) -> list[Ownership]:
        claimed: list[Claimed] = await self._submit(Claim(node, limit))
        owned: list[Ownership] = []
        for row in claimed:
            try:
                inbox = await self._inbox(row)
            except Exception as error:
                if not is_unreadable(error):
                    raise
                log_unreadable(row.session, error)
                await self._submit(SetAside(row, node))
                continue
            own = Ownership(
                session=row.session, owner=node, epoch=row.epoch, head=row.head, inbox=inbox, crashed=row.crashed
            )
            owned.append(own)
        return owned

    async def _inbox(self, row: Claimed) -> tuple[Posted, ...]:
        if not any(raw.startswith(MARK) for _, _, _, raw in row.inbox):
            return tuple(self._readers.inbox(row.session, row.inbox))
        return tuple(await self._readers.run(lambda _: self._readers.inbox(row.session, row.inbox)))

    def renew(self, node: str, ttl_s: float) -> Coroutine[Any, Any, int]:
        return self._submit(Renew(node, ttl_s))

    def on_due(self, call: Callable[[], None]) -> None:
        """There is no other process."""

    def release(self, own: Ownership, seen: int, wake_at_ms: int | None = None) -> Coroutine[Any, Any, bool]:
        return self._submit(Release(own, seen, wake_at_ms))

    async def erase(self, session: SessionRef) -> None:
        await self._drop(await self._submit(Erase(session)))

    async def prune_chunks(self, before_ms: int) -> int:
        """Delete chunks written before ``before_ms`` (Unix time) of sessions that are at rest; how many."""
        return await self.maintenance.prune_chunks(before_ms)

    async def close(self) -> None:
        if self._collection is not None:
            self._collection.cancel()
        self.maintenance.stop()
        loop = asyncio.get_running_loop()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await loop.run_in_executor(None, self._blob_thread.shutdown)
        await loop.run_in_executor(None, self._readers.close)
        await self._writer.stop()
        self._lock.close()

    # -- requests on their way to the writer ---------------------------------------------------------

    def _submit(self, request: Request) -> Coroutine[Any, Any, Any]:
        try:
            request.encode()
            self._writer.accept(request)
        except StatelineError as error:
            return _raise(error)
        if self._held and (held := self._held.get(request.session)) is not None:
            held.append(request)
        elif request.large:
            self._held[request.session] = deque([request])
            task = asyncio.ensure_future(self._move_out(request.session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._writer.submit(request)
        return _result(request)

    async def _move_out(self, session: SessionRef) -> None:
        """Write the large content of a session's requests, one after the other, and let them go."""
        loop = asyncio.get_running_loop()
        held = self._held[session]
        while held:
            request = held.popleft()
            try:
                if request.large:
                    await loop.run_in_executor(self._blob_thread, self._blobs.move_out, request)
            except StatelineError as error:
                request.error = error
                self._writer.answer([request])
            else:
                self._writer.submit(request)
        del self._held[session]

    async def _drop(self, names: Iterable[str]) -> None:
        """Delete large content whose last reference may be gone."""
        if (names := set(names)) or self._blobs.late:
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._blob_thread, self._blobs.drop, names)
            except (OSError, sqlite3.Error) as error:
                log.warning("large content without a reference was not deleted: %s", error)

    def _collect_later(self, delay_s: float) -> None:
        """Look for files without a reference, which a process left that died before it could record them."""
        self._collection = asyncio.get_running_loop().call_later(delay_s, self._collect)

    def _collect(self) -> None:
        self._blob_thread.submit(self._blobs.collect).add_done_callback(_collected)
        self._collect_later(BLOB_GRACE_S)


def _collected(done: Future[int]) -> None:
    if (error := done.exception()) is not None:
        log.warning("large content without a reference was not collected: %s", error)


async def _result(request: Request) -> Any:
    return await request.future


async def _raise(error: StatelineError) -> Any:
    raise error
