"""Rows from LiteLLM's catalogue: tiers, bands, places and names, and what is left out with a reason.

The entries are made up, in the catalogue's form.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.billing import Price, Rates
from stateline.money.book import PriceBook, PriceError
from stateline.money.importing import Catalogue, Imported, Remark, amount_of
from stateline.money.importing_litellm import _PARTS, from_litellm  # pyright: ignore[reportPrivateUsage]

D = Decimal
ORIGIN = Catalogue("LiteLLM", date(2026, 11, 26))


def entry(provider: str, **fields: Any) -> dict[str, Any]:
    return {
        "litellm_provider": provider,
        "mode": "chat",
        "input_cost_per_token": D("1.25E-6"),
        "output_cost_per_token": D("0.00001"),
        **fields,
    }


def brought(**entries: Any) -> Imported:
    found = from_litellm(entries, ORIGIN)
    PriceBook(found.prices)
    return found


def one(name: str, provider: str, **fields: Any) -> Imported:
    return brought(**{name: entry(provider, **fields)})


def test_prices_of_tokens_become_those_of_a_million_exactly() -> None:
    found = one(
        "gpt-x",
        "openai",
        cache_read_input_token_cost=D("1.25e-7"),
        cache_creation_input_token_cost=D("0.0000015625"),
        output_cost_per_reasoning_token=D("0.00002"),
        source="https://example.com/prices",
    )
    assert found.prices == [
        Price(
            cloud="openai",
            model="gpt-x",
            currency="USD",
            rates=(Rates(input=D("1.25"), output=D(10), cached=D("0.125"), cache_write=D("1.5625"), reasoning=D(20)),),
            source="LiteLLM, read 2026-11-26: https://example.com/prices",
        )
    ]
    assert [str(each.rates[0].output) for each in found.prices] == ["10"]
    assert found.skipped == found.noted == []


def test_a_row_says_that_its_entry_named_no_page() -> None:
    assert one("gpt-x", "openai").prices[0].source == "LiteLLM, read 2026-11-26"


def test_a_float_is_not_what_was_written_and_is_no_price() -> None:
    found = one("gpt-x", "openai", input_cost_per_token=1.25e-6)
    assert found.prices == []
    assert found.skipped == [Remark("gpt-x", "it has no price of tokens")]
    assert [amount_of(value) for value in (1.5, True, None, "x", "NaN", [1])] == [None] * 6
    assert amount_of("1.50") == D("1.5")


def test_tiers_have_rows_of_their_own() -> None:
    found = one(
        "gpt-x",
        "openai",
        input_cost_per_token_priority=D("2.5e-6"),
        output_cost_per_token_priority=D("2e-5"),
        input_cost_per_token_batches=D("6.25e-7"),
        output_cost_per_token_batches=D("5e-6"),
    )
    assert {each.service_tier: each.rates[0].input for each in found.prices} == {
        "default": D("1.25"),
        "priority": D("2.5"),
        "batch": D("0.625"),
    }


def test_a_long_context_is_a_band() -> None:
    found = one(
        "gpt-x",
        "openai",
        input_cost_per_token_above_272k_tokens=D("2.5e-6"),
        output_cost_per_token_above_272k_tokens=D("1.5e-5"),
    )
    assert found.prices[0].rates == (
        Rates(input=D("1.25"), output=D(10)),
        Rates(input=D("2.5"), output=D(15), above=272_000),
    )


TIER = {"input_cost_per_token_flex": D("1e-6"), "output_cost_per_token_flex": D("5e-6")}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"input_cost_per_token_flex": D("1e-6")}, "no price of output"),
        ({**TIER, "cache_read_input_token_cost": D("1e-7")}, "no price of cached"),
        ({**TIER, "cache_creation_input_token_cost": D("1e-7")}, "no price of cache_write"),
        ({**TIER, "output_cost_per_reasoning_token": D("9e-5")}, "no price of reasoning"),
        (
            {
                **TIER,
                "input_cost_per_token_above_200k_tokens": D("2e-6"),
                "output_cost_per_token_above_200k_tokens": D("2e-5"),
            },
            "no prices above 200000 input tokens",
        ),
        ({**TIER, "input_cost_per_token_above_200k_tokens_flex": D("2e-6")}, "prices above 200000 input tokens, where"),
        (
            {
                "input_cost_per_token_above_200k_tokens": D("2e-6"),
                "output_cost_per_token_above_200k_tokens": D("2e-5"),
                **TIER,
                "input_cost_per_token_above_200k_tokens_flex": D("2e-6"),
            },
            "no price of output above 200000 input tokens",
        ),
        ({"cache_read_input_token_cost_above_200k_tokens_flex": D("2e-6")}, "no prices of its own"),
    ],
)
def test_a_tier_that_lacks_a_price_is_left_out_and_not_anothers(fields: dict[str, Any], why: str) -> None:
    found = one("gpt-x", "openai", **fields)
    assert "flex" not in {each.service_tier for each in found.prices}
    assert any(each.name == "gpt-x" and each.why.startswith(f"tier flex: {why}") for each in found.skipped)


def test_reasoning_that_costs_what_output_does_needs_no_price_in_each_tier() -> None:
    found = one("gpt-x", "openai", output_cost_per_reasoning_token=D("0.00001"), **TIER)
    assert {each.service_tier for each in found.prices} == {"default", "flex"}


def test_an_embedding_has_no_price_of_output() -> None:
    found = brought(
        e={
            "litellm_provider": "openai",
            "mode": "embedding",
            "input_cost_per_token": D("2e-8"),
            "output_cost_per_token": 0,
            "input_cost_per_token_batches": D("1e-8"),
        },
        f={"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": D("2e-8")},
        c={"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": D("2e-8")},
    )
    assert [(each.model, each.service_tier) for each in found.prices] == [
        ("e", "batch"),
        ("e", "default"),
        ("f", "default"),
    ]
    assert found.skipped == [Remark("c", "it has no price of tokens")]


@pytest.mark.parametrize(
    ("name", "provider", "cloud", "model", "region"),
    [
        ("gpt-x", "openai", "openai", "gpt-x", None),
        ("davinci-x", "text-completion-openai", "openai", "davinci-x", None),
        ("claude-x", "anthropic", "anthropic", "claude-x", None),
        ("azure/gpt-x", "azure", "azure", "gpt-x", "global"),
        ("azure/global/gpt-x", "azure", "azure", "gpt-x", "global"),
        ("azure/global-standard/gpt-x", "azure", "azure", "gpt-x", "global"),
        ("azure/eu/gpt-x", "azure", "azure", "gpt-x", "eu"),
        ("azure/us-gov/gpt-x", "azure", "azure", "gpt-x", "us-gov"),
        ("azure_ai/claude-x", "azure_ai", "azure", "claude-x", "global"),
        ("anthropic.claude-x-v1:0", "bedrock_converse", "aws", "anthropic.claude-x-v1:0", None),
        ("eu.anthropic.claude-x-v1:0", "bedrock", "aws", "eu.anthropic.claude-x-v1:0", None),
        ("bedrock/us-gov-west-1/anthropic.claude-x", "bedrock", "aws", "anthropic.claude-x", "us-gov-west-1"),
        ("bedrock/invoke/anthropic.claude-x", "bedrock", "aws", "anthropic.claude-x", None),
        ("bedrock/moon.kimi", "bedrock", "aws", "moon.kimi", None),
        ("bedrock_mantle/openai.gpt-x", "bedrock_mantle", "aws", "openai.gpt-x", None),
        ("bedrock_mantle/us-gov-east-1/openai.gpt-x", "bedrock_mantle", "aws", "openai.gpt-x", "us-gov-east-1"),
        ("gemini/gemini-x", "gemini", "google", "gemini-x", "gemini-api"),
        ("vertex_ai/gemini-x", "vertex_ai", "google", "gemini-x", "vertex"),
        ("gemini-x", "vertex_ai-language-models", "google", "gemini-x", "vertex"),
        ("vertex_ai/claude-x@2025", "vertex_ai-anthropic_models", "google", "claude-x@2025", "vertex"),
        ("vertex_ai/meta/llama-x", "vertex_ai-llama_models", "google", "meta/llama-x", "vertex"),
    ],
)
def test_a_name_says_whose_model_it_is_and_where(
    name: str, provider: str, cloud: str, model: str, region: str | None
) -> None:
    (row,) = one(name, provider).prices
    assert (row.cloud, row.model, row.region) == (cloud, model, region)


@pytest.mark.parametrize(
    ("name", "provider", "fields", "why"),
    [
        ("dall-x", "openai", {"mode": "image_generation"}, "it is of the mode image_generation"),
        ("azure/model-router", "azure", {}, "the price of the model that is chosen comes on top"),
        ("azure/mars/gpt-x", "azure", {}, "it is not known what mars means"),
        ("bedrock/us-east-1/1-month-commitment/claude-x", "bedrock", {}, "it is capacity that is paid by the hour"),
        ("bedrock/claude_platform/claude-x", "bedrock", {}, "it is sold by Claude Platform on AWS"),
        ("gpt-x", "openai", {"input_cost_per_token": 0, "output_cost_per_token": 0}, "a price of zero, which may mean"),
        ("gpt-x", "openai", {"input_cost_per_token": D("-1e-6")}, "gpt-x on openai"),
    ],
)
def test_what_cannot_be_expressed_is_left_out_with_a_reason(
    name: str, provider: str, fields: dict[str, Any], why: str
) -> None:
    found = one(name, provider, **fields)
    assert found.prices == []
    ((skipped, said),) = found.skipped
    assert skipped == name
    assert said.startswith(why)


def test_clouds_that_are_not_ours_and_what_is_no_entry_are_passed_over() -> None:
    found = brought(a=entry("fireworks_ai"), b="text", c=entry("anthropic"))
    assert [each.model for each in found.prices] == ["c"]
    assert found.skipped == []


def test_of_two_entries_of_one_model_at_one_place_the_plainer_is_taken() -> None:
    found = brought(
        **{
            "azure/global/gpt-x": entry("azure", input_cost_per_token=D("2e-6")),
            "azure/gpt-x": entry("azure"),
            "azure_ai/gpt-x": entry("azure_ai"),
        }
    )
    assert [each.rates[0].input for each in found.prices] == [D("1.25")]
    assert found.skipped == [
        Remark("azure/global/gpt-x", "the same model at the same place as azure/gpt-x"),
        Remark("azure_ai/gpt-x", "the same model at the same place as azure/gpt-x"),
    ]


def test_a_place_with_a_multiplier_has_rows_of_its_own() -> None:
    openai = one("gpt-x", "openai", regional_processing_uplift_multiplier_eu=D("1.1"))
    assert {each.region: each.rates[0].input for each in openai.prices} == {None: D("1.25"), "eu": D("1.375")}
    claude = one("claude-x", "anthropic", provider_specific_entry={"us": D("1.1"), "fast": 2})
    assert {each.region: each.rates[0].output for each in claude.prices} == {None: D(10), "us": D(11)}
    assert claude.noted == [Remark("claude-x", "the price of fast mode is left out")]
    cached = D("1.25e-7")
    vertex = one(
        "vertex_ai/g", "vertex_ai", regional_endpoint_uplift_multiplier=D("1.1"), cache_read_input_token_cost=cached
    )
    assert {each.region: each.rates[0].cached for each in vertex.prices} == {
        "global": D("0.125"),
        "vertex": D("0.1375"),
    }


def test_what_a_row_does_not_tell_apart_is_noted() -> None:
    found = one(
        "gpt-x",
        "openai",
        cache_creation_input_token_cost_above_1hr=D("2e-6"),
        input_cost_per_audio_token=D("1e-5"),
        input_cost_per_image=D("1e-3"),
        search_context_cost_per_query={"search_context_size_low": D("0.01")},
    )
    assert [each.why for each in found.noted] == [
        "input_cost_per_audio_token is left out: such tokens count as text",
        "input_cost_per_image is left out: such tokens count as text",
        "writes to a cache that lasts 1 h have another price, which is left out",
    ]


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300_000) | st.decimals(places=9, allow_nan=False) | st.text(max_size=4),
    _nested,
    max_leaves=4,
)
NAMES = st.sampled_from(["m", "azure/m", "azure/eu/m", "bedrock/us-east-1/m", "bedrock/x/y/m", "vertex_ai/m", "/", ""])
KEYS = st.sampled_from(
    [
        *(f"{part}{band}{tier}" for part in _PARTS for band in ("", "_above_9k_tokens") for tier in ("", "_flex")),
        "regional_endpoint_uplift_multiplier",
        "regional_processing_uplift_multiplier_eu",
        "provider_specific_entry",
        "source",
    ]
)


def _entry(provider: str, mode: Any, fields: dict[str, Any]) -> dict[str, Any]:
    return {"litellm_provider": provider, "mode": mode, **fields}


PROVIDERS = st.sampled_from(["openai", "azure", "azure_ai", "bedrock", "gemini", "vertex_ai", "anthropic"])
ENTRIES: st.SearchStrategy[Any] = st.builds(_entry, PROVIDERS, st.just("chat") | JSON, st.dictionaries(KEYS, JSON))


@given(st.dictionaries(NAMES, ENTRIES | JSON, max_size=4))
def test_whatever_the_catalogue_is_its_rows_can_be_used_or_it_is_refused(catalogue: dict[str, Any]) -> None:
    try:
        found = from_litellm(catalogue, ORIGIN)
    except PriceError:
        return
    PriceBook(found.prices)


@pytest.mark.parametrize("catalogue", [None, [], {}, {"a": 1}, {"a": {}}, {"prices": []}])
def test_what_is_no_such_catalogue_is_refused(catalogue: object) -> None:
    with pytest.raises(PriceError, match="not LiteLLM's catalogue") as caught:
        from_litellm(catalogue, ORIGIN)
    assert caught.value.code == "price_invalid"
