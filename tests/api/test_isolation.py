"""Every route, with another tenant's ids: nothing is found, and nothing is shown. Generated from the route table.

A parameter or a field that has no rule here fails the test: whoever adds a route says what another tenant gets there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from tests.crash.harness import Server
from tests.crash.tool_world import World
from tests.postgres import new_database

from stateline.api.table import ROUTES, Route
from stateline.core.principals import ADMIN
from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.scripted import Answer, Asked

MARK = "planted-by-the-owner"
"""In everything that the owner writes."""
FREE = {"model": "scripted", "name": "clerk", "tenant": "owner"}
"""Path parameters that name what is the operator's, or the tenant itself (of routes for operators alone)."""
PATHS = {
    "response_id": "response",
    "conversation_id": "conversation",
    "item_id": "item",
    "approval_id": "approval",
    "effect_id": "effect",
    "key_id": "key",
}
"""Path parameters that name what is a tenant's."""
QUERIES = {
    "session": ("session",),
    "after": ("session", "response", "item", "placement"),
    "key": ("effect_key",),
    "principal": ("key",),
}
"""Query parameters that take an id."""
OTHER_QUERIES = {
    "stream": "true",
    "starting_after": "0",
    "include": "message.output_text.logprobs",
    "limit": "10",
    "order": "asc",
    "status": "unknown",
    "agent": "clerk",
    "deployment": "chat",
    "from": "2020-01-01",
    "to": "2100-01-01",
    "model": "scripted",
    "name": "pay",
    "server_label": "world",
}
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
NEED_A_QUERY = {"/v1/audit"}
"""Routes that say nothing without a parameter of theirs."""
FIELDS = {
    "previous_response_id": ("previous_response_id", "$response"),
    "conversation": ("conversation", "$conversation"),
    "input": ("input", [{"type": "item_reference", "id": "$item"}]),
    "items": ("items", [{"type": "item_reference", "id": "$item"}]),
}
"""Fields of bodies that take an id, and how."""
MORE: dict[str, list[dict[str, Any]]] = {
    "CreateResponse": [
        {"input": [{"type": "mcp_approval_response", "approval_request_id": "$approval", "approve": True}]},
        {"input": [{"type": "item_reference", "id": "$approval"}]},
        {"input": [{"type": "item_reference", "id": "$effect"}]},
        {"conversation": {"id": "$conversation"}},
    ]
}
MAY_BE_400 = {"previous_response_not_found", "invalid_cursor"}
"""Codes that OpenAI's API answers with 400 where something is not there."""
NOT_SERVED = {("/v1/responses/compact", "conversation")}
"""Fields of OpenAI's that are refused whatever they say (400 `unsupported_parameter`)."""
NO_IDS = {
    "CreateChatCompletion", "CreateMessage", "CountMessageTokens", "CreateEmbedding", "CreateKey", "PutSecret",
    "RunPrune", "ShowAudit", "StartBackup", "AnswerApproval", "ResolveEffect", "UpdateConversation",
}  # fmt: skip
"""Bodies without a field that takes an id; of all others each field is in FIELDS or PLAIN."""
PLAIN = frozenset((
    "model", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "truncation",
    "background", "include", "context_management", "frequency_penalty", "max_output_tokens", "max_tool_calls",
    "metadata", "moderation", "presence_penalty", "prompt", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "safety_identifier", "service_tier", "store", "stream", "stream_options",
    "temperature", "top_logprobs", "top_p", "user", "personality",
))  # fmt: skip


