"""All MCP servers of a node: the operator's, and those that requests name."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from stateline.core.errors import BadRequest
from stateline.core.headers import fits, is_ours
from stateline.core.limits import (
    MCP_HEADERS_MAX,
    MCP_IDLE_S,
    MCP_NAME_CHARS_MAX,
    MCP_SESSIONS_MAX,
    TOOLS_MAX,
)
from stateline.core.tools import ToolError
from stateline.tools.egress import Egress
from stateline.tools.mcp import McpHost
from stateline.tools.mcp_errors import BUSY
from stateline.tools.mcp_server import McpServer


class McpFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``allowed_tools`` as an object (OpenAI: MCPToolFilter)."""

    tool_names: tuple[str, ...] | None = None
    read_only: bool | None = None


class McpTool(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of a server (OpenAI: MCPTool). Its approvals are for others to look at.

    Attributes:
        authorization: a token, without ``Bearer``.
    """

    server_label: str
    server_url: str | None = None
    authorization: str | None = None
    headers: dict[str, str] | None = None
    allowed_tools: tuple[str, ...] | McpFilter | None = None

    def __repr__(self) -> str:
        """Without what may be secret."""
        return f"McpTool(server_label={self.server_label!r})"


def server_of(tool: McpTool) -> McpServer:
    """A server that a request names: over HTTP alone, and believed in nothing.

    Raises:
        BadRequest: it cannot be one.
    """
    if not tool.server_url:
        raise BadRequest("server_url is missing: there is no server of this label here", param="tools")
    headers = _headers(tool)
    named: frozenset[str] | None = None
    read_only = None
    if isinstance(tool.allowed_tools, McpFilter):
        read_only = tool.allowed_tools.read_only
        named = frozenset(tool.allowed_tools.tool_names) if tool.allowed_tools.tool_names is not None else None
    elif tool.allowed_tools is not None:
        named = frozenset(tool.allowed_tools)
    return McpServer(
        label=tool.server_label,
        url=tool.server_url,
        headers=lambda: headers,
        allowed_tools=_names(named),
        read_only=read_only,
    )


def _names(named: frozenset[str] | None) -> frozenset[str] | None:
    if named is not None and (len(named) > TOOLS_MAX or any(len(each) > MCP_NAME_CHARS_MAX for each in named)):
        message = f"allowed_tools: up to {TOOLS_MAX} names of up to {MCP_NAME_CHARS_MAX} characters"
        raise BadRequest(message, param="tools")
    return named


def _headers(tool: McpTool) -> dict[str, str]:
    given = tool.headers or {}
    if len(given) > MCP_HEADERS_MAX:
        raise BadRequest(f"headers: up to {MCP_HEADERS_MAX}", param="tools")
    headers: dict[str, str] = {}
    for name, value in given.items():
        if not fits(name, value):
            # Neither is repeated: a secret may have been put on the wrong side.
            raise BadRequest("headers: one is not made of printable ASCII, or too long", param="tools")
        if is_ours(name):
            raise BadRequest(f"headers: {name} is set by the connection itself", param="tools")
        headers[name] = value
    if tool.authorization is not None:
        if any(name.lower() == "authorization" for name in headers):
            raise BadRequest("authorization and a header Authorization go not together", param="tools")
        if not fits("authorization", tool.authorization):
            raise BadRequest("authorization: not made of printable ASCII, or too long", param="tools")
        headers["Authorization"] = f"Bearer {tool.authorization}"
    return headers


class McpHosts:
    """Hands out hosts, and keeps their connections within bounds.

    Args:
        servers: the operator's.
        most: hosts of requests that are kept, with their connections.
    """

    def __init__(
        self,
        servers: Sequence[McpServer],
        egress: Egress,
        *,
        most: int = MCP_SESSIONS_MAX,
        idle_s: float = MCP_IDLE_S,
    ) -> None:
        self._egress = egress
        self._most = most
        self._idle_s = idle_s
        self._own = {each.label: McpHost(each, egress, idle_s=idle_s) for each in servers}
        self._named: dict[bytes, McpHost] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def own(self) -> Mapping[str, McpHost]:
        """The operator's, by label."""
        return self._own

    def named(self, tenant: str, tool: McpTool) -> McpHost:
        """The host of a server that a request names. One that names it in the same way gets the same connection.

        A tenant's is its own: a server may keep things for a connection.

        Raises:
            BadRequest: it cannot be a server.
            ToolError: ``tool_host_denied``; ``tool_busy`` where as many as are kept have calls under way.
        """
        server = server_of(tool)
        assert server.url is not None
        self._egress.check_url(server.url)
        key = _key(tenant, tool)
        host = self._named.pop(key, None)
        if host is None:
            self._make_room()
            host = McpHost(server, self._egress, idle_s=self._idle_s)
        self._named[key] = host  # At the end: what was asked for least lately is first.
        return host

    def _make_room(self) -> None:
        for key, host in list(self._named.items()):
            # Nothing is kept of who has not been asked for long: it holds the requests' tokens.
            if host.running or time.monotonic() - host.used_at < self._idle_s:
                break
            self._drop(key)
        if len(self._named) < self._most:
            return
        resting = next((key for key, host in self._named.items() if not host.running), None)
        if resting is None:
            message = (
                f"{self._most} servers that requests have named are in use; try again, or use one of the operator's"
            )
            raise ToolError(message, code=BUSY, sent=False, retryable=True)
        self._drop(resting)

    def _drop(self, key: bytes) -> None:
        task = asyncio.ensure_future(self._named.pop(key).close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        hosts = [*self._own.values(), *self._named.values()]
        self._named.clear()
        await asyncio.gather(*(host.close() for host in hosts), *self._tasks)


def _key(tenant: str, tool: McpTool) -> bytes:
    """Of all that tells two of them apart; a digest, so that no token is kept as a key."""
    named = cast("dict[str, Any]", msgspec.to_builtins(tool))
    named["headers"] = sorted((tool.headers or {}).items())
    return hashlib.sha256(msgspec.json.encode([tenant, sorted(named.items())])).digest()
