"""What the server says on standard error: JSON lines, or plain ones where a person watches."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import msgspec

Trace = Callable[[], tuple[str, str] | None]
"""Says for which trace and span the running task works, hexadecimal; None: for none."""


def _no_trace() -> None:
    return None


def configure_logging(level: str = "info", trace: Trace = _no_trace) -> None:
    """Send all records to standard error: ours from ``level`` on, those of libraries from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines(trace) if sys.stderr.isatty() else JsonLines(trace))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Log our own records from ``level`` on: debug, info, warning or error."""
    logging.getLogger("stateline").setLevel(level.upper())


class JsonLines(logging.Formatter):
    """One JSON object a record, with the trace that it is of; an access line is one already."""

    def __init__(self, trace: Trace = _no_trace) -> None:
        super().__init__()
        self._trace = trace

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name == "stateline.access":
            return message
        line = {"at": record.created, "level": record.levelname.lower(), "logger": record.name, "message": message}
        trace = self._trace()
        if trace is not None:
            line["trace_id"], line["span_id"] = trace
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class PlainLines(logging.Formatter):
    """Time and message, for a terminal; what is no mere information says so, and of which trace it is."""

    def __init__(self, trace: Trace = _no_trace) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self._trace = trace
        self._loud = logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        loud = record.levelno > logging.INFO
        line = self._loud.format(record) if loud else super().format(record)
        trace = self._trace()
        if trace is None or record.name == "stateline.access":
            return line
        first, newline, rest = line.partition("\n")
        return f"{first} trace_id={trace[0]} span_id={trace[1]}{newline}{rest}"
