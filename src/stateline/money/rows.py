"""Prices as files have them, and back: plain tables in, rows out.

A file is a table with ``prices``, a list of tables; what stands beside it (``source``, ``currency``) holds for each row
that does not say otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, cast

import msgspec

from stateline.core.billing import DEFAULT_TIER, ZERO, Price, Rates, tier_of
from stateline.money.book import PriceError, check

_RATES = {
    "input_per_mtok": "input",
    "output_per_mtok": "output",
    "cached_input_per_mtok": "cached",
    "cache_write_per_mtok": "cache_write",
    "reasoning_per_mtok": "reasoning",
}


class Band(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prices of calls with more input tokens than ``above``."""

    above: int
    input_per_mtok: Decimal
    output_per_mtok: Decimal = ZERO
    cached_input_per_mtok: Decimal | None = None
    cache_write_per_mtok: Decimal | None = None
    reasoning_per_mtok: Decimal | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A price as it is written; ``long_context`` are its bands."""

    cloud: str
    model: str
    region: str | None = None
    service_tier: str = DEFAULT_TIER
    currency: str
    input_per_mtok: Decimal
    output_per_mtok: Decimal = ZERO
    cached_input_per_mtok: Decimal | None = None
    cache_write_per_mtok: Decimal | None = None
    reasoning_per_mtok: Decimal | None = None
    long_context: tuple[Band, ...] = ()
    per_call: Decimal = ZERO
    since: date | None = None
    until: date | None = None
    source: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file of prices."""

    prices: list[Row]
    source: str = ""
    currency: str = ""


def prices_of(document: object, file: str) -> list[Price]:
    """The rows of a file.

    Args:
        document: what a TOML or JSON parser made of it, its fractions as Decimal.
        file: its name, for errors, and as the source of rows that name none.

    Raises:
        PriceError: a key that there is not, a value that it cannot have, a price without a currency.
    """
    if not isinstance(document, dict):
        raise PriceError(f"{file}: not a file of prices: it needs a list of tables, prices")
    document = cast("dict[str, Any]", document)
    _check_keys(document, Document, file, "")
    rows: Any = document.get("prices")
    if not isinstance(rows, list):
        raise PriceError(f"{file}: not a file of prices: it needs a list of tables, prices")
    common = {key: document[key] for key in ("source", "currency") if key in document}
    out: list[Price] = []
    for index, entry in enumerate(cast("list[Any]", rows)):
        at = f"prices[{index}]"
        if not isinstance(entry, dict):
            raise PriceError(f"{file}: {at}: not a table")
        row = {"source": file, **common, **cast("dict[str, Any]", entry)}
        _check_keys(row, Row, file, f"{at}.")
        bands: Any = row.get("long_context")
        for number, band in enumerate(cast("list[Any]", bands) if isinstance(bands, list) else []):
            if isinstance(band, dict):
                _check_keys(cast("dict[str, Any]", band), Band, file, f"{at}.long_context[{number}].")
        out.append(_price(row, file, at))
    return out


def document_of(prices: Iterable[Price]) -> Document:
    """Rows as a file has them."""
    return Document(prices=[_row(each) for each in prices])


def _price(entry: dict[str, Any], file: str, at: str) -> Price:
    if "currency" not in entry:
        raise PriceError(f'{file}: {at}: a price has a currency, such as currency = "USD"')
    try:
        row = msgspec.convert(entry, Row)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        key = path.removesuffix("`")
        raise PriceError(f"{file}: {at}{key}: {what[:1].lower()}{what[1:]}") from None
    first = Rates(**{field: getattr(row, key) for key, field in _RATES.items()})
    further = [
        Rates(above=band.above, **{field: getattr(band, key) for key, field in _RATES.items()})
        for band in row.long_context
    ]
    price = Price(
        cloud=row.cloud,
        model=row.model,
        region=row.region,
        service_tier=tier_of(row.service_tier),
        currency=row.currency,
        rates=(first, *further),
        per_call=row.per_call,
        since=row.since,
        until=row.until,
        source=row.source,
    )
    try:
        check(price)
    except PriceError as error:
        raise PriceError(f"{file}: {at}: {error.message}") from None
    return price


def _row(price: Price) -> Row:
    first, *further = price.rates
    return Row(
        cloud=price.cloud,
        model=price.model,
        region=price.region,
        service_tier=price.service_tier,
        currency=price.currency,
        long_context=tuple(
            Band(above=each.above, **{key: _amount(each, field) for key, field in _RATES.items()}) for each in further
        ),
        per_call=price.per_call or ZERO,  # The default itself is left out, and not what equals it.
        since=price.since,
        until=price.until,
        source=price.source,
        **{key: _amount(first, field) for key, field in _RATES.items()},
    )


def _amount(rates: Rates, field: str) -> Any:
    amount: Decimal | None = getattr(rates, field)
    return (amount or ZERO) if field == "output" else amount


def _check_keys(table: Mapping[str, Any], struct: type[msgspec.Struct], file: str, at: str) -> None:
    known = struct.__struct_fields__
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
            raise PriceError(f"{file}: {at}{key}: unknown key `{key}`; {hint}")
