"""`stateline audit` on a database that nobody serves, and the check of what it wrote."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.ops.histories import Writing
from typer.testing import CliRunner

from stateline.cli import app
from stateline.core import events as e
from stateline.core.errors import StatelineError
from stateline.stores.clock import SystemClock
from stateline.stores.sqlite import open_sqlite
from stateline.testing.store_rig import START_MS


class Ran(NamedTuple):
    code: int
    out: str


def run(*arguments: str, group: str = "audit") -> Ran:
    result = CliRunner().invoke(app, [group, *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two sessions of two tenants, one of them deleted long ago."""

    async def fill() -> None:
        store = await open_sqlite(tmp_path / "stateline.db", clock=SystemClock())
        writing = Writing(store)
        for tenant, name in (("acme", "one"), ("shop", "two")):
            ref = await writing.create(name, tenant=tenant)
            await writing.turn(ref, START_MS if tenant == "shop" else 1_000, f"hello {name}")
            if tenant == "acme":
                await writing.append(ref, 1_000, e.SessionDeleted())
        await store.close()

    asyncio.run(fill())
    (tmp_path / "audit.key").write_text(run("key").out)
    path = tmp_path / "stateline.toml"
    path.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/stateline.db"\n[audit]\nkey_file = "audit.key"\n')
    return path


def test_what_is_exported_holds_before_and_after_an_erasure(config: Path, tmp_path: Path) -> None:
    where, out = ("-c", str(config)), tmp_path / "audit.jsonl"
    public = run("key", "--public", *where).out.strip()
    assert "wrote 2 chains" in run("export", "--all", "-o", str(out), *where).out
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    checked = run("verify", str(out), "--key", public)
    assert (checked.code, "2 chains (0 erased)" in checked.out) == (0, True)
    assert public in run("verify", str(out)).out
    assert "1 sessions" in run("prune", *where, group="db").out
    assert json.loads(run("export", "--all", "-o", str(out), "--json", *where).out)["chains"] == 2
    after = json.loads(run("verify", str(out), "--key", public, "--json").out)
    assert (after["holds"], after["erased"], after["broken"], after["keys"]) == (True, 1, None, [public])
    assert b"hello one" not in out.read_bytes()
    assert b"hello two" in out.read_bytes()


def test_a_change_is_told_with_its_link_and_ends_with_1(config: Path, tmp_path: Path) -> None:
    where, out = ("-c", str(config)), tmp_path / "audit.jsonl"
    assert "wrote 1 chains" in run("export", "--session", "two", "-o", str(out), *where).out
    out.write_bytes(out.read_bytes().replace(b"hello two", b"hullo two"))
    told = run("verify", str(out))
    assert (told.code, "line 4, session two of shop, event 2 (prompt): its content" in told.out) == (1, True)
    shown = json.loads(run("verify", str(out), "--json").out)
    assert (shown["holds"], shown["broken"]["kind"], shown["broken"]["seq"]) == (False, "prompt", 2)
    out.write_bytes(out.read_bytes().replace(b'"form":1', b'"form": 1'))
    assert run("verify", str(out)).out.startswith("does not hold: line 1: ")


def test_only_one_tenant_is_exported_where_that_is_wished(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit.jsonl"
    run("export", "--all", "--tenant", "shop", "-o", str(out), "-c", str(config))
    assert b"acme" not in out.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("export", "-o", "OUT"), "invalid_value"),
        (("export", "--all", "--session", "two", "-o", "OUT"), "invalid_value"),
        (("export", "--session", "three", "-o", "OUT"), "session_not_found"),
        (("export", "--all", "-o", "OUT/none/file"), "output_unwritable"),
    ],
)
def test_an_export_that_cannot_be_made_leaves_nothing(
    config: Path, tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(StatelineError) as refused:
        run(*[each.replace("OUT", str(out)) for each in arguments], "-c", str(config))
    assert refused.value.code == code
    assert not out.exists()


def test_what_is_no_export_or_no_key_is_bad_input(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("hello\n")
    for arguments, code in (
        ((str(plain),), "not_an_export"),
        ((str(tmp_path / "none"),), "file_unreadable"),
        ((str(plain), "--key", "abc"), "audit_key_invalid"),
    ):
        with pytest.raises(StatelineError) as refused:
            run("verify", *arguments)
        assert refused.value.code == code


def test_without_a_key_nothing_is_exported(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().partition("[audit]")[0])
    with pytest.raises(StatelineError) as off:
        run("export", "--all", "-o", str(tmp_path / "out"), "-c", str(config))
    assert off.value.code == "audit_off"
