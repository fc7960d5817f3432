"""A progress bar for what takes long."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateline.ports import Progress


@contextmanager
def progress_bar(what: str, unit: str = "bytes") -> Generator[Progress | None]:
    """A bar on a terminal; nothing elsewhere.

    Args:
        unit: what is counted; bytes are shown as KB, MB …
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counts = (DownloadColumn(),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn(what), BarColumn(), *counts, TimeRemainingColumn())
    # What is printed meanwhile goes where it is sent, not beside the bar.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
