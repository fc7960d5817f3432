"""`stateline contracts check`, and the worked example through it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stateline.cli import app
from stateline.contracts import ContractError, FactsError

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "ai-cloud-contracts" / "contracts"
DEALS = ROOT.parent / "shared" / "deals.md"

MSOAI = """\
contract: msoai
clauses:
  - id: stateless-exclusive
    kind: exclusivity
    effective: {from: 2023-01-23, until: 2026-04-27}
    readings:
      - id: every-call
        held_by: [microsoft]
        deny: 'model.vendor == "openai" && deployment.cloud in ["aws", "google"]'
      - id: stateless-only
        held_by: [openai, amazon]
        deny: 'model.vendor == "openai" && workload.kind == "stateless" && deployment.cloud in ["aws", "google"]'
"""
FACTS = '{"model":{"vendor":"openai"},"deployment":{"cloud":"aws"},"workload":{"kind":"stateful"}}'


def check(folder: Path, at: str, facts: str, *more: str) -> str:
    arguments = ["contracts", "check", "--contracts", str(folder), "--at", at, "--facts", facts, *more]
    result = CliRunner().invoke(app, arguments)
    if result.exception:
        raise result.exception
    return result.stdout


def verdict(folder: Path, at: str, facts: str, *more: str) -> dict[str, Any]:
    return json.loads(check(folder, at, facts, "--json", *more))


def test_the_verdict_is_printed_in_its_fixed_form(tmp_path: Path) -> None:
    (tmp_path / "msoai.yaml").write_text(MSOAI)
    readings = [
        {"id": "every-call", "held_by": ["microsoft"], "outcome": "deny"},
        {"id": "stateless-only", "held_by": ["openai", "amazon"], "outcome": "allow"},
    ]
    clause = {"id": "msoai/stateless-exclusive", "outcome": "contested", "resolved": "deny", "readings": readings}
    assert verdict(tmp_path, "2026-03-18", FACTS, "--posture", "strict") == {
        "outcome": "contested",
        "resolved": "deny",
        "posture": "strict",
        "at": "2026-03-18",
        "clauses": [clause],
    }
    assert verdict(tmp_path, "2026-04-27T00:00:00Z", FACTS) == {
        "outcome": "allow",
        "resolved": "allow",
        "posture": "strict",
        "at": "2026-04-27T00:00:00Z",
        "clauses": [],
        "reason": "no_clause",
    }


def test_a_person_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "msoai.yaml").write_text(MSOAI)
    said = check(tmp_path, "2026-03-18", FACTS, "--posture", "openai")
    assert said.splitlines() == [
        "contested, so allow: at 2026-03-18, posture openai",
        "  contested, so allow: msoai/stateless-exclusive",
        "    deny: every-call, held by microsoft",
        "    allow: stateless-only, held by openai, amazon",
    ]
    (tmp_path / "msoai.yaml").write_text("posture: openai\n" + MSOAI)
    assert "(posture openai, its contract's own)" in check(tmp_path, "2026-03-18", FACTS)
    assert "no clause with readings" in check(tmp_path, "2030-01-01", FACTS)


@pytest.mark.parametrize(
    ("at", "facts", "posture", "word"),
    [
        ("today", FACTS, "strict", "RFC 3339"),
        ("2026-03-18", "{", "strict", "not valid JSON"),
        ("2026-03-18", '{"model": {}, "model": {}}', "strict", "twice"),
        ("2026-03-18", '{"model": {"vender": "x"}}', "strict", "did you mean"),
        ("2026-03-18", FACTS, "", "--posture"),
    ],
)
def test_bad_questions_are_refused(tmp_path: Path, at: str, facts: str, posture: str, word: str) -> None:
    with pytest.raises(FactsError, match=word):
        check(tmp_path, at, facts, "--posture", posture)


def test_bad_contracts_are_refused_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "msoai.yaml").write_text(MSOAI.replace("every-call", "stateless-only"))
    with pytest.raises(ContractError, match=r"msoai.yaml:10: clauses\[0\].readings\[1\].id"):
        check(tmp_path, "2026-03-18", FACTS)


# -- the worked example: section E of deals.md (the others: test_example.py) ----------------------------

ROWS = (
    re.findall(r"^\|(.+)\|(.+)\|(.+)\|(.+)\|$", DEALS.read_text().split("\n## E.")[1], re.MULTILINE)[2:]
    if DEALS.is_file()
    else []
)
PRODUCTS: dict[str, dict[str, list[str]]] = {
    "any, already shipped on Azure": {"shipped_on": ["azure"], "declined_by": []},
    "new product, not yet on Azure, Azure able and willing": {"shipped_on": [], "declined_by": []},
}


def placements(at: str, workload: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The instants and facts that one row stands for."""
    kinds = [workload] if workload in ("stateless", "stateful") else ["stateless", "stateful"]
    days = ["2024-06-01", "2025-12-01", "2026-03-18", "2026-05-01"] if at == "any" else [at[:10]]
    vendor, clouds = ("anthropic", ["azure", "aws", "google"]) if "Anthropic" in workload else ("openai", ["aws"])
    product = PRODUCTS.get(workload)
    for day in days:
        for kind in kinds:
            for cloud in clouds:
                facts: dict[str, Any] = {"model": {"vendor": vendor}, "deployment": {"cloud": cloud}}
                facts["workload"] = {"kind": kind}
                yield day, facts | ({"product": product} if product else {})


@pytest.mark.skipif(not ROWS, reason="../shared, with the worked example's figures, is not here")
def test_the_same_request_over_time_as_the_articles_have_it() -> None:
    assert len(ROWS) == 8
    for at, workload, microsoft, openai in ([cell.strip() for cell in row] for row in ROWS):
        for day, facts in placements(at, workload):
            for posture, expected in (("microsoft", microsoft), ("openai", openai), ("amazon", openai)):
                found = verdict(EXAMPLE, day, json.dumps(facts), "--posture", posture)
                assert (day, facts, posture, found["resolved"]) == (day, facts, posture, expected)


def test_the_dispute_of_the_example_is_contested() -> None:
    found = verdict(EXAMPLE, "2026-03-18", FACTS)
    assert (found["outcome"], found["resolved"]) == ("contested", "deny")
    assert verdict(EXAMPLE, "2026-05-01", FACTS)["outcome"] == "unknown"
