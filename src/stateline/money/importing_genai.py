"""Rows from the data of ``genai-prices`` (MIT): its ``data.json``, a list of providers.

Its prices are of a million tokens, some with the day on which they began. Its models are found by patterns; rows have
exact names alone: a model's id, and the names that a pattern spells out, each where no earlier model takes it. What
Azure charges for other tiers and other places it does not know, and answers as if they were all alike; so rows of
Azure are those of global deployments, in the tiers that are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple, cast

from stateline.core.billing import DEFAULT_TIER, ZERO, Price, Rates, plain, tier_of
from stateline.money.book import PriceError
from stateline.money.importing import Catalogue, Imported, Remark, amount_of, sorted_rows, table_of, unusable
from stateline.money.tariffs import GEMINI_API, GLOBAL

_REGIONS: Mapping[str, str | None] = {
    "openai": None,
    "anthropic": None,
    "aws": None,
    "azure": GLOBAL,
    "google": GEMINI_API,
}
_PARTS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached",
    "cache_write_mtok": "cache_write",
    "output_reasoning_mtok": "reasoning",
}
_PER_CALL = "requests_kcount"
_REGIONAL = "regional."
_PROFILES = ("", "us.", "eu.", "apac.", "jp.", "au.", "us-gov.")
"""What ``regional.`` stands for in a model's id: it is no name of Bedrock's."""


class _Span(NamedTuple):
    """A tier's prices from a day on, until the next span of the tier."""

    tier: str
    since: date | None
    until: date | None
    prices: dict[str, Any]


class _Unsaid(Exception):
    """A model that rows cannot express, in words."""


def from_genai_prices(catalogue: object, origin: Catalogue) -> Imported:
    """The rows of our clouds.

    Args:
        catalogue: the file's JSON, its fractions as Decimal.

    Raises:
        PriceError: it is no such catalogue.
    """
    providers = [table_of(each) for each in _list(catalogue)]
    ours = [each for each in providers if each is not None and str(each.get("id")) in _REGIONS]
    if not ours or not all(isinstance(each.get("models"), list) for each in ours):
        raise PriceError("not the data of genai-prices: no provider of ours with a list of models")
    prices: list[Price] = []
    skipped: list[Remark] = []
    noted: list[Remark] = []
    for provider in ours:
        cloud = str(provider["id"])
        url = next((str(each) for each in _list(provider.get("pricing_urls"))), "")
        models = [each for each in map(table_of, _list(provider["models"])) if each is not None]
        for model in models:
            name = f"{cloud}/{model.get('id')}"
            try:
                rows = list(_rows(cloud, model, models, origin.source(url), skipped))
            except _Unsaid as error:
                skipped.append(Remark(name, str(error)))
                continue
            for row in rows:
                why = unusable(row)
                if why is None:
                    prices.append(row)
                else:
                    skipped.append(Remark(name, why))
            noted.extend(_notes(name, model))
    return Imported(sorted_rows(prices), sorted(set(skipped)), sorted(set(noted)))


def _rows(
    cloud: str, model: Mapping[str, Any], models: Sequence[Mapping[str, Any]], source: str, skipped: list[Remark]
) -> Iterator[Price]:
    names = _names(model, models)
    if not names:
        raise _Unsaid("it has a pattern and no exact name")
    for span in _spans(cloud, model, skipped):
        rates = _rates(span.prices)
        fee = amount_of(span.prices.get(_PER_CALL)) or ZERO
        for name in names:
            yield Price(
                cloud=cloud,
                model=name,
                region=_REGIONS[cloud],
                service_tier=span.tier,
                currency="USD",
                rates=rates,
                per_call=plain(fee.scaleb(-3)),
                since=span.since,
                until=span.until,
                source=source,
            )


# -- names ---------------------------------------------------------------------------------------


