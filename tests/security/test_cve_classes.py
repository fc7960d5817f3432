"""Attacks that worked on servers of this kind, tried on ours: who gets in, what is run, and which secrets are shown.

Each test makes the attack on a running server, and looks for what it would have done: a file, a row, a secret. What is
done with SQL, with stored bodies and through packages is in the files beside this one.
"""

from __future__ import annotations

import ast
import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from msgspec import inspect
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tests.api.tenants import BODIES, Caller, operator_key
from tests.crash.harness import Server
from tests.tools.mcp_servers import odd, said
from yarl import URL

from stateline.api.params import WebSocketResponseCreateEvent
from stateline.api.table import ROUTES
from stateline.core.calls import FunctionTool
from stateline.core.principals import ADMIN
from stateline.models.local.toolcalls import CallGate
from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.scripted import Answer, Asked

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
TOKEN = "token-planted-0d5c31f7"
HEADER = "header-planted-77ab90e2"
CONFIG = """
[tools]
allow_hosts = ["{host}"]
functions = ["hostile_arguments:total", "hostile_arguments:keep"]

[sandbox]
enabled = true
path = "workspaces"

[auth]
mode = "keys"

[[mcp_servers]]
label = "shop"
url = "http://{host}/mcp"
token_env = "SHOP_TOKEN"
headers_env = {{X-Secret = "SHOP_SECRET"}}

[[agents]]
name = "clerk"
model = "scripted"
tools = [{{server = "shop"}}]

[[agents]]
name = "coder"
model = "scripted"
tools = [{{server = "sandbox"}}]

[[agents]]
name = "counter"
model = "scripted"
tools = [{{server = "functions"}}]
"""
FUNCTIONS = """
from stateline.tools import tool

@tool(effect="read")
def total(data: list[int]) -> str:
    return f"total is {sum(data)}"

@tool(effect="read")
def keep(text: str) -> str:
    return f"kept {text}"
"""


def model(asked: Asked, _: int) -> Answer:
    """Calls the tool that the user names, with whatever the user says as its arguments."""
    if asked.tool_output is not None:
        return Answer(text=f"It said: {asked.tool_output}")
    name, _blank, arguments = asked.user_text.partition(" ")
    if name.startswith(("shop-", "functions-", "sandbox-")):
        return Answer(calls=(ScriptedCall(name=name, arguments=arguments),))
    return Answer(text="Hello.")


class Refusing:
    """An MCP server that refuses as it is told, and repeats what it was sent, as debugging pages do."""

    status = 0

    def __init__(self) -> None:
        self.got: set[str] = set()

    async def __call__(self, message: dict[str, Any], request: Request) -> Response | None:
        headers = json.dumps(dict(request.headers))
        self.got |= set(request.headers.values())
        if message["method"] == "tools/call" and self.status:
            return JSONResponse({"error": f"not with {headers}"}, status_code=self.status)
        if message["method"] == "tools/call":
            return said(message, {"content": [{"type": "text", "text": headers}], "isError": True})
        return None


class Place:
    """A server, its keys, and the file that no attack may make."""

    def __init__(self, server: Server, http: aiohttp.ClientSession, folder: Path, refusing: Refusing) -> None:
        self.server = server
        self.http = http
        self.canary = folder / "canary"
        self.refusing = refusing
        self.operator: Caller
        self.user: Caller

    async def turn(self, caller: Caller, **body: Any) -> tuple[int, Any, str]:
        status, text = await caller("POST", "/v1/responses", {"model": "scripted", "input": "x", **body})
        return status, json.loads(text), text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    folder = tmp_path_factory.mktemp("classes")
    (folder / "hostile_arguments.py").write_text(FUNCTIONS)
    refusing = Refusing()
    variables = {"SHOP_TOKEN": TOKEN, "SHOP_SECRET": HEADER, "PYTHONPATH": str(folder)}
    async with ScriptedUpstream(model) as upstream, odd(refusing) as (url, _), aiohttp.ClientSession() as http:
        settings = CONFIG.format(host=str(URL(url).authority))
        server = Server(folder, upstream, settings=settings, environment=variables)
        try:
            await server.start()
            made = Place(server, http, folder, refusing)
            made.operator = Caller(http, server.root, await operator_key(server))
            scopes = ("responses", "agents", "usage", "audit", "approve")
            body = {"tenant": "t", "name": "user", "scopes": scopes}
            made.user = Caller(http, server.root, (await made.operator.json("POST", "/v1/admin/keys", body))["key"])
            yield made
        finally:
            await server.close()


