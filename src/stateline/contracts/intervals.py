"""The intervals of a commitment: whole months counted from its first day, or the days of its schedule."""

from __future__ import annotations

from calendar import monthrange
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from stateline.contracts.model import Commitment
from stateline.core.limits import COMMITMENT_INTERVALS_MAX

_MONTHS = {"monthly": 1, "quarterly": 3, "annual": 12}


class Part(NamedTuple):
    """An interval.

    Attributes:
        until: the first day after it; None: it has no end.
        weight: 1, or what part of a whole interval it is, by days, where the term ends within it.
    """

    since: date
    until: date | None
    weight: Decimal = Decimal(1)


def parts_of(commitment: Commitment, since: date, until: date) -> list[Part]:
    """A commitment's intervals, in order.

    Args:
        since: its first day; date.min: nobody says.
        until: the first day after it; date.max: it has no end.

    Raises:
        ValueError: it has no beginning, intervals without end, or more of them than are walked.
    """
    if since == date.min:
        raise ValueError("it has no first day (effective.from)")
    if since == date.max:
        raise ValueError("it has not begun: the event that begins it is not determined")
    if commitment.schedule:
        days = [each.until for each in commitment.schedule]
        if days[0] <= since:
            raise ValueError(f"its schedule begins on {days[0]}, and the commitment on {since}")
        return [Part(begin, end) for begin, end in zip([since, *days[:-1]], days, strict=True)]
    if commitment.interval == "full":
        return [Part(since, None if until == date.max else until)]
    if until == date.max:
        raise ValueError("it has no last day (effective.until), so its amount cannot be spread over intervals")
    step = _MONTHS[commitment.interval]
    found: list[Part] = []
    begin = since
    while begin < until:
        if len(found) == COMMITMENT_INTERVALS_MAX:
            raise ValueError(f"it has more than {COMMITMENT_INTERVALS_MAX} intervals")
        end = months_on(since, step * (len(found) + 1))
        weight = Decimal(1) if end <= until else Decimal((until - begin).days) / Decimal((end - begin).days)
        found.append(Part(begin, min(end, until), weight))
        begin = end
    return found


def months_on(day: date, months: int) -> date:
    """The same day so many months later, or the month's last where it has no such day; ``date.max`` beyond dates."""
    number = day.year * 12 + day.month - 1 + months
    year, month = divmod(number, 12)
    if year > date.max.year:
        return date.max
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def close_days(begun: date, since: date, until: date) -> int:
    """The days from ``since`` until ``until`` (exclusive), and after ``begun``, on which a month's bill closes.

    A month's bill closes on the first of the next. The one that closes as the term begins has nothing of it.
    """
    first = max(since, date.fromordinal(begun.toordinal() + 1))
    return max(0, _firsts_before(until) - _firsts_before(first))


def _firsts_before(day: date) -> int:
    """First days of months before a day, counted from the year 0."""
    return day.year * 12 + day.month - 1 + (day.day > 1)
