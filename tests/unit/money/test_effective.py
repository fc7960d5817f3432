"""Effective prices: list price less what a call's use is worth to commitments."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import validate

from stateline.core.limits import MARGINAL_VALUES_FRESH_S
from stateline.money.effective import Draw, ValuesError, decode, effective, encode, schema

D = Decimal
NOW = datetime(2026, 3, 18, 12, tzinfo=UTC)


def test_the_price_falls_by_what_commitments_gain() -> None:
    found = effective(D("2.00"), [Draw("c/small", D("0.5"), D("0.1")), Draw("c/great", D(1), D("0.115"))])
    assert found.amount == D("1.67")
    assert [each.commitment for each in found.draws] == ["c/great", "c/small"]
    assert found.list_price == 2
    assert not found.free


def test_what_is_worth_nothing_is_not_named() -> None:
    found = effective(D(2), [Draw("c/met", D(1), D(0)), Draw("c/elsewhere", D(0), D(1))])
    assert (found.amount, found.draws) == (2, ())


def test_reserved_capacity_that_is_free_at_the_margin_goes_first() -> None:
    """A minimum that cannot be met makes use free as well, but what is paid already goes before it."""
    reserved = effective(D(9), [Draw("c/reserved", D(1), D(1), paid=True)])
    short = effective(D(1), [Draw("c/minimum", D(1), D(1))])
    partly = effective(D(1), [Draw("c/reserved", D(1), D("0.9"), paid=True)])
    assert [reserved.free, short.free, partly.free] == [True, False, False]
    assert sorted([partly, short, reserved], key=lambda one: one.order) == [reserved, short, partly]


@given(
    st.decimals(0, 1000, places=6),
    st.lists(st.tuples(st.decimals(0, 1, places=3), st.decimals(0, 2, places=3)), max_size=4),
)
def test_it_is_never_below_nothing_nor_above_the_list(price: Decimal, pairs: list[tuple[Decimal, Decimal]]) -> None:
    found = effective(price, [Draw(str(index), *pair) for index, pair in enumerate(pairs)])
    assert 0 <= found.amount <= price
    assert found.amount == price * max(D(0), 1 - sum((one * other for one, other in pairs), D(0)))


def test_values_are_written_and_read_and_hold_by_day() -> None:
    data = encode(NOW, {"c/x": {"2026-07-01/2027-01-01": "0.2", "2026-01-01/2026-07-01": "0.115"}, "c/y": {}})
    validate(msgspec.json.decode(data), schema())
    values = decode(data)
    days = (date(2025, 12, 31), date(2026, 1, 1), date(2026, 6, 30), date(2026, 7, 1), date(2027, 1, 1))
    assert [values.of("c/x", day) for day in days] == [None, D("0.115"), D("0.115"), D("0.2"), None]
    assert values.of("c/y", days[1]) is None
    assert values.of("c/z", days[1]) is None


def test_values_are_stale_after_a_day() -> None:
    values = decode(encode(NOW, {}))
    day = timedelta(seconds=MARGINAL_VALUES_FRESH_S)
    second = timedelta(seconds=1)
    assert [values.fresh(NOW + since) for since in (-second, second * 0, day - second, day)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"made_at": "2026-03-18T12:00:00Z"}',
        '{"made_at": "noon", "values": {}}',
        '{"made_at": "2026-03-18T12:00:00Z", "values": {"c": {"2026": "1"}}}',
        '{"made_at": "2026-03-18T12:00:00Z", "values": {"c": {"2026-01-01/2027-01-01": "-1"}}}',
        '{"made_at": "2026-03-18T12:00:00Z", "values": {"c": {"2026-01-01/2027-01-01": "NaN"}}}',
        '{"made_at": "2026-03-18T12:00:00Z", "values": {"c": {"2026-01-01/2027-01-01": "much"}}}',
    ],
)
def test_another_file_is_refused_with_the_way_to_make_one(text: str) -> None:
    with pytest.raises(ValuesError, match="stateline contracts plan --values"):
        decode(text.encode())