@pytest.fixture(autouse=True)
def nothing_was_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each attack: the canary is not there, and the server still is."""
    yield
    if "place" in request.fixturenames:
        place: Place = request.getfixturevalue("place")
        assert not place.canary.exists()
        assert place.server.process is not None
        assert place.server.process.returncode is None


# -- who gets in ------------------------------------------------------------------------------------------


async def test_no_route_is_open_without_a_key_but_those_that_say_so(place: Place) -> None:
    """CVE-2026-12795 (LiteLLM, CWE-306): a critical function that asks for no authentication."""
    open_to_all = {(each.method, each.path) for each in ROUTES if each.scope is None}
    assert open_to_all == {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json")}
    root = place.server.root
    for route in ROUTES:
        path = re.sub(r"{\w+(:path)?}", "x", route.path)
        body = None if route.body is None else BODIES[route.body.__name__]
        for headers in (
            {},
            {"authorization": "Bearer sk-sl-x"},
            {"authorization": "Basic YTpi"},
            {"cookie": "token=x"},
        ):
            async with place.http.request(route.method, root + path, json=body, headers=headers) as reply:
                assert (reply.status == 401) == (route.scope is not None), f"{route.method} {path}: {reply.status}"
        if route.scope == ADMIN:
            status, text = await place.user(route.method, path, body)
            assert status == 403, f"{route.method} {path}: {status} {text}"
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await place.http.ws_connect(f"{root}/v1/responses")
    assert caught.value.status == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v1//admin/keys", "//v1/admin/keys", "/v1/admin/keys/", "/V1/ADMIN/KEYS", "/v1/models/../admin/keys",
        "/v1/models/%2e%2e/admin/keys", "/v1/models/..%2fadmin%2fkeys", "/v1/admin/keys;x=/v1/models",
        "/v1/admin%2fkeys", "/healthz/../v1/admin/keys", "/healthz/v1/admin/keys", "/v1/admin/keys%00",
        "/v1/admin/keys%20", "/v1/./admin/keys",
    ],
)  # fmt: skip
async def test_a_path_written_otherwise_leads_round_no_check(place: Place, path: str) -> None:
    """CVE-2026-12795's neighbours: the check reads one path and the router another, or a header renames it."""
    renamed = {"x-original-url": "/v1/admin/keys", "x-rewrite-url": "/v1/admin/keys", "x-http-method-override": "GET"}
    for headers in ({}, renamed):
        url = URL(place.server.root + path, encoded=True)
        async with place.http.get(url, headers=headers) as reply:
            text = await reply.text()
            assert reply.status in (401, 404), text
            assert "key_" not in text
        status, text = await place.user.sends("GET", path, None, headers)
        assert status in (403, 404), text
        assert "key_" not in text


