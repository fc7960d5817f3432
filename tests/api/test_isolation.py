"""Every route, with another tenant's ids: nothing is found, and nothing is shown. Generated from the route table.

A parameter or a field that has no rule here fails the test: whoever adds a route says what another tenant gets there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from tests.api.tenants import BODIES, FREE, MARK, Caller, operator_key, planted, served
from tests.crash.tool_world import World
from tests.postgres import new_database

from stateline.api.params import WebSocketResponseCreateEvent
from stateline.api.table import ROUTES, Route
from stateline.core.ids import ALPHABET, SESSION_CHARS
from stateline.core.principals import ADMIN
from stateline.testing.postgres_server import PostgresServer

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


async def untouched(owner: Caller, world: World, ids: dict[str, str]) -> None:
    """All of it is still there for its owner, as it was: the ids were right, and nobody has changed anything."""
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


SOCKET = "/v1/responses"
"""The one path that is also a WebSocket's."""
ENDS = ("response.completed", "response.failed", "response.incomplete", "error")


class Socket:
    """Messages of one key over a WebSocket."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def __call__(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of one answer."""
        await self._socket.send_json({"type": "response.create"} | BODIES["CreateResponse"] | body)
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] not in ENDS:
            events.append(await self._socket.receive_json(timeout=20))
        return events


def messages(ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Each id in each field of a message that takes one, whether or not it is one of its kind."""
    body = WebSocketResponseCreateEvent
    fields = [each.name for each in msgspec.structs.fields(body)]
    for name in fields:
        assert name in FIELDS or name in PLAIN | {"type"}, f"{SOCKET}: say whether {name!r} takes an id"
    shapes = [dict([FIELDS[name]]) for name in fields if name in FIELDS] + MORE["CreateResponse"]
    for shape in shapes:
        for id_ in ids.values():
            text = re.sub(r'"\$\w+"', lambda _, id_=id_: json.dumps(id_), json.dumps(shape))
            yield json.loads(text)


def nobodys(id_: str) -> str:
    """An id of the same form that leads nowhere."""
    return re.sub(f"[{ALPHABET}]{{{SESSION_CHARS}}}", "0" * SESSION_CHARS, id_)


async def over_a_websocket(owner: Socket, other: Socket, ids: dict[str, str]) -> None:
    """What is another tenant's is answered to the letter as what is nobody's, and leads its owner on."""
    theirs = {name: id_ for name, id_ in ids.items() if nobodys(id_) != id_}
    assert theirs.keys() >= {"response", "conversation", "item", "approval", "effect", "session"}
    unknown = {name: nobodys(id_) for name, id_ in theirs.items()}
    for sent, made_up in zip(messages(theirs), messages(unknown), strict=True):
        said, expected = await other(sent), await other(made_up)
        assert nobodys(json.dumps(said)) == json.dumps(expected), sent
        [error] = said
        assert error["type"] == "error", f"{sent}: {error}"
        assert error["status"] == 404 or error["error"]["code"] in MAY_BE_400, f"{sent}: {error}"
        assert MARK not in json.dumps(error), sent
    # They were the right ids: each leads its owner somewhere.
    for sent in (
        {"previous_response_id": ids["response"]},
        {"conversation": ids["conversation"]},
        {"input": [{"type": "item_reference", "id": ids["item"]}]},
    ):
        assert (await owner(sent))[-1]["type"] == "response.completed", sent


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
        async with owner.socket(SOCKET) as first, other.socket(SOCKET) as second:
            await over_a_websocket(Socket(first), Socket(second), ids)
        await untouched(owner, world, ids)


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
