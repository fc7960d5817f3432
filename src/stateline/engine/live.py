"""Following the log: one tailer a node, however many readers.

A reader sees what is durable and nothing else, by the same path on the node that does the work and on
any other. What it missed it reads from the store; from then on the tailer hands it each new event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from stateline.core.errors import Overloaded, StoreUnavailable
from stateline.core.events import Event, Snapshot
from stateline.core.ids import SessionRef
from stateline.core.limits import WATCH_QUEUE_EVENTS_MAX
from stateline.engine.signal import Signal
from stateline.ports import NO_EVENTS, Posted, Store, Watch

log = logging.getLogger("stateline.engine")

_TAIL_WAIT_S = 5.0
_RETRY_S = 0.5
LOOK_AGAIN_S = 0.005
"""What begins or ends to be watched within it has the tailer ask anew only once."""
LOOK_FOR_POSTS_S = 0.05
"""The same for a session that this node owns: only a post to it comes by the tailer, a cancel above all. A
shorter turn has none to be asked for."""
PAGE_EVENTS = 256
"""Events that a reader of the past gets at a time."""


class Follower:
    """One reader of one session: its cursor, and what the tailer has brought since."""

    __slots__ = ("after", "events", "lagged", "ref", "registered", "wake")

    def __init__(self, ref: SessionRef, after: int) -> None:
        self.ref = ref
        self.after = after
        self.events: list[Event] = []
        self.lagged = False
        self.registered = False
        self.wake = Signal()

    def push(self, event: Event) -> None:
        if len(self.events) >= WATCH_QUEUE_EVENTS_MAX:
            # It reads too slowly to be fed from memory.
            self.lag()
        if not self.lagged:
            self.events.append(event)
        self.wake.set()

    def lag(self) -> None:
        """Have it read the log from its cursor."""
        self.events = []
        self.lagged = True
        self.wake.set()

    def take(self) -> list[Event]:
        """What came after the cursor, which moves behind it."""
        out: list[Event] = []
        for event in self.events:
            if event.seq > self.after:
                self.after = event.seq
                out.append(event)
        self.events = []
        return out


class _Watched:
    """What is known of a watched session: how far its followers were told, and who wants to hear.

    ``last`` is what its owner appended last, as long as nothing came from elsewhere since.
    """

    __slots__ = ("after", "followers", "last", "owned_in", "owner", "watch")

    def __init__(self, ref: SessionRef, after: int) -> None:
        self.owned_in = 0
        self.after = after
        self.followers: list[Follower] = []
        self.last: Sequence[Event] = ()
        self.owner: Callable[[Posted], None] | None = None
        self.watch = Watch(session=ref, after=after)


class Live:
    """The node's tailer and its readers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watched: dict[SessionRef, _Watched] = {}
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._stopped = False
        self._asking = False
        self._round = 0
        self._look: asyncio.TimerHandle | None = None
        self._look_is_late = False

    @property
    def followed(self) -> bool:
        """Whether anybody follows a session, or owns one."""
        return bool(self._watched)

    async def stop(self) -> None:
        """End the tailer, and tell its readers."""
        self._stopped = True
        for watched in self._watched.values():
            for follower in watched.followers:
                follower.wake.set()
        if self._look is not None:
            self._look.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    # -- readers ------------------------------------------------------------------------------------

    async def follow(self, ref: SessionRef, after: int) -> AsyncGenerator[list[Event], None]:
        """Batches of a session's events after ``after``, chunks included, in order and without end.

        The caller stops when it has seen enough, and closes it.

        Raises:
            SessionMissing: no such session.
            Overloaded: the node stops.
        """
        follower = Follower(ref, after)
        try:
            # A session that is worked on here is in the store's memory; of any other the past is read first.
            follower.lagged = ref not in self._watched
            while True:
                if follower.lagged:
                    # First of all: what comes while it reads waits behind what it reads.
                    follower.lagged = False
                    async for batch in self._missed(follower):
                        yield batch
                if not follower.registered:
                    await self._register(follower)
                if follower.events:
                    batch = follower.take()
                    if batch:
                        yield batch
                elif not follower.lagged:
                    if self._stopped:
                        raise Overloaded("this node is shutting down; follow again from your cursor", retry_after_s=1.0)
                    await follower.wake.wait()
        finally:
            watched = self._watched.get(ref)
            if watched is not None and follower in watched.followers:
                watched.followers.remove(follower)
                self._drop(ref, watched)

    async def _register(self, follower: Follower) -> None:
        """From here on the tailer feeds it; what the tailer passed already is fetched now."""
        watched = self._entry(follower.ref, follower.after)
        if watched.owner is None:
            self._look_soon()
        watched.followers.append(follower)
        follower.registered = True
        cursor = follower.after
        gap: list[Event] = []
        last = watched.last
        if last and last[0].seq <= cursor + 1 and last[-1].seq == watched.after:
            # A turn that has just begun: what its owner appended says it all.
            gap = [event for event in last if event.seq > cursor and type(event.body) is not Snapshot]
            cursor = watched.after
        while watched.after > cursor:
            # One answer may be cut short, so it is asked until it reaches the tailer.
            records = await self._store.tail([Watch(session=follower.ref, after=cursor)])
            events = [record for record in records if isinstance(record, Event)]
            if not events:
                break
            gap += events
            cursor = events[-1].seq
        follower.events = gap + follower.events

    async def _missed(self, follower: Follower) -> AsyncGenerator[list[Event], None]:
        """What the store has after the follower's cursor, in pages."""
        follower.events = []
        batch: list[Event] = []
        async for event in self._store.read(follower.ref, follower.after, chunks=True):
            batch.append(event)
            if len(batch) >= PAGE_EVENTS:
                follower.after = event.seq
                yield batch
                batch = []
        if batch:
            follower.after = batch[-1].seq
            yield batch

    # -- the owner ---------------------------------------------------------------------------------------

    def own(
        self,
        ref: SessionRef,
        after: int,
        post: int,
        deliver: Callable[[Posted], None],
        recorded: Sequence[Event] = (),
    ) -> None:
        """Hand inbox rows after ``post`` of a session that this node owns to ``deliver``.

        Its events need no look at the store: until ``disown`` nobody else appends any, and ``recorded`` tells.
        ``recorded`` here are those up to ``after`` that were appended before.
        """
        watched = self._entry(ref, after)
        watched.last = recorded
        watched.owner = deliver
        # What the tailer is told now may be a post of before that, which was taken long ago.
        watched.owned_in = self._round
        watched.watch = Watch(session=ref, after=NO_EVENTS, post=post)
        self._look_soon(late=True)

    def recorded(self, ref: SessionRef, events: Sequence[Event]) -> None:
        """The owner has appended ``events``, durably; followers need not wait for the tailer."""
        watched = self._watched.get(ref)
        if watched is None:
            return
        missed = events[0].seq > watched.after + 1
        watched.after = events[-1].seq
        watched.last = events
        if watched.owner is None:
            # What comes next is another owner's.
            watched.watch = Watch(session=ref, after=watched.after)
            if watched.followers:
                self._look_soon()
        for follower in watched.followers:
            if missed:
                # Another owner's were before these, which the tailer had not brought yet.
                follower.lag()
            for event in events:
                if type(event.body) is not Snapshot:
                    follower.push(event)

    def disown(self, ref: SessionRef, *, appending: bool = False) -> None:
        """The node owns the session no more.

        ``appending``: it is about to give it back with an append, of which ``recorded`` tells. So the tailer does
        not ask for that; where it fails, the session has to be disowned anew, or owned again.
        """
        watched = self._watched.get(ref)
        if watched is not None:
            watched.owner = None
            watched.watch = Watch(session=ref, after=NO_EVENTS if appending else watched.after)
            self._drop(ref, watched)
            if watched.followers:
                # Most leave with the turn that ends now.
                self._look_soon()

    # -- the tailer -----------------------------------------------------------------------------------------

    def _entry(self, ref: SessionRef, after: int) -> _Watched:
        watched = self._watched.get(ref)
        if watched is None:
            watched = self._watched[ref] = _Watched(ref, after)
        return watched

    def _look_soon(self, *, late: bool = False) -> None:
        """What is watched has changed: the tailer must ask anew, once for all that changes meanwhile."""
        if self._look is not None:
            if late or not self._look_is_late:
                return
            self._look.cancel()
        self._look_is_late = late
        delay_s = LOOK_FOR_POSTS_S if late else LOOK_AGAIN_S
        self._look = asyncio.get_running_loop().call_later(delay_s, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tailer")
        self._changed.set()
        if self._asking:
            self._asking = False
            self._task.cancel()

    def _drop(self, ref: SessionRef, watched: _Watched) -> None:
        if not watched.followers and watched.owner is None:
            del self._watched[ref]

    async def _run(self) -> None:
        while True:
            if not self._watched:
                await self._changed.wait()
            self._changed.clear()
            self._round += 1
            watches = [watched.watch for watched in self._watched.values()]
            try:
                records = await self._ask(watches)
            except asyncio.CancelledError:
                if self._stopped or self._task is None:
                    raise
                self._task.uncancel()
                continue
            except StoreUnavailable as error:
                log.warning("cannot follow the log: %s", error.message)
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception:
                log.exception("the log cannot be followed as it stands; sessions that cannot be read are left alone")
                await self._leave_alone(watches)
                await asyncio.sleep(_RETRY_S)
                continue
            for record in records:
                self._deliver(record)

    async def _leave_alone(self, watches: list[Watch]) -> None:
        """Follow no session that cannot be read: its readers find out by reading it, and others' go on."""
        for watch in watches:
            try:
                await self._store.tail([watch])
            except StoreUnavailable:
                return
            except Exception:
                watched = self._watched.pop(watch.session, None)
                for follower in () if watched is None else watched.followers:
                    follower.registered = False
                    follower.lag()

    async def _ask(self, watches: list[Watch]) -> list[Event | Posted]:
        """Only here ``_look_again`` may interrupt, and only once: a second time would end the tailer."""
        self._asking = True
        try:
            return await self._store.tail(watches, _TAIL_WAIT_S)
        finally:
            self._asking = False

    def _deliver(self, record: Event | Posted) -> None:
        watched = self._watched.get(record.session)
        if watched is None:
            return
        if isinstance(record, Posted):
            if watched.owner is None or watched.watch.post is None or watched.owned_in == self._round:
                return
            if record.post > watched.watch.post:
                watched.watch = Watch(session=record.session, after=NO_EVENTS, post=record.post)
                watched.owner(record)
            return
        if record.seq <= watched.after:
            return
        watched.after = record.seq
        if watched.owner is None:
            watched.watch = Watch(session=record.session, after=record.seq)
        for follower in watched.followers:
            follower.push(record)
