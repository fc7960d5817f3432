"""Two servers that differ in one thing, loaded in turns: what the thing adds to the CPU of a call.

They are loaded the one right after the other and each first as often, so that a machine that changes its pace
meanwhile changes both; the figure is the median of the differences.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import http_rows, proctree, report
from bench.bounds import Check, check
from bench.load import run_process
from bench.servers import Adapter, NotRunnable, Running, serving, wait_first_answer
from bench.stats import median

KINDS = ("chat-json", "response-json")
CONCURRENCY = 16
WARM_S = 1.5


def cpu_ms(running: Running, kind: str, seconds: float) -> float:
    """CPU a call, over the server's process tree.

    Raises:
        NotRunnable: a call failed.
    """
    load = http_rows.load_for(running.port, kind, "fake-responses", CONCURRENCY, seconds)
    before_s = proctree.cpu_s(running.pid)
    outcome = run_process(load)
    if outcome.failed or not outcome.answered:
        raise NotRunnable(f"{kind}: {outcome.failed} of {outcome.answered} failed: {outcome.first_failure}")
    return (proctree.cpu_s(running.pid) - before_s) * 1000 / outcome.answered


def measure(kind: str, pair: Sequence[Running], *, rounds: int, cell_s: float) -> dict[str, float | str]:
    """``pair`` is the server without the thing, then the one with it."""
    for running in pair:
        cpu_ms(running, kind, WARM_S)
    bare: list[float] = []
    added: list[float] = []
    for at in range(rounds):
        order = (0, 1) if at % 2 == 0 else (1, 0)
        found = {which: cpu_ms(pair[which], kind, cell_s) for which in order}
        bare.append(found[0])
        added.append(found[1] - found[0])
    return {
        "kind": kind,
        "without_cpu_ms": round(median(bare), 3),
        "added_cpu_ms": round(median(added), 3),
        "added_least_ms": round(min(added), 3),
        "added_most_ms": round(max(added), 3),
    }


def arguments_of(prog: str, description: str | None, file: str) -> argparse.Namespace:
    """``rounds``, ``cell`` and ``json`` of the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    parser.add_argument("--rounds", type=int, default=24, help="pairs of cells (default 24)")
    parser.add_argument("--cell", type=float, default=1.5, help="seconds of a cell (default 1.5)")
    parser.add_argument("--json", type=Path, default=report.RESULTS / file)
    return parser.parse_args()


def compare(arguments: argparse.Namespace, title: str, bound: str, bare: Adapter, full: Adapter) -> None:
    """Measure, print, keep.

    Raises:
        NotRunnable: a server did not start, or a call failed.
    """
    with http_rows.upstream() as behind, serving(bare, behind.port) as one, serving(full, behind.port) as other:
        for running in (one, other):
            wait_first_answer(running)
        rows = [measure(kind, (one, other), rounds=arguments.rounds, cell_s=arguments.cell) for kind in KINDS]
    report.table(
        title,
        ("load", "without", "added", "least", "most"),
        [tuple(f"{value:.3f}" if isinstance(value, float) else value for value in row.values()) for row in rows],
    )
    found = check(bound, max(float(row["added_cpu_ms"]) for row in rows))
    promised: list[Check] = [] if found is None else [found]
    report.checks(promised)
    report.write(arguments.json, {"rows": rows, "promised": [asdict(each) for each in promised]})
