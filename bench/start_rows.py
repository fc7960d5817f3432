"""What a server costs before it works: time to its first answer, memory, disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import proctree
from bench.servers import HERE, WORK, Adapter, NotRunnable, serving, wait_first_answer
from bench.stats import median

_INSTALL_MAX_S = 600


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from exec to the first answered chat completion, and memory right after it.

    `start_cpu_s` is the CPU it took: what the start would last on an idle machine, at least.
    """

    server: str
    start_s: float
    start_s_repeats: list[float]
    start_cpu_s: float
    resident_mb: float


def measure_start(adapter: Adapter, upstream_port: int, repeats: int) -> Start:
    """Start it `repeats` times. The first start after an install compiles byte code, so it is
    left out where there are more."""
    times: list[float] = []
    memory: list[float] = []
    cpu: list[float] = []
    for _ in range(repeats):
        with serving(adapter, upstream_port) as running:
            times.append(wait_first_answer(running))
            cpu.append(proctree.cpu_s(running.pid))
            memory.append(proctree.resident_mb(running.pid))
    kept = times[1:] or times
    return Start(
        server=adapter.name,
        start_s=round(median(kept), 3),
        start_s_repeats=[round(t, 3) for t in times],
        start_cpu_s=round(median(cpu), 2),
        resident_mb=round(median(memory), 1),
    )


@dataclass(frozen=True, slots=True)
class Install:
    """A new environment with the package and what it needs, in MB of 10^6 bytes as du counts."""

    server: str
    install_mb: float
    packages: int
    seconds: float


def disk_mb(folder: Path) -> float:
    """What `du` says of a folder, in MB of 10^6 bytes."""
    done = subprocess.run(["du", "-sk", str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0]) * 1024 / 1e6


def _packages(venv: Path) -> int:
    return sum(1 for _ in venv.glob("lib/python*/site-packages/*.dist-info"))


def measure_install() -> Install:
    """Install this checkout's core, without extras, into a new environment and weigh it."""
    uv = str(HERE.parent / "scripts/uv")
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        venv = Path(folder) / "venv"
        start = time.perf_counter()
        for argv in (
            [uv, "venv", "--quiet", "--python", sys.executable, str(venv)],
            [uv, "pip", "install", "--quiet", "--python", str(venv / "bin/python"), str(HERE.parent)],
        ):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_MAX_S, check=False)
            if done.returncode != 0:
                raise NotRunnable(f"the install failed: {done.stderr[-500:]}")
        seconds = time.perf_counter() - start
        return Install("stateline", round(disk_mb(venv), 1), _packages(venv), round(seconds, 1))


def weigh_peer(adapter: Adapter) -> Install:
    """Weigh a peer's environment as it stands."""
    venv = adapter.executable.parent.parent
    if not venv.exists():
        raise NotRunnable(f"{adapter.name} is not installed")
    return Install(adapter.name, round(disk_mb(venv), 1), _packages(venv), 0.0)
