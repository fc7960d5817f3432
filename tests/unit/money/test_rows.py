"""Files of prices: what they may say, and each mistake in one line."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.billing import Price, Rates, plain
from stateline.money.book import PriceError
from stateline.money.rows import document_of, prices_of

D = Decimal

ROW: dict[str, Any] = {"cloud": "azure", "model": "gpt-5", "currency": "USD", "input_per_mtok": "1.25"}


def refusal(document: object) -> str:
    with pytest.raises(PriceError) as caught:
        prices_of(document, "p.toml")
    assert caught.value.code == "price_invalid"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_of_a_row_is_kept() -> None:
    row = {
        **ROW,
        "region": "eu",
        "service_tier": "priority",
        "output_per_mtok": 10,
        "cached_input_per_mtok": D("0.125"),
        "cache_write_per_mtok": "1.5",
        "reasoning_per_mtok": "12",
        "long_context": [{"above": 272000, "input_per_mtok": "2.50", "output_per_mtok": "15"}],
        "per_call": "0.01",
        "since": date(2026, 1, 1),
        "until": "2027-01-01",
        "source": "our agreement",
    }
    assert prices_of({"prices": [row]}, "p.toml") == [
        Price(
            cloud="azure",
            model="gpt-5",
            region="eu",
            service_tier="priority",
            currency="USD",
            rates=(
                Rates(input=D("1.25"), output=D(10), cached=D("0.125"), cache_write=D("1.5"), reasoning=D(12)),
                Rates(input=D("2.50"), output=D(15), above=272000),
            ),
            per_call=D("0.01"),
            since=date(2026, 1, 1),
            until=date(2027, 1, 1),
            source="our agreement",
        )
    ]


def test_what_stands_beside_the_rows_holds_for_those_that_do_not_say_otherwise() -> None:
    bare = {key: value for key, value in ROW.items() if key != "currency"}
    document = {"source": "list", "currency": "EUR", "prices": [bare, {**ROW, "model": "m", "source": "own"}]}
    assert [(each.currency, each.source) for each in prices_of(document, "p.toml")] == [("EUR", "list"), ("USD", "own")]


def test_a_row_without_a_source_names_its_file() -> None:
    assert prices_of({"prices": [ROW]}, "p.toml")[0].source == "p.toml"


def test_a_clouds_own_word_for_the_default_tier_is_the_default_tier() -> None:
    assert prices_of({"prices": [{**ROW, "service_tier": "standard"}]}, "p.toml")[0].service_tier == "default"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "p.toml: not a file of prices"),
        ({}, "p.toml: not a file of prices"),
        ({"prices": {}}, "p.toml: not a file of prices"),
        ({"price": []}, "p.toml: price: unknown key `price`; did you mean `prices`?"),
        ({"prices": [1]}, "p.toml: prices[0]: not a table"),
        ({"prices": [{**ROW, "curency": "USD"}]}, "prices[0].curency: unknown key `curency`; did you mean `currency`?"),
        ({"prices": [{**ROW, "zzz": 1}]}, "prices[0].zzz: unknown key `zzz`; known are cloud, model"),
        ({"prices": [{**ROW, "long_context": [{"abov": 1}]}]}, "prices[0].long_context[0].abov: unknown key"),
        ({"prices": [{**ROW, "long_context": [1]}]}, "prices[0].long_context[0]: expected"),
        ({"prices": [{**ROW, "long_context": 1}]}, "prices[0].long_context: expected"),
        (
            {"prices": [{key: value for key, value in ROW.items() if key != "currency"}]},
            "p.toml: prices[0]: a price has a currency, such as currency",
        ),
        ({"prices": [{**ROW, "currency": "dollars"}]}, "p.toml: prices[0]: gpt-5 on azure (p.toml) has no currency"),
        ({"prices": [{**ROW, "input_per_mtok": "x"}]}, "prices[0].input_per_mtok: invalid decimal"),
        ({"prices": [{**ROW, "since": "today"}]}, "prices[0].since: "),
        (
            {"prices": [{"cloud": "azure", "currency": "USD"}]},
            "p.toml: prices[0]: object missing required field `model`",
        ),
    ],
)
def test_a_mistake_costs_one_line_with_its_place(document: object, said: str) -> None:
    assert said in refusal(document)


AMOUNTS = st.decimals(min_value=0, max_value=1000, places=9).map(plain)
MAYBE = st.none() | AMOUNTS
RATES = st.builds(Rates, input=AMOUNTS, output=AMOUNTS, cached=MAYBE, cache_write=MAYBE, reasoning=MAYBE)
PRICES = st.builds(
    Price,
    cloud=st.sampled_from(["aws", "azure"]),
    model=st.text(min_size=1, max_size=9),
    region=st.none() | st.text(min_size=1, max_size=5),
    service_tier=st.sampled_from(["default", "flex"]),
    currency=st.just("EUR"),
    rates=st.lists(RATES, min_size=1, max_size=3).map(
        lambda found: tuple(msgspec.structs.replace(each, above=n * 1000) for n, each in enumerate(found))
    ),
    per_call=AMOUNTS,
    since=st.none() | st.dates(max_value=date(2026, 1, 1)),
    until=st.none() | st.dates(min_value=date(2026, 1, 2)),
    source=st.text(min_size=1, max_size=9),
)


@given(st.lists(PRICES, max_size=4))
def test_rows_come_back_as_they_were_written(prices: list[Price]) -> None:
    text = msgspec.json.encode(document_of(prices))
    assert prices_of(msgspec.json.decode(text), "p.json") == prices


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=5))
def test_an_amount_is_written_plainly_and_is_the_same(amount: Decimal) -> None:
    assert plain(amount) == amount
    assert "E" not in str(plain(amount)) or abs(amount) < D("1e-6")
    assert "." not in str(plain(amount)) or not str(plain(amount)).endswith("0")
