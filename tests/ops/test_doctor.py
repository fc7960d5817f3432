"""The doctor finds what is wrong, says what to do, and tells no secret."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.crash.harness import free_port, running_server, upstream_process
from tests.ops.server import stateline
from tests.postgres import ROLE, new_database, superuser
from tests.tools.box import WHY_NOT

from stateline.config import load
from stateline.core.limits import CLOCK_APART_FAIL_S, CLOCK_APART_WARN_S
from stateline.ops import checks_postgres, checks_sqlite, doctor
from stateline.ops.findings import Finding
from stateline.stores.postgres import open_postgres
from stateline.stores.postgres.walls import State
from stateline.stores.sqlite import open_sqlite
from stateline.testing import Answer, ScriptedUpstream
from stateline.testing.postgres_server import PostgresServer

DEPLOYMENT = """
[[deployments]]
name = "{name}"
model = "m"
cloud = "openai-compatible"
base_url = "{url}"
"""


def examined(folder: Path, text: str = "", *, probe: bool = False) -> dict[str, Finding]:
    config = folder / "stateline.toml"
    if f"port = {0}" not in text and "[server]" not in text:
        text = f"[server]\nport = {free_port()}\n{text}"
    config.write_text(text)
    found = list(doctor.examine(lambda: load(config, os.environ), probe=probe))
    assert all("\n" not in each.message + each.todo for each in found)
    assert all(each.todo for each in found if each.state != "ok")
    return {each.check: each for each in found}


def test_a_sound_installation_is_healthy(tmp_path: Path) -> None:
    found = examined(tmp_path)
    assert {name for name, each in found.items() if each.state == "fail"} == set()
    assert list(found) == [
        *("configuration", "secrets", "clock", "port", "sqlite", "file system", "disk space", "fsync", "database"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["stateline.toml"]


def test_a_configuration_that_cannot_be_used_ends_the_examination(tmp_path: Path) -> None:
    [found] = examined(tmp_path, "[server]\nprot = 1\n").values()
    assert (found.state, found.todo) == ("fail", "did you mean `port`?")


def test_each_missing_secret_is_named_and_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOD_KEY", "planted-secret")
    text = "".join(
        DEPLOYMENT.format(name=name, url="http://127.0.0.1:9/v1") + f'api_key_env = "{name.upper()}_KEY"\n'
        for name in ("good", "bad")
    )
    config = tmp_path / "stateline.toml"
    config.write_text(text)
    found = list(doctor.examine(lambda: load(config, os.environ), probe=False))
    [missing] = [each for each in found if each.state == "fail"]
    assert missing.message == "deployment bad: BAD_KEY is not set"
    assert "planted-secret" not in str(found)


async def test_the_command_exits_with_1_where_something_fails_and_prints_json(tmp_path: Path) -> None:
    config = tmp_path / "stateline.toml"
    config.write_text(
        f"[server]\nport = {free_port()}\n"
        + DEPLOYMENT.format(name="x", url="http://127.0.0.1:9/v1")
        + 'api_key_file = "absent"\n'
    )
    said = await stateline(config, "doctor")
    assert said.code == 1
    assert "\nfail secrets: " in said.out
    said = await stateline(config, "doctor", "--json")
    assert said.code == 1
    report = json.loads(said.out)
    assert report["healthy"] is False
    assert {"check", "state", "message", "todo"} == set(report["findings"][0])
    said = await stateline(config, "doctor", "--help")
    assert "stateline doctor --probe" in said.out


async def test_a_running_server_is_recognised_by_its_port_and_its_database(tmp_path: Path) -> None:
    async with upstream_process("auto") as url, running_server(tmp_path, url) as server:
        report = (await stateline(server.config, "doctor", "--probe", "--json")).json
        found = {each["check"]: each for each in report["findings"]}
        assert "is used by a Stateline" in found["port"]["message"]
        assert server.process is not None
        assert f"process {server.process.pid}, ready" in found["database"]["message"]
        assert found["deployment chat"]["state"] == "ok"
        server.database.with_name(server.database.name + ".admin").unlink()
        report = (await stateline(server.config, "doctor", "--json")).json
        found = {each["check"]: each for each in report["findings"]}
        assert found["database"]["state"] == "warn"
        assert "cannot be asked" in found["database"]["message"]


def test_a_port_that_another_program_has_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.listen()
        found = _port_with_short_patience(tmp_path, f"[server]\nport = {port}\n")
    assert found.state == "fail"
    assert examined(tmp_path, "[server]\nport = 0\n")["port"].state == "ok"


def _port_with_short_patience(tmp_path: Path, text: str) -> Finding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "DOCTOR_PROBE_S", 0.2)
        return examined(tmp_path, text)["port"]


async def test_deployments_are_asked_only_where_that_is_wished(tmp_path: Path) -> None:
    dead = DEPLOYMENT.format(name="dead", url=f"http://127.0.0.1:{free_port()}/v1") + 'auth = "none"\n'
    async with ScriptedUpstream((Answer(text="x"),)) as url:
        config = dead + DEPLOYMENT.format(name="live", url=url) + 'auth = "none"\n'
        found = examined(tmp_path, config)
        assert found["deployments"].message == "2 over HTTP, not asked; --probe asks them"
        found = await asyncio.to_thread(lambda: examined(tmp_path, config, probe=True))
    assert found["deployment dead"].state == "fail"
    assert found["deployment live"].state == "ok"


async def test_more_deployments_than_are_asked_at_a_time_are_all_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DOCTOR_PROBES", 2)
    async with ScriptedUpstream((Answer(text="x"),)) as url:
        config = "".join(DEPLOYMENT.format(name=f"d{n}", url=url) + 'auth = "none"\n' for n in range(5))
        found = await asyncio.to_thread(lambda: examined(tmp_path, config, probe=True))
    assert [found[f"deployment d{n}"].state for n in range(5)] == ["ok"] * 5


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "server").mkdir()
    return tmp_path / "server"


async def test_an_endless_answer_on_the_port_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DOCTOR_ANSWER_BYTES_MAX", 100)
    async with upstream_process("auto") as url, running_server(_folder(tmp_path), url) as server:
        found = await asyncio.to_thread(lambda: examined(tmp_path, f"[server]\nport = {server.port}\n"))
    assert found["port"].state == "fail"


# -- the disk and the database -------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "state"), [(2**40, "ok"), (500 * 2**20, "warn"), (10 * 2**20, "fail")])
def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)

    def disk_usage(_: Path) -> object:
        return usage

    monkeypatch.setattr(checks_sqlite.shutil, "disk_usage", disk_usage)
    assert examined(tmp_path)["disk space"].state == state


@pytest.mark.parametrize(("sync_s", "state"), [(0.001, "ok"), (0.05, "warn"), (0.0, "warn")])
def test_the_time_of_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync_s: float, state: str) -> None:
    now_s = [0.0]

    def fsync(_: int) -> None:
        now_s[0] += sync_s

    monkeypatch.setattr(checks_sqlite.os, "fsync", fsync)
    monkeypatch.setattr(checks_sqlite.time, "perf_counter", lambda: now_s[0])
    assert examined(tmp_path)["fsync"].state == state


def test_a_network_file_system_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nfs(*_: object) -> str:
        return "nfs4"

    monkeypatch.setattr(checks_sqlite.opening, "filesystem", nfs)
    assert examined(tmp_path)["file system"].state == "fail"


def test_a_clock_that_was_never_set_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.time, "time", lambda: 1000.0)
    assert examined(tmp_path)["clock"].state == "fail"


def test_an_old_sqlite_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 30, 0))
    assert examined(tmp_path)["sqlite"].state == "fail"


@pytest.mark.parametrize("content", [None, b"something else", 9000])
async def test_the_state_of_the_database(tmp_path: Path, content: bytes | int | None) -> None:
    database = tmp_path / "stateline.db"
    await (await open_sqlite(database)).close()
    if content is not None:
        database.write_bytes(content if isinstance(content, bytes) else database.read_bytes()[:content])
    assert examined(tmp_path)["database"].state == ("ok" if content is None else "fail")


async def test_a_clock_behind_the_log_is_a_failure(tmp_path: Path) -> None:
    await (await open_sqlite(tmp_path / "stateline.db")).close()
    with closing(sqlite3.connect(tmp_path / "stateline.db")) as db:
        at_ms = int((time.time() + 3600) * 1000)
        db.execute(
            "INSERT INTO events (tenant, session, seq, at_ms, epoch, body) VALUES (1, 1, 1, ?, 1, x'00')", (at_ms,)
        )
        db.commit()
    assert examined(tmp_path)["clock and log"].state == "fail"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
@pytest.mark.parametrize(("days", "state"), [(90, "ok"), (3, "warn"), (-1, "fail")])
def test_a_certificate_that_ends_soon_is_warned_of(tmp_path: Path, days: int, state: str) -> None:
    for command in (
        "openssl req -new -newkey rsa:2048 -nodes -subj /CN=here -keyout key.pem -out request.pem",
        f"openssl x509 -req -in request.pem -signkey key.pem -days {days} -out cert.pem",
    ):
        subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    text = f'[server]\nport = {free_port()}\ntls_cert = "cert.pem"\ntls_key = "key.pem"\n'
    found = examined(tmp_path, text)["certificate"]
    assert found.state == state
    if days > 0:
        assert time.strftime("%Y-%m-%d", time.gmtime(time.time() + days * 24 * 3600)) in found.message
    else:
        assert "expired" in found.message


@pytest.mark.parametrize(
    ("ahead_s", "state", "words"),
    [
        (0.2, "ok", "0.2 s ahead of"),
        (-CLOCK_APART_WARN_S, "warn", "1.0 s behind"),
        (CLOCK_APART_FAIL_S, "fail", "60.0 s ahead of"),
    ],
)
def test_a_clock_apart_from_the_databases_is_told(ahead_s: float, state: str, words: str) -> None:
    found = checks_postgres.clocks(ahead_s)
    assert (found.check, found.state) == ("database clock", state)
    assert words in found.message


def test_the_databases_own_clock_is_asked(tmp_path: Path, postgres: PostgresServer) -> None:
    found = examined(tmp_path, f'[store]\nurl = "{postgres.url(tcp=True)}"\n')
    assert (found["postgresql"].state, found["database clock"].state) == ("ok", "ok")


async def _made(url: str) -> None:
    await (await open_postgres(url)).close()


def test_whether_the_database_keeps_tenants_apart_is_told(tmp_path: Path, postgres: PostgresServer) -> None:
    url = asyncio.run(new_database(postgres, tcp=True))
    assert "row security" not in examined(tmp_path, f'[store]\nurl = "{url}"\n'), "there are no tables yet"
    asyncio.run(_made(url))
    found = examined(tmp_path, f'[store]\nurl = "{url}"\n')["row security"]
    assert (found.state, ROLE in found.message) == ("ok", True)
    found = examined(tmp_path, f'[store]\nurl = "{superuser(url)}"\n')["row security"]
    assert (found.state, "postgres is a superuser" in found.message) == ("warn", True)


@pytest.mark.parametrize(("older", "words"), [(0, "keep a server running"), (2, "older release (2)")])
def test_walls_that_are_not_closed_are_told(older: int, words: str) -> None:
    found = checks_postgres.row_security(State("node", False, ("stateline_chunks_p1",), older))
    assert found.state == "warn"
    assert "stateline_chunks_p1" in found.message
    assert words in found.todo


def test_a_sandbox_that_is_on_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(tmp_path, "[sandbox]\nenabled = true\n")["sandbox"]
    assert found.state == ("fail" if WHY_NOT else "ok")
    monkeypatch.setattr("stateline.tools.sandbox._HOST_PATH", str(tmp_path))
    found = examined(tmp_path, "[sandbox]\nenabled = true\n")["sandbox"]
    assert found.state == "fail"
    assert "bubblewrap" in found.todo
    assert not (tmp_path / "workspaces").exists()


def test_functions_are_loaded_and_those_that_do_not_load_are_told(tmp_path: Path) -> None:
    found = examined(tmp_path, '[tools]\nfunctions = ["nobody-announces-this"]\n')["tools"]
    assert found.state == "fail"
    assert "nobody-announces-this" in found.message
    found = examined(tmp_path, '[tools]\nfunctions = ["tests.tools.test_functions:greet"]\n')["tools"]
    assert (found.state, found.message) == ("ok", "1 loaded: greet")
