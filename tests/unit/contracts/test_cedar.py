"""Exclusivity, residency and ship-first, encoded once more in Cedar by hand, agree with our evaluator.

For each reading one Cedar policy says where it *must* deny and one where it *may*: facts may be missing, and a
reading is unknown where it may deny and need not. A schema is given, since without one a missing attribute
makes a policy fail and be skipped.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cedarpy import (
    PolicySet,
    Schema,
    is_authorized,  # pyright: ignore[reportUnknownVariableType]
    validate_policies,  # pyright: ignore[reportUnknownVariableType]
)

from stateline.contract_files import parse
from stateline.contracts import Contracts, load

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "ai-cloud-contracts" / "contracts"
RESIDENCY = """\
contract: residency
clauses:
  - id: eu-data
    kind: residency
    effective: {from: 2024-06-01}
    readings:
      - {id: zone, held_by: [acme], deny: 'principal.tenant == "acme" && deployment.data_zone != "eu"'}
"""

SCHEMA = """
entity Caller; entity Place;
action place appliesTo {
  principal: Caller, resource: Place,
  context: {
    at: datetime, vendor?: String, cloud?: String, kind?: String, zone?: String, tenant?: String,
    shipped?: Set<String>, declined?: Set<String>,
  },
};
"""
ALWAYS = "true"
SOLE = 'context.at >= datetime("2019-01-01") && context.at < datetime("2025-10-28")'
STATELESS = 'context.at >= datetime("2023-01-23") && context.at < datetime("2026-04-27")'
SHIP = 'context.at >= datetime("2026-04-27")'
ZONE = 'context.at >= datetime("2024-06-01")'
OPENAI = ("vendor", 'context.vendor == "openai"')
ELSEWHERE = ("cloud", '["aws", "google"].contains(context.cloud)')
# reading -> when its clause holds, and the conditions on facts that together deny.
READINGS = {
    "sole-cloud/all-workloads": (SOLE, [OPENAI, ELSEWHERE]),
    "stateless-exclusive/every-call": (STATELESS, [OPENAI, ELSEWHERE]),
    "stateless-exclusive/stateless-only": (STATELESS, [OPENAI, ELSEWHERE, ("kind", 'context.kind == "stateless"')]),
    "ship-first/azure-first": (
        SHIP,
        [
            OPENAI,
            ELSEWHERE,
            ("shipped", '!context.shipped.contains("azure")'),
            ("declined", '!context.declined.contains("azure")'),
        ],
    ),
    "eu-data/zone": (ZONE, [("tenant", 'context.tenant == "acme"'), ("zone", 'context.zone != "eu"')]),
}
PATHS = {
    "vendor": ("model", "vendor"),
    "cloud": ("deployment", "cloud"),
    "kind": ("workload", "kind"),
    "zone": ("deployment", "data_zone"),
    "tenant": ("principal", "tenant"),
    "shipped": ("product", "shipped_on"),
    "declined": ("product", "declined_by"),
}
BOUNDARIES = [datetime(*day, tzinfo=UTC) for day in [(2023, 1, 23), (2024, 6, 1), (2025, 10, 28), (2026, 4, 27)]]


def policies() -> str:
    """`in`: the clause holds; `must`, `may`: its reading denies, or could."""
    texts: list[str] = []
    for reading, (holds, conditions) in READINGS.items():
        must = " && ".join(f"context has {name} && {text}" for name, text in conditions)
        may = " && ".join(f"(if context has {name} then {text} else true)" for name, text in conditions)
        for word, text in (("in", ALWAYS), ("must", must), ("may", may)):
            when = f"when {{ {holds} }} when {{ {text} }}"
            texts.append(f'@id("{word} {reading}") permit(principal, action == Action::"place", resource) {when};')
    return "\n".join(texts)


def by_cedar(known: dict[str, Any], at: datetime, engine: tuple[PolicySet, Schema]) -> dict[str, str]:
    """Reading -> allow, deny, unknown, for those of clauses in force."""
    moment = at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"
    context = {**known, "at": {"__extn": {"fn": "datetime", "arg": moment}}}
    request = {"principal": 'Caller::"c"', "action": 'Action::"place"', "resource": 'Place::"p"', "context": context}
    result = is_authorized(request, engine[0], [], engine[1])
    assert result.diagnostics.errors == []
    said = set(cast("dict[str, str]", result.diagnostics.id_annotations_by_reason).values())  # pyright: ignore[reportUnknownMemberType]
    return {
        reading: "deny" if f"must {reading}" in said else "unknown" if f"may {reading}" in said else "allow"
        for reading in READINGS
        if f"in {reading}" in said
    }


def outcome_of(readings: dict[str, str]) -> str:
    """The rules of DESIGN within and across clauses, once more."""
    clauses: dict[str, set[str]] = {}
    for reading, word in readings.items():
        clauses.setdefault(reading.split("/")[0], set()).add(word)
    words = [
        next(iter(found)) if len(found) == 1 else "unknown" if "unknown" in found else "contested"
        for found in clauses.values()
    ]
    return min(words, key=["deny", "contested", "unknown", "allow"].index, default="allow")


def random_case(rng: random.Random) -> tuple[dict[str, Any], datetime, bool]:
    """Facts by Cedar's names, an instant of whole milliseconds, and whether it lies on a boundary day.

    Weighted so that no outcome is rare: what is contested needs a short span and one kind of call.
    """
    edge = rng.random() < 0.36
    if edge:
        day = rng.choices(BOUNDARIES, [1, 1, 3, 3])[0]
        steps = [-86_400_000, -1, 0, 1, 86_399_999, rng.randrange(-86_400_000, 86_400_000)]
        at = day + timedelta(milliseconds=rng.choice(steps))
    else:
        begin = datetime(2025, 10, 28, tzinfo=UTC) if rng.random() < 0.7 else datetime(2018, 6, 1, tzinfo=UTC)
        at = begin + timedelta(
            milliseconds=rng.randrange(180 * 86_400_000 if begin.year == 2025 else 9 * 365 * 86_400_000)
        )
    known: dict[str, Any] = {
        "vendor": rng.choices(["openai", "anthropic"], [5, 1])[0],
        "cloud": rng.choices(["aws", "google", "azure"], [4, 4, 1])[0],
        "kind": rng.choices(["stateless", "stateful", "batch"], [2, 5, 2])[0],
        "zone": rng.choices(["eu", "us"], [2, 1])[0],
        "tenant": rng.choices(["acme", "other"], [1, 3])[0],
        "shipped": rng.choice([[], ["azure"], ["aws"], ["aws", "azure"]]),
        "declined": rng.choice([[], [], ["azure"], ["google"]]),
    }
    for name, share in {"vendor": 0.12, "cloud": 0.12, "kind": 0.1, "zone": 0.05, "tenant": 0.05}.items():
        if rng.random() < share:
            del known[name]
    for name in ("shipped", "declined"):
        if rng.random() < 0.3:
            del known[name]
    return known, at, edge


def ours() -> Contracts:
    name = "microsoft-openai.yaml"
    return load([parse(name, (EXAMPLE / name).read_text()), parse("residency.yaml", RESIDENCY)])


def test_the_policies_are_valid_under_the_schema() -> None:
    assert validate_policies(policies(), SCHEMA).validation_passed
    misspelt = policies().replace("context.vendor", "context.vender", 1)
    assert not validate_policies(misspelt, SCHEMA).validation_passed


@pytest.mark.parametrize("count", [4_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_two_encodings_agree_on_random_facts(count: int) -> None:
    rng = random.Random(20260318)
    contracts = ours()
    engine = (PolicySet.from_str(policies()), Schema.from_str(SCHEMA))
    outcomes: Counter[str] = Counter()
    edges = 0
    for _ in range(count):
        known, at, edge = random_case(rng)
        facts: dict[str, dict[str, Any]] = {}
        for name, value in known.items():
            root, field = PATHS[name]
            facts.setdefault(root, {})[field] = value
        verdict = contracts.evaluate(facts, at)
        found = {f"{one.id.split('/')[1]}/{each.id}": each.outcome for one in verdict.clauses for each in one.readings}
        cedar = by_cedar(known, at, engine)
        assert (known, at, found) == (known, at, cedar)
        assert verdict.outcome == outcome_of(cedar)
        outcomes[verdict.outcome] += 1
        edges += edge
    shares = {word: outcomes[word] / count for word in ("allow", "deny", "contested", "unknown")}
    assert min(shares.values()) >= 0.2, shares
    assert edges / count >= 1 / 3, edges
