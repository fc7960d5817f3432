"""A bare fenced group-commit loop over asyncpg: the floor that the PostgreSQL store is compared with.

One connection. Whatever is queued goes in one transaction: one UPDATE that moves the sessions' heads
where owner, epoch and head are as they must be, one INSERT of the events of those that it moved, and a
COMMIT that waits for the disk. It has no inbox, no dedup keys, no proof of a lost answer and no types.
Anything that keeps fenced logs in PostgreSQL from Python does at least this much.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from bench.durable_systems import RECORD_BYTES, RECORDS_A_TURN, Turn
from stateline.stores.postgres.connecting import Connection, connect, place_of

SESSIONS = 256
_BATCH_MAX = 512
_OWNER = "bench"
_TABLES = (
    "CREATE TABLE loop_sessions (n bigint PRIMARY KEY, owner text NOT NULL, epoch bigint NOT NULL,"
    " head bigint NOT NULL) WITH (fillfactor = 70)",
    "CREATE TABLE loop_events (session bigint NOT NULL, seq bigint NOT NULL, body bytea NOT NULL,"
    " PRIMARY KEY (session, seq))",
)
_MOVE = (
    "UPDATE loop_sessions s SET head = w.head + 1"
    " FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[]) AS w (n, owner, epoch, head)"
    " WHERE s.n = w.n AND s.owner = w.owner AND s.epoch = w.epoch AND s.head = w.head RETURNING s.n"
)
_INSERT = "INSERT INTO loop_events SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])"
# The same in one statement, and so in one round trip.
_AT_ONCE = (
    f"WITH moved AS ({_MOVE}), put AS (INSERT INTO loop_events SELECT w.n, w.seq, w.body"
    " FROM unnest($1::bigint[], $5::bigint[], $6::bytea[]) AS w (n, seq, body)"
    " WHERE w.n IN (SELECT n FROM moved)) SELECT n FROM moved"
)


class Moved(Exception):
    """The session is not where its writer thought."""


class _Record(NamedTuple):
    session: int
    head: int
    body: bytes
    waiter: asyncio.Future[None]


class ReferenceLoop:
    """`append` returns once the record is on the disk.

    Args:
        at_once: move and insert by one statement, not by a transaction of two.
    """

    def __init__(self, db: Connection, *, at_once: bool) -> None:
        self._db = db
        self._at_once = at_once
        self._queue: deque[_Record] = deque()
        self._wake = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self.commits = self.records = 0

    def append(self, session: int, head: int, body: bytes) -> asyncio.Future[None]:
        """Queue one record that comes after `head`; await what it returns.

        Raises:
            Moved: owner, epoch or head are not so.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Record(session, head, body, waiter))
        self._wake.set()
        return waiter

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _serve(self) -> None:
        while True:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
            batch = self._take()
            moved = await (self._commit_at_once(batch) if self._at_once else self._commit(batch))
            self.commits += 1
            self.records += len(moved)
            for record in batch:
                if record.session in moved:
                    record.waiter.set_result(None)
                else:
                    record.waiter.set_exception(Moved(f"session {record.session} is not at {record.head}"))

    def _take(self) -> list[_Record]:
        """What is queued, at most one record a session: the condition holds for one at a time."""
        batch: list[_Record] = []
        sessions: set[int] = set()
        while self._queue and len(batch) < _BATCH_MAX and self._queue[0].session not in sessions:
            batch.append(self._queue.popleft())
            sessions.add(batch[-1].session)
        return batch

    @staticmethod
    def _conditions(batch: list[_Record]) -> tuple[list[int], list[str], list[int], list[int]]:
        return [r.session for r in batch], [_OWNER] * len(batch), [1] * len(batch), [r.head for r in batch]

    async def _commit(self, batch: list[_Record]) -> set[int]:
        await self._db.execute("BEGIN")
        moved = {row[0] for row in await self._db.fetch(_MOVE, *self._conditions(batch))}
        put = [record for record in batch if record.session in moved]
        await self._db.execute(_INSERT, [r.session for r in put], [r.head + 1 for r in put], [r.body for r in put])
        await self._db.execute("COMMIT")
        return moved

    async def _commit_at_once(self, batch: list[_Record]) -> set[int]:
        rows = await self._db.fetch(
            _AT_ONCE, *self._conditions(batch), [r.head + 1 for r in batch], [r.body for r in batch]
        )
        return {row[0] for row in rows}


@asynccontextmanager
async def reference_loop(url: str, *, at_once: bool = False) -> AsyncGenerator[Turn]:
    """Turns of the bare loop, of up to SESSIONS workers; its tables are made where the URL's search_path leads."""
    db = await connect(place_of(url))
    for table in _TABLES:
        await db.execute(table)
    await db.execute(
        "INSERT INTO loop_sessions SELECT n, $2, 1, 0 FROM generate_series(0, $1::bigint - 1) n", SESSIONS, _OWNER
    )
    loop = ReferenceLoop(db, at_once=at_once)
    body = os.urandom(RECORD_BYTES)
    heads: dict[int, int] = {}

    async def turn(worker: int, number: int) -> None:
        head = heads.get(worker, 0)
        for _ in range(RECORDS_A_TURN):
            await loop.append(worker, head, body)
            head += 1
        heads[worker] = head

    try:
        yield turn
    finally:
        await loop.close()
        await db.close()
