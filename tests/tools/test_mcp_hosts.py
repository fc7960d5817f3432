"""The operator's MCP servers, and those that requests name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.tools.mcp_servers import Odd, Rule, Seen, odd, said, serving, shop
from tests.tools.test_mcp import SECRET, call
from tests.tools.test_mcp_odd import nothing

from stateline.config import ConfigError, load
from stateline.core.errors import BadRequest
from stateline.core.limits import MCP_HEADER_CHARS_MAX, MCP_HEADERS_MAX, MCP_NAME_CHARS_MAX, TOOLS_MAX
from stateline.core.tools import ToolError
from stateline.tool_hosts import mcp_hosts_of
from stateline.tools.credentials import OpensSecrets
from stateline.tools.egress import Egress
from stateline.tools.mcp_hosts import McpHosts, McpTool, server_of


def asked(url: str, **given: Any) -> McpTool:
    """The tool of a request, as it is decoded; further fields are others' to look at."""
    body = {"type": "mcp", "server_label": "shop", "server_url": url, "require_approval": "never", **given}
    return msgspec.convert(body, McpTool)


@contextlib.asynccontextmanager
async def hosts(allow: str = "127.0.0.1", **options: Any) -> AsyncGenerator[McpHosts]:
    found = McpHosts([], Egress([allow]), **options)
    try:
        yield found
    finally:
        await found.close()


async def test_a_request_names_a_server_with_a_token_and_the_tools_to_use() -> None:
    seen = Seen()
    async with shop(seen) as url, hosts() as found:
        tool = asked(url, authorization=SECRET, headers={"X-Team": "billing"}, allowed_tools=["refund"])
        host = found.named("t", tool)
        assert [each.name for each in await host.tools()] == ["refund"]
        assert (await host.call(call("refund", cents=1))).output == "done"
        assert seen.headers[0]["authorization"] == f"Bearer {SECRET}"
        assert seen.headers[0]["x-team"] == "billing"


async def test_it_may_ask_for_tools_that_only_read() -> None:
    async with shop(Seen()) as url, hosts() as found:
        tool = asked(url, allowed_tools={"read_only": True, "tool_names": ["refund", "find_refund"]})
        assert [each.name for each in await found.named("t", tool).tools()] == ["find_refund"]


async def test_a_server_that_a_request_names_is_never_trusted() -> None:
    async with shop(Seen()) as url, hosts() as found:
        assert {each.effect for each in await found.named("t", asked(url)).tools()} == {"unsafe"}


@pytest.mark.parametrize("extra", [{"command": "/bin/sh"}, {"args": ["-c"]}, {"env": {"A": "b"}}, {"trusted": True}])
def test_no_request_starts_a_program_or_makes_itself_trusted(extra: dict[str, Any]) -> None:
    server = server_of(asked("https://shop.example/mcp", **extra))
    assert server.command == ()
    assert not server.trusted
    assert server.auth is None
    assert not server.effects


def test_a_label_without_a_url_is_no_server() -> None:
    with pytest.raises(BadRequest, match="server_url"):
        server_of(McpTool(server_label="shop"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://169.254.169.254/latest", "file:///etc/passwd"])
async def test_a_server_that_a_request_names_is_held_to_the_same_rule(url: str) -> None:
    async with hosts("*") as found:
        with pytest.raises(ToolError) as error:
            found.named("t", asked(url))
    assert (error.value.code, error.value.sent) == ("tool_host_denied", False)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "other.example"},
        {"Mcp-Session-Id": "stolen"},
        {"Idempotency-Key": "x"},
        {"X-A": "a\r\nX-B: b"},
        {"X A": "a"},
        {"X-A": "x" * MCP_HEADER_CHARS_MAX},
        {f"X-{number}": "v" for number in range(MCP_HEADERS_MAX + 1)},
    ],
)
def test_headers_that_would_change_the_request_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="headers"):
        server_of(asked("https://shop.example/mcp", headers=headers))


