"""What cannot work is refused at the start, in one line, and nothing is touched."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.crash.harness import Server, free_port, running_server
from tests.faults.cluster import ask
from tests.faults.test_upgrade import next_release
from tests.postgres import ROLE, new_database, superuser

from stateline.stores.postgres import schema
from stateline.stores.postgres.connecting import Connection
from stateline.testing.postgres_server import PostgresServer

UPSTREAM = "http://127.0.0.1:9/v1"
SECRET = "hunter2"


async def refused(server: Server) -> str:
    """The one line with which the server does not start."""
    await server.spawn()
    assert server.process is not None
    try:
        async with asyncio.timeout(60):
            code = await server.process.wait()
    finally:
        if server.process.returncode is None:
            server.process.kill()
        server.process = None
    said = server.tail().strip()
    assert code != 0, said
    lines = [line for line in said.splitlines() if line.startswith("stateline:")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert SECRET not in said
    return lines[0]


def node(folder: Path, url: str) -> Server:
    """A node whose URL is named, since it may hold a password."""
    return Server(folder, UPSTREAM, store='url_env = "FAULTS_URL"', environment={"FAULTS_URL": url})


async def picture(url: str) -> list[Any]:
    """All tables of the place, and how they were touched so far."""

    async def look(db: Connection) -> list[Any]:
        names = await db.fetch(
            "SELECT c.oid::bigint, c.relname::text, c.relkind::text, pg_relation_filenode(c.oid)::bigint"
            " FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace ORDER BY 2"
        )
        tables = [row[1] for row in names if row[2] in ("r", "p")]
        held = [sorted(map(str, await db.fetch(f"SELECT xmin::text, * FROM {table}"))) for table in tables]
        return [[tuple(row) for row in names], held]

    return await ask(url, look)


async def made(server: PostgresServer, folder: Path) -> str:
    """A place that a node of this release has used; its URL."""
    url = await new_database(server, tcp=True)
    one = Server(folder, UPSTREAM, store=f"url = {json.dumps(url)}")
    await one.start()
    await one.close()
    return url


async def run(url: str, *statements: str) -> None:
    async def job(db: Connection) -> None:
        for statement in statements:
            await db.execute(statement)

    await ask(url, job)


async def test_a_second_node_on_a_database_file_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with running_server(tmp_path / "one", UPSTREAM) as first:
        before = hashlib.sha256(first.database.read_bytes()).digest()
        second = Server(tmp_path / "two", UPSTREAM, store=f'url = "sqlite:///{first.database}"')
        assert str(first.database) in await refused(second)
        assert hashlib.sha256(first.database.read_bytes()).digest() == before


async def test_an_older_node_is_refused_by_a_newer_database(tmp_path: Path, postgres: PostgresServer) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
    url = await new_database(postgres, tcp=True)
    release = {"PYTHONPATH": str(next_release(tmp_path))}
    newer = Server(tmp_path / "new", UPSTREAM, store=f"url = {json.dumps(url)}", environment=release)
    await newer.start()
    await newer.close()
    before = await picture(url)
    line = await refused(node(tmp_path / "old", url))
    assert f"schema version {schema.VERSION + 1}" in line
    assert await picture(url) == before


async def test_a_database_without_rights_is_left_alone(tmp_path: Path, postgres: PostgresServer) -> None:
    for name in ("made", "used", "empty"):
        (tmp_path / name).mkdir()
    url = await made(postgres, tmp_path / "made")
    schema = url.partition("search_path=")[2].partition("&")[0]
    await run(superuser(url), "CREATE ROLE guest LOGIN", f"GRANT USAGE ON SCHEMA {schema} TO guest")
    before = await picture(url)
    assert "permission denied" in await refused(node(tmp_path / "used", url.replace(ROLE, "guest")))
    assert await picture(url) == before
    # And where nothing was made yet.
    empty = await new_database(postgres, tcp=True)
    schema = empty.partition("search_path=")[2].partition("&")[0]
    await run(empty, f"GRANT USAGE ON SCHEMA {schema} TO guest")
    assert "permission denied" in await refused(node(tmp_path / "empty", empty.replace(ROLE, "guest")))
    assert await picture(empty) == [[], []]


async def test_a_wrong_password_is_refused_and_not_repeated(tmp_path: Path, postgres: PostgresServer) -> None:
    hba = postgres.data / "pg_hba.conf"
    rule = "host all locked 127.0.0.1/32 scram-sha-256\n"
    hba.write_text(rule + hba.read_text())
    await run(postgres.url(), "CREATE ROLE locked LOGIN PASSWORD 'right'", "SELECT pg_reload_conf()")
    try:
        url = postgres.url(tcp=True).replace("postgres@", f"locked:{SECRET}@")
        line = await refused(node(tmp_path, url))
        assert "password authentication failed" in line
        assert "locked@" in line
    finally:
        hba.write_text(hba.read_text().replace(rule, ""))
        await run(postgres.url(), "SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://postgres@127.0.0.1:{port}/nowhere", "nowhere"),
        ("postgresql://postgres:hunter2@[127.0.0.1/state", "cannot be read"),
        ("postgresql://postgres:hunter2@127.0.0.1:{closed}/state", "refused"),
        ("postgresql://postgres:hunter2@127.0.0.1:{silent}/state", "does not answer"),
        ("postgresql://postgres:hunter2@nowhere.invalid/state", "nowhere.invalid"),
        ("postgres//postgres:hunter2@127.0.0.1/state", "not the URL"),
    ],
    ids=["no such database", "unreadable", "nobody listens", "no answer", "no such host", "no URL"],
)
async def test_what_cannot_be_reached_is_one_line(
    tmp_path: Path, postgres: PostgresServer, url: str, says: str
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ports = {"port": postgres.port, "closed": free_port(), "silent": silent.getsockname()[1]}
        assert says in await refused(node(tmp_path, url.format(**ports)))
