"""The command line as another process, beside the real server."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from tests.crash.harness import Server

from stateline.identity.admin_file import read_admin_file


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code in (0, 1), self
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line of a refusal."""
        assert self.code == 2, self
        assert self.out == ""
        [line] = self.err.splitlines()
        assert line.startswith("stateline: ")
        return line


async def stateline(config: Path, *command: str) -> Said:
    """``stateline COMMAND --config config``."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from stateline.cli import main; main()", *command, "--config", str(config)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=config.parent,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def admin(server: Server, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
    """Status and JSON of a call with the token that the server left, or with another one."""
    access = read_admin_file(server.database)
    assert access is not None
    headers = {"authorization": f"Bearer {token or access.token}", "content-type": "application/json"}
    data = None if body is None else msgspec.json.encode(body)
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, server.root + path, data=data, headers=headers) as reply,
    ):
        return reply.status, await reply.json()


async def status_of(server: Server, path: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(server.root + path) as reply:
        return reply.status
