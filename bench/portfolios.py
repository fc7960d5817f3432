"""Random portfolios under random contracts, by a seed."""

from __future__ import annotations

import random
from datetime import date
from typing import Any

from stateline.contracts import Contracts, Document, load
from stateline.contracts.portfolio import Task, read

CLOUDS = ("aws", "azure", "google")
REGIONS = ("eu-1", "eu-1", "us-1", "us-1", "ap-1")
SINCE = date(2026, 1, 1)


def small(seed: int) -> tuple[Task, Contracts]:
    """Up to 5 workloads on up to 3 deployments over up to 2 quarters, with everything that contracts can say."""
    rng = random.Random(seed)
    quarters = rng.randint(1, 2)
    sites = [_site(rng, number, quarters) for number in range(rng.randint(1, 3))]
    for site in sites:
        if rng.random() < 0.35:
            site["capacity"] = [rng.randint(10, 90) for _ in range(quarters)]
    workloads = [_workload(rng, number, quarters, 20) for number in range(rng.randint(1, 5))]
    clauses = [_denial(rng, number) for number in range(rng.randint(0, 2))]
    if rng.random() < 0.25:
        for one in (*sites, *workloads):
            one["unit"] = "GW"
        clauses.append(_cap(rng, rng.randint(20, 120)))
    clauses += [_commitment(rng, cloud, 20, 400) for cloud in rng.sample(CLOUDS, rng.randint(0, 3))]
    return _made(sites, workloads, clauses, quarters)


def large(seed: int, workloads: int = 60, sites: int = 12, quarters: int = 8) -> tuple[Task, Contracts]:
    """The size that is measured: three commitments, clauses that deny, deployments whose capacity binds."""
    rng = random.Random(seed)
    places = [_site(rng, number, quarters) for number in range(sites)]
    for number, site in enumerate(places):
        site["cloud"] = CLOUDS[number % 3]
        if number % 2:
            site["capacity"] = [rng.randint(400, 1200) for _ in range(quarters)]
    works = [_workload(rng, number, quarters, 200, shy=False) for number in range(workloads)]
    spend = 100 * 5 * workloads * quarters
    clauses = [_denial(rng, number) for number in range(3)]
    for cloud, model in zip(CLOUDS, ("minimum", "minimum", "prepaid"), strict=True):
        share = rng.uniform(0.25, 0.5)
        amount = int(spend * share * (0.3 if model == "prepaid" else 1))
        interval = rng.choice(("annual", "quarterly"))
        rollover, rate = rng.random() < 0.5, rng.choice(("0.5", "1.0"))
        clauses.append(_clause(cloud, model, amount, interval=interval, rollover=rollover, rate=rate, accrues="use"))
    return _made(places, works, clauses, quarters)


def _made(
    sites: list[dict[str, Any]], workloads: list[dict[str, Any]], clauses: list[dict[str, Any]], quarters: int
) -> tuple[Task, Contracts]:
    portfolio = {"since": SINCE, "quarters": quarters, "deployments": sites, "workloads": workloads, "payer": "us"}
    return (
        read(Document("portfolio.yaml", portfolio)),
        load([Document("contract.yaml", {"contract": "c", "clauses": clauses})]),
    )


def _site(rng: random.Random, number: int, quarters: int) -> dict[str, Any]:
    return {
        "name": f"d{number}",
        "model": "m",
        "vendor": rng.choice(("openai", "anthropic")),
        "cloud": rng.choice(CLOUDS),
        "region": rng.choice(REGIONS),
        "accelerator": rng.choice(("h100", "tpu", "trainium")),
        "price": [f"{rng.randint(100, 900) / 100:.2f}" for _ in range(quarters)],
    }


def _workload(rng: random.Random, number: int, quarters: int, most: int, *, shy: bool = True) -> dict[str, Any]:
    kind = rng.choice(("stateful", "stateless", "training", "batch"))
    found: dict[str, Any] = {
        "name": f"w{number}",
        "kind": kind,
        "demand": [rng.randint(0 if shy else most // 10, most) for _ in range(quarters)],
    }
    if kind == "training" and rng.random() < 0.5:
        found["accelerators"] = rng.sample(("h100", "tpu", "trainium"), 2)
    return found


def _denial(rng: random.Random, number: int) -> dict[str, Any]:
    """A clause over one kind of work at one cloud or vendor, perhaps from the middle of a quarter on."""
    what = rng.choice(
        (
            f'deployment.cloud == "{rng.choice(CLOUDS)}"',
            f'deployment.region == "{rng.choice(REGIONS)}"',
            f'model.vendor == "openai" && deployment.cloud == "{rng.choice(CLOUDS)}"',
        )
    )
    kind = rng.choice(("stateful", "stateless", "training", "batch"))
    effective = rng.choice(({}, {"from": date(2026, 5, 10)}, {"until": date(2026, 3, 1)}))
    return {
        "id": f"deny{number}",
        "kind": "exclusivity",
        "effective": effective,
        "readings": [{"id": "r", "held_by": ["them"], "deny": f'workload.kind == "{kind}" && {what}'}],
    }


def _cap(rng: random.Random, units: int) -> dict[str, Any]:
    return {
        "id": "cap",
        "kind": "capacity",
        "payer": "us",
        "payee": rng.choice(CLOUDS),
        "amount": {"max": units, "unit": "GW"},
    }


def _commitment(rng: random.Random, cloud: str, least: int, most: int) -> dict[str, Any]:
    return _clause(
        cloud,
        rng.choice(("minimum", "minimum", "prepaid", "reserved", "option")),
        rng.randint(least, most),
        interval=rng.choice(("monthly", "quarterly", "annual", "full")),
        rollover=rng.random() < 0.5,
        rate=rng.choice(("0.25", "0.5", "1.0")),
        accrues=rng.choice(("use", "invoice")),
    )


def _clause(
    cloud: str, model: str, amount: int, *, interval: str, rollover: bool, rate: str, accrues: str
) -> dict[str, Any]:
    return {
        "id": f"{cloud}-commitment",
        "kind": "commitment",
        "payer": "us",
        "payee": cloud,
        "effective": {"from": SINCE, "until": date(2028, 1, 1)},
        "amount": {"exact": amount * 4, "unit": "USD"},
        "commitment": {
            "model": model,
            "interval": interval,
            "rollover": rollover,
            "shortfall_rate": rate,
            "accrues": accrues,
            "applicability": {
                "InclusionOperator": "Or",
                "Inclusions": [
                    {"Dimension": "RegionId", "Operator": "In", "Values": ["eu-1"]},
                    {"Dimension": "RegionId", "Operator": "In", "Values": ["us-1"], "Applicability": {"Cost": "0.5"}},
                ],
            },
        },
    }
