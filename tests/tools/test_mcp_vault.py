"""MCP servers whose credentials are in the vault: each tenant's own, as they are at the moment of the call."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.tools.mcp_servers import Odd, Seen, odd, said, serving, shop
from tests.tools.test_mcp_hosts import configured, tokens_alone, with_tokens

from stateline.core.limits_tools import MCP_TENANT_SESSIONS_MAX, SECRETS_TOLD_MAX
from stateline.core.secrets import Secret
from stateline.core.tools import ToolCall, ToolError
from stateline.identity.raw_keys import new_key
from stateline.identity.vault import MasterKey, Vault, master_keys
from stateline.stores.clock import SystemClock
from stateline.stores.memory import MemoryStore
from stateline.tools.credentials import Told
from stateline.tools.mcp_hosts import McpHosts
from stateline.tools.mcp_vault import VaultHost
from stateline.tools.redaction import redactor

ACME, SHOP = "acme-planted-0193c2aa", "shop-planted-77e0d1fb"
ROOT = Path(__file__).parent.parent.parent
SERVER = '[vault]\nkey_env = "K"\n[tools]\nallow_hosts = ["127.0.0.1"]\n[[mcp_servers]]\nlabel = "a"\nurl = "{url}"\n'
TOKEN = SERVER + 'authorization = "vault:token"\n'


def call(tool: str = "act", tenant: str = "acme", **arguments: Any) -> ToolCall:
    given = json.dumps(arguments)
    return ToolCall(tool=tool, arguments=given, key="ses_1/1/1", tenant=tenant, session="ses_1", timeout_s=20.0)


def key() -> MasterKey:
    return master_keys(new_key(os.urandom))[0]


@pytest.fixture
async def store() -> AsyncGenerator[MemoryStore]:
    made = MemoryStore(clock=SystemClock())
    yield made
    await made.close()


@pytest.fixture
async def vault(store: MemoryStore) -> Vault:
    made = Vault(store, SystemClock(), os.urandom, [key()])
    await made.put("acme", "token", Secret(ACME))
    await made.put("shop", "token", Secret(SHOP))
    return made


@contextlib.asynccontextmanager
async def at(tmp_path: Path, text: str, vault: Vault | None) -> AsyncGenerator[Callable[[str], VaultHost]]:
    """From a tenant to the configured server as it calls it."""
    found = configured(tmp_path, text, {"K": "x"}, vault)

    def of(tenant: str) -> VaultHost:
        host = found.of("a", tenant)
        assert isinstance(host, VaultHost)
        return host

    try:
        yield of
    finally:
        await found.close()


async def refused(host: VaultHost, tenant: str = "acme") -> ToolError:
    with pytest.raises(ToolError) as error:
        await host.call(call(tenant=tenant))
    assert (error.value.sent, error.value.blame) == (False, "operator")
    assert ACME not in error.value.message
    assert SHOP not in error.value.message
    return error.value


async def nothing(message: dict[str, Any], request: Request) -> Response | None:
    del message, request
    return None


async def test_each_tenant_is_known_by_its_own_secret_and_has_its_own_connection(
    tmp_path: Path, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await vault.put("acme", "extra", Secret("extra-planted-1"))
    await vault.put("shop", "extra", Secret("extra-planted-2"))
    opened, shown = 0, set[tuple[str, str, str]]()

    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        nonlocal opened
        shown.add((message["method"], request.headers["authorization"], request.headers["x-extra"]))
        if message["method"] != "initialize":
            return None
        opened += 1
        return None

    async with odd(rule) as (url, _):
        text = f'{TOKEN.format(url=url)}headers = {{X-Extra = "vault:extra", X-Plain = "billing"}}\n'
        async with at(tmp_path, text, vault) as of:
            for tenant in ("acme", "shop", "acme"):
                assert (await of(tenant).call(call(tenant=tenant))).output == "ok"
            assert await of("acme").host() is not await of("shop").host()
    assert opened == 2
    assert {each[1:] for each in shown} == {
        (f"Bearer {ACME}", "extra-planted-1"),
        (f"Bearer {SHOP}", "extra-planted-2"),
    }
    assert {each[0] for each in shown} >= {"initialize", "tools/call"}
    assert ACME not in caplog.text


async def test_a_tenant_without_the_secret_reaches_nobody(tmp_path: Path, vault: Vault) -> None:
    async with odd(nothing) as (url, server), at(tmp_path, TOKEN.format(url=url), vault) as of:
        error = await refused(of("other"), "other")
        assert error.code == "tool_secret_missing"
        assert error.message == (
            "MCP server a: vault:token is not in the vault for the tenant other; "
            "the operator stores it with `stateline vault set token --tenant other`"
        )
        with pytest.raises(ToolError):
            await of("other").tools()
        assert server.asked == []


async def test_a_secret_that_does_not_open_reaches_nobody(tmp_path: Path, vault: Vault, store: MemoryStore) -> None:
    other = Vault(store, SystemClock(), os.urandom, [key()])
    async with odd(nothing) as (url, server), at(tmp_path, TOKEN.format(url=url), other) as of:
        error = await refused(of("acme"))
        assert error.code == "tool_secret_unusable"
        assert "vault:token cannot be opened for the tenant acme" in error.message
        assert "vault_key_missing in docs/errors.md" in error.message
    async with odd(nothing) as (url, server), at(tmp_path, TOKEN.format(url=url), None) as of:
        assert (await refused(of("acme"))).code == "tool_secret_unusable"
        assert server.asked == []


@pytest.mark.parametrize("value", ["a\nX-Other: b", "ümlaut", " led"])
async def test_a_secret_that_cannot_stand_in_a_header_reaches_nobody(tmp_path: Path, vault: Vault, value: str) -> None:
    await vault.put("acme", "extra", Secret(value))
    async with odd(nothing) as (url, server):
        text = f'{SERVER.format(url=url)}headers = {{X-Extra = "vault:extra"}}\n'
        async with at(tmp_path, text, vault) as of:
            error = await refused(of("acme"))
            assert error.code == "tool_secret_unusable"
            assert "vault:extra" in error.message
            assert value not in error.message
            assert server.asked == []


async def test_the_next_call_has_the_secret_that_was_set_anew_and_none_that_was_removed(
    tmp_path: Path, vault: Vault
) -> None:
    good = ACME

    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        del message
        return None if request.headers["authorization"] == f"Bearer {good}" else Response(status_code=401)

    async with odd(rule) as (url, server), at(tmp_path, TOKEN.format(url=url), vault) as of:
        host = of("acme")
        await host.call(call())
        assert server.asked.count("initialize") == 1
        good = "acme-planted-2222"
        await vault.put("acme", "token", Secret(good))
        assert (await host.call(call())).output == "ok"
        assert server.asked.count("initialize") == 2
        # What was wrapped under another master key is the same secret.
        before = await host.host()
        await vault.rotate()
        assert await host.host() is before
        await vault.remove("acme", "token")
        asked = len(server.asked)
        assert (await refused(host)).code == "tool_secret_missing"
        assert len(server.asked) == asked


async def test_a_secret_that_is_removed_between_the_connection_and_the_call_is_not_sent(
    tmp_path: Path, vault: Vault
) -> None:
    async with odd(nothing) as (url, server), at(tmp_path, TOKEN.format(url=url), vault) as of:
        host = await of("acme").host()
        await host.call(call())
        await vault.remove("acme", "token")
        calls = server.calls
        with pytest.raises(ToolError) as error:
            await host.call(call())
        assert (error.value.code, error.value.sent) == ("tool_secret_missing", False)
        assert server.calls == calls


async def test_no_more_connections_of_tenants_are_kept_than_their_limit(tmp_path: Path, vault: Vault) -> None:
    assert MCP_TENANT_SESSIONS_MAX == 256
    await vault.put("third", "token", Secret("third-planted-1"))
    async with odd(nothing) as (url, _):
        whole = configured(tmp_path, TOKEN.format(url=url), {"K": "x"}, vault)
        found = McpHosts(
            list(whole._sealed.values()),  # pyright: ignore[reportPrivateUsage]
            whole._egress,  # pyright: ignore[reportPrivateUsage]
            vault=vault,
            most_of_tenants=2,
        )

        async def host(tenant: str) -> Any:
            made = found.of("a", tenant)
            assert isinstance(made, VaultHost)
            return await made.host()

        first, second = await host("acme"), await host("shop")
        for each in (first, second):
            await each.call(call())
        assert await host("acme") is first
        third = await host("third")
        assert await host("acme") is first
        await third.call(call())
        assert first.connected
        assert not second.connected
        first.running = third.running = 1
        with pytest.raises(ToolError) as error:
            await host("shop")
        assert (error.value.code, error.value.sent, error.value.retryable) == ("tool_busy", False, True)
        first.running = third.running = 0
        await found.close()
        await whole.close()


def test_what_is_remembered_of_a_connection_has_a_bound() -> None:
    told = Told()
    for number in range(SECRETS_TOLD_MAX + 5):
        told.add("token", Secret(f"value-{number}", version=str(number)))
    assert len(told) == SECRETS_TOLD_MAX
    assert next(iter(told.items()))[1].reveal() == "value-5"


async def test_what_a_server_says_is_cleared_of_the_secret_by_its_name(
    tmp_path: Path, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    way = "refused"

    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        shown = request.headers["authorization"]
        if message["method"] == "tools/list":
            schema = {"type": "object", "description": shown}
            tools = [{"name": "act", "description": shown, "inputSchema": schema}]
            return said(message, {"tools": [*tools, {"name": shown.split()[1], "inputSchema": {"type": "object"}}]})
        if message["method"] != "tools/call":
            return None
        if way == "refused":
            return JSONResponse({"error": shown}, status_code=403)
        if way == "error":
            return said(message, error={"code": -32000, "message": f"not with {shown}"})
        image = {"type": "image", "mimeType": "image/png", "data": shown.split()[1]}
        return said(message, {"content": [{"type": "text", "text": shown}, image], "isError": True})

    async with odd(rule) as (url, _), at(tmp_path, TOKEN.format(url=url), vault) as of:
        host = of("acme")
        with pytest.raises(ToolError) as error:
            await host.call(call())
        assert error.value.code == "tool_auth_refused"
        assert ACME not in error.value.message
        way = "error"
        assert (await host.call(call())).output == "not with Bearer [secret token] (code -32000)"
        way = "result"
        answer = await host.call(call())
        assert ACME not in msgspec.json.encode(answer).decode()
        assert "Bearer [secret token]" in str(answer.output)
        [tool] = await host.tools()
        assert (tool.description, tool.name) == ("Bearer [secret token]", "act")
        assert tool.parameters == {"type": "object", "description": "Bearer [secret token]"}
        inner = await host.host()
        assert ACME not in f"{host!r} {inner!r} {vars(inner)!r} {vars(host)!r}"
    assert ACME not in caplog.text


async def test_a_connection_that_has_rested_leaves_no_value_behind(tmp_path: Path, vault: Vault) -> None:
    async with odd(nothing) as (url, _):
        async with at(tmp_path, TOKEN.format(url=url), vault) as of:
            host = await of("acme").host()
            await host.call(call())
            credentials = host._server.credentials  # pyright: ignore[reportPrivateUsage]
            assert credentials is not None
            assert len(credentials.told) == 1
        assert len(credentials.told) == 0


async def test_a_program_is_started_for_each_tenant_with_its_own_variables(
    tmp_path: Path, vault: Vault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    caplog.set_level(logging.DEBUG)
    text = f"""[vault]
