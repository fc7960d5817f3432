"""What a set of contracts comes to on a day: what holds and ends, who owes whom, and what goes round.

A sum takes of each amount the value that is stated: the exact one, else about, else the least, else the
greatest; its bounds stand beside it. Different units are never added. Counted is a clause that some source has
as signed and none as disputed or ended (or that names no source); what is left out is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

import msgspec

from stateline.contracts.amounts import CURRENCIES, decimal, stated
from stateline.contracts.evaluate import Contracts
from stateline.contracts.facts import EPOCH, micros
from stateline.contracts.model import Amount, Clause
from stateline.contracts.quotes import plain

_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_SHARE = Decimal("0.0001")
_CENT = Decimal("0.01")
_YEAR_DAYS = Decimal("365.2425")
_DAY_US = 24 * 3600 * 1_000_000


class _Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Decimals are strings of digits; shares and ratios have four places at most."""


class InForce(_Row, frozen=True, kw_only=True):
    """A clause that holds on the day; `until` is the first day on which it no longer does."""

    id: str
    kind: str
    text: str
    since: str | None = msgspec.field(name="from", default=None)
    until: str | None = None


class Sum(_Row, frozen=True, kw_only=True):
    """Amounts of one unit: what is stated, and between what it lies where that is known.

    Attributes:
        least: no less than this.
        most: no more than this; None: nobody says.
        clauses: what was added up.
    """

    unit: str
    stated: str
    least: str
    most: str | None = None
    clauses: tuple[str, ...] = ()


class Owed(_Row, frozen=True, kw_only=True):
    """One commitment.

    Attributes:
        years: its length, where it has both days.
        per_year: what is stated, spread evenly, to the cent.
        of_backlog: its share of the backlog that a claim states for the payee.
    """

    id: str
    payer: str
    payee: str
    amount: Sum
    years: str | None = None
    per_year: str | None = None
    of_backlog: str | None = None


class Between(_Row, frozen=True, kw_only=True):
    """What one payer has promised to one payee.

    Attributes:
        share: of all that the payer promised in this unit.
    """

    payer: str
    payee: str
    amount: Sum
    share: str


class Payer(_Row, frozen=True, kw_only=True):
    """All that one payer promised, and its share of what a claim says that it promised in all."""

    payer: str
    amount: Sum
    claimed: str | None = None
    of_claimed: str | None = None


class Backlog(_Row, frozen=True, kw_only=True):
    """What a payee is still to be paid, and its share of all that these contracts promise."""

    payee: str
    amount: Sum
    share: str


class Circle(_Row, frozen=True, kw_only=True):
    """Money that an investor gave and that comes back as purchases.

    Attributes:
        scope: the contract whose investors are taken together; None: one investor, over all contracts.
        returns: purchases for one of what was invested.
    """

    receiver: str
    investors: tuple[str, ...]
    invested: Sum
    purchases: Sum
    returns: str
    scope: str | None = None


class Stake(_Row, frozen=True, kw_only=True):
    """A share of a company whose valuation a claim states.

    Attributes:
        gain: the stake's value less what its holder invested.
    """

    holder: str
    company: str
    percent: str
    valuation: str
    value: str
    invested: str
    gain: str
    unit: str


class LeftOut(_Row, frozen=True, kw_only=True):
    """A clause in force that no sum counts, and why."""

    id: str
    why: str


class Report(_Row, frozen=True, kw_only=True):
    """All of it, on one day."""

    at: str
    in_force: tuple[InForce, ...]
    ending: tuple[InForce, ...]
    commitments: tuple[Owed, ...]
    payers: tuple[Payer, ...]
    concentration: tuple[Between, ...]
    backlog: tuple[Backlog, ...]
    circles: tuple[Circle, ...]
    stakes: tuple[Stake, ...]
    left_out: tuple[LeftOut, ...]


class _Paid(NamedTuple):
    """A counted clause with an amount, a payer and a payee."""

    id: str
    clause: Clause
    contract: str
    payer: str
    payee: str
    amount: Amount
    since: int
    until: int


