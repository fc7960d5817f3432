"""What calls reserve and cost, over a real store: held before a call, settled with its end, refused past a budget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from tests.engine.conftest import Lab, asking, deployment, log_of, texts, user

from stateline.core import events as e
from stateline.core.billing import Charge, Price, Rates, Tariff
from stateline.core.calls import ModelDelta, ModelParams, ModelRequest, Usage
from stateline.core.ids import SYSTEM_TENANT, SessionRef
from stateline.core.limits import TurnLimits
from stateline.engine import Engine
from stateline.engine.meter import Meter, Unpriced
from stateline.money.book import tariff_of
from stateline.money.budgets import Budget, balance_name, month_of
from stateline.ports import Balance, BudgetExceeded, Deployment
from stateline.testing.scripted import Answer, Gate, Script, ScriptedModel

DIALECT = "open-responses"
USED = Usage(input_tokens=1_000, output_tokens=100)
COST = Decimal("0.012")


class Paid(Lab):
    """Remembers the output limit of each request that was sent."""

    limits: list[int | None]

    def script(self, script: Script) -> ScriptedModel:
        self.limits = seen = list[int | None]()

        class Model(ScriptedModel):
            def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta], None]:
                seen.append(request.params.max_output_tokens)
                return super().call(deployment, request)

        self.model = Model(script)
        return self.model


@pytest.fixture
def lab(tmp_path: Path) -> Paid:
    made = Paid(tmp_path)
    made.script({"m": Answer(text="an answer")})
    return made


def tariff(name: str, *, input_price: str = "10", output_price: str = "20", tier: str = "default") -> Tariff:
    rates = (Rates(input=Decimal(input_price), output=Decimal(output_price)),)
    price = Price(cloud="openai", model="m", currency="USD", rates=rates, service_tier=tier, source="a test")
    return tariff_of(
        Tariff(id="", deployment=name, model="m", upstream_model=name, cloud="openai", host="openai", price=price)
    )


def meter(*budgets: Budget, names: Sequence[str] = ("d0",), unpriced: Unpriced = "unbudgeted", **prices: str) -> Meter:
    tariffs = {name: {"default": tariff(name, **prices)} for name in names}
    return Meter(tariffs, budgets, unpriced=unpriced)


def budget(limit: str, **fields: object) -> Budget:
    return Budget(name="all", limit=Decimal(limit), **fields)  # pyright: ignore[reportArgumentType]


async def balance(engine: Engine, of: Budget) -> Balance:
    name = balance_name(of, month_of(engine.clock.now_ms()))
    return (await engine.store.balances([name])).get(name, Balance())


async def settled(engine: Engine, of: Budget, *, tries: int = 100) -> Balance:
    """The balance once nothing is held."""
    found = await balance(engine, of)
    for _ in range(tries):
        if not found.held:
            return found
        await asyncio.sleep(0.02)
        found = await balance(engine, of)
    raise AssertionError(f"still held: {found}")


async def ledger(engine: Engine) -> list[e.StatelessCallStarted | e.StatelessCallEnded]:
    """What the node's books say, tariffs aside."""
    out: list[e.StatelessCallStarted | e.StatelessCallEnded] = []
    for session in reversed(await engine.store.sessions(SYSTEM_TENANT, None, 100)):
        for event in await log_of(engine, SessionRef(SYSTEM_TENANT, session)):
            if isinstance(event.body, e.StatelessCalls):
                out += (*event.body.started, *event.body.ended)
    return out


def one(log: Sequence[e.Event], kind: type[e.ModelCallStarted]) -> e.ModelCallStarted:
    [found] = [event.body for event in log if isinstance(event.body, kind)]
    return found


# -- turns ---------------------------------------------------------------------------------------------------


