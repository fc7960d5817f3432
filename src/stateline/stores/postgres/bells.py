"""Notifications between nodes: an empty one says that somebody committed something.

They only make looking sooner: what they are lost with, a connection or a pooler, costs TAIL_POLL_S.
A second channel says that a session became due, so that nodes need not try to claim at each commit.
Never inside a transaction of the log, for each takes a lock of the whole database; on a connection of
its own, and seldom.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stateline.core.errors import StoreUnavailable
from stateline.core.limits import NOTIFY_EVERY_S
from stateline.stores.postgres import connecting
from stateline.stores.postgres.connecting import Connection, Place

log = logging.getLogger("stateline.stores")

_CHANNEL = "stateline"
_DUE = "stateline_due"
_RETRY_S_MAX = 5.0


class Bells:
    """Rings other nodes, and hears them."""

    def __init__(self, place: Place, heard: Callable[[], None], heard_due: Callable[[], None]) -> None:
        self._place = place
        self._heard = heard
        self._heard_due = heard_due
        self._due = False
        self._wanted = asyncio.Event()
        self._own_pid = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._lasting(self._ring), name="bells"),
            loop.create_task(self._lasting(self._listen), name="listener"),
        ]

    def ring(self, *, due: bool = False) -> None:
        """Something was committed: tell the others, together with what comes in a moment.

        ``due``: a session that nobody owns has something to do.
        """
        self._due = self._due or due
        self._wanted.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _lasting(self, work: Callable[[Connection], object]) -> None:
        """Do ``work`` on a connection for ever; a lost one is replaced."""
        delay_s = NOTIFY_EVERY_S
        while True:
            try:
                db = await connecting.connect(self._place)
            except StoreUnavailable as error:
                log.debug("no connection for notifications: %s", error.message)
            else:
                try:
                    delay_s = NOTIFY_EVERY_S
                    await self._guarded(db, work)
                finally:
                    db.terminate()
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _RETRY_S_MAX)

    async def _guarded(self, db: Connection, work: Callable[[Connection], object]) -> None:
        try:
            result = work(db)
            assert asyncio.iscoroutine(result)
            await result
        except Exception as error:
            log.debug("a connection for notifications was lost: %s", error)

    async def _ring(self, db: Connection) -> None:
        self._own_pid = db.get_server_pid()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            due, self._due = self._due, False
            await db.execute(f"NOTIFY {_CHANNEL}; NOTIFY {_DUE}" if due else f"NOTIFY {_CHANNEL}")
            await asyncio.sleep(NOTIFY_EVERY_S)

    async def _listen(self, db: Connection) -> None:
        lost = asyncio.Event()
        db.add_termination_listener(lambda _: lost.set())
        await db.add_listener(_CHANNEL, self._hear)
        await db.add_listener(_DUE, self._hear)
        # What came before is not heard: look once.
        self._heard()
        self._heard_due()
        await lost.wait()

    def _hear(self, _: object, pid: int, channel: str, __: object) -> None:
        if pid == self._own_pid:
            return
        if channel == _DUE:
            self._heard_due()
        else:
            self._heard()
