"""Commitments drawn down by use: what is promised, met, carried on and missed, interval by interval.

Money of one commitment is in the unit of its amount; a row in another currency is converted by a given rate or
counted as left out, never added. What was promised is the amount as `report` states it, spread over equal
intervals by cents, so that the intervals' sum is the amount; a `schedule` says each instalment itself.

The forecast is a straight line: what accrued in the running interval, times all of its days for those that are
over. Use that accrues by invoice comes in steps, so months whose bills have closed stand for days there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

from stateline.contracts.amounts import CURRENCIES, decimal, stated
from stateline.contracts.eligible import ZERO, Applicability, Columns, party, seller
from stateline.contracts.evaluate import Contracts
from stateline.contracts.intervals import Part, close_days, months_on, parts_of
from stateline.contracts.model import Clause, Commitment
from stateline.contracts.report import doubt
from stateline.contracts.spans import bounds, day_of

EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
CENT = Decimal("0.01")
_SHARE = Decimal("0.0001")

Rates = Mapping[tuple[str, str], Decimal]
"""(have, want) -> what one unit of the first is in the second."""


class Use(NamedTuple):
    """A row of use.

    Attributes:
        day: on which it was used (UTC).
        billed: the first day on which an invoice can have it: FOCUS BillingPeriodEnd.
        cost: FOCUS BilledCost: what minimums and options count.
        value: FOCUS ContractedCost: what prepaid and reserved amounts count, since use of those is billed at 0.
        columns: FOCUS's columns, as far as scopes ask of them.
    """

    day: date
    billed: date
    cost: Decimal
    value: Decimal
    currency: str
    columns: Columns


class Terms(NamedTuple):
    """A commitment, ready to be drawn down.

    Attributes:
        parts: its intervals, in order.
        amounts: what is promised in each.
        rate: of a shortfall, what is charged.
    """

    id: str
    payer: str
    payee: str
    unit: str
    commitment: Commitment
    scope: Applicability
    parts: tuple[Part, ...]
    amounts: tuple[Decimal, ...]
    rate: Decimal

    @property
    def minimum(self) -> bool:
        return self.commitment.model == "minimum"

    @property
    def paid(self) -> bool:
        """Whether it is paid already, so that use of it is not billed."""
        return self.commitment.model in ("prepaid", "reserved")

    def accrues_on(self, day: date) -> date:
        """The day on which a day's use counts: by invoice, when the month's bill closes."""
        return day if self.commitment.accrues == "use" else months_on(day.replace(day=1), 1)

    def counted(self, columns: Columns) -> Decimal:
        """The fraction of a row's cost that counts; 0 for what is on somebody else's bill."""
        return self.scope.of(columns).cost if seller(columns) == party(self.payee) else ZERO


class Met(NamedTuple):
    """What an interval comes to with so much drawn.

    Attributes:
        applied: what of it counted within the interval.
        carried: what goes on into the next one: of a minimum what is more than promised, else what is unused.
        shortfall: what was promised and not met; of prepaid, reserved and option, what lapses unused.
        charge: what a minimum's shortfall costs; else nothing, since it is paid already, or never was.
        over: what is beyond a prepaid or reserved amount or an option, and so paid as it is used.
    """

    applied: Decimal
    carried: Decimal
    shortfall: Decimal
    charge: Decimal
    over: Decimal


def meet(terms: Terms, number: int, carried: Decimal, drawn: Decimal) -> Met:
    """What one interval comes to.

    Args:
        number: of the interval, from 0.
        carried: what the one before carried on.
        drawn: what eligible use comes to within it.
    """
    promised = terms.amounts[number]
    on = terms.commitment.rollover and number + 1 < len(terms.parts)
    if terms.minimum:
        met = EXACT.add(carried, drawn)
        beyond = max(ZERO, EXACT.subtract(met, promised))
        short = max(ZERO, EXACT.subtract(promised, met))
        return Met(drawn, beyond if on else ZERO, short, EXACT.multiply(short, terms.rate), ZERO)
    room = EXACT.add(promised, carried)
    applied = max(ZERO, min(drawn, room))
    unused = EXACT.subtract(room, applied)
    return Met(applied, unused if on else ZERO, ZERO if on else unused, ZERO, EXACT.subtract(drawn, applied))


class Interval(NamedTuple):
    """One interval on a day.

    Attributes:
        until: the first day after it; None: it has no end.
        status: over, running or ahead.
        carried_in: from the interval before; ahead of today it is what is forecast.
        drawn: so far.
        remaining: of what is promised and carried in, what is not met yet.
        pace: drawn for what an even pace would have drawn by now: 1 is on time. None: nothing is over yet.
        forecast: drawn at the end, by the straight line; what is over is known.
        result: what it comes to, as drawn or as forecast; None where nothing can be said.
    """

    since: date
    until: date | None
    status: str
    promised: Decimal
    carried_in: Decimal
    drawn: Decimal
    remaining: Decimal
    pace: Decimal | None
    forecast: Decimal | None
    result: Met | None


class Undrawn(NamedTuple):
    """A commitment that cannot be drawn down, and why."""

    id: str
    why: str


def terms_of(contracts: Contracts, payer: str | None = None) -> tuple[list[Terms], list[Undrawn]]:
    """The commitments of a payer (None: of all), and those that cannot be drawn down."""
    found: list[Terms] = []
    left: list[Undrawn] = []
    for contract in contracts.contracts:
        for clause in contract.clauses:
            if clause.kind != "commitment" or (payer is not None and clause.payer != payer):
                continue
            name = f"{contract.contract}/{clause.id}"
            since, _ = bounds(clause.effective, contracts.determined)
            if contracts.spans[name].empty and since != date.max:
                continue  # Its successor began before it did.
            try:
                found.append(_terms(name, clause, contracts))
            except ValueError as error:
                left.append(Undrawn(name, str(error)))
    return found, left


def _terms(name: str, clause: Clause, contracts: Contracts) -> Terms:
    commitment, amount = clause.commitment, clause.amount
    if why := doubt(clause):
        raise ValueError(why)
    if commitment is None or not clause.payee:
        raise ValueError("it says no commitment: key, or no payee")
    scope = Applicability(commitment.applicability)
    if scope.complex:
        raise ValueError("its scope is complex (IsComplexScope): what counts cannot be told from columns")
    if amount is None:
        raise ValueError("it has no amount")
    if amount.unit not in CURRENCIES:
        raise ValueError(f"its unit is {amount.unit}, and use is drawn down as money")
    since, until = bounds(clause.effective, contracts.determined)
    parts = parts_of(commitment, since, until)
    ends = day_of(contracts.spans[name].until)
    if commitment.schedule:
        whole = [decimal(each.amount) for each in commitment.schedule]
    else:
        whole = _spread(stated(amount), [each.weight for each in parts])
    kept = [(each, value) for each, value in zip(parts, whole, strict=True) if each.since < ends]
    last, value = kept[-1]
    if last.until is not None and ends < last.until:
        # A successor took over within the interval: what was promised of it goes by its days.
        share = EXACT.divide(Decimal((ends - last.since).days), Decimal((last.until - last.since).days))
        kept[-1] = (last._replace(until=ends), EXACT.multiply(value, share).quantize(CENT, context=EXACT))
    return Terms(
        id=name,
        payer=clause.payer or "",
        payee=clause.payee,
        unit=amount.unit,
        commitment=commitment,
        scope=scope,
        parts=tuple(each for each, _ in kept),
        amounts=tuple(each for _, each in kept),
        rate=decimal(commitment.shortfall_rate),
    )


def _spread(amount: Decimal, weights: list[Decimal]) -> list[Decimal]:
    """In parts by weight, to the cent, such that each beginning's sum is as near as it can be."""
    whole = sum(weights, ZERO)
    found: list[Decimal] = []
    passed = before = ZERO
    for number, weight in enumerate(weights, 1):
        passed += weight
        share = EXACT.divide(EXACT.multiply(amount, passed), whole).quantize(CENT, context=EXACT)
        upto = amount if number == len(weights) else share
        found.append(upto - before)
        before = upto
    return found


