"""``python -m stateline.testing.sim``: many seeds over all cores, one seed again, or the mutants."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from stateline.testing.sim import FAULTS, STEPS, TABLE, Fault, InvariantBroken, Report, simulate
from stateline.testing.sim.faults import COVERING_SEEDS

_console = Console()
_NAMED_MAX = 20
"""Missing pairs that are named; the table shows them all."""


class Outcome(msgspec.Struct, frozen=True):
    """One seed's report, or what it broke."""

    seed: int
    report: Report | None
    findings: tuple[str, ...] = ()


class Totals(msgspec.Struct, kw_only=True):
    """A series of seeds, added up.

    ``missing`` are pairs of a transition and a fault that no seed had; ``aims_missed`` counts seeds that did
    not strike the pair that they aimed at.
    """

    machine: dict[str, Any] = {}
    seeds: int = 0
    first: int = 0
    steps: int = 0
    steps_least: int = 0
    seconds: float = 0.0
    steps_per_s: int = 0
    simulated_hours: float = 0.0
    turns: int = 0
    calls: int = 0
    starts: int = 0
    ended: dict[str, int] = {}
    struck: dict[str, int] = {}
    pairs: int = len(TABLE) * len(FAULTS)
    pairs_hit: int = 0
    missing: list[str] = []
    aims_missed: int = 0
    failed: dict[str, list[str]] = {}


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every invariant held on every seed (or every mutant was found), 1 when not.

    A series of ``COVERING_SEEDS`` or more must also have struck every pair.
    """
    parser = argparse.ArgumentParser(prog="python -m stateline.testing.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone, and say what it did")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"least steps of a seed (default {STEPS})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--seconds", type=float, help="begin no more seeds after so long; the figures say how many ran")
    parser.add_argument("--stop", action="store_true", help="end at the first seed that breaks something")
    parser.add_argument("--mutants", action="store_true", help="plant known defects, and show that they are found")
    args = parser.parse_args(argv)
    if args.mutants:
        from stateline.testing.sim.mutants import find_all

        return find_all(_console, jobs=args.jobs, out=args.out)
    if args.seed is not None:
        return _replay(args.seed, args.steps)
    return _series(args)


def _replay(seed: int, steps: int) -> int:
    outcome = _one((seed, steps))
    if outcome.report is None:
        for finding in outcome.findings:
            _console.print(f"[red]broken[/]  {finding}", highlight=False, soft_wrap=True)
        return 1
    _console.print_json(msgspec.json.encode(_plain(outcome.report)).decode())
    return 0


def _plain(report: Report) -> dict[str, Any]:
    fields = msgspec.structs.asdict(report)
    fields["hits"] = {f"{_name(place)} x {fault}": count for (place, fault), count in sorted(report.hits.items())}
    return fields


def _one(job: tuple[int, int]) -> Outcome:
    seed, steps = job
    try:
        return Outcome(seed, simulate(seed, steps=steps))
    except InvariantBroken as broken:
        return Outcome(seed, None, broken.findings)


def _name(place: int) -> str:
    state, kind = TABLE[place]
    return f"{state or 'no turn'} + {kind.__name__}"


def _series(args: argparse.Namespace) -> int:
    totals = Totals(first=args.first, machine=_machine())
    hits: dict[tuple[int, Fault], int] = {}
    began_s = time.perf_counter()
    jobs = [(seed, args.steps) for seed in range(args.first, args.first + args.seeds)]
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # What is loaded by now is there for good; each seed's own garbage is all that is left to collect.
    gc.freeze()
    with multiprocessing.Pool(args.jobs) as pool, Progress(*columns, console=_console) as progress:
        bar = progress.add_task("seeds", total=len(jobs))
        tenths = 0
        for outcome in pool.imap_unordered(_one, jobs):
            _add(totals, hits, outcome)
            progress.advance(bar)
            if not _console.is_terminal and totals.seeds * 10 // len(jobs) > tenths:
                # A bar shows nothing in a file.
                tenths = totals.seeds * 10 // len(jobs)
                took_s = time.perf_counter() - began_s
                progress.print(f"{totals.seeds} of {len(jobs)} seeds in {took_s:.0f} s, {len(totals.failed)} broke")
            if outcome.report is None:
                progress.print(_how_to_replay(outcome, args.steps))
                if args.stop:
                    break
            if args.seconds is not None and time.perf_counter() - began_s > args.seconds:
                break
    totals.seconds = round(time.perf_counter() - began_s, 1)
    totals.steps_per_s = round(totals.steps / max(totals.seconds, 0.1))
    totals.simulated_hours = round(totals.simulated_hours, 2)
    totals.pairs_hit = len(hits)
    totals.missing = [
        f"{_name(place)} x {fault}" for place in range(len(TABLE)) for fault in FAULTS if (place, fault) not in hits
    ]
    _show(totals, hits)
    if args.out is not None:
        args.out.write_bytes(msgspec.json.format(msgspec.json.encode(totals), indent=1) + b"\n")
    return verdict(totals)


def verdict(totals: Totals) -> int:
    """1 where an invariant broke, or a series that is long enough to strike every pair left one out."""
    return 1 if totals.failed or (totals.missing and totals.seeds >= COVERING_SEEDS) else 0


def _machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
    }


def _how_to_replay(outcome: Outcome, steps: int) -> str:
    again = f"python -m stateline.testing.sim --seed {outcome.seed}" + (f" --steps {steps}" if steps != STEPS else "")
    return f"seed {outcome.seed} broke: {'; '.join(outcome.findings[:2])}\n  again: {again}"


def _add(totals: Totals, hits: dict[tuple[int, Fault], int], outcome: Outcome) -> None:
    totals.seeds += 1
    report = outcome.report
    if report is None:
        totals.failed[str(outcome.seed)] = list(outcome.findings)
        return
    totals.steps += report.steps
    totals.steps_least = min(totals.steps_least or report.steps, report.steps)
    totals.simulated_hours += report.simulated_s / 3600
    totals.turns += report.turns
    totals.calls += report.calls
    totals.starts += report.starts
    totals.aims_missed += not report.aimed
    for name, count in report.ended.items():
        totals.ended[name] = totals.ended.get(name, 0) + count
    for fault, count in report.struck.items():
        totals.struck[fault] = totals.struck.get(fault, 0) + count
    for pair, count in report.hits.items():
        hits[pair] = hits.get(pair, 0) + count


def _show(totals: Totals, hits: dict[tuple[int, Fault], int]) -> None:
    """The table of what was struck by what, and the figures."""
    table = Table(title="commits struck: a turn's transition x a fault", title_justify="left", padding=(0, 0))
    table.add_column("transition", no_wrap=True)
    for fault in FAULTS:
        table.add_column(fault.replace("_", "\n"), justify="right")
    for place in range(len(TABLE)):
        counts = [hits.get((place, fault), 0) for fault in FAULTS]
        table.add_row(_name(place), *(str(count) if count else "[red]-[/]" for count in counts))
    _console.print(table)
    named = ", ".join(totals.missing[:_NAMED_MAX]) or "none"
    missing = named if len(totals.missing) <= _NAMED_MAX else f"{named} and {len(totals.missing) - _NAMED_MAX} more"
    _console.print(
        f"pairs hit: {totals.pairs_hit} of {totals.pairs}; missing: {missing}; aims missed: {totals.aims_missed}",
        highlight=False,
    )
    _console.print(
        f"{totals.seeds} seeds from {totals.first}, {totals.steps:,} steps (the least {totals.steps_least:,}),"
        f" {totals.turns:,} turns, {totals.calls:,} model calls, {totals.starts:,} node starts,"
        f" {totals.simulated_hours:,} simulated hours in {totals.seconds:,} s: {totals.steps_per_s:,} steps/s",
        highlight=False,
    )
    _console.print(f"broken: {', '.join(totals.failed) or 'nothing'}", highlight=False)
