"""What the configuration says of money, as the values that `money` works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from stateline.config import Budget as BudgetSetting
from stateline.config import Config, ConfigError, Deployment
from stateline.core.billing import ONE, Price, Rates, Tariff, tier_of
from stateline.engine.meter import Meter
from stateline.money.book import PriceBook
from stateline.money.budgets import Budget, Rate, rates_on
from stateline.money.effective import Draw, Effective, Values, ValuesError, decode, effective
from stateline.money.rates import RateLimit
from stateline.money.tariffs import names_of, tariffs
from stateline.ports import Deployment as Deployed
from stateline.price_files import load_folder, shipped

if TYPE_CHECKING:
    from stateline.contracts import Contracts

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


def rate_limits(config: Config) -> tuple[RateLimit, ...]:
    """The configured rate limits, in their order."""
    return tuple(
        RateLimit(
            name=each.name,
            tenant=each.tenant,
            key=each.key,
            model=each.model,
            requests_per_minute=each.requests_per_minute,
            tokens_per_minute=each.tokens_per_minute,
            max_concurrency=each.max_concurrency,
        )
        for each in config.rate_limits
    )


def currency_rates(config: Config) -> tuple[Rate, ...]:
    """The configured rates of exchange; `money.budgets.rates_on` says which hold on a day."""
    return tuple(Rate(each.have, each.want, each.rate, each.on) for each in config.prices.rates)


def meter_of(
    config: Config,
    found: Sequence[Deployed],
    at_ms: int,
    contracts: Contracts | None = None,
    before: Meter | None = None,
) -> Meter | None:
    """The prices, budgets and rate limits that hold at an instant (Unix time); None where there are none.

    Args:
        contracts: whose commitments the use of deployments may draw down.

    Raises:
        PriceError: a price cannot be used.
        ValuesError: the file of marginal values cannot.
        ConfigError: a budget cannot be held against a price, whose currency has no rate.
    """
    on = day_of(at_ms)
    tariffs_now = priced(config, found, on)
    held, limited = budgets(config), rate_limits(config)
    if not held and not limited and not any(tariffs_now.values()):
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
    ranks: dict[str, Effective] = {}
    if config.prices.placement == "price":
        now = datetime.fromtimestamp(at_ms / 1000, UTC)
        blended = {
            each.name: price
            for each in found
            if (tariff := tariffs_now[each.name].get(tier_of(each.service_tier))) is not None
            and (price := _blended(tariff.price, rates)) is not None
        }
        ranks = ranks_of(found, blended, _values(config, now), now.date(), contracts)
    return Meter(
        tariffs_now, held, rates, unpriced=config.prices.unpriced, ranks=ranks, rate_limits=limited, before=before
    )


def ranks_of(
    found: Sequence[Deployed],
    prices: Mapping[str, Decimal],
    values: Values | None,
    day: date,
    contracts: Contracts | None,
) -> dict[str, Effective]:
    """What use costs at each deployment in effect; one without a price has no rank.

    Args:
        prices: list prices by deployment, all of one unit.
        values: of commitments at the margin; None: none are fresh, so that list prices decide.
        contracts: whose commitments the use may draw down.
    """
    # Who places by weight need not wait for these at a start.
    from stateline.contracts.drawdown import terms_of
    from stateline.contracts.eligible import place_columns

    terms = [] if contracts is None or values is None else terms_of(contracts)[0]
    out: dict[str, Effective] = {}
    for each in found:
        if each.name not in prices:
            continue
        columns = place_columns(
            name=each.name, cloud=each.cloud, host=each.host, region=each.region, account=each.billing_account
        )
        draws = [
            Draw(one.id, one.counted(columns), value, one.paid)
            for one in terms
            if values is not None and (value := values.of(one.id, one.accrues_on(day))) is not None
        ]
        out[each.name] = effective(prices[each.name], draws)
    return out


def _blended(price: Price, rates: Mapping[tuple[str, str], Decimal]) -> Decimal | None:
    """A million tokens of which one in four is output, in US dollars; None where no rate leads to them."""
    rate = ONE if price.currency == "USD" else rates.get((price.currency, "USD"))
    first = price.rates[0]
    return None if rate is None else (3 * first.input + first.output) / 4 * rate


def _values(config: Config, now: datetime) -> Values | None:
    """The marginal values, where there are fresh ones."""
    if config.prices.values is None:
        return None
    try:
        values = decode(Path(config.prices.values).read_bytes())
    except OSError as error:
        raise ValuesError(f"prices.values: cannot read {config.prices.values}: {error.strerror or error}") from None
    return values if values.fresh(now) else None


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
