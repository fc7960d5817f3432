"""A node that owns many sessions, renews as fast as it may, and works on them meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from bench.durable_systems import RECORD_BYTES, event_body
from bench.shared.processes import Values
from stateline.core.errors import StatelineError
from stateline.core.events import Event
from stateline.core.ids import SessionRef, session_id
from stateline.ports import NO_EVENTS, Ownership, Posted, Store, Watch
from stateline.stores.postgres import open_postgres

_RENEWERS = 2
_CLAIMERS = 2
_CLAIM = 4
"""Sessions that a claim asks for."""
_POSTS_TO_OWNED = 16
"""One append of so many is followed by a post to a session that a node owns."""
_TTL_S = 12.0
_TOGETHER = 500
_REST = 1 << 32
"""Numbers of the sessions that nobody owns begin here."""


def ref_of(number: int) -> SessionRef:
    return SessionRef("default", session_id(0, number.to_bytes(9, "big")))


class Owner:
    """One node: its sessions are `first` and the following; all nodes share those at rest.

    Args:
        owned: sessions of all nodes together, which posts go to.
        resting: sessions that nobody owns until something is posted to them.
    """

    def __init__(self, store: Store, name: str, owned: int, resting: int) -> None:
        self.store = store
        self.name = name
        self.owned = owned
        self.resting = resting
        self.random = Random(name)
        self.mine: list[Ownership] = []
        self.heads: dict[SessionRef, int] = {}
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.appends_ms: list[float] = []
        self.body = event_body(RECORD_BYTES)
        self.small = event_body(300)

    async def take(self, first: int, count: int) -> None:
        """Create the sessions and own them."""
        await self.store.renew(self.name, 3600)
        for start in range(first, first + count, _TOGETHER):
            calls: list[Coroutine[Any, Any, object]] = []
            for number in range(start, min(start + _TOGETHER, first + count)):
                own = Ownership(session=ref_of(number), owner=self.name, epoch=1, head=0)
                calls.append(self.store.create(own.session))
                calls.append(self.store.append(own, 0, (self.event(own.session, 1),)))
                self.mine.append(own)
                self.heads[own.session] = 1
            await asyncio.gather(*calls)

    async def lay(self) -> None:
        """Create the sessions at rest."""
        for start in range(0, self.resting, _TOGETHER):
            numbers = range(start, min(start + _TOGETHER, self.resting))
            await asyncio.gather(*(self.store.create(ref_of(_REST + number)) for number in numbers))

    def event(self, ref: SessionRef, seq: int, post: int | None = None) -> Event:
        return Event(session=ref, seq=seq, at_ms=0, body=self.body if post is None else self.small, post=post)

    async def work(self, seconds: float, appenders: int) -> None:
        ends = time.perf_counter() + seconds
        jobs: list[Callable[[], Awaitable[None]]] = [self.renew for _ in range(_RENEWERS)]
        jobs += [self.claim] * _CLAIMERS
        # Each appender has sessions of its own: a session has one append under way.
        jobs += [self.appender(self.mine[number::appenders]) for number in range(appenders)]

        async def repeat(job: Callable[[], Awaitable[None]]) -> None:
            while time.perf_counter() < ends:
                try:
                    await job()
                except StatelineError as error:
                    self.errors[f"{error.code}: {error.message}"] += 1

        await asyncio.gather(*(repeat(job) for job in jobs))

    def appender(self, sessions: list[Ownership]) -> Callable[[], Awaitable[None]]:
        async def append() -> None:
            own = self.random.choice(sessions)
            head = self.heads[own.session]
            began_s = time.perf_counter()
            head = await self.store.append(own, head, (self.event(own.session, head + 1),))
            self.appends_ms.append((time.perf_counter() - began_s) * 1000)
            self.heads[own.session] = head
            self.done["appends"] += 1
            if self.random.randrange(_POSTS_TO_OWNED) == 0:
                await self.post(ref_of(self.random.randrange(self.owned)))

        return append

    async def post(self, ref: SessionRef) -> None:
        await self.store.post(ref, Event(session=ref, seq=0, at_ms=0, body=self.small))
        self.done["posts"] += 1

    async def renew(self) -> None:
        await self.store.renew(self.name, _TTL_S)
        self.done["renewals"] += 1

    async def claim(self) -> None:
        """Make a few sessions due, take what is due, answer what waits there, and give it back."""
        await asyncio.gather(*(self.post(ref_of(_REST + self.random.randrange(self.resting))) for _ in range(_CLAIM)))
        for own in await self.store.claim(self.name, _CLAIM):
            self.done["claims"] += 1
            await self.answer(own)

    async def answer(self, own: Ownership) -> None:
        head, waiting = own.head, list(own.inbox)
        seen = 0
        while True:
            if waiting:
                events = [self.event(own.session, head + at, posted.post) for at, posted in enumerate(waiting, 1)]
                head = await self.store.append(own, head, events)
                seen = waiting[-1].post
            if await self.store.release(own, seen):
                self.done["releases"] += 1
                return
            watch = Watch(session=own.session, after=NO_EVENTS, post=seen)
            waiting = [found for found in await self.store.tail([watch]) if isinstance(found, Posted)]


@asynccontextmanager
async def renewing(options: Values) -> AsyncGenerator[Callable[[Values], Awaitable[Values]]]:
    """Options: `url`, `name`, `first` and `count` of its sessions, `owned` of all, `resting`, `lays`.

    Command: `seconds`, `appenders`.
    """
    store = await open_postgres(options["url"])
    this = Owner(store, options["name"], options["owned"], options["resting"])
    if options["lays"]:
        await this.lay()
    await this.take(options["first"], options["count"])

    async def obey(command: Values) -> Values:
        await this.work(command["seconds"], command["appenders"])
        return {"done": this.done, "errors": this.errors, "appends_ms": [round(ms, 3) for ms in this.appends_ms]}

    try:
        yield obey
    finally:
        await store.close()
