"""MCP servers that are started here and spoken with over their standard input and output.

The SDK's own transport reads a line of any length into memory, and leaves the server's standard error on ours, where
what it writes would stand in our log. So these few lines are our own; the shape is the SDK's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import anyio
import mcp_types as types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from stateline.core.limits import MCP_ANSWER_BYTES_MAX, MCP_CLOSE_S, MCP_STDERR_LINE_CHARS_MAX
from stateline.tools.mcp_server import McpServer
from stateline.tools.redaction import Redact, redactor

INHERITED = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""Variables that a server gets without being named: none that holds a secret."""

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def stdio(server: McpServer, ended: Callable[[], None]) -> AsyncGenerator[tuple[Any, Any]]:
    """Start the server; stop it, and what it started, at the end.

    Args:
        ended: called when nothing more will come of it, so that the next call goes to a new one.

    Raises:
        OSError: it cannot be started.
    """
    secrets = server.env()
    credentials = server.credentials
    sealed: Mapping[str, str] = {} if credentials is None else await credentials.env()
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *server.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment, **secrets, **sealed},
        start_new_session=True,
        limit=MCP_ANSWER_BYTES_MAX,
    )
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, process, to_session, ended)
            group.start_soon(_write, process, from_session, to_session)
            redact = redactor(list(secrets.values()), credentials.told.items() if credentials is not None else ())
            group.start_soon(_listen, server.label, process, redact)
            try:
                yield from_server, to_server
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(process)
                group.cancel_scope.cancel()
    finally:
        for stream in (to_session, from_server, to_server, from_session):
            stream.close()


async def _read(process: asyncio.subprocess.Process, to_session: Any, ended: Callable[[], None]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
        async with to_session:
            while True:
                try:
                    line = await process.stdout.readline()
                except ValueError:
                    # Longer than the limit: where the next message begins is anybody's guess.
                    line = b""
                if not line:
                    ended()
                    return
                try:
                    message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValidationError:
                    continue  # Servers print things; no answer comes of it, and the call runs out of time.
                await to_session.send(SessionMessage(message))


async def _write(process: asyncio.subprocess.Process, from_session: Any, to_session: Any) -> None:
    assert process.stdin is not None
    try:
        async with from_session:
            async for each in from_session:
                line = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(f"{line}\n".encode())
                await process.stdin.drain()
    except (OSError, anyio.ClosedResourceError, anyio.BrokenResourceError):
        await to_session.aclose()


async def _listen(label: str, process: asyncio.subprocess.Process, redact: Redact) -> None:
    """What the server writes to its standard error, in our log at level debug."""
    assert process.stderr is not None
    while True:
        piece = await process.stderr.read(64 * 1024)
        if not piece:
            return
        if log.isEnabledFor(logging.DEBUG):
            for line in redact(piece.decode(errors="replace")).splitlines():
                log.debug("MCP server %s: %s", label, line[:MCP_STDERR_LINE_CHARS_MAX])


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its input, then ask its group to end, then end it (MCP, Lifecycle, Shutdown).

    In a task of its own, so that a second cancellation of ours does not leave the program running.
    """
    await asyncio.shield(asyncio.create_task(_end_in_order(process)))


async def _end_in_order(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    ended = asyncio.create_task(process.wait())
    for number in (signal.SIGTERM, signal.SIGKILL):
        await asyncio.wait([ended], timeout=MCP_CLOSE_S / 4)
        if not ended.done() or number == signal.SIGKILL:
            # What it started may outlive it, so the group gets the last signal in any case.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
    await asyncio.wait([ended], timeout=MCP_CLOSE_S / 4)
    # Who has left the group and holds its pipes open is not waited for.
    ended.cancel()