def test_a_token_is_refused_without_being_repeated() -> None:
    for given in ({"authorization": f"{SECRET}\n"}, {"headers": {"Authorization": "a"}, "authorization": SECRET}):
        with pytest.raises(BadRequest) as error:
            server_of(asked("https://shop.example/mcp", **given))
        assert SECRET not in error.value.message


def test_what_a_request_says_is_not_shown_by_chance() -> None:
    tool = asked("https://shop.example/mcp", authorization=SECRET, headers={"X-A": SECRET})
    assert SECRET not in f"{tool!r} {server_of(tool)!r}"


@pytest.mark.parametrize("names", [["x" * (MCP_NAME_CHARS_MAX + 1)], [str(number) for number in range(TOOLS_MAX + 1)]])
def test_allowed_tools_have_their_limits(names: list[str]) -> None:
    with pytest.raises(BadRequest, match="allowed_tools"):
        server_of(asked("https://shop.example/mcp", allowed_tools=names))


async def test_the_same_words_get_the_same_connection_and_another_tenant_or_token_another_one() -> None:
    async with hosts() as found:
        url = "http://127.0.0.1:9/mcp"
        host = found.named("t", asked(url, authorization="a" * 10, headers={"A": "1", "B": "2"}))
        assert found.named("t", asked(url, headers={"B": "2", "A": "1"}, authorization="a" * 10)) is host
        assert found.named("u", asked(url, authorization="a" * 10, headers={"A": "1", "B": "2"})) is not host
        assert found.named("t", asked(url, authorization="b" * 10, headers={"A": "1", "B": "2"})) is not host
        assert found.named("t", asked(url, allowed_tools=["x"])) is not found.named("t", asked(url))


async def test_no_more_connections_are_kept_than_their_limit() -> None:
    seen = Seen()
    async with shop(seen) as url, hosts(most=2) as found:
        first, second = (found.named("t", asked(f"{url}?{number}")) for number in range(2))
        for host in (first, second):
            await host.call(call("put", value="x"))
            assert host.connected
        found.named("t", asked(f"{url}?0"))
        third = found.named("t", asked(f"{url}?2"))
        assert found.named("t", asked(f"{url}?0")) is first
        await third.call(call("put", value="x"))
        assert first.connected
        assert not second.connected
        first.running = third.running = 1
        with pytest.raises(ToolError) as error:
            found.named("t", asked(f"{url}?3"))
        assert (error.value.code, error.value.sent, error.value.retryable) == ("tool_busy", False, True)
        first.running = third.running = 0


async def test_who_has_not_been_asked_for_long_is_forgotten() -> None:
    async with hosts(idle_s=0.0) as found:
        host = found.named("t", asked("http://127.0.0.1:9/mcp"))
        found.named("t", asked("http://127.0.0.1:9/other"))
        assert found.named("t", asked("http://127.0.0.1:9/mcp")) is not host


# -- the operator's ---------------------------------------------------------------------------------


def configured(folder: Path, text: str, environ: dict[str, str], vault: OpensSecrets | None = None) -> McpHosts:
    file = folder / "stateline.toml"
    file.write_text(text)
    return mcp_hosts_of(load(file, {}), vault, environ)


