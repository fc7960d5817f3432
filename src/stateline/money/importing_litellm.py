"""Rows from LiteLLM's ``model_prices_and_context_window.json`` (MIT).

Its prices are of single tokens; tiers and bands are parts of its keys
(``input_cost_per_token_above_272k_tokens_priority``), and places are parts of its names (``azure/eu/gpt-5.5``).
Where a tier lacks a price that the default tier has (of output, of cached input, of a band), that tier is left out:
LiteLLM would fall back to another's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from stateline.core.billing import DEFAULT_TIER, ZERO, Price, Rates, plain
from stateline.money.book import PriceError
from stateline.money.importing import Catalogue, Imported, Remark, amount_of, scaled, sorted_rows, table_of, unusable
from stateline.money.tariffs import GEMINI_API, GLOBAL, VERTEX

_MODES = frozenset({"chat", "responses", "completion", "embedding"})
_PARTS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
}
_KEY = re.compile(rf"({'|'.join(_PARTS)})(?:_above_(\d+)k_tokens)?(?:_(priority|flex|batches|ultrafast|decisions))?")
_BATCH = "batch"
_AWS_REGION = re.compile(r"[a-z]{2}(?:-gov|-iso[a-z]*)?-[a-z]+-\d")
_ZONES = ("us", "eu", "apac", "us-gov")
"""Azure's data zones and clouds, as names of LiteLLM's begin with them."""

_Parts = dict[str, Decimal]


class _Home(NamedTuple):
    """Whose an entry is: ``rank`` decides between two entries of one model at one place, the lower goes first."""

    cloud: str
    model: str
    region: str | None
    rank: int = 0


def from_litellm(catalogue: object, origin: Catalogue) -> Imported:
    """The rows of our clouds.

    Args:
        catalogue: the file's JSON, its fractions as Decimal.

    Raises:
        PriceError: it is no such catalogue.
    """
    entries = table_of(catalogue)
    known = [each for each in (entries or {}).values() if "litellm_provider" in (table_of(each) or {})]
    if entries is None or not known:
        raise PriceError("not LiteLLM's catalogue: no entry names a litellm_provider")
    skipped: list[Remark] = []
    noted: list[Remark] = []
    found: list[tuple[_Home, str, dict[str, Any]]] = []
    for name, value in entries.items():
        entry = table_of(value)
        home = None if entry is None else _home(name, entry)
        if entry is None or home is None:
            continue
        if isinstance(home, str):
            skipped.append(Remark(name, home))
        else:
            found.append((home, name, entry))
    prices: list[Price] = []
    taken: dict[tuple[str, str, str | None], str] = {}
    for home, name, entry in sorted(found, key=lambda each: (each[0].rank, each[1])):
        first = taken.setdefault((home.cloud, home.model, home.region), name)
        if first != name:
            skipped.append(Remark(name, f"the same model at the same place as {first}"))
            continue
        for row in _rows(home, name, entry, origin, skipped):
            why = unusable(row)
            if why is None:
                prices.append(row)
            else:
                skipped.append(Remark(name, why))
        noted.extend(_notes(name, entry))
    return Imported(sorted_rows(prices), sorted(skipped), sorted(noted))


def _home(name: str, entry: Mapping[str, Any]) -> _Home | str | None:
    """Whose an entry is; None where it is no cloud of ours, and words where it is and cannot be used."""
    provider = str(entry.get("litellm_provider"))
    split = _split(provider, name)
    if split is None:
        return None
    if str(entry.get("mode")) not in _MODES:
        return f"it is of the mode {entry.get('mode')}"
    if "model-router" in name or "model_router" in name:
        return "the price of the model that is chosen comes on top"
    return split


def _split(provider: str, name: str) -> _Home | str | None:
    *prefix, model = name.split("/")
    if provider in ("openai", "text-completion-openai"):
        return _Home("openai", model, None, rank=len(prefix))
    if provider == "anthropic":
        return _Home("anthropic", model, None, rank=len(prefix))
    if provider == "azure":
        return _azure(prefix[1:], model)
    if provider == "azure_ai":
        return _Home("azure", name.removeprefix("azure_ai/"), GLOBAL, rank=2)
    if provider in ("bedrock", "bedrock_converse", "bedrock_mantle"):
        return _bedrock(prefix, model)
    if provider == "gemini":
        return _Home("google", name.removeprefix("gemini/"), GEMINI_API, rank=0 if prefix else 1)
    if provider.startswith("vertex_ai"):
        return _Home("google", name.removeprefix("vertex_ai/"), VERTEX, rank=0 if prefix else 1)
    return None


def _azure(prefix: list[str], model: str) -> _Home | str:
    """A name without a place is that of a global deployment, as those that say ``global`` show."""
    if not prefix:
        return _Home("azure", model, GLOBAL)
    if prefix in (["global"], ["global-standard"]):
        return _Home("azure", model, GLOBAL, rank=1)
    if len(prefix) == 1 and prefix[0] in _ZONES:
        return _Home("azure", model, prefix[0])
    return f"it is not known what {'/'.join(prefix)} means"


def _bedrock(prefix: list[str], model: str) -> _Home | str:
    if not prefix:
        return _Home("aws", model, None)
    _, *place = prefix
    if not place:
        return _Home("aws", model, None, rank=1)
    if len(place) == 1 and _AWS_REGION.fullmatch(place[0]):
        return _Home("aws", model, place[0], rank=int(prefix[0] != "bedrock"))
    if place == ["invoke"]:
        return _Home("aws", model, None, rank=2)
    if place == ["claude_platform"]:
        return "it is sold by Claude Platform on AWS, which is no model of Bedrock's"
    return "it is capacity that is paid by the hour"


def _rows(
    home: _Home, name: str, entry: Mapping[str, Any], origin: Catalogue, skipped: list[Remark]
) -> Iterator[Price]:
    """The rows of an entry: one a tier, and once more for each place that has its own multiplier."""
    tiers = _tiers(entry)
    default = tiers.get(DEFAULT_TIER, {}).get(0, {})
    if "input" not in default or ("output" not in default and entry.get("mode") != "embedding"):
        skipped.append(Remark(name, "it has no price of tokens"))
        return
    for tier, bands in tiers.items():
        lacks = _lacks(bands, tiers[DEFAULT_TIER])
        if lacks:
            skipped.append(Remark(name, f"tier {tier}: {lacks}"))
            continue
        rates = tuple(_rates(above, parts) for above, parts in sorted(bands.items()))
        for region, factor in _places(home, entry):
            yield Price(
                cloud=home.cloud,
                model=home.model,
                region=region,
                service_tier=_BATCH if tier == "batches" else tier,
                currency="USD",
                rates=tuple(scaled(each, factor) for each in rates) if factor != 1 else rates,
                source=origin.source(str(entry.get("source") or "")),
            )


def _tiers(entry: Mapping[str, Any]) -> dict[str, dict[int, _Parts]]:
    """Prices of a million tokens by tier, band and part."""
    out: dict[str, dict[int, _Parts]] = {}
    for key, value in entry.items():
        match = _KEY.fullmatch(key)
        amount = amount_of(value) if match else None
        if match is not None and amount is not None:
            above = int(match[2] or 0) * 1000
            parts = out.setdefault(match[3] or DEFAULT_TIER, {}).setdefault(above, {})
            parts[_PARTS[match[1]]] = plain(amount.scaleb(6))
    return out


def _lacks(bands: Mapping[int, _Parts], default: Mapping[int, _Parts]) -> str:
    """What a tier does not say and the default tier does; empty: nothing."""
    for above in default:
        if above not in bands:
            return f"no prices above {above} input tokens" if above else "no prices of its own"
    for above, parts in bands.items():
        if above not in default:
            return f"prices above {above} input tokens, where the default tier has none"
        for part in ("input", "output", "cached", "cache_write"):
            # Output that costs nothing is that of embeddings, in whatever tier.
            said = default[0].get(part) if part == "output" else part in default[0]
            if said and part not in parts:
                return f"no price of {part}" + (f" above {above} input tokens" if above else "")
        if "reasoning" in default[0] and "reasoning" not in parts and default[0]["reasoning"] != default[0]["output"]:
            return "no price of reasoning"
    return ""


def _rates(above: int, parts: _Parts) -> Rates:
    return Rates(
        input=parts["input"],
        output=parts.get("output", ZERO),
        cached=parts.get("cached"),
        cache_write=parts.get("cache_write"),
        reasoning=parts.get("reasoning"),
        above=above,
    )


def _places(home: _Home, entry: Mapping[str, Any]) -> Iterator[tuple[str | None, Decimal]]:
    """Where the prices hold, and how many times as high they are there.

    - OpenAI, ``regional_processing_uplift_multiplier_eu``: of data residency.
    - Anthropic, ``provider_specific_entry.us``: of inference that stays in the United States.
    - Vertex, ``regional_endpoint_uplift_multiplier``: of every location but ``global``.
    """
    uplift = amount_of(entry.get("regional_endpoint_uplift_multiplier"))
    if home.region == VERTEX and uplift is not None:
        yield GLOBAL, Decimal(1)
        yield VERTEX, uplift
        return
    yield home.region, Decimal(1)
    multipliers = {zone: entry.get(f"regional_processing_uplift_multiplier_{zone}") for zone in ("eu", "us")}
    if home.cloud == "anthropic":
        multipliers["us"] = (table_of(entry.get("provider_specific_entry")) or {}).get("us")
    for zone, value in multipliers.items():
        factor = amount_of(value)
        if factor is not None:
            yield zone, factor


_COUNTED_AS_TEXT = re.compile(
    r"(?:in|out)put_cost_per_(audio|image|video)_token|(?:in|out)put_cost_per_(image|video)_?.*"
)
_LONGER = re.compile(r"cache_creation_input_token_cost_above_(\d+)hr")


def _notes(name: str, entry: Mapping[str, Any]) -> Iterator[Remark]:
    """What an entry has that a row does not."""
    for key in entry:
        longer = _LONGER.fullmatch(key)
        if longer:
            yield Remark(name, f"writes to a cache that lasts {longer[1]} h have another price, which is left out")
        elif _COUNTED_AS_TEXT.fullmatch(key):
            yield Remark(name, f"{key} is left out: such tokens count as text")
    if "fast" in (table_of(entry.get("provider_specific_entry")) or {}):
        yield Remark(name, "the price of fast mode is left out")
