"""What the words of a source say of amounts, ends and rates."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.contracts.quotes import Bound, Quoted, amounts, conversion, end, plain, rate


@pytest.mark.parametrize(
    ("quote", "said"),
    [
        ("$38B", ["38000000000 USD"]),
        (">$13B, up to $5 billion", ["at least 13000000000 USD", "up to 5000000000 USD"]),
        ("at least $8B", ["at least 8000000000 USD"]),
        ("$13.8B and about €1,450", ["13800000000 USD", "about 1450 EUR"]),
        ("up to 1 GW additional", ["up to 1 GW"]),
        ("7.25 trillion won", ["7250000000000 KRW"]),
        ("USD 5 million, 500 tokens/min", ["5000000 USD", "500 tokens/min"]),
        ("27 % of 500 shares", ["27 %"]),
        ("7 years, 2 of 15,000 H100, v1.5", []),
        ("", []),
    ],
)
def test_amounts_with_a_unit_are_read(quote: str, said: list[str]) -> None:
    assert [str(one) for one in amounts(quote)] == said


@given(
    st.sampled_from(["exact", "min", "max", "about"]),
    st.decimals(min_value=0, max_value=10**15, places=2),
    st.sampled_from(["USD", "KRW", "GW", "%"]),
)
def test_what_is_written_is_read_again(bound: Bound, value: Decimal, unit: str) -> None:
    one = Quoted(bound, value, unit)
    assert amounts(str(one)) == [one]


@pytest.mark.parametrize(
    ("quote", "last"),
    [
        ("only until AGI", "AGI"),
        ("to 2032", "2032"),
        ("until 2026-04-27", "2026-04-27"),
        ("through the end of 2030", "2030"),
        ("up to $5B", None),
        ("to 20,000 units", None),
    ],
)
def test_ends_are_read(quote: str, last: str | None) -> None:
    assert end(quote) == last


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("$50B = 7.25 trillion won", True),
        ("$50B (7.25 trillion won)", True),
        ("$50B and 7.25 trillion won", False),
        ("$50B = $50B", False),
        ("$0 = 0 won", False),
        ("$50B", False),
    ],
)
def test_a_conversion_is_an_amount_in_two_currencies(quote: str, found: bool) -> None:
    assert (conversion(quote) is not None) is found


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("about 1,450 won per dollar", ("USD", "KRW", Decimal(1450))),
        ("0.85 EUR to the dollar", ("USD", "EUR", Decimal("0.85"))),
        ("10 tokens a dollar", None),
        ("5 dollars per dollar", None),
        ("0 won per dollar", None),
        ("5 dollars per GW", None),
        ("$5B", None),
    ],
)
def test_a_rate_is_read(quote: str, found: object) -> None:
    assert rate(quote) == found


def test_digits_are_plain() -> None:
    assert [plain(Decimal(text)) for text in ("6.0", "5E+9", "0.1900", "100")] == ["6", "5000000000", "0.19", "100"]
    assert not re.search("[eE]", plain(Decimal("1e-7")))