async def test_a_call_reserves_its_worst_case_and_settles_what_it_cost(lab: Paid) -> None:
    gate = Gate()
    lab.script({"m": Answer(text="an answer", gate=gate, usage=USED)})
    limit = budget("100")
    async with lab.engine(meter=meter(limit)) as engine:
        accepted = await engine.submit(asking("go"))
        held = await balance(engine, limit)
        assert held.spent == 0
        # 32,768 tokens of output at 20 a million, and a little input.
        assert Decimal("0.655") < held.held < Decimal("0.68")
        gate.open()
        response = await engine.wait(accepted, DIALECT)
        assert response.status == "completed"
        assert response.stateline
        assert [(each.amount, each.estimated) for each in response.stateline.cost] == [("0.012", False)]
        started = one(await log_of(engine, accepted.session), e.ModelCallStarted)
        assert started.reserved is not None
        assert started.reserved.output_tokens == 32_768
        assert lab.limits[-1] == 32_768
        assert await balance(engine, limit) == Balance(Decimal(0), COST)
        [end] = [x.body for x in await log_of(engine, accepted.session) if isinstance(x.body, e.ModelCallFinished)]
        assert end.charge == Charge(tariff=started.reserved.tariff, amount=COST, currency="USD")


async def test_without_a_hard_budget_a_call_is_priced_and_not_bounded(lab: Paid) -> None:
    limit = budget("0.0001", mode="warn")
    async with lab.engine(meter=meter(limit)) as engine:
        accepted = await engine.submit(asking("go"))
        await engine.wait(accepted, DIALECT)
        assert lab.limits[-1] is None
        found = await balance(engine, limit)
        assert found.held == 0
        assert found.spent > 0


async def test_a_call_that_no_budget_pays_for_is_refused_and_nothing_is_recorded(lab: Paid) -> None:
    limit = budget("0.001")
    async with lab.engine(meter=meter(limit)) as engine:
        with pytest.raises(BudgetExceeded) as caught:
            await engine.submit(asking("go"))
        assert caught.value.code == "insufficient_quota"
        assert "'all'" in caught.value.message
        assert lab.limits == []
        assert await engine.store.sessions("default", None, 10) == []
        assert await balance(engine, limit) == Balance()


async def test_a_call_is_held_to_the_output_that_its_budget_still_pays_for(lab: Paid) -> None:
    limit = budget("0.1")
    async with lab.engine(meter=meter(limit)) as engine:
        accepted = await engine.submit(asking("go"))
        await engine.wait(accepted, DIALECT)
        asked = lab.limits[-1]
        assert asked is not None
        # 0.1 less some 1,050 tokens of input at 10 a million, at 20 a million.
        assert 4_400 < asked < 4_500


async def test_a_budget_is_looked_at_again_where_a_call_fails_over(lab: Paid) -> None:
    lab.script({"a": Answer(status=503, error_code="overloaded"), "b": Answer(text="dear")})
    limit = budget("0.1")
    dear = {"a": {"default": tariff("a")}, "b": {"default": tariff("b", input_price="1000")}}
    async with lab.engine(
        deployments=(deployment("a"), deployment("b")), meter=Meter(dear, (limit,)), limits=TurnLimits(steps_max=2)
    ) as engine:
        accepted = await engine.submit(asking("go"))
        response = await engine.wait(accepted, DIALECT)
        assert response.status == "failed"
        assert response.error is not None
        assert response.error.code == "insufficient_quota"
        assert len(lab.limits) == 1
        assert await balance(engine, limit) == Balance()


async def test_a_dear_deployment_is_passed_over_for_one_that_the_budget_pays_for(lab: Paid) -> None:
    lab.script({"a": Answer(text="dear"), "b": Answer(text="cheap")})
    limit = budget("0.1")
    prices = {"a": {"default": tariff("a", input_price="1000")}, "b": {"default": tariff("b")}}
    async with lab.engine(deployments=(deployment("a"), deployment("b")), meter=Meter(prices, (limit,))) as engine:
        accepted = await engine.submit(asking("go"))
        assert texts((await engine.wait(accepted, DIALECT)).output) == ["cheap"]
        started = one(await log_of(engine, accepted.session), e.ModelCallStarted)
        assert [(each.deployment, each.why) for each in started.passed] == [("a", "budget")]


