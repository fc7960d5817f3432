"""Rate limits over a real store: counted for each key, corrected, given back, and waited for in a running turn."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Coroutine
from decimal import Decimal
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.clocks import Within
from tests.engine.conftest import Lab, asking, deployment, log_of, logged, user

from stateline.core import events as e
from stateline.core.calls import ModelParams, ModelRequest, Usage
from stateline.core.errors import ModelError, RateLimited
from stateline.core.limits import TurnLimits
from stateline.core.tokens import estimate_tokens
from stateline.engine import Engine
from stateline.engine.meter import Meter
from stateline.models.catalogue import Catalogue
from stateline.money.budgets import Payer
from stateline.money.rates import RateLimit, counts
from stateline.ports import Balance
from stateline.stores.memory import MemoryStore
from stateline.testing.scripted import Answer, Gate, ScriptedModel

DIALECT = "open-responses"
PAYER = Payer("default", "anonymous", "m")
USED = Usage(input_tokens=1_000, output_tokens=100)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.script({"m": Answer(text="an answer", usage=USED)})
    return made


def limited(**rates: int) -> Meter:
    limit = RateLimit(name="r", **rates)  # pyright: ignore[reportArgumentType]
    return Meter({}, rate_limits=[limit])


async def stands(engine: Engine) -> dict[str, Balance]:
    """What the balances of the caller stand at, by kind. Empty ones are left out."""
    assert engine.meter is not None
    found = counts(engine.meter.rate_limits, PAYER, engine.clock.now_ms())
    balances = await engine.store.balances([each.balance for each in found])
    return {each.kind: balances[each.balance] for each in found if each.balance in balances}


async def given_back(engine: Engine) -> dict[str, Balance]:
    """The balances once no place is taken."""
    for _ in range(200):
        found = await stands(engine)
        if not any(each.held for each in found.values()):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"a place is still taken: {await stands(engine)}")


def bare(text: str = "go", limit: int | None = None) -> ModelRequest:
    return ModelRequest(params=ModelParams(model="m", max_output_tokens=limit), items=(user(text),), key="")


async def relayed(engine: Engine, request: ModelRequest | None = None) -> None:
    async with contextlib.aclosing(engine.relay("default", "anonymous", request or bare())) as batches:
        async for _ in batches:
            pass


async def answered(engine: Engine, **fields: bool) -> None:
    accepted = await engine.submit(asking("go", **fields))  # pyright: ignore[reportArgumentType]
    assert (await engine.wait(accepted, DIALECT)).status == "completed"


async def asked(model: ScriptedModel, times: int) -> None:
    for _ in range(1_000):
        if len(model.requests) >= times:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(model.requests)} requests came")


# -- requests ------------------------------------------------------------------------------------------------


async def test_the_call_after_the_last_of_a_minute_is_refused_and_one_of_the_next_minute_is_not(lab: Lab) -> None:
    async with lab.engine(meter=limited(requests_per_minute=3), clock=Within(2_500)) as engine:
        await answered(engine)
        await answered(engine, store=False)
        await relayed(engine)
        for make in (answered, partial(answered, store=False), relayed):
            with pytest.raises(RateLimited) as caught:
                await make(engine)
            assert (caught.value.code, caught.value.kind, caught.value.left) == ("rate_limit_exceeded", "requests", 0)
            assert caught.value.until_ms is not None
            assert caught.value.until_ms % 60_000 == 0
        assert len(lab.model.requests) == 3
        await asyncio.sleep((caught.value.until_ms - engine.clock.now_ms()) / 1_000)
        await answered(engine)


async def test_each_key_is_counted_by_itself(lab: Lab) -> None:
    async with lab.engine(meter=limited(requests_per_minute=1), clock=Within()) as engine:
        await answered(engine)
        other = msgspec.structs.replace(asking("go"), principal="key_2")
        assert (await engine.wait(await engine.submit(other), DIALECT)).status == "completed"
        for again in (asking("go"), other):
            with pytest.raises(RateLimited):
                await engine.submit(again)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.lists(st.sampled_from(["stored", "unstored", "bare"]), max_size=12), st.booleans())
async def test_never_more_calls_than_the_limit_are_made_in_a_minute(limit: int, calls: list[str], two: bool) -> None:
    async with nodes(limited(requests_per_minute=limit)) as (first, second, model):

        async def one(at: int, kind: str) -> bool:
            engine = second if two and at % 2 else first
            with contextlib.suppress(RateLimited):
                await (relayed(engine) if kind == "bare" else answered(engine, store=kind == "stored"))
                return True
            return False

        done = await asyncio.gather(*[one(at, kind) for at, kind in enumerate(calls)])
        assert done.count(True) == len(model.requests) <= limit
        # Nor fewer, where as many come one after the other.
        for _ in range(limit - done.count(True)):
            await relayed(first)
        with pytest.raises(RateLimited):
            await answered(second)


# -- tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stored", "unstored", "bare"])
async def test_tokens_count_by_estimate_and_then_as_they_were_used(lab: Lab, kind: str) -> None:
    gate = Gate()
    lab.script({"m": Answer(text="an answer", gate=gate, usage=USED)})
    async with lab.engine(meter=limited(tokens_per_minute=5_000), clock=Within()) as engine:
        made = relayed(engine, bare(limit=700)) if kind == "bare" else answered(engine, store=kind == "stored")
        call = asyncio.create_task(made)
        await asked(lab.model, 1)
        estimate = estimate_tokens(bare()) + (700 if kind == "bare" else 0)
        assert (await stands(engine))["tokens"] == Balance(spent=Decimal(estimate))
        gate.open()
        await call
        await used(engine, 1_100)


async def used(engine: Engine, tokens: int) -> None:
    """The balance of tokens comes to this, and stays."""
    for _ in range(100):
        if (await stands(engine))["tokens"] == Balance(spent=Decimal(tokens)):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await stands(engine))


@pytest.mark.parametrize("stored", [True, False])
async def test_what_was_refused_counts_for_no_tokens_and_what_says_no_usage_for_its_estimate(
    lab: Lab, *, stored: bool
) -> None:
    lab.script({"m": [Answer(status=400), Answer(text="an answer", usage=None)]})
    async with lab.engine(meter=limited(tokens_per_minute=5_000), clock=Within()) as engine:
        response = await engine.wait(await engine.submit(asking("go", store=stored)), DIALECT)
        assert response.status == "failed"
        await used(engine, 0)
        await answered(engine, store=stored)
        await used(engine, estimate_tokens(bare()))


async def test_a_call_that_is_larger_than_a_whole_minute_is_told_not_to_come_again(lab: Lab) -> None:
    async with lab.engine(meter=limited(tokens_per_minute=100), clock=Within()) as engine:
        with pytest.raises(RateLimited) as caught:
            await relayed(engine, bare(limit=100))
        assert (caught.value.kind, caught.value.retry_after_s) == ("tokens", None)
        await relayed(engine, bare(limit=50))


# -- places ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def nodes(meter: Meter, gate: Gate | None = None) -> AsyncGenerator[tuple[Engine, Engine, ScriptedModel]]:
    """Two over one store. The model's first answer waits for the gate."""
    clock = Within()
    store, memory = MemoryStore(clock=clock), MemoryStore(clock=clock)
    model = ScriptedModel([Answer(text="an answer", usage=USED, gate=gate), Answer(text="an answer", usage=USED)])
    catalogue = Catalogue([deployment("d", upstream_model="m")])

    def make(over: MemoryStore, *, durable: bool, volatile: Engine | None = None) -> Engine:
        return Engine(
            store=over,
            client=model,
            catalogue=catalogue,
            clock=clock,
            entropy=os.urandom,
            volatile=volatile,
            durable=durable,
            meter=meter,
        )

    both = [make(store, durable=True, volatile=make(memory, durable=False)) for _ in range(2)]
    try:
        for node in both:
            await node.start()
        yield both[0], both[1], model
    finally:
        for node in both:
            await node.stop(grace_s=0.5)


