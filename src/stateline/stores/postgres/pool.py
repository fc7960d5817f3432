"""A few connections for what may be asked twice: reading, and saying that a node lives.

Each works for one tenant at a time, or across tenants, and sees no more (walls.py). A job gets one that works
for the same already, where there is one; then being told costs it nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from stateline.core.errors import Overloaded, StatelineError, StoreUnavailable
from stateline.core.limits import RECENT_SESSIONS_MAX, STORE_QUEUE_MAX, STORE_READERS
from stateline.stores.postgres import connecting
from stateline.stores.postgres.connecting import EVERY, NOBODY, Connection, Place

_T = TypeVar("_T")
_TRIES = 2


class _Idle(NamedTuple):
    db: Connection
    whom: str
    """Whom it works for: a tenant's number, EVERY or NOBODY."""


class Pool:
    """Lends a connection to one job at a time; a lost one is replaced and the job done again."""

    def __init__(self, place: Place, size: int = STORE_READERS) -> None:
        self._place = place
        self._idle: list[_Idle] = []
        self._room = asyncio.Semaphore(size)
        self._size = size
        self._lent = 0
        self._waiting = 0
        self._closed = False
        self._numbers: dict[str, str] = {}

    async def run(self, job: Callable[[Connection], Awaitable[_T]], tenant: str | None) -> _T:
        """The job's result; it may be run twice.

        Args:
            tenant: for whom, by name: of others' rows the job sees none. None: it works across tenants.

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
                return await self._run(job, EVERY if tenant is None else await self._number(tenant))
        finally:
            self._waiting -= 1

    async def _number(self, tenant: str) -> str:
        """A tenant's number, which never changes, once it has one."""
        if (known := self._numbers.get(tenant)) is not None:
            return known
        found: int | None = await self._run(
            lambda db: db.fetchval("SELECT n FROM stateline_tenants WHERE name = $1", tenant), EVERY
        )
        if found is None:
            return NOBODY
        if len(self._numbers) >= RECENT_SESSIONS_MAX:
            self._numbers.clear()
        return self._numbers.setdefault(tenant, str(found))

    async def _run(self, job: Callable[[Connection], Awaitable[_T]], whom: str) -> _T:
        self._lent += 1
        try:
            return await self._try(job, whom)
        finally:
            self._lent -= 1

    async def _try(self, job: Callable[[Connection], Awaitable[_T]], whom: str) -> _T:
        for tries_left in reversed(range(_TRIES)):
            idle = self._take(whom)
            db = await connecting.connect(self._place, whom) if idle is None else idle.db
            told = idle is None or idle.whom == whom
            try:
                if not told:
                    await connecting.work_for(db, whom)
                    told = True
                result = await job(db)
            except StatelineError:
                self._idle.append(_Idle(db, whom))
                raise
            except Exception as error:
                if not db.is_closed() and not connecting.is_lost(error):
                    if told:
                        self._idle.append(_Idle(db, whom))
                    else:
                        db.terminate()  # Nobody can say what it would show.
                    if not connecting.is_its(error):
                        raise  # A row that cannot be read, and not a database that cannot.
                    raise connecting.unavailable(error) from error
                # The others went the same way, most likely.
                self._drop(db, *(other.db for other in self._idle))
                if not tries_left:
                    raise connecting.unavailable(error) from error
            except BaseException:
                db.terminate()
                raise
            else:
                self._idle.append(_Idle(db, whom))
                return result
        raise AssertionError("unreachable")

    def _take(self, whom: str) -> _Idle | None:
        """The idle connection that needs the least telling; None where a new one may be made instead.

        Those that work across tenants are asked all the time: they go on doing so while there is room for others.
        """
        kin = [i for i, idle in enumerate(self._idle) if (idle.whom == EVERY) == (whom == EVERY)]
        same = [i for i in kin if self._idle[i].whom == whom]
        if same:
            return self._idle.pop(same[-1])
        if kin:
            return self._idle.pop(kin[0])
        if self._idle and len(self._idle) + self._lent > self._size:
            return self._idle.pop(0)
        return None

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
        for idle in self._idle:
            await connecting.close(idle.db)
        self._idle.clear()
