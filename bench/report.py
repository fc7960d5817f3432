"""Tables for the reader, JSON for the next run."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.bounds import Check
from bench.servers import HERE

RESULTS = HERE / "results"
_WIDTH_PIPED = 120
_PACKAGES = ("stateline", "uvicorn", "starlette", "aiohttp", "msgspec", "uvloop", "httptools")


def machine() -> dict[str, object]:
    """What the figures depend on: the processor, the versions, how busy it was, and when."""
    cpu = "unknown"
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "versions": versions,
        "commit": commit.stdout.strip(),
    }


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one table; figures are right-aligned."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_PIPED)
    drawn = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(str(value) for value in row))
    console.print(drawn)


def checks(found: Sequence[Check]) -> None:
    """Print each promised figure with its bound and whether it held."""
    if found:
        table(
            "Promised",
            ("figure", "measured", "bound", ""),
            [(c.figure, f"{c.value:g}", c.bound, "hold" if c.held else "MISS") for c in found],
        )


def write(path: Path, content: Mapping[str, object]) -> None:
    """Write the figures with the machine they were taken on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **content}, indent=1) + "\n")
