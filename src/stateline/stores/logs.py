"""What a reading of many logs asks for and remembers between its pages, whatever a store's rows look like."""

from __future__ import annotations

from typing import NamedTuple

ALWAYS_MS = 1 << 52
"""Later than any event."""
_SLACK_MS = 3600 * 1000
"""The times of a session's events may go back when a clock is set, but hardly by more."""


class Wanted(NamedTuple):
    """Which events a reading brings.

    Attributes:
        tags: of their types, without the version.
        since_ms: sessions in which nothing happened since are left out (Unix time); so are those made after
            ``until_ms``. Of the others all comes.
        tenant: of this one alone; None: of all.
    """

    tags: tuple[str, ...]
    since_ms: int = 0
    until_ms: int = ALWAYS_MS
    tenant: str | None = None


class Seen(NamedTuple):
    """Where a reading goes on: in which session, behind which of its events. And what it has looked through."""

    number: int = 0
    seq: int = 0
    sessions: int = 0
    newer: int = 0


def may_hold(wanted: Wanted) -> tuple[int, int]:
    """Sessions made before the first and changed since the second may hold something of that time (Unix ms)."""
    return wanted.until_ms + _SLACK_MS, wanted.since_ms - _SLACK_MS
