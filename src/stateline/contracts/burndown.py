"""What drawing commitments down comes to, as rows to print: see ``drawdown`` for what the numbers are."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import msgspec

from stateline.contracts.drawdown import Drawdown, Interval, Terms, Undrawn
from stateline.contracts.quotes import plain


class _Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Amounts are decimals, as strings."""


class Burned(_Row, frozen=True, kw_only=True):
    """One interval on the day.

    Attributes:
        until: the first day after it.
        pace: 1 is on time.
        forecast: drawn at its end, if use goes on in a straight line.
        shortfall, charge: of an interval that is over; of others they are ``expected_…``, by the forecast.
        over: drawn beyond what was prepaid, reserved or an option on.
    """

    since: str = msgspec.field(name="from")
    until: str | None = None
    status: str
    promised: str
    carried_in: str
    drawn: str
    remaining: str
    pace: str | None = None
    forecast: str | None = None
    shortfall: str | None = None
    charge: str | None = None
    expected_shortfall: str | None = None
    expected_charge: str | None = None
    over: str | None = None


class Commitment(_Row, frozen=True, kw_only=True):
    """A commitment and its intervals.

    Attributes:
        unconverted: currency -> eligible rows that count nothing, since there is no rate.
    """

    id: str
    payer: str
    payee: str
    unit: str
    model: str
    accrues: str
    intervals: tuple[Burned, ...]
    unconverted: dict[str, int] = msgspec.field(default_factory=dict[str, int])


class NotDrawn(_Row, frozen=True, kw_only=True):
    id: str
    why: str


class Burndown(_Row, frozen=True, kw_only=True):
    """All of them."""

    at: str
    rows: int
    commitments: tuple[Commitment, ...]
    not_drawn: tuple[NotDrawn, ...] = ()


def burndown(drawdown: Drawdown, left: list[Undrawn], at: date) -> Burndown:
    """The rows of a day: of use before it."""
    result = drawdown.result(at)
    return Burndown(
        at=at.isoformat(),
        rows=drawdown.rows,
        commitments=tuple(_commitment(terms, result[terms.id], drawdown) for terms in drawdown.terms),
        not_drawn=tuple(NotDrawn(id=one.id, why=one.why) for one in left),
    )


def _commitment(terms: Terms, intervals: tuple[Interval, ...], drawdown: Drawdown) -> Commitment:
    return Commitment(
        id=terms.id,
        payer=terms.payer,
        payee=terms.payee,
        unit=terms.unit,
        model=terms.commitment.model,
        accrues=terms.commitment.accrues,
        intervals=tuple(map(_interval, intervals)),
        unconverted=drawdown.unconverted[terms.id],
    )


def _interval(one: Interval) -> Burned:
    met = one.result
    final = one.status == "over"
    short, charge = (None, None) if met is None else (plain(met.shortfall), plain(met.charge))
    return Burned(
        since=one.since.isoformat(),
        until=None if one.until is None else one.until.isoformat(),
        status=one.status,
        promised=plain(one.promised),
        carried_in=plain(one.carried_in),
        drawn=plain(one.drawn),
        remaining=plain(one.remaining),
        pace=_told(one.pace),
        forecast=None if final else _told(one.forecast),
        shortfall=short if final else None,
        charge=charge if final else None,
        expected_shortfall=None if final else short,
        expected_charge=None if final else charge,
        over=None if met is None or not met.over else plain(met.over),
    )


def _told(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)