async def test_a_key_that_was_revoked_or_has_expired_lets_nobody_in_at_once(place: Place) -> None:
    """CVE-2026-12772 and CVE-2026-12796 (LiteLLM, CWE-613): a login leaves keys that go on being good: nobody can end
    them, and they are read out of a cookie. Here there is no login; keys are made by name, shown once, and ended.
    """
    made = [
        await place.operator.json("POST", "/v1/admin/keys", {"tenant": "t", "name": "one", **more})
        for more in ({}, {}, {"expires_in_s": 1})
    ]
    revoked, other, expiring = [Caller(place.http, place.server.root, each["key"]) for each in made]
    assert (await revoked("GET", "/v1/models"))[0] == 200
    async with revoked.socket("/v1/responses") as socket:
        await place.operator.json("DELETE", f"/v1/admin/keys/{made[0]['id']}")
        await socket.send_json({"type": "response.create", "model": "scripted", "input": "x"})
        assert (await socket.receive_json(timeout=10))["status"] == 401
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/responses"), ("GET", "/v1/usage")):
        assert (await revoked(method, path, BODIES["CreateResponse"] if method == "POST" else None))[0] == 401
    assert (await other("GET", "/v1/models"))[0] == 200, "another key of the same name is another key"
    await asyncio.sleep(1.1)
    assert (await expiring("GET", "/v1/models"))[0] == 401
    # No answer has a key in it, but that to its creation.
    listed = json.dumps(await place.operator.json("GET", "/v1/admin/keys"))
    assert "sk-sl-" not in listed
    assert all(each["key"] not in listed and each["id"] in listed for each in made)


# -- what is run ------------------------------------------------------------------------------------------


def fields_of(kind: inspect.Type, seen: set[type]) -> Iterator[str]:
    """The names of all fields under a type, those that are always refused aside."""
    match kind:
        case inspect.StructType(cls=cls, fields=fields) if cls not in seen:
            seen.add(cls)
            for field in fields:
                if not isinstance(field.type, inspect.NoneType):
                    yield field.encode_name
                    yield from fields_of(field.type, seen)
        case inspect.UnionType(types=types):
            for each in types:
                yield from fields_of(each, seen)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            yield from fields_of(item, seen)
        case inspect.DictType(value_type=value):
            yield from fields_of(value, seen)
        case _:
            return


async def test_no_request_has_a_field_that_names_a_program_or_code(place: Place) -> None:
    """The ground of CVE-2026-42271 and CVE-2025-51482: a body that says what the server shall start, or run."""
    assert place.server.process is not None
    runs = {
        "command", "args", "env", "environment", "cwd", "code", "source_code", "script", "module", "entrypoint",
        "entry_point", "pip_requirements", "function_path", "import", "class", "constructor",
    }  # fmt: skip
    bodies = [route.body for route in ROUTES if route.body is not None] + [WebSocketResponseCreateEvent]
    for body in bodies:
        names = set(fields_of(inspect.type_info(body), set()))
        assert not names & runs, f"{body.__name__}: {names & runs}"
    assert "arguments" in {name for body in bodies for name in fields_of(inspect.type_info(body), set())}


async def test_a_request_starts_no_program_as_an_mcp_server(place: Place) -> None:
    """MCP over stdio (LiteLLM, CVE-2026-42271): whoever may test a connection or describe a tool names the command."""
    command = {"command": "/usr/bin/touch", "args": [str(place.canary)], "env": {"A": "b"}}
    tool = {"type": "mcp", "server_label": "mine", "require_approval": "never"}
    shell = f"touch {place.canary}"
    for more in (
        command, {**command, "transport": "stdio"}, {"server_url": f"stdio:{shell}"},
        {"server_url": f"file://{shell}"}, {"server_url": shell}, {"server_url": f"http://127.0.0.1/$({shell})"},
        {"connector_id": shell}, {"server_url": "http://127.0.0.1/", **command}, {"server_label": f"shop;{shell}"},
        {"server_label": f"$({shell})"}, {"headers": {f"X-$({shell})": "x"}, "server_url": "http://127.0.0.1/"},
    ):  # fmt: skip
        status, answer, text = await place.turn(place.user, tools=[{**tool, **more}])
        assert status == 400 or answer["status"] == "failed", text
    for caller in (place.user, place.operator):
        for path in ("/mcp-rest/test/connection", "/mcp-rest/test/tools/list", "/v1/mcp/server", "/v1/agents", "/mcp"):
            assert (await caller("POST", path, {**tool, **command}))[0] in (404, 405), path
    for name in (f"agent/clerk;{shell}", f"agent/$({shell})", f"agent/../{shell}"):
        assert (await place.turn(place.user, model=name))[0] == 404


