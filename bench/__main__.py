"""`python -m bench`: measure, print the tables, write the figures as JSON.

Without options it measures Stateline; `--peers` adds LiteLLM and OGX, installing them first. Every
figure that the project promised is printed beside its bound with "hold" or "MISS". The exit code
says only whether the bench ran: figures depend on the machine, so a bound never fails it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import durable, http_rows, report, start_rows
from bench.bounds import Check, check
from bench.http_rows import Effort, Row
from bench.load import KINDS
from bench.loop import run
from bench.peers import PEERS, ensure_installed
from bench.servers import Adapter, NotRunnable, adapters, serving, wait_first_answer

NAMES = ("floor", *KINDS, "paced", "start", "install", "durable")
_FULL = Effort(warm_s=1.5, cell_s=4.0, repeats=3)
_QUICK = Effort(warm_s=0.5, cell_s=1.5, repeats=1)
_PACED_CONCURRENCY = 64


@dataclass
class Run:
    """What one call of the bench asked for, and what it found."""

    names: tuple[str, ...]
    servers: list[Adapter]
    effort: Effort
    quick: bool
    sections: dict[str, object] = field(default_factory=dict[str, object])
    checks: list[Check] = field(default_factory=list[Check])
    skipped: list[str] = field(default_factory=list[str])

    def promise(self, figure: str, value: float) -> None:
        found = check(figure, value)
        if found is not None:
            self.checks.append(found)

    def skip(self, what: str, why: object) -> None:
        self.skipped.append(f"{what}: {why}")
        print(f"skipped {what}: {why}", file=sys.stderr)


def _print_rows(rows: list[Row]) -> None:
    report.table(
        "Over HTTP (CPU of the server's process tree; times in ms)",
        ("server", "load", "upstream", "at", "CPU/req", "p50", "p99", "1st byte", "req/s", "failed"),
        [
            (
                *(r.server, r.kind, r.upstream_format, r.concurrency, f"{r.cpu_ms:.2f}"),
                *(f"{r.p50_ms:.1f}", f"{r.p99_ms:.1f}", f"{r.first_byte_p50_ms:.1f}"),
                *(f"{r.requests_per_s:.0f}", r.failed),
            )
            for r in rows
        ],
    )


def _floor(behind: http_rows.UpstreamProcess, run_: Run) -> list[Row]:
    """The fake upstream itself under the same load: what no server could be below."""
    rows: list[Row] = []
    for kind in KINDS:
        load = http_rows.load_for(behind.port, kind, "fake", 16, min(run_.effort.cell_s, 1.5))
        cpu_ms, outcomes = http_rows.measure_cell(behind.pid, load, run_.effort)
        rows.append(http_rows.row(("(upstream)", kind, "-", 16), cpu_ms, outcomes, {}, 0.0))
    return rows


def _http(run_: Run) -> None:
    rows: list[Row] = []
    with http_rows.upstream() as behind:
        if "floor" in run_.names:
            rows += _floor(behind, run_)
        for adapter in run_.servers:
            kinds = tuple(k for k in adapter.kinds if k in run_.names)
            if not kinds:
                continue
            try:
                with serving(adapter, behind.port) as running:
                    wait_first_answer(running)
                    for row in http_rows.measure_server(running, behind, run_.effort, kinds):
                        rows.append(row)
                        print(
                            f"{row.server} {row.kind} {row.upstream_format} at {row.concurrency}:"
                            f" {row.cpu_ms} ms {row.first_failure}",
                            file=sys.stderr,
                        )
            except NotRunnable as error:
                run_.skip(adapter.name, error)
    if "paced" in run_.names:
        rows += _paced(run_)
    if not rows:
        return
    _print_rows(rows)
    run_.sections["http"] = [asdict(row) for row in rows]
    _promise_http(run_, rows)


def _paced(run_: Run) -> list[Row]:
    """Streams at the pace of a real model: two tokens every 20 ms."""
    adapter = run_.servers[0]
    rows: list[Row] = []
    with http_rows.upstream(group=2, gap_ms=20.0) as behind:
        try:
            with serving(adapter, behind.port) as running:
                wait_first_answer(running)
                for row in http_rows.measure_server(
                    running, behind, run_.effort, ("response-stream",), (_PACED_CONCURRENCY,)
                ):
                    rows.append(row.renamed("response-stream paced"))
        except NotRunnable as error:
            run_.skip(f"{adapter.name} paced", error)
    return rows


def _promise_http(run_: Run, rows: list[Row]) -> None:
    """Each promise is held to the worse of the upstream formats and concurrencies measured."""
    for kind in KINDS:
        mine = [r.cpu_ms for r in rows if r.server == "stateline" and r.kind == kind and r.cpu_ms]
        if mine:
            run_.promise(f"{kind} cpu_ms", max(mine))


def _start(run_: Run) -> None:
    found: list[start_rows.Start] = []
    with http_rows.upstream() as behind:
        for adapter in run_.servers:
            repeats = 2 if adapter.name in PEERS else (3 if run_.quick else 6)
            try:
                found.append(start_rows.measure_start(adapter, behind.port, repeats))
            except NotRunnable as error:
                run_.skip(f"{adapter.name} start", error)
    if not found:
        return
    report.table(
        "Start",
        ("server", "to the first answer, s", "of it CPU, s", "resident MB"),
        [(s.server, s.start_s, s.start_cpu_s, s.resident_mb) for s in found],
    )
    run_.sections["start"] = [asdict(s) for s in found]
    for start in found:
        if start.server == "stateline":
            run_.promise("start_s", start.start_s)
            run_.promise("resident_mb", start.resident_mb)


def _install(run_: Run) -> None:
    found: list[start_rows.Install] = []
    for adapter in run_.servers:
        try:
            if adapter.name in PEERS:
                found.append(start_rows.weigh_peer(adapter))
            else:
                found.append(start_rows.measure_install())
        except NotRunnable as error:
            run_.skip(f"{adapter.name} install", error)
    if not found:
        return
    report.table(
        "Installed",
        ("server", "MB", "packages", "seconds"),
        [(i.server, i.install_mb, i.packages, i.seconds or "-") for i in found],
    )
    run_.sections["install"] = [asdict(i) for i in found]
    for install in found:
        if install.server == "stateline":
            run_.promise("install_mb", install.install_mb)


def _durable(run_: Run) -> None:
    rounds, cell_s = (2, 0.6) if run_.quick else (5, 2.0)
    result = run(durable.measure_all(rounds, cell_s))
    for reason in result.skipped:
        run_.skip("durable", reason)
    report.table(
        "Durable turns of 7 records of 2 KB, each durable before the next",
        ("system", "at", "turns/s", "CPU ms/turn", "p50 ms", "p99 ms"),
        [
            (*(s["system"], s["concurrency"], s["turns_per_s"], s["cpu_ms_per_turn"]), *(s["p50_ms"], s["p99_ms"]))
            for s in result.summaries()
        ],
    )
    report.table(
        "Within a round (median of the rounds)",
        ("ratio", "value"),
        [
            *((name, f"{value:.2f}") for name, value in result.ratios().items()),
            ("fsync floor p50 / p99, ms", f"{result.fsync_p50_ms:.2f} / {result.fsync_p99_ms:.2f}"),
        ],
    )
    run_.sections["durable"] = result.as_json()
    for figure, value in result.promises().items():
        run_.promise(figure, value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="one row set; repeatable")
    parser.add_argument("--quick", action="store_true", help="a look in a minute, no result kept")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--peers", action="store_true", help="measure LiteLLM and OGX as well")
    return parser.parse_args()


def main() -> int:
    """Run the row sets asked for; 0 when they ran, whatever the figures."""
    arguments = _arguments()
    names = tuple(arguments.only or NAMES)
    known = adapters()
    run_ = Run(names, [known["stateline"]], _QUICK if arguments.quick else _FULL, arguments.quick)
    if arguments.peers:
        for name in PEERS:
            try:
                ensure_installed(known[name])
                run_.servers.append(known[name])
            except NotRunnable as error:
                run_.skip(name, error)
    if {"floor", "paced", *KINDS} & set(names):
        _http(run_)
    for name, measure in (("start", _start), ("install", _install), ("durable", _durable)):
        if name in names:
            measure(run_)
    report.checks(run_.checks)
    content = {**run_.sections, "promised": [asdict(c) for c in run_.checks]}
    content["skipped"] = run_.skipped
    if arguments.json:
        report.write(arguments.json, content)
    elif not arguments.quick:
        for section, figures in run_.sections.items():
            report.write(report.RESULTS / f"{section}.json", {section: figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
