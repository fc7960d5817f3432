"""SIGKILL at random moments: nothing that was acknowledged is lost, and no log has a gap."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.crash.store_child import check

CHILD = Path(__file__).with_name("store_child.py")
ROUNDS = 8


def killed_after(path: Path, prefix: str, seed: int, delay_s: float) -> list[str]:
    """Run a writer, kill it some time after it began to write, and return what it acknowledged."""
    command = [sys.executable, str(CHILD), str(path), prefix, str(seed), "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        assert lines[0], "the writer ended before it wrote"
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        # A line that the kill cut short was never an acknowledgement.
        lines += child.stdout.read().splitlines(keepends=True)
    return [line.strip() for line in lines if line.endswith("\n")]


async def test_no_acknowledged_event_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    acknowledged: list[str] = []
    chance = random.Random(20261122)
    for number in range(ROUNDS):
        delay_s = chance.uniform(0.0, 0.3)
        acknowledged += await asyncio.to_thread(killed_after, path, f"r{number}", number, delay_s)
        # One process writes on over what the last one left; every other round nobody looks between.
        if number % 2:
            assert await check(path, acknowledged) >= len(acknowledged) / 2
    assert await check(path, acknowledged) > 100
