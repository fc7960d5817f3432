"""Taking sessions that are due: dead owners first lose theirs, then tenants take turns."""

from __future__ import annotations

from typing import NamedTuple

from stateline.core.events import READER_VERSION
from stateline.core.ids import SessionRef
from stateline.core.limits import EXPIRED_ROWS_MAX, INBOX_UNREADABLE_S
from stateline.stores.sqlite.requests import Request
from stateline.stores.sqlite.schema import HEAD
from stateline.stores.sqlite.transaction import Transaction

InboxRow = tuple[int, int, bytes | None, bytes]
"""post, at_ms, dedup, body."""


class Claimed(NamedTuple):
    """A session as it was taken."""

    session: SessionRef
    epoch: int
    head: int
    crashed: bool
    inbox: list[InboxRow]


class Claim(Request):
    """Gives a list of Claimed."""

    __slots__ = ("limit", "node")

    def __init__(self, node: str, limit: int) -> None:
        super().__init__(SessionRef("", ""))
        self.node = node
        self.limit = limit

    def run(self, tx: Transaction) -> list[Claimed]:
        tx.flush()
        _free_the_dead(tx, self.node)
        _ring_timers(tx)
        queues = [
            tx.db.execute(
                "SELECT n, tenant, id FROM sessions WHERE tenant = ? AND due_ms IS NOT NULL"
                " AND min_reader <= ? ORDER BY due_ms, n LIMIT ?",
                (tenant, READER_VERSION, self.limit),
            )
            for tenant in _due_tenants(tx, self.limit)
        ]
        taken: list[tuple[int, int, str]] = []
        while queues and len(taken) < self.limit:
            # One of each tenant, then the next round.
            for queue in list(queues):
                row = queue.fetchone()
                if row is None:
                    queues.remove(queue)
                elif len(taken) < self.limit:
                    taken.append(row)
                    tx.tenant_served = row[1]
        for queue in queues:
            queue.close()
        return [self._take(tx, *row) for row in taken]

    def _take(self, tx: Transaction, number: int, tenant: int, name: str) -> Claimed:
        [(epoch, head, crashed)] = tx.db.execute(
            "SELECT epoch + 1, head, crashed FROM sessions WHERE n = ?", (number,)
        ).fetchall()
        tx.db.execute(
            "UPDATE sessions SET owner = ?, epoch = ?, crashed = 0, due_ms = NULL, wake_ms = NULL WHERE n = ?",
            (self.node, epoch, number),
        )
        inbox: list[InboxRow] = tx.db.execute(
            "SELECT post, at_ms, dedup, body FROM inbox WHERE tenant = ? AND session = ? ORDER BY post",
            (tenant, number),
        ).fetchall()
        ref = SessionRef(tx.tenant_name(tenant), name)
        tx.forget(ref)
        return Claimed(ref, epoch, head, bool(crashed), inbox)


class SetAside(Request):
    """A claimed session that cannot be handed out: it is nobody's, and due again later."""

    __slots__ = ("claimed", "node")

    def __init__(self, claimed: Claimed, node: str) -> None:
        super().__init__(claimed.session)
        self.claimed = claimed
        self.node = node

    def run(self, tx: Transaction) -> None:
        tx.flush()
        tx.db.execute(
            "UPDATE sessions SET owner = NULL, crashed = ?, due_ms = NULL, wake_ms = ?"
            " WHERE tenant = (SELECT n FROM tenants WHERE name = ?) AND id = ? AND owner = ? AND epoch = ?",
            (
                self.claimed.crashed,
                tx.now_ms + round(INBOX_UNREADABLE_S * 1000),
                *self.claimed.session,
                self.node,
                self.claimed.epoch,
            ),
        )
        tx.forget(self.claimed.session)


def _free_the_dead(tx: Transaction, node: str) -> None:
    """Take sessions from owners without a living node's row; what those still append is fenced.

    The node that asks is alive, however long it was held up: its own sessions stay with it.
    """
    tx.db.execute("DELETE FROM nodes WHERE expires_ms <= ?", (tx.now_ms,))
    owner = ""
    while True:
        # The next owner by name, found in the index without a look at each session.
        row = tx.db.execute("SELECT min(owner) FROM sessions WHERE owner > ?", (owner,)).fetchone()
        if row[0] is None:
            return
        owner = row[0]
        if owner == node:
            continue
        if tx.db.execute("SELECT 1 FROM nodes WHERE owner = ?", (owner,)).fetchone() is None:
            tx.db.execute(
                f"UPDATE sessions SET owner = NULL, crashed = 1, head = {HEAD}, due_ms = ? WHERE n IN"
                " (SELECT n FROM sessions WHERE owner = ? LIMIT ?)",
                (tx.now_ms, owner, EXPIRED_ROWS_MAX),
            )
            tx.forget_all()


def _ring_timers(tx: Transaction) -> None:
    """Sessions whose timer has come are due; some at a time, the earliest first."""
    tx.db.execute(
        "UPDATE sessions SET due_ms = ifnull(due_ms, wake_ms), wake_ms = NULL WHERE n IN"
        " (SELECT n FROM sessions WHERE wake_ms <= ? ORDER BY wake_ms LIMIT ?)",
        (tx.now_ms, EXPIRED_ROWS_MAX),
    )


def _due_tenants(tx: Transaction, limit: int) -> list[int]:
    """Up to ``limit`` tenants with a due session, beginning after the one that was served last."""
    found: list[int] = []
    for low, high in ((tx.tenant_served, 1 << 62), (-1, tx.tenant_served)):
        tenant = low
        while len(found) < limit:
            row = tx.db.execute(
                "SELECT min(tenant) FROM sessions WHERE due_ms IS NOT NULL AND tenant > ? AND tenant <= ?",
                (tenant, high),
            ).fetchone()
            if row[0] is None:
                break
            tenant = int(row[0])
            found.append(tenant)
    return found
