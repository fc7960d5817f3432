"""What the importers of public catalogues share: what they bring, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple, cast

from stateline.core.billing import ZERO, Price, Rates, plain
from stateline.money.book import PriceError, check


class Remark(NamedTuple):
    """What an importer says of one entry of a catalogue, and why."""

    name: str
    why: str


class Imported(NamedTuple):
    """What came of a catalogue.

    Attributes:
        prices: a book of them has no overlaps.
        skipped: entries, or tiers of entries, that cannot be expressed exactly.
        noted: entries that are brought, and of which something is not.
    """

    prices: list[Price]
    skipped: list[Remark]
    noted: list[Remark]


class Catalogue(NamedTuple):
    """Where a catalogue comes from.

    Attributes:
        label: what it is, such as ``LiteLLM 1.109.1``.
        read: the day on which it was.
    """

    label: str
    read: date

    def source(self, url: str = "") -> str:
        """For rows of it, with the page that it names itself."""
        return f"{self.label}, read {self.read}{f': {url}' if url else ''}"


def amount_of(value: Any) -> Decimal | None:
    """A number of a catalogue; None where it is none. Floats would not be what was written, so they are none."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        amount = Decimal(value)
    except ArithmeticError:
        return None
    return plain(amount) if amount.is_finite() else None


def table_of(value: Any) -> dict[str, Any] | None:
    """A JSON object, or None."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def unusable(price: Price) -> str | None:
    """Why a row cannot be used, in words; None where it can."""
    if not any(each.input or each.output for each in price.rates) and not price.per_call:
        return "a price of zero, which may mean that none is known"
    try:
        check(price)
    except PriceError as error:
        return error.message
    return None


def scaled(rates: Rates, factor: Decimal) -> Rates:
    """Rates that are so many times as high."""

    def times(amount: Decimal | None) -> Decimal | None:
        return None if amount is None else plain(amount * factor)

    return Rates(
        input=times(rates.input) or ZERO,
        output=times(rates.output) or ZERO,
        cached=times(rates.cached),
        cache_write=times(rates.cache_write),
        reasoning=times(rates.reasoning),
        above=rates.above,
    )


def sorted_rows(prices: Iterable[Price]) -> list[Price]:
    """In an order that does not depend on the catalogue's."""
    return sorted(
        prices,
        key=lambda row: (row.cloud, row.model, row.region or "", row.service_tier, row.since or date.min),
    )
