"""Which rate limits hold for a call, in which balances it counts, and what it is told when one is reached."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.limits import RATE_WAIT_MS_MAX, RATE_WINDOW_MS
from stateline.money.budgets import Payer
from stateline.money.rates import Count, RateLimit, again_ms, counts, limiting, refusal, window_end_ms

PAYER = Payer(tenant="acme", key="key_1", model="gpt-5", session="ses_1", agent="triage")
AT_MS = 1_796_083_199_000


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ({}, True),
        ({"tenant": "acme"}, True),
        ({"tenant": "other"}, False),
        ({"key": "key_1"}, True),
        ({"key": "key_2"}, False),
        ({"model": "gpt-5"}, True),
        ({"model": "gpt-4"}, False),
        ({"tenant": "acme", "model": "gpt-4"}, False),
    ],
)
def test_a_limit_holds_for_calls_that_agree_with_all_that_it_names(scope: dict[str, str], *, covered: bool) -> None:
    limit = RateLimit(name="r", requests_per_minute=5, **scope)  # pyright: ignore[reportArgumentType]
    assert limiting([limit], PAYER) == ((limit,) if covered else ())


def test_a_call_counts_in_a_balance_of_its_own_key_for_each_thing_that_is_limited() -> None:
    every = RateLimit(name="r", requests_per_minute=5, tokens_per_minute=70, max_concurrency=2)
    minute = AT_MS // 60_000
    assert counts([every], PAYER, AT_MS) == [
        Count(f"rate/r/acme/key_1/requests/{minute}", "r", "requests", 5, AT_MS + 1_000),
        Count(f"rate/r/acme/key_1/tokens/{minute}", "r", "tokens", 70, AT_MS + 1_000),
        Count("rate/r/acme/key_1/concurrency", "r", "concurrency", 2, 0),
    ]
    assert counts([RateLimit(name="r")], PAYER, AT_MS) == []
    [other] = counts([RateLimit(name="r", requests_per_minute=5)], PAYER._replace(key="key_2"), AT_MS)
    assert other.balance == f"rate/r/acme/key_2/requests/{minute}"


@given(st.integers(0, 4_102_444_800_000), st.integers(0, 200_000))
def test_two_calls_share_a_balance_if_and_only_if_they_are_of_one_minute(at_ms: int, later_ms: int) -> None:
    limit = [RateLimit(name="r", requests_per_minute=5)]
    [one], [other] = counts(limit, PAYER, at_ms), counts(limit, PAYER, at_ms + later_ms)
    assert (one.balance == other.balance) == (at_ms + later_ms < window_end_ms(at_ms))
    assert at_ms < one.until_ms <= at_ms + RATE_WINDOW_MS
    assert one.until_ms % RATE_WINDOW_MS == 0


REQUESTS = Count("b", "team", "requests", 5, AT_MS + 20_400)
TOKENS = REQUESTS._replace(kind="tokens", limit=100)
PLACES = Count("b", "team", "concurrency", 2, 0)


def test_a_call_is_told_when_the_minute_is_over() -> None:
    error = refusal(REQUESTS, Decimal(0), 1, AT_MS)
    assert (error.code, error.status, error.kind, error.limit, error.left) == (
        "rate_limit_exceeded", 429, "requests", 5, 0,
    )  # fmt: skip
    assert (error.until_ms, error.retry_after_s) == (AT_MS + 20_400, 21)
    assert "'team'" in error.message
    error = refusal(TOKENS, Decimal(30), 40, AT_MS)
    assert (error.left, error.retry_after_s) == (30, 21)
    assert "40" in error.message
    # An answer that was longer than was thought has taken more than there was.
    assert refusal(TOKENS, Decimal(-30), 40, AT_MS).left == 0


def test_a_call_that_is_larger_than_a_whole_minute_is_told_not_to_come_again() -> None:
    error = refusal(TOKENS, Decimal(100), 101, AT_MS)
    assert (error.until_ms, error.retry_after_s) == (None, None)
    assert "101" in error.message
    assert again_ms(error, 1, AT_MS) is None
    assert refusal(TOKENS, Decimal(50), 100, AT_MS).retry_after_s == 21


def test_nobody_knows_when_a_place_is_free_so_a_turn_looks_less_and_less_often() -> None:
    error = refusal(PLACES, Decimal(0), 1, AT_MS)
    assert (error.retry_after_s, error.kind, error.limit) == (1, "concurrency", 2)
    assert again_ms(error, 1, AT_MS) == AT_MS + 1_000
    assert again_ms(error, 60, AT_MS) == AT_MS + RATE_WAIT_MS_MAX
    assert again_ms(refusal(REQUESTS, Decimal(0), 1, AT_MS), 60, AT_MS) == REQUESTS.until_ms
