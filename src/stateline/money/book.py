"""The price book: rows by cloud and model, and which of them holds for a call on a day.

A call is *unpriced* where no row is its own: another tier's price, or that of a day that is over, is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import msgspec

from stateline.core.billing import Price, Tariff
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
        self._rows: dict[tuple[str, str, str, str], list[Price]] = {}
        for row in rows:
            check(row)
            kept = self._rows.setdefault((row.cloud, row.model, row.region or "", row.service_tier), [])
            for other in kept:
                if _meet(other, row):
                    raise PriceError(f"{_words(row)} has two prices on one day: {_words(other)}", code="price_overlap")
            kept.append(row)

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def find(
        self, cloud: str, models: Iterable[str], *, region: str | None, service_tier: str, on: date
    ) -> Price | None:
        """The row of a call on a day: of the first of ``models`` (names of one model) that has one.

        A row that names the region goes before one that names none.
        """
        for model in models:
            for where in (region, None) if region else (None,):
                for row in self._rows.get((cloud, model, where or "", service_tier), ()):
                    if (row.since is None or row.since <= on) and (row.until is None or on < row.until):
                        return row
        return None


def check(price: Price) -> None:
    """Raises PriceError where a row cannot be used by itself."""
    if not price.currency or len(price.currency) != 3 or not price.currency.isupper():
        raise PriceError(f"{_words(price)} has no currency, such as USD")
    if not price.rates or price.rates[0].above:
        raise PriceError(f"{_words(price)} has no rates for calls with few input tokens")
    bands = [each.above for each in price.rates]
    if bands != sorted(set(bands)):
        raise PriceError(f"the bands of {_words(price)} are out of order")
    for each in price.rates:
        amounts = (each.input, each.output, each.cached, each.cache_write, each.reasoning)
        if any(amount is not None and not (amount.is_finite() and amount >= 0) for amount in amounts):
            raise PriceError(f"{_words(price)} has a price that is no amount")
    if not (price.per_call.is_finite() and price.per_call >= 0):
        raise PriceError(f"{_words(price)} has a price of a call that is no amount")
    if price.since is not None and price.until is not None and price.until <= price.since:
        raise PriceError(f"{_words(price)} ends before it begins")


def tariff_of(tariff: Tariff) -> Tariff:
    """The tariff with its id: a digest of all that it says, so that equal ones are one."""
    bare = msgspec.structs.replace(tariff, id="")
    return msgspec.structs.replace(bare, id="trf_" + digest(msgspec.json.encode(bare))[:20])


def _meet(one: Price, other: Price) -> bool:
    starts = one.until is None or other.since is None or other.since < one.until
    return starts and (other.until is None or one.since is None or one.since < other.until)


def _words(price: Price) -> str:
    where = f" in {price.region}" if price.region else ""
    tier = "" if price.service_tier == "default" else f", tier {price.service_tier}"
    since = "" if price.since is None else f", from {price.since}"
    until = "" if price.until is None else f", until {price.until}"
    source = f" ({price.source})" if price.source else ""
    return f"{price.model} on {price.cloud}{where}{tier}{since}{until}{source}"