async def test_source_code_in_a_request_is_not_run(place: Place) -> None:
    """CVE-2025-51482 (Letta): ``/v1/tools/run`` runs the source that a request brings, outside of any sandbox."""
    source = f"import os\ndef run():\n    os.system('touch {place.canary}')\n    return 'ran'\n"
    body: dict[str, Any] = {"source_code": source, "args": {}, "env_vars": {}, "name": "run", "source_type": "python"}
    for caller in (place.user, place.operator):
        for path in ("/v1/tools/run", "/v1/tools", "/v1/tools/", "/v1/functions", "/v1/code", "/v1/sandbox"):
            assert (await caller("POST", path, body))[0] in (404, 405)
    function: dict[str, Any] = {"type": "function", "name": "run", "parameters": {"type": "object"}}
    for more in ({"source_code": source}, {"code": source}, {"function": {"source": source}}, {"type": "python"}):
        assert (await place.turn(place.user, tools=[{**function, **more}]))[0] == 400
    assert (await place.turn(place.user, tools=[{**function, "description": source}]))[0] == 200
    for kind in ("code_interpreter", "shell", "local_shell", "computer_use_preview"):
        assert (await place.turn(place.user, tools=[{"type": kind, "container": {"type": "auto"}}]))[0] == 400


@pytest.mark.parametrize("tool", ["run_python", "run_shell"])
async def test_code_that_a_model_writes_does_not_reach_the_host(place: Place, tool: str) -> None:
    """CVE-2025-51482 once more, by way of the model: what is there to run code runs it in a sandbox, or not at all."""
    code = {
        "run_python": f"import os\nos.makedirs({str(place.canary.parent)!r}, exist_ok=True)\n"
        f"open({str(place.canary)!r}, 'w').write('x')\nprint('done')",
        "run_shell": f"mkdir -p {place.canary.parent}; touch {place.canary}; echo done",
    }[tool]
    arguments = json.dumps({"code" if tool == "run_python" else "command": code})
    status, answer, text = await place.turn(place.user, model="agent/coder", input=f"sandbox-{tool} {arguments}")
    assert status == 200, text
    if answer["error"] is None:
        [call] = [each for each in answer["output"] if each["type"] == "mcp_call"]
        assert call["output"] or call["error"], text
    else:  # Where there can be no sandbox, nothing is run outside of one.
        assert answer["error"]["code"] == "sandbox_unavailable", text
    environment = json.dumps({"command": "cat /proc/*/environ; env"})
    _, _, text = await place.turn(place.user, model="agent/coder", input=f"sandbox-run_shell {environment}")
    assert TOKEN not in text


@pytest.mark.parametrize(
    ("tool", "arguments", "answer"),
    [
        ("total", '{"data": [1, 2]}', "total is 3"),
        ("total", '{"data": "CODE"}', None),
        ("total", '{"data": ["CODE"]}', None),
        ("total", '{"data": {"CODE": 1}}', None),
        ("total", '{"data": CODE}', None),
        ("total", "total(data=CODE)", None),
        ("total", "[total(data=CODE)]", None),
        ("keep", '{"text": "CODE"}', "kept CODE"),
    ],
)
async def test_arguments_of_the_wrong_type_are_not_code(
    place: Place, tool: str, arguments: str, answer: str | None
) -> None:
    """Letta's tools (CWE-94): text where a list is wanted is pasted into generated source; and CVE-2025-55178
    (Llama Stack): ``resolve_ast_by_type`` evaluates what a model writes as arguments. Ours are JSON, checked by type.
    """
    code = f"__import__('os').system('touch {place.canary}')"
    ast.parse(code)
    _, said, text = await place.turn(
        place.user, model="agent/counter", input=f"functions-{tool} {arguments.replace('CODE', code)}"
    )
    [call] = [each for each in said["output"] if each["type"] == "mcp_call"]
    if answer is None:
        assert "total is" not in text
        assert call["error"] or call["status"] == "failed", text
    else:
        assert call["output"] == answer.replace("CODE", code)


