"""Plans against brute force and against greedy ones: ``python -m bench.plan``; writes bench/results/plan.json.

Brute force: small portfolios, every way of pinning, an exact simplex over the rest; the costs are compared as
fractions. Greedy: large portfolios, each workload in turn to whatever is cheapest by list price, allowed and free.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median

from bench.brute import cheapest
from bench.portfolios import large, small
from bench.report import machine
from stateline.contracts.plan import Conflict, Solved, cost_of, plan
from stateline.contracts.scoping import Cell, Scoped, scoped
from stateline.planner import Planner

LIMIT_S = 2.0
Taken = dict[tuple[int, int], Fraction]


def greedy(here: Scoped) -> dict[Cell, Fraction] | None:
    """Placements by list price: pinned workloads first, while there is room; None: one found no place."""
    task = here.task
    quarters = range(len(task.days) - 1)
    taken: Taken = {}
    placed: dict[Cell, Fraction] = {}
    works = sorted(range(len(task.demand)), key=lambda work: task.portfolio.workloads[work].kind != "stateful")
    for work in works:
        demand = task.demand[work]
        if task.portfolio.workloads[work].kind == "stateful":
            busy = [quarter for quarter in quarters if demand[quarter]]
            places = [
                place
                for place in task.fits[work]
                if not any((work, place, quarter) in here.denied for quarter in busy)
                and all(_room(here, taken, place, quarter) >= demand[quarter] for quarter in busy)
            ]
            if not places:
                return None
            best = min(places, key=lambda place: sum(demand[quarter] * task.price[place][quarter] for quarter in busy))
            for quarter in busy:
                _put(placed, taken, (work, best, quarter), demand[quarter])
            continue
        for quarter in quarters:
            rest = demand[quarter]
            for place in sorted(task.fits[work], key=lambda place: task.price[place][quarter]):
                units = min(rest, _room(here, taken, place, quarter))
                if units > 0 and (work, place, quarter) not in here.denied:
                    _put(placed, taken, (work, place, quarter), units)
                    rest -= units
            if rest:
                return None
    return placed


def _room(here: Scoped, taken: Taken, place: int, quarter: int) -> Fraction:
    limit = here.task.capacity[place][quarter]
    return Fraction(10**18) if limit is None else limit - taken.get((place, quarter), Fraction(0))


def _put(placed: dict[Cell, Fraction], taken: Taken, cell: Cell, units: Fraction) -> None:
    placed[cell] = units
    taken[cell[1], cell[2]] = taken.get((cell[1], cell[2]), Fraction(0)) + units


def brute(count: int) -> dict[str, int]:
    """How many of so many small portfolios cost what brute force finds, to the last digit."""
    solver = Planner()
    equal = impossible = 0
    for seed in range(count):
        here = scoped(*small(seed))
        found = plan(here, solver)
        cost = None if isinstance(found, Conflict) else found.costs.total
        equal += cost == cheapest(here)
        impossible += cost is None
    return {"portfolios": count, "equal": equal, "of_these_infeasible": impossible}


def sized(count: int) -> list[dict[str, object]]:
    """So many large portfolios: what they take, and what they cost beside greedy ones. Infeasible ones are left out."""
    solver = Planner()
    rows: list[dict[str, object]] = []
    seed = -1
    while len(rows) < count:
        seed += 1
        task, contracts = large(seed)
        begun, cpu = time.perf_counter(), time.process_time()
        here = scoped(task, contracts)
        found = plan(here, solver)
        wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        if not isinstance(found, Solved):
            print(f"{seed} has no plan: {', '.join(found.clauses) or found.why}")
            continue
        other = greedy(here)
        beside = None if other is None else cost_of(here, other).total
        rows.append(
            {
                "seed": seed,
                "wall_s": round(wall_s, 3),
                "cpu_s": round(cpu_s, 3),
                "gap": found.plan.gap,
                "cost": float(found.costs.total),
                "greedy": None if beside is None else float(beside),
                "saved": None if beside is None else round(float(1 - found.costs.total / beside), 4),
                "no_dearer": beside is None or found.costs.total <= beside,
                "denied": len(here.denied),
                "denied_used": len(here.denied.keys() & found.placed.keys()),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=200)
    parser.add_argument("--large", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("bench/results/plan.json"))
    options = parser.parse_args(arguments)
    against = brute(options.small)
    rows = sized(options.large)
    walls = [float(str(row["wall_s"])) for row in rows]
    saved = [float(str(row["saved"])) for row in rows if row["saved"] is not None]
    checks = {
        "equal to brute force": against["equal"] == against["portfolios"],
        f"60 x 12 x 8 within {LIMIT_S:g} s": max(walls) <= LIMIT_S,
        "never dearer than greedy": all(row["no_dearer"] for row in rows),
        "nothing denied is used": not any(row["denied_used"] for row in rows),
    }
    print(
        f"brute force: {against['equal']} of {against['portfolios']} equal, {against['of_these_infeasible']} infeasible"
    )
    print(f"60 workloads, 12 deployments, 8 quarters, 3 commitments, {len(rows)} portfolios:")
    print(f"  wall s: median {median(walls):.2f}, worst {max(walls):.2f}")
    print(f"  saved against greedy: median {median(saved):.1%}, least {min(saved):.1%}, most {max(saved):.1%}")
    for name, held in checks.items():
        print(f"  {'ok  ' if held else 'FAIL'} {name}")
    document = {"machine": machine(), "brute_force": against, "large": rows, "checks": checks}
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
