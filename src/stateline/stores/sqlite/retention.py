"""Erasing sessions whose time is over: those that were deleted, and where it is wished those that are idle.

A session goes only if nobody works on it or may want to, and if no session continues from it. Children have
higher numbers than their parents, so one walk from the highest number down meets them first. Looking is done
by a reader; the writer checks that nothing has happened since. First the session's row goes, so that nobody
finds it any more, then its content, some rows at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from stateline.core.blobs import MARK
from stateline.core.events import READER_VERSION, SessionCreated, decode_body
from stateline.core.ids import SessionRef
from stateline.core.limits import PRUNE_BYTES_MAX, PRUNE_ROWS_MAX, PRUNE_SESSIONS_MAX
from stateline.core.session import FOLD_VERSION
from stateline.stores.recent import Recent
from stateline.stores.retention import TAG_BYTES_MAX, TELLING, Cutoffs, Seen, fold_of, is_deleted
from stateline.stores.sqlite.requests import Request, blob_names
from stateline.stores.sqlite.transaction import Transaction

AT_REST = "s.owner IS NULL AND s.due_ms IS NULL AND s.wake_ms IS NULL AND s.inbox = 0"
"""Nobody works on the session, and nothing waits for it."""
_COLUMNS = "SELECT s.n, s.tenant, s.head, s.created_ms, d.at_ms FROM"
_DELETED = (
    f"{_COLUMNS} deletions d JOIN sessions s ON s.n = d.session"
    " WHERE d.session < ? AND d.at_ms <= ? ORDER BY d.session DESC LIMIT ?"
)
_ALL = f"{_COLUMNS} sessions s LEFT JOIN deletions d ON d.session = s.n WHERE s.n < ? ORDER BY s.n DESC LIMIT ?"


def tagged(tags: Iterable[str]) -> str:
    """The condition that an event has one of these tags."""
    return "(" + " OR ".join(f"instr(substr(body, 1, {TAG_BYTES_MAX}), CAST('\"{tag}/' AS BLOB))" for tag in tags) + ")"


_BODIES = f"SELECT body FROM events WHERE tenant = ? AND session = ? AND {tagged(TELLING)} ORDER BY seq"


class Survey(NamedTuple):
    """``over``: sessions to erase. ``partly``: those whose mark says nothing until there is another deletion.

    ``below`` is where to go on, None at the end.
    """

    over: list[Seen]
    partly: list[Seen]
    below: int | None


def survey(db: sqlite3.Connection, cutoffs: Cutoffs, below: int, gone: set[int]) -> Survey:
    """Look at up to PRUNE_SESSIONS_MAX sessions with numbers under ``below``, the highest first.

    Args:
        gone: sessions that were found to be over by the same walk; it grows.
    """
    if cutoffs.idle_ms is None:
        rows = db.execute(_DELETED, (below, cutoffs.deleted_ms, PRUNE_SESSIONS_MAX)).fetchall()
    else:
        rows = db.execute(_ALL, (below, PRUNE_SESSIONS_MAX)).fetchall()
    over: list[Seen] = []
    partly: list[Seen] = []
    for number, tenant, head, created_ms, deleted_ms in rows:
        if not _may_go(db, number, gone):
            continue
        past = deleted_ms is not None and deleted_ms <= cutoffs.deleted_ms
        whole = past and is_deleted(_telling(db, tenant, number))
        if past and not whole:
            partly.append(Seen(number, head))
        if whole or _is_idle(db, cutoffs, tenant, number, created_ms):
            over.append(Seen(number, head))
            gone.add(number)
    return Survey(over, partly, rows[-1][0] if len(rows) == PRUNE_SESSIONS_MAX else None)


def refs_of(db: sqlite3.Connection, over: Iterable[Seen]) -> list[SessionRef]:
    """What the sessions are called; those that are gone are left out."""
    query = "SELECT t.name, s.id FROM sessions s JOIN tenants t ON t.n = s.tenant WHERE s.n = ?"
    return [SessionRef(*row) for seen in over for row in db.execute(query, (seen.number,))]


def _may_go(db: sqlite3.Connection, number: int, gone: set[int]) -> bool:
    query = f"SELECT 1 FROM sessions s WHERE s.n = ? AND {AT_REST} AND s.min_reader <= ?"
    if db.execute(query, (number, READER_VERSION)).fetchone() is None:
        return False
    return all(child in gone for (child,) in db.execute("SELECT n FROM sessions WHERE parent = ?", (number,)))


def _telling(db: sqlite3.Connection, tenant: int, number: int) -> list[object]:
    """The session's own events that say what became of it. Large content stays where it is."""
    return [decode_body(raw.removeprefix(MARK)) for (raw,) in db.execute(_BODIES, (tenant, number))]


