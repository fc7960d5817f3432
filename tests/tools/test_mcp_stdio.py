"""MCP servers that are started here."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.tools.test_mcp import SECRET, call, host_of

from stateline.core.limits import MCP_STDERR_LINE_CHARS_MAX
from stateline.core.tools import ToolError
from stateline.tools.mcp_server import McpServer

PROGRAM = (sys.executable, "-m", "tests.tools.mcp_servers")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.chdir(ROOT)


def started(*command: str, **settings: object) -> McpServer:
    return McpServer(label="shop", command=command or PROGRAM, **settings)  # type: ignore[arg-type]


async def test_a_server_that_is_started_here_is_called_with_the_key_in_the_meta(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with host_of(started(env=lambda: {"SHOP_TOKEN": SECRET})) as host:
        assert "refund" in {tool.name for tool in await host.tools()}
        assert (await host.call(call("refund", cents=7))).output == "done"
        assert (await host.call(call("environment", name="SHOP_TOKEN"))).output == "[redacted]"
    # What it writes to its standard error is in the log, without the secret that it was given.
    assert "started with [redacted]" in caplog.text
    assert SECRET not in caplog.text


async def test_it_gets_no_variable_that_was_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_TOKEN", SECRET)
    async with host_of(started()) as host:
        assert (await host.call(call("environment", name="OTHER_TOKEN"))).output == "(none)"


async def test_a_program_that_is_not_there_was_sent_nothing() -> None:
    async with host_of(started("/no/such/program")) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("refund", cents=1))
    assert (error.value.code, error.value.sent) == ("tool_unreachable", False)


async def test_a_program_that_ends_at_once_was_sent_nothing() -> None:
    async with host_of(started("/bin/true")) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("refund", cents=1))
    assert not error.value.sent


async def test_a_long_line_of_its_standard_error_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with host_of(started("/bin/sh", "-c", "head -c 2000 /dev/zero | tr '\\0' x >&2; cat")) as host:
        with pytest.raises(ToolError):
            await host.call(call("refund", cents=1, timeout_s=3.0))
    lines = [record.getMessage() for record in caplog.records if "MCP server shop: x" in record.getMessage()]
    assert [line.count("x") for line in lines] == [MCP_STDERR_LINE_CHARS_MAX]


async def test_a_server_that_ends_in_a_call_leaves_its_outcome_open_and_is_started_anew() -> None:
    async with host_of(started()) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("exits"))
        assert (error.value.code, error.value.sent) == ("tool_unreachable", True)
        assert (await host.call(call("put", value="again"))).output == "again"


async def test_a_server_that_ended_while_it_rested_is_started_anew_before_the_next_call() -> None:
    async with host_of(started()) as host:
        pid = int(str((await host.call(call("process"))).output))
        os.kill(pid, signal.SIGKILL)
        while host.connected:  # noqa: ASYNC110 - nothing says it.
            await asyncio.sleep(0.02)
        assert (await host.call(call("refund", cents=1))).output == "done"
        assert int(str((await host.call(call("process"))).output)) != pid


async def test_an_answer_larger_than_its_limit_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateline.tools.mcp_stdio.MCP_ANSWER_BYTES_MAX", 100_000)
    async with host_of(started()) as host:
        # The SDK's server says the same text twice.
        assert len(str((await host.call(call("large", size=45_000))).output)) == 45_000
        with pytest.raises(ToolError) as error:
            await host.call(call("large", size=100_000))
        assert error.value.sent
        assert (await host.call(call("put", value="again"))).output == "again"


async def test_closing_ends_the_program_and_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! >> {pids}; trap '' TERM; echo $$ >> {pids}; while true; do sleep 1; done"
    async with host_of(started("/bin/sh", "-c", script, connect_timeout_s=3.0)) as host:
        with pytest.raises(ToolError) as error:
            await host.call(call("refund", cents=1))
        assert (error.value.code, error.value.sent) == ("tool_timeout", False)
    for pid in map(int, pids.read_text().split()):
        for _ in range(200):
            if not alive(pid):
                break
            await asyncio.sleep(0.02)
        assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
