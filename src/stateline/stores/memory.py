"""The store in memory: the same contract, gone with the process.

For sessions of ``store: false``, for tests, and as the model that other stores are compared with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import chain, count, islice

from stateline.core.errors import BadRequest, StoreUnavailable
from stateline.core.events import Chunk, Dedup, Event, Snapshot
from stateline.core.ids import SessionRef
from stateline.core.limits import (
    APPEND_EVENTS_MAX,
    DEDUP_TTL_S,
    INBOX_POSTS_MAX,
    TAIL_EVENTS_MAX,
)
from stateline.ports import (
    Balance,
    Clock,
    Duplicate,
    Fenced,
    HeadMoved,
    Hold,
    InboxFull,
    Ownership,
    Posted,
    SessionMissing,
    Watch,
)
from stateline.stores import balances, rules
from stateline.stores.balances import Standing
from stateline.stores.clock import SystemClock
from stateline.stores.recent import posted_event, stored


class _Session:
    """A session's row and its own events; a fork's prefix stays with its parent."""

    def __init__(self, ref: SessionRef, number: int, parent: _Session | None, head: int) -> None:
        self.ref = ref
        self.number = number
        self.parent = parent
        self.start = self.head = head
        self.owner: str | None = None
        self.epoch = 0
        self.crashed = False
        self.due_ms: int | None = None
        self.wake_ms: int | None = None
        self.inbox: dict[int, Posted] = {}
        self.post = 0
        self.events: list[Event] = []
        self.snapshot: Event | None = None
        self.forks: list[_Session] = []

    def visible(self, after: int, until: int) -> Iterator[Event]:
        """Events in ``(after, until]``, the prefix first; without snapshots."""
        if self.parent is not None and after < self.start:
            yield from self.parent.visible(after, min(until, self.start))
        for event in islice(self.events, self._index(after), None):
            if event.seq > until:
                return
            yield event

    def _index(self, after: int) -> int:
        """The place of the first own event after ``after``."""
        low, high = 0, len(self.events)
        while low < high:
            middle = (low + high) // 2
            if self.events[middle].seq <= after:
                low = middle + 1
            else:
                high = middle
        return low

    def latest_snapshot(self, after: int, until: int) -> Event | None:
        found = self.snapshot
        if found is not None and after < found.seq <= until:
            return found
        if self.parent is None:
            return None
        return self.parent.latest_snapshot(after, min(until, self.start))

    def family(self) -> Iterator[_Session]:
        yield self
        for fork in self.forks:
            yield from fork.family()


class MemoryStore:
    """A ``stateline.ports.Store`` that keeps nothing over a restart."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._sessions: dict[SessionRef, _Session] = {}
        self._numbers = count(1)
        self._dedup: dict[tuple[str, str], tuple[Dedup, SessionRef, int]] = {}
        self._balances: dict[str, Standing] = {}
        self._nodes: dict[str, int] = {}
        self._served = ""
        self._waiters: list[tuple[frozenset[SessionRef], asyncio.Future[None]]] = []
        self._closed = False

    # -- the port ------------------------------------------------------------------------------------

    async def create(self, session: SessionRef, parent: tuple[SessionRef, int] | None = None) -> None:
        self._check_open()
        if session in self._sessions:
            raise rules.exists(session)
        of, head = None, 0
        if parent is not None:
            of, head = self._sessions.get(parent[0]), parent[1]
            if of is None or parent[0].tenant != session.tenant or not 0 <= head <= of.head:
                raise SessionMissing(f"no session {parent[0].id} of that length")
        made = self._sessions[session] = _Session(session, next(self._numbers), of, head)
        if of is not None:
            of.forks.append(made)
            self._wake(session)

    async def append(
        self,
        own: Ownership,
        expected_seq: int,
        events: Sequence[Event],
        holds: Sequence[Hold] = (),
        *,
        create: bool = False,
        release: bool = False,
    ) -> int:
        self._check_open()
        if holds:
            balances.check(holds)
        if len(events) > APPEND_EVENTS_MAX:
            raise BadRequest(
                f"{len(events)} events in one append, {APPEND_EVENTS_MAX} at most",
                code="append_too_large",
            )
        if not create:
            session = self._get(own.session)
        elif own.session in self._sessions:
            raise rules.exists(own.session)
        else:
            session = _Session(own.session, next(self._numbers), None, 0)
        posts = {event.post for event in events if event.post is not None}
        adopts = self._check_append(session, own, expected_seq, posts)
        if release and len(session.inbox) > len(posts):
            raise HeadMoved(f"the inbox of session {own.session.id} is not empty")
        for event in events:
            self._check_dedup(own.session.tenant, event.dedup)
        if holds:
            self._forget_balances()
            self._balances |= balances.moved(holds, self._balances.get)
        if create:
            self._sessions[own.session] = session
        if adopts:
            session.owner, session.epoch = own.owner, own.epoch
            session.due_ms = session.wake_ms = None
        for post in posts:
            session.inbox.pop(post, None)
        for seq, event in enumerate(events, expected_seq + 1):
            self._write_dedup(own.session, event.dedup)
            kept = stored(event, seq, own.epoch)
            if type(kept.body) is Snapshot:
                session.snapshot = kept
            else:
                session.events.append(kept)
        session.head = expected_seq + len(events)
        if release:
            session.owner = None
        self._wake(own.session)
        return session.head

    async def balances(self, names: Sequence[str]) -> dict[str, Balance]:
        self._check_open()
        return {name: found.balance for name in names if (found := self._balances.get(name)) is not None}

    async def read(
        self,
        session: SessionRef,
        after: int = 0,
        *,
        until: int | None = None,
        chunks: bool = False,
        snapshot: bool = False,
    ) -> AsyncIterator[Event]:
        found = self._get(session)
        end = found.head if until is None else min(until, found.head)
        first = found.latest_snapshot(after, end) if snapshot else None
        if first is not None:
            after = first.seq
        events = list(found.visible(after, end))
        for event in events if first is None else chain([first], events):
            if chunks or type(event.body) is not Chunk:
                yield event

    async def find_duplicate(self, tenant: str, dedup_key: str) -> Duplicate | None:
        self._check_open()
        entry = self._dedup.get((tenant, dedup_key))
        if entry is None or entry[2] <= self._clock.now_ms():
            return None
        return Duplicate(entry[0].ref, entry[0].digest)

    async def sessions(self, tenant: str, before: str | None, limit: int) -> list[str]:
        self._check_open()
        found = (ref.id for ref in self._sessions if ref.tenant == tenant and (before is None or ref.id < before))
        return sorted(found, reverse=True)[:limit]

    async def tail(self, watched: Sequence[Watch], wait_s: float = 0.0) -> list[Event | Posted]:
        self._check_open()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            out: list[Event | Posted] = []
            for watch in watched:
                self._since(watch, out)
                if len(out) >= TAIL_EVENTS_MAX:
                    break
            if out or (rest := deadline - loop.time()) <= 0:
                return out
            await self._wait(watched, rest)

    async def post(self, session: SessionRef, event: Event, dedup_key: str | None = None) -> None:
        self._check_open()
        found = self._get(session)
        dedup: tuple[Dedup, ...] = ()
        if dedup_key is not None:
            ref = str(getattr(event.body, "response_id", ""))
            key = f"post/{found.number}/{dedup_key}"
            dedup = (Dedup(key=key, ref=ref, digest="", ttl_s=DEDUP_TTL_S),)
            self._check_dedup(session.tenant, dedup)
        if len(found.inbox) >= INBOX_POSTS_MAX:
            raise InboxFull(f"{INBOX_POSTS_MAX} inputs wait in session {session.id} already")
        self._write_dedup(session, dedup)
        found.post += 1
        found.inbox[found.post] = Posted(session=session, post=found.post, event=posted_event(event))
        if found.owner is None and found.due_ms is None:
            found.due_ms = self._clock.now_ms()
        self._wake(session)

    async def claim(self, node: str, limit: int) -> list[Ownership]:
        self._check_open()
        queues = self._due(node)
        taken: list[_Session] = []
        while queues and len(taken) < limit:
            for tenant in list(queues):
                if len(taken) < limit:
                    taken.append(queues[tenant].pop(0))
                    self._served = tenant
                    if not queues[tenant]:
                        del queues[tenant]
        return [self._take(session, node) for session in taken]

    async def renew(self, node: str, ttl_s: float) -> int:
        self._check_open()
        now_ms = self._clock.now_ms()
        self._nodes[node] = now_ms + round(ttl_s * 1000)
        return sum(expires_ms > now_ms for other, expires_ms in self._nodes.items() if other != node)

    def on_due(self, call: Callable[[], None]) -> None:
        """There is no other process."""

    async def release(self, own: Ownership, seen: int, wake_at_ms: int | None = None) -> bool:
        self._check_open()
        session = self._sessions.get(own.session)
        if session is None or (session.owner, session.epoch) != (own.owner, own.epoch):
            raise Fenced(f"session {own.session.id} has another owner, or is gone")
        if any(post > seen for post in session.inbox):
            return False
        session.owner = None
        session.due_ms = self._clock.now_ms() if session.inbox else None
        session.wake_ms = wake_at_ms
        return True

    async def erase(self, session: SessionRef) -> None:
        self._check_open()
        found = self._sessions.get(session)
        if found is None:
            return
        if found.parent is not None:
            found.parent.forks.remove(found)
        gone = {member.ref for member in found.family()}
        for ref in gone:
            del self._sessions[ref]
        if self._dedup:
            self._dedup = {key: entry for key, entry in self._dedup.items() if entry[1] not in gone}

    async def close(self) -> None:
        self._closed = True

    # -- inside ------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _get(self, ref: SessionRef) -> _Session:
        session = self._sessions.get(ref)
        if session is None:
            raise SessionMissing(f"no session {ref.id}")
        return session

    def _check_append(self, session: _Session, own: Ownership, expected: int, posts: set[int]) -> bool:
        """Whether the append adopts the session."""
        if (session.owner, session.epoch) == (own.owner, own.epoch):
            adopts = False
        elif session.owner is None and not session.crashed and session.epoch + 1 == own.epoch:
            adopts = True
        else:
            raise Fenced(f"session {own.session.id} has another owner")
        if session.head != expected or (adopts and session.inbox):
            raise HeadMoved(f"session {own.session.id} is at {session.head}, or its inbox is not empty")
        if any(post not in session.inbox for post in posts):
            raise HeadMoved(f"a post of session {own.session.id} is not waiting")
        return adopts

    def _check_dedup(self, tenant: str, dedup: Sequence[Dedup]) -> None:
        now_ms = self._clock.now_ms()
        for wanted in dedup:
            entry = None if wanted.replace else self._dedup.get((tenant, wanted.key))
            if entry is not None and entry[2] > now_ms:
                raise Duplicate(entry[0].ref, entry[0].digest)

    def _write_dedup(self, session: SessionRef, dedup: Sequence[Dedup]) -> None:
        if not dedup:
            return
        now_ms = self._clock.now_ms()
        for entry in dedup:
            self._dedup.pop((session.tenant, entry.key), None)
            expires_ms = now_ms + entry.ttl_s * 1000
            self._dedup[session.tenant, entry.key] = (entry, session, expires_ms)
        # The oldest are at the front; two go for each one that comes.
        for key in list(islice(self._dedup, 2 * len(dedup))):
            if self._dedup[key][2] <= now_ms:
                del self._dedup[key]

    def _forget_balances(self) -> None:
        """The oldest are at the front, since names are by month; two may go for each append."""
        now_ms = self._clock.now_ms()
        for name in list(islice(self._balances, 2)):
            expires_ms = self._balances[name].expires_ms
            if expires_ms is not None and expires_ms <= now_ms:
                del self._balances[name]

    def _due(self, node: str) -> dict[str, list[_Session]]:
        """Due sessions by tenant, the next tenant in turn first. The node that asks is alive."""
        now_ms = self._clock.now_ms()
        due: dict[str, list[_Session]] = {}
        for session in self._sessions.values():
            if session.owner not in {None, node} and self._nodes.get(session.owner or "", 0) <= now_ms:
                session.owner, session.crashed, session.due_ms = None, True, now_ms
            if session.due_ms is None and (session.wake_ms or now_ms + 1) <= now_ms:
                session.due_ms = session.wake_ms
            if session.due_ms is not None:
                due.setdefault(session.ref.tenant, []).append(session)
        for sessions in due.values():
            sessions.sort(key=lambda session: (session.due_ms or 0, session.number))
        turns = sorted(due)
        turns = [t for t in turns if t > self._served] + [t for t in turns if t <= self._served]
        return {tenant: due[tenant] for tenant in turns}

    def _take(self, session: _Session, node: str) -> Ownership:
        crashed, session.crashed = session.crashed, False
        session.owner = node
        session.epoch += 1
        session.due_ms = session.wake_ms = None
        return Ownership(
            session=session.ref,
            owner=node,
            epoch=session.epoch,
            head=session.head,
            inbox=tuple(session.inbox.values()),
            crashed=crashed,
        )

    def _since(self, watch: Watch, out: list[Event | Posted]) -> None:
        session = self._sessions.get(watch.session)
        if session is None:
            return
        if watch.after < session.head:
            out.extend(session.visible(watch.after, session.head))
        if watch.post is not None and session.inbox:
            after = watch.post
            out.extend(posted for post, posted in session.inbox.items() if post > after)

    async def _wait(self, watched: Sequence[Watch], wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        wake: asyncio.Future[None] = loop.create_future()
        waiter = (frozenset(watch.session for watch in watched), wake)
        timer = loop.call_later(wait_s, _set, wake)
        self._waiters.append(waiter)
        try:
            await wake
        finally:
            timer.cancel()
            self._waiters.remove(waiter)

    def _wake(self, session: SessionRef) -> None:
        for sessions, wake in self._waiters:
            if session in sessions:
                _set(wake)


def _set(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
