"""What a call costs, and the most that it may: by kind of token, by band, and never a cent too little."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from stateline.core.billing import Held, Price, Rates, plain, tier_of
from stateline.core.calls import Usage
from stateline.money.meter import (
    OUTPUT_UNLIMITED,
    Exact,
    Line,
    cost_of,
    lines_of,
    output_affordable,
    rates_for,
    worst_case,
)

D = Decimal

AMOUNTS = st.decimals(min_value=0, max_value=1000, places=6)
MAYBE = st.none() | AMOUNTS
TOKENS = st.integers(0, 2_000_000)


@st.composite
def prices(draw: st.DrawFn, bands_max: int = 3) -> Price:
    bands = [0, *sorted(draw(st.sets(st.integers(1, 1_000_000), max_size=bands_max - 1)))]
    rates = tuple(
        Rates(
            input=draw(AMOUNTS),
            output=draw(AMOUNTS),
            cached=draw(MAYBE),
            cache_write=draw(MAYBE),
            reasoning=draw(MAYBE),
            above=above,
        )
        for above in bands
    )
    return Price(cloud="openai", model="m", currency="USD", rates=rates, per_call=draw(AMOUNTS))


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    input_tokens, output_tokens = draw(TOKENS), draw(TOKENS)
    cached = draw(st.integers(0, input_tokens))
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached,
        cache_write_tokens=draw(st.integers(0, input_tokens - cached)),
        reasoning_tokens=draw(st.integers(0, output_tokens)),
    )


def price(*rates: Rates, per_call: str = "0") -> Price:
    return Price(cloud="openai", model="m", currency="USD", rates=rates, per_call=D(per_call))


FULL = price(
    Rates(input=D("3"), output=D("15"), cached=D("0.3"), cache_write=D("3.75"), reasoning=D("20")), per_call="0.01"
)


def test_each_kind_of_token_has_its_own_price() -> None:
    usage = Usage(input_tokens=1000, cached_tokens=400, cache_write_tokens=100, output_tokens=200, reasoning_tokens=150)
    assert list(lines_of(FULL, usage)) == [
        Line("input", 500, D("3"), D("0.0015")),
        Line("cached_input", 400, D("0.3"), D("0.00012")),
        Line("cache_write", 100, D("3.75"), D("0.000375")),
        Line("output", 50, D("15"), D("0.00075")),
        Line("reasoning", 150, D("20"), D("0.003")),
        Line("call", 1, D("0.01"), D("0.01")),
    ]
    assert cost_of(FULL, usage) == D("0.015745")


def test_what_has_no_price_of_its_own_costs_what_the_whole_does() -> None:
    usage = Usage(input_tokens=1000, cached_tokens=400, cache_write_tokens=100, output_tokens=200, reasoning_tokens=150)
    assert cost_of(price(Rates(input=D(2), output=D(8))), usage) == D("0.0036")


def test_what_a_budget_sets_aside_in_its_own_currency_is_not_rounded() -> None:
    amount, rate = D("12345678901234.123456789012345678901"), D("0.913456789012345")
    assert Fraction(Held("b", rate).of(amount)) == Fraction(amount) * Fraction(rate)
    assert Held("b").of(amount) is amount


def test_a_cached_token_may_cost_nothing() -> None:
    usage = Usage(input_tokens=1000, cached_tokens=1000)
    assert cost_of(price(Rates(input=D(2), cached=D(0))), usage) == 0


def test_kinds_without_tokens_are_left_out() -> None:
    assert list(lines_of(price(Rates(input=D(1))), Usage())) == []


def test_a_part_that_is_said_to_be_more_than_the_whole_is_believed() -> None:
    usage = Usage(input_tokens=10, cached_tokens=30, output_tokens=5, reasoning_tokens=9)
    assert [(line.kind, line.quantity) for line in lines_of(FULL, usage)] == [
        ("cached_input", 30),
        ("reasoning", 9),
        ("call", 1),
    ]


def test_a_long_context_has_its_rates_for_all_tokens_of_the_call() -> None:
    bands = price(Rates(input=D(1), output=D(10)), Rates(input=D(2), output=D(15), above=200_000))
    assert rates_for(bands, 200_000).input == 1
    assert rates_for(bands, 200_001).input == 2
    assert cost_of(bands, Usage(input_tokens=200_000, output_tokens=1000)) == D("0.21")
    assert cost_of(bands, Usage(input_tokens=300_000, output_tokens=1000)) == D("0.615")


def test_a_band_may_be_cheaper_and_the_worst_case_is_then_the_one_below() -> None:
    bands = price(Rates(input=D(2), output=D(10)), Rates(input=D(1), output=D(5), above=100))
    assert worst_case(bands, 1000, 10) == D("0.0021")


def test_no_output_is_affordable_where_the_input_is_not() -> None:
    assert output_affordable(FULL, 1_000_000, D("3.7599")) == -1
    assert output_affordable(FULL, 1_000_000, D("3.76")) == 0


def test_output_that_costs_nothing_is_affordable_without_end() -> None:
    assert output_affordable(price(Rates(input=D(1))), 10, D(1)) == OUTPUT_UNLIMITED
    assert output_affordable(price(Rates(input=D(1), output=D("0.000001"))), 10, D(10) ** 12) == OUTPUT_UNLIMITED


def test_a_token_that_is_not_quite_paid_for_is_not_affordable() -> None:
    # The quotient has more than 28 nines behind its point, and would be rounded up.
    dear = price(Rates(input=D(0), output=D("1.000000000000000000000000001")))
    assert output_affordable(dear, 0, D("0.000003")) == 2


@given(prices(), usages())
def test_a_call_costs_what_its_lines_add_up_to_in_exact_arithmetic(price: Price, usage: Usage) -> None:
    rates = max((each for each in price.rates if usage.input_tokens > each.above or not each.above), key=_above)
    cached, write, think = rates.cached, rates.cache_write, rates.reasoning
    plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    exact = (
        plain * Fraction(rates.input)
        + usage.cached_tokens * Fraction(rates.input if cached is None else cached)
        + usage.cache_write_tokens * Fraction(rates.input if write is None else write)
        + (usage.output_tokens - usage.reasoning_tokens) * Fraction(rates.output)
        + usage.reasoning_tokens * Fraction(rates.output if think is None else think)
    ) / 1_000_000 + Fraction(price.per_call)
    assert Fraction(cost_of(price, usage)) == exact


@given(prices(), usages(), TOKENS, TOKENS)
def test_no_call_costs_more_than_its_worst_case(price: Price, usage: Usage, more: int, longer: int) -> None:
    most = worst_case(price, usage.input_tokens + more, usage.output_tokens + longer)
    assert cost_of(price, usage) <= most


@given(prices(bands_max=1) | prices(), usages())
def test_whole_numbers_come_to_the_same_without_trailing_zeros(price: Price, usage: Usage) -> None:
    exact = Exact(price)
    assert exact.cost(usage) == cost_of(price, usage)
    most = worst_case(price, usage.input_tokens, usage.output_tokens)
    assert exact.worst(usage.input_tokens, usage.output_tokens) == most
    two_kinds = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    assert exact.cost(two_kinds) == cost_of(price, two_kinds)
    if len(price.rates) == 1:
        assert str(exact.cost(two_kinds)) == str(plain(cost_of(price, two_kinds)))


def test_whole_numbers_round_nothing_of_the_longest_prices() -> None:
    dear = price(Rates(input=D("999999999.999999999999999"), output=D("0.000000000000001")), per_call="0.3")
    usage = Usage(input_tokens=2**31, output_tokens=7)
    exact = (2**31 * Fraction("999999999.999999999999999") + 7 * Fraction("0.000000000000001")) / 1_000_000
    assert Fraction(Exact(dear).cost(usage)) == exact + Fraction("0.3")
    assert Exact(dear).cost(usage) == Exact(dear).worst(2**31, 7)


@given(prices(), TOKENS, AMOUNTS)
def test_the_affordable_output_is_the_most_that_can_be_paid_for(price: Price, tokens: int, amount: Decimal) -> None:
    found = output_affordable(price, tokens, amount)
    if found < 0:
        assert worst_case(price, tokens, 0) > amount
    else:
        assert worst_case(price, tokens, found) <= amount
        assert found == OUTPUT_UNLIMITED or worst_case(price, tokens, found + 1) > amount


def test_clouds_have_several_names_for_the_tier_that_is_not_named() -> None:
    assert {tier_of(name) for name in (None, "", "auto", "default", "standard", "on_demand")} == {"default"}
    assert tier_of("flex") == "flex"


def _above(rates: Rates) -> int:
    return rates.above
