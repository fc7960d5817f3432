"""MCP servers as hosts of tools: a real server of the official SDK answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.tools.mcp_servers import PNG, Seen, shop

from stateline.core.items import InputFile, InputImage, InputText
from stateline.core.tools import ToolCall, ToolError, ToolResult
from stateline.tools.egress import Egress
from stateline.tools.mcp import McpHost
from stateline.tools.mcp_server import McpServer, ReadBack

SECRET = "sk-very-secret-0123456789"


@contextlib.asynccontextmanager
async def host_of(server: McpServer, *, allow: str = "127.0.0.1", **options: Any) -> AsyncGenerator[McpHost]:
    host = McpHost(server, Egress([allow]), **options)
    try:
        yield host
    finally:
        await host.close()


@contextlib.asynccontextmanager
async def at_shop(**settings: Any) -> AsyncGenerator[tuple[McpHost, Seen]]:
    seen = Seen()
    async with shop(seen) as url, host_of(McpServer(label="shop", url=url, **settings)) as host:
        yield host, seen


def call(tool: str, key: str = "ses_1/1/1", timeout_s: float = 20.0, **arguments: Any) -> ToolCall:
    return ToolCall(
        tool=tool, arguments=json.dumps(arguments), key=key, tenant="t", session="ses_1", timeout_s=timeout_s
    )


async def test_a_tool_is_called_with_its_key_in_the_meta_and_the_header() -> None:
    async with at_shop() as (host, seen):
        assert await host.call(call("refund", cents=700)) == ToolResult(output="done")
        assert seen.refunds == {"ses_1/1/1": 700}
        assert seen.metas == seen.keys == ["ses_1/1/1"]


async def test_calls_beside_one_another_keep_their_own_keys() -> None:
    async with at_shop() as (host, seen):
        await asyncio.gather(*(host.call(call("refund", f"ses_1/1/{step}", cents=step)) for step in range(10)))
        assert seen.refunds == {f"ses_1/1/{step}": step for step in range(10)}
        assert seen.metas == seen.keys


async def test_a_tool_is_unsafe_until_the_operator_says_otherwise() -> None:
    async with at_shop(effects={"put": "read", "fails": "idempotent"}) as (host, _):
        effects = {tool.name: tool.effect for tool in await host.tools()}
    assert effects["put"] == "read"
    assert effects["fails"] == "idempotent"
    assert effects["find_refund"] == effects["refund"] == effects["confused"] == "unsafe"


async def test_a_trusted_servers_hints_lower_the_class_and_the_operators_word_wins() -> None:
    async with at_shop(trusted=True, effects={"find_refund": "unsafe"}) as (host, _):
        effects = {tool.name: tool.effect for tool in await host.tools()}
    assert effects["put"] == "idempotent"
    assert effects["find_refund"] == effects["refund"] == effects["confused"] == "unsafe"


async def test_what_a_tool_refuses_is_an_answer() -> None:
    async with at_shop() as (host, _):
        found = await host.call(call("fails"))
        missing = await host.call(call("no_such_tool"))
    assert found.failed
    assert "no such order" in str(found.output)
    assert missing.failed


async def test_each_kind_of_content_has_its_counterpart_or_is_described() -> None:
    async with at_shop() as (host, _):
        found = await host.call(call("everything"))
    assert found.output == (
        InputText(text="hello"),
        InputImage(image_url=f"data:image/png;base64,{PNG}"),
        InputText(text="[audio, audio/wav, 6 bytes, not shown]"),
        InputText(text="[resource doc at https://docs.example/x: a page]"),
        InputText(text="[resource file:///a.txt]\ninside"),
        InputText(text="[resource file:///b.bin, application/zip, 6 bytes, not shown]"),
        InputFile(filename="c.pdf", file_data=f"data:application/pdf;base64,{PNG}"),
        InputImage(image_url=f"data:image/png;base64,{PNG}"),
    )


async def test_structured_content_is_given_once() -> None:
    async with at_shop() as (host, _):
        found = await host.call(call("find_refund", idempotency_key="k"))
    assert json.loads(str(found.output)) == {"idempotency_key": "k", "found": False}


async def test_a_call_that_is_cancelled_is_cancelled_at_the_server() -> None:
    async with at_shop() as (host, seen):
        task = asyncio.create_task(host.call(call("waits")))
        await seen.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(seen.cancelled.wait(), 10)
        assert (await host.call(call("put", value="still"))).output == "still"


async def test_a_call_that_takes_too_long_is_given_up_and_may_have_been_run() -> None:
    async with at_shop() as (host, seen):
        await host.tools()
        with pytest.raises(ToolError) as error:
            await host.call(call("waits", timeout_s=2.0))
        assert (error.value.code, error.value.sent) == ("tool_timeout", True)
        await asyncio.wait_for(seen.cancelled.wait(), 10)


async def test_the_servers_own_time_bounds_a_call_too() -> None:
    async with at_shop(timeout_s=1.0) as (host, _):
        with pytest.raises(ToolError, match="within 1 s"):
            await host.call(call("waits"))


async def test_only_allowed_tools_are_offered_and_called() -> None:
    async with at_shop(allowed_tools=frozenset({"put"})) as (host, seen):
        assert [tool.name for tool in await host.tools()] == ["put"]
        with pytest.raises(ToolError) as error:
            await host.call(call("refund", cents=1))
        assert (error.value.code, error.value.sent) == ("tool_not_allowed", False)
        assert not seen.refunds


async def test_tools_that_only_read_may_be_asked_for() -> None:
    async with at_shop(read_only=True) as (host, seen):
        assert [tool.name for tool in await host.tools()] == ["find_refund", "confused"]
        with pytest.raises(ToolError) as error:
            await host.call(call("refund", cents=1))
        assert (error.value.code, error.value.sent) == ("tool_not_allowed", False)
        assert not seen.refunds


@pytest.mark.parametrize("arguments", ["[]", "{", "7", '"x"'])
async def test_arguments_that_are_no_object_go_nowhere(arguments: str) -> None:
    async with at_shop() as (host, seen):
        asked = ToolCall(tool="refund", arguments=arguments, key="k", tenant="t", session="s")
        with pytest.raises(ToolError) as error:
            await host.call(asked)
        assert (error.value.code, error.value.sent) == ("tool_arguments_invalid", False)
        assert not seen.metas


READ_BACK = ReadBack(
    tool="find_refund", key_argument="idempotency_key", key_field="idempotency_key", where={"found": True}
)


async def test_a_read_back_proves_what_was_done_and_never_that_nothing_was() -> None:
    async with at_shop(read_backs={"refund": READ_BACK}) as (host, _):
        asked = call("refund", cents=700)
        assert await host.look_up(asked) is None
        await host.call(asked)
        found = await host.look_up(asked)
        assert found is not None
        assert json.loads(str(found.output))["cents"] == 700
        assert await host.look_up(call("refund", "ses_1/1/2", cents=700)) is None
        assert await host.look_up(call("put", value="x")) is None


async def test_a_read_back_at_a_server_that_is_gone_proves_nothing() -> None:
    server = McpServer(label="shop", url="http://127.0.0.1:9/mcp", read_backs={"refund": READ_BACK})
    async with host_of(server) as host:
        assert await host.look_up(call("refund", cents=1)) is None


async def test_a_server_that_is_not_there_was_sent_nothing() -> None:
    async with host_of(McpServer(label="gone", url="http://127.0.0.1:9/mcp")) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("refund", cents=1))
    assert (error.value.code, error.value.sent, error.value.retryable) == ("tool_unreachable", False, True)


async def test_a_server_that_may_not_be_connected_to_was_sent_nothing() -> None:
    seen = Seen()
    async with shop(seen) as url, host_of(McpServer(label="shop", url=url), allow="*") as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("refund", cents=1))
    assert (error.value.code, error.value.sent) == ("tool_host_denied", False)
    assert "allow_hosts" in error.value.message
    assert not seen.metas


async def test_a_name_is_judged_by_what_it_leads_to() -> None:
    async def rebound(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    seen = Seen()
    async with shop(seen) as url:
        port = url.split(":")[2].split("/")[0]
        server = McpServer(label="shop", url=f"http://shop.example:{port}/mcp")
        host = McpHost(server, Egress(["*", "shop.example"], rebound))
        with pytest.raises(ToolError) as error:
            await host.call(call("refund", cents=1))
        await host.close()
    assert (error.value.code, error.value.sent) == ("tool_host_denied", False)
    assert not seen.metas


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with at_shop() as (host, _):
        assert (await host.call(call("put", value="x"))).output == "x"


async def test_what_the_server_knows_us_by_is_sent_and_taken_out_of_what_it_repeats(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {SECRET}", "X-Shop": "plain-but-long"}
    async with at_shop(headers=lambda: headers) as (host, _):
        found = json.loads(str((await host.call(call("secrets_back"))).output))
    assert found["authorization"] == "[redacted]"
    assert found["x-shop"] == "[redacted]"
    assert SECRET not in caplog.text


async def test_a_connection_is_used_again_and_closed_when_it_has_rested() -> None:
    seen = Seen()
    async with shop(seen) as url, host_of(McpServer(label="shop", url=url), idle_s=0.3) as host:
        await host.call(call("refund", "a", cents=1))
        await host.call(call("refund", "b", cents=1))
        assert host.connected
        first, second = (each.get("mcp-session-id") for each in seen.headers)
        assert first == second
        while host.connected:  # noqa: ASYNC110 - nothing says it.
            await asyncio.sleep(0.05)
        await host.call(call("refund", "c", cents=1))
        assert host.connected


async def test_the_sdk_is_not_imported_until_a_server_is_asked() -> None:
    program = (
        "import sys, asyncio\n"
        "import stateline.wiring, stateline.tool_hosts\n"
        "from stateline.tools.mcp import McpHost\n"
        "from stateline.tools.mcp_server import McpServer\n"
        "from stateline.tools.egress import Egress\n"
        "async def main():\n"
        "    McpHost(McpServer(label='x', url='http://a.example'), Egress([]))\n"
        "asyncio.run(main())\n"
        "assert not {'mcp', 'mcp_types', 'httpx2', 'pydantic'} & set(sys.modules), sys.modules.keys()\n"
    )
    import sys

    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
