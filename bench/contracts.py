"""The CPU that contracts add to a call: ``python -m bench.contracts``.

Two real servers before one fake upstream, alike but for 50 clauses that one of them holds its placements against,
of which 10 speak of the model's vendor. They are loaded in turns, the one right after the other and each first as
often, so that a machine that changes its pace meanwhile changes both; the figure is the median of the differences.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench import http_rows, proctree, report
from bench.bounds import Check, check
from bench.load import run_process
from bench.servers import Adapter, NotRunnable, Running, adapters, serving, wait_first_answer
from bench.stats import median

KINDS = ("chat-json", "response-json")
CONCURRENCY = 16
CLAUSES, SPEAKING = 50, 10
WARM_S = 1.5


def write_contracts(folder: Path) -> None:
    """CLAUSES clauses that deny nothing here, two readings each, every predicate its own."""
    for number in range(CLAUSES):
        vendor = "openai" if number < SPEAKING else f"vendor{number}"
        every = (
            f'model.vendor == "{vendor}" && deployment.cloud in ["aws", "google"] && deployment.region != "r{number}"'
        )
        (folder / f"c{number}.yaml").write_text(
            f"contract: c{number}\nclauses:\n  - id: x\n    text: Nothing that is asked for here.\n"
            f"    kind: exclusivity\n    readings:\n      - {{id: all, held_by: [a], deny: '{every}'}}\n"
            f"      - {{id: some, held_by: [b], deny: '{every} && workload.kind == \"stateless\"'}}\n"
        )


def adapter(contracts: Path | None) -> Adapter:
    """The server, with the contracts of a folder or without any."""
    env = {} if contracts is None else {"STATELINE_CONTRACTS__PATH": str(contracts)}
    return replace(
        adapters()["stateline"], models={"openai-responses": "fake-responses"}, config="contracts.toml", env=env
    )


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
    """``pair`` is the server without contracts, then the one with them."""
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


def main() -> int:
    """Measure, print, keep; 0 where it ran, whatever the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.contracts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=24, help="pairs of cells (default 24)")
    parser.add_argument("--cell", type=float, default=1.5, help="seconds of a cell (default 1.5)")
    parser.add_argument("--json", type=Path, default=report.RESULTS / "contracts.json")
    arguments = parser.parse_args()
    rows: list[dict[str, float | str]] = []
    try:
        with tempfile.TemporaryDirectory() as name:
            write_contracts(Path(name))
            with (
                http_rows.upstream() as behind,
                serving(adapter(None), behind.port) as without,
                serving(adapter(Path(name)), behind.port) as held,
            ):
                for running in (without, held):
                    wait_first_answer(running)
                rows += [
                    measure(kind, (without, held), rounds=arguments.rounds, cell_s=arguments.cell) for kind in KINDS
                ]
    except NotRunnable as error:
        print(error, file=sys.stderr)
        return 1
    report.table(
        f"CPU a call, ms: what {CLAUSES} clauses add, {SPEAKING} of them about the vendor",
        ("load", "without", "added", "least", "most"),
        [tuple(f"{value:.3f}" if isinstance(value, float) else value for value in row.values()) for row in rows],
    )
    found = check("contracts add cpu_ms", max(float(row["added_cpu_ms"]) for row in rows))
    promised: list[Check] = [] if found is None else [found]
    report.checks(promised)
    report.write(arguments.json, {"rows": rows, "promised": [asdict(each) for each in promised]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