@pytest.mark.parametrize("kind", ["stored", "unstored", "bare"])
async def test_two_nodes_share_the_places_of_a_key(kind: str) -> None:
    def call(engine: Engine) -> Coroutine[None, None, None]:
        return relayed(engine) if kind == "bare" else answered(engine, store=kind == "stored")

    gate = Gate()
    async with asyncio.timeout(20), nodes(limited(max_concurrency=1), gate) as (first, second, model):
        under_way = asyncio.create_task(call(first))
        await asked(model, 1)
        with pytest.raises(RateLimited) as caught:
            await call(second)
        assert (caught.value.kind, caught.value.retry_after_s) == ("concurrency", 1)
        gate.open()
        await under_way
        await given_back(second)
        await call(second)
        assert await given_back(first) == {"concurrency": Balance()}


async def test_a_call_that_fails_or_that_its_caller_leaves_gives_its_place_back(lab: Lab) -> None:
    gate = Gate()
    lab.script({"m": [Answer(status=400), Answer(status=400), Answer(text="an answer", gate=gate)]})
    async with lab.engine(meter=limited(max_concurrency=1), clock=Within()) as engine:
        response = await engine.wait(await engine.submit(asking("go")), DIALECT)
        assert response.status == "failed"
        assert await given_back(engine) == {"concurrency": Balance()}
        with pytest.raises(ModelError):
            await relayed(engine)
        assert await given_back(engine) == {"concurrency": Balance()}
        call = asyncio.create_task(relayed(engine))
        await asked(lab.model, 3)
        call.cancel()
        assert await given_back(engine) == {"concurrency": Balance()}


