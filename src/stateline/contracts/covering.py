"""Which commitments a row of use draws down, and what of it they have paid, as the row is written.

Use of a prepaid or reserved amount was paid when that was bought, as long as something of its interval is left; the
rest is billed, and counts for minimums and options. So commitments that pay come first, each in its file's order.
"""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import NamedTuple

from stateline.contracts.drawdown import EXACT, Rates, Terms, Use, meet
from stateline.contracts.eligible import ONE, ZERO

_PAYING = ("prepaid", "reserved")
_BILL = timedelta(days=31)
"""No billing period is longer."""


class Covered(NamedTuple):
    """How one commitment applies to a row, in the row's currency.

    Attributes:
        id: ``contract/clause``.
        cost: what draws it down.
        covered: what of that it has paid.
    """

    id: str
    cost: Decimal
    covered: Decimal


class _Left:
    """What is left of a commitment in one interval after another."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._number = 0
        self._carried = ZERO
        self._drawn = ZERO

    def take(self, use: Use, amount: Decimal) -> Decimal:
        """What of an amount it takes; all that a minimum gets counts."""
        terms = self.terms
        number = _interval(terms, use.day if terms.commitment.accrues == "use" else use.billed)
        if use.day < terms.parts[0].since or number is None or number < self._number:
            return ZERO
        while self._number < number:
            self._carried = meet(terms, self._number, self._carried, self._drawn).carried
            self._drawn = ZERO
            self._number += 1
        before = meet(terms, number, self._carried, self._drawn).applied
        self._drawn = EXACT.add(self._drawn, amount)
        return EXACT.subtract(meet(terms, number, self._carried, self._drawn).applied, before)


class Covering:
    """Applies commitments to rows of use, which come by day.

    Args:
        terms: whose use it is.
        rates: of exchange, where rows are in other currencies; without a rate a row draws nothing down.
    """

    def __init__(self, terms: list[Terms], rates: Rates | None = None) -> None:
        paying = [each for each in terms if each.commitment.model in _PAYING]
        self._terms = [_Left(each) for each in (*paying, *(each for each in terms if each not in paying))]
        self._rates = rates or {}

    def since(self, day: date) -> date:
        """The first day whose use tells what is left on another day: of each interval its beginning."""
        first = day
        for left in self._terms:
            terms = left.terms
            number = _interval(terms, day)
            if terms.minimum or number is None:
                continue
            begins = terms.parts[0 if terms.commitment.rollover else number].since
            first = min(first, begins if terms.commitment.accrues == "use" else begins - _BILL)
        return first

    def of(self, use: Use) -> list[Covered]:
        """The commitments that a row draws down."""
        found: list[Covered] = []
        billed = use.value
        for left in self._terms:
            terms = left.terms
            rate = ONE if use.currency == terms.unit else self._rates.get((use.currency, terms.unit))
            part = terms.counted(use.columns)
            amount = EXACT.multiply(billed, part)
            if rate is None or amount <= 0:
                continue
            wanted = EXACT.multiply(amount, rate)
            taken = left.take(use, wanted)
            if not taken:
                continue
            cost = amount if taken == wanted else EXACT.divide(taken, rate)
            pays = terms.commitment.model in _PAYING
            found.append(Covered(terms.id, cost, cost if pays else ZERO))
            if pays:
                billed = EXACT.subtract(billed, cost)
        return found


def _interval(terms: Terms, day: date) -> int | None:
    """The number of the interval that a day is in."""
    for number, part in enumerate(terms.parts):
        if part.since <= day and (part.until is None or day < part.until):
            return number
    return None
