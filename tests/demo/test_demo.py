"""The demo, run as its user runs it, with a scripted model that remembers what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from stateline.cli._demo_story import LONG, RECALL
from stateline.testing import Answer, ScriptedUpstream
from stateline.testing.scripted import Asked, End, tools_first

TIMEOUT_S = 100
"""Far above what a run takes, because the machine may be busy."""
STORY = " ".join(f"word{number}" for number in range(60))


def attentive(asked: Asked, attempt: int) -> Answer:
    """Knows the cat's name only where the context says it; falls silent in its first long story."""
    if asked.user_text == RECALL:
        context = str(getattr(asked, "context", ""))
        return Answer(text="Your cat is called Babbage." if "Babbage" in context else "I do not know.")
    if asked.user_text == LONG:
        end: End = "stall" if attempt == 1 else "finish"
        return Answer(text=f"attempt {attempt} {STORY}", delay_ms=20, end=end, after=50)
    return tools_first(asked, attempt) if asked.tool or asked.tool_output else Answer(text="Hello!")


class Run:
    """One `stateline demo` as a process, and what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""

    async def until(self, marker: str) -> None:
        """Read on until ``marker`` was written."""
        assert self.process.stdout is not None
        while marker not in self.out:
            piece = await self.process.stdout.read(4096)
            assert piece, f"{marker!r} never came:\n{self.out}"
            self.out += piece.decode(errors="replace")

    async def end(self) -> int:
        assert self.process.stdout is not None
        while piece := await self.process.stdout.read(4096):
            self.out += piece.decode(errors="replace")
        return await self.process.wait()

    @property
    def servers(self) -> list[int]:
        """Process ids of the servers that it said it started."""
        return [int(pid) for pid in re.findall(r"as process (\d+)", self.out)]


@contextlib.asynccontextmanager
async def demo(*args: str, folder: Path) -> AsyncGenerator[Run]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from stateline.cli import main; main()", "demo", *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "FORCE_COLOR"},
    )
    one = Run(process)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield one
    except TimeoutError:
        raise AssertionError(f"not done within {TIMEOUT_S} s:\n{one.out}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def run(*args: str, folder: Path) -> tuple[int, str]:
    async with demo(*args, folder=folder) as one:
        return await one.end(), one.out


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
async def scripted() -> AsyncGenerator[list[str]]:
    """The options for a demo against a scripted model."""
    async with ScriptedUpstream(attentive) as base_url:
        yield ["--no-local", "--base-url", base_url, "--model", "scripted"]


async def test_all_that_the_demo_shows_holds_and_a_second_start_goes_on(tmp_path: Path, scripted: list[str]) -> None:
    code, out = await run("--once", *scripted, folder=tmp_path)
    assert code == 0, out
    assert "✗" not in out
    assert "\x1b" not in out
    assert "[kill -9 " in out
    assert "attempt 2 word0" in out
    assert "the lost attempt is marked incomplete and is no part of the answer" in out
    # The last server ended well: its journal is in the database, and what it left for others is gone.
    left = {path.name for path in (tmp_path / "stateline-demo").glob("stateline.db*")}
    assert left == {"stateline.db", "stateline.db.lock"}

    code, out = await run("--once", *scripted, folder=tmp_path)
    assert code == 0, out
    assert "Your last run is still here" in out


async def test_a_model_that_forgets_is_found_out(tmp_path: Path) -> None:
    async with ScriptedUpstream(tools_first) as base_url:
        options = ["--no-local", "--base-url", base_url, "--model", "scripted"]
        code, out = await run("--once", *options, folder=tmp_path)
    assert code == 1, out
    assert "✗  the second turn knows what the first one said" in out


async def test_ctrl_c_twice_in_mid_answer_leaves_nothing_behind_and_the_next_start_goes_on(
    tmp_path: Path, scripted: list[str]
) -> None:
    async with demo(*scripted, folder=tmp_path) as one:
        await one.until("attempt 1 word0 word1")
        one.process.send_signal(signal.SIGINT)
        await one.until("Stopping.")
        one.process.send_signal(signal.SIGINT)
        assert await one.end() == 130, one.out
    assert "Traceback" not in one.out
    assert len(one.servers) == 1
    assert not alive(one.servers[0])

    async with demo(*scripted, folder=tmp_path) as one:
        await one.until("It was stopped in the middle of an answer")
        await one.until("Ctrl-C ends it")
        assert alive(one.servers[-1])
        assert "is in use by the server at http://127.0.0.1:" in await refused(*scripted, folder=tmp_path)
        one.process.send_signal(signal.SIGINT)
        assert await one.end() == 0, one.out
    assert "the interrupted answer came to its end: completed" in one.out
    assert "✗" not in one.out
    assert "Traceback" not in one.out
    assert not any(map(alive, one.servers))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_while_the_server_starts_leaves_nothing_behind(
    tmp_path: Path, scripted: list[str], number: signal.Signals
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    async with demo(*scripted, "--port", str(port), folder=tmp_path) as one:
        await one.until("$ stateline serve")
        one.process.send_signal(number)
        assert await one.end() == 130, one.out
    assert "Traceback" not in one.out
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def refused(*args: str, folder: Path) -> str:
    """The last line of a demo that cannot run; there is nothing of a traceback, and it exits with 2."""
    code, out = await run("--once", *args, folder=folder)
    assert code == 2, out
    assert "Traceback" not in out
    last = out.splitlines()[-1]
    assert last.startswith("stateline: ")
    return last


async def test_a_wrong_base_url_is_one_line_and_exit_2(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        line = await refused("--no-local", "--base-url", url, "--model", "m", folder=tmp_path)
    assert line == f"stateline: {url}: cannot be reached: Connection refused"


async def test_a_model_that_the_upstream_does_not_know_is_one_line_and_exit_2(tmp_path: Path) -> None:
    async with ScriptedUpstream(Answer(status=404, error_message="no such model: m")) as base_url:
        line = await refused("--no-local", "--base-url", base_url, "--model", "m", folder=tmp_path)
    assert "no such model: m" in line


async def test_bad_options_are_one_line_and_exit_2(tmp_path: Path) -> None:
    assert "--no-local needs --base-url and --model" in await refused("--no-local", folder=tmp_path)
    assert "go with --no-local" in await refused("--base-url", "http://127.0.0.1:1/v1", folder=tmp_path)
    assert "takes a .gguf file" in await refused("--model", "gpt-5", folder=tmp_path)
    options = ("--no-local", "--base-url", "http://127.0.0.1:1/v1", "--model", "m")
    assert "NOT_SET" in await refused(*options, "--api-key-env", "NOT_SET", folder=tmp_path)
    (tmp_path / "file").touch()
    assert "file" in await refused(*options, "--data", "file", folder=tmp_path)


async def test_a_port_that_was_asked_for_and_is_taken_is_one_line_and_exit_2(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        options = ("--no-local", "--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--port", str(port))
        assert f"port {port} is taken" in await refused(*options, folder=tmp_path)
