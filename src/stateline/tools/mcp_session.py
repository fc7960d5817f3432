"""One connection to an MCP server. Imports the SDK, so it is imported when the first server is asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

import mcp_types as types
from mcp import MCPError
from mcp.client import Client, ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from pydantic import ValidationError

from stateline import __version__
from stateline.core.errors import StatelineError
from stateline.core.limits import MCP_ANSWER_BYTES_MAX, MCP_CLOSE_S, MCP_PAGES_MAX, MCP_TOOLS_MAX
from stateline.core.tools import ToolError
from stateline.tools.egress import Egress
from stateline.tools.mcp_errors import AUTH_REFUSED, protocol, timed_out, unreachable, unsent
from stateline.tools.mcp_http import KEY_META, Attempt, McpHttpClient
from stateline.tools.mcp_server import McpServer

# The SDK logs what servers say, with tracebacks that repeat it, and its HTTP client every URL with its query.
for _name in ("mcp", "client", "httpx2", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

CLIENT_INFO = types.Implementation(name="stateline", version=__version__)
_STAND_INS = ("Server returned an error response", "Not Found")
"""What the SDK says where a status of HTTP came without a message of MCP."""
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class Outcome:
    """What a server said to a call: a result, or a JSON-RPC error, which is an answer as well."""

    __slots__ = ("error", "result")

    def __init__(self, result: types.CallToolResult | None, error: types.ErrorData | None) -> None:
        self.result = result
        self.error = error


class McpSession:
    """A connection, opened once. The SDK's scopes are left by the task that entered them, so it has one of its own."""

    def __init__(self, server: McpServer, egress: Egress) -> None:
        self._server = server
        self._egress = egress
        self._http: McpHttpClient | None = None
        self._client: Client | None = None
        self._stop = asyncio.Event()
        self._open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"mcp {server.label}")
        self.broken = False
        self.changed = True
        """The list of tools has not been read on this connection, or the server says that it is another."""

    @property
    def usable(self) -> bool:
        return not self.broken and not self._task.done()

    @property
    def modern(self) -> bool:
        """Whether the server speaks the protocol that has no connections of its own (2026-07-28)."""
        return self._sdk.session.initialize_result is None

    @property
    def protocol_version(self) -> str:
        """The version of the protocol that was agreed on."""
        return self._sdk.protocol_version

    @property
    def _sdk(self) -> Client:
        assert self._client is not None, "opened"
        return self._client

    @property
    def shown(self) -> Iterable[str]:
        """What the server was lately shown to know us by."""
        return self._http.shown if self._http is not None else ()

    async def opened(self, timeout_s: float) -> None:
        """Wait until the server has answered the first message.

        Raises:
            ToolError: it has not; nothing was called.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._open)
        except TimeoutError:
            self.broken = True
            raise timed_out(self._server.label, timeout_s, sent=False) from None

    async def _run(self) -> None:
        try:
            async with (
                self._transport() as transport,
                Client(
                    transport,
                    client_info=CLIENT_INFO,
                    cache=None,
                    message_handler=self._on_message,
                    elicitation_callback=_accept_defaults if self._server.elicitation == "defaults" else None,
                ) as client,
            ):
                # It would run the server's patterns over its own answers: a pattern may take for ever, and an answer
                # that does not fit its schema is still what the tool did.
                setattr(client.session, "validate_tool_result", _unchecked)  # noqa: B010 - typed as a method.
                self._client = client
                if not self._open.done():
                    self._open.set_result(None)
                await self._stop.wait()
        except Exception as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(None)
            raise
        finally:
            self.broken = True

    def _fail(self, error: Exception | None) -> None:
        if self._open.done():
            return
        fault = self._http.fault if self._http is not None else None
        fault = fault or _first(error, ToolError)
        if fault is None and (missing := _first(error, StatelineError)) is not None:
            fault = ToolError(missing.message, code="tool_secret_missing", sent=False)
        if fault is None and _first(error, MCPError) is not None:
            fault = protocol(self._server.label, "it refused to begin a session", sent=False)
        if fault is None and _first(error, OSError) is not None:
            fault = unreachable(self._server.label, "it cannot be started", sent=False)
        if fault is None:
            fault = protocol(self._server.label, "what it says is not MCP", sent=False)
        self._open.set_exception(unsent(fault))
        self._open.exception()  # Seen, though nobody may wait for it any more.

    @contextlib.asynccontextmanager
    async def _transport(self) -> AsyncGenerator[AbstractAsyncContextManager[Any]]:
        server = self._server
        if server.url is None:
            from stateline.tools.mcp_stdio import stdio

            yield stdio(server, self._ended)
            return
        url = self._egress.check_url(server.url)
        auth = server.auth(url) if server.auth is not None else None
        headers = server.headers()
        async with McpHttpClient(
            server.label, self._egress, headers, server.connect_timeout_s, auth=auth, credentials=server.credentials
        ) as self._http:
            yield streamable_http_client(url, http_client=self._http, max_sse_event_size=MCP_ANSWER_BYTES_MAX)

    def _ended(self) -> None:
        self.broken = True

    async def _on_message(self, message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.changed = True

    async def tools(self, wanted: set[str] | None) -> list[types.Tool]:
        """The tools that the server has, or those of them that are wanted.

        Raises:
            ToolError: it cannot be asked, or has more than the limits.
        """
        self.changed = False
        try:
            return await self._pages(wanted)
        except BaseException:
            self.changed = True
            raise

    async def _pages(self, wanted: set[str] | None) -> list[types.Tool]:
        label, found, cursor = self._server.label, list[types.Tool](), None
        for _ in range(MCP_PAGES_MAX):
            page = await self._ask(self._sdk.list_tools(cursor=cursor))
            found += [tool for tool in page.tools if wanted is None or tool.name in wanted]
            if len(found) > MCP_TOOLS_MAX:
                message = f"it has more than {MCP_TOOLS_MAX} tools; name those to use in allowed_tools"
                raise protocol(label, message, sent=False)
            cursor = page.next_cursor
            if cursor is None:
                return found
        raise protocol(label, f"its list of tools has more than {MCP_PAGES_MAX} pages", sent=False)

    async def ping(self) -> None:
        """Ask whether the server still knows this connection.

        Raises:
            ToolError: it does not.
        """
        if not self.modern:
            await self._ask(self._sdk.session.send_ping())  # pyright: ignore[reportDeprecated]

    async def _ask(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except MCPError as error:
            fault = self._http.fault if self._http is not None else None
            self.broken = self.broken or fault is not None or _ends(error)
            if fault is not None:
                raise unsent(fault) from None
            raise protocol(
                self._server.label, f"it refused what it was asked (code {error.code})", sent=False
            ) from None
        except (ValidationError, RuntimeError):
            raise protocol(self._server.label, "what it says is not MCP", sent=False) from None

    async def call(self, tool: str, arguments: dict[str, Any], key: str | None) -> Outcome:
        """Run a tool. Cancelling tells the server.

        Raises:
            ToolError: there is no answer.
        """
        meta: Any = {KEY_META: key} if key is not None else None
        watched = self._http.watched(key) if self._http is not None and key is not None else None
        with watched or contextlib.nullcontext(Attempt()) as attempt:
            try:
                return Outcome(await self._sdk.call_tool(tool, arguments, meta=meta), None)
            except MCPError as error:
                self.broken = self.broken or _ends(error)
                if attempt.fault is not None:
                    # Another connection reads the secrets anew: they may have been changed where they are named.
                    self.broken = self.broken or attempt.fault.code == AUTH_REFUSED
                    raise attempt.fault from None
                if _cut(error):
                    raise unreachable(self._server.label, "the connection ended before the answer", sent=True) from None
                if attempt.status == 404 and _ends(error):
                    raise SessionLost(self._server.label) from None
                if error.code == types.PARSE_ERROR or (attempt.status >= 400 and error.message in _STAND_INS):
                    raise protocol(self._server.label, f"it answered {attempt.status}", sent=True) from None
                return Outcome(None, error.error)
            except (ValidationError, RuntimeError):
                raise protocol(self._server.label, "its answer is not MCP", sent=True) from None

    async def close(self) -> None:
        """Say goodbye, and wait for that no longer than its limit."""
        self.broken = True
        self._stop.set()
        if not self._open.done():
            self._task.cancel()
        _, waiting = await asyncio.wait([self._task], timeout=MCP_CLOSE_S)
        if waiting:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=MCP_CLOSE_S)


class SessionLost(ToolError):
    """The server does not know the connection any more. Its specification says it has not run the call, which is
    as good as its word."""

    def __init__(self, label: str) -> None:
        super().__init__(f"MCP server {label}: it has ended the session", code="tool_unreachable", sent=True)


def _ends(error: MCPError) -> bool:
    """Whether nothing more can be asked on this connection."""
    return _cut(error) or (error.code == types.INVALID_REQUEST and error.message == "Session terminated")


def _cut(error: MCPError) -> bool:
    """Whether the SDK says that no answer will come. Servers use its code (-32000) for errors of their own."""
    return error.code == types.CONNECTION_CLOSED and error.message.startswith(("Connection closed", "SSE stream"))


def _first(error: BaseException | None, kind: type[E]) -> E | None:
    """The first error of a kind in an error or a group of them."""
    if isinstance(error, kind):
        return error
    if isinstance(error, BaseExceptionGroup):
        for each in cast("tuple[BaseException, ...]", error.exceptions):
            if (found := _first(each, kind)) is not None:
                return found
    return None


async def _unchecked(name: str, result: types.CallToolResult) -> None:
    pass


async def _accept_defaults(context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Nobody is there to be asked: say what the form itself proposes, where it proposes all that it requires."""
    if not isinstance(params, types.ElicitRequestFormParams):
        return types.ElicitResult(action="decline")
    schema: dict[str, Any] = params.requested_schema
    fields: dict[str, dict[str, Any]] = schema.get("properties") or {}
    content = {name: field["default"] for name, field in fields.items() if "default" in field}
    if any(name not in content for name in schema.get("required") or ()):
        return types.ElicitResult(action="decline")
    return types.ElicitResult(action="accept", content=content)
