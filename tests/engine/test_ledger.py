"""The ledger of stateless calls by itself: its books, their bounds, and what becomes of it when the store fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from stateline.core import events as e
from stateline.core.billing import Charge, Held, Reserved
from stateline.core.errors import Overloaded, StatelineError, StoreUnavailable
from stateline.core.ids import SYSTEM_TENANT, SessionRef
from stateline.engine import ledger as module
from stateline.engine.ledger import Ledger
from stateline.ports import Balance, BudgetExceeded, Clock, Hold, Ownership, Store, Watch
from stateline.stores.clock import SystemClock
from stateline.stores.sqlite import open_sqlite

BUDGET = "budget/all/2026-11"


class Node:
    """What a ledger needs of its node."""

    def __init__(self, store: Store) -> None:
        self.store: Store = store
        self.clock: Clock = SystemClock()
        self.owner = "a"
        self.entropy: Callable[[int], bytes] = os.urandom


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncGenerator[Node]:
    store = await open_sqlite(tmp_path / "s.db", clock=SystemClock())
    await store.renew("a", 60)
    yield Node(store)
    await store.close()


def started(id_: str, amount: str = "1") -> e.StatelessCallStarted:
    reserved = Reserved(tariff="trf", amount=Decimal(amount), currency="USD", held=(Held(BUDGET),))
    return e.StatelessCallStarted(
        id=id_, tenant="t", principal="k", interface="chat", deployment="d", model="m", reserved=reserved
    )


def holding(amount: str = "1", limit: str = "1000000") -> list[Hold]:
    return [Hold(budget=BUDGET, held=Decimal(amount), limit=Decimal(limit))]


def cost(amount: str) -> Charge:
    return Charge(tariff="trf", amount=Decimal(amount), currency="USD")


async def balance(node: Node) -> Balance:
    return (await node.store.balances([BUDGET])).get(BUDGET, Balance())


async def books(node: Node) -> list[list[e.Body]]:
    """What each book says, the oldest first."""
    found = reversed(await node.store.sessions(SYSTEM_TENANT, None, 100))
    return [[event.body async for event in node.store.read(SessionRef(SYSTEM_TENANT, each))] for each in found]


def begun(book: list[e.Body]) -> list[e.StatelessCallStarted]:
    return [each for body in book if isinstance(body, e.StatelessCalls) for each in body.started]


def over(book: list[e.Body]) -> list[e.StatelessCallEnded]:
    return [each for body in book if isinstance(body, e.StatelessCalls) for each in body.ended]


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_book_is_followed_by_another_and_given_back_when_its_calls_have_ended(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEDGER_ENTRIES_MAX", 4)
    ledger = Ledger(node)
    for at in range(6):
        await ledger.start(started(f"c{at}"), holding())
    assert len(await books(node)) > 1
    for at in range(6):
        ledger.end(f"c{at}", cost("0.25"))
    await ledger.close()
    assert await balance(node) == Balance(Decimal(0), Decimal("1.50"))
    # All were given back: another node finds nothing to claim.
    assert await node.store.claim("b", 10) == []
    for book in await books(node):
        assert {each.id for each in begun(book)} == {each.id for each in over(book)}


async def test_an_append_takes_so_many_entries_and_no_more(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEDGER_BATCH_MAX", 3)
    append, sizes = node.store.append, list[int]()

    def counted(own: Ownership, seq: int, events: Sequence[e.Event], *rest: Any, **options: Any) -> Any:
        bodies = [event.body for event in events]
        sizes.append(len(begun(bodies)) + len(over(bodies)))
        return append(own, seq, events, *rest, **options)

    monkeypatch.setattr(node.store, "append", counted)
    ledger = Ledger(node)
    await asyncio.gather(*[ledger.start(started(f"c{at}"), holding()) for at in range(8)])
    await ledger.close()
    assert max(sizes) == 3
    assert sum(sizes) == 16


async def test_the_calls_of_an_append_are_one_event(node: Node) -> None:
    ledger = Ledger(node)
    await asyncio.gather(*[ledger.start(started(f"c{at}"), holding()) for at in range(8)])
    [book] = await books(node)
    assert [len(begun([body])) for body in book] == [0, 8]
    await ledger.close()
    assert await balance(node) == Balance(Decimal(0), Decimal(8))


async def test_whoever_follows_a_book_finds_what_is_written(node: Node) -> None:
    ledger = Ledger(node)
    await ledger.start(started("a"), holding())
    [name] = await node.store.sessions(SYSTEM_TENANT, None, 10)
    ref, seen = SessionRef(SYSTEM_TENANT, name), list[e.Body]()
    after = 0

    async def follow() -> None:
        nonlocal after
        async with asyncio.timeout(20):
            for found in await node.store.tail([Watch(session=ref, after=after)], 10):
                assert isinstance(found, e.Event)
                seen.append(found.body)
                after = found.seq

    await follow()
    assert [each.id for each in begun(seen)] == ["a"]
    waiting = asyncio.create_task(follow())
    await asyncio.sleep(0.05)
    await ledger.start(started("b"), holding())
    await waiting
    assert [each.id for each in begun(seen)] == ["a", "b"]
    await ledger.close()


async def test_an_event_has_so_many_calls_and_no_more(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEDGER_CALLS_MAX", 3)
    ledger = Ledger(node)
    await asyncio.gather(*[ledger.start(started(f"c{at}"), holding()) for at in range(8)])
    for at in range(8):
        ledger.end(f"c{at}", cost("0.25"))
    await ledger.close()
    [book] = await books(node)
    sizes = [len(begun([body])) + len(over([body])) for body in book]
    assert (max(sizes), sum(sizes)) == (3, 16)


async def test_a_caller_who_is_alone_waits_for_no_other(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEDGER_GATHER_S", 60)
    ledger = Ledger(node)
    async with asyncio.timeout(20):
        for at in range(5):
            await ledger.start(started(f"c{at}"), holding())
            ledger.end(f"c{at}", cost("0.25"))
    await ledger.close()
    assert len(begun((await books(node))[0])) == 5


async def test_calls_wait_for_those_that_are_under_way_to_be_followed_by_others(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(node)
    await ledger.start(started("first"), holding())
    monkeypatch.setattr(module, "LEDGER_GATHER_S", 60)
    second = asyncio.create_task(ledger.start(started("second"), holding()))
    await asyncio.sleep(0.1)
    assert not second.done()
    ledger.end("first", cost("0.25"))
    async with asyncio.timeout(20):
        await asyncio.gather(second, ledger.start(started("third"), holding()))
    [book] = await books(node)
    assert [[each.id for each in begun([body])] for body in book][1:] == [["first"], ["second", "third"]]
    await ledger.close(0.1)


async def test_what_comes_while_full_appends_are_made_is_written_too(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEDGER_BATCH_MAX", 2)
    ledger = Ledger(node)

    async def caller(name: str) -> None:
        for at in range(10):
            await ledger.start(started(f"{name}{at}"), holding())
            ledger.end(f"{name}{at}", cost("0.25"))

    async with asyncio.timeout(30):
        await asyncio.gather(*[caller(name) for name in "abcdefgh"])
    await ledger.close(10)
    assert await balance(node) == Balance(Decimal(0), Decimal(20))


async def test_of_calls_at_once_those_that_fit_are_recorded_and_the_others_told(node: Node) -> None:
    ledger = Ledger(node)
    asked = [ledger.start(started(f"c{at}", "2"), holding("2", "7")) for at in range(6)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in found] == [type(None)] * 3 + [BudgetExceeded] * 3
    assert await balance(node) == Balance(Decimal(6), Decimal(0))
    await ledger.close()
    # Nobody said what they cost.
    assert await balance(node) == Balance(Decimal(0), Decimal(6))


async def test_while_the_store_is_away_calls_are_refused_and_ends_are_kept(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(node)
    await ledger.start(started("kept"), holding())
    append = node.store.append

    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("it is gone")

    monkeypatch.setattr(node.store, "append", away)
    ledger.end("kept", cost("0.5"))
    with pytest.raises(StoreUnavailable):
        await ledger.start(started("refused"), holding())
    monkeypatch.setattr(module, "LEDGER_WAITING_MAX", 1)
    with pytest.raises(Overloaded):
        await ledger.start(started("too many"), holding())
    monkeypatch.setattr(node.store, "append", append)

    async def settled() -> bool:
        return await balance(node) == Balance(Decimal(0), Decimal("0.5"))

    await until(settled)
    await ledger.close()


async def test_a_call_that_was_recorded_after_all_and_never_sent_costs_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(node)
    append, lost = node.store.append, [True]

    async def answer_lost(*args: Any, **options: Any) -> int:
        seq = await append(*args, **options)
        if lost.pop() if lost else False:
            raise StoreUnavailable("the answer was lost")
        return seq

    monkeypatch.setattr(node.store, "append", answer_lost)
    with pytest.raises(StoreUnavailable):
        await ledger.start(started("c"), holding())

    async def given_back() -> bool:
        [book] = await books(node)
        return [each.code for each in over(book)] == ["not_sent"]

    await until(given_back)
    assert await balance(node) == Balance(Decimal(0), Decimal(0))
    await ledger.start(started("d"), holding())
    ledger.end("d", cost("0.5"))
    await ledger.close()
    assert await balance(node) == Balance(Decimal(0), Decimal("0.5"))


async def test_a_caller_that_leaves_before_its_call_is_recorded_pays_nothing(node: Node) -> None:
    ledger = Ledger(node)
    call = asyncio.create_task(ledger.start(started("c"), holding()))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    await ledger.start(started("d"), holding())
    ledger.end("d", cost("0.5"))
    await ledger.close()
    assert await balance(node) == Balance(Decimal(0), Decimal("0.5"))


async def test_a_caller_that_leaves_at_the_moment_of_its_refusal_pays_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, fitting = Ledger(node), vars(module)["_fitting"]

    def refused_and_left(batch: Any, error: BudgetExceeded) -> Any:
        kept = fitting(batch, error)
        call.cancel()
        return kept

    monkeypatch.setattr(module, "_fitting", refused_and_left)
    call = asyncio.create_task(ledger.start(started("c"), holding("1", "0.5")))
    await asyncio.wait([call])
    assert call.cancelled()
    await ledger.close()
    assert await balance(node) == Balance(Decimal(0), Decimal(0))


async def test_a_book_that_another_node_took_is_left_to_it(node: Node) -> None:
    ledger = Ledger(node)
    await ledger.start(started("c"), holding())
    await node.store.renew("a", -1)
    await node.store.renew("b", 60)
    [own] = await node.store.claim("b", 10)
    await Ledger(node).recover(own)
    assert await balance(node) == Balance(Decimal(0), Decimal(1))
    ledger.end("c", cost("0.25"))
    await asyncio.sleep(0.2)
    await ledger.start(started("d"), holding())
    ledger.end("d", cost("0.25"))
    await ledger.close()
    assert await balance(node) == Balance(Decimal(0), Decimal("1.25"))
    assert len(await books(node)) == 2


async def test_a_defect_of_the_ledger_makes_nobody_wait(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    append, broken = node.store.append, [True]

    async def once(*args: Any, **options: Any) -> int:
        if broken:
            broken.clear()
            raise ZeroDivisionError
        return await append(*args, **options)

    monkeypatch.setattr(node.store, "append", once)
    ledger = Ledger(node)
    with pytest.raises(StatelineError):
        await ledger.start(started("c"), holding())
    await ledger.start(started("d"), holding())
    ledger.end("d", cost("0.5"))
    await ledger.close()
    assert await balance(node) == Balance(Decimal(0), Decimal("0.5"))
