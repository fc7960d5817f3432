"""A portfolio placed over quarters at the least cost that contracts allow, shortfalls of commitments priced.

The cost of a plan is what its use costs by list, less what prepaid and reserved amounts cover, plus the charges for
shortfalls. What was paid in advance is paid anyway; it is shown beside. Solver's answers are proved in fractions
(`program`), and the cost of the plan is computed anew from its placements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

import msgspec

from stateline.contracts.building import Built, build, placed_by
from stateline.contracts.portfolio import rounded
from stateline.contracts.program import NOTHING, Proved, Solver, prove
from stateline.contracts.scoping import Cell, Scoped

Progress = Callable[[int, int], None]


# -- what a plan comes to ------------------------------------------------------------------------


class Held(NamedTuple):
    """What a window comes to, in the portfolio's currency."""

    drawn: Fraction
    shortfall: Fraction
    charge: Fraction
    covered: Fraction


class Costs(NamedTuple):
    """What placements cost.

    Attributes:
        list_price: what all use costs by list.
        covered: what of it prepaid and reserved amounts pay.
        charges: for shortfalls.
        windows: of each, in order.
    """

    list_price: Fraction
    covered: Fraction
    charges: Fraction
    windows: tuple[Held, ...]

    @property
    def total(self) -> Fraction:
        return self.list_price - self.covered + self.charges


def cost_of(scoped: Scoped, placed: Mapping[Cell, Fraction]) -> Costs:
    """What placements cost, from nothing but the units placed and the contracts' terms."""
    price = scoped.task.price
    spent = {cell: units * price[cell[1]][cell[2]] for cell, units in placed.items()}
    found: list[Held] = []
    carried, before = NOTHING, ""
    for window in scoped.windows:
        if window.id != before:
            carried, before = NOTHING, window.id
        drawn = sum(
            (amount * window.parts[place] * window.shares[quarter] for (_, place, quarter), amount in spent.items()),
            NOTHING,
        )
        if window.minimum:
            over = drawn + carried - window.promised
            found.append(Held(drawn, max(-over, NOTHING), max(-over, NOTHING) * window.rate, NOTHING))
            rest = max(over, NOTHING)
        else:
            covered = min(drawn, window.promised + carried)
            rest = window.promised + carried - covered
            found.append(Held(drawn, NOTHING if window.rolls else rest, NOTHING, covered))
        carried = rest if window.carries else NOTHING
    whole = sum(spent.values(), NOTHING)
    covered = sum((each.covered for each in found), NOTHING)
    return Costs(whole, covered, sum((each.charge for each in found), NOTHING), tuple(found))


# -- the plan ------------------------------------------------------------------------------------


