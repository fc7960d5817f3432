"""Money under random interleavings: calls at once, failures, hang-ups, failovers, crashes and lost nodes.

    python -m bench.interleavings --store sqlite --rounds 10000

A round is one tenant with hard budgets, and a handful of calls of every kind at once; many rounds run side by side
over real stores, whose nodes are killed now and then. The model keeps its own bill: what it has read and said counts
the moment it does, whether or not anybody hears the end. What must hold, of each round and of all together:

- the bill is never above a hard budget, at no moment;
- what budgets have spent and held is never below the bill;
- in the end nothing is held, and what is spent is what the logs have charged;
- a call's charge is its bill exactly, unless it is marked ``estimated``, and is then no less.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
from rich.progress import Progress

from bench import report
from stateline.core import events as e
from stateline.core.billing import ZERO, Charge, Price, Rates, Reserved, Tariff
from stateline.core.calls import EmbeddingParams, Finish, ModelDelta, ModelParams, ModelRequest, TextDelta, Usage
from stateline.core.errors import ModelError, StatelineError
from stateline.core.ids import SYSTEM_TENANT, Entropy, SessionRef, effect_key
from stateline.core.items import InputText, Message
from stateline.core.limits import TurnLimits
from stateline.core.tokens import most_tokens
from stateline.engine import Engine, Submission
from stateline.engine.meter import Meter
from stateline.models.catalogue import Catalogue
from stateline.money.book import tariff_of
from stateline.money.budgets import Budget, balance_name, month_of
from stateline.money.meter import cost_of
from stateline.ports import Balance, BudgetExceeded, Deployment, KeptStore
from stateline.stores.clock import SystemClock
from stateline.stores.memory import MemoryStore
from stateline.testing.postgres_server import NoPostgres, postgres_server

LANES = 24
CALLS_MAX = 6
CRASH_EVERY_ROUNDS = 12
SETTLED_WITHIN_S = 30.0
KEPT_ROUNDS = 500
MODEL = "m"
LIMITS = ("0.02", "0.05", "0.2", "0.7", "1.5", "5")


class Broken(Exception):
    """One of the promises does not hold."""


class Bill:
    """What the model has billed, by tenant and by the effect's key."""

    def __init__(self) -> None:
        self.by_tenant: dict[str, Decimal] = defaultdict(Decimal)
        self.by_key: dict[str, Decimal] = defaultdict(Decimal)
        self.limits: dict[str, Decimal] = {}
        self.attempts = 0

    def add(self, tenant: str, key: str, amount: Decimal) -> None:
        self.by_key[key] += amount
        total = self.by_tenant[tenant] = self.by_tenant[tenant] + amount
        if total > self.limits[tenant]:
            raise Broken(f"{tenant}: the bill of {total} is above the budget of {self.limits[tenant]}")


class BillingModel:
    """Implements ``ModelClient``: answers, fails and breaks off by chance, and bills what it did."""

    def __init__(self, random: Random, bill: Bill, prices: dict[str, Price]) -> None:
        self._random = random
        self._bill = bill
        self._prices = prices
        self.broken: list[Broken] = []

    async def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta], None]:
        random, price = self._random, self._prices[deployment.name]
        tenant = tenant_of(request)
        self._bill.attempts += 1
        await asyncio.sleep(random.choice((0, 0, 0.001, 0.004)))
        fate = random.random()
        if fate < 0.06:
            raise ModelError("no way there", code="upstream_unreachable", retryable=True, sent=False)
        if fate < 0.12:
            status = random.choice((429, 503, 400))
            raise ModelError("not now", code="refused", retryable=status != 400, provider_status=status)
        input_tokens = random.randint(1, most_tokens(request))
        limit = request.params.max_output_tokens
        if limit is None and request.embed is None:
            self.broken.append(Broken(f"{tenant}: a call under a hard budget is not held to any output"))
        output = 0 if request.embed is not None else (limit or 0)
        if random.random() < 0.8:
            output = random.randint(0, min(output, 400))
        cached = random.randint(0, input_tokens)
        said, spent = 0, ZERO
        pieces = random.randint(1, 4)
        try:
            for at in range(pieces + 1):
                used = Usage(input_tokens=input_tokens, output_tokens=said, cached_tokens=cached)
                now = cost_of(price, used)
                self._bill.add(tenant, request.key, now - spent)
                spent = now
                if at == pieces:
                    break
                if fate < 0.2 and at == pieces // 2:
                    raise ModelError(
                        "it broke", code="upstream_error", retryable=True, provider_status=random.choice((500, None))
                    )
                said = output if at + 1 == pieces else output * (at + 1) // pieces
                if request.embed is None:
                    yield [TextDelta("word ")]
                await asyncio.sleep(random.choice((0, 0, 0.002)))
        except Broken as error:
            self.broken.append(error)
        usage = None if fate > 0.95 else Usage(input_tokens=input_tokens, output_tokens=said, cached_tokens=cached)
        vectors = msgspec.Raw(b"[]") if request.embed is not None else None
        yield [Finish(reason="stop", usage=usage, embeddings=vectors)]

    async def close(self) -> None:
        """There is nothing to release."""