def _names(model: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> list[str]:
    own = str(model.get("id"))
    if own.startswith(_REGIONAL):
        bare = own.removeprefix(_REGIONAL)
        candidates = [profile + bare for profile in _PROFILES]
    else:
        candidates = [own]
    candidates += _spelt(model.get("match"))
    return [
        name
        for name in dict.fromkeys(candidates)
        if next((each for each in models if _matches(each, name)), None) is model
    ]


def _spelt(clause: Any) -> list[str]:
    """The names that a pattern spells out."""
    table = table_of(clause) or {}
    if "equals" in table:
        return [str(table["equals"])]
    return [name for each in _list(table.get("or")) for name in _spelt(each)]


def _matches(model: Mapping[str, Any], name: str) -> bool:
    return _holds(model.get("match"), name.lower())


def _holds(clause: Any, name: str) -> bool:
    table = table_of(clause) or {}
    for kind, value in table.items():
        match kind:
            case "or":
                return any(_holds(each, name) for each in _list(value))
            case "and":
                return all(_holds(each, name) for each in _list(value))
            case "equals":
                return name == str(value).lower()
            case "starts_with":
                return name.startswith(str(value).lower())
            case "ends_with":
                return name.endswith(str(value).lower())
            case "contains":
                return str(value).lower() in name
            case "regex":
                return _expression(str(value)).search(name) is not None
            case _:
                return False
    return False


# Letters, digits, classes and groups, of which nothing is repeated without end but any character, so that no expression
# of somebody else's runs for long: "^gpt-6-sol-\\d{4}-\\d{2}-\\d{2}$".
_HARMLESS = re.compile(
    r"(?:[\w/@= -]|\\[.\[\]/d-]|\[-?@?(?:\w(?:-\w)?)*\]|[\^$|.]|\.\*|\{\d\}|\((?:\?[!:=])?|\)(?!\{))*"
)
_EXPRESSION_CHARS_MAX = 200
_ANYTHING_MAX = 2
"""How often an expression may say ``.*``: each multiplies its time by the length of a name."""


def _expression(text: str) -> re.Pattern[str]:
    harmless = len(text) <= _EXPRESSION_CHARS_MAX and text.count(".*") <= _ANYTHING_MAX
    if not harmless or not _HARMLESS.fullmatch(text):
        raise _Unsaid("an expression stands before its names, and is not evaluated")
    try:
        return re.compile(text)
    except re.error:
        raise _Unsaid("an expression stands before its names, and is none") from None


# -- prices by tier and day ----------------------------------------------------------------------


def _spans(cloud: str, model: Mapping[str, Any], skipped: list[Remark]) -> Iterator[_Span]:
    """The tiers of a model, each from day to day: a variant replaces single prices of what holds on its days."""
    base = _dated(model)
    variants: dict[str, list[tuple[date | None, dict[str, Any]]]] = {DEFAULT_TIER: []}
    for each in map(table_of, _list(model.get("price_variants"))):
        tier = None if each is None else _tier(table_of(each.get("when")) or {})
        if each is None or tier is None:
            skipped.append(Remark(f"{cloud}/{model.get('id')}", f"prices of {(each or {}).get('when')} are of no tier"))
            continue
        variants.setdefault(tier, []).append((_since(each), table_of(each.get("prices")) or {}))
    for tier, overrides in variants.items():
        days = {since for since, _ in base} | {since for since, _ in overrides}
        starts = sorted(day for day in days if day is not None)
        if tier == DEFAULT_TIER or any(since is None for since, _ in overrides):
            begins: list[date | None] = [None, *starts]
        else:
            first = min(since for since, _ in overrides if since is not None)
            begins = [day for day in starts if day >= first]
        spans: list[_Span] = []
        for index, since in enumerate(begins):
            until = begins[index + 1] if index + 1 < len(begins) else None
            prices = _on(since, base, overrides)
            if spans and spans[-1].prices == prices:
                spans[-1] = spans[-1]._replace(until=until)
            else:
                spans.append(_Span(tier, since, until, prices))
        yield from spans


def _on(
    day: date | None,
    base: Sequence[tuple[date | None, dict[str, Any]]],
    overrides: Sequence[tuple[date | None, dict[str, Any]]],
) -> dict[str, Any]:
    """What holds on a day (None: before any). Of the base the last that has begun, of overrides the first."""

    def begun(since: date | None) -> bool:
        return since is None or (day is not None and since <= day)

    prices = dict(next((found for since, found in reversed(base) if begun(since)), base[0][1]))
    for since, found in reversed(overrides):
        if begun(since):
            prices |= {key: value for key, value in found.items() if value is not None}
    return prices


def _dated(model: Mapping[str, Any]) -> list[tuple[date | None, dict[str, Any]]]:
    prices = model.get("prices")
    table = table_of(prices)
    if table is not None:
        return [(None, table)]
    found = [(_since(each), table_of(each.get("prices")) or {}) for each in map(table_of, _list(prices)) if each]
    if not found:
        raise _Unsaid("it has no prices")
    return found


def _since(entry: Mapping[str, Any]) -> date | None:
    constraint = table_of(entry.get("constraint"))
    if constraint is None:
        return None
    try:
        return date.fromisoformat(str(constraint["start_date"]))
    except (KeyError, ValueError):
        raise _Unsaid("its prices are of an hour of the day") from None


def _tier(when: Mapping[str, Any]) -> str | None:
    match list(when.items()):
        case [("processing", "batch")]:
            return "batch"
        case [("service_tier", tier)]:
            return tier_of(str(tier))
        case _:
            return None


def _rates(prices: Mapping[str, Any]) -> tuple[Rates, ...]:
    parts = {part: _banded(prices[key]) for key, part in _PARTS.items() if prices.get(key) is not None}
    if "input" not in parts:
        raise _Unsaid("it has no price of tokens")
    out: list[Rates] = []
    for above in sorted({start for bands in parts.values() for start, _ in bands}):
        found = {
            part: next(amount for start, amount in reversed(bands) if start <= above) for part, bands in parts.items()
        }
        out.append(Rates(above=above, **found))
    return tuple(out)


def _banded(value: Any) -> list[tuple[int, Decimal]]:
    """A price by the input tokens above which it holds; the first is 0."""
    table = table_of(value)
    base = amount_of(value if table is None else table.get("base"))
    bands = [(0, base)]
    for each in map(table_of, _list((table or {}).get("tiers"))):
        start = (each or {}).get("start")
        bands.append((start if isinstance(start, int) else -1, amount_of((each or {}).get("price"))))
    out = [(start, amount) for start, amount in sorted(bands, key=lambda each: each[0]) if amount is not None]
    if len(out) < len(bands) or out[0][0] < 0:
        raise _Unsaid("a price that is no amount")
    return out


def _notes(name: str, model: Mapping[str, Any]) -> Iterator[Remark]:
    for _, prices in _dated(model):
        for key in prices:
            if key not in _PARTS and key != _PER_CALL:
                yield Remark(name, f"{key} is left out")


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
