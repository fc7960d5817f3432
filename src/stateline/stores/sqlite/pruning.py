"""Deleting chunks whose time is over. What they showed stays in the finished calls, with its numbers."""

from __future__ import annotations

import sqlite3

from stateline.core.ids import SessionRef
from stateline.core.limits import PRUNE_ROWS_MAX
from stateline.stores.sqlite.requests import Request
from stateline.stores.sqlite.transaction import Transaction


class Prune(Request):
    """Looks at PRUNE_ROWS_MAX chunks after row ``after``, in the order in which they were written.

    Gives how many it deleted, and the row to go on after, None at the end. Chunks of a session that has
    an owner, or waits for one, stay: its turn may need them to go on.
    """

    __slots__ = ("after", "before_ms")

    def __init__(self, before_ms: int, after: int) -> None:
        super().__init__(SessionRef("", ""))
        self.before_ms = before_ms
        self.after = after

    def run(self, tx: Transaction) -> tuple[int, int | None]:
        tx.flush()
        rows = tx.db.execute(
            "SELECT c.n, c.at_ms, s.owner IS NULL AND s.due_ms IS NULL AND s.wake_ms IS NULL"
            " FROM chunks c JOIN sessions s ON s.n = c.session WHERE c.n > ? ORDER BY c.n LIMIT ?",
            (self.after, PRUNE_ROWS_MAX),
        ).fetchall()
        # Rows are in the order of their commits: after the first young one there are no old ones.
        old = [(n, at_rest) for n, at_ms, at_rest in rows if at_ms < self.before_ms]
        tx.db.executemany("DELETE FROM chunks WHERE n = ?", [(n,) for n, at_rest in old if at_rest])
        more = len(old) == PRUNE_ROWS_MAX
        return sum(at_rest for _, at_rest in old), old[-1][0] if more else None


def count_chunks(db: sqlite3.Connection, before_ms: int) -> int:
    """How many chunks ``Prune`` would delete."""
    return db.execute(
        "SELECT count(*) FROM chunks c JOIN sessions s ON s.n = c.session"
        " WHERE c.at_ms < ? AND s.owner IS NULL AND s.due_ms IS NULL AND s.wake_ms IS NULL",
        (before_ms,),
    ).fetchone()[0]
