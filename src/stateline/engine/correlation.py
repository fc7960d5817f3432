"""The trace that the running task works for, so that what it logs can say so.

It is set only where traces are made. A task that one begins works for the same, and so would a connection that a turn
opens and leaves open: that is why what one works for has an end, which all of them see.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from stateline.core.session import Turn
from stateline.core.spans import trace_id, turn_span_id


class _Work:
    """A turn or a bare call, until it has ended."""

    __slots__ = ("ended", "trace")

    def __init__(self, trace: tuple[str, str]) -> None:
        self.trace = trace
        self.ended = False


_current: ContextVar[_Work | None] = ContextVar("stateline_work", default=None)


def current_trace() -> tuple[str, str] | None:
    """The ids of the trace and the span that this task works for, hexadecimal; None: it works for none."""
    work = _current.get()
    return None if work is None or work.ended else work.trace


def enter(trace: tuple[str, str]) -> None:
    """From here on the task works for this trace and span."""
    _current.set(_Work(trace))


def enter_turn(response_id: str, traceparent: str) -> None:
    """From here on the task works for this turn."""
    enter((trace_id(response_id, traceparent), turn_span_id(response_id)))


def leave() -> None:
    """What the task works for has ended; for all that it began, too."""
    work = _current.get()
    if work is not None:
        work.ended = True
        _current.set(None)


@contextmanager
def working_for(turn: Turn | None) -> Generator[None]:
    """What begins inside works for the turn; the task itself does not."""
    if turn is None:
        yield
        return
    before = _current.get()
    enter_turn(turn.response_id, turn.traceparent)
    try:
        yield
    finally:
        _current.set(before)
