"""A few of the interleavings of ``make interleavings``: money over real stores whose nodes are killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.interleavings import on_sqlite

ROOT = Path(__file__).resolve().parents[2]


def held(found: dict[str, Any], rounds: int) -> None:
    """It ran as asked, and met what it is about; what does not hold raises."""
    assert found["rounds"] == rounds
    assert found["crashes"] > 0
    assert found["refused"] > 0
    assert found["exact"] > found["estimated"] > 0


@pytest.mark.parametrize("seed", [1, 2])
def test_on_sqlite_no_budget_is_passed_and_every_reservation_settled(seed: int) -> None:
    held(asyncio.run(on_sqlite(100, seed, lambda: None)), 100)


def test_on_postgres_with_two_nodes_no_budget_is_passed_and_every_reservation_settled(tmp_path: Path) -> None:
    # In a process of its own: what is killed there leaves connections behind.
    file = tmp_path / "found.json"
    command = [
        sys.executable,
        "-m",
        "bench.interleavings",
        "--store",
        "postgres",
        "--rounds",
        "60",
        "--json",
        str(file),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    found = json.loads(file.read_text())["postgres"]
    if "skipped" in found:
        pytest.skip(f"PostgreSQL: {found['skipped']}")
    assert ran.returncode == 0, found
    held(found, 60)
