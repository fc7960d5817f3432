"""What the configuration says of money, as the values that `money` works with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from stateline.config import Budget as BudgetSetting
from stateline.config import Config, ConfigError, Deployment
from stateline.core.billing import Price, Rates, Tariff, tier_of
from stateline.engine.meter import Meter
from stateline.money.book import PriceBook
from stateline.money.budgets import Budget, Rate, rates_on
from stateline.money.tariffs import Deployed, names_of, tariffs
from stateline.price_files import load_folder, shipped

OWN = "stateline.toml"
"""The source of a deployment's own price."""


def own_price(deployment: Deployment) -> Price | None:
    """A deployment's own price, in the tier that it asks for; None where it has none."""
    price = deployment.price
    if price is None:
        return None
    return Price(
        cloud=deployment.cloud,
        model=deployment.upstream_model,
        region=deployment.region,
        service_tier=tier_of(deployment.service_tier),
        currency=price.currency,
        rates=(
            Rates(
                input=price.input_per_mtok,
                output=price.output_per_mtok,
                cached=price.cached_input_per_mtok,
                cache_write=price.cache_write_per_mtok,
                reasoning=price.reasoning_per_mtok,
            ),
        ),
        per_call=price.per_call,
        source=OWN,
    )


def books(config: Config, deployments: Sequence[Deployed]) -> list[PriceBook]:
    """The price books in force for these deployments, for `money.tariffs.tariffs`: one's own before the shipped.

    Raises:
        PriceError: a file of `prices.path` cannot be used; in one line, with its place.
    """
    prices = config.prices
    out = [] if prices.path is None else [load_folder(Path(prices.path))]
    if prices.shipped:
        names = [(each.cloud, name) for each in deployments if each.cloud != "local" for name in names_of(each)]
        if names:
            out.append(PriceBook(shipped(names)))
    return out


def priced(config: Config, deployments: Sequence[Deployed], on: date) -> dict[str, dict[str, Tariff]]:
    """The tariffs of each deployment on a day, by service tier; an unpriced one has none.

    Raises:
        PriceError: a file of `prices.path` cannot be used.
    """
    return tariffs(deployments, books(config, deployments), on)


def budgets(config: Config) -> tuple[Budget, ...]:
    """The configured budgets, in their order."""
    return tuple(_budget(each) for each in config.budgets)


def currency_rates(config: Config) -> tuple[Rate, ...]:
    """The configured rates of exchange; `money.budgets.rates_on` says which hold on a day."""
    return tuple(Rate(each.have, each.want, each.rate, each.on) for each in config.prices.rates)


def meter_of(config: Config, found: Sequence[Deployed], on: date, before: Meter | None = None) -> Meter | None:
    """The prices that hold on a day, and the budgets; None where there are neither.

    Raises:
        PriceError: a price cannot be used.
        ConfigError: a budget cannot be held against a price, whose currency has no rate.
    """
    tariffs_now = priced(config, found, on)
    held = budgets(config)
    if not held and not any(tariffs_now.values()):
        return None
    rates = rates_on(currency_rates(config), on)
    currencies = {tariff.price.currency for tiers in tariffs_now.values() for tariff in tiers.values()}
    for budget in held:
        for currency in sorted(currencies - {budget.currency}):
            if (currency, budget.currency) not in rates:
                raise ConfigError(
                    "config_invalid",
                    f"budget {budget.name}: a deployment is priced in {currency}, "
                    f"and no rate leads to {budget.currency}",
                    f'add [[prices.rates]] with from = "{currency}", to = "{budget.currency}", a rate and a day',
                )
    return Meter(tariffs_now, held, rates, unpriced=config.prices.unpriced, before=before)


def day_of(at_ms: int) -> date:
    """The day of an instant in UTC: prices and rates hold from one to another."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()


def _budget(setting: BudgetSetting) -> Budget:
    return Budget(
        name=setting.name,
        limit=setting.usd_per_month,
        currency="USD",
        tenant=setting.tenant,
        key=setting.key,
        agent=setting.agent,
        session=setting.session,
        model=setting.model,
        mode=setting.mode,
    )
