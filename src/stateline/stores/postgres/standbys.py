"""What was read is shown only once the standbys have it.

PostgreSQL makes a commit visible to all as soon as its wait for a synchronous standby is over, also where
somebody ended that wait. A row does not say how far its commit got. But the log of a server is one sequence:
a commit made on the same connection after the reading lies behind all that was read, so when a standby has
that one, it has the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from stateline.core.errors import StoreUnavailable
from stateline.core.events import Event
from stateline.core.limits import COMMIT_TRIES_MAX, CONFIRMED_AFTER_S, STANDBYS_ASKED_S
from stateline.ports import Posted
from stateline.stores.postgres.connecting import LOCAL_SETTINGS, Connection

_STANDBY_WARNING = "01000"
_ASKED = (
    "SELECT current_setting('synchronous_standby_names') <> ''"
    " AND current_setting('synchronous_commit') IN ('on', 'remote_write', 'remote_apply')"
)
# The least that a commit can write, and is waited for: a note in the log that nobody reads.
_NOTE = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint, pg_logical_emit_message(true, '', '')"


def skipped(message: Any) -> bool:
    """Whether the server says that a wait for a standby was ended: committed here, and nowhere else for sure."""
    return message.sqlstate == _STANDBY_WARNING and "synchronous replication" in message.message


class Standbys:
    """Whether the standbys have what was read, asked only where there are any."""

    def __init__(self, *, in_pool: bool) -> None:
        self._begin = f"BEGIN; {LOCAL_SETTINGS}" if in_pool else None
        self._asked_s: float | None = None
        self._any = False
        self._confirmed_ms = 0

    async def confirm(self, db: Connection, records: Sequence[Event | Posted]) -> None:
        """Return once the standbys have ``records``, which ``db`` has just read.

        What is older than the last confirmation by CONFIRMED_AFTER_S was in it.

        Raises:
            StoreUnavailable: the waits for the standby are being ended.
        """
        if not records or not await self._wanted(db):
            return
        newest_ms = max((each.event if isinstance(each, Posted) else each).at_ms for each in records)
        if newest_ms <= self._confirmed_ms - CONFIRMED_AFTER_S * 1000:
            return
        warnings: list[object] = []

        def heard(_: object, message: Any) -> None:
            if skipped(message):
                warnings.append(message)

        db.add_log_listener(heard)
        try:
            for _ in range(COMMIT_TRIES_MAX):
                warnings.clear()
                at_ms = await self._note(db)
                if not warnings:
                    self._confirmed_ms = max(self._confirmed_ms, at_ms)
                    return
        finally:
            db.remove_log_listener(heard)
        raise StoreUnavailable("the standby has not confirmed what was read: its waits are being ended")

    async def _note(self, db: Connection) -> int:
        """Commit something; the database's time before it, in Unix ms."""
        if self._begin is None:
            return int(await db.fetchval(_NOTE))
        await db.execute(self._begin)
        at_ms = int(await db.fetchval(_NOTE))
        await db.execute("COMMIT")
        return at_ms

    async def _wanted(self, db: Connection) -> bool:
        now_s = time.monotonic()
        if self._asked_s is None or now_s - self._asked_s >= STANDBYS_ASKED_S:
            self._any = bool(await db.fetchval(_ASKED))
            self._asked_s = now_s
        return self._any
