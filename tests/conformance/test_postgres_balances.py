"""Balances on PostgreSQL: shared by nodes, moved once though answers are lost, locked last and briefly."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from random import Random

import pytest
from tests.conformance.nodes import OWN, REF, Two, seqs
from tests.conformance.test_postgres_commits import Line, committed_once, line, owns
from tests.postgres import ask

from stateline.core.errors import StoreUnavailable
from stateline.core.events import Dedup
from stateline.core.ids import SessionRef
from stateline.ports import Balance, BudgetExceeded, Fenced, Hold, Ownership, Store
from stateline.stores.postgres import committer, writer
from stateline.stores.postgres.connecting import Connection
from stateline.stores.postgres.requests import Request
from stateline.testing.store_rig import START_MS, outcomes, raises, text, texts

__all__ = ["line"]

B = "budget/team/2027-01"


def hold(amount: str, limit: str | None = None, budget: str = B) -> Hold:
    return Hold(budget=budget, held=Decimal(amount), limit=None if limit is None else Decimal(limit))


async def held(store: Store, name: str = B) -> Decimal:
    return (await store.balances([name])).get(name, Balance()).held


async def made(store: Store, owner: str, count: int) -> list[Ownership]:
    owned = [Ownership(session=SessionRef("t", f"{owner}{n}"), owner=owner, epoch=1, head=0) for n in range(count)]
    await asyncio.gather(*(store.create(own.session) for own in owned))
    await asyncio.gather(*(store.append(own, 0, texts(own.session, 1, 1)) for own in owned))
    return owned


async def test_callers_on_two_nodes_never_pass_a_limit_together(two: Two) -> None:
    """They reach it, though: what is refused had no room."""
    owned = [(two.a, own) for own in await made(two.a, "a", 16)] + [(two.b, own) for own in await made(two.b, "b", 16)]

    lefts: set[Decimal] = set()

    async def spend(store: Store, own: Ownership) -> int:
        head, taken = 1, 0
        for _ in range(5):
            try:
                head = await store.append(own, head, texts(own.session, head + 1, 1), [hold("1", "100")])
            except BudgetExceeded as error:
                lefts.add(error.left)
            else:
                taken += 1
        return taken

    taken = sum(await asyncio.gather(*(spend(store, own) for store, own in owned)))
    assert (taken, lefts) == (100, {Decimal(0)})
    assert await held(two.a) == 100
    logged = [len(await seqs(store, own.session)) - 1 for store, own in owned]
    assert sum(logged) == taken


async def test_a_balance_that_two_nodes_make_at_once_is_one(two: Two) -> None:
    for round_ in range(5):
        name = f"{B} {round_}"
        owned = [await made(store, f"{node}{round_}", 3) for store, node in ((two.a, "a"), (two.b, "b"))]
        await asyncio.gather(
            *(two.a.append(own, 1, texts(own.session, 2, 1), [hold("1", "6", name)]) for own in owned[0]),
            *(two.b.append(own, 1, texts(own.session, 2, 1), [hold("1", "6", name)]) for own in owned[1]),
        )
        assert await held(two.b, name) == 6


async def test_no_order_of_holds_and_keys_makes_a_deadlock(two: Two) -> None:
    """A deadlock would be tried again, so the server is asked how many it met."""
    random = Random(7)
    names = [f"{B} {n}" for n in range(4)]
    owned = [(two.a, await made(two.a, "a", 8)), (two.b, await made(two.b, "b", 8))]
    taken: dict[str, int] = dict.fromkeys(names, 0)

    async def spend(store: Store, own: Ownership, number: int) -> None:
        head = 1
        for _ in range(12):
            wanted = random.sample(names, random.randint(1, 4))
            # Keys that both nodes write at the same time.
            key = Dedup(key=f"k{random.randrange(3)}", ref="", digest="", ttl_s=60, replace=True)
            events = [text(own.session, head + 1, dedup=[key] if number % 2 else [])]
            head = await store.append(own, head, events, [hold("1", "1000", name) for name in wanted])
            for name in wanted:
                taken[name] += 1

    async def deadlocks(db: Connection) -> int:
        return await db.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

    before = await ask(two.url, deadlocks)
    await asyncio.gather(*(spend(store, own, n) for store, each in owned for n, own in enumerate(each)))
    assert {name: int(b.held) for name, b in (await two.a.balances(names)).items()} == taken
    await two.a.close()
    await two.b.close()
    await asyncio.sleep(0.1)
    assert await ask(two.url, deadlocks) == before


async def test_holds_that_have_room_are_moved_without_a_look_at_rows(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    by_rows = committer.Committer._by_rows  # pyright: ignore[reportPrivateUsage]

    async def counted(self: committer.Committer, requests: list[Request]) -> None:
        looked.append(len(requests))
        await by_rows(self, requests)

    monkeypatch.setattr(committer.Committer, "_by_rows", counted)
    [own, other] = await made(two.a, "a", 2)
    append = two.a.append
    looked.clear()
    await append(own, 1, texts(own.session, 2, 1), [hold("4", "10")])
    # The first one of a month finds no row.
    assert looked == [1]
    await asyncio.gather(
        append(own, 2, texts(own.session, 3, 1), [hold("3", "10"), hold("-4")]),
        append(other, 1, texts(other.session, 2, 1), [hold("7", "10")]),
    )
    assert looked == [1]
    await raises(BudgetExceeded, append(own, 3, texts(own.session, 4, 1), [hold("0.01", "10")]))
    assert looked == [1, 1]
    # As long as it is known to be full, nothing is tried in vain; once there was room it is trusted again.
    await append(own, 3, texts(own.session, 4, 1), [hold("-1", "10")])
    await append(own, 4, texts(own.session, 5, 1), [hold("1", "10")])
    assert looked == [1, 1, 1]
    assert await held(two.a) == 10


async def test_who_lost_its_session_holds_nothing_and_keeps_nobody_from_it(two: Two) -> None:
    await two.started()
    [other] = await made(two.a, "a", 1)
    await two.a.append(other, 1, texts(other.session, 2, 1), [hold("1", "10")])

    async def seize(db: Connection) -> None:
        await db.execute("UPDATE stateline_sessions SET owner = 'b', epoch = 2 WHERE id = 's'")

    await ask(two.url, seize)
    results = await outcomes(
        two.a.append(OWN, 1, texts(REF, 2, 1), [hold("5", "10")]),
        two.a.append(other, 2, texts(other.session, 3, 1), [hold("9", "10")]),
    )
    assert [type(result) for result in results] == [Fenced, int]
    assert await held(two.a) == 10


# -- lost answers ------------------------------------------------------------------------------------


async def test_balances_of_a_commit_whose_answer_was_lost_are_moved_once(line: Line) -> None:
    await asyncio.gather(*(line.store.create(ref) for ref in line.refs))
    await asyncio.gather(
        *(line.store.append(own, 0, texts(own.session, 1, 1), [hold("1", "100")]) for own in owns(line))
    )
    assert await held(line.store) == 5

    async def fits() -> list[object]:
        return await outcomes(
            *(line.store.append(own, 1, texts(own.session, 2, 1), [hold("1", "100")]) for own in owns(line))
        )

    assert await committed_once(line, fits, b'"said":"2"') == [2] * 5
    assert await held(line.store) == 10

    async def some_fit() -> list[object]:
        return await outcomes(
            *(line.store.append(own, 2, texts(own.session, 3, 1), [hold("1", "13")]) for own in owns(line))
        )

    # Appends that were decided on locked rows; the statement that found no room is answered.
    await raises(BudgetExceeded, line.store.append(owns(line)[0], 2, texts(line.refs[0], 3, 1), [hold("9", "13")]))
    results: Sequence[object] = await committed_once(line, some_fit, b"COMMIT")
    assert [type(result) for result in results] == [int] * 3 + [BudgetExceeded] * 2
    assert await held(line.store) == 13


async def test_a_balance_says_what_became_of_a_commit_that_nobody_could_tell_of(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The append is in its log if and only if its hold is in the balance."""
    monkeypatch.setattr(writer, "CONNECT_TIMEOUT_S", 0.2)
    ref = line.refs[0]
    own = owns(line)[0]
    await line.store.create(ref)
    await line.store.append(own, 0, texts(ref, 1, 1), [hold("1", "100")])
    line.proxy.drop_answers_to = b'"said":"2"'

    async def refuse_at_once() -> None:
        while not line.proxy.dropped:  # noqa: ASYNC110 - Another task counts.
            await asyncio.sleep(0)
        line.proxy.refuse = True
        line.proxy.cut()

    refusing = asyncio.ensure_future(refuse_at_once())
    await raises(StoreUnavailable, line.store.append(own, 1, texts(ref, 2, 1), [hold("1", "100")]))
    await refusing
    line.proxy.refuse = False
    await line.store.create(line.refs[1])
    assert await seqs(line.store, ref) == [1, 2]
    assert await held(line.store) == 2


