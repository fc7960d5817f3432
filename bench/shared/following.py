"""A node that appends at a steady rate, and one whose readers follow the sessions of the other.

An event's text is the time at which it was handed to the store, of a clock that all processes of a
machine share (CLOCK_MONOTONIC), so that a reader knows how late it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from bench.shared.processes import Values
from bench.shared.renewing import ref_of
from bench.stats import percentile
from stateline.core.events import Event, ItemsAdded
from stateline.core.ids import SessionRef
from stateline.core.items import InputText, Message
from stateline.engine.live import Live
from stateline.ports import Ownership, Store
from stateline.stores.postgres import connecting, open_postgres

Obey = Callable[[Values], Awaitable[Values]]
_OWNER = "writer"


def _timed(ref: SessionRef, seq: int) -> Event:
    text = InputText(text=repr(time.monotonic()))
    body = ItemsAdded(items=(Message(id="msg_bench", role="user", content=(text,)),))
    return Event(session=ref, seq=seq, at_ms=0, body=body)


def _time_of(event: Event) -> float:
    assert isinstance(event.body, ItemsAdded)
    (message,) = event.body.items
    assert isinstance(message, Message)
    (part,) = message.content
    assert isinstance(part, InputText)
    return float(part.text)


@asynccontextmanager
async def writing(options: Values) -> AsyncGenerator[Obey]:
    """Options: `url`, `sessions`. Command: append `rate` events a second for `seconds` to the first `sessions`."""
    store = await open_postgres(options["url"])
    await store.renew(_OWNER, 3600)
    owned = [Ownership(session=ref_of(n), owner=_OWNER, epoch=1, head=0) for n in range(options["sessions"])]
    heads = [0] * len(owned)
    await asyncio.gather(*(store.create(own.session) for own in owned))

    async def obey(command: Values) -> Values:
        rate: float = command["rate"]
        sessions: int = command["sessions"]
        began_s = time.monotonic()
        appends: list[asyncio.Task[int]] = []
        for at in range(round(rate * command["seconds"])):
            if (early_s := began_s + at / rate - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            number = at % sessions
            own, head = owned[number], heads[number]
            heads[number] += 1
            # The call itself queues it, so appends keep their order though none waits for the one before.
            appends.append(asyncio.ensure_future(store.append(own, head, (_timed(own.session, head + 1),))))
        await asyncio.gather(*appends)
        return {"appended": len(appends), "wall_s": time.monotonic() - began_s}

    try:
        yield obey
    finally:
        await store.close()


class Queries:
    """Counts what the connections of this process ask the database, from its making on."""

    def __init__(self) -> None:
        self.count = 0
        connect = connecting.connect

        async def counted(place: connecting.Place, whom: str = connecting.EVERY) -> connecting.Connection:
            db = await connect(place, whom)
            # asyncpg tells of every query, whoever sends it.
            cast("Any", db).add_query_logger(self._asked)
            return db

        connecting.connect = counted

    def _asked(self, _: object) -> None:
        self.count += 1


class Readers:
    """Those who follow, each a session of its own."""

    def __init__(self, store: Store, queries: Queries) -> None:
        self._live = Live(store)
        self._queries = queries
        self._began_queries = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._began_s = self._marked_s = 0.0
        self._began_cpu_s = 0.0
        self.delays_ms: list[float] = []

    async def follow(self, count: int) -> None:
        """Begin; what was appended before does not count."""
        self.delays_ms = []
        self._began_s = time.monotonic()
        self._tasks = [asyncio.create_task(self._read(ref_of(number))) for number in range(count)]

    async def _read(self, ref: SessionRef) -> None:
        async with aclosing(self._live.follow(ref, 0)) as batches:
            async for events in batches:
                now_s = time.monotonic()
                for event in events:
                    if (at_s := _time_of(event)) >= self._began_s:
                        self.delays_ms.append((now_s - at_s) * 1000)

    def mark(self) -> None:
        self._marked_s = time.monotonic()
        self._began_cpu_s = time.process_time()
        self._began_queries = self._queries.count

    def since_mark(self) -> Values:
        """Of each second since the mark."""
        seconds = time.monotonic() - self._marked_s
        return {
            "queries_per_s": (self._queries.count - self._began_queries) / seconds,
            "cpu_ms_per_s": (time.process_time() - self._began_cpu_s) * 1000 / seconds,
        }

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            ended, _ = await asyncio.wait(self._tasks)
            for task in ended:
                if not task.cancelled():
                    task.result()
        self._tasks = []

    async def close(self) -> None:
        await self.leave()
        await self._live.stop()


@asynccontextmanager
async def reading(options: Values) -> AsyncGenerator[Obey]:
    """Options: `url`. Commands: `do` is `follow` (with `readers`), `mark`, `since_mark` or `leave`."""
    queries = Queries()
    store = await open_postgres(options["url"])
    readers = Readers(store, queries)

    async def obey(command: Values) -> Values:
        match command["do"]:
            case "follow":
                await readers.follow(command["readers"])
                return {}
            case "mark":
                readers.mark()
                return {}
            case "since_mark":
                return readers.since_mark()
            case _:
                await readers.leave()
                delays = readers.delays_ms or [0.0]
                return {
                    "delivered": len(readers.delays_ms),
                    "p50_ms": percentile(delays, 0.5),
                    "p99_ms": percentile(delays, 0.99),
                }

    try:
        yield obey
    finally:
        await readers.close()
        await store.close()
