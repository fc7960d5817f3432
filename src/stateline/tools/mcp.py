"""MCP servers as hosts of tools (`ports.ToolHost`), over the official SDK.

The SDK takes about a second to import, so that is done when the first server is asked.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from stateline.core.errors import StatelineError
from stateline.core.limits import MCP_CHECK_AFTER_S, MCP_IDLE_S, MCP_TOOLS_KEPT_S
from stateline.core.tools import Tool, ToolCall, ToolError, ToolResult
from stateline.tools.egress import Egress
from stateline.tools.mcp_errors import NOT_ALLOWED, timed_out
from stateline.tools.mcp_results import error_result, proves, result_of, tool_of
from stateline.tools.mcp_server import McpServer
from stateline.tools.redaction import Redact, redactor

if TYPE_CHECKING:
    from stateline.tools.mcp_session import McpSession, Outcome

log = logging.getLogger(__name__)
SESSIONS = "stateline.tools.mcp_session"
"""The module that imports the SDK."""


async def load_sdk() -> None:
    """Import the SDK where it is not yet, in a thread, so that what else runs here goes on."""
    if SESSIONS not in sys.modules:
        await asyncio.to_thread(importlib.import_module, SESSIONS)


class McpHost:
    """One MCP server. It is connected to when it is first asked, and again whenever that has ended.

    Args:
        idle_s: a connection that rests this long is closed.
    """

    def __init__(self, server: McpServer, egress: Egress, *, idle_s: float = MCP_IDLE_S) -> None:
        self._server = server
        self._egress = egress
        self._idle_s = idle_s
        self._session: McpSession | None = None
        self._opening = asyncio.Lock()
        self._closing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._tools: dict[str, Tool] = {}
        self._tools_at = 0.0
        self._secrets: tuple[str, ...] = ()
        self.running = 0
        """Calls under way."""
        self.used_at = time.monotonic()

    @property
    def label(self) -> str:
        return self._server.label

    @property
    def data_zone(self) -> str:
        """Where the server keeps what it is told; empty where that is not configured."""
        return self._server.data_zone

    @property
    def protocol_version(self) -> str:
        """The version of MCP that the connection is spoken in; empty where there is none."""
        return self._session.protocol_version if self._session is not None and self.connected else ""

    @property
    def connected(self) -> bool:
        return self._session is not None and self._session.usable

    async def tools(self) -> Sequence[Tool]:
        timeout_s = self._server.timeout_s
        try:
            with _Use(self):
                async with asyncio.timeout(timeout_s):
                    return tuple((await self._listed()).values())
        except TimeoutError:
            raise timed_out(self.label, timeout_s, sent=False) from None

    async def call(self, call: ToolCall) -> ToolResult:
        arguments = self._arguments(call)
        timeout_s = min(call.timeout_s, self._server.timeout_s)
        begun = False
        try:
            with _Use(self):
                async with asyncio.timeout(timeout_s):
                    session = await self._ready(call)
                    begun = True
                    found = await self._run(session, call, arguments)
        except TimeoutError:
            raise timed_out(self.label, timeout_s, sent=begun) from None
        if found.error is not None:
            return error_result(found.error.code, found.error.message, self._redactor(session))
        assert found.result is not None
        return result_of(found.result, self._redactor(session))

    async def look_up(self, call: ToolCall) -> ToolResult | None:
        read_back = self._server.read_backs.get(call.tool)
        if read_back is None:
            return None
        try:
            with _Use(self):
                async with asyncio.timeout(min(call.timeout_s, self._server.timeout_s)):
                    session = await self._connected()
                    found = await session.call(read_back.tool, {read_back.key_argument: call.key}, None)
        except (ToolError, TimeoutError) as error:
            log.info("MCP server %s: the read-back of %s gave no answer: %s", self.label, call.tool, error)
            return None
        if found.result is None or not proves(read_back, call.key, found.result):
            return None
        return result_of(found.result, self._redactor(session))

    async def close(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._forget()

    def _redactor(self, session: McpSession) -> Redact:
        # "Bearer TOKEN": a server that repeats it may repeat the token alone.
        known = (*self._secrets, *session.shown)
        credentials = self._server.credentials
        told = credentials.told.items() if credentials is not None else ()
        return redactor([part for each in known for part in (each, each.rpartition(" ")[2])], told)

    # -- inside --------------------------------------------------------------------------------------

    def _arguments(self, call: ToolCall) -> dict[str, Any]:
        """The call's arguments, where the tool may be used at all."""
        allowed = self._server.allowed_tools
        if allowed is not None and call.tool not in allowed:
            raise self._not_allowed(call.tool)
        try:
            arguments: object = msgspec.json.decode(call.arguments) if call.arguments.strip() else {}
        except (msgspec.DecodeError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            message = f"the arguments for {call.tool} at {self.label} are no JSON object"
            raise ToolError(message, code="tool_arguments_invalid", sent=False)
        return cast("dict[str, Any]", arguments)

    def _not_allowed(self, tool: str) -> ToolError:
        return ToolError(f"{tool} is not among the allowed tools of {self.label}", code=NOT_ALLOWED, sent=False)

    async def _ready(self, call: ToolCall) -> McpSession:
        """A connection on which the call can go out. Nothing of it is sent yet.

        Raises:
            ToolError: with ``sent`` False.
        """
        session = await self._connected()
        if self._server.read_only is not None or (session.modern and session.changed):
            # Which tools only read is known by the list alone; and by it the SDK knows what goes into headers.
            tools = await self._listed()
            if self._server.read_only is not None and call.tool not in tools:
                raise self._not_allowed(call.tool)
            session = await self._connected()
        rested_s = time.monotonic() - self.used_at
        if self._class_of(call.tool) == "unsafe" and rested_s > MCP_CHECK_AFTER_S:
            # A server that was started anew refuses the connection, and the call with it: nobody could tell then
            # whether the call was run. So a read goes ahead.
            try:
                await session.ping()
            except ToolError:
                session.broken = True
                session = await self._connected()
        return session

    def _class_of(self, tool: str) -> str:
        known = self._tools.get(tool)
        return known.effect if known is not None else self._server.effects.get(tool, "unsafe")

    async def _run(self, session: McpSession, call: ToolCall, arguments: dict[str, Any]) -> Outcome:
        from stateline.tools.mcp_session import SessionLost

        try:
            return await session.call(call.tool, arguments, call.key)
        except SessionLost:
            if self._class_of(call.tool) == "unsafe":
                raise
            return await (await self._connected()).call(call.tool, arguments, call.key)

    async def _listed(self) -> dict[str, Tool]:
        session = await self._connected()
        if session.changed or time.monotonic() - self._tools_at > MCP_TOOLS_KEPT_S:
            allowed = self._server.allowed_tools
            wanted = set(allowed) if allowed is not None else None
            try:
                found = await session.tools(wanted)
            except ToolError:
                if session.usable:
                    raise
                # The connection has ended, as it does where the server was started anew; to read does no harm.
                session = await self._connected()
                found = await session.tools(wanted)
            redact = self._redactor(session)
            offered = [tool_of(self._server, each, redact) for each in found]
            self._tools = {each.name: each for each in offered if each is not None}
            self._tools_at = time.monotonic()
        return self._tools

    async def _connected(self) -> McpSession:
        """The connection, opened where there is none.

        Raises:
            ToolError: it cannot be; ``sent`` is False.
        """
        async with self._opening:
            if self._session is not None and self._session.usable:
                return self._session
            if self._session is not None:
                self._later(self._session.close())
                self._session = None
            await load_sdk()
            from stateline.tools.mcp_session import McpSession

            try:
                self._secrets = (*self._server.headers().values(), *self._server.env().values())
            except StatelineError as error:
                raise ToolError(error.message, code="tool_secret_missing", sent=False) from None
            session = McpSession(self._server, self._egress)
            try:
                await session.opened(self._server.connect_timeout_s)
            except BaseException:
                self._later(session.close())
                raise
            self._session, self.used_at = session, time.monotonic()
            self._rest()
            return session

    def _forget(self) -> None:
        """Keep nothing of what the server was told, now that it says nothing any more."""
        # A call under way may have an answer that is still to be cleared of it.
        if self._server.credentials is not None and not self.running:
            self._server.credentials.told.clear()

    def _later(self, closing: Any) -> None:
        """Close in the background: a goodbye is not worth waiting for."""
        task = asyncio.ensure_future(closing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _rest(self) -> None:
        """Close the connection once it has rested long enough."""
        if self._closing is not None:
            self._closing.cancel()
        left_s = self.used_at + self._idle_s - time.monotonic() if not self.running else self._idle_s
        if self._session is None:
            self._closing = None
        elif left_s <= 0:
            self._closing = None
            session, self._session = self._session, None
            self._later(session.close())
            self._forget()
        else:
            self._closing = asyncio.get_running_loop().call_later(left_s, self._rest)


class _Use:
    """Counts a use of a host while it lasts, so that its connection is not taken for one that rests."""

    def __init__(self, host: McpHost) -> None:
        self._host = host

    def __enter__(self) -> None:
        self._host.running += 1

    def __exit__(self, *_: object) -> None:
        self._host.running -= 1
        self._host.used_at = time.monotonic()
