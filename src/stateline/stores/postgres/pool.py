"""A few connections for what may be asked twice: reading, and saying that a node lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stateline.core.errors import Overloaded, StatelineError, StoreUnavailable
from stateline.core.limits import STORE_QUEUE_MAX, STORE_READERS
from stateline.stores.postgres import connecting
from stateline.stores.postgres.connecting import Connection, Place

_T = TypeVar("_T")
_TRIES = 2


class Pool:
    """Lends a connection to one job at a time; a lost one is replaced and the job done again."""

    def __init__(self, place: Place, size: int = STORE_READERS) -> None:
        self._place = place
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(size)
        self._size = size
        self._waiting = 0
        self._closed = False

    async def run(self, job: Callable[[Connection], Awaitable[_T]]) -> _T:
        """The job's result; it may be run twice.

        Raises:
            Overloaded: too many wait to read.
            StoreUnavailable: the database cannot be read.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= STORE_QUEUE_MAX:
            raise Overloaded("the store has too many reads queued", retry_after_s=1.0)
        self._waiting += 1
        try:
            async with self._room:
                return await self._run(job)
        finally:
            self._waiting -= 1

    async def _run(self, job: Callable[[Connection], Awaitable[_T]]) -> _T:
        for tries_left in reversed(range(_TRIES)):
            db = self._idle.pop() if self._idle else await connecting.connect(self._place)
            try:
                result = await job(db)
            except StatelineError:
                self._idle.append(db)
                raise
            except Exception as error:
                if not db.is_closed() and not connecting.is_lost(error):
                    self._idle.append(db)
                    raise connecting.unavailable(error) from error
                # The others went the same way, most likely.
                self._drop(db, *self._idle)
                if not tries_left:
                    raise connecting.unavailable(error) from error
            except BaseException:
                db.terminate()
                raise
            else:
                self._idle.append(db)
                return result
        raise AssertionError("unreachable")

    def _drop(self, *dead: Connection) -> None:
        self._idle.clear()
        for db in dead:
            db.terminate()

    async def close(self) -> None:
        """Wait for the jobs under way, then close the connections."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self._size):
            await self._room.acquire()
        for db in self._idle:
            await connecting.close(db)
        self._idle.clear()