async def test_backends_that_are_killed_move_no_balance_twice(two: Two) -> None:
    owned = await made(two.a, "a", 8)
    done = asyncio.Event()

    async def kill() -> None:
        async def one(db: Connection) -> None:
            await db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND query LIKE '%stateline_writers%'"
            )

        while not done.is_set():
            await ask(two.url, one)
            await asyncio.sleep(0.03)

    async def write(own: Ownership) -> int:
        head, taken = 1, 0
        for _ in range(20):
            try:
                head = await two.a.append(own, head, texts(own.session, head + 1, 1), [hold("1", "150")])
            except BudgetExceeded:
                continue
            taken += 1
        return taken

    killing = asyncio.ensure_future(kill())
    taken = sum(await asyncio.gather(*map(write, owned)))
    done.set()
    await killing
    assert taken == 150
    assert await held(two.b) == 150


# -- what is over ------------------------------------------------------------------------------------


async def test_balances_whose_time_is_over_are_cleared(two: Two) -> None:
    await two.started()
    soon = Hold(budget="soon", held=Decimal(1), expires_ms=START_MS + 60_000)
    await two.a.append(OWN, 1, texts(REF, 2, 1), [soon, hold("1")])
    await two.a.tend()
    assert (await two.a.balances(["soon", B])).keys() == {"soon", B}
    two.clock.advance(60)
    await two.b.tend()
    assert (await two.a.balances(["soon", B])).keys() == {B}
    # It stands at zero from then on, on every node.
    await two.a.append(OWN, 2, texts(REF, 3, 1), [Hold(budget="soon", held=Decimal(9), limit=Decimal(9))])
    assert await held(two.b, "soon") == 9