class Drawdown:
    """Adds up use, row by row, then says what the commitments come to.

    Args:
        terms: whose use it is.
        rates: of exchange, where rows are in other currencies.
    """

    def __init__(self, terms: list[Terms], rates: Rates | None = None) -> None:
        self.terms = terms
        self.rows = 0
        self.unconverted: dict[str, dict[str, int]] = {each.id: {} for each in terms}
        """Commitment -> currency -> eligible rows for which there is no rate."""
        self._rates = rates or {}
        self._drawn: list[dict[date, Decimal]] = [{} for _ in terms]
        self._parts: list[dict[tuple[str | None, ...], Decimal]] = [{} for _ in terms]

    def add(self, use: Use) -> None:
        """One row. Taxes and credits never count; corrections do, with their sign."""
        self.rows += 1
        if (use.columns.get("ChargeCategory") or "Usage") not in ("Usage", "Purchase"):
            return
        issuer = seller(use.columns)
        for index, terms in enumerate(self.terms):
            key = (issuer, *(use.columns.get(name) for name in terms.scope.dimensions))
            part = self._parts[index].get(key)
            if part is None:
                part = self._parts[index][key] = terms.counted(use.columns)
            # A commitment is not met by what was used before it began, whenever that is invoiced.
            if part and use.day >= terms.parts[0].since:
                self._count(index, terms, use, part)

    def _count(self, index: int, terms: Terms, use: Use, part: Decimal) -> None:
        amount = use.cost if terms.commitment.model in ("minimum", "option") else use.value
        if use.currency != terms.unit:
            rate = self._rates.get((use.currency, terms.unit))
            if rate is None:
                missed = self.unconverted[terms.id]
                missed[use.currency] = missed.get(use.currency, 0) + 1
                return
            amount = EXACT.multiply(amount, rate)
        day = use.day if terms.commitment.accrues == "use" else use.billed
        days = self._drawn[index]
        days[day] = EXACT.add(days.get(day, ZERO), EXACT.multiply(amount, part))

    def result(self, at: date) -> dict[str, tuple[Interval, ...]]:
        """Each commitment's intervals at the beginning of a day; use of that day and later is not seen."""
        return {terms.id: tuple(_walk(terms, days, at)) for terms, days in zip(self.terms, self._drawn, strict=True)}