key_env = "K"
[tools]
allow_commands = ["{sys.executable}"]
[[mcp_servers]]
label = "a"
command = "{sys.executable}"
args = ["-m", "tests.tools.mcp_servers"]
env_vault = {{SHOP_TOKEN = "vault:token"}}
"""
    async with at(tmp_path, text, vault) as of:
        pids = set[str]()
        for tenant in ("acme", "shop"):
            assert (await of(tenant).call(call("environment", name="SHOP_TOKEN"))).output == "[secret token]"
            pids.add(str((await of(tenant).call(call("process"))).output))
        assert len(pids) == 2
        await vault.put("acme", "token", Secret("a\0b"))
        error = await refused(of("acme"))
        assert error.code == "tool_secret_unusable"
    assert "started with [secret token]" in caplog.text
    assert ACME not in caplog.text


OAUTH = '{server}oauth = {{client_id = "us", issuer = "{issuer}", {proof}}}\n'


async def test_a_clients_secret_is_opened_for_the_token_and_sent_to_its_issuer_alone(
    tmp_path: Path, vault: Vault
) -> None:
    told: list[str] = []
    async with with_tokens(tokens_alone, told) as base:
        server = SERVER.format(url=f"{base}/mcp")
        text = OAUTH.format(server=server, issuer=base, proof='client_secret = "vault:token"')
        async with at(tmp_path, text, vault) as of:
            for tenant in ("acme", "shop"):
                assert (await of(tenant).call(call(tenant=tenant))).output == "[redacted]"
            inner = await of("acme").host()
            assert ACME not in repr(vars(inner))
            assert (await refused(of("other"), "other")).code == "tool_secret_missing"
    assert [base64.b64decode(each.split()[1]).decode() for each in told] == [f"us:{ACME}", f"us:{SHOP}"]


async def test_a_clients_private_key_is_opened_for_each_assertion(tmp_path: Path, vault: Vault) -> None:

    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    await vault.put("acme", "key", Secret(pem))
    asked: list[str] = []

    async def metadata(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        if "protected-resource" in request.url.path:
            return JSONResponse({"resource": f"{base}/mcp", "authorization_servers": [base]})
        endpoints = {"authorization_endpoint": f"{base}/authorize", "token_endpoint": f"{base}/token"}
        return JSONResponse({"issuer": base, **endpoints, "response_types_supported": ["code"]})

    async def token(request: Request) -> Response:
        asked.append(str((await request.form())["client_assertion"]))
        return JSONResponse({"access_token": "sk-very-secret-0123456789", "token_type": "Bearer", "expires_in": 3600})

    app = Odd(tokens_alone).app()
    app.routes.extend([Route("/.well-known/{rest:path}", metadata), Route("/token", token, methods=["POST"])])
    async with serving(app) as base:
        proof = 'private_key = "vault:key", algorithm = "ES256"'
        text = OAUTH.format(server=SERVER.format(url=f"{base}/mcp"), issuer=base, proof=proof)
        async with at(tmp_path, text, vault) as of:
            assert (await of("acme").call(call())).output == "[redacted]"
    assert len(asked) == 1
    assert asked[0].count(".") == 2


async def test_a_real_server_is_called_with_the_key_and_looked_up(tmp_path: Path, vault: Vault) -> None:
    seen = Seen()
    async with shop(seen) as url:
        back = '{tool = "find_refund", key_argument = "idempotency_key", where = {found = true}}'
        text = f"{TOKEN.format(url=url)}[mcp_servers.tools.refund]\nread_back = {back}\n"
        async with at(tmp_path, text, vault) as of:
            host = of("acme")
            assert (await host.call(call("refund", cents=5))).output == "done"
            assert await host.look_up(call("refund", cents=5)) is not None
            assert host.label == "a"
            await host.close()
            assert json.loads(str((await host.call(call("secrets_back"))).output))["authorization"] == (
                "Bearer [secret token]"
            )
    assert {each["authorization"] for each in seen.headers} == {f"Bearer {ACME}"}


@pytest.mark.parametrize(
    ("value", "said", "shown"),
    [
        ("abcd", "abcd, and YWJjZA==", "[secret token], and [secret token]"),
        ("abc", "abc", "abc"),
        ('a"b\nc', 'a"b\nc as "a\\"b\\nc"', '[secret token] as "[secret token]"'),
        ("long-long", "Bearer long-long", "Bearer [secret token]"),
    ],
)
def test_a_value_is_found_as_it_is_in_base64_and_in_json(value: str, said: str, shown: str) -> None:
    assert redactor(["x" * 7], [("token", Secret(value))])(said) == shown


async def test_calls_of_tenants_side_by_side_keep_to_their_own(tmp_path: Path, vault: Vault) -> None:
    async def answers(message: dict[str, Any], request: Request) -> Response | None:
        if message["method"] != "tools/call":
            return None
        owner = {f"Bearer {ACME}": "acme", f"Bearer {SHOP}": "shop"}[request.headers["authorization"]]
        return said(message, {"content": [{"type": "text", "text": owner}]})

    async with odd(answers) as (url, _), at(tmp_path, TOKEN.format(url=url), vault) as of:
        tenants = ["acme", "shop"] * 8
        calls = [
            of(tenant).call(msgspec.structs.replace(call(tenant=tenant), key=f"ses_{number}/1/1"))
            for number, tenant in enumerate(tenants)
        ]
        assert [each.output for each in await asyncio.gather(*calls)] == tenants
