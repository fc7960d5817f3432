"""What goes in a transaction of its own: taking sessions that are due, and erasing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from stateline.core.events import READER_VERSION
from stateline.core.ids import SessionRef
from stateline.core.limits import EXPIRED_ROWS_MAX, INBOX_UNREADABLE_S
from stateline.stores.postgres.clock import now_sql
from stateline.stores.postgres.connecting import Connection
from stateline.stores.postgres.lookup import ONE
from stateline.stores.postgres.requests import Request
from stateline.stores.postgres.writer import Again
from stateline.stores.recent import Recent

InboxRow = tuple[int, int, bytes | None, bytes]
"""post, at_ms, dedup, body."""
_NOBODY = SessionRef("", "")


class Taken(NamedTuple):
    """A session that was given an owner."""

    number: int
    owner: str
    epoch: int


class Claimed(NamedTuple):
    """A session as it was claimed."""

    session: SessionRef
    number: int
    epoch: int
    head: int
    crashed: bool
    inbox: list[InboxRow]


class Solo(Request):
    """A request whose transaction is its own."""

    async def execute(self, db: Connection, now_ms: int | None) -> Any:
        """Inside the transaction; may be called again."""
        raise NotImplementedError

    def taken(self) -> list[Taken]:
        """Sessions that got an owner by it."""
        return []

    def touched(self) -> Sequence[SessionRef]:
        """Sessions whose rows it changed."""
        return ()


# The next owner by name, found in the index without a look at each session; those without a living node.
_OWNERS = (
    "WITH RECURSIVE owners (owner) AS ((SELECT min(owner) FROM stateline_sessions WHERE owner IS NOT NULL)"
    " UNION ALL SELECT (SELECT min(owner) FROM stateline_sessions s WHERE s.owner > o.owner)"
    " FROM owners o WHERE o.owner IS NOT NULL)"
    " SELECT owner FROM owners o WHERE owner IS NOT NULL AND owner <> $2 AND NOT EXISTS"
    f" (SELECT 1 FROM stateline_nodes n WHERE n.owner = o.owner AND n.expires_ms > {now_sql()})"
)
ANYTHING_DUE = (
    f"SELECT EXISTS (SELECT 1 FROM stateline_sessions WHERE due_ms IS NOT NULL AND min_reader <= {READER_VERSION})"
    f" OR EXISTS (SELECT 1 FROM stateline_sessions WHERE wake_ms <= {now_sql()}) OR EXISTS ({_OWNERS})"
)
"""Whether a claim of node $2 would find something to do."""
# Beginning after the tenant that was served last, then from the first.
_TENANTS = (
    "WITH RECURSIVE due (tenant) AS ((SELECT min(tenant) FROM stateline_sessions WHERE due_ms IS NOT NULL"
    " AND tenant > $1 AND tenant <= $2) UNION ALL"
    " SELECT (SELECT min(s.tenant) FROM stateline_sessions s WHERE s.due_ms IS NOT NULL AND s.tenant > due.tenant"
    " AND s.tenant <= $2) FROM due WHERE due.tenant IS NOT NULL)"
    " SELECT tenant FROM due WHERE tenant IS NOT NULL LIMIT $3"
)
# A bound on due_ms, which has none, makes the index of what is due cheaper than that of all sessions, whatever
# the planner believes of the table (lookup.py).
_CANDIDATES = (
    "SELECT w.tenant, c.n FROM unnest($1::int[]) WITH ORDINALITY AS w (tenant, turn) CROSS JOIN LATERAL"
    " (SELECT s.n, s.due_ms FROM stateline_sessions s WHERE s.tenant = w.tenant AND s.due_ms > -1"
    f" AND s.min_reader <= {READER_VERSION} ORDER BY s.due_ms, s.n LIMIT $2 FOR UPDATE SKIP LOCKED) c"
    " ORDER BY w.turn, c.due_ms, c.n"
)
_TAKE = (
    "WITH old AS MATERIALIZED (SELECT n, crashed FROM stateline_sessions WHERE n = ANY($1::bigint[]))"
    " UPDATE stateline_sessions s SET owner = $2, epoch = s.epoch + 1, crashed = false, due_ms = NULL, wake_ms = NULL"
    " FROM old, stateline_tenants t WHERE s.n = old.n AND t.n = s.tenant"
    " RETURNING s.n, t.name, s.id, s.epoch, s.head, old.crashed"
)
_MAX_TENANT = 2**31 - 1


class Turns:
    """Whose turn it is among the tenants: the one that was last given an owner for a session."""

    def __init__(self) -> None:
        self.served = 0


class Claim(Solo):
    """Gives a list of Claimed."""

    __slots__ = ("limit", "node", "turns")

    def __init__(self, node: str, limit: int, turns: Turns) -> None:
        super().__init__(_NOBODY)
        self.node = node
        self.limit = limit
        self.turns = turns

    async def execute(self, db: Connection, now_ms: int | None) -> list[Claimed]:
        await self._free_the_dead(db, now_ms)
        await db.execute(
            "UPDATE stateline_sessions SET due_ms = coalesce(due_ms, wake_ms), wake_ms = NULL WHERE n IN"
            f" (SELECT n FROM stateline_sessions WHERE wake_ms <= {now_sql()} ORDER BY wake_ms LIMIT $2"
            " FOR UPDATE SKIP LOCKED)",
            now_ms,
            EXPIRED_ROWS_MAX,
        )
        if self.limit <= 0:
            return []
        served = self.turns.served
        tenants: list[int] = []
        for low, high in ((served, _MAX_TENANT), (-1, served)):
            tenants += [row[0] for row in await db.fetch(_TENANTS, low, high, self.limit - len(tenants))]
        numbers = self._in_turn(await db.fetch(_CANDIDATES, tenants, self.limit))
        if not numbers:
            return []
        rows = {row[0]: row for row in await db.fetch(_TAKE, numbers, self.node)}
        inboxes: dict[int, list[InboxRow]] = {number: [] for number in numbers}
        for session, *row in await db.fetch(
            "SELECT session, post, at_ms, dedup, body FROM stateline_inbox WHERE session = ANY($1::bigint[])"
            " ORDER BY session, post",
            numbers,
        ):
            inboxes[session].append((row[0], row[1], row[2], row[3]))
        taken: list[Claimed] = []
        for number in numbers:
            _, tenant, name, epoch, head, crashed = rows[number]
            taken.append(Claimed(SessionRef(tenant, name), number, epoch, head, crashed, inboxes[number]))
        return taken

    def _in_turn(self, candidates: Sequence[Sequence[int]]) -> list[int]:
        """One of each tenant, then the next round; candidates come by tenant in turn."""
        queues: dict[int, list[int]] = {}
        for tenant, number in candidates:
            queues.setdefault(tenant, []).append(number)
        taken: list[int] = []
        while queues and len(taken) < self.limit:
            for tenant in list(queues):
                if len(taken) < self.limit:
                    taken.append(queues[tenant].pop(0))
                    self.turns.served = tenant
                    if not queues[tenant]:
                        del queues[tenant]
        return taken

    async def _free_the_dead(self, db: Connection, now_ms: int | None) -> None:
        """Take sessions from owners without a living node's row; what those still append is fenced.

        The node that asks is alive, however long it was held up: its own sessions stay with it.
        """
        for (owner,) in await db.fetch(_OWNERS, now_ms, self.node):
            await db.execute(_FREE, now_ms, owner, EXPIRED_ROWS_MAX)
        await db.execute(
            "DELETE FROM stateline_nodes WHERE owner IN (SELECT owner FROM stateline_nodes"
            f" WHERE expires_ms <= {now_sql()} LIMIT $2 FOR UPDATE SKIP LOCKED)",
            now_ms,
            EXPIRED_ROWS_MAX,
        )

    def taken(self) -> list[Taken]:
        claimed: list[Claimed] = self.result or []
        return [Taken(row.number, self.node, row.epoch) for row in claimed]

    def touched(self) -> Sequence[SessionRef]:
        return [row.session for row in self.result]


_FREE = (
    f"UPDATE stateline_sessions SET owner = NULL, crashed = true, due_ms = {now_sql()} WHERE n IN"
    " (SELECT n FROM stateline_sessions WHERE owner = $2 ORDER BY n LIMIT $3 FOR UPDATE SKIP LOCKED)"
)


class Leave(Solo):
    """These nodes are gone for good: what they still own is anybody's."""

    __slots__ = ("nodes",)

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(_NOBODY)
        self.nodes = nodes

    @property
    def due(self) -> bool:
        return True

    async def execute(self, db: Connection, now_ms: int | None) -> None:
        await db.execute("DELETE FROM stateline_nodes WHERE owner = ANY($1::text[])", self.nodes)
        await db.execute(
            f"UPDATE stateline_sessions SET owner = NULL, crashed = true, due_ms = {now_sql()} WHERE n IN"
            " (SELECT n FROM stateline_sessions WHERE owner = ANY($2::text[]) ORDER BY n FOR UPDATE)",
            now_ms,
            self.nodes,
        )


