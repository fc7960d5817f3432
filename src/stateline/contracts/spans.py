"""When each clause holds, once its successors have had their say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import NamedTuple

from stateline.contracts.facts import EPOCH, micros
from stateline.contracts.model import Effective, EventDate

_DAY_US = 24 * 3600 * 1_000_000


class Terms(NamedTuple):
    """A clause's own dates (first day, first day after), and the clauses that it supersedes."""

    since: date
    until: date
    supersedes: tuple[str, ...] = ()


class Span(NamedTuple):
    """From `since` on, before `until`; microseconds of UTC since 1970, since that is what a call compares."""

    since: int
    until: int

    @property
    def empty(self) -> bool:
        return self.until <= self.since


def spans_of(terms: Mapping[str, Terms]) -> tuple[dict[str, Span], str | None]:
    """The spans by clause; or nothing, and a clause that supersedes itself by way of others.

    A clause ends when its first successor starts. One that was superseded before it started never holds, and
    so ends no other.
    """
    successors: dict[str, list[str]] = {name: [] for name in terms}
    waiting = dict.fromkeys(terms, 0)
    for name, one in terms.items():
        for old in set(one.supersedes):
            successors[old].append(name)
            waiting[old] += 1
    spans: dict[str, Span] = {}
    ready = [name for name, count in waiting.items() if not count]
    while ready:
        name = ready.pop()
        one = terms[name]
        starts = [terms[other].since for other in successors[name] if not spans[other].empty]
        spans[name] = Span(_start(one.since), _start(min([one.until, *starts])))
        for old in set(one.supersedes):
            waiting[old] -= 1
            if not waiting[old]:
                ready.append(old)
    circle = next((name for name in terms if name not in spans), None)
    return (spans, None) if circle is None else ({}, circle)


def bounds(effective: Effective, determined: Mapping[str, date]) -> tuple[date, date]:
    """First day, and first day after. A beginning that is not determined has not come, nor has such an end."""
    since, until = effective.since or date.min, effective.until or date.max
    return (
        determined.get(since.event, date.max) if isinstance(since, EventDate) else since,
        determined.get(until.event, date.max) if isinstance(until, EventDate) else until,
    )


def day_of(instant: int) -> date:
    """The UTC day of a span's beginning or end (microseconds since 1970)."""
    return date.fromordinal(EPOCH.toordinal() + instant // _DAY_US)


def _start(day: date) -> int:
    """Days begin at 00:00 UTC."""
    return micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
