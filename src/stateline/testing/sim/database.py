"""The simulated database: one shared log, many nodes, the rules of ``stateline.ports.Store``.

All of it is plain functions of the present moment; waiting, losing and breaking are in ``store``. What
is asked of it and holds is in its tables for good: a crash is of nodes, never of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from stateline.core.errors import BadRequest
from stateline.core.events import Dedup, Event, Snapshot
from stateline.core.ids import SYSTEM_TENANT, SessionRef
from stateline.core.limits import APPEND_EVENTS_MAX, DEDUP_TTL_S, INBOX_POSTS_MAX
from stateline.ports import (
    Balance,
    BudgetExceeded,
    Duplicate,
    Fenced,
    HeadMoved,
    Hold,
    InboxFull,
    Ownership,
    Posted,
    SessionExists,
    SessionMissing,
    Watch,
)
from stateline.testing.sim.audit import Audit


class Row:
    """A session's row and its own events; a fork's prefix stays with its parent."""

    __slots__ = (
        "crashed",
        "due_ms",
        "epoch",
        "erased",
        "events",
        "head",
        "inbox",
        "number",
        "owner",
        "parent",
        "post",
        "ref",
        "snapshots",
        "start",
        "wake_ms",
    )

    def __init__(self, ref: SessionRef, number: int, parent: Row | None, head: int) -> None:
        self.ref = ref
        self.number = number
        self.parent = parent
        self.start = self.head = head
        self.owner: str | None = None
        self.epoch = 0
        self.crashed = False
        self.erased = False
        self.due_ms: int | None = None
        self.wake_ms: int | None = None
        self.inbox: dict[int, Posted] = {}
        self.post = 0
        self.events: list[Event] = []
        self.snapshots: list[Event] = []

    def between(self, after: int, until: int) -> list[Event]:
        """Events in ``(after, until]``, a fork's prefix first; chunks included, snapshots not."""
        start = self.start
        own = self.events[after - start if after > start else 0 : until - start if until > start else 0]
        if self.snapshots:
            own = [event for event in own if type(event.body) is not Snapshot]
        if self.parent is not None and after < start:
            return self.parent.between(after, min(until, start)) + own
        return own

    def whole(self) -> list[Event]:
        """The log from its first event on, snapshots included."""
        return self.events[:] if self.parent is None else self.parent.whole()[: self.start] + self.events

    def snapshot(self, after: int, until: int) -> Event | None:
        for found in reversed(self.snapshots):
            if after < found.seq <= until:
                return found
        return None if self.parent is None else self.parent.snapshot(after, min(until, self.start))


