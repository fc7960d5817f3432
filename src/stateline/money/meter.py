"""What a call cost, and the most that it may cost (DESIGN §9, Money)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Context, Decimal, Inexact, InvalidOperation
from fractions import Fraction
from typing import Literal, NamedTuple

from stateline.core.billing import ZERO, Price, Rates
from stateline.core.calls import Usage

_MILLION = Decimal(1_000_000)
_WHOLE = Context(prec=100, traps=[Inexact, InvalidOperation])
OUTPUT_UNLIMITED = 2**31
"""More tokens than any model says in a call."""

TokenType = Literal["input", "cached_input", "cache_write", "output", "reasoning", "call"]


class Line(NamedTuple):
    """One kind of token of a call: how many of it, what a million of them costs, and what these do.

    ``call`` is the fee of the call itself: one, at its own price.
    """

    kind: TokenType
    quantity: int
    per_mtok: Decimal
    amount: Decimal


def rates_for(price: Price, input_tokens: int) -> Rates:
    """The rates of a call with so many input tokens, cached ones included."""
    found = price.rates[0]
    for each in price.rates[1:]:
        if input_tokens > each.above:
            found = each
    return found


def lines_of(price: Price, usage: Usage) -> Iterator[Line]:
    """What a call comes to, by kind of token; kinds without any are left out.

    Cached and cache-write tokens are parts of input, reasoning of output; a provider that says more of a part than
    of the whole is believed in the part.
    """
    rates = rates_for(price, usage.input_tokens)
    plain_input = max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens)
    plain_output = max(0, usage.output_tokens - usage.reasoning_tokens)
    counted: tuple[tuple[TokenType, int, Decimal], ...] = (
        ("input", plain_input, rates.input),
        ("cached_input", usage.cached_tokens, rates.input if rates.cached is None else rates.cached),
        ("cache_write", usage.cache_write_tokens, rates.input if rates.cache_write is None else rates.cache_write),
        ("output", plain_output, rates.output),
        ("reasoning", usage.reasoning_tokens, rates.output if rates.reasoning is None else rates.reasoning),
    )
    for kind, count, per_mtok in counted:
        if count:
            yield Line(kind, count, per_mtok, count * per_mtok / _MILLION)
    if price.per_call:
        yield Line("call", 1, price.per_call, price.per_call)


def cost_of(price: Price, usage: Usage) -> Decimal:
    """What a call cost, exactly: the sum of its lines."""
    if usage.cached_tokens or usage.cache_write_tokens or usage.reasoning_tokens:
        return sum((line.amount for line in lines_of(price, usage)), ZERO)
    # Most calls are of two kinds of token alone.
    rates = price.rates[0] if len(price.rates) == 1 else rates_for(price, usage.input_tokens)
    amount = (usage.input_tokens * rates.input + usage.output_tokens * rates.output) / _MILLION
    return amount + price.per_call if price.per_call else amount


def worst_case(price: Price, input_tokens: int, output_tokens: int) -> Decimal:
    """The most that a call with up to so many tokens may cost.

    Whatever of the input is cached, written to a cache or neither, whatever of the output is reasoning, and
    whichever of the bands up to that input it falls into.
    """
    if len(price.rates) == 1:
        dearest_input, dearest_output = _dearest_input(price.rates[0]), _dearest_output(price.rates[0])
    else:
        reached = [each for each in price.rates if input_tokens > each.above or not each.above]
        dearest_input = max(_dearest_input(each) for each in reached)
        dearest_output = max(_dearest_output(each) for each in reached)
    amount = (input_tokens * dearest_input + output_tokens * dearest_output) / _MILLION
    return amount + price.per_call if price.per_call else amount


class Exact:
    """A price in whole numbers: what ``cost_of`` and ``worst_case`` give, for the price of every call's arithmetic.

    Only calls with two kinds of token, at a price without bands, are computed here; all others are there.
    """

    __slots__ = ("_call", "_dearest_input", "_dearest_output", "_input", "_one", "_output", "price")

    def __init__(self, price: Price) -> None:
        self.price = price
        self._one = None
        if len(price.rates) == 1:
            rates = price.rates[0]
            dearest = _dearest_input(rates), _dearest_output(rates)
            amounts = [Fraction(each) for each in (rates.input, rates.output, *dearest)]
            call = Fraction(price.per_call) * 1_000_000
            # The denominators are of twos and fives alone, so one of them, or their product, does for all.
            scale = math.lcm(*(each.denominator for each in (*amounts, call)))
            self._input, self._output, self._dearest_input, self._dearest_output = (
                int(each * scale) for each in amounts
            )
            self._call = int(call * scale)
            self._one = Decimal(scale * 1_000_000)

    def cost(self, usage: Usage) -> Decimal:
        """``cost_of``."""
        one = self._one
        if one is None or usage.cached_tokens or usage.cache_write_tokens or usage.reasoning_tokens:
            return cost_of(self.price, usage)
        return _WHOLE.divide(usage.input_tokens * self._input + usage.output_tokens * self._output + self._call, one)

    def worst(self, input_tokens: int, output_tokens: int) -> Decimal:
        """``worst_case``."""
        one = self._one
        if one is None:
            return worst_case(self.price, input_tokens, output_tokens)
        dearest = input_tokens * self._dearest_input + output_tokens * self._dearest_output
        return _WHOLE.divide(dearest + self._call, one)


def output_affordable(price: Price, input_tokens: int, amount: Decimal) -> int:
    """The most output tokens whose worst case, with that input, is no more than ``amount``.

    Below zero where not even the input can be paid for; never above OUTPUT_UNLIMITED, which is also what a price
    without a price of output pays for.
    """
    left = (amount - worst_case(price, input_tokens, 0)) * _MILLION
    if left < 0:
        return -1
    per_mtok = worst_case(price, input_tokens, 1_000_000) - worst_case(price, input_tokens, 0)
    if left >= per_mtok * OUTPUT_UNLIMITED:
        return OUTPUT_UNLIMITED
    # A quotient that is rounded could pay for one token too many.
    return int(left // per_mtok)


def _dearest_input(rates: Rates) -> Decimal:
    if rates.cached is None and rates.cache_write is None:
        return rates.input
    return max(rates.input, rates.cached or ZERO, rates.cache_write or ZERO)


def _dearest_output(rates: Rates) -> Decimal:
    return rates.output if rates.reasoning is None else max(rates.output, rates.reasoning)
