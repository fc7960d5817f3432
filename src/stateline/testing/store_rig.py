"""What the checks of a store stand on: a store, a clock that stands still, and short words for both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from stateline.core.errors import StatelineError
from stateline.core.events import Body, Dedup, Event, SessionUpdated
from stateline.core.ids import SessionRef
from stateline.ports import Clock, Ownership, Posted, Store, Watch

MakeStore = Callable[[Clock], Awaitable[Store]]
"""Gives a new, empty store."""
Reopen = Callable[[Store, Clock], Awaitable[Store]]
"""Closes a store as a new process start would find it, and opens it again."""
Check = Callable[["Rig"], Awaitable[None]]
_E = TypeVar("_E", bound=StatelineError)

DURABLE: set[Check] = set()
"""Checks that open the store again."""

START_MS = 1_800_000_000_000
PATIENCE_S = 20.0
"""How long a check waits for what should come at once."""


class ManualClock:
    """A ``stateline.ports.Clock`` that stands still until it is moved."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, seconds: float) -> None:
        """Move on, and wake whoever slept until then."""
        self._now_ms += round(seconds * 1000)
        for due_ms, sleeper in self._sleepers:
            if due_ms <= self._now_ms and not sleeper.done():
                sleeper.set_result(None)
        self._sleepers = [(due_ms, s) for due_ms, s in self._sleepers if not s.done()]

    async def sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_ms + round(seconds * 1000), sleeper))
        self.advance(0)
        await sleeper


class Rig:
    """A store under test and short ways to ask it things."""

    def __init__(self, store: Store, clock: ManualClock, reopen: Reopen | None) -> None:
        self.store = store
        self.clock = clock
        self._reopen = reopen

    async def reopen(self) -> None:
        assert self._reopen is not None
        self.store = await self._reopen(self.store, self.clock)

    # -- making ------------------------------------------------------------------------------------

    async def alive(self, *nodes: str, ttl_s: float = 60.0) -> None:
        for node in nodes or ("a",):
            await self.store.renew(node, ttl_s)

    async def session(self, name: str = "s", *, tenant: str = "t", events: int = 0, owner: str = "a") -> Ownership:
        """A new session with so many events, owned by ``owner``."""
        ref = SessionRef(tenant, name)
        await self.store.create(ref)
        own = Ownership(session=ref, owner=owner, epoch=1, head=0)
        head = await self.store.append(own, 0, texts(ref, 1, events))
        return msgspec.structs.replace(own, head=head)

    async def released(self, name: str = "s", *, tenant: str = "t", wake_at_ms: int | None = None) -> SessionRef:
        """A new session with one event that nobody owns."""
        own = await self.session(name, tenant=tenant, events=1)
        assert await self.store.release(own, 0, wake_at_ms)
        return own.session

    # -- asking -------------------------------------------------------------------------------------

    async def read(
        self, ref: SessionRef, after: int = 0, *, until: int | None = None, chunks: bool = False, snapshot: bool = False
    ) -> list[Event]:
        read = self.store.read(ref, after, until=until, chunks=chunks, snapshot=snapshot)
        return [event async for event in read]

    async def seqs(self, ref: SessionRef, after: int = 0, **options: bool) -> list[int]:
        return [event.seq for event in await self.read(ref, after, **options)]

    async def tail(self, ref: SessionRef, after: int = 0, post: int | None = None) -> list[Event | Posted]:
        return await self.store.tail([Watch(session=ref, after=after, post=post)])

    async def claim(self, node: str = "b", limit: int = 100) -> dict[str, Ownership]:
        """What ``node`` got, by the sessions' ids, in order."""
        return {own.session.id: own for own in await self.store.claim(node, limit)}


def text(ref: SessionRef, seq: int, said: str = "", *, post: int | None = None, dedup: Sequence[Dedup] = ()) -> Event:
    """A small event."""
    return event(ref, seq, SessionUpdated(metadata={"said": said or str(seq)}), post=post, dedup=dedup)


def texts(ref: SessionRef, first: int, count: int) -> list[Event]:
    return [text(ref, seq) for seq in range(first, first + count)]


def event(ref: SessionRef, seq: int, body: Body, *, post: int | None = None, dedup: Sequence[Dedup] = ()) -> Event:
    return Event(session=ref, seq=seq, at_ms=START_MS + seq, body=body, post=post, dedup=tuple(dedup))


def as_stored(events: Sequence[Event], epoch: int, first: int = 1) -> list[Event]:
    """What reading must give for what was appended."""
    return [msgspec.structs.replace(event, seq=seq, epoch=epoch, dedup=()) for seq, event in enumerate(events, first)]


async def raises(kind: type[_E], call: Awaitable[object]) -> _E:
    """The error that ``call`` must end with."""
    try:
        result = await call
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got {result!r}")


async def outcomes(*calls: Awaitable[object]) -> list[object]:
    """Results or errors of calls that are made together."""
    return list(await asyncio.gather(*calls, return_exceptions=True))


def durable(check: Check) -> Check:
    """Mark a check that opens the store again."""
    DURABLE.add(check)
    return check