async def test_configured_servers_are_hosts_with_their_secrets_and_effects(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    seen = Seen()
    async with shop(seen) as url:
        text = f"""
[tools]
allow_hosts = ["127.0.0.1"]
[[mcp_servers]]
label = "shop"
url = "{url}"
token_file = "token"
data_zone = "eu"
headers_env = {{X-Shop = "SHOP_KEY"}}
[mcp_servers.tools.find_refund]
effect = "read"
[mcp_servers.tools.refund]
read_back = {{tool = "find_refund", key_argument = "idempotency_key", where = {{found = true}}}}
"""
        found = configured(tmp_path, text, {"SHOP_KEY": "shop-key-0123"})
        host = found.own["shop"]
        assert (host.label, host.data_zone) == ("shop", "eu")
        assert {each.name: each.effect for each in await host.tools()}["find_refund"] == "read"
        await host.call(call("refund", cents=5))
        assert await host.look_up(call("refund", cents=5)) is not None
        assert seen.headers[0]["authorization"] == f"Bearer {SECRET}"
        assert seen.headers[0]["x-shop"] == "shop-key-0123"
        await found.close()
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("environ", "code"), [({}, "config_secret_missing"), ({"SHOP_TOKEN": "a\nb"}, "config_invalid")]
)
def test_a_secret_that_is_missing_or_cannot_be_sent_is_seen_at_the_start(
    tmp_path: Path, environ: dict[str, str], code: str
) -> None:
    text = '[tools]\nallow_hosts = ["a.example"]\n[[mcp_servers]]\nlabel = "a"\nurl = "https://a.example/"\n'
    with pytest.raises(ConfigError) as error:
        configured(tmp_path, f'{text}token_env = "SHOP_TOKEN"\n', environ)
    assert error.value.code == code


async def test_a_secret_that_went_missing_later_is_told_by_its_name(tmp_path: Path) -> None:
    environ = {"SHOP_TOKEN": SECRET}
    async with odd(nothing) as (url, server):
        text = f'[tools]\nallow_hosts = ["127.0.0.1"]\n[[mcp_servers]]\nlabel = "a"\nurl = "{url}"\n'
        found = configured(tmp_path, f'{text}token_env = "SHOP_TOKEN"\n', environ)
        environ.clear()
        with pytest.raises(ToolError, match="SHOP_TOKEN") as error:
            await found.own["a"].call(call("act"))
        assert (error.value.code, error.value.sent) == ("tool_secret_missing", False)
        assert not server.asked
        await found.close()


