"""Servers that misbehave: what they get out of us, and what they can do to us."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from tests.tools.mcp_servers import odd, said
from tests.tools.test_mcp import SECRET, call, host_of

from stateline.core import limits
from stateline.core.items import InputText
from stateline.core.limits import JSON_DEPTH_MAX
from stateline.core.tools import ToolError
from stateline.tools.mcp_server import McpServer

HEADERS = {"Authorization": f"Bearer {SECRET}"}
PLANTED = "planted-by-the-server-0123"


def server_at(url: str, **settings: Any) -> McpServer:
    return McpServer(label="odd", url=url, headers=lambda: HEADERS, **settings)


async def nothing(message: dict[str, Any], request: Request) -> Response | None:
    return None


@pytest.mark.parametrize("status", [401, 403, 407])
@pytest.mark.parametrize("when", ["initialize", "tools/list", "tools/call"])
async def test_a_refusal_repeats_neither_our_secret_nor_the_servers_words(
    status: int, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        if message["method"] != when:
            return None
        text = f"{PLANTED} {request.headers['authorization']}"
        body = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32001, "message": text}}
        return JSONResponse(body, status, {"www-authenticate": f'Bearer realm="{PLANTED}"', "x-echo": text})

    async with odd(rule) as (url, server), host_of(server_at(url)) as host:
        with pytest.raises(ToolError) as error:
            await (host.tools() if when == "tools/list" else host.call(call("act")))
    assert error.value.code == "tool_auth_refused"
    assert str(status) in error.value.message
    assert error.value.sent == (when == "tools/call")
    assert server.calls == (when == "tools/call")
    told = caplog.text + "".join(str(part) for part in (error.value, error.value.__cause__, error.value.args))
    assert SECRET not in told
    assert PLANTED not in told


async def test_an_error_of_json_rpc_is_an_answer_without_our_secret() -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        if message["method"] == "tools/call":
            text = f"not for {request.headers['authorization']}"
            return said(message, error={"code": -32000, "message": text})
        return None

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        found = await host.call(call("act"))
    assert found.failed
    assert found.output == "not for [redacted] (code -32000)"


@pytest.mark.parametrize("kind", ["json", "sse"])
async def test_an_answer_larger_than_its_limit_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 100_000
    for module in ("mcp_http", "mcp_session", "mcp_errors"):
        monkeypatch.setattr(f"stateline.tools.{module}.MCP_ANSWER_BYTES_MAX", bound)

    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        if message["method"] != "tools/call":
            return None
        result = {"content": [{"type": "text", "text": "x" * message["params"]["arguments"]["size"]}]}
        if kind == "json":
            return said(message, result)
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})
        return Response(f"event: message\ndata: {body}\n\n", media_type="text/event-stream")

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        assert not (await host.call(call("act", size=bound - 1000))).failed
        with pytest.raises(ToolError) as error:
            await host.call(call("act", size=bound + 1))
        assert error.value.sent
        assert error.value.code in ("tool_answer_too_large", "tool_unreachable")
        # The connection is good for others.
        assert not (await host.call(call("act", size=1))).failed


async def test_a_compressed_answer_is_not_unpacked() -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        if message["method"] != "tools/call":
            return None
        assert request.headers["accept-encoding"] == "identity"
        body = gzip.compress(b" " * 50_000_000)
        return Response(body, headers={"content-encoding": "gzip", "content-type": "application/json"})

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("act"))
    assert error.value.sent


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_nowhere_else(status: int) -> None:
    asked: list[str] = []

    async def other(message: dict[str, Any], request: Request) -> Response | None:
        asked.append(message["method"])
        return None

    async with odd(other) as (elsewhere, _):

        async def rule(message: dict[str, Any], request: Request) -> Response | None:
            if message["method"] == "tools/call":
                return RedirectResponse(elsewhere, status)
            return None

        async with odd(rule) as (url, _), host_of(server_at(url)) as host:
            with pytest.raises(ToolError) as error:
                await host.call(call("act"))
    assert error.value.sent
    assert SECRET not in str(error.value)
    assert not asked


async def test_a_server_that_was_started_anew_is_connected_to_anew() -> None:
    async with odd(nothing) as (url, server), host_of(server_at(url, effects={"act": "idempotent"})) as host:
        assert (await host.call(call("act"))).output == "ok"
        server.session = "two"
        assert (await host.call(call("act"))).output == "ok"
        assert server.asked.count("initialize") == 2


async def test_a_list_is_read_on_a_new_connection_where_the_old_one_has_ended() -> None:
    async with odd(nothing) as (url, server), host_of(server_at(url)) as host:
        await host.call(call("act"))
        server.session = "two"
        assert [tool.name for tool in await host.tools()] == ["act"]
        assert server.asked.count("initialize") == 2


async def test_an_unsafe_call_is_not_sent_twice_though_the_server_says_it_forgot_us() -> None:
    async with odd(nothing) as (url, server), host_of(server_at(url)) as host:
        await host.call(call("act"))
        server.session = "two"
        with pytest.raises(ToolError) as error:
            await host.call(call("act"))
        assert error.value.sent
        assert server.calls == 2
        assert (await host.call(call("act"))).output == "ok"


async def test_before_an_unsafe_call_a_rested_connection_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateline.tools.mcp.MCP_CHECK_AFTER_S", 0.0)
    async with odd(nothing) as (url, server), host_of(server_at(url)) as host:
        await host.call(call("act"))
        server.session = "two"
        assert (await host.call(call("act"))).output == "ok"
        assert server.calls == 2
        assert server.asked.count("ping") >= 1


async def test_a_connection_that_breaks_in_the_answer_leaves_the_outcome_open() -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        if message["method"] != "tools/call":
            return None

        async def half() -> AsyncGenerator[bytes]:
            yield b'{"jsonrpc": "2.0", '
            raise ConnectionAbortedError

        return StreamingResponse(half(), media_type="application/json", headers={"content-length": "1000"})

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("act"))
    assert (error.value.code, error.value.sent) == ("tool_unreachable", True)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"jsonrpc": "2.0"}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/event-stream"])
async def test_what_is_no_mcp_is_no_answer(body: bytes, kind: str) -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        return Response(body, media_type=kind) if message["method"] == "tools/call" else None

    async with odd(rule) as (url, _), host_of(server_at(url, timeout_s=20.0)) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("act"))
    assert error.value.sent


@pytest.mark.parametrize("status", [202, 400, 404, 500, 503])
async def test_a_status_without_a_message_is_no_answer(status: int) -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        return PlainTextResponse(PLANTED, status) if message["method"] == "tools/call" else None

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("act"))
    assert error.value.sent
    assert PLANTED not in str(error.value)


async def test_a_result_that_is_none_is_no_answer() -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        return said(message, {"content": "text"}) if message["method"] == "tools/call" else None

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("act"))
    assert (error.value.code, error.value.sent) == ("tool_protocol_error", True)


async def test_a_server_that_says_nothing_at_first_was_sent_nothing() -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        await asyncio.sleep(60)
        return None

    async with odd(rule) as (url, server), host_of(server_at(url, connect_timeout_s=0.3)) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("act"))
        assert (error.value.code, error.value.sent) == ("tool_timeout", False)
        assert not server.calls


def many(count: int) -> list[dict[str, Any]]:
    return [{"name": f"t{number}", "inputSchema": {"type": "object"}} for number in range(count)]


async def test_more_tools_than_the_limit_are_refused_unless_those_wanted_are_named() -> None:
    async with odd(nothing, many(limits.MCP_TOOLS_MAX)) as (url, _), host_of(server_at(url)) as host:
        assert len(await host.tools()) == limits.MCP_TOOLS_MAX
    async with odd(nothing, many(limits.MCP_TOOLS_MAX + 1)) as (url, _):
        async with host_of(server_at(url)) as host:
            with pytest.raises(ToolError, match="allowed_tools") as error:
                await host.tools()
            assert not error.value.sent
        async with host_of(server_at(url, allowed_tools=frozenset({"t7"}))) as host:
            assert [tool.name for tool in await host.tools()] == ["t7"]


@pytest.mark.parametrize(("pages", "fits"), [(limits.MCP_PAGES_MAX, True), (limits.MCP_PAGES_MAX + 1, False)])
async def test_a_list_without_end_is_read_up_to_its_limit(pages: int, fits: bool) -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        if message["method"] != "tools/list":
            return None
        asked: dict[str, Any] = message.get("params") or {}
        page = int(asked.get("cursor") or 0) + 1
        more = {"nextCursor": str(page)} if page < pages else {}
        return said(message, {"tools": [{"name": f"t{page}", "inputSchema": {"type": "object"}}], **more})

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        if fits:
            assert len(await host.tools()) == pages
        else:
            with pytest.raises(ToolError, match="pages"):
                await host.tools()


async def test_a_tool_that_no_model_could_be_shown_is_left_out() -> None:
    deep: dict[str, Any] = {}
    for _ in range(JSON_DEPTH_MAX + 1):
        deep = {"items": deep}
    schema = {"type": "object"}
    names = ["x" * limits.MCP_NAME_CHARS_MAX, "x" * (limits.MCP_NAME_CHARS_MAX + 1), "", "a\nb"]
    wide = {**schema, "description": "x" * limits.MCP_SCHEMA_BYTES_MAX}
    tools = [{"name": name, "inputSchema": schema} for name in names]
    tools += [{"name": "deep", "inputSchema": {**schema, "properties": deep}}, {"name": "wide", "inputSchema": wide}]
    tools += [{"name": "long", "inputSchema": schema, "description": "d" * (limits.MCP_DESCRIPTION_CHARS_MAX + 1)}]
    async with odd(nothing, tools) as (url, _), host_of(server_at(url)) as host:
        found = await host.tools()
    assert [tool.name for tool in found] == [names[0], "long"]
    assert len(found[1].description) == limits.MCP_DESCRIPTION_CHARS_MAX


async def test_more_parts_than_the_limit_are_counted() -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        parts = [{"type": "text", "text": str(number)} for number in range(limits.MCP_PARTS_MAX + 3)]
        return said(message, {"content": parts}) if message["method"] == "tools/call" else None

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        output = (await host.call(call("act"))).output
    assert len(output) == limits.MCP_PARTS_MAX + 1
    assert output[-1] == InputText(text="[3 further parts are left out]")


async def test_an_answer_that_does_not_fit_its_schema_is_still_what_the_tool_did() -> None:
    # A pattern that takes for ever on this answer, if anybody tried it.
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "required": ["b"]}
    tools = [{"name": "act", "inputSchema": {"type": "object"}, "outputSchema": schema}]

    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        result: dict[str, Any] = {"content": [], "structuredContent": {"a": "a" * 40 + "!"}}
        return said(message, result) if message["method"] == "tools/call" else None

    async with odd(rule, tools) as (url, _), host_of(server_at(url)) as host:
        await host.tools()
        found = await host.call(call("act"))
    assert json.loads(str(found.output)) == {"a": "a" * 40 + "!"}


async def test_a_list_is_kept_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd(nothing) as (url, server), host_of(server_at(url)) as host:
        await host.tools()
        await host.tools()
        assert server.asked.count("tools/list") == 1
        monkeypatch.setattr("stateline.tools.mcp.MCP_TOOLS_KEPT_S", -1.0)
        await host.tools()
        assert server.asked.count("tools/list") == 2


async def test_a_media_type_does_not_break_out_of_its_data_url() -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        part = {"type": "image", "data": "AAAA", "mimeType": "image/png,hello;base64"}
        return said(message, {"content": [part]}) if message["method"] == "tools/call" else None

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        output: Any = (await host.call(call("act"))).output
    assert output[0].image_url == "data:application/octet-stream;base64,AAAA"


async def test_what_a_server_asks_of_us_is_declined() -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        if message["method"] == "initialize":
            assert not message["params"]["capabilities"]
        return None

    async with odd(rule) as (url, _), host_of(server_at(url)) as host:
        assert (await host.call(call("act"))).output == "ok"
