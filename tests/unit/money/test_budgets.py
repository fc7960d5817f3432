"""Which budgets cover a call, by which balance they count, and what another currency is worth."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from stateline.money.budgets import Budget, NoRate, Payer, Rate, balance_name, converted, covering, month_of, rates_on

PAYER = Payer(tenant="acme", key="key_1", model="gpt-5", session="ses_1", agent="triage")


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ({"tenant": "acme"}, True),
        ({"tenant": "other"}, False),
        ({"key": "key_1"}, True),
        ({"key": "key_2"}, False),
        ({"agent": "triage"}, True),
        ({"agent": "other"}, False),
        ({"session": "ses_1"}, True),
        ({"session": "ses_2"}, False),
        ({"model": "gpt-5"}, True),
        ({"model": "gpt-4"}, False),
        ({"tenant": "acme", "model": "gpt-5"}, True),
        ({"tenant": "acme", "model": "gpt-4"}, False),
        ({}, True),
    ],
)
def test_a_budget_covers_calls_that_agree_with_all_that_it_names(scope: dict[str, str], *, covered: bool) -> None:
    budget = Budget(name="b", limit=Decimal(5), **scope)  # pyright: ignore[reportArgumentType]
    assert covering([budget], PAYER) == ([budget] if covered else [])


def test_a_call_outside_of_sessions_and_agents_draws_on_no_budget_of_one() -> None:
    bare = Payer(tenant="acme", key="key_1", model="gpt-5")
    assert covering([Budget(name="b", limit=Decimal(5), session="ses_1")], bare) == []


def test_a_month_is_one_of_the_calendar_in_utc() -> None:
    assert month_of(1_796_083_199_999) == "2026-11"
    assert month_of(1_796_083_200_000) == "2026-12"
    assert balance_name(Budget(name="team", limit=Decimal(5)), "2026-11") == "budget/team/2026-11"


def test_money_of_another_currency_counts_by_the_configured_rate_alone() -> None:
    rates = {("EUR", "USD"): Decimal("1.08")}
    assert converted(Decimal(5), "USD", "USD", {}) == 5
    assert converted(Decimal(5), "EUR", "USD", rates) == Decimal("5.40")
    with pytest.raises(NoRate) as caught:
        converted(Decimal(5), "USD", "EUR", rates)
    assert (caught.value.have, caught.value.want) == ("USD", "EUR")


def test_the_latest_rate_that_has_begun_holds() -> None:
    rates = [
        Rate("EUR", "USD", Decimal("1.10"), date(2026, 11, 1)),
        Rate("EUR", "USD", Decimal("1.05"), date(2026, 10, 1)),
        Rate("GBP", "USD", Decimal("1.30"), date(2026, 12, 1)),
    ]
    assert rates_on(rates, date(2026, 9, 30)) == {}
    assert rates_on(rates, date(2026, 10, 31)) == {("EUR", "USD"): Decimal("1.05")}
    assert rates_on(rates, date(2026, 11, 1)) == {("EUR", "USD"): Decimal("1.10")}
    assert set(rates_on(rates, date(2026, 12, 1))) == {("EUR", "USD"), ("GBP", "USD")}
