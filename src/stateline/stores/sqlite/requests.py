"""What may be asked of the writer: one class a call of the port.

``run`` works inside the group's transaction and must decide before it writes: when it raises, nothing
of the request may have been written. ``publish`` tells the event loop's memory what was committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from stateline.core.events import Dedup, Event, ResponseDeleted, SessionDeleted
from stateline.core.ids import SessionRef
from stateline.core.limits import INBOX_POSTS_MAX
from stateline.ports import (
    BudgetExceeded,
    Fenced,
    HeadMoved,
    Hold,
    InboxFull,
    Ownership,
    Posted,
    SessionMissing,
)
from stateline.stores import balances, rules
from stateline.stores.balances import Standing
from stateline.stores.recent import Recent, posted_event
from stateline.stores.rules import missing
from stateline.stores.sqlite.together import NOTHING
from stateline.stores.sqlite.transaction import Row, Transaction


class Request:
    """One call, from the event loop to the writer thread and back.

    ``bodies`` are the encoded ``events``, with large content moved out before the writer sees them;
    ``blobs`` are the names of what they refer to. ``scrub``: content was destroyed, so that the journal
    is to be emptied before the answer.
    """

    __slots__ = ("blobs", "bodies", "error", "events", "future", "large", "result", "scrub", "session", "size")

    future: asyncio.Future[Any]
    bodies: list[bytes]
    makes: bool = False
    """Whether it makes a session, which nearly always there is not yet."""
    size: int
    blobs: set[str]
    result: Any

    def __init__(self, session: SessionRef, events: Sequence[Event] = ()) -> None:
        self.session = session
        self.events = events
        self.large = False
        self.scrub = False
        self.error: BaseException | None = None

    def encode(self) -> None:
        """Make the bodies, before the request is queued; ``large`` says that content may go out.

        Raises:
            BadRequest: too many events, or one that is too large.
        """
        self.bodies, self.size, self.large = rules.encode(self.events)

    def run(self, tx: Transaction) -> Any:
        raise NotImplementedError

    def publish(self, recent: Recent) -> None:
        """On the event loop, after the commit, where ``run`` did not raise."""

    def keep_blobs(self, tx: Transaction, tenant: int, session: int) -> None:
        """Say that the session refers to its large content."""
        tx.db.executemany(
            "INSERT OR IGNORE INTO blob_refs VALUES (?,?,?)",
            [(tenant, session, name) for name in sorted(self.blobs)],
        )


class Create(Request):
    __slots__ = ("parent",)

    def __init__(self, session: SessionRef, parent: tuple[SessionRef, int] | None) -> None:
        super().__init__(session)
        self.parent = parent

    def run(self, tx: Transaction) -> None:
        if tx.row(self.session) is not None:
            raise rules.exists(self.session)
        parent, seq = self.parent or (None, 0)
        of = None
        if parent is not None:
            of = tx.row(parent) if parent.tenant == self.session.tenant else None
            if of is None:
                raise missing(parent)
            if not 0 <= seq <= of.head:
                raise SessionMissing(f"session {parent.id} ends at {of.head}, not at {seq}")
        tx.add(tx.draft(self.session, of, seq))

    def publish(self, recent: Recent) -> None:
        if self.parent is None:
            recent.created(self.session)
        else:
            recent.forked(self.session)


_DELETIONS = frozenset((SessionDeleted, ResponseDeleted))


class Append(Request):
    __slots__ = ("adopted", "dedup", "deleted_at_ms", "expected", "holds", "makes", "own", "posts", "release")

    def __init__(
        self,
        own: Ownership,
        expected: int,
        events: Sequence[Event],
        holds: Sequence[Hold],
        *,
        create: bool,
        release: bool,
    ) -> None:
        super().__init__(own.session, events)
        if holds:
            balances.check(holds)
        self.makes = create
        self.release = release
        self.own = own
        self.expected = expected
        self.holds = holds
        self.posts, self.dedup = rules.named(events)
        self.adopted = False
        self.deleted_at_ms: int | None = None
        for event in events:
            if type(event.body) in _DELETIONS:
                self.deleted_at_ms = event.at_ms
                break

    def run(self, tx: Transaction) -> int:
        if self.makes:
            if tx.known(self.session):
                raise rules.exists(self.session)
            row = tx.draft(self.session)
        elif (row := tx.row(self.session)) is None:
            raise missing(self.session)
        self.adopted = rules.adopts(row, self.own, self.expected)
        if self.posts:
            self._check_posts(tx, row)
        if self.dedup:
            tx.check_dedup(row.tenant, self.dedup)
        if self.release and row.inbox > len(self.posts):
            raise HeadMoved(f"the inbox of session {self.session.id} is not empty")
        if self.holds:
            tx.balances_moved(self._balances(tx))
        own = self.own
        if self.makes:
            tx.add(row)
        if self.adopted:
            tx.adopt(row, own.owner, own.epoch)
        seq, tenant, number, epoch = self.expected, row.tenant, row.number, own.epoch
        row.head = seq + len(self.events)
        for event, body in zip(self.events, self.bodies, strict=True):
            seq += 1
            rows = tx.tables.get(type(event.body), tx.events)
            post = NOTHING if event.post is None else event.post
            rows.append((tenant, number, seq, event.at_ms, epoch, post, bytearray(body)))
        if self.posts:
            self._consume(tx, row)
        if self.dedup:
            tx.write_dedup(tenant, number, self.dedup)
        if self.deleted_at_ms is not None:
            tx.db.execute(
                "INSERT OR REPLACE INTO deletions (session, tenant, at_ms) VALUES (?,?,?)",
                (number, tenant, self.deleted_at_ms),
            )
        if self.release:
            tx.release(row, None)
        if self.large:
            self.keep_blobs(tx, tenant, number)
        return seq

    def _balances(self, tx: Transaction) -> dict[str, Standing]:
        """The balances as its holds leave them."""
        try:
            return balances.moved(self.holds, tx.balance)
        except BudgetExceeded:
            # Only the index knows for sure that there is no such session, and it would be asked later.
            if self.makes and tx.row(self.session) is not None:
                raise rules.exists(self.session) from None
            raise

    def _check_posts(self, tx: Transaction, row: Row) -> None:
        for post in self.posts:
            found = tx.db.execute(
                "SELECT 1 FROM inbox WHERE tenant = ? AND session = ? AND post = ?",
                (row.tenant, row.number, post),
            ).fetchone()
            if found is None:
                raise HeadMoved(f"post {post} of session {self.session.id} is not waiting")

    def _consume(self, tx: Transaction, row: Row) -> None:
        tx.db.executemany(
            "DELETE FROM inbox WHERE tenant = ? AND session = ? AND post = ?",
            [(row.tenant, row.number, post) for post in self.posts],
        )
        row.inbox -= len(self.posts)
        tx.db.execute("UPDATE sessions SET inbox = ? WHERE n = ?", (row.inbox, row.number))

    def publish(self, recent: Recent) -> None:
        first = self.expected + 1
        if self.makes:
            recent.created(self.session)
        recent.appended(self.session, self.own.epoch, first, self.events, self.size)
        if self.adopted:
            recent.owned(self.session, ())
        if self.posts:
            recent.consumed(self.session, self.posts)


class Post(Request):
    __slots__ = ("event", "key", "post")

    def __init__(self, session: SessionRef, event: Event, key: str | None) -> None:
        super().__init__(session, (event,))
        self.event = event
        self.key = key
        self.post = 0

    def run(self, tx: Transaction) -> None:
        row = tx.row(self.session)
        if row is None:
            raise missing(self.session)
        dedup: tuple[Dedup, ...] = ()
        if self.key is not None:
            dedup = (rules.post_key(row.number, self.key, self.event),)
            tx.check_dedup(row.tenant, dedup)
        if row.inbox >= INBOX_POSTS_MAX:
            raise InboxFull(f"{INBOX_POSTS_MAX} inputs wait in session {self.session.id} already")
        tx.flush_sessions()
        row.inbox += 1
        [(self.post,)] = tx.db.execute(
            "UPDATE sessions SET inbox = ?, post = post + 1 WHERE n = ? RETURNING post", (row.inbox, row.number)
        ).fetchall()
        if row.owner is None:
            row.due_ms = row.due_ms or tx.now_ms
            tx.db.execute("UPDATE sessions SET due_ms = ? WHERE n = ? AND due_ms IS NULL", (tx.now_ms, row.number))
        event = self.event
        tx.db.execute(
            "INSERT INTO inbox (tenant, session, post, at_ms, dedup, body) VALUES (?,?,?,?,?,?)",
            (row.tenant, row.number, self.post, event.at_ms, rules.written_dedup(event), self.bodies[0]),
        )
        if dedup:
            tx.write_dedup(row.tenant, row.number, dedup)
        if self.large:
            self.keep_blobs(tx, row.tenant, row.number)

    def publish(self, recent: Recent) -> None:
        recent.posted(Posted(session=self.session, post=self.post, event=posted_event(self.event)))


class Renew(Request):
    __slots__ = ("node", "ttl_ms")

    def __init__(self, node: str, ttl_s: float) -> None:
        super().__init__(SessionRef("", ""))
        self.node = node
        self.ttl_ms = round(ttl_s * 1000)

    def run(self, tx: Transaction) -> int:
        tx.db.execute("INSERT OR REPLACE INTO nodes VALUES (?,?)", (self.node, tx.now_ms + self.ttl_ms))
        others = tx.db.execute(
            "SELECT count(*) FROM nodes WHERE owner <> ? AND expires_ms > ?", (self.node, tx.now_ms)
        ).fetchone()
        return int(others[0])


class Release(Request):
    __slots__ = ("own", "seen", "wake_at_ms")

    def __init__(self, own: Ownership, seen: int, wake_at_ms: int | None) -> None:
        super().__init__(own.session)
        self.own = own
        self.seen = seen
        self.wake_at_ms = wake_at_ms

    def run(self, tx: Transaction) -> bool:
        row = tx.row(self.session)
        if row is None or (row.owner, row.epoch) != (self.own.owner, self.own.epoch):
            raise Fenced(f"session {self.session.id} has another owner, or is gone")
        if row.inbox:
            newer = tx.db.execute(
                "SELECT 1 FROM inbox WHERE tenant = ? AND session = ? AND post > ? LIMIT 1",
                (row.tenant, row.number, self.seen),
            ).fetchone()
            if newer is not None:
                return False
        tx.release(row, self.wake_at_ms)
        return True


class Erase(Request):
    """Gives the names of the large content that lost a reference."""

    __slots__ = ("erased",)

    def __init__(self, session: SessionRef) -> None:
        super().__init__(session)
        self.erased: list[SessionRef] = []

    def run(self, tx: Transaction) -> set[str]:
        tx.flush()
        self.erased = []
        row = tx.row(self.session)
        if row is None:
            return set()
        family: list[tuple[int, int, str]] = tx.db.execute(
            "WITH RECURSIVE family (n) AS (SELECT ? UNION SELECT s.n FROM sessions s JOIN family f"
            " ON s.parent = f.n) SELECT n, tenant, id FROM sessions JOIN family USING (n)",
            (row.number,),
        ).fetchall()
        keys = [(tenant, number) for number, tenant, _ in family]
        names = {name for key in keys for name in blob_names(tx, *key)}
        for table in ("events", "chunks", "snapshots", "inbox", "dedup", "blob_refs", "deletions"):
            deleted = tx.db.executemany(f"DELETE FROM {table} WHERE tenant = ? AND session = ?", keys).rowcount
            self.scrub = self.scrub or deleted > 0
        tx.db.executemany("DELETE FROM sessions WHERE tenant = ? AND n = ?", keys)
        self.erased = [SessionRef(self.session.tenant, name) for _, _, name in family]
        for ref in self.erased:
            tx.forget(ref)
        return names

    def publish(self, recent: Recent) -> None:
        for ref in self.erased:
            recent.erased(ref)


def blob_names(tx: Transaction, tenant: int, session: int) -> list[str]:
    """The large content to which a session refers."""
    query = "SELECT name FROM blob_refs WHERE tenant = ? AND session = ?"
    return [name for (name,) in tx.db.execute(query, (tenant, session))]
