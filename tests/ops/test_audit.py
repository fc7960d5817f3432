"""The audit over a running server: by command, over the API, and through an erasure."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from signal import SIGTERM

import aiohttp
import pytest
import pytest_asyncio
from tests.crash.harness import Server, running_server, upstream_process
from tests.ops.histories import on_disk
from tests.ops.server import admin, stateline

from stateline.core.audit import verify
from stateline.core.events import AuditKept, SessionCreated
from stateline.core.ids import SessionRef, parse_response_id
from stateline.identity.audit import CHAINS_TENANT, check_signature, public_keys
from stateline.stores.sqlite import open_sqlite

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = "a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2U="


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "audit.key").write_text(KEY)
    settings = '[retention]\ndeleted_s = 0\n[audit]\nkey_file = "audit.key"\n'
    async with upstream_process("auto") as url, running_server(folder, url, settings=settings) as server:
        yield server


async def verified(path: Path, server: Server) -> tuple[bool, int, int]:
    public = (await stateline(server.config, "audit", "key", "--public")).out.strip()
    said = await stateline(server.config, "audit", "export", "--all", "--out", str(path), "--json")
    assert said.code == 0, said
    return checked(path, public)


def checked(path: Path, public: str) -> tuple[bool, int, int]:
    verdict = verify(path.read_bytes().splitlines(keepends=True), check_signature, public_keys([public]))
    return verdict.broken is None, verdict.chains, verdict.erased


async def test_a_served_session_is_exported_erased_and_still_holds(server: Server, tmp_path: Path) -> None:
    async with server.client() as client:
        made = await client.responses.create(model="scripted", input="a-planted-string in the question")
        found = parse_response_id(made.id)
        assert found is not None
        async with (
            aiohttp.ClientSession() as http,
            http.get(server.root + "/v1/audit", params={"session": found.session}) as reply,
        ):
            shown = await reply.json()
        assert reply.status == 200, shown
        assert [line.split('"')[3] for line in shown["lines"]][:: len(shown["lines"]) - 1] == ["chain", "anchor"]
        assert await verified(tmp_path / "before", server) == (True, 1, 0)
        await client.responses.delete(made.id)
    assert (await stateline(server.config, "db", "prune")).out == "deleted 0 chunks, 1 sessions, 0 snapshots\n"
    assert b"a-planted-string" not in on_disk(server.folder)
    (tmp_path / "new").mkdir()
    assert await verified(tmp_path / "new" / "after", server) == (True, 1, 1)
    assert b"a-planted-string" not in on_disk(tmp_path / "new")


async def test_a_session_that_is_not_there_is_not_found(server: Server) -> None:
    for tenant, session in (("default", "none"), ("system", "none")):
        status, body = await admin(server, "POST", "/v1/admin/audit", {"tenant": tenant, "session": session})
        assert (status, body["error"]["code"]) == (404, "session_not_found")
    async with aiohttp.ClientSession() as http, http.get(server.root + "/v1/audit") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (400, "missing_required_parameter")


async def test_a_server_that_stops_has_signed_its_last_turns(tmp_path: Path) -> None:
    (tmp_path / "audit.key").write_text(KEY)
    settings = '[audit]\nkey_file = "audit.key"\n'
    async with upstream_process("auto") as url:
        async with running_server(tmp_path, url, settings=settings) as server, server.client() as client:
            await client.responses.create(model="scripted", input="hello")
            assert await server.end(SIGTERM) == 0
        store = await open_sqlite(server.folder / "stateline.db")
        try:
            (chain,) = await store.sessions(CHAINS_TENANT, None, 10)
            bodies = [event.body async for event in store.read(SessionRef(CHAINS_TENANT, chain))]
        finally:
            await store.close()
    assert [type(body) for body in bodies] == [SessionCreated, AuditKept]