def report(contracts: Contracts, at: datetime, *, given: str = "") -> Report:
    """The report on the clauses that hold at an instant.

    Args:
        at: an instant with its time zone.
        given: the instant as the report is to name it; default: RFC 3339.
    """
    rows: list[InForce] = []
    left: list[LeftOut] = []
    paid: list[_Paid] = []
    claims: list[_Paid] = []
    instant = micros(at)
    for contract in contracts.contracts:
        for clause in contract.clauses:
            name = f"{contract.contract}/{clause.id}"
            span = contracts.spans[name]
            if not span.since <= instant < span.until:
                continue
            rows.append(
                InForce(id=name, kind=clause.kind, text=clause.text, since=_day(span.since), until=_day(span.until))
            )
            if clause.amount is None:
                continue
            payer, payee = clause.payer or "", clause.payee or ""
            row = _Paid(name, clause, contract.contract, payer, payee, clause.amount, *span)
            if clause.kind == "claim":
                claims.append(row)
            elif why := _uncounted(clause):
                left.append(LeftOut(id=name, why=why))
            else:
                paid.append(row)
    owed = [one for one in paid if one.clause.kind == "commitment"]
    equity = [one for one in paid if one.clause.kind == "equity"]
    ending = sorted((row for row in rows if row.until), key=lambda row: (row.until or "", row.id))
    return Report(
        at=given or at.isoformat(),
        in_force=tuple(rows),
        ending=tuple(ending),
        commitments=tuple(_owed(one, claims) for one in owed),
        payers=tuple(_payers(owed, claims)),
        concentration=tuple(_concentration(owed)),
        backlog=tuple(_backlog(owed)),
        circles=tuple(_circles(owed, equity)),
        stakes=tuple(_stakes(equity, claims)),
        left_out=tuple(left),
    )


def _uncounted(clause: Clause) -> str | None:
    """Why no sum counts a clause; None where it is counted."""
    if not clause.payer or not clause.payee:
        return "it names no payer, or no payee"
    return doubt(clause)


def doubt(clause: Clause) -> str | None:
    """Why a clause is not counted on by its sources: none has it as signed, or one as disputed or ended."""
    statuses = {source.status for source in clause.source}
    if doubted := statuses & {"disputed", "ended"}:
        return f"a source has it as {sorted(doubted)[0]}"
    if statuses and "signed" not in statuses:
        return f"no source has it as signed, but as {sorted(statuses)[0]}"
    return None


# -- values --------------------------------------------------------------------------------------


def _day(instant: int) -> str | None:
    day = EPOCH.toordinal() + instant // _DAY_US
    return None if day in (date.min.toordinal(), date.max.toordinal()) else date.fromordinal(day).isoformat()


def _sum(rows: Iterable[_Paid]) -> Sum:
    """Of one unit, one row at least."""
    some = list(rows)
    total = least = Decimal(0)
    most: Decimal | None = Decimal(0)
    for one in some:
        amount = one.amount
        total = _EXACT.add(total, stated(amount))
        low = amount.exact if amount.exact is not None else amount.min
        high = amount.exact if amount.exact is not None else amount.max
        least = _EXACT.add(least, Decimal(0) if low is None else decimal(low))
        most = None if most is None or high is None else _EXACT.add(most, decimal(high))
    return Sum(
        unit=some[0].amount.unit,
        stated=plain(total),
        least=plain(least),
        most=None if most is None else plain(most),
        clauses=tuple(one.id for one in some),
    )


def _ratio(one: str | Decimal, other: str | Decimal) -> str:
    return plain(_EXACT.divide(Decimal(one), Decimal(other)).quantize(_SHARE, context=_EXACT))


def _grouped(rows: Iterable[_Paid], *keys: str) -> dict[tuple[str, ...], list[_Paid]]:
    """Rows by some of their attributes and their unit, in their first order; sums of nothing are left out."""
    groups: dict[tuple[str, ...], list[_Paid]] = {}
    for one in rows:
        groups.setdefault((*(getattr(one, key) for key in keys), one.amount.unit), []).append(one)
    return {key: group for key, group in groups.items() if any(stated(one.amount) for one in group)}


def _claimed(claims: Iterable[_Paid], ending: str, unit: str, *, payer: str = "", payee: str = "") -> Decimal | None:
    """What the latest claim of that name states; None where there is none, or it states nothing."""
    found = [
        one
        for one in claims
        if one.clause.id.endswith(ending) and (one.payer, one.payee, one.amount.unit) == (payer, payee, unit)
    ]
    value = stated(max(found, key=lambda one: one.since).amount) if found else Decimal(0)
    return value or None


# -- parts ---------------------------------------------------------------------------------------


