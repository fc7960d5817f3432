"""Showing how far a download is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, Protocol, Self

PLAIN_INTERVAL_S = 3.0


class Reporter(Protocol):
    """Hears what the download does."""

    def note(self, text: str) -> None:
        """One sentence for the user."""
        ...

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Called often; must be cheap."""
        ...


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None:
        pass

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        pass


class PlainLines:
    """A line at most every few seconds, for logs and pipes."""

    def __init__(self, out: IO[str] | None = None, *, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self._out = out or sys.stderr
        self._interval_s = interval_s
        self._due = 0.0

    def note(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._interval_s
            share = 100 * done_bytes // max(total_bytes, 1)
            self.note(f"  {share:3d}%  {_mb(done_bytes)} of {_mb(total_bytes)}")


class Bar:
    """A bar with speed and time left, and plain lines where there is no terminal.

    Use as a context manager.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        self._plain = None if console.is_terminal else PlainLines()
        self._bar = Progress(
            TextColumn("  downloading"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("model", total=None, start=False, visible=False)

    def __enter__(self) -> Self:
        if self._plain is None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._plain is None:
            self._bar.stop()

    def note(self, text: str) -> None:
        if self._plain is not None:
            self._plain.note(text)
        else:
            self._bar.console.print(text, highlight=False, markup=False)

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        if self._plain is not None:
            self._plain.progress(done_bytes, total_bytes)
            return
        if not self._bar.tasks[0].started:
            self._bar.start_task(self._task)
        self._bar.update(self._task, completed=done_bytes, total=total_bytes, visible=True)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
