"""What a call costs straight from a catalogue's raw JSON, by code that shares nothing with the importers.

For LiteLLM the key of each price is put together as its own documentation has it. For genai-prices the package's
`calc_price` is asked, but for what it answers silently with another price: it knows no tiers and places of Azure, and
ignores a tier that a model has no variant of.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any, NamedTuple

TIERS = ("default", "priority", "flex", "batch")
PLACES: Mapping[str, tuple[str, ...]] = {
    "openai": ("", "eu", "us"),
    "anthropic": ("", "us"),
    "azure": ("global", "eu", "us"),
    "aws": ("", "us-east-1", "eu-central-1", "ap-northeast-1", "us-gov-west-1"),
    "google": ("gemini-api", "vertex/global", "vertex/us-east5"),
}


class Mix(NamedTuple):
    """The tokens of a call: parts of the input, and of the output."""

    input: int
    cached: int
    cache_write: int
    output: int
    reasoning: int


class Case(NamedTuple):
    cloud: str
    model: str
    place: str
    tier: str
    mix: Mix


def any_mix(chance: random.Random) -> Mix:
    """Tokens of a call; often near a threshold of long contexts."""
    edge = chance.choice((100_000, 128_000, 200_000, 256_000, 272_000))
    size = chance.choice((chance.randint(1, 5_000), chance.randint(1, 1_500_000), edge, edge + 1))
    cached = chance.choice((0, chance.randint(0, size)))
    write = chance.choice((0, chance.randint(0, size - cached)))
    output = chance.randint(0, 60_000)
    return Mix(size, cached, write, output, chance.choice((0, chance.randint(0, output))))


# -- LiteLLM ---------------------------------------------------------------------------------------

_HOME = {"text-completion-openai": "openai", "azure_ai": "azure", "gemini": "google"}
_SUFFIX = {"default": "", "priority": "_priority", "flex": "_flex", "batch": "_batches"}


def litellm_models(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Clouds and models that the catalogue prices by token."""
    out: set[tuple[str, str]] = set()
    for name, entry in raw.items():
        provider = str(entry.get("litellm_provider"))
        cloud = "aws" if provider.startswith("bedrock") else "google" if provider.startswith("vertex_ai") else provider
        cloud = _HOME.get(cloud, cloud)
        chat = entry.get("mode") in ("chat", "responses", "completion", "embedding")
        if cloud in PLACES and chat and "input_cost_per_token" in entry:
            out.add((cloud, _bare(cloud, name)))
    return sorted(out)


def _bare(cloud: str, name: str) -> str:
    heads = ("vertex_ai/", "gemini/", "azure_ai/") if cloud in ("google", "azure") else ()
    for head in heads:
        if name.startswith(head):
            return name[len(head) :]
    return name.rsplit("/", 1)[-1]


def litellm_cost(raw: Mapping[str, Any], case: Case) -> Fraction | None:
    """What the call costs; None where the catalogue does not say it all."""
    entry = next((raw[name] for name in _litellm_names(case) if _is_of(raw, name, case)), None)
    if entry is None:
        return None
    above = [int(key.split("_above_")[1].split("k_")[0]) * 1000 for key in entry if _is_band(key)]
    reached = max((start for start in above if case.mix.input > start), default=0)
    band = f"_above_{reached // 1000}k_tokens" if reached else ""

    def price(key: str, tier: str) -> Fraction | None:
        found = entry.get(f"{key}{band}{_SUFFIX[tier]}")
        return None if found is None else Fraction(str(found))

    def part(key: str, whole: Fraction | None) -> Fraction | None:
        """A part without a price anywhere costs what the whole does; one with a price elsewhere alone has none."""
        found = price(key, case.tier)
        return whole if found is None and key not in entry else found

    plain, output = price("input_cost_per_token", case.tier), price("output_cost_per_token", case.tier)
    if output is None and not entry.get("output_cost_per_token") and entry.get("mode") == "embedding":
        output = Fraction(0)
    cached, write = part("cache_read_input_token_cost", plain), part("cache_creation_input_token_cost", plain)
    think = price("output_cost_per_reasoning_token", case.tier)
    think = output if think is None else think
    if plain is None or output is None or cached is None or write is None or think is None:
        return None
    mix = case.mix
    cost = (
        (mix.input - mix.cached - mix.cache_write) * plain
        + mix.cached * cached
        + mix.cache_write * write
        + (mix.output - mix.reasoning) * output
        + mix.reasoning * think
    )
    return cost * _uplift(entry, case)