def tenant_of(request: ModelRequest) -> str:
    """The tenant, which each input begins with."""
    if request.embed is not None:
        return str(msgspec.json.decode(request.embed.input)).partition(" ")[0]
    first = request.items[0]
    assert isinstance(first, Message)
    part = first.content[0]
    assert isinstance(part, InputText)
    return part.text.partition(" ")[0]


def price(name: str, input_price: str, output_price: str, per_call: str = "0") -> Price:
    rates = (Rates(input=Decimal(input_price), output=Decimal(output_price), cached=Decimal(input_price) / 10),)
    return Price(cloud="openai", model=name, currency="USD", rates=rates, per_call=Decimal(per_call))


PRICES = {"a": price("a", "10", "20"), "b": price("b", "2", "8", "0.001"), "c": price("c", "30", "90")}


def tariffs() -> dict[str, dict[str, Tariff]]:
    return {
        name: {
            "default": tariff_of(
                Tariff(
                    id="", deployment=name, model=MODEL, upstream_model=name, cloud="openai", host="openai", price=each
                )
            )
        }
        for name, each in PRICES.items()
    }  # fmt: skip


def places() -> list[Deployment]:
    shape: dict[str, Any] = {"model": MODEL, "cloud": "openai", "format": "openai-chat", "base_url": ""}
    return [Deployment(name=name, upstream_model=name, priority=1, weight=1.0, **shape) for name in PRICES]


class Living(NamedTuple):
    engine: Engine
    store: KeptStore
    calls: set[asyncio.Task[None]]


Open = Callable[[], Awaitable[KeptStore]]
Expire = Callable[[str], Awaitable[None]]


