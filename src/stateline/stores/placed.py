"""What a reading of recorded placements remembers between its pages, whatever a store's rows look like."""

from __future__ import annotations

from typing import NamedTuple

_SLACK_MS = 3600 * 1000
"""The times of a session's events may go back when a clock is set, but hardly by more."""


class Seen(NamedTuple):
    """Where a reading goes on: in which session, behind which of its events. And what it has looked through."""

    number: int = 0
    seq: int = 0
    sessions: int = 0
    newer: int = 0


def may_hold(since_ms: int, until_ms: int) -> tuple[int, int]:
    """Sessions made before the first and changed since the second may hold something of that time (Unix ms)."""
    return until_ms + _SLACK_MS, since_ms - _SLACK_MS