class GiveBack(Solo):
    """Sessions that were taken for a caller who had been told that it failed."""

    __slots__ = ("_taken",)

    def __init__(self, taken: Sequence[Taken]) -> None:
        super().__init__(_NOBODY)
        self._taken = taken

    @property
    def due(self) -> bool:
        return True

    async def execute(self, db: Connection, now_ms: int | None) -> None:
        for number, owner, epoch in sorted(self._taken):
            await db.execute(
                f"UPDATE stateline_sessions SET owner = NULL, crashed = true, due_ms = {now_sql()}"
                " WHERE n = $2 AND owner = $3 AND epoch = $4",
                now_ms,
                number,
                owner,
                epoch,
            )


class SetAside(Solo):
    """A claimed session that cannot be handed out: it is nobody's, and due again later."""

    __slots__ = ("_claimed", "_node")

    def __init__(self, claimed: Claimed, node: str) -> None:
        super().__init__(_NOBODY)
        self._claimed = claimed
        self._node = node

    async def execute(self, db: Connection, now_ms: int | None) -> None:
        await db.execute(
            "UPDATE stateline_sessions SET owner = NULL, crashed = $2, due_ms = NULL,"
            f" wake_ms = {now_sql()} + {round(INBOX_UNREADABLE_S * 1000)} WHERE n = $3 AND owner = $4 AND epoch = $5",
            now_ms,
            self._claimed.crashed,
            self._claimed.number,
            self._node,
            self._claimed.epoch,
        )

    def touched(self) -> Sequence[SessionRef]:
        return [self._claimed.session]