class _Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Amounts are decimals of six places at most."""


class Placement(_Row, frozen=True, kw_only=True):
    """What of a workload goes where in a quarter; ``quarter`` is its first day."""

    workload: str
    deployment: str
    quarter: str
    units: str
    unit: str
    list_price: str


class Planned(_Row, frozen=True, kw_only=True):
    """A commitment's interval under the plan.

    Attributes:
        interval: its first day, and the first day after it.
        value: what one more unit of money drawn would save; routing takes it off the price.
        covered: of a prepaid or reserved amount, what is used.
    """

    commitment: str
    interval: str
    promised: str
    drawn: str
    shortfall: str
    charge: str
    covered: str
    value: str


class Skipped(_Row, frozen=True, kw_only=True):
    """A commitment or capacity clause that the plan does not count."""

    id: str
    why: str


class Plan(_Row, frozen=True, kw_only=True, tag_field="status", tag="planned"):
    """A plan.

    Attributes:
        total: list price less what is covered, and charges.
        gap: by which part of it a better plan may be cheaper at most; 0: none is.
        denied: how many placements the contracts forbid, of those that would fit.
    """

    currency: str
    total: str
    list_price: str
    covered: str
    charges: str
    gap: float
    denied: int
    placements: tuple[Placement, ...]
    commitments: tuple[Planned, ...]
    skipped: tuple[Skipped, ...] = ()


class Conflict(_Row, frozen=True, kw_only=True, tag_field="status", tag="infeasible"):
    """No plan is possible.

    Attributes:
        clauses: such that all of them together leave no plan, and any of them away leaves one; none: no clause does.
        workloads: those that no deployment fits, contracts aside.
        why: in a sentence.
    """

    clauses: tuple[str, ...]
    workloads: tuple[str, ...] = ()
    why: str


class Solved(NamedTuple):
    """A plan, with the exact numbers behind it."""

    plan: Plan
    placed: Mapping[Cell, Fraction]
    costs: Costs


def plan(scoped: Scoped, solver: Solver, progress: Progress | None = None) -> Solved | Conflict:
    """The cheapest plan; or what stands in the way of any.

    Args:
        solver: see ``program.Solver``.
        progress: told of programs solved, and of how many there are.

    Raises:
        Unproved: the solver's answer does not hold in fractions.
    """
    built = build(scoped)
    answer = solver(built.program)
    if answer is None:
        return _conflict(scoped, solver, progress)
    proved = prove(built.program, answer)
    placed = placed_by(scoped, built.slots, proved.values)
    costs = cost_of(scoped, placed)
    assert costs.total == proved.cost, "a plan costs what its program says"
    return Solved(_told(scoped, built, proved, (placed, costs), answer.gap), placed, costs)


def _told(
    scoped: Scoped, built: Built, proved: Proved, found: tuple[Mapping[Cell, Fraction], Costs], gap: float
) -> Plan:
    placed, costs = found
    task = scoped.task
    works, sites = task.portfolio.workloads, task.portfolio.deployments
    rows: list[Planned] = []
    for number, (window, held) in enumerate(zip(scoped.windows, costs.windows, strict=True)):
        row, scale = built.counted[number]
        rows.append(
            Planned(
                commitment=window.id,
                interval=window.interval,
                promised=rounded(window.promised) if window.promised >= 0 else "0",
                drawn=rounded(held.drawn),
                shortfall=rounded(held.shortfall),
                charge=rounded(held.charge),
                covered=rounded(held.covered),
                value=rounded(abs(proved.prices[row]) / scale),
            )
        )
    return Plan(
        currency=task.portfolio.currency,
        total=rounded(costs.total),
        list_price=rounded(costs.list_price),
        covered=rounded(costs.covered),
        charges=rounded(costs.charges),
        gap=gap,
        denied=len(scoped.denied),
        placements=tuple(
            Placement(
                workload=works[work].name,
                deployment=sites[place].name,
                quarter=task.days[quarter].isoformat(),
                units=rounded(units),
                unit=works[work].unit,
                list_price=rounded(units * task.price[place][quarter]),
            )
            for (work, place, quarter), units in sorted(placed.items(), key=lambda each: (each[0][0], each[0][2]))
        ),
        commitments=tuple(rows),
        skipped=tuple(Skipped(id=one.id, why=one.why) for one in scoped.skipped),
    )


def _conflict(scoped: Scoped, solver: Solver, progress: Progress | None) -> Conflict:
    """Clauses are lifted one by one; what stays impossible without a clause needs it for no conflict."""
    task = scoped.task
    asked = {clause for clauses in scoped.denied.values() for clause in clauses}
    asked |= {clause for cap in scoped.caps for clauses in cap.clauses for clause in clauses}
    unfit = [
        one.name
        for one, fits, demand in zip(task.portfolio.workloads, task.fits, task.demand, strict=True)
        if not fits and any(demand)
    ]
    if unfit:
        why = "no deployment sells the unit, model and accelerator of a workload"
        return Conflict(clauses=(), workloads=tuple(unfit), why=why)
    if solver(build(scoped._replace(windows=()), asked).program) is None:
        return Conflict(clauses=(), why="the deployments' capacities do not suffice, whatever clauses say")
    lifted: set[str] = set()
    order = sorted(asked)
    for number, clause in enumerate(order, 1):
        if solver(build(scoped._replace(windows=()), lifted | {clause}).program) is None:
            lifted.add(clause)
        if progress is not None:
            progress(number, len(order))
    kept = tuple(clause for clause in order if clause not in lifted)
    return Conflict(
        clauses=kept,
        why="these clauses together leave no place for all workloads; without any one of them there is one",
    )
