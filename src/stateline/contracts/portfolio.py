"""What is to be planned, as it is written: workloads, the deployments that could take them, quarters, prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Literal, NamedTuple

import msgspec

from stateline.contracts.amounts import CURRENCIES, decimal
from stateline.contracts.evaluate import STRICT
from stateline.contracts.intervals import months_on
from stateline.contracts.load import Document, convert
from stateline.contracts.quotes import plain
from stateline.core.limits import PLAN_PLACEMENTS_MAX

MTOK = "mtok"
"""A million tokens, the unit where none is named."""
PerQuarter = str | int | tuple[str | int, ...]
"""A decimal that holds in every quarter, or one for each."""

_RATE = re.compile(r"([A-Z]{3})/([A-Z]{3})")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown keys are errors: a misspelt one would silently not hold."""


class Product(_Strict, frozen=True, kw_only=True):
    """What ship-first clauses ask of; the facts of ``[[products]]`` in the configuration."""

    name: str
    shipped_on: tuple[str, ...] = ()
    declined_by: tuple[str, ...] = ()


class Workload(_Strict, frozen=True, kw_only=True):
    """Work to be placed.

    Attributes:
        kind: a stateful one goes to one deployment, for all quarters; others may be split.
        demand: in ``unit``, in each quarter.
        unit: what deployments sell: any name; those of capacity clauses (tokens/min, GW) are bounded by them.
        model: the model that it needs; None: any.
        accelerators: of which it takes any; none: it does not care.
        interface: as clauses ask for it; None: not known to them.
    """

    name: str
    kind: Literal["stateless", "stateful", "training", "batch"]
    demand: PerQuarter
    unit: str = MTOK
    model: str | None = None
    accelerators: tuple[str, ...] = ()
    interface: str | None = None
    tenant: str = "default"


class Site(_Strict, frozen=True, kw_only=True):
    """A deployment that could take work. The keys are those of ``[[deployments]]``.

    Attributes:
        price: of one ``unit``, in the portfolio's currency, by list.
        capacity: how many units it takes in a quarter; None: any.
        focus: further FOCUS columns of its use, where a commitment's scope asks of them.
    """

    name: str
    model: str
    cloud: str
    price: PerQuarter
    unit: str = MTOK
    capacity: PerQuarter | None = None
    host: str | None = None
    vendor: str | None = None
    upstream_model: str = ""
    region: str | None = None
    data_zone: str | None = None
    accelerator: str | None = None
    service_tier: str | None = None
    channel: str = "direct"
    billing_account: str | None = None
    product: Product | None = None
    focus: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class Portfolio(_Strict, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        since: the first day of the first quarter.
        quarters: how many.
        payer: whose commitments count, by the name that clauses give it; None: all of them.
        drawn: commitment -> what its running interval has drawn before ``since``, in ``currency``. Where it is not
            given, of an interval that has begun only the part that is planned counts, of its promise and its use.
        rates: `EUR/USD`: what one euro is in dollars.
    """

    since: date
    quarters: int
    workloads: tuple[Workload, ...]
    deployments: tuple[Site, ...]
    currency: str = "USD"
    posture: str = STRICT
    payer: str | None = None
    drawn: dict[str, str | int] = msgspec.field(default_factory=dict[str, str | int])
    rates: dict[str, str | int] = msgspec.field(default_factory=dict[str, str | int])


class Task(NamedTuple):
    """The portfolio in numbers.

    Attributes:
        days: the first days of the quarters, and the first day after them.
        demand: workload -> quarter -> units.
        price, capacity: deployment -> quarter.
        fits: workload -> the deployments that could take it, contracts aside.
    """

    portfolio: Portfolio
    days: tuple[date, ...]
    demand: tuple[tuple[Fraction, ...], ...]
    price: tuple[tuple[Fraction, ...], ...]
    capacity: tuple[tuple[Fraction | None, ...], ...]
    fits: tuple[tuple[int, ...], ...]
    drawn: Mapping[str, Fraction]
    rates: Mapping[tuple[str, str], Fraction]


def read(document: Document) -> Task:
    """A portfolio that can be planned.

    Raises:
        ContractError: with the place: another shape, a name written twice, an amount that is none, more than
            PLAN_PLACEMENTS_MAX placements.
    """
    portfolio = convert(document, document.value, Portfolio)
    quarters = portfolio.quarters
    size = quarters * len(portfolio.workloads) * len(portfolio.deployments)
    if quarters < 1 or not size:
        document.refuse("quarters", "a plan has a quarter, a workload and a deployment at least")
    if size > PLAN_PLACEMENTS_MAX:
        words = f"{size} placements (workloads, deployments, quarters), and {PLAN_PLACEMENTS_MAX} are the most"
        document.refuse("quarters", words)
    if portfolio.currency not in CURRENCIES:
        document.refuse("currency", f'"{portfolio.currency}" is no ISO 4217 currency')
    _once(document, "workloads", [one.name for one in portfolio.workloads])
    _once(document, "deployments", [one.name for one in portfolio.deployments])
    places = range(len(portfolio.deployments))
    return Task(
        portfolio=portfolio,
        days=tuple(months_on(portfolio.since, 3 * number) for number in range(quarters + 1)),
        demand=tuple(
            _each(document, f"workloads[{index}].demand", one.demand, quarters)
            for index, one in enumerate(portfolio.workloads)
        ),
        price=tuple(
            _each(document, f"deployments[{index}].price", one.price, quarters)
            for index, one in enumerate(portfolio.deployments)
        ),
        capacity=tuple(
            (None,) * quarters
            if one.capacity is None
            else _each(document, f"deployments[{index}].capacity", one.capacity, quarters)
            for index, one in enumerate(portfolio.deployments)
        ),
        fits=tuple(
            tuple(place for place in places if _fits(one, portfolio.deployments[place])) for one in portfolio.workloads
        ),
        drawn={name: _amount(document, f"drawn.{name}", value) for name, value in portfolio.drawn.items()},
        rates=dict(_rate(document, name, value) for name, value in portfolio.rates.items()),
    )


def _fits(workload: Workload, site: Site) -> bool:
    return (
        workload.unit == site.unit
        and workload.model in (None, site.model)
        and (not workload.accelerators or site.accelerator in workload.accelerators)
    )


def _once(document: Document, key: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        if names.index(name) < index:
            document.refuse(f"{key}[{index}].name", f'"{name}" is written twice')


def _each(document: Document, key: str, value: PerQuarter, quarters: int) -> tuple[Fraction, ...]:
    if not isinstance(value, tuple):
        return (_amount(document, key, value),) * quarters
    if len(value) != quarters:
        document.refuse(key, f"{len(value)} amounts for {quarters} quarters; write one for each, or one for all")
    return tuple(_amount(document, f"{key}[{index}]", each) for index, each in enumerate(value))


def _amount(document: Document, key: str, value: str | int) -> Fraction:
    try:
        return Fraction(decimal(value))
    except ValueError as error:
        document.refuse(key, str(error))


def _rate(document: Document, name: str, value: str | int) -> tuple[tuple[str, str], Fraction]:
    found = _RATE.fullmatch(name)
    if found is None:
        document.refuse(f"rates.{name}", "write the currencies as EUR/USD: what one euro is in dollars")
    return (found[1], found[2]), _amount(document, f"rates.{name}", value)


def rounded(value: Fraction, places: int = 6) -> str:
    """A fraction as a decimal, for people and files."""
    whole = Decimal(round(value * 10**places)).scaleb(-places)
    return plain(whole)