class World:
    """The nodes over one store, and what is promised of them."""

    def __init__(self, seed: int, nodes: int, open_store: Open, expire: Expire | None) -> None:
        self.random = Random(seed)
        self.bill = Bill()
        self.model = BillingModel(self.random, self.bill, PRICES)
        self.nodes: list[Living] = []
        self.count = nodes
        self.tariffs = tariffs()
        self.budgets: dict[str, tuple[Budget, ...]] = {}
        self.catalogue = Catalogue(places())
        self.clock = SystemClock()
        self.crashes = self.refused = self.answered = self.failed = self.left = 0
        self._open = open_store
        self._expire = expire
        self.steady = asyncio.Event()
        self.steady.set()

    async def start(self) -> None:
        for _ in range(self.count):
            self.nodes.append(await self._begin())

    def meter(self, before: Meter | None) -> Meter:
        return Meter(self.tariffs, [each for some in self.budgets.values() for each in some], before=before)

    async def _begin(self) -> Living:
        store = await self._open()
        shape: dict[str, Any] = {
            "client": self.model, "catalogue": self.catalogue, "clock": self.clock,
            "entropy": Entropy(os.urandom), "limits": TurnLimits(model_failures_max=2), "meter": self.meter(None),
        }  # fmt: skip
        volatile = Engine(store=MemoryStore(clock=self.clock), durable=False, **shape)
        engine = Engine(store=store, volatile=volatile, shared=self._expire is not None, **shape)
        await engine.start()
        return Living(engine, store, set())

    def configure(self) -> None:
        """The budgets of the rounds that run now, on every node."""
        for node in self.nodes:
            meter = self.meter(node.engine.meter)
            node.engine.meter = meter
            if node.engine.volatile is not None:
                node.engine.volatile.meter = meter
            node.engine.monitor.keep(set())

    async def crash(self) -> None:
        """Kill a node where it stands, and start another in its place."""
        self.steady.clear()
        self.crashes += 1
        at = self.random.randrange(len(self.nodes))
        engine, store, calls = self.nodes.pop(at)
        await silence(engine, store, calls)
        if self._expire is not None:
            await self._expire(engine.owner)
        self.nodes.append(await self._begin())
        self.configure()
        for node in self.nodes:
            node.engine.kick()
        self.steady.set()

    async def any_node(self) -> Living:
        await self.steady.wait()
        return self.random.choice(self.nodes)

    async def balance(self, budget: Budget) -> Balance:
        while True:
            node = await self.any_node()
            name = balance_name(budget, month_of(self.clock.now_ms()))
            with contextlib.suppress(StatelineError):
                return (await node.store.balances([name])).get(name, Balance())
            await asyncio.sleep(0.01)

    # -- rounds -------------------------------------------------------------------------------------

    async def round(self, number: int) -> None:
        random, tenant = self.random, f"t{number}"
        limit = Decimal(random.choice(LIMITS))
        budgets = [Budget(name=tenant, limit=limit, tenant=tenant)]
        if random.random() < 0.3:
            budgets.append(Budget(name=f"{tenant}-key", limit=limit / 2, tenant=tenant, key="k"))
        if random.random() < 0.3:
            budgets.append(Budget(name=f"{tenant}-seen", limit=limit / 10, tenant=tenant, mode="warn"))
        self.bill.limits[tenant] = limit
        self.budgets[tenant] = tuple(budgets)
        self.configure()
        watching = asyncio.create_task(self._watch(budgets[0]))
        calls = [asyncio.create_task(self._call(tenant)) for _ in range(random.randint(2, CALLS_MAX))]
        await asyncio.wait(calls)
        for call in calls:
            call.result()
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await self._settle(budgets)
        # A turn whose client has left may wait for its next try.
        self.budgets.pop(f"t{number - KEPT_ROUNDS}", None)

    async def _watch(self, budget: Budget) -> None:
        """What is spent and held is never below what was billed before one looked."""
        while True:
            billed = self.bill.by_tenant[budget.name]
            found = await self.balance(budget)
            if found.spent + found.held < billed:
                raise Broken(f"{budget.name}: {found} is below the bill of {billed}")
            if found.spent + found.held > budget.limit:
                raise Broken(f"{budget.name}: {found} is above its limit of {budget.limit}")
            await asyncio.sleep(0.01)

    async def _call(self, tenant: str) -> None:
        """One call of some kind, on some node, whose client may leave in the middle."""
        random = self.random
        await asyncio.sleep(random.choice((0, 0, 0.002, 0.01)))
        for _ in range(random.choice((1, 1, 2))):
            node = await self.any_node()
            task = asyncio.create_task(self._ask(node.engine, tenant))
            node.calls.add(task)
            task.add_done_callback(node.calls.discard)
            patience_s = random.choice((None, None, None, 0.001, 0.005, 0.02))
            await asyncio.wait([task], timeout=patience_s)
            if not task.done():
                self.left += 1
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or AssertionError

    async def _ask(self, engine: Engine, tenant: str) -> None:
        random = self.random
        kind = random.choice(("stored", "stored", "stream", "background", "volatile", "chat", "chat", "embedding"))
        text = f"{tenant} " + "x" * random.randint(0, 300)
        limit = random.choice((None, None, 16, 500, 4_000))
        try:
            if kind == "chat":
                request = ModelRequest(
                    params=ModelParams(model=MODEL, max_output_tokens=limit), items=(user(text),), key=""
                )
                await self._relay(engine, tenant, request)
            elif kind == "embedding":
                embed = EmbeddingParams(input=msgspec.Raw(msgspec.json.encode(text)))
                request = ModelRequest(params=ModelParams(model=MODEL), items=(), key="", embed=embed)
                await self._relay(engine, tenant, request, "embeddings")
            else:
                await self._turn(engine, tenant, text, kind, limit)
            self.answered += 1
        except BudgetExceeded:
            self.refused += 1
        except StatelineError:
            self.failed += 1

    async def _relay(self, engine: Engine, tenant: str, request: ModelRequest, interface: str = "chat") -> None:
        async with contextlib.aclosing(engine.relay(tenant, "k", request, interface)) as batches:
            async for _ in batches:
                if self.random.random() < 0.05:
                    return

    async def _turn(self, engine: Engine, tenant: str, text: str, kind: str, limit: int | None) -> None:
        request = e.TurnRequest(
            model=MODEL,
            max_output_tokens=limit,
            store=kind != "volatile",
            stream=kind == "stream",
            background=kind == "background",
        )
        accepted = await engine.submit(
            Submission(tenant=tenant, principal="k", request=request, input=(user(text),), digest="")
        )
        await engine.wait(accepted, "open-responses")

    async def _settle(self, budgets: list[Budget]) -> None:
        """Nothing stays held, and the budget has paid no less than was billed."""
        ends_s = time.monotonic() + SETTLED_WITHIN_S
        while True:
            # Before one looks: a turn whose client left while it was submitted may begin at any time.
            billed = self.bill.by_tenant[budgets[0].name]
            found = [await self.balance(budget) for budget in budgets]
            if not any(each.held for each in found):
                break
            if time.monotonic() > ends_s:
                raise Broken(f"{budgets[0].name}: {found} is still held after {SETTLED_WITHIN_S} s")
            await asyncio.sleep(0.01)
        if found[0].spent < billed:
            raise Broken(f"{budgets[0].name}: {found[0].spent} is spent, and {billed} billed")

    async def rest(self) -> None:
        """Until nothing runs anywhere."""
        quiet = 0
        while quiet < 20:
            running = [
                node.engine.workers or (node.engine.volatile and node.engine.volatile.workers) for node in self.nodes
            ]
            quiet = 0 if any(running) else quiet + 1
            await asyncio.sleep(0.1)

    # -- the end ------------------------------------------------------------------------------------

    async def audit(self) -> dict[str, int | str]:
        """Add up all logs, and hold them against the bill and the balances."""
        store = self.nodes[0].store
        charges: dict[str, list[Charge]] = defaultdict(list)
        spent: dict[str, Decimal] = defaultdict(Decimal)
        opened: dict[str, Reserved] = {}
        settled = 0
        for tenant in [*self.bill.limits, SYSTEM_TENANT]:
            async for name, started, ended in _calls(store, tenant):
                if started is not None:
                    opened[name] = started
                    continue
                reserved = opened.pop(name, None)
                if reserved is None or ended is None:
                    if reserved is not None or ended is not None:
                        raise Broken(f"{name}: its end and its beginning do not agree")
                    continue
                settled += 1
                charges[_key(name, tenant)].append(ended)
                for each in reserved.held:
                    spent[each.budget] += ended.amount * each.rate
        if opened:
            raise Broken(f"{len(opened)} reservations have no end, such as {next(iter(opened))}")
        names = list(spent)
        for at in range(0, len(names), 500):
            some = names[at : at + 500]
            for name, balance in (await store.balances(some)).items():
                if (balance.held, balance.spent) != (ZERO, spent[name]):
                    raise Broken(f"{name}: the logs have charged {spent[name]}, the balance says {balance}")
        return self._against_the_bill(charges) | {"settled": settled}

    def _against_the_bill(self, charges: dict[str, list[Charge]]) -> dict[str, int | str]:
        over, estimated, exact = ZERO, 0, 0
        for key, billed in self.bill.by_key.items():
            made = charges.get(key, [])
            total = sum((each.amount for each in made), ZERO)
            if any(each.estimated for each in made):
                estimated += 1
                if total < billed:
                    raise Broken(f"{key}: charged {total}, an estimate, and billed {billed}")
                over += total - billed
            elif total != billed:
                raise Broken(f"{key}: charged {total} and billed {billed}")
            else:
                exact += 1
        for key, made in charges.items():
            if key not in self.bill.by_key:
                over += sum((each.amount for each in made), ZERO)
                if any(each.amount and not each.estimated for each in made):
                    raise Broken(f"{key}: charged, and never billed")
        billed = sum(self.bill.by_tenant.values(), ZERO)
        charged = sum((each.amount for some in charges.values() for each in some), ZERO)
        if charged - billed != over:
            raise Broken(f"charged {charged}, billed {billed}: the difference is not the {over} of estimates")
        return {
            "exact": exact, "estimated": estimated, "billed_usd": f"{billed:f}", "charged_usd": f"{charged:f}",
            "estimates_above_bill_usd": f"{over:f}",
        }  # fmt: skip


