"""Commitments drawn down: intervals, models, carrying on, forecasts."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.contracts.build import contract, loaded

from stateline.contracts.drawdown import Drawdown, Interval, Terms, Undrawn, Use, terms_of
from stateline.contracts.intervals import close_days, months_on
from stateline.contracts.rows import UsageError, use_of
from stateline.core.limits import COMMITMENT_INTERVALS_MAX

D = Decimal
DAY = timedelta(days=1)
BARE = "  - {id: x, kind: commitment, payee: aws, amount: {exact: 1, unit: USD}, commitment: {model: minimum}}\n"


def commitment(
    body: str = "model: minimum", *, amount: str = '{exact: "1200", unit: USD}', more: str = "", **dates: str
) -> str:
    since, until = dates.get("since", "2026-01-01"), dates.get("until", "2027-01-01")
    return (
        f"  - id: {dates.get('id', 'x')}\n    kind: commitment\n    payer: us\n    payee: aws\n"
        f"    effective: {{from: {since}, until: {until}}}\n    amount: {amount}\n    commitment: {{{body}}}\n{more}"
    )


def terms(text: str) -> Terms:
    found, left = terms_of(loaded(contract(text)))
    assert not left
    return found[0]


def refused(text: str, **more: str) -> str:
    found, left = terms_of(loaded(contract(text), **more))
    assert not found
    return left[0].why


def used(day: str | date, cost: str, *, currency: str = "USD", value: str | None = None, **columns: str) -> Use:
    when = date.fromisoformat(day) if isinstance(day, str) else day
    row = {
        "ChargePeriodStart": f"{when.isoformat()}T00:00:00Z",
        "BilledCost": cost,
        "ContractedCost": value,
        "BillingCurrency": currency,
        "ServiceProviderName": "AWS",
        **columns,
    }
    return use_of(row)


def drawn(text: str, *uses: Use, at: str = "2026-07-01", **more: Any) -> tuple[Interval, ...]:
    found = Drawdown([terms(text)], **more)
    for each in uses:
        found.add(each)
    return found.result(date.fromisoformat(at))["c/x"]


# -- intervals -----------------------------------------------------------------------------------


def test_an_amount_is_spread_over_equal_intervals_and_adds_up_to_the_cent() -> None:
    found = terms(
        commitment("model: minimum, interval: quarterly", amount='{about: "1000", unit: USD}', until="2026-08-16")
    )
    assert [(each.since.isoformat(), str(each.until)) for each in found.parts] == [
        ("2026-01-01", "2026-04-01"),
        ("2026-04-01", "2026-07-01"),
        ("2026-07-01", "2026-08-16"),
    ]
    assert found.amounts == (D(400), D(400), D(200))
    seven = terms(
        commitment("model: minimum, interval: annual", amount='{exact: "100", unit: USD}', until="2033-01-01")
    )
    assert sum(seven.amounts) == 100
    assert set(seven.amounts) == {D("14.28"), D("14.29")}


def test_months_end_where_the_month_does() -> None:
    assert months_on(date(2026, 1, 31), 1) == date(2026, 2, 28)
    assert months_on(date(2026, 1, 31), 2) == date(2026, 3, 31)
    assert months_on(date(9999, 12, 1), 1) == date.max


def test_a_schedule_says_its_own_amounts() -> None:
    body = 'model: minimum, schedule: [{until: 2026-03-01, amount: "5"}, {until: 2026-09-01, amount: 7}]'
    found = terms(commitment(body))
    assert [(each.since, each.until) for each in found.parts] == [
        (date(2026, 1, 1), date(2026, 3, 1)),
        (date(2026, 3, 1), date(2026, 9, 1)),
    ]
    assert found.amounts == (D(5), D(7))


def test_a_successor_ends_an_interval_and_what_is_promised_of_it() -> None:
    old = commitment("model: minimum, interval: quarterly")
    new = commitment("model: minimum", id="y", since="2026-05-16", more="    supersedes: [x]\n")
    (first, second), _ = terms_of(loaded(contract(old, new)))
    assert [each.until for each in first.parts] == [date(2026, 4, 1), date(2026, 5, 16)]
    assert first.amounts == (D(300), D("148.35"))
    assert second.parts[0].since == date(2026, 5, 16)
    gone = commitment("model: minimum", id="y", since="2025-01-01", more="    supersedes: [x]\n")
    found, left = terms_of(loaded(contract(old, gone)))
    assert [each.id for each in found] == ["c/y"]
    assert not left


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("  - {id: x, kind: commitment, payee: aws, amount: {exact: 1, unit: USD}}\n", "no commitment"),
        ("  - {id: x, kind: commitment, commitment: {model: minimum}}\n", "no payee"),
        ("  - {id: x, kind: commitment, payee: aws, commitment: {model: minimum}}\n", "no amount"),
        (commitment(amount="{exact: 5, unit: GW}"), "its unit is GW"),
        (commitment("model: minimum, applicability: {IsComplexScope: true}"), "complex"),
        (commitment(since="{event: go}"), "not determined"),
        (commitment("model: minimum, interval: monthly", until="{event: stop}"), "no last day"),
        (commitment("model: minimum, schedule: [{until: 2025-03-01, amount: 5}]"), "its schedule begins on"),
        (commitment("model: minimum, interval: monthly", until="9000-01-01"), f"more than {COMMITMENT_INTERVALS_MAX}"),
        (BARE, "no first day"),
        (commitment(more="    source: [{document: x, status: disputed}]\n"), "a source has it as disputed"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_down_is_said_with_its_reason(text: str, why: str) -> None:
    assert why in refused(text)


def test_what_is_paid_already_and_when_use_counts() -> None:
    reserved, minimum = terms(commitment("model: reserved, accrues: use")), terms(commitment())
    assert (reserved.paid, minimum.paid) == (True, False)
    day = date(2026, 12, 9)
    assert (reserved.accrues_on(day), minimum.accrues_on(day)) == (day, date(2027, 1, 1))


def test_commitments_of_one_payer_and_no_other_clauses() -> None:
    found, left = terms_of(loaded(contract(commitment(), "  - {id: other, kind: claim}\n")), "them")
    assert (found, left) == ([], list[Undrawn]())


# -- what counts ---------------------------------------------------------------------------------


def test_only_what_is_on_the_payees_bill_and_in_scope_counts() -> None:
    scope = "applicability: {InclusionOperator: Or, Inclusions: [{Dimension: ServiceName, Operator: In, Values: [Bedrock]}, {Dimension: PublisherName, Operator: Exists, Values: ['*'], Applicability: {Cost: 0.25}}]}"  # noqa: E501
    rows = (
        used("2026-02-01", "10", ServiceName="Bedrock"),
        used("2026-02-01", "1", ServiceName="Bedrock"),
        used("2026-02-02", "100", ServiceName="Other", PublisherName="Acme"),
        used("2026-02-02", "1000", ServiceName="Other"),
        used("2026-02-02", "1000", ServiceName="Bedrock", ServiceProviderName="Microsoft"),
        used("2026-02-02", "1000", ServiceName="Bedrock", ChargeCategory="Tax"),
        used("2026-02-03", "-5", ServiceName="Bedrock", ChargeCategory="Usage", ChargeClass="Correction"),
        used("2025-12-31", "1000", ServiceName="Bedrock"),
    )
    assert drawn(commitment(f"model: minimum, accrues: use, {scope}"), *rows)[0].drawn == D(31)


def test_prepaid_and_reserved_use_counts_by_what_it_is_worth() -> None:
    row = used("2026-02-01", "0", value="7")
    for model, counted in (("minimum", 0), ("option", 0), ("prepaid", 7), ("reserved", 7)):
        assert drawn(commitment(f"model: {model}, accrues: use"), row)[0].drawn == counted


def test_other_currencies_count_by_a_given_rate_or_are_left_out_by_name() -> None:
    text = commitment("model: minimum, accrues: use")
    row = used("2026-02-01", "100", currency="eur")
    assert drawn(text, row, rates={("EUR", "USD"): D("1.1")})[0].drawn == D(110)
    found = Drawdown([terms(text)])
    found.add(row)
    found.add(row)
    assert found.unconverted == {"c/x": {"EUR": 2}}
    assert found.rows == 2
    assert found.result(date(2026, 7, 1))["c/x"][0].drawn == 0


def test_by_invoice_use_counts_when_its_bill_closes() -> None:
    rows = (used("2026-03-31", "10"), used("2026-03-30", "5", BillingPeriodEnd="2026-03-31T00:00:00Z"))
    by_invoice = drawn(commitment("model: minimum, interval: quarterly"), *rows, at="2026-04-02")
    assert [each.drawn for each in by_invoice[:2]] == [D(5), D(10)]
    by_use = drawn(commitment("model: minimum, interval: quarterly, accrues: use"), *rows, at="2026-04-02")
    assert [each.drawn for each in by_use[:2]] == [D(15), D(0)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"BilledCost": None}, "no BilledCost"),
        ({"BilledCost": "much"}, "no BilledCost"),
        ({"BilledCost": "NaN"}, "no BilledCost"),
        ({"ChargePeriodStart": "yesterday"}, "no ChargePeriodStart"),
    ],
)
def test_a_row_that_is_no_use_is_refused(row: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        use_of({"BilledCost": "1", "BillingCurrency": "USD", "ChargePeriodStart": "2026-01-01", **row})


# -- what it comes to ----------------------------------------------------------------------------


def test_a_minimums_shortfall_is_charged_and_its_surplus_carried_on_only_with_rollover() -> None:
    rows = (used("2026-01-05", "350"), used("2026-04-05", "200"))
    body = 'model: minimum, interval: quarterly, accrues: use, shortfall_rate: "0.5"'
    first, second, third, _ = drawn(commitment(body), *rows)
    assert first.result is not None
    assert second.result is not None
    assert (first.result.shortfall, first.result.charge) == (0, 0)
    assert (second.result.shortfall, second.result.charge) == (100, 50)
    assert third.status == "running"
    rolled = drawn(commitment(f"{body}, rollover: true"), *rows)
    assert rolled[1].carried_in == 50
    assert rolled[1].result is not None
    assert (rolled[1].result.shortfall, rolled[1].result.charge) == (50, 25)


@pytest.mark.parametrize("model", ["prepaid", "reserved", "option"])
def test_what_is_unused_of_the_others_lapses_or_is_carried_on(model: str) -> None:
    rows = (used("2026-01-05", "250"), used("2026-04-05", "380"))
    first, second, *_ = drawn(commitment(f"model: {model}, interval: quarterly, accrues: use"), *rows)
    assert first.result is not None
    assert second.result is not None
    assert (first.result.shortfall, first.result.charge, first.result.over) == (50, 0, 0)
    assert (second.result.applied, second.result.over) == (300, 80)
    first, second, *_, last = drawn(
        commitment(f"model: {model}, interval: quarterly, accrues: use, rollover: true"), *rows, at="2027-01-01"
    )
    assert first.result is not None
    assert second.result is not None
    assert last.result is not None
    assert (first.result.shortfall, first.result.carried) == (0, 50)
    assert (second.result.applied, second.result.over) == (350, 30)
    assert (last.result.carried, last.result.shortfall) == (0, 600)


def test_pace_forecast_and_expected_shortfall_of_a_running_interval() -> None:
    rows = [used(date(2026, 1, 1) + day * DAY, "2") for day in range(100)]
    (found,) = drawn(commitment("model: minimum, accrues: use"), *rows, at="2026-03-12")
    assert (found.drawn, found.remaining, found.status) == (140, 1060, "running")
    assert found.pace == D("0.6083")  # 140 drawn, 1200 * 70 / 365 = 230.14 at an even pace
    assert found.forecast == 730
    assert found.result is not None
    assert (found.result.shortfall, found.result.charge) == (470, 470)


def test_what_is_ahead_goes_on_as_the_last_interval_went() -> None:
    rows = [used(date(2026, 1, 1) + day * DAY, "4") for day in range(90)]
    found = drawn(
        commitment("model: minimum, accrues: use, interval: quarterly, rollover: true"), *rows, at="2026-04-01"
    )
    assert [each.status for each in found] == ["over", "running", "ahead", "ahead"]
    assert [each.forecast for each in found] == [360, 364, 368, 368]
    assert [each.carried_in for each in found] == [0, 60, 124, 192]
    assert found[1].pace is None
    nothing = drawn(commitment("model: minimum, accrues: use"), at="2025-06-01")
    assert (nothing[0].status, nothing[0].forecast, nothing[0].result) == ("ahead", None, None)


def test_by_invoice_the_line_goes_through_the_bills_that_have_closed() -> None:
    rows = [used(f"2026-{month:02}-15", "50") for month in range(1, 7)]
    (found,) = drawn(commitment(), *rows, at="2026-04-20")
    assert (found.drawn, found.forecast) == (150, 550)  # 3 of the 11 bills that close within the year


def test_an_interval_without_end_has_no_pace() -> None:
    (found,) = drawn(commitment("model: minimum, accrues: use", until="{event: stop}"), used("2026-01-05", "350"))
    assert (found.until, found.drawn, found.remaining, found.pace, found.forecast) == (None, 350, 850, None, None)


# -- against a slow model ------------------------------------------------------------------------


@given(st.dates(date(2025, 12, 1), date(2028, 3, 1)), st.integers(0, 800), st.integers(0, 400))
def test_bills_that_close_are_counted_as_day_by_day(begun: date, skipped: int, length: int) -> None:
    since = begun + skipped * DAY
    days = [since + number * DAY for number in range(length)]
    assert close_days(begun, since, since + length * DAY) == sum(day.day == 1 and day > begun for day in days)


MODELS = st.sampled_from(("minimum", "prepaid", "reserved", "option"))
USES = st.lists(st.tuples(st.integers(-40, 400), st.integers(-5, 400)), max_size=12)


def slow(model: str, amounts: list[int], rollover: bool, spent: list[Decimal]) -> list[tuple[Decimal, Decimal]]:
    """(shortfall, over) of each interval, unit by unit."""
    credit, found = D(0), list[tuple[Decimal, Decimal]]()
    for number, (amount, paid) in enumerate(zip(amounts, spent, strict=True)):
        last = number == len(amounts) - 1
        if model == "minimum":
            missing = amount - (paid + credit)
            found.append((max(missing, D(0)), D(0)))
            credit = -missing if missing < 0 and rollover else D(0)
        else:
            room = amount + credit
            unused = room - min(max(paid, D(0)), room)
            found.append((D(0) if rollover and not last else unused, paid - (room - unused)))
            credit = unused if rollover else D(0)
    return found


@settings(max_examples=200)
@given(MODELS, st.booleans(), st.booleans(), USES)
def test_drawing_down_agrees_with_a_slow_model(
    model: str, rollover: bool, by_use: bool, uses: list[tuple[int, int]]
) -> None:
    begin = date(2026, 1, 1)
    accrues = "use" if by_use else "invoice"
    text = commitment(
        f"model: {model}, rollover: {str(rollover).lower()}, accrues: {accrues}, "
        "schedule: [{until: 2026-03-10, amount: 100}, {until: 2026-07-01, amount: 300}, "
        "{until: 2027-01-01, amount: 50}]"
    )
    edges = [begin, date(2026, 3, 10), date(2026, 7, 1), date(2027, 1, 1)]
    spent = [D(0)] * 3
    rows: list[Use] = []
    for offset, cost in uses:
        day = begin + offset * DAY
        rows.append(used(day, str(cost)))
        counts = day
        while not by_use and not (counts > day and counts.day == 1):
            counts += DAY
        for number in range(3):
            if day >= begin and edges[number] <= counts < edges[number + 1]:
                spent[number] += cost
    found = drawn(text, *rows, at="2027-02-01")
    assert [each.drawn for each in found] == spent
    results = [each.result for each in found if each.result is not None]
    assert [(each.shortfall, each.over) for each in results] == slow(model, [100, 300, 50], rollover, spent)
