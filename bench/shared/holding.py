"""Callers that append as fast as they are answered, each append moving one budget that all share, or none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal

from bench.durable_systems import RECORD_BYTES, event_body
from bench.shared.processes import Values
from stateline.core.events import Event
from stateline.core.ids import SessionRef, session_id
from stateline.ports import Hold, Ownership, Store
from stateline.stores.postgres import open_postgres

BUDGET = "budget/everyone/2027-01"
_WORST, _COST = Decimal("0.0125"), Decimal("0.00431")
_LIMIT = Decimal(1_000_000_000)
_RESERVE = (Hold(budget=BUDGET, held=_WORST, limit=_LIMIT),)
_SETTLE = (Hold(budget=BUDGET, held=-_WORST, spent=_COST),)


class Caller:
    """One session, which reserves with one append and settles with the next."""

    def __init__(self, store: Store, node: str, first: int, number: int) -> None:
        self._store = store
        ref = SessionRef("default", session_id(0, (first + number).to_bytes(9, "big")))
        self._own = Ownership(session=ref, owner=node, epoch=1, head=0)
        self._head = 0
        self._body = event_body(RECORD_BYTES)
        self.appends_ms: list[float] = []
        self.settled = 0

    async def begin(self) -> None:
        await self._store.create(self._own.session)

    async def append(self, holds: Sequence[Hold]) -> None:
        began_s = time.perf_counter()
        event = Event(session=self._own.session, seq=self._head + 1, at_ms=0, body=self._body)
        self._head = await self._store.append(self._own, self._head, (event,), holds)
        self.appends_ms.append((time.perf_counter() - began_s) * 1000)

    async def work(self, ends_s: float, *, holds: bool) -> None:
        while time.perf_counter() < ends_s:
            await self.append(_RESERVE if holds else ())
            await self.append(_SETTLE if holds else ())
            self.settled += holds


@asynccontextmanager
async def holding(options: Values) -> AsyncGenerator[Callable[[Values], Awaitable[Values]]]:
    """Options: `url`, `name`, `first` of its sessions' numbers, `callers`. Command: `seconds`, `holds`."""
    store = await open_postgres(options["url"])
    await store.renew(options["name"], 3600)
    callers = [Caller(store, options["name"], options["first"], number) for number in range(options["callers"])]
    await asyncio.gather(*(caller.begin() for caller in callers))
    # The first hold of a budget makes its row.
    await callers[0].work(time.perf_counter() + 0.001, holds=True)

    async def obey(command: Values) -> Values:
        for caller in callers:
            caller.appends_ms = []
        cpu_s, began_s = time.process_time(), time.perf_counter()
        await asyncio.gather(*(c.work(began_s + command["seconds"], holds=command["holds"]) for c in callers))
        wall_s = time.perf_counter() - began_s
        balance = (await store.balances([BUDGET]))[BUDGET]
        return {
            "appends_per_s": sum(len(caller.appends_ms) for caller in callers) / wall_s,
            "cpu_s": time.process_time() - cpu_s,
            "appends_ms": [round(ms, 3) for caller in callers for ms in caller.appends_ms],
            "settled": str(sum(caller.settled for caller in callers) * _COST),
            "spent": str(balance.spent),
        }

    try:
        yield obey
    finally:
        await store.close()
