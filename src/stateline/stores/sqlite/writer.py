"""The one thread that writes: it takes what is queued, commits it together, and answers together.

No request waits for others on purpose. While a commit waits for the disk, requests gather; the next
commit carries them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from stateline.core.errors import Overloaded, StatelineError, StoreUnavailable
from stateline.core.limits import (
    BATCH_BYTES_MAX,
    BATCH_REQUESTS_MAX,
    GATHER_S,
    SCRUB_RETRY_MS,
    SCRUB_WAIT_MS,
    STORE_QUEUE_MAX,
    WAL_BYTES_MAX,
)
from stateline.ports import Clock
from stateline.stores.recent import Recent
from stateline.stores.sqlite import opening, schema
from stateline.stores.sqlite.requests import Request
from stateline.stores.sqlite.transaction import Transaction

_T = TypeVar("_T")
_EXPIRY_MS = 10_000
_BATCH_PAGES = 5
"""Pages that a commit writes beside its bodies, about: sessions and indexes."""


class Writer:
    """Owns the writing connection. Requests come from the event loop that made it."""

    settled: Callable[[Request], None]
    """Told of each answered request that brought large content."""

    def __init__(self, path: Path, clock: Clock, recent: Recent) -> None:
        self._path = path
        self._clock = clock
        self.recent = recent
        self._loop = asyncio.get_running_loop()
        self._gathered: list[Request] = []
        self._queue: queue.SimpleQueue[list[Request] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        # All that follows is touched by the thread alone.
        self._db: sqlite3.Connection
        self._tx: Transaction
        self._written = 0
        self._next_expiry_ms = 0
        self._unscrubbed = False
        self._next_scrub_ms = 0

    async def start(self) -> bytes:
        """Open the database on the thread; returns the installation's secret."""
        ready: asyncio.Future[bytes] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="stateline-writer", daemon=True)
        self._thread.start()
        return await ready

    async def stop(self) -> None:
        """Commit what is queued, then close the database."""
        if self._thread is not None and not self._closed:
            self._closed = True
            self._hand_over()
            self._queue.put(None)
            await self._loop.run_in_executor(None, self._thread.join)

    # -- on the event loop ---------------------------------------------------------------------------

    def accept(self, request: Request) -> None:
        """Count a request in and give it its future.

        Raises:
            Overloaded: STORE_QUEUE_MAX requests wait already.
            StoreUnavailable: the store was closed.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= STORE_QUEUE_MAX:
            raise Overloaded("the store has too many writes queued", retry_after_s=1.0)
        self._waiting += 1
        request.future = self._loop.create_future()

    def submit(self, request: Request) -> None:
        """Queue an accepted request. All that one turn of the event loop queues goes together."""
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(request)

    def _hand_over(self) -> None:
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    def answer(self, batch: Sequence[Request]) -> None:
        """Resolve a batch; also for requests that failed before they could be submitted."""
        self._waiting -= len(batch)
        for request in batch:
            if request.error is None:
                request.publish(self.recent)
            if request.large:
                self.settled(request)
            future = request.future
            if future.done():
                continue  # The caller was cancelled; what it asked for is done all the same.
            if request.error is None:
                future.set_result(request.result)
            else:
                future.set_exception(request.error)

    # -- on the thread -------------------------------------------------------------------------------

    def _run(self, ready: asyncio.Future[bytes]) -> None:
        try:
            self._db = opening.open_writer(self._path, self._clock.now_ms())
            secret = self._db.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()[0]
        except Exception as error:
            self._call_loop(_fail, ready, error)
            return
        self._tx = Transaction(self._db)
        self._call_loop(_succeed, ready, secret)
        try:
            self._serve()
        finally:
            self._db.close()

    def _call_loop(self, call: Callable[..., object], *args: object) -> None:
        # An event loop that was closed without closing the store has nobody who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def _serve(self) -> None:
        waiting: deque[Request] = deque()
        last = 0
        open_ = True
        while open_ or waiting:
            if not waiting:
                handed = self._queue.get()
                if handed is None:
                    open_ = False
                    continue
                waiting.extend(handed)
                if 2 * len(waiting) <= last:
                    # Others are on their way: one commit for all of them costs what one for the first would.
                    time.sleep(GATHER_S)
            while len(waiting) < BATCH_REQUESTS_MAX:
                try:
                    handed = self._queue.get_nowait()
                except queue.Empty:
                    break
                if handed is None:
                    open_ = False
                else:
                    waiting.extend(handed)
            batch, size = _take(waiting)
            last = len(batch)
            self._commit(batch)
            self._written += size + _BATCH_PAGES * schema.PAGE_BYTES
            self._scrub(any(request.scrub for request in batch))
            self._call_loop(self.answer, batch)
            if self._written >= WAL_BYTES_MAX:
                # After the answers, so that nobody waits for it.
                self._checkpoint("PASSIVE")

    def _commit(self, batch: list[Request], *, sure: bool = False) -> None:
        """Run a batch in one transaction; every request has a result or an error afterwards.

        Whether there is already what a request makes is looked up only to be ``sure``, where that may be why a
        commit failed.
        """
        tx = self._tx
        try:
            tx.begin(self._clock.now_ms())
            tx.expect(request.session for request in batch if request.session.id and (sure or not request.makes))
            for request in batch:
                try:
                    request.result = request.run(tx)
                    request.error = None
                except StatelineError as error:
                    request.error = error
            if tx.now_ms >= self._next_expiry_ms and not tx.clear_expired():
                self._next_expiry_ms = tx.now_ms + _EXPIRY_MS
            tx.commit()
        except Exception as error:
            self._failed(batch, error, sure=sure)

    def _failed(self, batch: list[Request], error: Exception, *, sure: bool) -> None:
        """Nothing of the batch was written. Tell everybody, or find the one at fault."""
        # Where even that fails, the next transaction gives this one up before it begins.
        with contextlib.suppress(sqlite3.Error):
            self._tx.rollback()
        if opening.of_the_disk(error):
            for request in batch:
                request.error = opening.unavailable(error)
        elif sure:
            batch[0].error = error
        else:
            for request in batch:
                self._commit([request], sure=True)

    def _scrub(self, wanted: bool) -> None:
        """Empty the journal of what was erased; who erased it waits for that.

        A backup reads the journal for as long as it takes, and nobody else may wait for that: then it is
        tried again after later commits, of which the renewal of the node's lease is one.
        """
        now_ms = self._clock.now_ms()
        if wanted or (self._unscrubbed and now_ms >= self._next_scrub_ms):
            self._unscrubbed = not self._checkpoint("TRUNCATE")
            self._next_scrub_ms = now_ms + SCRUB_RETRY_MS

    def _checkpoint(self, mode: str) -> bool:
        """Carry the journal into the database; False if somebody still reads it."""
        self._written = 0
        # Where it fails the journal keeps everything, and the next checkpoint tries again.
        with contextlib.suppress(sqlite3.Error):
            self._db.execute(f"PRAGMA busy_timeout = {SCRUB_WAIT_MS}")
            try:
                [(busy, _, _)] = self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            finally:
                self._db.execute("PRAGMA busy_timeout = 5000")
            return not busy
        return False


def _take(waiting: deque[Request]) -> tuple[list[Request], int]:
    """The next batch, and the bytes of its bodies."""
    batch: list[Request] = []
    size = 0
    while waiting and len(batch) < BATCH_REQUESTS_MAX:
        more = size + waiting[0].size
        if batch and more > BATCH_BYTES_MAX:
            break
        size = more
        batch.append(waiting.popleft())
    return batch, size


def _succeed(ready: asyncio.Future[_T], value: _T) -> None:
    if not ready.done():
        ready.set_result(value)


def _fail(ready: asyncio.Future[_T], error: BaseException) -> None:
    if not ready.done():
        ready.set_exception(error)