def _owed(one: _Paid, claims: list[_Paid]) -> Owed:
    amount = _sum([one])
    years = _years(one.since, one.until)
    backlog = _claimed(claims, "backlog", amount.unit, payee=one.payee)
    return Owed(
        id=one.id,
        payer=one.payer,
        payee=one.payee,
        amount=amount,
        years=None if years is None else plain(years.quantize(_CENT)),
        per_year=None
        if years is None
        else plain(_EXACT.divide(Decimal(amount.stated), years).quantize(_CENT, context=_EXACT)),
        of_backlog=None if backlog is None else _ratio(amount.stated, backlog),
    )


def _years(since: int, until: int) -> Decimal | None:
    """From one day to another: whole years where the days are anniversaries, else by the mean length of a year."""
    first, last = _day(since), _day(until)
    if first is None or last is None:
        return None
    begun, ended = date.fromisoformat(first), date.fromisoformat(last)
    if (begun.month, begun.day) == (ended.month, ended.day):
        return Decimal(ended.year - begun.year)
    return _EXACT.divide(Decimal((ended - begun).days), _YEAR_DAYS)


def _payers(owed: list[_Paid], claims: list[_Paid]) -> Iterable[Payer]:
    for (payer, unit), rows in _grouped(owed, "payer").items():
        amount = _sum(rows)
        claimed = _claimed(claims, "commitments-total", unit, payer=payer)
        yield Payer(
            payer=payer,
            amount=amount,
            claimed=None if claimed is None else plain(claimed),
            of_claimed=None if claimed is None else _ratio(amount.stated, claimed),
        )


def _concentration(owed: list[_Paid]) -> Iterable[Between]:
    whole = {key: _sum(rows).stated for key, rows in _grouped(owed, "payer").items()}
    for (payer, payee, unit), rows in _grouped(owed, "payer", "payee").items():
        amount = _sum(rows)
        yield Between(payer=payer, payee=payee, amount=amount, share=_ratio(amount.stated, whole[payer, unit]))


def _backlog(owed: list[_Paid]) -> Iterable[Backlog]:
    whole = {key: _sum(rows).stated for key, rows in _grouped(owed).items()}
    for (payee, unit), rows in _grouped(owed, "payee").items():
        amount = _sum(rows)
        yield Backlog(payee=payee, amount=amount, share=_ratio(amount.stated, whole[unit,]))


def _circles(owed: list[_Paid], equity: list[_Paid]) -> Iterable[Circle]:
    """Each investor's own circle, then each contract with several investors and a purchase by what they invest in."""
    money = [one for one in equity if one.amount.unit in CURRENCIES]
    purchases = _grouped(owed, "payer", "payee")
    for (investor, receiver, unit), rows in _grouped(money, "payer", "payee").items():
        if bought := purchases.get((receiver, investor, unit)):
            yield _circle(receiver, rows, bought)
    within = _grouped(owed, "contract", "payer")
    for (contract, receiver, unit), rows in _grouped(money, "contract", "payee").items():
        bought = within.get((contract, receiver, unit))
        if bought and (len(rows) > 1 or bought[0].payee != rows[0].payer):
            yield _circle(receiver, rows, bought, contract)


def _circle(receiver: str, rows: list[_Paid], bought: list[_Paid], scope: str | None = None) -> Circle:
    invested, spent = _sum(rows), _sum(bought)
    return Circle(
        receiver=receiver,
        investors=tuple(dict.fromkeys(one.payer for one in rows)),
        invested=invested,
        purchases=spent,
        returns=_ratio(spent.stated, invested.stated),
        scope=scope,
    )


def _stakes(equity: list[_Paid], claims: list[_Paid]) -> Iterable[Stake]:
    for one in equity:
        if one.amount.unit != "%":
            continue
        for unit in sorted({each.amount.unit for each in claims} & CURRENCIES):
            valuation = _claimed(claims, "valuation", unit, payee=one.payee)
            given = [
                each for each in equity if (each.payer, each.payee, each.amount.unit) == (one.payer, one.payee, unit)
            ]
            if valuation is None or not given:
                continue
            value = _EXACT.divide(_EXACT.multiply(stated(one.amount), valuation), Decimal(100))
            invested = Decimal(_sum(given).stated)
            gain = _EXACT.subtract(value, invested)
            yield Stake(
                holder=one.payer,
                company=one.payee,
                percent=plain(stated(one.amount)),
                valuation=plain(valuation),
                value=plain(value),
                invested=plain(invested),
                gain=plain(gain),
                unit=unit,
            )
