"""`stateline db`, through the running server and on the file alone."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from signal import SIGTERM

import pytest
import pytest_asyncio
from openai import NotFoundError
from tests.crash.harness import Server, running_server, upstream_process
from tests.ops.histories import dump, on_disk
from tests.ops.server import admin, stateline

from stateline.core.limits import PATH_CHARS_MAX
from stateline.stores.sqlite import backup, schema

pytestmark = pytest.mark.asyncio(loop_scope="module")
RETENTION = "[retention]\ndeleted_s = 0\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    folder = tmp_path_factory.mktemp("db")
    async with upstream_process("auto") as url, running_server(folder, url, settings=RETENTION) as server:
        yield server


async def say(server: Server, text: str) -> str:
    async with server.client() as client:
        return (await client.responses.create(model="scripted", input=text)).id


async def delete(server: Server, response_id: str) -> None:
    async with server.client() as client:
        await client.responses.delete(response_id)


async def test_what_was_deleted_is_erased_by_command_from_everything_and_from_the_next_backup(server: Server) -> None:
    await say(server, "this one stays")
    gone = await say(server, "a-planted-string in the question")
    assert b"a-planted-string" in on_disk(server.folder)
    before = dump(server.database)
    await delete(server, gone)
    promised = await stateline(server.config, "db", "prune", "--dry-run", "--json")
    assert promised.json == {"object": "prune", "dry_run": True, "chunks": 0, "sessions": 1, "snapshots": 0}
    assert len(dump(server.database)["sessions"]) == len(before["sessions"])
    said = await stateline(server.config, "db", "prune")
    assert said.out == "deleted 0 chunks, 1 sessions, 0 snapshots\n"
    made = (await stateline(server.config, "db", "backup", "backup", "--json")).json
    assert made["path"] == str(server.folder / "backup")
    assert b"a-planted-string" not in on_disk(server.folder)
    assert b"this one stays" in on_disk(server.folder / "backup")
    async with server.client() as client:
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(gone)


async def test_a_backup_of_a_running_server_is_made_by_it_and_refused_where_one_is(server: Server) -> None:
    await say(server, "hello")
    first = await stateline(server.config, "db", "backup", "mine")
    assert first.code == 0, first
    assert first.out.startswith(f"backed up to {server.folder / 'mine'}: ")
    assert first.err == ""
    again = await stateline(server.config, "db", "backup", "mine")
    assert again.line == f"stateline: {server.folder / 'mine'} is there already; --force replaces it"
    forced = await stateline(server.config, "db", "backup", "mine", "--force", "--json")
    assert forced.json["schema_version"] == schema.VERSION
    backup.verify(server.folder / "mine")
    restored = await stateline(server.config, "db", "restore", "mine", "--force")
    assert "in use by another process" in restored.line


async def test_two_backups_at_a_time_are_refused_and_paths_are_absolute(server: Server) -> None:
    for number in range(3):
        await say(server, str(number))
    answers = await asyncio.gather(
        *(admin(server, "POST", "/v1/admin/backups", {"path": str(server.folder / f"at-once-{n}")}) for n in range(8))
    )
    refused = [body["error"]["code"] for status, body in answers if status != 200]
    assert set(refused) == {"backup_running"}
    status, body = await admin(server, "POST", "/v1/admin/backups", {"path": "relative"})
    while body.get("error", {}).get("code") == "backup_running":
        status, body = await admin(server, "POST", "/v1/admin/backups", {"path": "relative"})
    assert (status, body["error"]["param"]) == (400, "path")
    status, body = await admin(server, "POST", "/v1/admin/backups", {"path": "/" * (PATH_CHARS_MAX + 1)})
    assert (status, body["error"]["code"]) == (400, "string_above_max_length")


async def test_only_the_admin_token_may_give_orders(server: Server) -> None:
    for method, path in (
        ("GET", "status"),
        ("POST", "prune"),
        ("POST", "reload"),
        ("POST", "backups"),
        ("GET", "backups"),
    ):
        status, body = await admin(server, method, f"/v1/admin/{path}", token="sk-sl-other")
        assert (status, body["error"]["code"]) == (403, "forbidden")
    status, body = await admin(server, "GET", "/v1/admin/status")
    assert status == 200
    assert body["store"]["kind"] == "sqlite"
    assert body["ready"] is True


async def test_migrate_says_that_a_served_database_is_up_to_date(server: Server) -> None:
    said = await stateline(server.config, "db", "migrate", "--json")
    assert said.json == {"object": "migration", "before": schema.VERSION, "after": schema.VERSION}


async def test_a_server_that_holds_the_file_and_cannot_be_asked_is_one_line(server: Server) -> None:
    """Its admin file is gone, as for another user."""
    file = server.database.with_name(server.database.name + ".admin")
    kept = file.read_bytes()
    file.unlink()
    try:
        for command in (("prune",), ("backup", "elsewhere"), ("migrate",)):
            said = await stateline(server.config, "db", *command)
            assert "in use by another process; a database has one server at a time" in said.line
    finally:
        file.write_bytes(kept)


async def test_the_loop_erases_while_the_server_serves(tmp_path: Path) -> None:
    settings = RETENTION + "chunks_s = 1\n"
    async with upstream_process("auto") as url, running_server(tmp_path, url, settings=settings) as server:
        stays = await say(server, "this one stays")
        gone = await say(server, "a-planted-string")
        await delete(server, gone)
        async with asyncio.timeout(30):
            while b"a-planted-string" in on_disk(tmp_path):  # noqa: ASYNC110 - another process's files
                await asyncio.sleep(0.1)
        assert "erased 1 sessions" in server.log.read_text()
        async with server.client() as client:
            again = await client.responses.create(model="scripted", input="more", previous_response_id=stays)
            assert again.status == "completed"


# -- without a server ----------------------------------------------------------------------------------


async def test_everything_works_on_the_file_where_no_server_runs(tmp_path: Path) -> None:
    async with upstream_process("auto") as url, running_server(tmp_path, url, settings=RETENTION) as server:
        stays = await say(server, "this one stays")
        await delete(server, await say(server, "this one goes"))
        assert await server.end(SIGTERM) == 0
        assert (await stateline(server.config, "db", "prune", "--json")).json["sessions"] == 1
        assert (await stateline(server.config, "db", "backup", "b", "--json")).json["sessions"] == 1
        before = dump(server.database)
        refused = await stateline(server.config, "db", "restore", "b")
        assert refused.line.endswith("stateline.db is there already; --force replaces it by the backup")
        server.database.unlink()
        restored = await stateline(server.config, "db", "restore", "b", "--json")
        assert restored.json["object"] == "backup"
        assert dump(server.database) == before
        await server.start()
        async with server.client() as client:
            assert (await client.responses.retrieve(stays)).status == "completed"


async def test_an_old_database_is_migrated_by_command(tmp_path: Path) -> None:
    config = tmp_path / "stateline.toml"
    config.write_text("")
    for command in (("prune",), ("backup", "b"), ("migrate",)):
        assert "there is no database at" in (await stateline(config, "db", *command)).line
    with closing(sqlite3.connect(tmp_path / "stateline.db", isolation_level=None)) as db:
        schema.migrate(db, schema.MIGRATIONS[:1])
    said = await stateline(config, "db", "migrate")
    assert said.out.endswith(f"schema version 1 -> {schema.VERSION}\n")
    said = await stateline(config, "db", "migrate")
    assert said.out.endswith(f"schema version {schema.VERSION}, nothing to do\n")


@pytest.mark.parametrize("command", ["prune", "backup", "restore", "migrate"])
async def test_help_has_examples(tmp_path: Path, command: str) -> None:
    (tmp_path / "stateline.toml").write_text("")
    said = await stateline(tmp_path / "stateline.toml", "db", command, "--help")
    assert said.code == 0
    assert f"stateline db {command}" in said.out.partition("Examples:")[2]