@pytest.mark.parametrize(
    ("answer", "estimated"),
    [
        (Answer(status=429, error_code="rate_limit_exceeded"), False),
        (Answer(status=503, error_code="overloaded"), False),
        (Answer(status=500, error_code="server_error"), True),
        (Answer(text="half an answer", end="cut", after=2), True),
        (Answer(text="half an answer", end="malformed", after=2), True),
    ],
    ids=["429", "503", "500", "cut", "malformed"],
)
async def test_an_attempt_that_failed_is_charged_in_full_unless_it_was_refused(
    lab: Paid, answer: Answer, estimated: bool
) -> None:
    lab.script({"m": answer})
    limit = budget("100")
    async with lab.engine(meter=meter(limit), limits=TurnLimits(model_failures_max=1)) as engine:
        accepted = await engine.submit(asking("go"))
        await engine.wait(accepted, DIALECT)
        log = await log_of(engine, accepted.session)
        reserved = one(log, e.ModelCallStarted).reserved
        assert reserved is not None
        [end] = [event.body for event in log if isinstance(event.body, e.ModelCallFailed)]
        assert end.charge is not None
        assert end.charge.estimated is estimated
        expected = reserved.amount if estimated else Decimal(0)
        assert end.charge.amount == expected
        assert await balance(engine, limit) == Balance(Decimal(0), expected)


async def test_a_call_without_usage_is_charged_in_full_and_says_that_it_is_estimated(lab: Paid) -> None:
    lab.script({"m": Answer(text="an answer", usage=None)})
    limit = budget("100")
    async with lab.engine(meter=meter(limit)) as engine:
        accepted = await engine.submit(asking("go"))
        await engine.wait(accepted, DIALECT)
        log = await log_of(engine, accepted.session)
        reserved = one(log, e.ModelCallStarted).reserved
        assert reserved is not None
        assert await balance(engine, limit) == Balance(Decimal(0), reserved.amount)


async def test_a_call_of_a_killed_process_is_charged_in_full_and_the_next_one_anew(lab: Paid) -> None:
    gate = Gate()
    lab.script({"m": Answer(text="an answer", gate=gate)})
    limit = budget("100")
    async with lab.engine(meter=meter(limit), kill=True) as engine:
        accepted = await engine.submit(asking("go", background=True))
        held = await balance(engine, limit)
        assert held.held > 0
    lab.script({"m": Answer(text="an answer", usage=USED)})
    async with lab.engine(meter=meter(limit)) as engine:
        response = await engine.wait(accepted, DIALECT)
        assert response.status == "completed"
        log = await log_of(engine, accepted.session)
        [lost] = [event.body for event in log if isinstance(event.body, e.ModelCallFailed)]
        assert lost.charge is not None
        assert (lost.charge.amount, lost.charge.estimated) == (held.held, True)
        assert await balance(engine, limit) == Balance(Decimal(0), held.held + COST)


async def test_many_turns_at_once_never_pass_a_budget_together(lab: Paid) -> None:
    lab.script({"m": Answer(text="an answer", usage=USED)})
    limit = budget("0.1")
    async with lab.engine(meter=meter(limit)) as engine:

        async def ask(at: int) -> bool:
            with contextlib.suppress(BudgetExceeded):
                accepted = await engine.submit(asking(f"go {at}"))
                assert (await engine.wait(accepted, DIALECT)).status == "completed"
                return True
            return False

        done = await asyncio.gather(*[ask(at) for at in range(40)])
        found = await balance(engine, limit)
        assert found.held == 0
        assert found.spent == done.count(True) * COST
        assert found.spent <= limit.limit
        assert 1 <= done.count(True) <= 8


@pytest.mark.parametrize("mode", ["unbudgeted", "allow", "refuse"])
async def test_a_deployment_without_a_price_takes_what_it_may(lab: Paid, mode: Unpriced) -> None:
    limit = budget("100", model="m", tenant="acme")
    async with lab.engine(meter=meter(limit, names=(), unpriced=mode)) as engine:
        for tenant, refused in (("default", mode == "refuse"), ("acme", mode != "allow")):
            if refused:
                with pytest.raises(Exception, match="no known price"):
                    await engine.submit(asking("go", tenant=tenant))
            else:
                accepted = await engine.submit(asking("go", tenant=tenant))
                assert (await engine.wait(accepted, DIALECT)).status == "completed"
                assert one(await log_of(engine, accepted.session), e.ModelCallStarted).reserved is None


# -- stateless calls -------------------------------------------------------------------------------------


def bare(model: str = "m") -> ModelRequest:
    return ModelRequest(params=ModelParams(model=model), items=(user("go"),), key="")


async def relayed(engine: Engine) -> None:
    async with contextlib.aclosing(engine.relay("default", "anonymous", bare())) as batches:
        async for _ in batches:
            pass


