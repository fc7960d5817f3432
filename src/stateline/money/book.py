"""The price book: rows by cloud and model, and which of them holds for a call on a day.

A call is *unpriced* where no row is its own: another tier's price, or that of a day that is over, is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, cast

import msgspec

from stateline.core.billing import Price, Tariff, is_amount, plain
from stateline.core.errors import StatelineError
from stateline.core.ids import digest


class PriceError(StatelineError):
    """A price that cannot be used. Nothing of its book is."""

    code = "price_invalid"
    status = 400


class PriceBook:
    """Prices to be looked up.

    Args:
        rows: checked here.

    Raises:
        PriceError: ``price_invalid``: a row without rates, with bands out of order or a span that ends before it
            begins; ``price_overlap``: two rows hold for one call on one day.
    """

    def __init__(self, rows: Iterable[Price] = ()) -> None:
        self._rows: dict[tuple[str, str], list[Price]] = {}
        for row in rows:
            check(row)
            kept = self._rows.setdefault((row.cloud, row.model), [])
            for other in kept:
                if other.region == row.region and other.service_tier == row.service_tier and _meet(other, row):
                    raise PriceError(f"{words(row)} has two prices on one day: {words(other)}", code="price_overlap")
            kept.append(row)

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def all(self) -> list[Price]:
        """Every row."""
        return [row for rows in self._rows.values() for row in rows]

    def rows(self, cloud: str, models: Iterable[str]) -> Sequence[Price]:
        """All rows of the first of ``models`` (names of one model) that has any.

        A later name is never asked for what the first lacks: it may be that of another version.
        """
        for model in models:
            found = self._rows.get((cloud, model))
            if found is not None:
                return found
        return ()

    def find(self, cloud: str, models: Iterable[str], *, places: Sequence[str], on: date) -> dict[str, Price]:
        """The prices of a model on a day by service tier.

        Args:
            places: where it runs, by the names that rows may have it under, from the narrowest to the widest. The
                narrowest that has a row decides: a tier that it lacks is not a wider place's. Rows that name no place
                are the widest.
        """
        order = {place: rank for rank, place in enumerate(places)}
        found: dict[int, dict[str, Price]] = {}
        for row in self.rows(cloud, models):
            rank = len(order) if row.region is None else order.get(row.region)
            if rank is not None and holds(row, on):
                found.setdefault(rank, {})[row.service_tier] = row
        return found[min(found)] if found else {}


def holds(price: Price, on: date) -> bool:
    """Whether a price is one of this day."""
    return (price.since is None or price.since <= on) and (price.until is None or on < price.until)


def check(price: Price) -> None:
    """Raises PriceError where a row cannot be used by itself."""
    if not price.currency or len(price.currency) != 3 or not price.currency.isupper():
        raise PriceError(f"{words(price)} has no currency, such as USD")
    if not price.rates or price.rates[0].above:
        raise PriceError(f"{words(price)} has no rates for calls with few input tokens")
    bands = [each.above for each in price.rates]
    if bands != sorted(set(bands)):
        raise PriceError(f"the bands of {words(price)} are out of order")
    for each in price.rates:
        amounts = (each.input, each.output, each.cached, each.cache_write, each.reasoning)
        if not all(amount is None or is_amount(amount) for amount in amounts):
            raise PriceError(f"{words(price)} has a price that is no amount")
    if not is_amount(price.per_call):
        raise PriceError(f"{words(price)} has a price of a call that is no amount")
    if price.since is not None and price.until is not None and price.until <= price.since:
        raise PriceError(f"{words(price)} ends before it begins")


def tariff_of(tariff: Tariff) -> Tariff:
    """The tariff with its id: a digest of all that it says, so that equal ones are one, however they are written."""
    bare = msgspec.structs.replace(tariff, id="")
    return msgspec.structs.replace(bare, id="trf_" + digest(msgspec.json.encode(_said(bare)))[:20])


def _said(value: Any) -> Any:
    """All that a value says: what it leaves out as well, and amounts written alike."""
    if isinstance(value, msgspec.Struct):
        return [_said(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, tuple):
        return [_said(each) for each in cast("tuple[Any, ...]", value)]
    return plain(value) if isinstance(value, Decimal) else value


def _meet(one: Price, other: Price) -> bool:
    starts = one.until is None or other.since is None or other.since < one.until
    return starts and (other.until is None or one.since is None or one.since < other.until)


def words(price: Price) -> str:
    """A row, for a person."""
    where = f" in {price.region}" if price.region else ""
    tier = "" if price.service_tier == "default" else f", tier {price.service_tier}"
    since = "" if price.since is None else f", from {price.since}"
    until = "" if price.until is None else f", until {price.until}"
    source = f" ({price.source})" if price.source else ""
    return f"{price.model} on {price.cloud}{where}{tier}{since}{until}{source}"
