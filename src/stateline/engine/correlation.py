"""The trace that the running task works for, so that what it logs can say so.

It is set only where traces are made; a task that one begins works for the same.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from stateline.core.session import Turn
from stateline.core.spans import trace_id, turn_span_id

current: ContextVar[tuple[str, str] | None] = ContextVar("stateline_trace", default=None)
"""The ids of the trace and the span, hexadecimal; None: it works for none."""


def enter(response_id: str, traceparent: str) -> None:
    """From here on the task works for this turn."""
    current.set((trace_id(response_id, traceparent), turn_span_id(response_id)))


def current_trace() -> tuple[str, str] | None:
    """See ``current``."""
    return current.get()


def leave() -> None:
    """From here on the task works for no turn."""
    current.set(None)


@contextmanager
def working_for(turn: Turn | None) -> Generator[None]:
    """What begins inside works for the turn; the task itself does not."""
    if turn is None:
        yield
        return
    before = current.get()
    enter(turn.response_id, turn.traceparent)
    try:
        yield
    finally:
        current.set(before)