def _key(name: str, tenant: str) -> str:
    """The key that the model saw of a call: a relayed one has its try behind it, and a turn's is as it is."""
    return name.rpartition("/")[0] if tenant == SYSTEM_TENANT and name.startswith("t") else name


async def _calls(store: KeptStore, tenant: str) -> AsyncGenerator[tuple[str, Reserved | None, Charge | None], None]:
    """Of each call of a tenant its reservation, and later its charge."""
    before: str | None = None
    while True:
        page = await store.sessions(tenant, before, 100)
        for session in page:
            async for event in store.read(SessionRef(tenant, session)):
                body = event.body
                if type(body) is e.ModelCallStarted:
                    yield effect_key(session, body.turn, body.step), body.reserved, None
                elif type(body) is e.ModelCallFinished or type(body) is e.ModelCallFailed:
                    yield effect_key(session, body.turn, body.step), None, body.charge
                elif type(body) is e.StatelessCalls:
                    for begun in body.started:
                        yield begun.id, begun.reserved, None
                    for ended in body.ended:
                        yield ended.id, None, ended.charge
        if not page:
            return
        before = page[-1]


def user(text: str) -> Message:
    return Message(id="", role="user", content=(InputText(text=text),))


async def silence(engine: Engine, store: KeptStore, calls: set[asyncio.Task[None]]) -> None:
    """End a node as a killed process ends: nothing of it writes any more."""

    async def never(*_: object, **__: object) -> object:
        return await asyncio.get_running_loop().create_future()

    for name in ("append", "release", "renew", "post", "claim"):
        setattr(store, name, never)
    assert engine.volatile is not None
    workers = [worker.task for node in (engine, engine.volatile) for worker in node.workers.values()]
    for task in [*calls, *workers]:
        task.cancel()
    if calls or workers:
        await asyncio.wait([*calls, *workers])
    await engine.ledger.close(timeout_s=0.0)
    await engine.stop(grace_s=0.0)
    await store.close()


