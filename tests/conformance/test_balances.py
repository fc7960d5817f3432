"""Balances under appends that come together: as a model of a few lines has them, on every store."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Awaitable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.postgres import stores

from stateline.core.events import Dedup
from stateline.core.ids import SessionRef
from stateline.ports import Balance, BudgetExceeded, Clock, Hold, Ownership, Store
from stateline.stores.memory import MemoryStore
from stateline.stores.sqlite import open_sqlite
from stateline.testing import ManualClock
from stateline.testing.exercise import MakeStore
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_rig import text

NAMES = ("budget/a", "budget/b")
SESSIONS = 4
amounts = st.decimals("-3", "6", places=2)


class Asked(NamedTuple):
    """An append of one event: by which session, with what, and how.

    ``keyed``: with a dedup key, for which a store must look at what it has.
    """

    session: int
    holds: tuple[Hold, ...]
    keyed: bool
    release: bool


def holds() -> st.SearchStrategy[Hold]:
    return st.builds(
        Hold,
        budget=st.sampled_from(NAMES),
        held=amounts,
        spent=st.just(Decimal(0)) | amounts,
        limit=st.none() | st.decimals("0", "20", places=1),
    )


ASKED = st.builds(
    Asked,
    session=st.integers(0, SESSIONS - 1),
    holds=st.lists(holds(), max_size=3).map(tuple),
    keyed=st.sampled_from([False, False, False, True]),
    release=st.booleans(),
)
BATCHES = st.lists(st.lists(ASKED, min_size=1, max_size=8), min_size=1, max_size=8)


class Model:
    """What is promised, without a store: one append after the other."""

    def __init__(self) -> None:
        self.balances: dict[str, Balance] = {}

    def append(self, asked: Asked) -> bool:
        """Whether it is made."""
        after = dict(self.balances)
        for hold in asked.holds:
            held, spent = after.get(hold.budget, Balance())
            now = after[hold.budget] = Balance(held + hold.held, spent + hold.spent)
            if hold.limit is not None and now.held + now.spent > hold.limit:
                return False
        self.balances = after
        return True


class Sessions:
    """Sessions that are there, with the heads and epochs that follow from the appends that were made."""

    def __init__(self) -> None:
        self.heads = [0] * SESSIONS
        self.epochs = [1] * SESSIONS

    def own(self, number: int) -> Ownership:
        return Ownership(session=SessionRef("t", f"s{number}"), owner="a", epoch=self.epochs[number], head=0)


async def play(batches: list[list[Asked]], store: Store) -> None:
    model, sessions, turns = Model(), Sessions(), itertools.count()
    for number in range(SESSIONS):
        await store.create(sessions.own(number).session)
    for batch in batches:
        calls: list[Awaitable[int]] = []
        expected: list[int | type[BudgetExceeded]] = []
        for asked in batch:
            number = asked.session
            own, head = sessions.own(number), sessions.heads[number]
            keys = (Dedup(key=f"{next(turns)}", ref="", digest="", ttl_s=5),) if asked.keyed else ()
            events = [text(own.session, head + 1, dedup=keys)]
            made = model.append(asked)
            expected.append(head + 1 if made else BudgetExceeded)
            if made:
                sessions.heads[number] += 1
                sessions.epochs[number] += asked.release
            # What is asked for is what would be right: those before it have been decided on.
            calls.append(store.append(own, head, events, asked.holds, release=asked.release))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(a) if isinstance(a, BaseException) else a for a in answers] == expected
        assert await store.balances(NAMES) == model.balances
    for number, head in enumerate(sessions.heads):
        read = [event.seq async for event in store.read(sessions.own(number).session)]
        assert read == list(range(1, head + 1))


async def run(batches: list[list[Asked]], make: MakeStore) -> None:
    store = await make(ManualClock())
    try:
        await play(batches, store)
    finally:
        await store.close()


async def memory(clock: Clock) -> Store:
    return MemoryStore(clock=clock)


@settings(max_examples=100, deadline=None)
@given(BATCHES)
def test_the_memory_store_has_the_balances_of_the_model(batches: list[list[Asked]]) -> None:
    asyncio.run(run(batches, memory))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BATCHES)
def test_the_sqlite_store_has_the_balances_of_the_model(batches: list[list[Asked]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(batches, lambda clock: open_sqlite(Path(folder) / "a.db", clock=clock)))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(BATCHES)
def test_the_postgres_store_has_the_balances_of_the_model(postgres: PostgresServer, batches: list[list[Asked]]) -> None:
    make, _ = stores(postgres)
    asyncio.run(run(batches, make))