async def test_a_stateless_call_is_in_the_ledger_without_its_content(lab: Paid) -> None:
    lab.script({"m": Answer(text="an answer", usage=USED)})
    limit = budget("100")
    async with lab.engine(meter=meter(limit)) as engine:
        await relayed(engine)
        assert await settled(engine, limit) == Balance(Decimal(0), COST)
        [started, ended] = await ledger(engine)
        assert isinstance(started, e.StatelessCallStarted)
        assert isinstance(ended, e.StatelessCallEnded)
        assert (started.tenant, started.interface, started.deployment, started.id) == (
            "default",
            "chat",
            "d0",
            ended.id,
        )
        assert ended.charge is not None
        assert (ended.charge.amount, ended.charge.estimated, ended.code) == (COST, False, None)


async def test_a_response_that_is_not_stored_is_in_the_ledger_too(lab: Paid) -> None:
    lab.script({"m": Answer(text="an answer", usage=USED)})
    limit = budget("100")
    async with lab.engine(meter=meter(limit)) as engine:
        accepted = await engine.submit(asking("go", store=False))
        await engine.wait(accepted, DIALECT)
        assert await settled(engine, limit) == Balance(Decimal(0), COST)
        assert [type(body) for body in await ledger(engine)] == [e.StatelessCallStarted, e.StatelessCallEnded]


async def test_a_stateless_call_that_nobody_waits_for_is_charged_in_full(lab: Paid) -> None:
    lab.script({"m": Answer(text="a long answer " * 100, delay_ms=1, usage=USED)})
    limit = budget("100")
    async with lab.engine(meter=meter(limit)) as engine:
        async with contextlib.aclosing(engine.relay("default", "anonymous", bare())) as batches:
            async for _ in batches:
                break
        found = await settled(engine, limit)
        assert found.spent > Decimal("0.65")
        [_, ended] = await ledger(engine)
        assert isinstance(ended, e.StatelessCallEnded)
        assert ended.code == "cancelled"
        assert ended.charge is not None
        assert ended.charge.estimated


async def test_stateless_calls_that_a_budget_does_not_pay_for_are_refused_before_they_are_sent(lab: Paid) -> None:
    limit = budget("0.001")
    async with lab.engine(meter=meter(limit)) as engine:
        with pytest.raises(BudgetExceeded):
            await relayed(engine)
        with pytest.raises(BudgetExceeded):
            await engine.submit(asking("go", store=False))
        assert lab.limits == []
        assert await ledger(engine) == []
        assert await balance(engine, limit) == Balance()


async def test_the_ledger_of_a_killed_process_is_settled_by_the_next(lab: Paid) -> None:
    gate = Gate()
    lab.script({"m": Answer(text="an answer", gate=gate)})
    limit = budget("100")
    async with lab.engine(meter=meter(limit), kill=True) as engine:
        call = asyncio.create_task(relayed(engine))
        await gate.held()
        held = (await balance(engine, limit)).held
        assert held > 0
        call.cancel()
    async with lab.engine(meter=meter(limit)) as engine:
        assert await settled(engine, limit) == Balance(Decimal(0), held)
        [_, ended] = await ledger(engine)
        assert isinstance(ended, e.StatelessCallEnded)
        assert ended.code == "node_lost"


async def test_many_stateless_calls_at_once_never_pass_a_budget_together(lab: Paid) -> None:
    lab.script({"m": Answer(text="an answer", usage=USED)})
    limit = budget("0.1")
    async with lab.engine(meter=meter(limit)) as engine:

        async def ask() -> bool:
            with contextlib.suppress(BudgetExceeded):
                await relayed(engine)
                return True
            return False

        done = await asyncio.gather(*[ask() for _ in range(40)])
        found = await settled(engine, limit)
        assert found.spent == done.count(True) * COST
        assert found.spent <= limit.limit
        assert done.count(True) >= 1


async def test_where_nothing_is_priced_or_limited_stateless_calls_are_not_recorded(lab: Paid) -> None:
    async with lab.engine() as engine:
        await relayed(engine)
        accepted = await engine.submit(asking("go", store=False))
        assert (await engine.wait(accepted, DIALECT)).status == "completed"
        assert await engine.store.sessions(SYSTEM_TENANT, None, 10) == []
