"""Rows from the data of genai-prices: days, variants, bands and names. The models are made up, in the data's form."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.billing import Rates
from stateline.money.book import PriceBook, PriceError
from stateline.money.importing import Catalogue, Imported, Remark
from stateline.money.importing_genai import from_genai_prices

D = Decimal
ORIGIN = Catalogue("genai-prices", date(2026, 11, 26))
BASE = {"input_mtok": D("1.25"), "output_mtok": 10}


def model(name: str = "m", **fields: Any) -> dict[str, Any]:
    return {"id": name, "match": {"equals": name}, "prices": BASE, **fields}


def brought(*models: dict[str, Any], cloud: str = "openai", **fields: Any) -> Imported:
    found = from_genai_prices([{"id": cloud, "models": list(models), **fields}], ORIGIN)
    PriceBook(found.prices)
    return found


def test_a_model_is_a_row_with_all_that_it_is_priced_by() -> None:
    prices = {
        **BASE,
        "cache_read_mtok": "0.125",
        "cache_write_mtok": D("1.5"),
        "output_reasoning_mtok": 12,
        "requests_kcount": 5,
    }
    found = brought(model(prices=prices), pricing_urls=["https://example.com/prices"])
    (row,) = found.prices
    assert (row.cloud, row.model, row.region, row.service_tier) == ("openai", "m", None, "default")
    assert row.rates == (
        Rates(input=D("1.25"), output=D(10), cached=D("0.125"), cache_write=D("1.5"), reasoning=D(12)),
    )
    assert row.per_call == D("0.005")
    assert row.source == "genai-prices, read 2026-11-26: https://example.com/prices"
    assert found.skipped == found.noted == []


@pytest.mark.parametrize(("cloud", "region"), [("azure", "global"), ("google", "gemini-api"), ("aws", None)])
def test_prices_are_those_of_the_place_that_the_provider_stands_for(cloud: str, region: str | None) -> None:
    assert brought(model(), cloud=cloud).prices[0].region == region


def test_a_price_that_began_on_a_day_ends_the_one_before() -> None:
    dated = [
        {"prices": {"input_mtok": 3}},
        {"prices": {"input_mtok": 2}, "constraint": {"start_date": "2026-06-01"}},
        {"prices": {"input_mtok": 1}, "constraint": {"start_date": "2026-09-01"}},
    ]
    found = brought(model(prices=dated))
    assert [(each.rates[0].input, each.since, each.until) for each in found.prices] == [
        (D(3), None, date(2026, 6, 1)),
        (D(2), date(2026, 6, 1), date(2026, 9, 1)),
        (D(1), date(2026, 9, 1), None),
    ]


def test_a_variant_is_a_tier_that_replaces_single_prices() -> None:
    variants = [
        {"when": {"service_tier": "default"}, "prices": {}},
        {"when": {"service_tier": "flex"}, "prices": {"input_mtok": 1, "output_mtok": None}},
        {
            "when": {"processing": "batch"},
            "prices": {"output_mtok": 5},
            "constraint": {"start_date": "2026-10-14"},
        },
    ]
    found = brought(model(price_variants=variants))
    assert [(each.service_tier, each.rates[0].input, each.rates[0].output, each.since) for each in found.prices] == [
        ("batch", D("1.25"), D(5), date(2026, 10, 14)),
        ("default", D("1.25"), D(10), None),
        ("flex", D(1), D(10), None),
    ]


def test_of_two_variants_of_one_tier_the_first_that_has_begun_holds() -> None:
    flex = {"when": {"service_tier": "flex"}}
    variants = [
        {**flex, "prices": {"input_mtok": 2}, "constraint": {"start_date": "2026-10-14"}},
        {**flex, "prices": {"input_mtok": 1}},
    ]
    found = brought(model(price_variants=variants))
    assert [(each.rates[0].input, each.since) for each in found.prices if each.service_tier == "flex"] == [
        (D(1), None),
        (D(2), date(2026, 10, 14)),
    ]


def test_a_tier_follows_what_changes_beneath_it() -> None:
    dated = [
        {"prices": {"input_mtok": 3, "output_mtok": 9}},
        {"prices": {"input_mtok": 3, "output_mtok": 6}, "constraint": {"start_date": "2026-06-01"}},
        {"prices": {"input_mtok": 2, "output_mtok": 6}, "constraint": {"start_date": "2026-09-01"}},
    ]
    variants = [{"when": {"service_tier": "flex"}, "prices": {"output_mtok": 1}}]
    found = brought(model(prices=dated, price_variants=variants))
    flex = [each for each in found.prices if each.service_tier == "flex"]
    assert [(each.rates[0].input, each.since, each.until) for each in flex] == [
        (D(3), None, date(2026, 9, 1)),
        (D(2), date(2026, 9, 1), None),
    ]


def test_a_variant_that_is_no_tier_is_left_out_with_a_reason() -> None:
    found = brought(model(price_variants=[{"when": {"speed": "fast"}, "prices": BASE}, 1]))
    assert [each.service_tier for each in found.prices] == ["default"]
    assert found.skipped == [
        Remark("openai/m", "prices of None are of no tier"),
        Remark("openai/m", "prices of {'speed': 'fast'} are of no tier"),
    ]


def test_tiers_of_input_tokens_are_bands_of_the_whole_call() -> None:
    prices = {
        "input_mtok": {"base": 1, "tiers": [{"start": 272_000, "price": 3}, {"start": 128_000, "price": 2}]},
        "output_mtok": {"base": 10, "tiers": [{"start": 128_000, "price": 15}]},
        "cache_read_mtok": D("0.1"),
    }
    assert brought(model(prices=prices)).prices[0].rates == (
        Rates(input=D(1), output=D(10), cached=D("0.1")),
        Rates(input=D(2), output=D(15), cached=D("0.1"), above=128_000),
        Rates(input=D(3), output=D(15), cached=D("0.1"), above=272_000),
    )


def test_names_are_those_that_a_pattern_spells_out_and_no_earlier_model_takes() -> None:
    found = brought(
        model("a", match={"or": [{"equals": "a"}, {"equals": "a-2026"}, {"starts_with": "a-x"}]}),
        model("b", match={"or": [{"equals": "b"}, {"equals": "a-2026"}]}),
        model("c", match={"and": [{"contains": "c"}, {"ends_with": "c"}]}),
    )
    assert [each.model for each in found.prices] == ["a", "a-2026", "b", "c"]
    assert found.skipped == []


def test_an_expression_that_takes_a_name_takes_it() -> None:
    taken = ["o3-mini", "sol-2026-01-02"]
    expressions = [r"^o[134-6]-", r"^sol[-@]\d{4}-\d{2}-\d{2}$", r"^(?!.*-tts(?:$|-)).*x\.1$"]
    for name, left in ((taken[0], 0), (taken[1], 0), ("gpt-x.1", 0), ("gpt-x.1-tts", 1), ("gpt-x-1", 1), ("o2-", 1)):
        first = model("first", match={"or": [{"equals": "first"}, *({"regex": each} for each in expressions)]})
        assert len(brought(first, model(name)).prices) == 1 + left


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("(d+)+$", "is not evaluated"),
        ("(d{9}){9}", "is not evaluated"),
        ("[[d]", "is not evaluated"),
        ("[a--c]", "is not evaluated"),
        (".*.*.*d", "is not evaluated"),
        ("d" * 201, "is not evaluated"),
        ("(d", "is none"),
        ("[z-a]", "is none"),
    ],
)
def test_an_expression_that_may_run_for_long_is_not_evaluated(expression: str, why: str) -> None:
    found = brought(model("a", match={"or": [{"equals": "a"}, {"regex": expression}]}), model("m"))
    assert [each.model for each in found.prices] == ["a"]
    assert found.skipped == [Remark("openai/m", f"an expression stands before its names, and {why}")]


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300_000) | st.decimals(places=3, allow_nan=False) | st.text(max_size=4),
    _nested,
    max_leaves=6,
)
MODEL_KEYS = st.sampled_from(["id", "match", "prices", "price_variants"])
CLAUSES: st.SearchStrategy[Any] = st.dictionaries(
    st.sampled_from(["or", "and", "equals", "contains", "regex", "starts_with"]), JSON, max_size=1
)
PRICES: st.SearchStrategy[Any] = st.dictionaries(
    st.sampled_from(["input_mtok", "output_mtok", "requests_kcount", "x"]), JSON, max_size=3
)
DATED: st.SearchStrategy[Any] = st.lists(
    st.fixed_dictionaries({"prices": PRICES | JSON}, optional={"constraint": JSON}), max_size=3
)
MODELS: st.SearchStrategy[Any] = st.dictionaries(MODEL_KEYS, JSON | CLAUSES | PRICES | DATED, max_size=4)


@given(st.lists(st.fixed_dictionaries({"id": JSON | st.just("openai"), "models": st.lists(MODELS | JSON) | JSON})))
def test_whatever_the_data_are_the_rows_can_be_used_or_the_data_are_refused(data: list[Any]) -> None:
    try:
        found = from_genai_prices(data, ORIGIN)
    except PriceError:
        return
    for row in found.prices:
        PriceBook([row])


def test_a_model_without_an_exact_name_is_left_out() -> None:
    found = brought(
        model("a", match={"starts_with": "b"}), model("d", match={"sounds_like": "d"}), model("e", match={})
    )
    assert [each.why for each in found.skipped] == ["it has a pattern and no exact name"] * 3


def test_regional_stands_for_the_names_of_bedrocks_profiles() -> None:
    found = brought(
        model("global.x", match={"contains": "global.x"}),
        model("regional.x", match={"or": [{"equals": "x"}, {"equals": "us.x"}, {"contains": "eu.x"}]}),
        cloud="aws",
    )
    assert [each.model for each in found.prices] == ["eu.x", "global.x", "us.x", "x"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"prices": {"output_mtok": 1}}, "it has no price of tokens"),
        ({"prices": []}, "it has no prices"),
        ({"prices": {"input_mtok": 1.5}}, "a price that is no amount"),
        ({"prices": {"input_mtok": {"base": 1, "tiers": [{"start": "x", "price": 1}]}}}, "a price that is no amount"),
        ({"prices": {"input_mtok": {"base": 1, "tiers": [{"start": 5, "price": "x"}]}}}, "a price that is no amount"),
        ({"prices": {"input_mtok": {"base": 1, "tiers": [5]}}}, "a price that is no amount"),
        ({"prices": {"input_mtok": 0}}, "a price of zero, which may mean that none is known"),
        (
            {"prices": [{"prices": BASE, "constraint": {"start_time": "16:30:00Z"}}]},
            "its prices are of an hour of the day",
        ),
        (
            {"price_variants": [{"when": {"service_tier": "x"}, "prices": {}, "constraint": {"start_date": "x"}}]},
            "its prices are of an hour of the day",
        ),
    ],
)
def test_what_cannot_be_expressed_is_left_out_with_a_reason(fields: dict[str, Any], why: str) -> None:
    found = brought(model(**fields))
    assert found.prices == []
    assert found.skipped == [Remark("openai/m", why)]


def test_what_a_row_does_not_tell_apart_is_noted() -> None:
    found = brought(model(prices={**BASE, "input_audio_mtok": 5}))
    assert found.noted == [Remark("openai/m", "input_audio_mtok is left out")]


def test_providers_that_are_not_ours_and_what_is_no_model_are_passed_over() -> None:
    found = from_genai_prices([{"id": "groq"}, 7, {"id": "azure", "models": [1, model()]}], ORIGIN)
    assert [each.cloud for each in found.prices] == ["azure"]


@pytest.mark.parametrize("catalogue", [None, {}, [], [{"id": "groq", "models": []}], [{"id": "openai"}], {"a": {}}])
def test_what_is_no_such_data_is_refused(catalogue: object) -> None:
    with pytest.raises(PriceError, match="not the data of genai-prices"):
        from_genai_prices(catalogue, ORIGIN)