def _is_idle(db: sqlite3.Connection, cutoffs: Cutoffs, tenant: int, number: int, created_ms: int) -> bool:
    if cutoffs.idle_ms is None or created_ms > cutoffs.idle_ms:
        return False
    last = db.execute(
        "SELECT at_ms FROM events WHERE tenant = ? AND session = ? ORDER BY seq DESC LIMIT 1", (tenant, number)
    ).fetchone()
    if last is not None and last[0] > cutoffs.idle_ms:
        return False
    first = db.execute(
        "SELECT body FROM events WHERE tenant = ? AND session = ? ORDER BY seq LIMIT 1", (tenant, number)
    )
    row = first.fetchone()
    created = None if row is None else decode_body(row[0].removeprefix(MARK))
    # API keys lie in a session too, in which nothing may happen for years.
    return not (isinstance(created, SessionCreated) and created.kind == "system")


class Retire(Request):
    """Takes away sessions that are as they were seen; gives how many. Their content goes with ``Sweep``."""

    __slots__ = ("over", "partly", "retired")

    def __init__(self, over: list[Seen], partly: list[Seen]) -> None:
        super().__init__(SessionRef("", ""))
        self.over = over
        self.partly = partly
        self.retired: list[SessionRef] = []

    def run(self, tx: Transaction) -> list[SessionRef]:
        tx.flush()
        self.retired = []
        for seen in self.over:
            row = tx.db.execute(
                f"SELECT s.tenant, s.id FROM sessions s WHERE s.n = ? AND s.head = ? AND {AT_REST}"
                " AND NOT EXISTS (SELECT 1 FROM sessions k WHERE k.parent = s.n)",
                seen,
            ).fetchone()
            if row is None:
                continue
            tenant, name = row
            for table in ("inbox", "dedup", "deletions"):
                tx.db.execute(f"DELETE FROM {table} WHERE tenant = ? AND session = ?", (tenant, seen.number))
            tx.db.execute("INSERT INTO erasing (session, tenant) VALUES (?,?)", (seen.number, tenant))
            tx.db.execute("DELETE FROM sessions WHERE n = ?", (seen.number,))
            ref = SessionRef(tx.tenant_name(tenant), name)
            tx.forget(ref)
            self.retired.append(ref)
        tx.db.executemany(
            "DELETE FROM deletions WHERE session = ? AND EXISTS (SELECT 1 FROM sessions s WHERE s.n = session"
            " AND s.owner IS NULL AND s.head = ?)",
            self.partly,
        )
        return self.retired

    def publish(self, recent: Recent) -> None:
        for ref in self.retired:
            recent.erased(ref)


class Swept(NamedTuple):
    """``names``: large content that lost a reference. ``more``: there are sessions or rows left."""

    names: list[str]
    more: bool


class Sweep(Request):
    """Deletes some rows of the sessions that are gone: PRUNE_ROWS_MAX or PRUNE_BYTES_MAX, one row at least."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(SessionRef("", ""))

    def run(self, tx: Transaction) -> Swept:
        rows, size = PRUNE_ROWS_MAX, PRUNE_BYTES_MAX
        names: list[str] = []
        for number, tenant in tx.db.execute("SELECT session, tenant FROM erasing ORDER BY session").fetchall():
            for table in ("events", "chunks", "snapshots"):
                found = tx.db.execute(
                    f"SELECT n, length(body) FROM {table} WHERE tenant = ? AND session = ? ORDER BY seq LIMIT ?",
                    (tenant, number, rows + 1),
                ).fetchall()
                for n, length in found:
                    if rows <= 0 or size <= 0:
                        return Swept(names, True)
                    tx.db.execute(f"DELETE FROM {table} WHERE n = ?", (n,))
                    rows, size = rows - 1, size - length
            names += blob_names(tx, tenant, number)
            tx.db.execute("DELETE FROM blob_refs WHERE tenant = ? AND session = ?", (tenant, number))
            tx.db.execute("DELETE FROM erasing WHERE session = ?", (number,))
            # The last of it is gone: so it must be from the journal.
            self.scrub = True
        return Swept(names, False)


class Stale(Request):
    """Deletes snapshots by their rows; gives how many there were."""

    __slots__ = ("rows",)

    def __init__(self, rows: list[tuple[int, int]]) -> None:
        super().__init__(SessionRef("", ""))
        self.rows = rows

    def run(self, tx: Transaction) -> int:
        # A newer snapshot may have taken the row meanwhile; it has another time.
        return tx.db.executemany("DELETE FROM snapshots WHERE n = ? AND at_ms = ?", self.rows).rowcount


def stale_snapshots(db: sqlite3.Connection, before_ms: int, after: int) -> tuple[list[tuple[int, int]], int | None]:
    """Rows of snapshots that only an older release reads, among PRUNE_ROWS_MAX after row ``after``."""
    rows = db.execute(
        "SELECT n, at_ms, substr(body, 1, 60) FROM snapshots WHERE n > ? ORDER BY n LIMIT ?", (after, PRUNE_ROWS_MAX)
    ).fetchall()
    stale = [(n, at_ms) for n, at_ms, head in rows if at_ms <= before_ms and fold_of(head) < FOLD_VERSION]
    return stale, rows[-1][0] if len(rows) == PRUNE_ROWS_MAX else None
