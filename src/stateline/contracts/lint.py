"""What a set of contracts leaves open or contradicts, though each file is valid by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import combinations
from typing import NamedTuple

from stateline.contracts.amounts import CURRENCIES, decimal
from stateline.contracts.differ import can_differ
from stateline.contracts.errors import FactsError
from stateline.contracts.evaluate import STRICT, Contracts
from stateline.contracts.model import Amount, Clause, Contract, EventDate
from stateline.contracts.quotes import Quoted, amounts, conversion, end, plain, rate

CONVERSION_SLACK = Decimal("0.25")
"""How far an implied rate of exchange may lie from the given one: rates move within a year, slips are larger."""
_MONEY = ("commitment", "capacity", "equity", "funding", "price")
_GRANTS = ("permission", "distribution")


class Finding(NamedTuple):
    """One thing that somebody should look at.

    Attributes:
        rule: its stable name.
        clause: `contract/clause`, or the contract.
        message: what is wrong, with the values.
        others: further clauses that it is about.
        place: `file:line`, where known.
    """

    rule: str
    clause: str
    message: str
    others: tuple[str, ...] = ()
    place: str = ""


class _Named(NamedTuple):
    name: str
    clause: Clause
    contract: Contract


Rates = Mapping[tuple[str, str], Decimal]


def parse_rate(text: str) -> tuple[tuple[str, str], Decimal]:
    """A rate of exchange from outside, as `USD/KRW=1450`.

    Raises:
        FactsError: another form, an unknown currency, or nothing.
    """
    pair, _, value = text.partition("=")
    base, _, other = pair.partition("/")
    try:
        amount = decimal(value)
    except ValueError:
        amount = Decimal(0)
    if base not in CURRENCIES or other not in CURRENCIES or not amount:
        raise FactsError(f'"{text}" is no rate; write USD/KRW=1450 where a dollar costs 1450 won')
    return (base, other), amount


def lint(contracts: Contracts, rates: Rates | None = None) -> list[Finding]:
    """All findings, clause by clause in the order of the files, then what is about several.

    Args:
        rates: (base, other) -> what one of the base costs in the other. A quote as "1,450 won per dollar" in the
            source of any clause gives one too.
    """
    named = [
        _Named(f"{contract.contract}/{clause.id}", clause, contract)
        for contract in contracts.contracts
        for clause in contract.clauses
    ]
    known = {**_stated(named), **(rates or {})}
    found: list[Finding] = []
    for one in named:
        found += _sources(one)
        found += _quoted(one)
        found += _conversions(one, known)
        found += _bounds(one)
    found += _readings(contracts)
    found += _overlaps(contracts, named)
    found += _dangling(contracts, named)
    return [one._replace(place=contracts.places.get(one.clause, "")) for one in found]


# -- sources -------------------------------------------------------------------------------------


def _sources(one: _Named) -> Iterator[Finding]:
    """Sources of one clause that differ among themselves."""
    sources = one.clause.source
    said: dict[str, dict[Quoted, str]] = {}
    ends: dict[str, str] = {}
    for source in sources:
        for amount in _own(source.quote):
            said.setdefault(amount.unit, {}).setdefault(amount, source.document)
        last = end(source.quote)
        if last is not None:
            ends.setdefault(last, source.document)
    for quoted in said.values():
        if len(quoted) > 1:
            what = "; ".join(f"{amount}, says {document}" for amount, document in quoted.items())
            yield Finding("sources-differ", one.name, f"the sources give different amounts: {what}")
    if len(ends) > 1:
        what = "; ".join(f"{last}, says {document}" for last, document in ends.items())
        yield Finding("sources-differ", one.name, f"the sources give different ends: {what}")
    statuses = {source.status: source.document for source in sources}
    if len(statuses) > 1:
        what = "; ".join(f"{status}, says {document}" for status, document in statuses.items())
        yield Finding("status-differs", one.name, f"the sources differ on how it stands: {what}")


def _own(quote: str) -> list[Quoted]:
    """The amounts of a quote, a conversion's second half left out."""
    pair = conversion(quote)
    return [pair[0]] if pair else [] if rate(quote) else amounts(quote)


def _limits(amount: Amount) -> tuple[Decimal | None, Decimal | None]:
    low = amount.exact if amount.exact is not None else amount.min
    high = amount.exact if amount.exact is not None else amount.max
    return None if low is None else decimal(low), None if high is None else decimal(high)


def _quoted(one: _Named) -> Iterator[Finding]:
    """Quotes that the clause's own amount does not hold, or whose unit is another."""
    amount = one.clause.amount
    if amount is None:
        return
    low, high = _limits(amount)
    for source in one.clause.source:
        quoted = _own(source.quote)
        same = [each for each in quoted if each.unit == amount.unit]
        if quoted and not same:
            yield Finding("unit", one.name, f"the amount is in {amount.unit}, and {source.document} says {quoted[0]}")
        for each in same:
            beyond = low is not None and each.value < low and each.bound != "min"
            if beyond or (high is not None and each.value > high and each.bound != "max"):
                yield Finding("amount-differs", one.name, f"{source.document} says {each}, outside the clause's amount")
            slip = _slip(each.value, amount)
            if slip:
                yield Finding("unit-slip", one.name, f"{source.document} says {each}, {slip} times the clause's amount")


