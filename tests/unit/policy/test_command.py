"""``stateline policy check``: what is wrong with policies, and what they say of one call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.policy.build import SPENDING, folder_of
from typer.testing import CliRunner

from stateline.cli import app, main
from stateline.core.errors import StatelineError

FACTS = '{"principal":"alice","server":"payments","tool":"refund","arguments":{"amount_cents":300}}'


def run(folder: Path, *args: str, text: str = f'@id("refunds") {SPENDING}', mode: str = "enforce") -> tuple[int, str]:
    folder_of(folder / "p", text)
    (folder / "stateline.toml").write_text(f'[policy]\npath = "p"\nmode = "{mode}"\n')
    result = CliRunner().invoke(app, ["policy", "check", "--config", str(folder / "stateline.toml"), *args])
    if isinstance(result.exception, StatelineError):
        raise result.exception
    return result.exit_code, result.output


def test_policies_that_hold_together_are_counted(tmp_path: Path) -> None:
    code, out = run(tmp_path, mode="log_only")
    assert code == 0
    assert out.startswith("1 policies, version ")
    assert out.endswith(", log_only\n")


@pytest.mark.parametrize(
    ("cents", "line"),
    [(300, "allow by refunds"), (9_000, "deny: nothing permits it"), ('"3"', "deny by refunds\n  policy_failed: ")],
)
def test_any_ruling_is_an_answer(tmp_path: Path, cents: object, line: str) -> None:
    code, out = run(tmp_path, "--facts", FACTS.replace("300", str(cents)))
    assert code == 0
    assert line in out


def test_a_ruling_is_printed_for_other_programs(tmp_path: Path) -> None:
    code, out = run(tmp_path, "--json", "--facts", FACTS)
    found = json.loads(out)
    assert code == 0
    assert found["policies"] == ["refunds"]
    assert found["ruling"] == {"outcome": "allow", "policies": ["refunds"], "version": found["version"]}


def test_what_does_not_validate_is_exit_1_with_a_line_for_each(tmp_path: Path) -> None:
    text = "permit(principal, action, resource) when { context.aproved };\npermit(;"
    code, out = run(tmp_path, text=text)
    assert code == 1
    assert out == f"{tmp_path}/p/a.cedar:2: unexpected token `;`\n"
    code, out = run(tmp_path, "--json", text=text)
    assert code == 1
    assert json.loads(out)["problems"] == [
        {"file": f"{tmp_path}/p/a.cedar", "line": 2, "message": "unexpected token `;`"}
    ]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("{", "truncated"),
        ('{"server":"a"}', "missing required field `tool`"),
        ('{"server":"a","tool":"b","efect":"read"}', "unknown field `efect`"),
        ('{"server":"a","tool":"b","effect":"save"}', "Invalid enum value 'save'"),
        ("[" * 100_000, "--facts: "),
    ],
)
def test_facts_that_are_no_call_are_bad_input(tmp_path: Path, facts: str, message: str) -> None:
    with pytest.raises(StatelineError, match=message) as caught:
        run(tmp_path, "--facts", facts)
    assert caught.value.code == "policy_question"


def test_without_policies_there_is_nothing_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stateline", "policy", "check"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "the configuration has no [policy]" in capsys.readouterr().err
    (tmp_path / "stateline.toml").write_text('[policy]\npath = "none"\n')
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "none: no such folder; policy.path names one" in capsys.readouterr().err
