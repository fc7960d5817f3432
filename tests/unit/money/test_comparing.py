"""How two sets of prices differ."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import msgspec

from stateline.core.billing import Price, Rates
from stateline.money.comparing import Amount, Difference, differences

D = Decimal
DAY = date(2026, 11, 26)
BASE = Price(
    cloud="openai", model="m", currency="USD", rates=(Rates(input=D(1), output=D(10), cached=D("0.1")),), source="a"
)


def other(**fields: object) -> Price:
    return msgspec.structs.replace(BASE, source="b", **fields)


def test_equal_rows_do_not_differ_whatever_they_leave_out() -> None:
    said = Rates(input=D(1), output=D(10), cached=D("0.1"), cache_write=D(1), reasoning=D(10))
    assert differences([BASE], [other(rates=(said,))], DAY) == []


def test_each_amount_that_differs_is_listed_with_its_band() -> None:
    rates = (
        Rates(input=D(1), output=D(12), cached=D("0.1")),
        Rates(input=D(2), output=D(12), cached=D("0.1"), above=200_000),
    )
    (found,) = differences([BASE], [other(rates=rates, per_call=D("0.5"))], DAY)
    assert found == Difference(
        "openai",
        "m",
        "",
        "default",
        "differ",
        (
            Amount("output", 0, D(10), D(12)),
            Amount("reasoning", 0, D(10), D(12)),
            Amount("input", 200_000, D(1), D(2)),
            Amount("cache_write", 200_000, D(1), D(2)),
            Amount("output", 200_000, D(10), D(12)),
            Amount("reasoning", 200_000, D(10), D(12)),
            Amount("call", 0, D(0), D("0.5")),
        ),
        ("a", "b"),
    )


def test_another_currency_is_a_difference() -> None:
    (found,) = differences([BASE], [other(currency="EUR")], DAY)
    assert (found.found, found.amounts) == ("differ", ())


def test_rows_of_one_alone_are_named() -> None:
    found = differences([BASE], [other(region="eu")], DAY)
    assert [(each.region, each.found, each.sources) for each in found] == [
        ("", "first", ("a",)),
        ("eu", "second", ("b",)),
    ]


def test_rows_count_on_their_days() -> None:
    later = other(rates=(Rates(input=D(9)),), since=date(2026, 12, 1))
    assert differences([BASE], [other(until=date(2026, 12, 1)), later], DAY) == []
    assert len(differences([BASE], [other(until=date(2026, 12, 1)), later], date(2026, 12, 1))) == 1
