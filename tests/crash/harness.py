"""The real server and the scripted upstream as processes, to be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import openai

START_S_MAX = 60.0
"""A start that takes longer is a failure. It is far above what a start costs (1.5 s), because
the machine that runs the tests may be busy."""

Json = dict[str, Any]


class Server:
    """``stateline serve`` on a database of its own, always on the same port.

    Args:
        settings: more of its configuration.
        price: a line of each deployment.
        store: its ``[store]`` table, where that is not the database of its own.
        program: what Python runs instead of ``stateline``, to be given the same arguments.
        environment: variables for it.
    """

    def __init__(
        self,
        folder: Path,
        upstream_url: str,
        *,
        settings: str = "",
        price: str = "",
        store: str | None = None,
        program: Sequence[str] = ("-c", "from stateline.cli import main; main()"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.program = tuple(program)
        self.environment = dict(environment or {})
        self.database = folder / "stateline.db"
        self.log = folder / "server.log"
        self.port = free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.root}/v1"
        self.process: asyncio.subprocess.Process | None = None
        self.config = folder / "stateline.toml"
        self.config.write_text(config_of(self.port, self.database, upstream_url, store, price) + settings)

    async def spawn(self) -> None:
        """Start the process without waiting until it answers."""
        assert self.process is None
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, *self.program),
                *("serve", "--config", str(self.config)),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | self.environment,
            )

    async def ready(self) -> None:
        """Wait until the server answers ``/readyz``."""
        async with aiohttp.ClientSession() as http, asyncio.timeout(START_S_MAX):
            while True:
                assert self.process is not None
                if self.process.returncode is not None:
                    code, tail = self.process.returncode, self.tail()
                    raise AssertionError(f"the server ended with {code} at its start:\n{tail}")
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with http.get(f"{self.root}/readyz") as reply:
                        if reply.status == 200:
                            return
                await asyncio.sleep(0.02)

    async def start(self) -> None:
        await self.spawn()
        await self.ready()

    async def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        await self.end(signal.SIGKILL)

    async def end(self, signum: signal.Signals, timeout_s: float = 30.0) -> int:
        """Send ``signum``, wait for the process to end, and return its exit code."""
        process, self.process = self.process, None
        assert process is not None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)
        async with asyncio.timeout(timeout_s):
            return await process.wait()

    def signal(self, signum: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    async def close(self) -> None:
        if self.process is not None:
            await self.kill()

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        """The unmodified SDK, at its default retries unless ``options`` say otherwise."""
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key="unused",
            default_headers={"Stateline-Dialect": "openai"},
            **options,
        )


async def until(holds: Callable[[], object], timeout_s: float = START_S_MAX) -> None:
    """Wait until ``holds()`` is true."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - What is looked at is in another process.
            await asyncio.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config_of(port: int, database: Path, upstream_url: str, store: str | None = None, price: str = "") -> str:
    """Two models of one upstream: ``scripted`` streams by one wire format, ``responses`` by the other."""
    price = f"\n{price}" if price else ""
    return f"""
[server]
port = {port}

[store]
{store or f'url = "sqlite:///{database}"'}

[[deployments]]
name = "chat"
model = "scripted"
cloud = "openai-compatible"
format = "openai-chat"
base_url = "{upstream_url}"
auth = "none"{price}

[[deployments]]
name = "responses"
model = "scripted-responses"
cloud = "openai-compatible"
format = "openai-responses"
base_url = "{upstream_url}"
auth = "none"{price}
"""


MODELS = ("scripted", "scripted-responses")


@contextlib.asynccontextmanager
async def upstream_process(*rules: str) -> AsyncGenerator[str]:
    """``python -m stateline.testing.upstream`` with ``rules``; gives its base URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stateline.testing.upstream", "--script", *rules),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S_MAX):
            url = (await process.stdout.readline()).decode().strip()
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def running_server(
    folder: Path, upstream_url: str, *, settings: str = "", price: str = ""
) -> AsyncGenerator[Server]:
    server = Server(folder, upstream_url, settings=settings, price=price)
    try:
        await server.start()
        yield server
    finally:
        await server.close()


async def upstream_report(base_url: str) -> Json:
    """What the upstream process was asked."""
    root = base_url.removesuffix("/v1")
    async with aiohttp.ClientSession() as http, http.get(f"{root}/_scripted/requests") as reply:
        return await reply.json()
