"""What the server says on standard error: JSON lines, or plain ones where a person watches."""

from __future__ import annotations

import logging
import sys

import msgspec


def configure_logging(level: str = "info") -> None:
    """Send all records to standard error: ours from ``level`` on, those of libraries from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines() if sys.stderr.isatty() else JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Log our own records from ``level`` on: debug, info, warning or error."""
    logging.getLogger("stateline").setLevel(level.upper())


class JsonLines(logging.Formatter):
    """One JSON object a record; an access line is one already."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name == "stateline.access":
            return message
        line = {"at": record.created, "level": record.levelname.lower(), "logger": record.name, "message": message}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class PlainLines(logging.Formatter):
    """Time and message, for a terminal; what is no mere information says so."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self._loud = logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno > logging.INFO:
            return self._loud.format(record)
        return super().format(record)