@pytest.mark.parametrize(
    "written",
    [
        '<tool_call>{"name": "total", "arguments": {"data": CODE}}</tool_call>',
        '<tool_call>{"name": "total", "arguments": "CODE"}</tool_call>',
        '```json\n{"name": "total", "arguments": CODE}\n```',
        "[total(data=CODE)]", "total(CODE)", "<tool_call>CODE</tool_call>", '{"name": CODE, "arguments": {}}',
    ],
)  # fmt: skip
async def test_calls_in_a_local_models_text_are_read_and_not_evaluated(tmp_path: Path, written: str) -> None:
    """CVE-2025-55178 (Llama Stack), where the local model's text is read for calls: nothing of it is evaluated."""
    canary = tmp_path / "canary"
    code = f"__import__('os').system('touch {canary}')"
    schema = {"type": "object", "properties": {"data": {"type": "array", "items": {"type": "integer"}}}}
    gate = CallGate([FunctionTool(name="total", description="", parameters=schema)])
    gate.feed(written.replace("CODE", code))
    gate.finish()
    assert not canary.exists()
    for call in gate.calls:
        assert all(isinstance(each, int) for each in msgspec.json.decode(call.arguments).get("data", []))


# -- which secrets are shown ------------------------------------------------------------------------------


async def test_a_refusal_of_or_by_an_mcp_server_shows_no_credential(place: Place) -> None:
    """LiteLLM's MCP gateway: the 403 of a tool call had the servers' settings in it, tokens and all."""
    body = {"tenant": "t", "name": "bound", "agent": "coder", "scopes": ("responses", "agents")}
    bound = Caller(place.http, place.server.root, (await place.operator.json("POST", "/v1/admin/keys", body))["key"])
    stranger = Caller(place.http, place.server.root, "sk-sl-nobody")
    shop = {"type": "mcp", "server_label": "shop", "require_approval": "never"}
    said: list[tuple[int, str]] = []
    for status in (0, 401, 403, 500):
        place.refusing.status = status
        for name in ("act", "no_such_tool", "act; drop"):
            for caller in (place.user, bound, stranger):
                for more in (
                    {"model": "agent/clerk", "input": f"shop-{name} {{}}"},
                    {"tools": [shop], "input": f"shop-{name} {{}}"},
                    {"tools": [{**shop, "allowed_tools": ["other"]}], "input": f"shop-{name} {{}}"},
                    {"tools": [{**shop, "server_label": "shopp"}]},
                    {"tools": [{**shop, "server_url": "http://127.0.0.1:9/mcp"}]},
                ):
                    answered, _, text = await place.turn(caller, **more)
                    said.append((answered, text))
    for path in ("/v1/agents", "/v1/agents/clerk", "/v1/effects", "/v1/approvals", "/v1/models", "/openapi.json"):
        said.append(await place.user("GET", path))
    for path in ("/v1/admin/status", "/v1/admin/secrets", "/v1/admin/keys", "/metrics"):
        said.append(await place.operator("GET", path))
    for answered, text in said:
        assert TOKEN not in text
        assert HEADER not in text
        assert "McpServer(" not in text
        assert answered < 500
    assert {answered for answered, _ in said} >= {200, 401, 403}
    # The server did get them, so there was something to show; and the log has them no more than the answers.
    assert {f"Bearer {TOKEN}", HEADER} <= place.refusing.got
    assert any("x-secret" in text for _, text in said)
    log = place.server.log.read_text()
    assert TOKEN not in log
    assert HEADER not in log
