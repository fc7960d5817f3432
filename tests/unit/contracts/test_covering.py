"""What commitments have paid of use, row by row: never more than they hold, never more than the row."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.contracts.build import contract, loaded
from tests.unit.contracts.test_drawdown import commitment, terms, used

from stateline.contracts.covering import Covered, Covering
from stateline.contracts.drawdown import Drawdown, Terms, terms_of

D = Decimal
BEGIN = date(2026, 1, 1)
PREPAID = commitment("model: prepaid, interval: monthly, accrues: use", amount='{exact: "1200", unit: USD}')


def of(text: str | list[Terms], *uses: tuple[str, str], **more: str) -> list[list[tuple[str, str]]]:
    """What each row draws down, and what of it is paid."""
    covering = Covering([terms(text)] if isinstance(text, str) else text)
    return [
        [(str(one.cost), str(one.covered)) for one in covering.of(used(day, cost, value=cost, **more))]
        for day, cost in uses
    ]


def test_a_prepaid_amount_pays_until_nothing_of_its_interval_is_left() -> None:
    assert of(PREPAID, ("2026-01-01", "70"), ("2026-01-02", "70"), ("2026-01-03", "5"), ("2026-02-01", "5")) == [
        [("70", "70")], [("30.00", "30.00")], [], [("5", "5")],
    ]  # fmt: skip


def test_what_is_carried_on_pays_in_the_next_interval() -> None:
    text = commitment("model: prepaid, interval: monthly, accrues: use, rollover: true")
    assert of(text, ("2026-01-01", "40"), ("2026-03-01", "300"), ("2026-03-02", "1")) == [
        [("40", "40")], [("260.00", "260.00")], [],
    ]  # fmt: skip


def test_a_minimum_is_drawn_down_by_what_is_billed_and_pays_nothing() -> None:
    minimum = commitment("model: minimum, accrues: use", id="y")
    both, _ = terms_of(loaded(contract(minimum + PREPAID)))
    assert of(both, ("2026-01-01", "70"), ("2026-01-02", "70")) == [
        [("70", "70")], [("30.00", "30.00"), ("40.00", "0")],
    ]  # fmt: skip


def test_an_option_is_drawn_down_up_to_its_most_and_pays_nothing() -> None:
    text = commitment("model: option, accrues: use", amount='{max: "100", unit: USD}')
    assert of(text, ("2026-01-01", "70"), ("2026-01-02", "70"), ("2026-01-03", "1")) == [
        [("70", "0")], [("30", "0")], [],
    ]  # fmt: skip


def test_use_that_is_not_eligible_draws_nothing_down() -> None:
    assert of(PREPAID, ("2025-12-31", "1"), ("2027-01-01", "1"), ("2026-01-01", "0"), ("2026-01-01", "-5")) == [[]] * 4
    assert of(PREPAID, ("2026-01-01", "1"), ServiceProviderName="Azure") == [[]]
    # Rows come by day: what is over stays over.
    assert of(PREPAID, ("2026-02-01", "1"), ("2026-01-01", "1")) == [[("1", "1")], []]


def test_by_invoice_the_bill_says_which_interval_it_is() -> None:
    text = commitment("model: prepaid, interval: monthly")
    row = {"BillingPeriodEnd": "2026-02-01T00:00:00Z"}
    assert of(text, ("2026-01-31", "70"), ("2026-01-31", "70"), **row) == [[("70", "70")], [("30.00", "30.00")]]


def test_another_currency_counts_by_its_rate_alone() -> None:
    use = used("2026-01-01", "50", value="50", currency="EUR")
    assert Covering([terms(PREPAID)]).of(use) == []
    covering = Covering([terms(PREPAID)], {("EUR", "USD"): D(4)})
    assert covering.of(use) == [Covered("c/x", D(25), D(25))]


def test_use_of_the_interval_before_a_day_tells_what_is_left_on_it() -> None:
    day = date(2026, 3, 15)
    assert Covering([terms(PREPAID)]).since(day) == date(2026, 3, 1)
    assert Covering([terms(commitment("model: prepaid, interval: monthly"))]).since(day) == date(2026, 1, 29)
    assert Covering([terms(commitment("model: prepaid, accrues: use, rollover: true"))]).since(day) == BEGIN
    assert Covering([terms(commitment("model: minimum, accrues: use"))]).since(day) == day
    assert Covering([terms(PREPAID)]).since(date(2028, 1, 1)) == date(2028, 1, 1)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 20_000)), max_size=30), st.booleans())
def test_what_is_paid_is_what_the_drawdown_applies(rows: list[tuple[int, int]], rollover: bool) -> None:
    text = commitment(f"model: prepaid, interval: quarterly, accrues: use, rollover: {str(rollover).lower()}")
    covering, drawdown = Covering([terms(text)]), Drawdown([terms(text)])
    paid = D(0)
    for day, cents in sorted(rows):
        use = used(BEGIN + timedelta(days=day), "0", value=str(D(cents) / 100))
        drawdown.add(use)
        covered = sum((one.covered for one in covering.of(use)), D(0))
        assert 0 <= covered <= use.value
        paid += covered
    ((_, intervals),) = drawdown.result(date(2028, 1, 1)).items()
    assert paid == sum((each.result.applied for each in intervals if each.result), D(0))
