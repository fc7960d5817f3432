"""The worked example by command: every row encoded, section C found by lint, section D computed by report."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.contracts.test_command import DEALS, EXAMPLE, FACTS, MSOAI
from typer.testing import CliRunner

from stateline.cli import app
from stateline.contract_files import load_folder
from stateline.contracts import FactsError

WITH_DEALS = pytest.mark.skipif(not DEALS.is_file(), reason="../shared, with the worked example's figures, is not here")


def run(command: str, *arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["contracts", command, *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code
    return result.stdout


def example(command: str, *arguments: str, exit_code: int = 0) -> Any:
    return json.loads(run(command, "--contracts", str(EXAMPLE), *arguments, "--json", exit_code=exit_code))


def section(name: str) -> str:
    return DEALS.read_text().split(f"\n## {name}.")[1].split("\n## ")[0]


def row(name: str, first: str) -> list[str]:
    """The cells of the row of a section whose first cell begins so."""
    line = next(line for line in section(name).splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@WITH_DEALS
def test_every_row_is_encoded() -> None:
    rows = set(re.findall(r"^\| ([DK]\d\d) \|", section("A") + section("B"), re.MULTILINE))
    written = "".join(path.read_text() for path in EXAMPLE.glob("*.yaml"))
    marked = {one for line in re.findall(r"^  # (.*)$", written, re.MULTILINE) for one in re.findall(r"[DK]\d\d", line)}
    assert len(rows) == 35 + 12
    assert rows - marked == set()


def test_each_clause_of_the_example_names_its_source() -> None:
    clauses = [clause for contract in load_folder(EXAMPLE).contracts for clause in contract.clauses]
    assert [clause.id for clause in clauses if not clause.source or not clause.text] == []


# -- C: what lint finds --------------------------------------------------------------------------

CONTRADICTIONS = {
    "C1": [("sources-differ", "openai-others/openai-valuation")],
    "C2": [("sources-differ", "microsoft-openai/investment")],
    "C3": [
        ("overlap", "amazon-openai/amazon-stake"),
        ("status-differs", "amazon-openai/cloud-contract"),
        ("status-differs", "amazon-openai/chips-for-equity"),
    ],
    "C4": [("sources-differ", "microsoft-openai/ip-licence")],
    "C5": [("overlap", "microsoft-openai/stateless-exclusive")],
    "C6": [("sources-differ", "anthropic-microsoft-nvidia/microsoft-stake")],
    "C7": [("sources-differ", "amazon-anthropic/amazon-stake")],
    "C8": [],
    "C9": [("sources-differ", "openai-others/openai-commitments-total")],
    "C10": [("overlap", "microsoft-openai/sole-cloud")],
    "C11": [("status-differs", "press-claims/dma-gatekeepers")],
    "C12": [("status-differs", "press-claims/ftc-inquiry")],
    "C13": [("status-differs", "press-claims/speaker")],
    "C14": [("conversion", "amazon-openai/cloud-contract"), ("conversion", "microsoft-openai/investment")],
}


def test_lint_finds_each_contradiction() -> None:
    findings = example("lint", exit_code=1)["findings"]
    found = {(one["rule"], one["clause"]) for one in findings}
    for name, expected in CONTRADICTIONS.items():
        assert (name, set(expected) - found) == (name, set())
    # C8 is consistent: the term stands in one source alone, and all give one amount.
    rules = {one["rule"] for one in findings if one["clause"] == "amazon-openai/aws-38b"}
    assert rules == {"no-bound"}
    with_others = {other for one in findings if one["rule"] == "overlap" for other in one["others"]}
    assert "microsoft-openai/other-clouds" in with_others
    assert all(re.search(r"\.yaml:\d+$", one["place"]) for one in findings)


@WITH_DEALS
def test_every_contradiction_of_the_deals_is_looked_for() -> None:
    assert set(re.findall(r"^\| (C\d+) \|", section("C"), re.MULTILINE)) == set(CONTRADICTIONS)


def test_the_slip_of_the_won_is_ten_times() -> None:
    said = [one["message"] for one in example("lint", exit_code=1)["findings"] if one["rule"] == "conversion"]
    assert len(said) == 2
    assert all("145 KRW for a USD, where 1450 is given: 0.1 times as much" in message for message in said)


def test_a_rate_by_option_comes_before_a_stated_one() -> None:
    found = example("lint", "--rate", "USD/KRW=145", exit_code=1)["findings"]
    assert [one for one in found if one["rule"] == "conversion"] == []
    with pytest.raises(FactsError, match="is no rate"):
        example("lint", "--rate", "USD=145")


# -- D: what report computes ---------------------------------------------------------------------


def billions(text: str) -> Decimal:
    """The only figure of a cell, without its sign: `$121.2B (…)` is 121.2."""
    return Decimal(re.findall(r"\d+(?:\.\d+)?", text)[0])


def find(rows: list[dict[str, Any]], **wanted: object) -> dict[str, Any]:
    (one,) = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return one


@WITH_DEALS
def test_the_figures_come_out_of_the_encoded_network() -> None:
    before, after = (example("report", "--at", at) for at in ("2025-12-18", "2026-03-18"))
    billion = 10**9
    stake = find(before["stakes"], holder="microsoft", company="openai")
    own = find(before["circles"], receiver="anthropic", investors=["microsoft"])
    joint = find(before["circles"], receiver="anthropic", investors=["microsoft", "nvidia"])
    first = find(before["commitments"], id="amazon-openai/aws-38b")
    amazon = find(after["concentration"], payer="openai", payee="aws")
    named = find(before["payers"], payer="openai")
    figures = {
        "Microsoft's paper gain": Decimal(stake["gain"]) / billion,
        "return of cloud revenue": Decimal(own["returns"]),
        "investors' money coming back": Decimal(joint["returns"]),
        "what D01 adds": Decimal(first["of_backlog"]) * 100,
        "D01 a year": (Decimal(first["per_year"]) / billion).quantize(Decimal("0.01")),
        "combined investment": Decimal(joint["invested"]["stated"]) / billion,
        "Amazon's purchase commitments": Decimal(amazon["amount"]["stated"]) / billion,
        "OpenAI's named cloud purchases": Decimal(named["amount"]["stated"]) / billion,
    }
    assert len(figures) == len(re.findall(r"^\| ", section("D"), re.MULTILINE)) - 1
    for name, value in figures.items():
        assert (name, value) == (name, billions(row("D", name)[2]))
    assert Decimal(named["claimed"]) == Decimal("1.4") * 10**12


# -- the commands --------------------------------------------------------------------------------


def test_explain_says_all_of_it_to_people_and_programs() -> None:
    arguments = ("--contracts", str(EXAMPLE), "--at", "2026-03-18", "--facts", FACTS)
    said = run("explain", *arguments)
    for part in (
        "  model.vendor is openai",
        "  source: TechMore on the Financial Times, 2026-03-18 (002) (disputed)",
        "  reading stateless-only, held by openai, amazon: allow",
        "      workload.kind is stateful",
        "  not in force: from 2026-04-27; not begun",
        "Verdict: contested, so deny: denied by microsoft-openai/stateless-exclusive.",
    ):
        assert part in said
    found = example("explain", *arguments[2:])
    assert found["verdict"] == example("check", *arguments[2:])
    with pytest.raises(FactsError, match="--posture"):
        run("explain", *arguments, "--posture", "")


def test_explain_with_an_exception_and_without_facts(tmp_path: Path) -> None:
    exception = (
        "  - id: pilot\n    kind: permission\n    exception_to: stateless-exclusive\n"
        "    source: [{document: letter, quote: fine, status: signed}]\n"
        "    readings: [{id: p, held_by: [microsoft], allow: 'true'}]\n"
    )
    (tmp_path / "msoai.yaml").write_text(MSOAI + exception)
    said = run("explain", "--contracts", str(tmp_path), "--at", "2026-03-18", "--facts", "{}")
    assert "  none is known" in said
    assert "model.vendor is not known" in said
    assert "exception: msoai/pilot applies to microsoft" in said
    assert 'source: letter, "fine" (signed)' in said


def test_lint_is_content_with_a_plain_contract(tmp_path: Path) -> None:
    (tmp_path / "msoai.yaml").write_text(MSOAI)
    assert run("lint", "--contracts", str(tmp_path)) == "nothing found\n"


def test_people_read_findings_with_their_places() -> None:
    said = run("lint", "--contracts", str(EXAMPLE), exit_code=1).splitlines()
    line = next(line for line in said if "overlap: microsoft-openai/sole-cloud" in line)
    assert re.search(
        r"microsoft-openai\.yaml:\d+: overlap: .* \(with microsoft-openai/stateless-exclusive\): two", line
    )
    assert said[-1] == f"{len(said) - 1} findings"


def test_people_read_the_report() -> None:
    said = run("report", "--contracts", str(EXAMPLE), "--at", "2025-12-18")
    for part in (
        "5,428,571,428.57 a year, 19.0 % of the payee's stated backlog",
        "openai: 588,000,000,000 USD",
        "of the 1,400,000,000,000 that are claimed",
        "microsoft, nvidia into anthropic: 15,000,000,000 USD",
        "gain 121,200,000,000",
    ):
        assert part in said
    assert "nothing" in run("report", "--contracts", str(EXAMPLE), "--at", "1990-01-01")


def test_the_schema_is_printed() -> None:
    assert json.loads(run("schema"))["title"] == "A Stateline contract"
    assert "determinations" in json.loads(run("schema", "determinations"))["title"]
