"""`stateline vault` on a database that nobody serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stateline.cli import app
from stateline.core.errors import StatelineError


def _run(*arguments: str, value: str | None = None) -> str:
    result = CliRunner().invoke(app, ["vault", *arguments], input=value)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "master.key").write_text(_run("key"))
    path = tmp_path / "stateline.toml"
    store = f'[store]\nurl = "sqlite:///{tmp_path}/stateline.db"\n'
    path.write_text(f'{store}[vault]\nkey_file = "master.key"\n')
    return path


def test_secrets_are_set_from_standard_input_listed_rotated_and_removed(config: Path, tmp_path: Path) -> None:
    where = ("-c", str(config))
    said = _run("set", "github", "--tenant", "shop", *where, value="tok-planted-5521\n")
    assert "stored github of tenant shop" in said
    listed = _run("list", *where)
    assert "github" in listed
    assert "tok-planted" not in listed + _run("list", "--json", *where)
    old = (tmp_path / "master.key").read_text()
    (tmp_path / "master.key").write_text(_run("key") + old)
    assert _run("rotate", *where).startswith("1 ")
    (tmp_path / "master.key").write_text((tmp_path / "master.key").read_text().splitlines()[0])
    assert _run("rotate", *where).startswith("0 ")
    assert "removed github" in _run("remove", "github", "--tenant", "shop", *where)
    assert _run("list", *where) == ""
    for path in tmp_path.iterdir():
        assert b"tok-planted" not in path.read_bytes()


def test_nothing_to_store_is_an_error(config: Path) -> None:
    with pytest.raises(StatelineError, match="no value"):
        _run("set", "github", "--tenant", "shop", "-c", str(config), value="\n")


def test_without_a_master_key_there_is_no_vault(tmp_path: Path) -> None:
    path = tmp_path / "stateline.toml"
    path.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/stateline.db"\n')
    with pytest.raises(StatelineError) as off:
        _run("list", "-c", str(path))
    assert off.value.code == "vault_off"


def test_a_name_that_leads_elsewhere_is_refused_before_anybody_is_asked(config: Path) -> None:
    with pytest.raises(StatelineError) as refused:
        _run("remove", "../keys", "--tenant", "shop", "-c", str(config))
    assert refused.value.code == "secret_not_found"