async def _submitted(engine: Engine) -> None:
    await engine.submit(asking("go", background=True))


@pytest.mark.parametrize("stored", [True, False])
async def test_a_call_of_a_killed_process_gives_its_place_back(lab: Lab, *, stored: bool) -> None:
    lab.script({"m": Answer(text="an answer", gate=Gate())})
    meter = limited(max_concurrency=1, tokens_per_minute=5_000)
    clock = Within()
    async with lab.engine(meter=meter, kill=True, clock=clock) as engine:
        call = asyncio.create_task(_submitted(engine) if stored else relayed(engine))
        await asked(lab.model, 1)
        assert (await stands(engine))["concurrency"] == Balance(held=Decimal(1))
    call.cancel()
    lab.script({"m": Answer(text="an answer", usage=USED)})
    async with lab.engine(meter=meter, clock=clock) as engine:
        assert (await given_back(engine))["concurrency"] == Balance()
        # The lost call's estimate stays: nobody knows what it used.
        estimate = estimate_tokens(bare())
        await used(engine, estimate + 1_100 if stored else estimate)


# -- in a turn that runs --------------------------------------------------------------------------------------


async def test_a_running_turn_waits_for_the_next_minute(lab: Lab) -> None:
    lab.script({"m": [Answer(status=503), Answer(text="an answer")]})
    async with lab.engine(meter=limited(requests_per_minute=1), clock=Within(2_500)) as engine:
        accepted = await engine.submit(asking("go"))
        assert (await engine.wait(accepted, DIALECT)).status == "completed"
        log = await log_of(engine, accepted.session)
        timers = [event.body for event in log if isinstance(event.body, e.TimerSet)]
        # Of the model's failure, and then of the limit.
        assert [each.due_ms % 60_000 == 0 for each in timers] == [False, True]
        calls = [event.at_ms // 60_000 for event in log if isinstance(event.body, e.ModelCallStarted)]
        assert calls[1] == calls[0] + 1


@pytest.mark.parametrize(
    ("limits", "status", "why"),
    [
        (TurnLimits(wall_time_ms_max=20_000), "failed", "rate_limit_exceeded"),
        (TurnLimits(steps_max=3), "incomplete", "max_steps"),
    ],
)
async def test_a_running_turn_that_has_not_the_time_to_wait_says_why(
    lab: Lab, limits: TurnLimits, status: str, why: str
) -> None:
    lab.script({"m": [Answer(status=503), Answer(text="an answer")]})
    async with lab.engine(meter=limited(requests_per_minute=1), clock=Within(), limits=limits) as engine:
        response = await engine.wait(await engine.submit(asking("go")), DIALECT)
        assert response.status == status
        assert why in str((response.error, response.incomplete_details))


async def test_a_running_turn_looks_for_a_place_again(lab: Lab) -> None:
    gate = Gate()
    lab.script({"m": [Answer(status=503), Answer(text="an answer", gate=gate), Answer(text="an answer")]})
    async with lab.engine(meter=limited(max_concurrency=1), clock=Within()) as engine:
        turn = await engine.submit(asking("go"))
        await asked(lab.model, 1)
        await given_back(engine)
        other = asyncio.create_task(relayed(engine))
        await asked(lab.model, 2)
        await logged(engine, turn.session, "TimerSet", 2)
        gate.open()
        await other
        assert (await engine.wait(turn, DIALECT)).status == "completed"
        assert await given_back(engine) == {"concurrency": Balance()}
