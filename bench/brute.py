"""Plans by brute force: every way of pinning, and for each an exact simplex over the rest. Slow, obvious, apart.

It shares nothing with the planner but the portfolio and what contracts say of it, and works in plain units.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product

from stateline.contracts.scoping import Scoped

ZERO, ONE = Fraction(0), Fraction(1)
Terms = dict[str, Fraction]


class Rows:
    """Linear rows over named quantities of 0 or more."""

    def __init__(self) -> None:
        self.rows: list[tuple[Terms, str, Fraction]] = []
        self.cost: Terms = {}

    def add(self, terms: Terms, sign: str, bound: Fraction) -> None:
        self.rows.append((terms, sign, bound))


def cheapest(scoped: Scoped) -> Fraction | None:
    """The least cost of any plan; None: there is none."""
    task = scoped.task
    works = task.portfolio.workloads
    pinned = [index for index, one in enumerate(works) if one.kind == "stateful" and any(task.demand[index])]
    choices = [[place for place in task.fits[work] if _may(scoped, work, place)] for work in pinned]
    best: Fraction | None = None
    for chosen in product(*choices):
        cost = _rest(scoped, dict(zip(pinned, chosen, strict=True)))
        if cost is not None and (best is None or cost < best):
            best = cost
    return best


def _may(scoped: Scoped, work: int, place: int) -> bool:
    quarters = [quarter for quarter, units in enumerate(scoped.task.demand[work]) if units]
    return not any((work, place, quarter) in scoped.denied for quarter in quarters)


def _rest(scoped: Scoped, pins: dict[int, int]) -> Fraction | None:
    task, rows, fixed = scoped.task, Rows(), ZERO
    quarters, places = range(len(task.days) - 1), range(len(task.portfolio.deployments))
    used: dict[tuple[int, int], tuple[Terms, Fraction]] = {(d, q): ({}, ZERO) for d in places for q in quarters}
    for work, demand in enumerate(task.demand):
        for quarter in quarters:
            if not demand[quarter]:
                continue
            if work in pins:
                terms, units = used[pins[work], quarter]
                used[pins[work], quarter] = terms, units + demand[quarter]
                fixed += demand[quarter] * task.price[pins[work]][quarter]
                continue
            here: Terms = {}
            for place in task.fits[work]:
                if (work, place, quarter) not in scoped.denied:
                    name = f"u{work}/{place}/{quarter}"
                    here[name] = used[place, quarter][0][name] = ONE
                    rows.cost[name] = task.price[place][quarter]
            rows.add(here, "=", demand[quarter])
    for (place, quarter), (terms, units) in used.items():
        limit = task.capacity[place][quarter]
        if limit is not None:
            rows.add(dict(terms), "<", limit - units)
    for cap in scoped.caps:
        for quarter, limit in enumerate(cap.limits):
            if limit is not None:
                together: Terms = {}
                for place in cap.deployments:
                    together |= used[place, quarter][0]
                rows.add(together, "<", limit - sum(used[place, quarter][1] for place in cap.deployments))
    _commitments(scoped, used, rows)
    found = minimise(rows)
    return None if found is None else fixed + found


def _commitments(scoped: Scoped, used: dict[tuple[int, int], tuple[Terms, Fraction]], rows: Rows) -> None:
    before, carried = "", ""
    for number, window in enumerate(scoped.windows):
        carried = carried if window.id == before else ""
        before = window.id
        spent: Terms = {}
        known = ZERO
        for (place, quarter), (terms, units) in used.items():
            worth = scoped.task.price[place][quarter] * window.parts[place] * window.shares[quarter]
            known += units * worth
            if worth:
                spent |= dict.fromkeys(terms, worth)
        on = f"c{number}" if window.carries else ""
        name = f"s{number}"
        if window.minimum:
            rows.cost[name] = window.rate
            terms = {**spent, name: ONE}
            terms |= {carried: ONE} if carried else {}
            terms |= {on: -ONE} if on else {}
            rows.add(terms, ">", window.promised - known)
        else:
            rows.cost[name] = -ONE
            rows.add({name: ONE, **{each: -worth for each, worth in spent.items()}}, "<", known)
            room = {name: ONE}
            room |= {carried: -ONE} if carried else {}
            room |= {on: ONE} if on else {}
            rows.add(room, "<", window.promised)
        carried = on


def minimise(problem: Rows) -> Fraction | None:
    """The least cost of named quantities of 0 or more, by the two-phase simplex with Bland's rule."""
    rows: list[Terms] = []
    basis: list[str] = []
    helpers: list[str] = []
    for number, (terms, sign, bound) in enumerate(problem.rows):
        row = {name: factor for name, factor in terms.items() if factor}
        if sign != "=":
            row[f"~{number}"] = ONE if sign == "<" else -ONE
        if bound < 0:
            row, bound = {name: -factor for name, factor in row.items()}, -bound  # noqa: PLW2901
        row[""] = bound
        start = f"~{number}"
        if row.get(start) != ONE:
            start = f"!{number}"
            helpers.append(start)
            row[start] = ONE
        rows.append(row)
        basis.append(start)
    if _pivot(rows, basis, dict.fromkeys(helpers, ONE)):
        return None
    for row in rows:
        for name in helpers:
            if name not in basis:
                row.pop(name, None)
    # A helper that stays in the basis is 0; a cost of its own keeps it there.
    return _pivot(rows, basis, problem.cost, frozenset(helpers))


def _pivot(rows: list[Terms], basis: list[str], cost: Terms, barred: frozenset[str] = frozenset()) -> Fraction:
    left = dict(cost)
    left.setdefault("", ZERO)
    for row, name in zip(rows, basis, strict=True):
        _subtract(left, row, left.get(name, ZERO))
    while True:
        entering = min((name for name, rest in left.items() if name and rest < 0 and name not in barred), default=None)
        if entering is None:
            return -left[""]
        ratios = [
            (row.get("", ZERO) / row[entering], basis[index], index)
            for index, row in enumerate(rows)
            if row.get(entering, ZERO) > 0
        ]
        stuck = [
            (ZERO, basis[index], index)
            for index, row in enumerate(rows)
            if basis[index] in barred and row.get(entering, ZERO) < 0
        ]
        _, _, at = min(ratios + stuck)
        factor = rows[at][entering]
        rows[at] = {name: value / factor for name, value in rows[at].items()}
        for index, row in enumerate(rows):
            if index != at:
                _subtract(row, rows[at], row.get(entering, ZERO))
        _subtract(left, rows[at], left[entering])
        basis[at] = entering


def _subtract(row: Terms, other: Terms, times: Fraction) -> None:
    if times:
        for name, factor in other.items():
            rest = row.get(name, ZERO) - times * factor
            if rest or not name:
                row[name] = rest
            else:
                row.pop(name, None)
