"""The price book: which row holds for a call, and rows that cannot be used."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.billing import Price, Rates, Tariff
from stateline.core.limits import AMOUNT_MAX
from stateline.money.book import PriceBook, PriceError, tariff_of, words

DAY = date(2026, 11, 26)


def row(amount: int = 1, **fields: object) -> Price:
    base = Price(cloud="azure", model="gpt-5", currency="USD", rates=(Rates(input=Decimal(amount)),))
    return msgspec.structs.replace(base, **fields)


def test_a_tier_without_a_row_has_no_price() -> None:
    book = PriceBook([row(1), row(2, service_tier="priority")])
    assert book.find("azure", ["gpt-5"], places=(), on=DAY).keys() == {"default", "priority"}
    assert book.find("openai", ["gpt-5"], places=(), on=DAY) == {}


def test_the_narrowest_place_that_is_named_goes_first() -> None:
    anywhere, zone, region = row(1), row(2, region="eu"), row(3, region="swedencentral")
    book = PriceBook([anywhere, region, zone])
    assert len(book) == 3
    assert book.all() == [anywhere, region, zone]
    for places, found in (
        (("swedencentral", "eu"), region),
        (("francecentral", "eu"), zone),
        (("eastus", "us"), anywhere),
        ((), anywhere),
    ):
        assert book.find("azure", ["gpt-5"], places=places, on=DAY) == {"default": found}


def test_a_row_of_another_place_is_no_price() -> None:
    assert PriceBook([row(1, region="global")]).find("azure", ["gpt-5"], places=("eu",), on=DAY) == {}


def test_a_tier_that_a_place_lacks_is_not_that_of_a_wider_one() -> None:
    book = PriceBook([row(1), row(2, service_tier="batch"), row(3, region="us-gov-west-1")])
    assert book.find("azure", ["gpt-5"], places=("us-gov-west-1",), on=DAY).keys() == {"default"}
    assert book.find("azure", ["gpt-5"], places=("us-east-1",), on=DAY).keys() == {"default", "batch"}


def test_the_first_name_that_is_known_is_asked_alone() -> None:
    book = PriceBook([row(1, model="gpt-5-2025"), row(2), row(3, service_tier="flex")])
    found = book.find("azure", ["mine", "gpt-5-2025", "gpt-5"], places=(), on=DAY)
    assert {tier: each.model for tier, each in found.items()} == {"default": "gpt-5-2025"}


def test_a_price_holds_from_its_first_day_until_the_day_that_it_no_longer_does() -> None:
    old, new = row(1, until=date(2026, 11, 1)), row(2, since=date(2026, 11, 1), until=date(2026, 12, 1))
    book = PriceBook([old, new])
    for day, found in (
        (date(2026, 10, 31), {"default": old}),
        (date(2026, 11, 1), {"default": new}),
        (date(2026, 12, 1), {}),
    ):
        assert book.find("azure", ["gpt-5"], places=(), on=day) == found


DAYS = st.none() | st.dates(date(2026, 1, 1), date(2026, 1, 9))


@given(st.lists(st.tuples(DAYS, DAYS), max_size=4))
def test_no_day_has_two_prices(spans: list[tuple[date | None, date | None]]) -> None:
    spans = [(a, b) for a, b in spans if a is None or b is None or a < b]
    rows = [row(n, since=a, until=b) for n, (a, b) in enumerate(spans)]
    days = [date(2025, 12, 31), *(date(2026, 1, day) for day in range(1, 11))]
    most = max((sum((a is None or a <= day) and (b is None or day < b) for a, b in spans) for day in days), default=0)
    if most > 1:
        with pytest.raises(PriceError) as caught:
            PriceBook(rows)
        assert caught.value.code == "price_overlap"
    else:
        assert len(PriceBook(rows)) == len(rows)


def test_an_overlap_names_both_rows() -> None:
    one = row(1, region="eu", service_tier="flex", since=date(2026, 1, 1), until=date(2027, 1, 1), source="a.toml")
    with pytest.raises(PriceError) as caught:
        PriceBook([one, msgspec.structs.replace(one, since=None, until=None, source="b.toml")])
    assert str(caught.value) == (
        "gpt-5 on azure in eu, tier flex (b.toml) has two prices on one day: "
        "gpt-5 on azure in eu, tier flex, from 2026-01-01, until 2027-01-01 (a.toml)"
    )
    assert words(row()) == "gpt-5 on azure"


ONE = Decimal(1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"currency": ""}, "has no currency"),
        ({"currency": "usd"}, "has no currency"),
        ({"currency": "DOLLAR"}, "has no currency"),
        ({"rates": ()}, "has no rates"),
        ({"rates": (Rates(input=ONE, above=5),)}, "has no rates"),
        ({"rates": (Rates(input=ONE), Rates(input=ONE, above=5), Rates(input=ONE, above=5))}, "out of order"),
        ({"rates": (Rates(input=ONE), Rates(input=ONE, above=-5))}, "out of order"),
        ({"rates": (Rates(input=Decimal("NaN")),)}, "a price that is no amount"),
        ({"rates": (Rates(input=Decimal("Infinity")),)}, "a price that is no amount"),
        ({"rates": (Rates(input=ONE, reasoning=-ONE),)}, "a price that is no amount"),
        ({"rates": (Rates(input=Decimal(AMOUNT_MAX + 1)),)}, "a price that is no amount"),
        ({"rates": (Rates(input=Decimal("1e-16")),)}, "a price that is no amount"),
        ({"per_call": -ONE}, "a price of a call that is no amount"),
        ({"since": DAY, "until": DAY}, "ends before it begins"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(PriceError, match=said) as caught:
        PriceBook([row(**wrong)])  # pyright: ignore[reportArgumentType]
    assert caught.value.code == "price_invalid"


def test_equal_tariffs_have_one_id_and_others_another() -> None:
    bare = Tariff(id="", deployment="d", model="m", upstream_model="m", cloud="azure", host="azure", price=row())
    one = tariff_of(bare)
    assert one.id.startswith("trf_")
    assert tariff_of(one) == one
    assert tariff_of(msgspec.structs.replace(bare, price=row(2))).id != one.id


def test_a_tariff_that_was_read_back_has_the_id_that_it_had() -> None:
    written = row(per_call=Decimal("0.00"), rates=(Rates(input=Decimal("1.10"), output=Decimal("0")),))
    bare = Tariff(id="", deployment="d", model="m", upstream_model="m", cloud="azure", host="azure", price=written)
    one = tariff_of(bare)
    assert tariff_of(msgspec.json.decode(msgspec.json.encode(one), type=Tariff)) == one
    short = row(rates=(Rates(input=Decimal("1.1")),))
    assert tariff_of(msgspec.structs.replace(bare, price=short)).id == one.id