class Database:
    """Rows, inboxes, dedup keys, balances and nodes.

    Args:
        now_ms: the database's clock.
        audit: is told of every change, and judges it by rules of its own.
        changed: is told of each session that a tailer may want to look at.
    """

    def __init__(self, now_ms: Callable[[], int], audit: Audit, changed: Callable[[SessionRef], None]) -> None:
        self.rows: dict[SessionRef, Row] = {}
        self.created: list[Row] = []
        self._now_ms = now_ms
        self._audit = audit
        self._changed = changed
        self._open: dict[SessionRef, Row] = {}
        """Sessions with an owner or something to do: all that a claim has to look at."""
        self._dedup: dict[tuple[str, str], tuple[Dedup, int]] = {}
        self.balances: dict[str, Balance] = {}
        self._nodes: dict[str, int] = {}
        self._served = ""

    # -- sessions and their logs -----------------------------------------------------------------

    def create(self, session: SessionRef, parent: tuple[SessionRef, int] | None) -> None:
        if session in self.rows:
            raise _exists(session)
        of, head = None, 0
        if parent is not None:
            of, head = self.rows.get(parent[0]), parent[1]
            if of is None or parent[0].tenant != session.tenant or not 0 <= head <= of.head:
                raise SessionMissing(f"no session {parent[0].id} of that length")
        self._add(Row(session, len(self.created) + 1, of, head))

    def _add(self, row: Row) -> None:
        self.rows[row.ref] = row
        self.created.append(row)

    def _drafted(self, session: SessionRef) -> Row:
        """The row of a session that an append is about to make."""
        if session in self.rows:
            raise _exists(session)
        return Row(session, len(self.created) + 1, None, 0)

    def append(
        self,
        own: Ownership,
        expected_seq: int,
        events: Sequence[Event],
        create: bool,
        release: bool,
        *,
        holds: Sequence[Hold] = (),
    ) -> int:
        if len(events) > APPEND_EVENTS_MAX:
            raise BadRequest(f"{len(events)} events in one append", code="append_too_large")
        row = self._drafted(own.session) if create else self.rows.get(own.session) or self._row(own.session)
        adopts = (row.owner != own.owner or row.epoch != own.epoch) and self._check_writer(row, own)
        if row.head != expected_seq:
            raise HeadMoved(f"session {row.ref.id} is at {row.head}")
        posts: set[int] = set()
        dedup: list[Dedup] = []
        if adopts or release or len(events) != 1 or events[0].post is not None or events[0].dedup:
            # All but a chunk or the like, which have no part in what follows.
            posts = {event.post for event in events if event.post is not None}
            if (adopts and row.inbox) or any(post not in row.inbox for post in posts):
                raise HeadMoved(f"the inbox of session {row.ref.id} is not as it was thought")
            if release and len(row.inbox) > len(posts):
                raise HeadMoved(f"the inbox of session {row.ref.id} is not empty")
            dedup = [entry for event in events for entry in event.dedup]
            self._check_dedup(row.ref.tenant, dedup)
        if holds:
            self._hold(row.ref, holds)
        kept = [_stored(event, seq, own.epoch) for seq, event in enumerate(events, expected_seq + 1)]
        self._audit.appending(row.ref, own, row.head, kept)
        if create:
            self._add(row)
        if adopts:
            self._take(row, own.owner, own.epoch)
        for post in posts:
            del row.inbox[post]
        if dedup:
            self._write_dedup(row.ref.tenant, dedup)
        row.events += kept
        for event in kept:
            if type(event.body) is Snapshot:
                row.snapshots.append(event)
        row.head = expected_seq + len(kept)
        if release:
            self._give_back(row)
        self._changed(row.ref)
        return row.head

    def _hold(self, ref: SessionRef, holds: Sequence[Hold]) -> None:
        """Move the balances, or raise BudgetExceeded. It is the last thing that may refuse an append."""
        after = dict(self.balances)
        for hold in holds:
            held, spent = after.get(hold.budget, Balance())
            now = after[hold.budget] = Balance(held + hold.held, spent + hold.spent)
            if hold.limit is not None and now.held + now.spent > hold.limit:
                raise BudgetExceeded(hold.budget, hold.limit - sum(self.balances.get(hold.budget, Balance())))
        self.balances = after
        self._audit.held(ref, holds)

    def _check_writer(self, row: Row, own: Ownership) -> bool:
        """Whether the append of another than its writer adopts the session; raises Fenced where it may not."""
        if row.owner is None and not row.crashed and row.epoch + 1 == own.epoch:
            return True
        raise Fenced(f"session {row.ref.id} has another owner")

    def read(self, session: SessionRef, after: int, until: int | None, snapshot: bool) -> list[Event]:
        """Chunks included; whoever wants none leaves them out."""
        row = self._row(session)
        end = row.head if until is None else min(until, row.head)
        first = row.snapshot(after, end) if snapshot else None
        return row.between(after, end) if first is None else [first, *row.between(first.seq, end)]

    def since(self, watched: Sequence[Watch]) -> list[Event | Posted]:
        out: list[Event | Posted] = []
        rows = self.rows
        for watch in watched:
            row = rows.get(watch.session)
            if row is None:
                continue
            if watch.after < row.head:
                out += row.between(watch.after, row.head)
            if row.inbox and watch.post is not None:
                out += [posted for posted in row.inbox.values() if posted.post > watch.post]
        return out

    def erase(self, session: SessionRef) -> None:
        row = self.rows.get(session)
        if row is None:
            return
        gone = [row]
        for member in gone:
            gone += [other for other in self.created if other.parent is member]
        for member in gone:
            member.erased = True
            self.rows.pop(member.ref, None)
            self._open.pop(member.ref, None)
        self._audit.erased(session)

    def _row(self, ref: SessionRef) -> Row:
        row = self.rows.get(ref)
        if row is None:
            raise SessionMissing(f"no session {ref.id}")
        return row

    # -- inboxes and dedup keys --------------------------------------------------------------------

    def post(self, session: SessionRef, event: Event, dedup_key: str | None) -> None:
        row = self._row(session)
        dedup: tuple[Dedup, ...] = ()
        if dedup_key is not None:
            ref = str(getattr(event.body, "response_id", ""))
            dedup = (Dedup(key=f"post/{row.number}/{dedup_key}", ref=ref, digest="", ttl_s=DEDUP_TTL_S),)
            self._check_dedup(session.tenant, dedup)
        if len(row.inbox) >= INBOX_POSTS_MAX:
            raise InboxFull(f"{INBOX_POSTS_MAX} inputs wait in session {session.id} already")
        self._write_dedup(session.tenant, dedup)
        row.post += 1
        waiting = msgspec.structs.replace(event, seq=0, epoch=0, post=None)
        row.inbox[row.post] = Posted(session=session, post=row.post, event=waiting)
        if row.owner is None and row.due_ms is None:
            row.due_ms = self._now_ms()
            self._open[session] = row
        self._audit.posted(session, row.post, waiting)
        self._changed(session)

    def sessions(self, tenant: str, before: str | None, limit: int) -> list[str]:
        found = (ref.id for ref in self.rows if ref.tenant == tenant and (before is None or ref.id < before))
        return sorted(found, reverse=True)[:limit]

    def find_duplicate(self, tenant: str, key: str) -> Duplicate | None:
        entry = self._dedup.get((tenant, key))
        if entry is None or entry[1] <= self._now_ms():
            return None
        return Duplicate(entry[0].ref, entry[0].digest)

    def _check_dedup(self, tenant: str, dedup: Sequence[Dedup]) -> None:
        for wanted in dedup:
            found = None if wanted.replace else self.find_duplicate(tenant, wanted.key)
            if found is not None:
                raise found

    def _write_dedup(self, tenant: str, dedup: Sequence[Dedup]) -> None:
        for entry in dedup:
            self._dedup[tenant, entry.key] = (entry, self._now_ms() + entry.ttl_s * 1000)

    # -- ownership ---------------------------------------------------------------------------------

    def claim(self, node: str, limit: int) -> list[Ownership]:
        queues = self._due(node)
        taken: list[Ownership] = []
        while queues and len(taken) < limit:
            for tenant in list(queues):
                if len(taken) < limit:
                    taken.append(self._claimed(queues[tenant].pop(0), node))
                    self._served = tenant
                    if not queues[tenant]:
                        del queues[tenant]
        return taken

    def _due(self, node: str) -> dict[str, list[Row]]:
        """Due sessions by tenant, the next tenant in turn first. The node that asks is alive."""
        now_ms = self._now_ms()
        due: dict[str, list[Row]] = {}
        for row in self._open.values():
            owner = row.owner
            if owner is not None and owner != node and self._nodes.get(owner, 0) <= now_ms:
                self._audit.lapsed(owner)
                self.seize(row)
            if row.due_ms is None and row.wake_ms is not None and row.wake_ms <= now_ms:
                row.due_ms = row.wake_ms
            if row.due_ms is not None:
                due.setdefault(row.ref.tenant, []).append(row)
        for rows in due.values():
            rows.sort(key=lambda row: (row.due_ms or 0, row.number))
        turns = sorted(due)
        turns = [t for t in turns if t > self._served] + [t for t in turns if t <= self._served]
        return {tenant: due[tenant] for tenant in turns}

    def _claimed(self, row: Row, node: str) -> Ownership:
        crashed = row.crashed
        self._take(row, node, row.epoch + 1)
        inbox = tuple(row.inbox.values())
        return Ownership(session=row.ref, owner=node, epoch=row.epoch, head=row.head, inbox=inbox, crashed=crashed)

    def _take(self, row: Row, owner: str, epoch: int) -> None:
        row.owner, row.epoch, row.crashed = owner, epoch, False
        row.due_ms = row.wake_ms = None
        self._open[row.ref] = row

    def seize(self, row: Row) -> None:
        """Take a session from its owner, as from a dead one."""
        row.owner, row.crashed, row.due_ms = None, True, self._now_ms()

    def steal(self, session: SessionRef) -> None:
        """Another owner comes first: from a dead node, or to an idle session that it soon gave back."""
        row = self.rows[session]
        if row.owner is not None:
            self.seize(row)
        else:
            row.epoch += 1

    def renew(self, node: str, ttl_s: float) -> int:
        now_ms = self._now_ms()
        self._nodes[node] = now_ms + round(ttl_s * 1000)
        return sum(expires_ms > now_ms for other, expires_ms in self._nodes.items() if other != node)

    def release(self, own: Ownership, seen: int, wake_at_ms: int | None) -> bool:
        row = self.rows.get(own.session)
        if row is None or (row.owner, row.epoch) != (own.owner, own.epoch):
            raise Fenced(f"session {own.session.id} has another owner, or is gone")
        if any(post > seen for post in row.inbox):
            return False
        self._give_back(row)
        row.due_ms = self._now_ms() if row.inbox else None
        row.wake_ms = wake_at_ms
        if row.due_ms is not None or wake_at_ms is not None:
            self._open[row.ref] = row
        return True

    def unrest(self) -> list[str]:
        """What still has an owner, an input or a timer: nothing, once a run is at rest.

        A living node keeps the ledger that it writes.
        """
        return [
            f"session {row.ref.id} (owner {row.owner}, epoch {row.epoch}, {len(row.inbox)} inputs, head {row.head},"
            f" last {type(row.events[-1].body).__name__ if row.events else None})"
            for row in self._open.values()
            if row.ref.tenant != SYSTEM_TENANT or row.owner is None
        ]

    def _give_back(self, row: Row) -> None:
        row.owner = None
        self._open.pop(row.ref, None)


def _exists(session: SessionRef) -> SessionExists:
    return SessionExists(f"session {session.id} exists already")


def _stored(event: Event, seq: int, epoch: int) -> Event:
    """An appended event as the log has it."""
    if event.seq == seq and event.epoch == epoch and not event.dedup:
        return event
    return msgspec.structs.replace(event, seq=seq, epoch=epoch, dedup=())