def _walk(terms: Terms, days: Mapping[date, Decimal], at: date) -> list[Interval]:
    found: list[Interval] = []
    carried = ZERO
    rate: Decimal | None = None
    for number, part in enumerate(terms.parts):
        until = part.until or date.max
        drawn = ZERO
        for day, amount in days.items():
            if part.since <= day < until and day < at:
                drawn = EXACT.add(drawn, amount)
        steps = steps_of(terms, part.since, until)
        passed = steps_of(terms, part.since, min(max(at, part.since), until))
        if passed:
            rate = EXACT.divide(drawn, Decimal(passed))
        status = "over" if until <= at else "running" if part.since <= at else "ahead"
        forecast = drawn if status == "over" else None
        if status != "over" and rate is not None and part.until is not None:
            forecast = EXACT.add(drawn, EXACT.multiply(rate, Decimal(steps - passed))).quantize(CENT, context=EXACT)
        promised = terms.amounts[number]
        even = EXACT.divide(EXACT.multiply(promised, Decimal(passed)), Decimal(steps)) if passed else ZERO
        result = None if forecast is None else meet(terms, number, carried, forecast)
        found.append(
            Interval(
                since=part.since,
                until=part.until,
                status=status,
                promised=promised,
                carried_in=carried,
                drawn=drawn,
                remaining=max(ZERO, _left(terms, promised, carried, drawn)),
                pace=EXACT.divide(drawn, even).quantize(_SHARE, context=EXACT) if even and part.until else None,
                forecast=forecast,
                result=result,
            )
        )
        carried = ZERO if result is None else result.carried
    return found


def _left(terms: Terms, promised: Decimal, carried: Decimal, drawn: Decimal) -> Decimal:
    """A minimum's surplus shortens what is left to do, what is unused of others adds to it."""
    whole = EXACT.subtract(promised, carried) if terms.minimum else EXACT.add(promised, carried)
    return EXACT.subtract(whole, drawn)


def steps_of(terms: Terms, since: date, until: date) -> int:
    """Days, or bills that close, from a day until another; what use accrues in."""
    return (until - since).days if terms.commitment.accrues == "use" else close_days(terms.parts[0].since, since, until)
