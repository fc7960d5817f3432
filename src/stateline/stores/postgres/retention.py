"""Erasing sessions whose time is over: those that were deleted, and where it is wished those that are idle.

A session goes only if nobody works on it or may want to, and if no session continues from it. Children have
higher numbers than their parents, so one walk from the highest number down meets them first. A session is
taken away in a transaction of its own, which finds out whether anything has happened since it was looked at;
so any number of nodes may walk at once.
"""

from __future__ import annotations

from typing import NamedTuple

from stateline.core.blobs import MARK
from stateline.core.events import READER_VERSION, SessionCreated, decode_body
from stateline.core.ids import SessionRef
from stateline.core.limits import PRUNE_ROWS_MAX, PRUNE_SESSIONS_MAX
from stateline.core.session import FOLD_VERSION
from stateline.stores.postgres import schema
from stateline.stores.postgres.connecting import Connection
from stateline.stores.postgres.solo import Erase
from stateline.stores.retention import Cutoffs, Seen, fold_of, is_deleted

AT_REST = "s.owner IS NULL AND s.due_ms IS NULL AND s.wake_ms IS NULL AND s.inbox = 0"
"""Nobody works on the session, and nothing waits for it."""
_COLUMNS = "SELECT s.n, s.head, s.created_ms, t.name, s.id"
_OF = f"JOIN stateline_tenants t ON t.n = s.tenant WHERE s.n < $1 AND {AT_REST} AND s.min_reader <= {READER_VERSION}"
_DELETED = (
    f"{_COLUMNS} FROM (SELECT session, max(at_ms) AS at_ms FROM stateline_events WHERE {schema.DELETING}"
    " GROUP BY session HAVING max(at_ms) <= $2) d"
    f" JOIN stateline_sessions s ON s.n = d.session {_OF} ORDER BY s.n DESC LIMIT {PRUNE_SESSIONS_MAX}"
)
_IDLE = (
    f"{_COLUMNS} FROM stateline_sessions s {_OF} AND s.created_ms <= $2 ORDER BY s.n DESC LIMIT {PRUNE_SESSIONS_MAX}"
)
_CHILDREN = "SELECT parent, n FROM stateline_sessions WHERE parent = ANY($1::bigint[])"
_BODIES = f"SELECT body FROM stateline_events WHERE session = $1 AND {schema.TELLING} ORDER BY seq"
_LAST = "SELECT at_ms FROM stateline_events WHERE session = $1 ORDER BY seq DESC LIMIT 1"
_FIRST = "SELECT body FROM stateline_events WHERE session = $1 ORDER BY seq LIMIT 1"


class Over(NamedTuple):
    """A session whose time is over."""

    ref: SessionRef
    seen: Seen


class Survey(NamedTuple):
    """What one look found to be over. ``below`` is where to go on, None at the end."""

    over: list[Over]
    below: int | None


async def deleted(db: Connection, cutoffs: Cutoffs, below: int, gone: set[int]) -> Survey:
    """Look for deleted sessions with numbers under ``below``, the highest first.

    Args:
        gone: sessions that were found to be over by the same walk; it grows.
    """
    rows = await db.fetch(_DELETED, below, cutoffs.deleted_ms)
    over: list[Over] = []
    for number, head, _, tenant, name in rows:
        if not await _stands_alone(db, number, gone):
            continue
        bodies = [decode_body(raw.removeprefix(MARK)) for (raw,) in await db.fetch(_BODIES, number)]
        if is_deleted(bodies):
            over.append(Over(SessionRef(tenant, name), Seen(number, head)))
            gone.add(number)
    return Survey(over, rows[-1][0] if len(rows) == PRUNE_SESSIONS_MAX else None)


async def idle(db: Connection, cutoffs: Cutoffs, below: int, gone: set[int]) -> Survey:
    """The same for sessions in which nothing has happened for long; deleted ones are among them or not."""
    assert cutoffs.idle_ms is not None
    rows = await db.fetch(_IDLE, below, cutoffs.idle_ms)
    over: list[Over] = []
    for number, head, _, tenant, name in rows:
        if number in gone:
            # It was deleted as well, and found to be over for that.
            continue
        last = await db.fetchval(_LAST, number)
        if (last is not None and last > cutoffs.idle_ms) or not await _stands_alone(db, number, gone):
            continue
        first = await db.fetchval(_FIRST, number)
        created = None if first is None else decode_body(first.removeprefix(MARK))
        # API keys lie in a session too, in which nothing may happen for years.
        if not (isinstance(created, SessionCreated) and created.kind == "system"):
            over.append(Over(SessionRef(tenant, name), Seen(number, head)))
            gone.add(number)
    return Survey(over, rows[-1][0] if len(rows) == PRUNE_SESSIONS_MAX else None)


async def _stands_alone(db: Connection, number: int, gone: set[int]) -> bool:
    """Whether nothing continues from a session but what goes as well."""
    return all(row[1] in gone for row in await db.fetch(_CHILDREN, [number]))


class Retire(Erase):
    """Takes a session away, if it is as it was seen; whether it was."""

    __slots__ = ("_seen",)

    def __init__(self, ref: SessionRef, seen: Seen) -> None:
        super().__init__(ref)
        self._seen = seen

    async def execute(self, db: Connection, now_ms: int | None) -> bool:
        self.erased = []
        found = await db.fetchval(
            f"SELECT s.n FROM stateline_sessions s WHERE s.n = $1 AND s.head = $2 AND {AT_REST} FOR UPDATE",
            *self._seen,
        )
        # A fork needs its parent's lock, so now there will be no more of them.
        if found is None or await db.fetch(_CHILDREN, [found]):
            return False
        self.erased = [self.session]
        await self.destroy(db, [found])
        return True


async def stale_snapshots(db: Connection, before_ms: int, after: int) -> tuple[list[tuple[int, int]], int | None]:
    """Snapshots that only an older release reads, among PRUNE_ROWS_MAX after session ``after``.

    Each is its session's number and its time.
    """
    rows = await db.fetch(
        "SELECT session, at_ms, substring(body FROM 1 FOR 60) FROM stateline_snapshots WHERE session > $1"
        f" ORDER BY session LIMIT {PRUNE_ROWS_MAX}",
        after,
    )
    stale = [(n, at_ms) for n, at_ms, head in rows if at_ms <= before_ms and fold_of(head) < FOLD_VERSION]
    return stale, rows[-1][0] if len(rows) == PRUNE_ROWS_MAX else None


async def drop_snapshots(db: Connection, stale: list[tuple[int, int]]) -> int:
    """Delete snapshots by session and time: a newer one may have taken the place meanwhile."""
    tag = await db.execute(
        "DELETE FROM stateline_snapshots p USING unnest($1::bigint[], $2::bigint[]) AS v (session, at_ms)"
        " WHERE p.session = v.session AND p.at_ms = v.at_ms",
        [number for number, _ in stale],
        [at_ms for _, at_ms in stale],
    )
    return int(tag.split()[-1])