async def run(world: World, rounds: int, progress: Callable[[], None]) -> dict[str, Any]:
    await world.start()
    numbers = iter(range(rounds))

    async def lane() -> None:
        for number in numbers:
            if world.random.random() < 1 / CRASH_EVERY_ROUNDS and world.steady.is_set():
                await world.crash()
            await world.round(number)
            if world.model.broken:
                raise world.model.broken[0]
            progress()

    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(LANES, rounds)):
            group.create_task(lane())
    await world.rest()
    for node in world.nodes[1:]:
        await node.engine.stop()
    await world.nodes[0].engine.ledger.close()
    found = await world.audit()
    await world.nodes[0].engine.stop()
    for node in world.nodes:
        await node.store.close()
    return {
        "rounds": rounds, "nodes": world.count, "crashes": world.crashes, "attempts": world.bill.attempts,
        "answered": world.answered, "refused": world.refused, "failed": world.failed, "left": world.left,
        "seconds": round(time.monotonic() - began_s, 1), **found,
    }  # fmt: skip


async def on_sqlite(rounds: int, seed: int, progress: Callable[[], None]) -> dict[str, Any]:
    from stateline.stores.sqlite import open_sqlite

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stateline.db"
        world = World(seed, 1, lambda: open_sqlite(path, clock=SystemClock()), None)
        return await run(world, rounds, progress)


async def on_postgres(rounds: int, seed: int, progress: Callable[[], None]) -> dict[str, Any]:
    asyncpg: Any = importlib.import_module("asyncpg")

    from stateline.stores.postgres import open_postgres

    with postgres_server() as server:
        db: Any = await asyncpg.connect(server.url())

        async def expire(owner: str) -> None:
            await db.execute("UPDATE stateline_nodes SET expires_ms = 0 WHERE owner = $1", owner)

        try:
            return await run(World(seed, 2, lambda: open_postgres(server.url()), expire), rounds, progress)
        finally:
            await db.close()


STORES = {"sqlite": on_sqlite, "postgres": on_postgres}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Money under random interleavings of calls, crashes, failovers and node losses.",
        epilog="example: python -m bench.interleavings --store sqlite --rounds 1000 --seed 7",
    )
    parser.add_argument("--store", choices=[*STORES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=10_000, help="interleavings on each store (default: 10000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=report.RESULTS / "interleavings.json")
    args = parser.parse_args()
    results: dict[str, Any] = {"machine": report.machine()}
    failed = False
    for store in STORES if args.store == "all" else [args.store]:
        with Progress(disable=not sys.stderr.isatty()) as bar:
            advance = partial(bar.advance, bar.add_task(store, total=args.rounds))
            try:
                found = asyncio.run(STORES[store](args.rounds, args.seed, advance))
            except NoPostgres as error:
                found = {"skipped": str(error)}
            except ExceptionGroup as error:
                broken = error.subgroup(Broken)
                if broken is None:
                    raise
                failed = True
                found = {"broken": [str(each) for each in broken.exceptions]}
            except Broken as error:
                failed = True
                found = {"broken": [str(error)]}
        results[store] = found
        print(f"{store}: {json.dumps(found)}")
    args.json.parent.mkdir(exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