class Try(NamedTuple):
    """One request; ``names``: whether it names something of the owner's that it needs."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    names: bool
    scope: str | None


def tries(route: Route, ids: dict[str, str]) -> Iterator[Try]:
    """What is sent to a route: its paths, then each id in each query parameter, then in each field of its body."""
    path, owned, body = route.path, False, route.body
    for part in [each.strip("{}") for each in path.split("/") if each.startswith("{")]:
        name = part.partition(":")[0]
        assert name in PATHS or name in FREE, f"{route.path}: say whose {name!r} is"
        owned |= name in PATHS
        path = path.replace(f"{{{part}}}", ids[PATHS[name]] if name in PATHS else FREE[name])
    base = None
    if body is not None:
        name = body.__name__
        assert name in BODIES, f"{route.path}: say what {name!r} needs"
        base = BODIES[name]
    if route.path not in NEED_A_QUERY:
        yield Try(route.method, path, {}, base, owned, route.scope)
    for name in route.query:
        assert name in QUERIES or name in OTHER_QUERIES, f"{route.path}: say whether {name!r} takes an id"
        for what in QUERIES.get(name, ()):
            yield Try(route.method, path, {name: ids[what]}, base, owned or name == "session", route.scope)
        if name in OTHER_QUERIES:
            query = {name: OTHER_QUERIES[name]} | ({"stream": "true"} if name == "starting_after" else {})
            yield Try(route.method, path, query, base, owned, route.scope)
    if body is not None and base is not None and body.__name__ not in NO_IDS:
        more = list(MORE.get(body.__name__, ()))
        for field in msgspec.structs.fields(body):
            assert field.name in FIELDS or field.name in PLAIN, f"{route.path}: say whether {field.name!r} takes an id"
            if field.name in FIELDS:
                more.append(dict([FIELDS[field.name]]))
        for each in more:
            yield Try(route.method, path, {}, base | filled(each, ids), True, route.scope)


def filled(value: Any, ids: dict[str, str]) -> Any:
    text = json.dumps(value)
    for name, id_ in ids.items():
        text = text.replace(f'"${name}"', json.dumps(id_))
    return json.loads(text)


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

    async def json(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        status, text = await self(method, path, body, None, **headers)
        assert status == 200, f"{method} {path}: {status} {text}"
        return json.loads(text)


@contextlib.asynccontextmanager
async def served(folder: Path, store: str | None, world: World) -> AsyncGenerator[Server]:
    (folder / "master.key").write_text("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=\n")
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


def judged(one: Try, status: int, text: str, ids: dict[str, str]) -> str | None:
    """What is wrong with an answer to somebody else, if anything."""
    shown = f"{one.method} {one.path} {one.query} {one.body}: {status} {text[:300]}"
    sent = one.path + json.dumps([one.query, one.body])
    if MARK in text or any(id_ in text for id_ in ids.values() if id_ not in sent):
        return f"shows what is the owner's: {shown}"
    if one.scope == ADMIN:
        return None if status == 403 else f"is not refused: {shown}"
    error: Any = json.loads(text)["error"] if status >= 400 else {}
    if error.get("code") in MAY_BE_400 and status == 400:
        return None
    if error.get("code") == "unsupported_parameter" and (one.path, error["param"]) in NOT_SERVED:
        return None
    if one.names:
        return None if status == 404 else f"is not a 404: {shown}"
    # One's own list, or model call; the models here make no embeddings.
    return None if status == 200 or one.path == "/v1/embeddings" else f"fails: {shown}"


async def walk(folder: Path, store: str | None) -> None:
    world = World()
    async with served(folder, store, world) as server, aiohttp.ClientSession() as http:
        scopes = ("responses", "agents", "usage", "audit", "approve")
        operator = Caller(http, server.root, await operator_key(server))
        keys = [
            await operator.json("POST", "/v1/admin/keys", {"tenant": tenant, "name": tenant, "scopes": scopes})
            for tenant in ("owner", "other")
        ]
        owner, other = [Caller(http, server.root, made["key"]) for made in keys]
        ids = await planted(owner, operator, world)
        wrong: list[str] = []
        count = 0
        for route in ROUTES:
            for one in tries(route, ids):
                status, text = await other(one.method, one.path, one.body, one.query)
                count += 1
                if (found := judged(one, status, text, ids)) is not None:
                    wrong.append(found)
        assert not wrong, "\n".join(wrong)
        assert count > len(ROUTES) * 2
        # The same idempotency key and body are another tenant's own request.
        again = {"Idempotency-Key": MARK}
        made = await other.json("POST", "/v1/responses", {"model": "scripted", "input": MARK}, **again)
        assert made["id"] != ids["response"]
        # All of it is still there for its owner, as it was: the ids were right, and nobody has changed anything.
        for route in ROUTES:
            if route.method == "GET" and "{" in route.path and route.scope != ADMIN:
                [first, *_] = tries(route, ids)
                path = first.path.replace(f"{ids['conversation']}/items/{ids['item']}", f"{ids['conversation']}/items")
                status, text = await owner("GET", path)
                assert status == 200, f"{path}: {status} {text}"
                assert MARK in text or not first.names
        assert ids["item"] in (await owner("GET", f"/v1/conversations/{ids['conversation']}/items"))[1]
        waiting = (await owner.json("GET", f"/v1/approvals?session={ids['approval'][5:29]}"))["data"]
        assert [each["id"] for each in waiting] == [ids["approval"]]
        [unknown] = (await owner.json("GET", "/v1/effects?status=unknown"))["data"]
        assert unknown["id"] == ids["effect"]
        assert len(world.ran) == 1


@pytest.mark.timeout(120)
async def test_another_tenants_ids_lead_nowhere_on_sqlite(tmp_path: Path) -> None:
    await walk(tmp_path, None)


@pytest.mark.timeout(120)
async def test_another_tenants_ids_lead_nowhere_on_postgresql(tmp_path: Path, postgres: PostgresServer) -> None:
    (tmp_path / "url").write_text(await new_database(postgres))
    await walk(tmp_path, 'url_file = "url"')


def test_a_route_without_a_rule_is_found() -> None:
    route = next(each for each in ROUTES if each.path.endswith("/input_items"))
    ids = dict.fromkeys(["response", "session", "item", "placement"], "x")
    assert len(list(tries(route, ids))) > 1
    for wrong in ({"path": "/v1/things/{thing_id}"}, {"query": ("thing",)}, {"body": Try}):
        with pytest.raises(AssertionError, match=r"say wh|needs"):
            list(tries(msgspec.structs.replace(route, **wrong), ids))
