"""`stateline contracts plan`: the example, a conflict, marginal values in a file, bad input."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from bench.portfolios import large
from tests.unit.contracts.build import clause, contract
from typer.testing import CliRunner, Result

from stateline.cli import app
from stateline.contracts import ContractError
from stateline.contracts.building import build
from stateline.contracts.program import Answer, Column, Program, Row
from stateline.contracts.scoping import scoped
from stateline.core.errors import BadRequest, StatelineError
from stateline.money.effective import decode
from stateline.planner import Planner

pytest.importorskip("highspy", reason="plans need the extra planner")

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "planning"
PORTFOLIO = EXAMPLE / "portfolio.yaml"


def plan(*more: str, portfolio: Path = PORTFOLIO, contracts: Path = EXAMPLE / "contracts") -> Result:
    result = CliRunner().invoke(app, ["contracts", "plan", str(portfolio), "--contracts", str(contracts), *more])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_example_is_planned_and_its_values_can_be_placed_by(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    result = plan("--json", "--values", str(tmp_path / "values.json"))
    found = json.loads(result.stdout)
    assert (result.exit_code, found["status"], found["gap"]) == (0, "planned", 0.0)
    assert {each["deployment"] for each in found["placements"] if each["workload"] == "support-agent"} == {
        "sonnet-bedrock"
    }
    values = decode((tmp_path / "values.json").read_bytes())
    assert values.made_at >= before
    (told,) = [each for each in found["commitments"] if each["interval"] == "2026-01-01/2027-01-01"]
    assert 0 < Decimal(told["value"]) < 1
    assert values.of("clouds/aws-edp", date(2026, 12, 31)) == Decimal(told["value"])
    assert [path.name for path in tmp_path.iterdir()] == ["values.json"]


def test_it_reads_in_a_terminal() -> None:
    result = plan()
    assert result.exit_code == 0
    assert "2026-07-01  support-agent" in result.stdout
    assert "clouds/vertex-prepaid  2026-07-01/2026-10-01" in result.stdout
    assert "no plan is cheaper" in result.stdout
    assert "3 placements are denied by contract, and none of them is used" in result.stdout


def test_json_is_read_as_well_and_long_plans_are_cut_in_a_terminal(tmp_path: Path) -> None:
    value = yaml.safe_load(PORTFOLIO.read_text())
    value["workloads"] += [{"name": f"w{n}", "kind": "batch", "demand": 1} for n in range(12)]
    (tmp_path / "p.json").write_text(json.dumps(value, default=str))
    assert "more; --json has all of them" in plan(portfolio=tmp_path / "p.json").stdout


def test_what_conflicts_is_named_and_the_exit_is_1(tmp_path: Path) -> None:
    here = tmp_path / "contracts"
    here.mkdir()
    (here / "a.yaml").write_text(
        contract(clause("no-sessions", 'workload.kind == "stateful"'), clause("other", "false"))
    )
    (here / "b.yaml").write_bytes((EXAMPLE / "contracts" / "clouds.yaml").read_bytes())
    result = plan(contracts=here)
    assert result.exit_code == 1
    assert "No plan is possible" in result.stdout
    assert "c/no-sessions" in result.stdout
    found = json.loads(plan("--json", contracts=here).stdout)
    assert (found["status"], found["clauses"]) == ("infeasible", ["c/no-sessions"])


def test_bad_input_is_one_error_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PORTFOLIO.read_text().replace('demand: "14000"', "demand: 14000.5"))
    with pytest.raises(ContractError, match=r"p.yaml:\d+: workloads\[1\].demand"):
        plan(portfolio=tmp_path / "p.yaml")
    with pytest.raises(BadRequest, match="cannot be written"):
        plan("--values", str(tmp_path / "no" / "values.json"))


def test_without_the_solver_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(BadRequest, match=r"stateline\[planner\]") as error:
        plan()
    assert error.value.code == "planner_missing"


def test_no_answer_in_time_is_said() -> None:
    program = build(scoped(*large(0))).program
    with pytest.raises(StatelineError, match="no plan was found within") as error:
        Planner(time_limit_s=1e-9)(program)
    assert error.value.code == "plan_unsolved"


def test_a_program_without_columns_holds_or_does_not() -> None:
    solver = Planner()
    assert solver(Program([], [Row({}, upper=None, lower=None)])) == Answer({}, (), ["basic"], 0.0)
    assert solver(Program([], [Row({}, lower=build(scoped(*large(1, 1, 1, 1))).program.rows[0].lower)])) is None


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    one = build(scoped(*large(1, 3, 2, 1))).program
    assert Planner()(one) is not None
    assert isinstance(one.columns[0], Column)
    assert capfd.readouterr() == ("", "")