_FAMILY = (
    f"WITH RECURSIVE family (n) AS (SELECT s.n FROM stateline_sessions s WHERE {ONE} UNION"
    " SELECT s.n FROM stateline_sessions s JOIN family f ON s.parent = f.n) SELECT n FROM family"
)


class Erase(Solo):
    """Deletes a session and its forks, with their content."""

    __slots__ = ("erased",)

    def __init__(self, session: SessionRef) -> None:
        super().__init__(session)
        self.erased: list[SessionRef] = []

    async def execute(self, db: Connection, now_ms: int | None) -> Any:
        family = {row[0] for row in await db.fetch(_FAMILY, *self.session)}
        names = await db.fetch(
            "SELECT id FROM stateline_sessions WHERE n = ANY($1::bigint[]) ORDER BY n FOR UPDATE", sorted(family)
        )
        # A fork needs its parent's lock, so now there will be no more of them.
        if {row[0] for row in await db.fetch(_FAMILY, *self.session)} != family:
            raise Again
        self.erased = [SessionRef(self.session.tenant, name) for (name,) in names]
        await self.destroy(db, sorted(family))

    @staticmethod
    async def destroy(db: Connection, numbers: list[int]) -> None:
        """Delete sessions, whose rows are locked, with all that they have."""
        for table in ("events", "chunks", "snapshots", "inbox", "dedup"):
            await db.execute(f"DELETE FROM stateline_{table} WHERE session = ANY($1::bigint[])", numbers)
        gone = await db.fetch(
            "WITH gone AS (DELETE FROM stateline_blob_refs WHERE session = ANY($1::bigint[]) RETURNING tenant, name)"
            " SELECT tenant, name, count(*) FROM gone GROUP BY tenant, name ORDER BY tenant, name",
            numbers,
        )
        for tenant, name, count in gone:
            left = await db.fetchval(
                "UPDATE stateline_blobs SET refs = refs - $3 WHERE tenant = $1 AND name = $2 RETURNING refs",
                tenant,
                name,
                count,
            )
            if left is not None and left <= 0:
                await db.execute("DELETE FROM stateline_blobs WHERE tenant = $1 AND name = $2", tenant, name)
        await db.execute("DELETE FROM stateline_sessions WHERE n = ANY($1::bigint[])", numbers)

    def touched(self) -> Sequence[SessionRef]:
        return self.erased

    def publish(self, recent: Recent) -> None:
        for ref in self.erased:
            recent.erased(ref)
