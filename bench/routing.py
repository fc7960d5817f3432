"""A year of traffic, routed by marginal value and by list price: ``python -m bench.routing``.

For each random portfolio a year of daily use is drawn: a base, a trend, weekdays, noise, and a day on which it
jumps. It is routed twice, day by day: to the cheapest allowed deployment with room by list price, and by effective
price (``money.effective``), with marginal values that a plan makes anew each morning from what is drawn so far and
from the mean use of the four weeks before: it knows nothing of the days to come. What both cost, shortfalls
included, is then added up by drawing the commitments down (``contracts.drawdown``). Beside them stands a plan that
knew the whole year: nothing can cost less.

Writes bench/results/routing.json and routing.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple, cast

import msgspec

from bench.report import machine
from bench.routing_svg import draw
from stateline.contracts import Contracts, Document, load
from stateline.contracts.drawdown import Drawdown, Terms, Use, terms_of
from stateline.contracts.eligible import place_columns
from stateline.contracts.plan import Plan, Solved, plan
from stateline.contracts.portfolio import read
from stateline.contracts.scoping import scoped
from stateline.money.effective import Draw, decode, effective, encode
from stateline.planner import Planner

YEAR = (date(2026, 1, 1), date(2027, 1, 1))
DAYS = [date.fromordinal(number) for number in range(YEAR[0].toordinal(), YEAR[1].toordinal())]
QUARTER_DAYS = 91
SEEN_DAYS = 28
CLOUDS = ("aws", "azure", "google")
KINDS = ("stateless", "batch", "training")

Volumes = list[list[int]]
"""Workload -> day -> units."""


class Portfolio(NamedTuple):
    """Sites as planned, workloads without their demand, contracts, and the year's use."""

    sites: list[dict[str, Any]]
    works: list[dict[str, Any]]
    contracts: Contracts
    terms: list[Terms]
    expected: list[int]
    volumes: Volumes


