"""The connection that commits, and the proof of what it committed.

An answer can be lost: the connection is cut, the server fails over, or somebody ends the wait for a
standby. Then nobody knows whether the commit happened. So each commit also moves the number in its
writer's own row, in the same transaction. Whoever locks that row on another connection sees the truth:
the number is there, or it is taken away for good, so that a commit which is still on its way fails.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from stateline.core.errors import StatelineError, StoreUnavailable
from stateline.core.limits import COMMIT_PATIENCE_S, COMMIT_TRIES_MAX, CONNECT_TIMEOUT_S, WRITERS_KEPT_S
from stateline.stores.postgres import chunks, connecting
from stateline.stores.postgres.clock import now_sql
from stateline.stores.postgres.connecting import Connection, Place
from stateline.stores.postgres.standbys import skipped

log = logging.getLogger("stateline.stores")

_T = TypeVar("_T")


class Again(Exception):
    """Somebody else was faster: the transaction must be decided anew."""


class Unresolved(StoreUnavailable):
    """The database went away with a commit, and nobody can tell yet whether it happened."""


class Fate(NamedTuple):
    """What became of a commit; ``done`` are the sessions that it moved, where it said so."""

    committed: bool
    done: list[int]


class Writer:
    """Commits one transaction after the other. Used by one task at a time, which nobody cancels."""

    def __init__(self, place: Place, now_ms: Callable[[], int | None]) -> None:
        self._place = place
        self.now_ms = now_ms
        """A clock's time, None for the database's."""
        self.begin = f"BEGIN; {connecting.LOCAL_SETTINGS}" if place.pooler else "BEGIN"
        self.name = ""
        self._number = 0
        self._db: Connection | None = None
        self._warned = False
        self._down_since_s: float | None = None
        self._registered = False
        self.in_pool = place.pooler
        """Whether each transaction must bring its settings along."""

    @property
    def next_number(self) -> int:
        """The commit under way, or the one that was lost."""
        return self._number + 1

    def unregister(self) -> None:
        """The row is not what it must be: the next commit makes another."""
        self._registered = False

    async def once(self, job: Callable[[Connection], Awaitable[None]]) -> None:
        """Run what may be run again, and whose half does no harm.

        Raises:
            StoreUnavailable: the database cannot be used.
        """
        for tries in range(COMMIT_TRIES_MAX):
            db = await self._connection()
            try:
                await job(db)
            except Exception as error:
                if db.is_closed() or connecting.is_lost(error):
                    db.terminate()
                    continue
                await self._failed(db, error, tries + 1)
            else:
                return
        raise StoreUnavailable("the store cannot be used now: its connections do not last", retry_after_s=5.0)

    async def commit(
        self, attempt: Callable[[Connection, int], Awaitable[_T]], recover: Callable[[list[int]], _T]
    ) -> _T:
        """Run ``attempt`` until it has committed, and return what it returned.

        It gets the connection and the commit's number, which it must write. Where its answer was lost
        and it did commit, ``recover`` makes the answer from the sessions that it moved.

        Raises:
            Unresolved: the database went away; what happened is found out later (``fate``).
            StoreUnavailable: the database cannot be used. Nothing was written.
        """
        tries = 0
        while True:
            db = await self._connection()
            await self._register(db)
            number = self._number + 1
            self._warned = False
            try:
                result = await self._patiently(db, attempt(db, number))
            except Exception as error:
                tries += 1
                if db.is_closed() or connecting.is_lost(error):
                    fate = await self._found_out(number)
                    if fate.committed:
                        return recover(fate.done)
                    if tries >= COMMIT_TRIES_MAX:
                        raise connecting.unavailable(error) from error
                    continue
                await self._failed(db, error, tries)
            else:
                if not self._warned:
                    self._number = number
                    return result
                if (await self._found_out(number)).committed:
                    return result

    async def _patiently(self, db: Connection, attempt: Awaitable[_T]) -> _T:
        """The attempt's result. One that does not end is not cancelled: its connection is given up."""
        task = asyncio.ensure_future(attempt)
        done, _ = await asyncio.wait([task], timeout=COMMIT_PATIENCE_S)
        if not done:
            log.warning(
                "a commit has had no answer for %.0f s; looking for it on another connection", COMMIT_PATIENCE_S
            )
            db.terminate()
        return await task

    async def _failed(self, db: Connection, error: Exception, tries: int) -> None:
        """The server said no, and nothing was written; raises unless another try may do.

        Raises:
            StoreUnavailable: the server is at fault.
        """
        await self._roll_back(db)
        if tries < COMMIT_TRIES_MAX:
            if connecting.lacks_part(error):
                try:
                    await chunks.ensure(db, self.now_ms())
                except Exception as cause:
                    raise connecting.unavailable(cause) from cause
                return
            if connecting.lacks_proof(error):
                self._registered = False
                return
            if isinstance(error, Again) or connecting.passes(error):
                await asyncio.sleep(min(0.001 * 2**tries, 0.5) * (1 + secrets.randbelow(100) / 100))
                return
        if connecting.of_the_server(error) or isinstance(error, Again) or connecting.passes(error):
            raise connecting.unavailable(error) from error
        raise error

    async def _roll_back(self, db: Connection) -> None:
        try:
            await db.execute("ROLLBACK")
        except Exception:
            # Whatever the transaction was is gone with its connection.
            db.terminate()

    # -- lost answers ------------------------------------------------------------------------------------

    async def _found_out(self, number: int) -> Fate:
        if self._db is not None:
            self._db.terminate()
            self._db = None
        log.warning("the answer to a commit was lost; asking the database what became of it")
        try:
            return await self.fate(number)
        except StatelineError as error:
            raise Unresolved(error.message, retry_after_s=5.0) from error

    async def fate(self, number: int) -> Fate:
        """Whether commit ``number``, the latest, happened; if it did not it never will.

        Raises:
            StoreUnavailable: the database cannot be asked.
        """
        for _ in range(COMMIT_TRIES_MAX):
            db = await self._connection()
            self._warned = False
            try:
                fate = await self._patiently(db, self._ask(db, number))
            except Exception as error:
                if db.is_closed() or connecting.is_lost(error):
                    db.terminate()
                    continue
                await self._roll_back(db)
                if connecting.passes(error) and not isinstance(error, StatelineError):
                    # The server still holds the transaction, most likely for a standby.
                    raise connecting.unavailable(error) from error
                raise
            if self._warned:
                db.terminate()
                continue
            self._number = number
            log.warning("the commit %s", "did happen" if fate.committed else "did not happen, and is made again")
            return fate
        raise StoreUnavailable("the store cannot be used now: its connections do not last", retry_after_s=5.0)

    async def _ask(self, db: Connection, number: int) -> Fate:
        await db.execute(self.begin)
        # Waits for a transaction of the lost connection that still has the row.
        row = await db.fetchrow(
            "SELECT number, void, done FROM stateline_writers WHERE writer = $1 FOR UPDATE", self.name
        )
        if row is None:
            self._registered = False
            await db.execute("ROLLBACK")
            return Fate(False, [])
        committed = row[0] == number and not row[1]
        # Something is written in either case: its commit waits for the standbys, and so for all before it.
        await db.execute(
            f"UPDATE stateline_writers SET number = $2, void = $3, at_ms = {now_sql('$4')} WHERE writer = $1",
            self.name,
            number,
            not committed,
            self.now_ms(),
        )
        await db.execute("COMMIT")
        return Fate(committed, list(row[2] or []) if committed else [])

    # -- the connection ----------------------------------------------------------------------------------

    async def _connection(self) -> Connection:
        """A connection that lives; a lost one is made anew, for a time.

        Raises:
            StoreUnavailable: none could be made for CONNECT_TIMEOUT_S.
        """
        if self._db is not None and not self._db.is_closed():
            return self._db
        loop = asyncio.get_running_loop()
        delay_s = 0.02
        while True:
            try:
                db = await connecting.connect(self._place)
            except StoreUnavailable:
                if self._down_since_s is None:
                    self._down_since_s = loop.time()
                if loop.time() - self._down_since_s >= CONNECT_TIMEOUT_S:
                    raise
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, 1.0)
            else:
                self._down_since_s = None
                db.add_log_listener(self._logged)
                self._db = db
                return db

    def _logged(self, _: object, message: Any) -> None:
        if skipped(message):
            self._warned = True

    async def _register(self, db: Connection) -> None:
        """Make the row that proves our commits."""
        if self._registered:
            return
        self.name, self._number = secrets.token_hex(12), 0
        try:
            now_ms = self.now_ms()
            await db.execute(
                f"DELETE FROM stateline_writers WHERE at_ms < {now_sql()} - {WRITERS_KEPT_S * 1000}", now_ms
            )
            await db.execute(
                f"INSERT INTO stateline_writers (writer, number, void, at_ms) VALUES ($2, 0, true, {now_sql()})",
                now_ms,
                self.name,
            )
        except Exception as error:
            if connecting.is_lost(error) or db.is_closed():
                db.terminate()
            raise connecting.unavailable(error) from error
        self._registered = True

    async def close(self) -> None:
        if self._db is not None:
            if self._registered and not self._db.is_closed():
                try:
                    await self._db.execute("DELETE FROM stateline_writers WHERE writer = $1", self.name)
                except Exception as error:
                    log.warning("the writer's row was not deleted: %s", connecting.unavailable(error).message)
            await connecting.close(self._db)
            self._db = None
