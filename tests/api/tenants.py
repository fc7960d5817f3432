"""Two tenants on one server: what the owner has, who asks for it, and the least that each route needs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
from tests.crash.harness import Server
from tests.crash.tool_world import World
from yarl import URL

from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.scripted import Answer, Asked

MARK = "planted-by-the-owner"
"""In everything that the owner writes."""
FREE = {"model": "scripted", "name": "clerk", "tenant": "owner"}
"""Path parameters that name what is the operator's, or the tenant itself (of routes for operators alone)."""
BODIES: dict[str, dict[str, Any]] = {
    "CreateResponse": {"model": "scripted", "input": "x"},
    "CountInputTokens": {"model": "scripted", "input": "x"},
    "CompactResponse": {"model": "scripted", "input": "x"},
    "CreateConversation": {},
    "UpdateConversation": {"metadata": {"a": "b"}},
    "AddConversationItems": {"items": [{"type": "message", "role": "user", "content": "x"}]},
    "AnswerApproval": {"approve": True},
    "ResolveEffect": {"decision": "abandoned"},
    "CreateChatCompletion": {"model": "scripted", "messages": [{"role": "user", "content": "x"}]},
    "CreateMessage": {"model": "scripted", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]},
    "CountMessageTokens": {"model": "scripted", "messages": [{"role": "user", "content": "x"}]},
    "CreateEmbedding": {"model": "scripted", "input": "x"},
    "CreateKey": {"tenant": "owner", "name": "x", "scopes": ["audit"]},
    "PutSecret": {"tenant": "owner", "name": "github", "value": "x"},
    "ShowAudit": {"tenant": "owner", "session": "0" * 24},
    "RunPrune": {},
    "StartBackup": {"path": "backup"},
}
"""The least that each body needs. A body that is not here fails the test."""


def model(asked: Asked, _: int) -> Answer:
    if asked.tool_output is None and asked.user_text.endswith("pay"):
        return Answer(calls=(ScriptedCall(name="world-pay", arguments=json.dumps({"wish": MARK})),))
    return Answer(text=f"So it is {MARK}." if MARK in asked.user_text else "So it is.")


class Caller:
    """Requests of one key."""

    def __init__(self, http: aiohttp.ClientSession, root: str, key: str) -> None:
        self._http = http
        self._root = root
        self._headers = {"authorization": f"Bearer {key}"}

    async def __call__(
        self, method: str, path: str, body: Any = None, query: dict[str, str] | None = None, **headers: str
    ) -> tuple[int, str]:
        async with self._http.request(
            method, self._root + path, json=body, params=query, headers=self._headers | headers
        ) as reply:
            return reply.status, await reply.text()

    async def sends(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, str]:
        """As it stands: the path is encoded already."""
        url = URL(self._root + path, encoded=True)
        async with self._http.request(method, url, json=body, headers=self._headers | headers) as reply:
            return reply.status, await reply.text()

    def socket(self, path: str) -> aiohttp.client._WSRequestContextManager:  # pyright: ignore[reportPrivateUsage]
        """A WebSocket that the key opens."""
        return self._http.ws_connect(self._root + path, headers=self._headers)

    async def json(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        status, text = await self(method, path, body, None, **headers)
        assert status == 200, f"{method} {path}: {status} {text}"
        return json.loads(text)


@contextlib.asynccontextmanager
async def served(folder: Path, store: str | None, world: World) -> AsyncGenerator[Server]:
    (folder / "master.key").write_text("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=\n")
    (folder / "audit.key").write_text("a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2V5a2U=\n")
    (folder / "approvals").write_text("a-key-of-at-least-thirty-two-bytes-for-tests")
    more = """
[[agents]]
name = "careful"
model = "scripted"
tools = [{server = "world", require_approval = "always"}]

[auth]
mode = "keys"

[vault]
key_file = "master.key"

[approvals]
key_file = "approvals"

[audit]
key_file = "audit.key"
"""
    async with ScriptedUpstream(model) as upstream, world.served() as settings:
        server = Server(folder, upstream, settings=settings + more, store=store)
        try:
            await server.start()
            yield server
        finally:
            await server.close()


async def operator_key(server: Server) -> str:
    """A key for the whole installation, made beside the server."""
    command = (sys.executable, "-c", "from stateline.cli import main; main()", "keys", "create")
    options = ("--tenant", "house", "--name", "house", "--scope", "admin", "--config", str(server.config))
    done = await asyncio.to_thread(subprocess.run, [*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def planted(owner: Caller, operator: Caller, world: World) -> dict[str, str]:
    """One of everything that a tenant can have; their ids."""
    again = {"Idempotency-Key": MARK}
    response = await owner.json("POST", "/v1/responses", {"model": "scripted", "input": MARK}, **again)
    message = {"type": "message", "role": "user", "content": MARK}
    talk = await owner.json("POST", "/v1/conversations", {"metadata": {"a": MARK}, "items": [message]})
    items = await owner.json("GET", f"/v1/conversations/{talk['id']}/items")
    await owner.json("POST", "/v1/responses", {"model": "agent/careful", "input": f"{MARK} pay"})
    [approval] = (await owner.json("GET", "/v1/approvals"))["data"]
    world.hold("pay")
    held = await owner.json("POST", "/v1/responses", {"model": "agent/clerk", "input": "pay", "background": True})
    async with asyncio.timeout(30):
        await world.arrived.wait()
    await owner.json("POST", f"/v1/responses/{held['id']}/cancel")
    world.release()
    [effect] = (await owner.json("GET", "/v1/effects?status=unknown"))["data"]
    secret = {"tenant": "owner", "name": "github", "value": MARK}
    await operator.json("POST", "/v1/admin/secrets", secret)
    keys = (await operator.json("GET", "/v1/admin/keys"))["data"]
    placements = (await owner.json("GET", "/v1/placements"))["data"]
    return {
        "response": response["id"],
        "session": response["id"][5:29],
        "conversation": talk["id"],
        "item": items["data"][0]["id"],
        "approval": approval["id"],
        "effect": effect["id"],
        "effect_key": effect["key"],
        "key": next(each["id"] for each in keys if each["tenant"] == "owner"),
        "placement": placements[0]["id"],
    }