def portfolio(seed: int) -> Portfolio:
    """Two deployments at each of three clouds with a commitment, one at a fourth without; one model everywhere."""
    rng = random.Random(seed)
    works = [{"name": f"w{number}", "kind": rng.choice(KINDS)} for number in range(8)]
    expected = [rng.randint(20, 200) for _ in works]
    volumes = [_year(rng, base) for base in expected]
    sites: list[dict[str, Any]] = []
    for number, cloud in enumerate((*CLOUDS, "local", *CLOUDS)):
        price = Decimal(rng.randint(300, 420) if cloud == "local" else rng.randint(320, 560)) / 100
        site: dict[str, Any] = {
            "name": f"d{number}",
            "model": "m",
            "cloud": cloud,
            "region": f"r{number % 3}",
            "price": str(price),
        }
        if rng.random() < 0.4:
            site["capacity"] = rng.randint(sum(expected) // 4, sum(expected)) * QUARTER_DAYS
        sites.append(site)
    del sites[3]["region"]
    sites[3].pop("capacity", None)  # Whatever is full, there is a place.
    spend = sum(expected) * len(DAYS) * 4
    clauses = [_commitment(rng, cloud, int(spend * rng.uniform(0.08, 0.35))) for cloud in CLOUDS]
    for number in range(2):
        deny = f'workload.kind == "{rng.choice(KINDS)}" && deployment.cloud == "{rng.choice(CLOUDS)}"'
        dates = rng.choice(({}, {"from": date(2026, 6, 15)}, {"until": date(2026, 9, 1)}))
        reading = {"id": "r", "held_by": ["them"], "deny": deny}
        clauses.append({"id": f"deny{number}", "kind": "restriction", "effective": dates, "readings": [reading]})
    contracts = load([Document("c.yaml", {"contract": "c", "clauses": clauses})])
    return Portfolio(sites, works, contracts, terms_of(contracts)[0], expected, volumes)


def _year(rng: random.Random, base: int) -> list[int]:
    trend, jump, size = rng.uniform(-0.3, 0.7), rng.randrange(len(DAYS)), rng.uniform(0.6, 1.6)
    found: list[int] = []
    for number, day in enumerate(DAYS):
        level = base * (1 + trend * number / len(DAYS)) * (size if number >= jump else 1)
        weekday = 0.6 if day.weekday() >= 5 else 1.15
        found.append(max(0, round(level * weekday * math.exp(rng.gauss(0, 0.15)))))
    return found


def _commitment(rng: random.Random, cloud: str, amount: int) -> dict[str, Any]:
    model, interval = rng.choice((("minimum", "annual"), ("minimum", "quarterly"), ("prepaid", "quarterly")))
    return {
        "id": cloud,
        "kind": "commitment",
        "payer": "us",
        "payee": cloud,
        "effective": {"from": YEAR[0], "until": YEAR[1]},
        "amount": {"exact": amount, "unit": "USD"},
        "commitment": {
            "model": model,
            "interval": interval,
            "accrues": "use",
            "shortfall_rate": rng.choice(("0.5", "1.0")),
        },
    }


# -- a year --------------------------------------------------------------------------------------


class Costs(NamedTuple):
    """What a year came to: by list, what of it was paid already, and charges for shortfalls."""

    list_price: Decimal
    covered: Decimal
    charges: Decimal

    @property
    def total(self) -> Decimal:
        return self.list_price - self.covered + self.charges


class Router:
    """Routes a portfolio's year, and draws its commitments down."""

    def __init__(self, one: Portfolio, solver: Planner) -> None:
        self.one = one
        self.solver = solver
        self.prices = [Decimal(site["price"]) for site in one.sites]
        self.columns = [
            place_columns(name=site["name"], cloud=site["cloud"], host=None, region=site.get("region"), account=None)
            for site in one.sites
        ]
        self.parts = [[terms.counted(columns) for terms in one.terms] for columns in self.columns]
        self.denied = [self._denied(day) for day in DAYS]

    def _denied(self, day: date) -> frozenset[tuple[int, int]]:
        """Workload and deployment, where a clause denies on a day."""
        at = datetime(day.year, day.month, day.day, tzinfo=UTC)
        verdicts = {
            (kind, cloud): self.one.contracts.evaluate({"workload": {"kind": kind}, "deployment": {"cloud": cloud}}, at)
            for kind in KINDS
            for cloud in (*CLOUDS, "local")
        }
        return frozenset(
            (index, place)
            for index, work in enumerate(self.one.works)
            for place, site in enumerate(self.one.sites)
            if verdicts[work["kind"], site["cloud"]].resolved == "deny"
        )

    def _task(self, since: date, quarters: int, daily: Sequence[int | Fraction]) -> Any:
        works = [
            {**work, "demand": str(round(units * QUARTER_DAYS))}
            for work, units in zip(self.one.works, daily, strict=True)
        ]
        value = {"since": since, "quarters": quarters, "workloads": works, "deployments": self.one.sites}
        return read(Document("p.yaml", value))

    def by_list(self) -> Costs:
        order = sorted(range(len(self.prices)), key=lambda place: self.prices[place])
        drawdown = Drawdown(self.one.terms)
        return self._sum(drawdown, [self._day(drawdown, number, order) for number in range(len(DAYS))])

    def by_value(self, every: int) -> Costs:
        """With a plan each ``every`` days; values count for a day, so one of more days routes by list between."""
        drawdown = Drawdown(self.one.terms)
        spent: list[Decimal] = []
        for number, day in enumerate(DAYS):
            order = sorted(range(len(self.prices)), key=lambda place: self.prices[place])
            if number % every == 0:
                order = self._order(day, self._plan(drawdown, number))
            spent.append(self._day(drawdown, number, order))
        return self._sum(drawdown, spent)

    def _plan(self, drawdown: Drawdown, number: int) -> Plan:
        day = DAYS[number]
        seen = [volumes[max(0, number - SEEN_DAYS) : number] for volumes in self.one.volumes]
        daily = [
            Fraction(sum(each), len(each)) if each else base for each, base in zip(seen, self.one.expected, strict=True)
        ]
        task = self._task(day, 4, daily)
        drawn = {
            name: Fraction(next((one.drawn for one in intervals if one.status == "running"), Decimal(0)))
            for name, intervals in drawdown.result(day).items()
        }
        found = plan(scoped(task._replace(drawn=drawn), self.one.contracts), self.solver)
        assert isinstance(found, Solved), "there is always a place"
        return found.plan

    def _order(self, day: date, made: Plan) -> list[int]:
        """Deployments by effective price, as a server would have it: through the file of values."""
        table: dict[str, dict[str, str]] = {}
        for row in made.commitments:
            table.setdefault(row.commitment, {})[row.interval] = row.value
        now = datetime(day.year, day.month, day.day, tzinfo=UTC)
        values = decode(encode(now, table))
        assert values.fresh(now)
        found = [
            effective(
                price,
                [
                    Draw(terms.id, part, values.of(terms.id, terms.accrues_on(day)) or Decimal(0), paid=terms.paid)
                    for terms, part in zip(self.one.terms, parts, strict=True)
                ],
            )
            for price, parts in zip(self.prices, self.parts, strict=True)
        ]
        return sorted(range(len(found)), key=lambda place: found[place].order)

    def _day(self, drawdown: Drawdown, number: int, order: Sequence[int]) -> Decimal:
        """Place a day's use in an order; what it costs by list."""
        capacity = [site.get("capacity") for site in self.one.sites]
        room = [10**9 if each is None else each // QUARTER_DAYS for each in capacity]
        used = [0] * len(room)
        for work, volumes in enumerate(self.one.volumes):
            rest = volumes[number]
            for place in order:
                if rest and (work, place) not in self.denied[number]:
                    units = min(rest, room[place] - used[place])
                    used[place] += units
                    rest -= units
            assert not rest, "there is always a place"
        day = DAYS[number]
        for place, units in enumerate(used):
            cost = self.prices[place] * units
            if units:
                drawdown.add(Use(day, day + timedelta(days=1), cost, cost, "USD", self.columns[place]))
        return sum((self.prices[place] * units for place, units in enumerate(used)), Decimal(0))

    def _sum(self, drawdown: Drawdown, days: Sequence[Decimal]) -> Costs:
        result = drawdown.result(YEAR[1])
        met = [
            (terms, interval.result)
            for terms in self.one.terms
            for interval in result[terms.id]
            if interval.result is not None
        ]
        return Costs(
            list_price=sum(days, Decimal(0)),
            covered=sum((each.applied for terms, each in met if terms.paid), Decimal(0)),
            charges=sum((each.charge for _, each in met), Decimal(0)),
        )

    def foreseen(self) -> Decimal:
        """What a plan costs that knows each quarter's use, and no day's capacity: no routing can cost less."""
        task = self._task(YEAR[0], 4, self.one.expected)
        demand = tuple(
            tuple(
                Fraction(sum(units for day, units in zip(DAYS, volumes, strict=True) if since <= day < until))
                for since, until in zip(task.days, task.days[1:], strict=False)
            )
            for volumes in self.one.volumes
        )
        capacity = tuple(
            tuple(
                None if units is None else units / QUARTER_DAYS * (until - since).days
                for units, since, until in zip(each, task.days, task.days[1:], strict=False)
            )
            for each in task.capacity
        )
        found = plan(scoped(task._replace(demand=demand, capacity=capacity), self._undated()), self.solver)
        assert isinstance(found, Solved), "there is always a place"
        return Decimal(found.costs.total.numerator) / Decimal(found.costs.total.denominator)

    def _undated(self) -> Contracts:
        """The contracts without clauses that hold for a part of a quarter, since a plan denies the whole of it."""
        keep = [
            clause
            for contract in self.one.contracts.contracts
            for clause in contract.clauses
            if not clause.readings or (clause.effective.since is None and clause.effective.until is None)
        ]
        return load([Document("c.yaml", {"contract": "c", "clauses": _written(msgspec.to_builtins(keep))})])


def _written(clauses: Any) -> Any:
    """As a file would have them: keys without a value left out, days as days."""
    if isinstance(clauses, list):
        return [_written(each) for each in cast("list[Any]", clauses)]
    if isinstance(clauses, dict):
        table = cast("dict[str, Any]", clauses)
        return {name: _written(each) for name, each in table.items() if each not in (None, [], {}, "")}
    return clauses


# -- what is shown -------------------------------------------------------------------------------


def run(seed: int, every: int) -> dict[str, Any]:
    begun = time.process_time()
    router = Router(portfolio(seed), Planner())
    by_list, by_value, least = router.by_list(), router.by_value(every), router.foreseen()
    return {
        "seed": seed,
        "by_list": _costs(by_list),
        "by_value": _costs(by_value),
        "least": round(float(least), 2),
        "saved": round(float(1 - by_value.total / by_list.total), 4),
        "saved_at_most": round(float(1 - least / by_list.total), 4),
        "cpu_s": round(time.process_time() - begun, 2),
    }


def _costs(one: Costs) -> dict[str, float]:
    return {
        "total": round(float(one.total), 2),
        "list_price": round(float(one.list_price), 2),
        "covered": round(float(one.covered), 2),
        "charges": round(float(one.charges), 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A year of traffic, routed twice")
    parser.add_argument("--portfolios", type=int, default=50)
    parser.add_argument("--every", type=int, default=1, help="days from plan to plan")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    print(f"{'':>4}  {'by list':>12}  {'by value':>12}  {'at least':>12}  {'saved':>7}  {'at most':>7}")
    for seed in range(options.portfolios):
        row = run(seed, options.every)
        rows.append(row)
        totals = f"{row['by_list']['total']:>12,.0f}  {row['by_value']['total']:>12,.0f}  {row['least']:>12,.0f}"
        print(f"{seed:>4}  {totals}  {row['saved']:>7.1%}  {row['saved_at_most']:>7.1%}", flush=True)
    saved, most = [row["saved"] for row in rows], [row["saved_at_most"] for row in rows]
    summary = {
        "portfolios": len(rows),
        "cheaper": sum(one > 0 for one in saved),
        "dearer": sum(one < 0 for one in saved),
        "saved": {"mean": mean(saved), "median": median(saved), "least": min(saved), "most": max(saved)},
        "saved_at_most": {"mean": mean(most), "median": median(most)},
        "total_by_list": sum(row["by_list"]["total"] for row in rows),
        "total_by_value": sum(row["by_value"]["total"] for row in rows),
        "total_at_least": sum(row["least"] for row in rows),
    }
    print(json.dumps(summary, indent=1))
    options.out.mkdir(exist_ok=True)
    document = {"machine": machine(), "every_days": options.every, "summary": summary, "rows": rows}
    (options.out / "routing.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "routing.svg").write_text(draw(saved, most))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
