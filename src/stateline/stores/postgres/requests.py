"""What may be asked of the committer: one class a call of the port.

``run`` decides on a batch's rows and must do so before it changes anything there: when it raises,
nothing of the request may be left. ``publish`` tells this node's memory what was committed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from stateline.core.events import Dedup, Event
from stateline.core.ids import SessionRef
from stateline.core.limits import INBOX_POSTS_MAX
from stateline.ports import Fenced, HeadMoved, Hold, InboxFull, Ownership, SessionMissing
from stateline.stores import balances, rules
from stateline.stores.postgres.batch import Batch, Row
from stateline.stores.recent import Recent
from stateline.stores.rules import missing


class Request:
    """One call on its way to the committer and back.

    ``bodies`` are the encoded ``events``, with large content moved out before they are written;
    ``blobs`` is that content by name.
    """

    __slots__ = ("answered", "blobs", "bodies", "error", "events", "future", "large", "result", "session", "size")

    future: asyncio.Future[Any]
    makes: bool = False
    """Whether it makes a session."""
    holds: Sequence[Hold] = ()

    def __init__(self, session: SessionRef, events: Sequence[Event] = ()) -> None:
        self.session = session
        self.events = events
        self.bodies, self.size, self.large = rules.encode(events)
        self.blobs: dict[str, bytes] = {}
        self.result: Any = None
        self.answered = False
        self.error: BaseException | None = None

    @property
    def by_memory(self) -> bool:
        """Whether what is remembered of the session may do, without a look at its row."""
        return False

    def sessions(self) -> tuple[SessionRef, ...]:
        """Whose rows are looked at."""
        return (self.session,)

    def posts(self) -> Sequence[int]:
        """Inbox rows that must be there."""
        return ()

    def keys(self, row: Row) -> Sequence[Dedup]:
        """Dedup keys that must not be there, given the session's row."""
        return ()

    def run(self, batch: Batch) -> Any:
        raise NotImplementedError

    @property
    def unshown(self) -> bool:
        """Whether followers find what it did in the database alone."""
        return False

    @property
    def due(self) -> bool:
        """Whether it left a session to whoever takes it."""
        return False

    def publish(self, recent: Recent) -> None:
        """After the commit, where ``run`` did not raise."""


class Create(Request):
    __slots__ = ("parent",)
    makes = True

    def __init__(self, session: SessionRef, parent: tuple[SessionRef, int] | None) -> None:
        super().__init__(session)
        self.parent = parent

    @property
    def by_memory(self) -> bool:
        return self.parent is None

    def sessions(self) -> tuple[SessionRef, ...]:
        return (self.session,) if self.parent is None else (self.session, self.parent[0])

    def run(self, batch: Batch) -> None:
        if batch.row(self.session) is not None:
            raise rules.exists(self.session)
        parent, seq = self.parent or (None, 0)
        of = None
        if parent is not None:
            of = batch.row(parent) if parent.tenant == self.session.tenant else None
            if of is None:
                raise missing(parent)
            if not 0 <= seq <= of.head:
                raise SessionMissing(f"session {parent.id} ends at {of.head}, not at {seq}")
        batch.add(batch.draft(self.session, of, seq))

    @property
    def unshown(self) -> bool:
        return self.parent is not None

    def publish(self, recent: Recent) -> None:
        if self.parent is None:
            recent.created(self.session)
        else:
            recent.forked(self.session)


_turns = itertools.count()


class Append(Request):
    """``turn`` is its place among all that have holds, in the order in which they were asked for."""

    __slots__ = ("dedup", "expected", "holds", "makes", "own", "release", "taken", "turn")

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
        self.makes = create
        self.own = own
        self.expected = expected
        self.holds = holds
        self.turn = 0
        if holds:
            balances.check(holds)
            self.turn = next(_turns)
        self.release = release
        self.taken, self.dedup = rules.named(events)

    @property
    def by_memory(self) -> bool:
        return not self.taken

    def posts(self) -> Sequence[int]:
        return self.taken

    def keys(self, row: Row) -> Sequence[Dedup]:
        return self.dedup

    def run(self, batch: Batch) -> int:
        row = batch.row(self.session)
        if self.makes:
            if row is not None:
                raise rules.exists(self.session)
            row = batch.draft(self.session)
        elif row is None:
            raise missing(self.session)
        own = self.own
        adopted = rules.adopts(row, own, self.expected)
        for post in self.taken:
            if (row.number, post) not in batch.waiting:
                raise HeadMoved(f"post {post} of session {self.session.id} is not waiting")
        batch.check_keys(row.tenant, self.dedup)
        if self.release and row.inbox > len(self.taken):
            raise HeadMoved(f"the inbox of session {self.session.id} is not empty")
        if self.holds:
            batch.move_balances(row, self.turn, self.holds)
        if self.makes:
            batch.add(row)
        if adopted:
            batch.adopt(row, own.owner, own.epoch)
        row.touched = True
        seq, tenant, number, epoch = self.expected, row.tenant, row.number, own.epoch
        row.head = seq + len(self.events)
        for event, body in zip(self.events, self.bodies, strict=True):
            seq += 1
            batch.record(row, (tenant, number, seq, event.at_ms, epoch, event.post, body), type(event.body))
        if self.taken:
            batch.consume(row, self.taken)
        if self.dedup:
            batch.write_keys(tenant, number, self.dedup)
        if self.release:
            batch.release(row, None)
        if self.blobs:
            batch.keep_blobs(row, self.blobs)
        return seq

    def publish(self, recent: Recent) -> None:
        if self.makes:
            recent.created(self.session)
        recent.appended(self.session, self.own.epoch, self.expected + 1, self.events, self.size)


class Post(Request):
    __slots__ = ("event", "key", "unowned")

    def __init__(self, session: SessionRef, event: Event, key: str | None) -> None:
        super().__init__(session, (event,))
        self.event = event
        self.key = key
        self.unowned = False

    def keys(self, row: Row) -> Sequence[Dedup]:
        return () if self.key is None else (rules.post_key(row.number, self.key, self.event),)

    def run(self, batch: Batch) -> None:
        row = batch.row(self.session)
        if row is None:
            raise missing(self.session)
        dedup = self.keys(row)
        batch.check_keys(row.tenant, dedup)
        if row.inbox >= INBOX_POSTS_MAX:
            raise InboxFull(f"{INBOX_POSTS_MAX} inputs wait in session {self.session.id} already")
        self.unowned = row.owner is None
        batch.post(row, self.event.at_ms, rules.written_dedup(self.event), self.bodies[0])
        batch.write_keys(row.tenant, row.number, dedup)
        if self.blobs:
            batch.keep_blobs(row, self.blobs)

    @property
    def unshown(self) -> bool:
        return True

    @property
    def due(self) -> bool:
        return self.unowned

    def publish(self, recent: Recent) -> None:
        recent.changed(self.session)


class Release(Request):
    __slots__ = ("own", "seen", "wake_at_ms")

    def __init__(self, own: Ownership, seen: int, wake_at_ms: int | None) -> None:
        super().__init__(own.session)
        self.own = own
        self.seen = seen
        self.wake_at_ms = wake_at_ms

    def run(self, batch: Batch) -> bool:
        row = batch.row(self.session)
        if row is None or (row.owner, row.epoch) != (self.own.owner, self.own.epoch):
            raise Fenced(f"session {self.session.id} has another owner, or is gone")
        if row.inbox and row.newest > self.seen:
            return False
        batch.release(row, self.wake_at_ms)
        return True

    @property
    def due(self) -> bool:
        return self.wake_at_ms is not None and self.result is True