async def test_a_token_that_was_changed_in_its_file_is_read_after_a_refusal(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old-token")
    good = "old-token"

    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        return None if request.headers["authorization"] == f"Bearer {good}" else Response(status_code=401)

    async with odd(rule) as (url, _):
        text = f'[tools]\nallow_hosts = ["127.0.0.1"]\n[[mcp_servers]]\nlabel = "a"\nurl = "{url}"\n'
        found = configured(tmp_path, f'{text}token_file = "token"\n', {})
        host = found.own["a"]
        await host.call(call("act"))
        good = "new-token"
        token.write_text("new-token")
        with pytest.raises(ToolError) as error:
            await host.call(call("act"))
        assert (error.value.code, error.value.sent) == ("tool_auth_refused", True)
        assert (await host.call(call("act"))).output == "ok"
        await found.close()


@contextlib.asynccontextmanager
async def with_tokens(rule: Rule, told: list[str], *, legacy: str | None = None) -> AsyncGenerator[str]:
    """A server with its token server beside it, which gives out SECRET and notes what it was told.

    ``legacy``: it is of MCP's 2025-03-26 edition, and names an issuer under this path of its origin.
    """

    async def metadata(request: Request) -> Response:
        base = str(request.base_url).rstrip("/")
        if legacy is not None:
            if request.url.path != "/.well-known/oauth-authorization-server":
                return Response(status_code=404)
        elif "protected-resource" in request.url.path:
            return JSONResponse({"resource": f"{base}/mcp", "authorization_servers": [base]})
        endpoints = {"authorization_endpoint": f"{base}/authorize", "token_endpoint": f"{base}/token"}
        issuer = base + (legacy or "")
        return JSONResponse({"issuer": issuer, **endpoints, "response_types_supported": ["code"]})

    async def token(request: Request) -> Response:
        told.append(request.headers["authorization"])
        return JSONResponse({"access_token": SECRET, "token_type": "Bearer", "expires_in": 3600})

    app = Odd(rule).app()
    app.routes.extend([Route("/.well-known/{rest:path}", metadata), Route("/token", token, methods=["POST"])])
    async with serving(app) as base:
        yield base


async def tokens_alone(message: dict[str, Any], request: Request) -> Response | None:
    shown = request.headers.get("authorization")
    if shown != f"Bearer {SECRET}":
        return Response(status_code=401)
    if message["method"] == "tools/call":
        return said(message, {"content": [{"type": "text", "text": shown}]})
    return None


OAUTH = """[tools]
allow_hosts = ["127.0.0.1"]
[[mcp_servers]]
label = "a"
url = "{url}/mcp"
oauth = {{client_id = "us", client_secret_env = "SHOP_SECRET", issuer = "{issuer}"}}
"""
CLIENT_SECRET = "the-secret-of-the-client"


async def test_a_token_that_is_got_by_client_credentials_is_sent_and_told_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    async with with_tokens(tokens_alone, told) as base:
        found = configured(tmp_path, OAUTH.format(url=base, issuer=base), {"SHOP_SECRET": CLIENT_SECRET})
        assert (await found.own["a"].call(call("act"))).output == "[redacted]"
        await found.close()
    assert len(told) == 1
    assert SECRET not in caplog.text
    assert CLIENT_SECRET not in caplog.text


async def test_a_server_that_names_another_issuer_gets_no_secret(tmp_path: Path) -> None:
    told: list[str] = []
    async with with_tokens(tokens_alone, told) as base:
        text = OAUTH.format(url=base, issuer="https://login.example")
        found = configured(tmp_path, text, {"SHOP_SECRET": CLIENT_SECRET})
        with pytest.raises(ToolError) as error:
            await found.own["a"].call(call("act"))
        await found.close()
    assert (error.value.code, error.value.sent) == ("tool_auth_refused", False)
    assert not told


async def test_a_legacy_server_may_name_the_issuer_that_the_operator_named(tmp_path: Path) -> None:
    told: list[str] = []
    async with with_tokens(tokens_alone, told, legacy="/oauth") as base:
        text = OAUTH.format(url=base, issuer=f"{base}/oauth")
        found = configured(tmp_path, text, {"SHOP_SECRET": CLIENT_SECRET})
        assert (await found.own["a"].call(call("act"))).output == "[redacted]"
        await found.close()
    assert len(told) == 1


@pytest.mark.parametrize("issuer", ["{base}", "{base}/other", "https://login.example/oauth"])
async def test_a_legacy_server_that_names_an_issuer_whom_nobody_named_gets_no_secret(
    tmp_path: Path, issuer: str
) -> None:
    told: list[str] = []
    async with with_tokens(tokens_alone, told, legacy="/oauth") as base:
        text = OAUTH.format(url=base, issuer=issuer.format(base=base))
        found = configured(tmp_path, text, {"SHOP_SECRET": CLIENT_SECRET})
        with pytest.raises(ToolError) as error:
            await found.own["a"].call(call("act"))
        await found.close()
    assert (error.value.code, error.value.sent) == ("tool_auth_refused", False)
    assert not told


async def test_a_token_server_is_held_to_the_same_rule(tmp_path: Path) -> None:
    told: list[str] = []
    async with with_tokens(tokens_alone, told) as base:

        async def elsewhere(message: dict[str, Any], request: Request) -> Response | None:
            challenge = f'Bearer resource_metadata="{base}/.well-known/oauth-protected-resource"'
            return Response(status_code=401, headers={"www-authenticate": challenge})

        async with odd(elsewhere) as (url, _):
            text = OAUTH.format(url=url.removesuffix("/mcp"), issuer=base)
            port = url.split(":")[2].split("/")[0]
            text = text.replace('"127.0.0.1"', f'"127.0.0.1:{port}"')
            found = configured(tmp_path, text, {"SHOP_SECRET": CLIENT_SECRET})
            with pytest.raises(ToolError) as error:
                await found.own["a"].call(call("act"))
            await found.close()
    assert error.value.code == "tool_host_denied"
    assert not error.value.sent
    assert not told
