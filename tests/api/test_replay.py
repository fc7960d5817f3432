"""`stateline contracts replay` over the store of a server that runs: nothing of it is changed."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import Served
from tests.api.test_contracts import NO_AWS, govern, stateline_of
from tests.unit.contracts.build import clause, contract
from typer.testing import CliRunner

from stateline.cli import app

SETTINGS = """
[store]
url = "sqlite:///stateline.db"

[[deployments]]
name = "on-aws"
model = "gpt-5"
cloud = "aws"
format = "openai-chat"
region = "us-east-1"
upstream_model = "on-aws"
vendor = "openai"

[[deployments]]
name = "on-azure"
model = "gpt-5"
cloud = "azure"
format = "openai-chat"
base_url = "https://example.test/openai/v1"
upstream_model = "on-azure"
vendor = "openai"
priority = 2
api_key_env = "NOT_SET_ANYWHERE"

[contracts]
path = "contracts"
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Served, Path, list[str]]]:
    """A server with three placements: two in one session, and one in a fork of it."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "contracts").mkdir()
    (folder / "contracts" / "c.yaml").write_text(contract(clause("no-aws", NO_AWS)))
    (folder / "stateline.toml").write_text(SETTINGS)
    served = Served(folder / "stateline.db").start()
    govern(served, contract(clause("no-aws", NO_AWS)))
    with served.openai() as client:
        first = client.responses.create(model="gpt-5", input="one")
        second = client.responses.create(model="gpt-5", input="two", previous_response_id=first.id)
        fork = client.responses.create(model="gpt-5", input="three", previous_response_id=first.id)
    yield served, folder, [stateline_of(each)["session"] for each in (first, second, fork)]
    served.stop()


def run(folder: Path, *options: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["contracts", "replay", "--config", str(folder / "stateline.toml"), *options])
    assert result.exit_code == code, result
    return result.output


def replayed(folder: Path, *options: str) -> Any:
    return json.loads(run(folder, "--json", *options))


def draft(folder: Path, name: str, *clauses: str, head: str = "") -> str:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "c.yaml").write_text(contract(*clauses, head=head))
    return str(folder / name)


def test_under_the_contracts_in_force_all_is_as_it_was_and_a_forks_prefix_counts_once(
    house: tuple[Served, Path, list[str]],
) -> None:
    served, folder, sessions = house
    before = served.stored()
    shown = replayed(folder, "--all")
    assert [row["id"] for row in shown["rows"]] == [
        f"{sessions[0]}/1/1",
        f"{sessions[1]}/2/1",
        f"{sessions[2]}/2/1",
    ]
    assert sessions[2] != sessions[0]
    assert {row["result"] for row in shown["rows"]} == {"same"}
    assert (shown["summary"]["placements"], shown["summary"]["results"]["same"]) == (3, 3)
    assert replayed(folder)["rows"] == []
    assert served.stored() == before


def test_a_draft_moves_denies_and_lets_in(house: tuple[Served, Path, list[str]]) -> None:
    _, folder, _ = house
    lax = replayed(folder, "--contracts", draft(folder, "lax", clause("other", 'model.vendor == "nobody"')))
    assert lax["summary"]["moves"] == [{"from": "on-azure", "to": "on-aws", "placements": 3}]
    assert lax["summary"]["unproven"] == 3
    row = lax["rows"][0]
    assert (row["before"]["clause"], row["after"]["outcome"]) == ("c/no-aws", "allow")
    none = replayed(folder, "--contracts", draft(folder, "none", clause("none", 'model.vendor == "openai"')))
    assert none["summary"]["results"]["denied"] == 3
    assert none["summary"]["clauses"] == {"c/none": 3}


def test_another_date_and_a_part_of_the_time(house: tuple[Served, Path, list[str]]) -> None:
    _, folder, _ = house
    ending = draft(
        folder, "ending", clause("no-azure", 'deployment.cloud == "azure"', rest="effective: {from: 2099-01-01}")
    )
    moved = replayed(folder, "--contracts", ending, "--at", "2099-01-01")
    assert {(row["result"], row["to"]) for row in moved["rows"]} == {("moved", "on-aws")}
    assert replayed(folder, "--until", "2020-01-01")["summary"]["placements"] == 0
    assert replayed(folder, "--since", "2099-01-01")["summary"]["placements"] == 0
    assert replayed(folder, "--since", "2020-01-01", "--until", "2099-01-01")["summary"]["placements"] == 3


def test_a_deployment_that_is_gone_is_said(house: tuple[Served, Path, list[str]]) -> None:
    _, folder, _ = house
    config = folder / "gone.toml"
    config.write_text(SETTINGS.replace('name = "on-azure"', 'name = "renamed"'))
    result = CliRunner().invoke(app, ["contracts", "replay", "--config", str(config)])
    assert result.exit_code == 0
    assert "not_known" in result.output
    assert "       3  on-azure is not configured" in result.output


def test_the_table_shows_where_calls_go_by_which_clause(house: tuple[Served, Path, list[str]]) -> None:
    _, folder, sessions = house
    text = run(folder, "--contracts", draft(folder, "none", clause("none", 'model.vendor == "openai"')))
    lines = text.splitlines()
    assert lines[0].split() == ["when", "placement", "model", "where", "result", "then", "now"]
    assert f"{sessions[0]}/1/1  gpt-5  on-azure  denied" in lines[1]
    assert lines[1].endswith("allow  deny: c/none (r deny)")
    assert "3 placements of 2 sessions, each at its own time, posture strict" in text
    assert "by contract, to every deployment" in text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--at", "someday"), "is no date"),
        (("--posture", ""), "--posture is strict"),
        (("--contracts", "nowhere-at-all"), "no such folder"),
    ],
)
def test_bad_options_are_one_line(house: tuple[Served, Path, list[str]], options: tuple[str, ...], line: str) -> None:
    result = CliRunner().invoke(app, ["contracts", "replay", "--config", str(house[1] / "stateline.toml"), *options])
    assert line in str(result.exception)


def test_without_contracts_or_a_database_it_says_so(tmp_path: Path) -> None:
    config = tmp_path / "stateline.toml"
    config.write_text(SETTINGS.partition("[contracts]")[0])
    asked = ["contracts", "replay", "--config", str(config)]
    assert "there are no contracts to ask" in str(CliRunner().invoke(app, asked).exception)
    given = [*asked, "--contracts", draft(tmp_path, "d", clause("x", NO_AWS))]
    assert "there is no database at" in str(CliRunner().invoke(app, given).exception)
