"""`stateline approvals` and `stateline effects`, beside the real server and a real tool."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from tests.api.test_hosted_tools import CONFIG, ended, refunds
from tests.crash.harness import Server, running_server
from tests.ops.server import Said
from tests.tools.mcp_servers import Seen, shop
from typer.testing import CliRunner

from stateline.cli import app
from stateline.cli._server import plain
from stateline.core.errors import StatelineError
from stateline.testing import ScriptedUpstream


async def stateline(config: Path, *command: str) -> Said:
    """The command in this process: a new one for each would take a second."""

    def invoke() -> Said:
        result = CliRunner().invoke(app, [*command, "--config", str(config)])
        error = result.exception
        if isinstance(error, StatelineError):
            return Said(2, result.stdout, f"stateline: {error}\n")
        return Said(result.exit_code, result.stdout, result.stderr)

    return await asyncio.to_thread(invoke)


@pytest.fixture
async def seen() -> Seen:
    return Seen()


@pytest.fixture
async def server(tmp_path: Path, seen: Seen) -> AsyncGenerator[Server]:
    async with ScriptedUpstream(refunds) as upstream, shop(seen) as url:
        host = url.removeprefix("http://").partition("/")[0]
        async with running_server(tmp_path, upstream, settings=CONFIG.format(host=host)) as server:
            yield server


async def test_what_waits_is_listed_shown_and_answered_and_a_refusal_is_one_line(server: Server, seen: Seen) -> None:
    async with server.client(max_retries=0) as client:
        for _ in range(2):
            await client.responses.create(model="agent/careful", input="My parcel never came.")
        listed = await stateline(server.config, "approvals", "list", "--json")
        first, second = [each["id"] for each in listed.json["data"]]
        table = await stateline(server.config, "approvals", "list")
        assert (table.code, table.out.count("shop/refund")) == (0, 2)
        shown = await stateline(server.config, "approvals", "show", first)
        assert 'arguments:    {"cents": 500}' in shown.out
        assert not seen.refunds
        said = await stateline(server.config, "approvals", "approve", first, "--reason", "fine", "--json")
        response = await ended(client, said.json["response_id"])
        assert response.output_text == "It said: done"
        again = await stateline(server.config, "approvals", "reject", first)
        assert "answered already" in again.line
        rejected = await stateline(server.config, "approvals", "reject", second, "--reason", "not today")
        assert rejected.out.startswith(f"rejected {second}; it goes on as resp_")
        response = await ended(client, rejected.out.split()[-1])
        assert "not today" in response.output_text
        assert len(seen.refunds) == 1
    done = await stateline(server.config, "effects", "list", "--status", "committed", "--agent", "careful", "--json")
    [effect] = done.json["data"]
    assert (effect["approval_request_id"], effect["decided_by"]) == (first, "anonymous")
    assert "shop/refund" in (await stateline(server.config, "effects", "list", "--limit", "1")).out
    shown = await stateline(server.config, "effects", "show", effect["id"])
    assert f"approval:     {first}" in shown.out
    known = await stateline(server.config, "effects", "resolve", effect["id"], "committed", "--output", "it was made")
    assert effect["id"] in known.line

    await _refusals(server)


async def _refusals(server: Server) -> None:
    missing = await stateline(server.config, "approvals", "show", "mcpr_nothing")
    assert "there is no approval 'mcpr_nothing'" in missing.line
    odd = await stateline(server.config, "approvals", "approve", "../keys")
    assert "is not the id of an approval" in odd.line
    both = await stateline(server.config, "effects", "resolve", "mcp_x", "retry", "--output", "a")
    assert "--output goes with committed" in both.line
    unset = await stateline(server.config, "effects", "list", "--api-key-env", "NOT_SET_HERE")
    assert "NOT_SET_HERE is not set" in unset.line
    invalid = await stateline(server.config, "effects", "list", "--status", "odd")
    assert "odd" in invalid.line
    await server.kill()
    killed = await stateline(server.config, "effects", "list")
    assert "no server answers at" in killed.line
    (server.database.with_name(server.database.name + ".admin")).unlink()
    gone = await stateline(server.config, "effects", "list")
    assert "no server runs on" in gone.line
    elsewhere = await stateline(server.config, "effects", "list", "--url", "nowhere")
    assert "is no http or https URL" in elsewhere.line


async def test_it_takes_a_key_of_ones_own_with_the_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATELINE_API_KEY", raising=False)
    server = Server(tmp_path, "http://127.0.0.1:9/v1", settings='[auth]\nmode = "keys"\n')
    try:
        await server.start()
        none = await stateline(server.config, "approvals", "list")
        assert "STATELINE_API_KEY" in none.line
        make = ("keys", "create", "--tenant", "shop", "--json", "--name")
        plain_key = (await stateline(server.config, *make, "program")).json
        desk: Any = (await stateline(server.config, *make, "desk", "--scope", "approve", "--scope", "audit")).json
        monkeypatch.setenv("STATELINE_API_KEY", plain_key["key"])
        assert "scope 'approve'" in (await stateline(server.config, "approvals", "list")).line
        monkeypatch.setenv("DESK_KEY", desk["key"])
        listed = await stateline(server.config, "approvals", "list", "--json", "--api-key-env", "DESK_KEY")
        assert json.loads(listed.out) == {"object": "list", "data": [], "has_more": False}
    finally:
        await server.close()


def test_what_a_terminal_would_obey_is_shown_as_an_escape() -> None:
    assert plain('{"a": "\x1b[2J\u202egpj"}') == '{"a": "\\x1b[2J\\u202egpj"}'
