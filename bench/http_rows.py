"""The rows over HTTP: CPU per request, latency and rate of a server before the fake upstream.

Each cell is warmed up, then measured a few times; the median is reported. CPU is that of the
server's process tree between the first request sent and the last answer read, so it is not touched
by the load client or the upstream, which are processes of their own.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bench import proctree
from bench.load import Load, Outcome, run_process
from bench.servers import Adapter, NotRunnable, Running
from bench.stats import median

CONCURRENCIES = (16, 32)
_REQUESTS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: a quick look, or figures to keep."""

    warm_s: float
    cell_s: float
    repeats: int


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of the HTTP table; times in ms, `upstream` what the server asked upstream for."""

    server: str
    kind: str
    upstream_format: str
    concurrency: int
    cpu_ms: float
    cpu_ms_repeats: list[float]
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    requests_per_s: float
    answered: int
    failed: int
    first_failure: str
    upstream: dict[str, int]
    resident_mb: float

    def renamed(self, kind: str) -> Row:
        """The same figures under another name of the load."""
        return replace(self, kind=kind)


def row(
    what: tuple[str, str, str, int],
    cpu_ms: list[float],
    outcomes: list[Outcome],
    asked: dict[str, int],
    resident_mb: float,
) -> Row:
    """Medians over the repeats of one cell; `what` is server, load, upstream format, concurrency."""
    server, kind, upstream_format, concurrency = what
    return Row(
        server=server,
        kind=kind,
        upstream_format=upstream_format,
        concurrency=concurrency,
        cpu_ms=round(median(cpu_ms), 3) if cpu_ms else 0.0,
        cpu_ms_repeats=[round(value, 3) for value in cpu_ms],
        p50_ms=round(median([o.p50_ms for o in outcomes]), 2),
        p99_ms=round(median([o.p99_ms for o in outcomes]), 2),
        first_byte_p50_ms=round(median([o.first_byte_p50_ms for o in outcomes]), 2),
        requests_per_s=round(median([o.requests_per_s for o in outcomes]), 1),
        answered=sum(o.answered for o in outcomes),
        failed=sum(o.failed for o in outcomes),
        first_failure=next((o.first_failure for o in outcomes if o.failed), ""),
        upstream=asked,
        resident_mb=round(resident_mb, 1),
    )


@dataclass(frozen=True, slots=True)
class UpstreamProcess:
    """The fake upstream: its port and its counts."""

    port: int
    pid: int

    def stats(self) -> dict[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", "/stats")
        counts: dict[str, int] = json.loads(connection.getresponse().read())
        connection.close()
        return counts


@contextmanager
def upstream(tokens: int = 100, group: int = 5, gap_ms: float = 0.0) -> Generator[UpstreamProcess]:
    """The fake upstream as a process, stopped at the end of the block."""
    argv = [sys.executable, "-m", "bench.upstream", "--tokens", str(tokens)]
    argv += ["--group", str(group), "--gap-ms", str(gap_ms)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["port"])
            yield UpstreamProcess(port, process.pid)
        finally:
            process.terminate()


def load_for(port: int, kind: str, model: str, concurrency: int, duration_s: float) -> Load:
    """A load for so long, bounded in requests too."""
    return Load(port, kind, model, concurrency, _REQUESTS_MAX, duration_s)


def measure_cell(pid: int, load: Load, effort: Effort) -> tuple[list[float], list[Outcome]]:
    """Warm up, then measure `effort.repeats` times: CPU ms per answer, and the outcomes."""
    warm = Load(load.port, load.kind, load.model, load.concurrency, load.requests, effort.warm_s)
    first = run_process(warm)
    if not first.answered:
        return [], [first]
    cpu_ms: list[float] = []
    outcomes: list[Outcome] = []
    for _ in range(effort.repeats):
        before = proctree.cpu_s(pid)
        outcome = run_process(load)
        used_s = proctree.cpu_s(pid) - before
        outcomes.append(outcome)
        if outcome.answered:
            cpu_ms.append(used_s * 1000 / (outcome.answered + outcome.failed))
    return cpu_ms, outcomes


def measure_server(
    running: Running,
    behind: UpstreamProcess,
    effort: Effort,
    kinds: tuple[str, ...],
    concurrencies: tuple[int, ...] = CONCURRENCIES,
) -> Iterator[Row]:
    """The rows of one started server, as they come."""
    adapter: Adapter = running.adapter
    for kind in kinds:
        for upstream_format, model in adapter.models.items():
            for concurrency in concurrencies:
                before = behind.stats()
                load = load_for(running.port, kind, model, concurrency, effort.cell_s)
                try:
                    cpu_ms, outcomes = measure_cell(running.pid, load, effort)
                except ProcessLookupError:
                    raise NotRunnable(f"{adapter.name} ended under {kind}: {running.log_tail()}") from None
                after = behind.stats()
                asked = {k: v - before.get(k, 0) for k, v in after.items()}
                yield row(
                    (adapter.name, kind, upstream_format, concurrency),
                    cpu_ms,
                    outcomes,
                    {name: count for name, count in asked.items() if count},
                    proctree.resident_mb(running.pid),
                )
