"""Prices and budgets of a run. They follow from its seed alone, so a run without them is as it always was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from stateline.core.billing import DEFAULT_TIER, Price, Rates, Tariff
from stateline.engine.meter import Meter
from stateline.money.book import tariff_of
from stateline.money.budgets import Budget
from stateline.ports import Deployment

_RATES = {("USD", "EUR"): Decimal("0.9137")}


def has_money(seed: int) -> bool:
    """Every other sixteen seeds, of which one is calm."""
    return seed // 16 % 2 == 1


def meter_of(seed: int, deployments: Iterable[Deployment]) -> Meter:
    """Prices of all deployments, and budgets of which one pays for some hundred calls and is used up then.

    A call reserves several hundred times what it costs, so that budget also runs out while calls are under way.
    """
    budgets = (
        Budget(name="tenant0", tenant="tenant0", limit=Decimal((seed % 5 + 1) * 15) / 100),
        Budget(name="all", limit=Decimal(1_000), currency="EUR"),
        Budget(name="chatty", model="chatty", limit=Decimal("0.01"), mode="warn"),
    )
    return Meter({one.name: _tariffs(one) for one in deployments}, budgets, _RATES)


def _tariffs(deployment: Deployment) -> Mapping[str, Tariff]:
    rates = (
        Rates(input=Decimal("1.25"), output=Decimal("10.00"), reasoning=Decimal("12.5")),
        Rates(input=Decimal("2.50"), output=Decimal("15.00"), above=4_000),
    )
    price = Price(
        cloud=deployment.cloud, model=deployment.model, currency="USD", rates=rates, per_call=Decimal("0.0001")
    )
    tariff = Tariff(
        id="",
        deployment=deployment.name,
        model=deployment.model,
        upstream_model=deployment.upstream_model,
        cloud=deployment.cloud,
        host=deployment.cloud,
        price=price,
    )
    return {DEFAULT_TIER: tariff_of(tariff)}