def _is_band(key: str) -> bool:
    return key.startswith("input_cost_per_token_above_") and "k_tokens" in key


def _is_of(raw: Mapping[str, Any], name: str, case: Case) -> bool:
    if name not in raw:
        return False
    provider = str(raw[name].get("litellm_provider"))
    return {
        "openai": provider in ("openai", "text-completion-openai"),
        "anthropic": provider == "anthropic",
        "azure": provider in ("azure", "azure_ai"),
        "aws": provider.startswith("bedrock"),
        "google": provider == "gemini" if case.place == "gemini-api" else provider.startswith("vertex_ai"),
    }[case.cloud]


def _litellm_names(case: Case) -> list[str]:
    """The names that the entry may have, in the order of preference."""
    model, place = case.model, case.place
    match case.cloud:
        case "azure" if place == "global":
            return [f"azure/{model}", f"azure/global/{model}", f"azure/global-standard/{model}", f"azure_ai/{model}"]
        case "azure":
            return [f"azure/{place}/{model}"]
        case "aws":
            regional = [f"bedrock/{place}/{model}", f"bedrock_mantle/{place}/{model}"] if place else []
            return [*regional, model, f"bedrock/{model}", f"bedrock_mantle/{model}"]
        case "google":
            return [f"gemini/{model}" if place == "gemini-api" else f"vertex_ai/{model}", model]
        case _:
            return [model]


def _uplift(entry: Mapping[str, Any], case: Case) -> Fraction:
    found: Any = None
    if case.cloud == "openai" and case.place:
        found = entry.get(f"regional_processing_uplift_multiplier_{case.place}")
    elif case.cloud == "anthropic" and case.place:
        found = entry.get("provider_specific_entry", {}).get(case.place)
    elif case.place == "vertex/us-east5":
        found = entry.get("regional_endpoint_uplift_multiplier")
    return Fraction(1) if found is None else Fraction(str(found))


# -- genai-prices ----------------------------------------------------------------------------------

_CLOUDS = ("openai", "anthropic", "azure", "aws", "google")


def genai_models() -> Iterator[tuple[str, str]]:
    """Clouds and the ids of their models, as the installed package has them."""
    data: Any = importlib.import_module("genai_prices.data")
    for provider in data.providers:
        if provider.id in _CLOUDS:
            for model in provider.models:
                # Its own word for the names of several geographies.
                yield provider.id, re.sub(r"^regional\.", "us.", model.id)


def genai_cost(case: Case, on: date) -> Fraction | None:
    """What the installed package computes; None where it would answer with another tier's or place's price."""
    package: Any = importlib.import_module("genai_prices")
    data: Any = importlib.import_module("genai_prices.data")
    if case.cloud in ("azure", "google") and case.place not in ("gemini-api", "global"):
        return None  # It has the prices of these two places alone, and answers with them for any.
    provider = next(each for each in data.providers if each.id == case.cloud)
    model = next((each for each in provider.models if each.is_match(case.model)), None)
    if model is None:
        return None
    context = {"processing": "batch"} if case.tier == "batch" else {"service_tier": case.tier}
    noon = datetime(on.year, on.month, on.day, 12, tzinfo=UTC)
    begun = [
        each
        for each in model.price_variants or ()
        if each.when == context and (each.constraint is None or each.constraint.active(noon))
    ]
    if case.tier != "default" and not begun:
        return None
    standard = model.get_prices(noon, context)
    if getattr(standard, "input_mtok", None) is None:
        return None
    mix = case.mix
    usage = package.Usage(
        input_tokens=mix.input,
        cache_read_tokens=mix.cached,
        cache_write_tokens=mix.cache_write,
        output_tokens=mix.output,
        output_reasoning_tokens=mix.reasoning,
    )
    found = model.calc_price(usage, provider, genai_request_timestamp=noon, price_context=context)
    return Fraction(found.total_price)
