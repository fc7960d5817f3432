"""Where calls go when prices decide, and what the record says of them."""

from __future__ import annotations

from decimal import Decimal

from tests.engine.conftest import Lab, asking, deployment, log_of
from tests.engine.test_money import DIALECT, tariff

from stateline.core import events as e
from stateline.core.placing import Drew, Priced
from stateline.engine import Engine
from stateline.engine.meter import Meter
from stateline.money.effective import Draw, effective
from stateline.testing.scripted import Answer

PLACES = (deployment("a", priority=1), deployment("b", priority=1), deployment("c", priority=2))
LIST = {"a": Decimal(8), "b": Decimal(10), "c": Decimal(1)}


def meter(**draws: Draw) -> Meter:
    tariffs = {name: {"default": tariff(name)} for name in LIST}
    ranks = {name: effective(price, [draws[name]] if name in draws else []) for name, price in LIST.items()}
    return Meter(tariffs, ranks=ranks)


async def gone_to(engine: Engine) -> e.ModelCallStarted:
    accepted = await engine.submit(asking("go"))
    await engine.wait(accepted, DIALECT)
    return next(
        event.body for event in await log_of(engine, accepted.session) if isinstance(event.body, e.ModelCallStarted)
    )


async def test_the_cheapest_of_a_priority_goes_first_and_its_price_is_in_the_record(lab: Lab) -> None:
    async with lab.engine(deployments=PLACES, meter=meter()) as engine:
        for _ in range(8):
            started = await gone_to(engine)
            assert started.deployment == "a"
            assert started.priced == (
                Priced("a", Decimal(8), Decimal(8)),
                Priced("b", Decimal(10), Decimal(10)),
                Priced("c", Decimal(1), Decimal(1)),
            )


async def test_a_commitment_that_its_use_draws_down_makes_a_dearer_one_cheaper(lab: Lab) -> None:
    draw = Draw("deal/spend", Decimal(1), Decimal("0.25"))
    async with lab.engine(deployments=PLACES, meter=meter(b=draw)) as engine:
        started = await gone_to(engine)
        assert started.deployment == "b"
        drew = (Drew("deal/spend", Decimal(1), Decimal("0.25")),)
        assert started.priced[0] == Priced("b", Decimal(10), Decimal("7.50"), drew)
        accepted = await engine.submit(asking("again"))
        response = await engine.wait(accepted, DIALECT)
        assert response.stateline
        assert response.stateline.placement is not None
        [first, *_] = response.stateline.placement.prices
        assert (first.deployment, first.list_per_mtok, first.effective_per_mtok) == ("b", "10", "7.50")
        assert [(each.commitment, each.value) for each in first.draws] == [("deal/spend", "0.25")]


async def test_what_is_paid_already_goes_first_and_the_next_takes_over_where_it_fails(lab: Lab) -> None:
    lab.script({"a": Answer(text="by list price"), "b": Answer(status=503, error_code="overloaded")})
    paid = Draw("deal/reserved", Decimal(1), Decimal(1), paid=True)
    async with lab.engine(deployments=PLACES, meter=meter(b=paid)) as engine:
        accepted = await engine.submit(asking("go"))
        await engine.wait(accepted, DIALECT)
        calls = [x.body for x in await log_of(engine, accepted.session) if isinstance(x.body, e.ModelCallStarted)]
        assert [each.deployment for each in calls] == ["b", "a"]
        assert (calls[1].passed[0].deployment, calls[1].passed[0].why) == ("b", "failed")


async def test_a_deployment_without_a_price_comes_last(lab: Lab) -> None:
    tariffs = {name: {"default": tariff(name)} for name in ("a", "b")}
    ranks = {"b": effective(Decimal(10), [])}
    async with lab.engine(deployments=PLACES[:2], meter=Meter(tariffs, ranks=ranks)) as engine:
        assert (await gone_to(engine)).deployment == "b"
