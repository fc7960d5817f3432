"""The access log: one JSON line a request, written together every quarter of a second.

A logging call costs more than all the rest of a short request, so lines are gathered and handed to the
logger ``stateline.access`` in one record.
"""

from __future__ import annotations

import asyncio
import logging
from time import time

import msgspec

from stateline.core.limits import ACCESS_LOG_DELAY_S, ACCESS_LOG_LINES_MAX

CLIENT_CLOSED = 499
"""In a line, where the client went before it was answered. Nobody is sent it."""

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("stateline.access")


class AccessLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request. ``at`` is Unix seconds; the query is left out, for it may hold what is private.

    ``trace_id`` and ``span_id``: of what it began, where traces are made.
    """

    at: float
    request_id: str
    method: str
    path: str
    status: int
    duration_ms: float
    bytes: int
    client: str
    tenant: str = ""
    principal: str = ""
    trace_id: str = ""
    span_id: str = ""


class AccessLog:
    """Gathers lines; ``flush`` writes them, and is to be called once more at the end."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def enabled(self) -> bool:
        return _log.isEnabledFor(logging.INFO)

    def add(self, line: AccessLine) -> None:
        self._lines.append(_encode(line))
        if len(self._lines) >= ACCESS_LOG_LINES_MAX:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ACCESS_LOG_DELAY_S, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            lines, self._lines = self._lines, []
            _log.info("%s", b"\n".join(lines).decode())


def now_s() -> float:
    """Unix seconds, to the millisecond."""
    return round(time(), 3)
