"""What was committed lately, for those who follow it; lives on the event loop alone.

A node's one tailer asks for all sessions that it watches. Almost always the answer is in memory: each
commit leaves its events here, bounded in number and bytes, and each known session remembers up to
where nothing is missing (its ``floor``). Only a cursor below the floor, or a session that is not
known, needs the disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from stateline.core.events import Event, Snapshot, StatelessCalls
from stateline.core.ids import SessionRef
from stateline.core.limits import (
    RECENT_BYTES_MAX,
    RECENT_EVENTS_MAX,
    RECENT_SESSIONS_MAX,
    TAIL_EVENTS_MAX,
)
from stateline.ports import NO_EVENTS, Posted, Watch


class _Entry(msgspec.Struct, gc=False):
    """The events of one append, as they were handed in: numbers ``first`` to ``last``."""

    session: SessionRef
    epoch: int
    first: int
    last: int
    events: Sequence[Event]
    bytes: int


class _Log:
    """What is known of one session.

    Every visible event after ``floor`` is in ``entries``; ``last`` is the newest visible one, ``end`` the
    newest of any kind. ``inbox`` is exactly what waits, or None when that is not known.
    """

    __slots__ = ("end", "entries", "floor", "inbox", "last")

    def __init__(self, floor: int, last: int) -> None:
        self.entries: list[_Entry] = []
        self.floor = floor
        self.last = self.end = last
        self.inbox: dict[int, Posted] | None = None


class _Waiter:
    """Who waits: for ``events`` of these sessions, and for ``posts`` to those."""

    __slots__ = ("events", "posts", "wake")

    def __init__(self, watched: Sequence[Watch], wake: asyncio.Future[None]) -> None:
        self.events = frozenset([watch.session for watch in watched if watch.after < NO_EVENTS])
        self.posts = frozenset([watch.session for watch in watched if watch.post is not None])
        self.wake = wake


class Recent:
    """The newest part of all logs and inboxes, and who waits for more."""

    def __init__(self) -> None:
        self._logs: dict[SessionRef, _Log] = {}
        self._entries: deque[_Entry] = deque()
        self._events = 0
        self._bytes = 0
        self._waiters: list[_Waiter] = []
        self.inbox_changes = 0
        """Counts what was posted or consumed, so that a slow look at the disk knows it is stale."""
        self.evictions = 0

    # -- what the store reports, after its commit --------------------------------------------------

    def created(self, session: SessionRef) -> None:
        """A new session, empty."""
        log = self._remember(session, _Log(0, 0))
        log.inbox = {}

    def forked(self, session: SessionRef) -> None:
        """A new session with events of another one, which are on the disk."""
        self._logs.pop(session, None)
        self._wake(session)

    def appended(self, session: SessionRef, epoch: int, first: int, events: Sequence[Event], size: int) -> None:
        """``events`` are numbered from ``first``; ``size`` is their stored bytes."""
        if events and type(events[-1].body) is StatelessCalls:
            # Nobody follows a node's book. Its events have hundreds of objects each, which would drive out all
            # others here, and be called back from memory that has long left the processor's caches to be freed.
            self._logs.pop(session, None)
            self._wake(session)
            return
        count = visible = len(events)
        while visible and type(events[visible - 1].body) is Snapshot:
            visible -= 1
        log = self._logs.get(session)
        if not visible:
            if log is not None:
                log.end = max(log.end, first + count - 1)
            return  # Nothing that a follower would see.
        if log is None:
            log = self._remember(session, _Log(first - 1, first - 1))
        elif first > log.end + 1:
            # Another process wrote what is between: of that nothing is known here.
            log.entries.clear()
            log.floor = first - 1
        end = first + count - 1
        entry = _Entry(session, epoch, first, end, events, size)
        log.entries.append(entry)
        log.last = first + visible - 1
        log.end = end
        self._entries.append(entry)
        self._events += count
        self._bytes += size
        if self._events > RECENT_EVENTS_MAX or self._bytes > RECENT_BYTES_MAX:
            self._evict()
        for waiter in self._waiters:
            if session in waiter.events:
                _set(waiter.wake)

    def owned(self, session: SessionRef, inbox: Iterable[Posted]) -> None:
        """A session was claimed or adopted; ``inbox`` is what waits in it."""
        self.inbox_changes += 1
        log = self._logs.get(session)
        if log is not None:
            log.inbox = {posted.post: posted for posted in inbox}

    def posted(self, posted: Posted) -> None:
        self.inbox_changes += 1
        log = self._logs.get(posted.session)
        if log is not None and log.inbox is not None:
            log.inbox[posted.post] = posted
        self._wake(posted.session)

    def consumed(self, session: SessionRef, posts: Iterable[int]) -> None:
        self.inbox_changes += 1
        log = self._logs.get(session)
        if log is not None and log.inbox is not None:
            for post in posts:
                log.inbox.pop(post, None)

    def erased(self, session: SessionRef) -> None:
        log = self._logs.pop(session, None)
        if log is not None:
            for entry in log.entries:
                entry.events = ()

    # -- what a look at the disk found ---------------------------------------------------------------

    def looked_up(self, watch: Watch, last: int, nothing: bool, inbox: Sequence[Posted] | None) -> None:
        """``last`` is the newest visible event on the disk.

        ``nothing``: none was after the cursor, and nothing was evicted since the look. ``inbox`` is
        what waits, or None when it may be stale by now.
        """
        log = self._logs.get(watch.session)
        if log is None:
            log = self._remember(watch.session, _Log(last, last))
        elif nothing and log.floor > watch.after:
            # Between the cursor and the floor there is nothing to see.
            log.floor = watch.after
            if not log.entries:
                log.last = min(log.last, watch.after)
        if inbox is not None and log.inbox is None:
            log.inbox = {posted.post: posted for posted in inbox}
        log.end = max(log.end, last)

    def changed(self, session: SessionRef) -> None:
        """Something happened to a session that whoever follows it should look for."""
        self._wake(session)

    def wake_all(self) -> None:
        """Something may have happened to any session."""
        for waiter in self._waiters:
            _set(waiter.wake)

    # -- what the tailer asks ------------------------------------------------------------------------

    def since(self, watched: Iterable[Watch], out: list[Event | Posted]) -> list[Watch]:
        """Add what is new to ``out``; return the watches that need a look at the disk."""
        # With thousands of watches this is the hottest loop of the node: one look-up for each.
        find = self._logs.get
        unknown: list[Watch] = []
        for watch in watched:
            log = find(watch.session)
            if log is None:
                unknown.append(watch)
                continue
            after, post = watch.after, watch.post
            if post is not None and log.inbox is None:
                unknown.append(watch)
                continue
            if after < log.last:
                if after < log.floor:
                    unknown.append(watch)
                    continue
                _collect(log, after, out)
            if post is not None and log.inbox:
                out.extend(posted for number, posted in log.inbox.items() if number > post)
            if out and len(out) >= TAIL_EVENTS_MAX:
                break
        return unknown

    def committed(self, watched: Iterable[Watch], out: list[Event | Posted]) -> list[Watch]:
        """Add what this process committed itself after each cursor, without a gap.

        Where others write as well: there may be more. Returns the watches of which nothing is known.
        """
        find = self._logs.get
        unknown: list[Watch] = []
        for watch in watched:
            log = find(watch.session)
            if log is None or watch.after < log.floor:
                unknown.append(watch)
            elif watch.after < log.last:
                _collect(log, watch.after, out)
                if len(out) >= TAIL_EVENTS_MAX:
                    break
        return unknown

    async def wait(self, watched: Sequence[Watch], wait_s: float) -> None:
        """Return when something happened to a watched session, or after ``wait_s``."""
        loop = asyncio.get_running_loop()
        wake: asyncio.Future[None] = loop.create_future()
        waiter = _Waiter(watched, wake)
        timer = loop.call_later(wait_s, _set, wake)
        self._waiters.append(waiter)
        try:
            await wake
        finally:
            timer.cancel()
            self._waiters.remove(waiter)

    # -- inside --------------------------------------------------------------------------------------

    def _wake(self, session: SessionRef) -> None:
        for waiter in self._waiters:
            if session in waiter.events or session in waiter.posts:
                _set(waiter.wake)

    def _remember(self, session: SessionRef, log: _Log) -> _Log:
        self._logs[session] = log
        while len(self._logs) > RECENT_SESSIONS_MAX:
            del self._logs[next(iter(self._logs))]
        return log

    def _evict(self) -> None:
        while self._events > RECENT_EVENTS_MAX or self._bytes > RECENT_BYTES_MAX:
            entry = self._entries.popleft()
            self.evictions += 1
            self._events -= entry.last - entry.first + 1
            self._bytes -= entry.bytes
            log = self._logs.get(entry.session)
            if log is not None and log.entries and log.entries[0] is entry:
                del log.entries[0]
                log.floor = max(log.floor, entry.last)
                if not log.entries:
                    # Whoever still watches it looks at the disk once, and it is known again.
                    del self._logs[entry.session]


def _collect(log: _Log, after: int, out: list[Event | Posted]) -> None:
    """Add the visible events after ``after``, as reading would give them."""
    begin = len(log.entries)
    for entry in reversed(log.entries):
        if entry.last <= after:
            break
        begin -= 1
    for index in range(begin, len(log.entries)):
        entry = log.entries[index]
        for seq, event in enumerate(entry.events, entry.first):
            if seq > after and type(event.body) is not Snapshot:
                out.append(stored(event, seq, entry.epoch))


def stored(event: Event, seq: int, epoch: int) -> Event:
    """An appended event as the log has it."""
    if event.seq == seq and event.epoch == epoch and not event.dedup:
        return event
    return msgspec.structs.replace(event, seq=seq, epoch=epoch, dedup=())


def posted_event(event: Event) -> Event:
    """An event as it waits in an inbox: without a place in the log."""
    if event.seq == 0 and event.epoch == 0 and event.post is None:
        return event
    return msgspec.structs.replace(event, seq=0, epoch=0, post=None)


def _set(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
