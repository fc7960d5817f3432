"""How two sets of prices differ, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from typing import Literal, NamedTuple

from stateline.core.billing import Price, Rates
from stateline.money.book import holds
from stateline.money.meter import rates_for

Key = tuple[str, str, str, str]
"""Cloud, model, region (empty: any) and tier."""


class Amount(NamedTuple):
    """One amount that differs: ``above`` so many input tokens, what for, in the first and in the second."""

    what: str
    above: int
    first: Decimal
    second: Decimal


class Difference(NamedTuple):
    """A row that the two do not have alike on a day.

    Attributes:
        found: ``differ``, or which of the two alone has a row.
        sources: of the rows, in their order.
    """

    cloud: str
    model: str
    region: str
    service_tier: str
    found: Literal["differ", "first", "second"]
    amounts: tuple[Amount, ...]
    sources: tuple[str, ...]


def differences(first: Iterable[Price], second: Iterable[Price], on: date) -> list[Difference]:
    """Where they differ on a day; what a row leaves out costs what the whole does, and is no difference."""
    ones, others = by_key(first, on), by_key(second, on)
    out = [Difference(*key, "first", (), (ones[key].source,)) for key in ones.keys() - others.keys()]
    out += [Difference(*key, "second", (), (others[key].source,)) for key in others.keys() - ones.keys()]
    for key in ones.keys() & others.keys():
        one, other = ones[key], others[key]
        amounts = tuple(_amounts(one, other))
        if amounts or one.currency != other.currency:
            out.append(Difference(*key, "differ", amounts, (one.source, other.source)))
    return sorted(out, key=lambda each: each[:4])


def by_key(prices: Iterable[Price], on: date) -> dict[Key, Price]:
    """The rows that hold on a day."""
    return {(row.cloud, row.model, row.region or "", row.service_tier): row for row in prices if holds(row, on)}


def _amounts(one: Price, other: Price) -> Iterator[Amount]:
    for above in sorted({each.above for price in (one, other) for each in price.rates}):
        first, second = (_parts(rates_for(price, above + 1)) for price in (one, other))
        for what, amount in first.items():
            if amount != second[what]:
                yield Amount(what, above, amount, second[what])
    if one.per_call != other.per_call:
        yield Amount("call", 0, one.per_call, other.per_call)


def _parts(rates: Rates) -> dict[str, Decimal]:
    return {
        "input": rates.input,
        "cached": rates.input if rates.cached is None else rates.cached,
        "cache_write": rates.input if rates.cache_write is None else rates.cache_write,
        "output": rates.output,
        "reasoning": rates.output if rates.reasoning is None else rates.reasoning,
    }
