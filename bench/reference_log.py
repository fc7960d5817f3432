"""A bare group-commit loop on SQLite: the floor that the real store is compared with.

WAL, `synchronous=FULL`, one writer thread that takes whatever is queued, inserts it, commits once
and resolves the waiters. It numbers and stores records; it has no owners, no inbox, no checks and
no types. Anything that keeps a log durably in SQLite from Python does at least this much. A table
with a rowid is the cheaper one here: WITHOUT ROWID halves the rate, because a record of 2 KB then
spills to an overflow page.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from pathlib import Path

_BATCH_MAX = 512
_Waiter = asyncio.Future[None]
_Record = tuple[int, int, bytes]


class ReferenceLog:
    """`append` returns once the record is on the disk."""

    def __init__(self, path: Path) -> None:
        self._queue: queue.SimpleQueue[tuple[_Record, _Waiter] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self.commits = 0
        self.records = 0
        self._thread = threading.Thread(target=self._write, args=(path,), daemon=True)
        self._thread.start()

    def append(self, session: int, seq: int, record: bytes) -> _Waiter:
        """Queue one record; await what it returns."""
        waiter: _Waiter = self._loop.create_future()
        self._queue.put(((session, seq, record), waiter))
        return waiter

    async def close(self) -> None:
        """Write what is queued and end the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _write(self, path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE events (session INTEGER, seq INTEGER, body BLOB, UNIQUE (session, seq))")
        while batch := self._take():
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO events VALUES (?, ?, ?)", [r for r, _ in batch])
            connection.execute("COMMIT")
            self.commits += 1
            self.records += len(batch)
            self._loop.call_soon_threadsafe(_resolve, [waiter for _, waiter in batch])
        connection.close()

    def _take(self) -> list[tuple[_Record, _Waiter]]:
        """Wait for one record, then take what else is there; empty at the end."""
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        while len(batch) < _BATCH_MAX:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put(None)  # For the next round, which then ends.
                break
            batch.append(more)
        return batch


def _resolve(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
