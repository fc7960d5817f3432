"""The command line: commands are found by their module, and mistakes cost one line and exit 2."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import stateline.cli
from stateline import __version__
from stateline.cli import app, main

COMMANDS = sorted(m.name for m in pkgutil.iter_modules(stateline.cli.__path__) if not m.name.startswith("_"))


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def _in_an_empty_folder(  # pyright: ignore[reportUnusedFunction]
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_lists_every_command() -> None:
    code, out = run("--help")
    assert code == 0
    assert {"models", "serve"} <= set(COMMANDS)
    for name in COMMANDS:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    code, out = run(name, "--help")
    assert code == 0
    assert "--help" in out


def test_the_version_is_printed() -> None:
    assert run("--version") == (0, f"stateline {__version__}\n")


def test_an_unknown_command_is_bad_input() -> None:
    code, out = run("bogus")
    assert code == 2
    assert "bogus" in out


def test_models_lists_deployments() -> None:
    Path("stateline.toml").write_text(
        '[[deployments]]\nname = "near"\nmodel = "m"\ncloud = "openai-compatible"\n'
        f'base_url = "http://127.0.0.1:8000/{"long/" * 40}v1"\nauth = "none"\n'
    )
    code, out = run("models")
    assert code == 0
    assert f"{'long/' * 40}v1" in out
    code, out = run("models", "--json")
    assert code == 0
    assert json.loads(out)["deployments"][0]["name"] == "near"


def test_a_mistake_in_the_configuration_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stateline", "models", "--config", "absent.toml"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "stateline: absent.toml: no such file; name an existing one with --config\n"


def test_the_command_line_starts_without_the_server() -> None:
    """`stateline --help` and `stateline models` must not wait for what only `serve` needs."""
    code = "import sys, stateline.cli, stateline.cli.models, stateline.cli.serve; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "uvicorn", "starlette", "msgspec"} & set(loaded)


def test_a_server_starts_without_what_its_configuration_does_not_ask_for() -> None:
    """Contracts bring a compiler of predicates along, which takes as long to load as all the rest."""
    code = "import sys, stateline.wiring; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cel", "yaml", "prompt_toolkit", "websockets", "stateline.contracts", "aiohttp"} & set(loaded)