def _slip(value: Decimal, amount: Amount) -> str | None:
    """The power of a thousand by which a quote is off, where it is."""
    named = [decimal(each) for each in (amount.exact, amount.about, amount.min, amount.max) if each is not None]
    for each in named:
        for power in (3, 6, 9, -3, -6, -9):
            if value and value == each.scaleb(power):
                return plain(Decimal(1).scaleb(power))
    return None


def _stated(named: list[_Named]) -> Rates:
    found = (rate(source.quote) for one in named for source in one.clause.source)
    return {(base, other): value for base, other, value in filter(None, found)}


def _conversions(one: _Named, rates: Rates) -> Iterator[Finding]:
    for source in one.clause.source:
        pair = conversion(source.quote)
        if pair is None:
            continue
        base, other = pair
        given = rates.get((base.unit, other.unit))
        if given is None:
            back = rates.get((other.unit, base.unit))
            given = None if back is None else 1 / back
        implied = other.value / base.value
        if given is not None and abs(implied / given - 1) > CONVERSION_SLACK:
            yield Finding(
                "conversion",
                one.name,
                f"{source.document} converts {base} to {other}: {_figure(implied)} {other.unit} for a {base.unit}, "
                f"where {_figure(given)} is given: {_figure(implied / given)} times as much",
            )


def _figure(value: Decimal) -> str:
    return plain(value.quantize(Decimal("0.01")) if value >= 1 else value.quantize(Decimal("0.0001")))


def _bounds(one: _Named) -> Iterator[Finding]:
    clause, amount = one.clause, one.clause.amount
    if amount is None:
        if clause.kind in _MONEY:
            yield Finding("no-amount", one.name, f"a clause of kind {clause.kind} without an amount")
    elif amount.about is not None and amount.min is None and amount.max is None and clause.kind in _MONEY:
        yield Finding("no-bound", one.name, f"about {amount.about} {amount.unit}, and no least or greatest amount")


# -- readings ------------------------------------------------------------------------------------


def _readings(contracts: Contracts) -> Iterator[Finding]:
    for gate in contracts.gates:
        for first, second in combinations(gate.readings, 2):
            if can_differ(first.predicate, second.predicate) is False:
                message = f'the readings "{first.id}" and "{second.id}" can never differ'
                yield Finding("readings-agree", gate.id, message)


def _overlaps(contracts: Contracts, named: list[_Named]) -> Iterator[Finding]:
    """What one clause forbids and another one grants, and two exclusivities, while both hold."""
    for first, second in combinations(named, 2):
        a, b = contracts.spans[first.name], contracts.spans[second.name]
        since, until = max(a.since, b.since), min(a.until, b.until)
        if since >= until or not _related(first, second):
            continue
        kinds = (first.clause.kind, second.clause.kind)
        both = kinds == ("exclusivity", "exclusivity")
        if both or ("exclusivity" in kinds and any(kind in _GRANTS for kind in kinds)):
            what = "two exclusivities" if both else f"{kinds[0]} and {kinds[1]}"
            message = f"{what} hold at the same time, and neither is an exception to the other"
            yield Finding("overlap", first.name, message, (second.name,))
        elif kinds == ("equity", "equity") and _may_be_one(first.clause, second.clause):
            message = "the same payer pays the same payee different amounts under both: one thing, or two?"
            yield Finding("overlap", first.name, message, (second.name,))


def _may_be_one(first: Clause, second: Clause) -> bool:
    """Whether two payments may be one that is told twice: of the same to the same, and of different amounts."""
    a, b = first.amount, second.amount
    if a is None or b is None or (first.payer, first.payee) != (second.payer, second.payee):
        return False
    return a.unit == b.unit and a != b


def _related(first: _Named, second: _Named) -> bool:
    """Whether two clauses could be about the same thing: one contract's, and neither excepted from the other."""
    named = {first.clause.id, first.name, second.clause.id, second.name}
    excepted = {first.clause.exception_to, second.clause.exception_to} & named
    return first.contract is second.contract and not excepted


def _dangling(contracts: Contracts, named: list[_Named]) -> Iterator[Finding]:
    holders = {holder for gate in contracts.gates for one in gate.readings for holder in one.held_by}
    for contract in contracts.contracts:
        if contract.posture not in (None, STRICT) and contract.posture not in holders:
            message = f'nobody called "{contract.posture}" holds a reading, so every contested clause denies'
            yield Finding("dangling", contract.contract, message)
    clauses = {one.name: one for one in named}
    for one in named:
        span = contracts.spans[one.name]
        if span.empty:
            yield Finding("dangling", one.name, "it never holds: it is superseded before it begins")
        for when in (one.clause.effective.since, one.clause.effective.until):
            if isinstance(when, EventDate) and when.event not in contracts.determined:
                yield Finding("dangling", one.name, f'nobody has determined the event "{when.event}"')
        base = one.clause.exception_to
        if base is not None:
            other = contracts.spans[base if base in clauses else f"{one.contract.contract}/{base}"]
            if max(span.since, other.since) >= min(span.until, other.until):
                yield Finding("dangling", one.name, f'it is never in force together with "{base}", its base')
        parties = {*one.contract.parties, *one.clause.parties}
        for who in (one.clause.payer, one.clause.payee):
            if who is not None and parties and one.clause.kind != "claim" and who not in parties:
                yield Finding("dangling", one.name, f'"{who}" pays or is paid, and is no party')
    events = {
        when.event
        for one in named
        for when in (one.clause.effective.since, one.clause.effective.until)
        if isinstance(when, EventDate)
    }
    for event in contracts.determined:
        if event not in events:
            yield Finding("dangling", event, f'the event "{event}" is determined, and no clause names it')
