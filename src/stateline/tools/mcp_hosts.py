"""All MCP servers of a node: the operator's, and those that requests name."""

from __future__ import annotations

import asyncio
import hashlib
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
from stateline.core.limits_tools import MCP_TENANT_SESSIONS_MAX
from stateline.ports import ToolHost
from stateline.tools.credentials import OpensSecrets
from stateline.tools.egress import Egress
from stateline.tools.mcp import McpHost
from stateline.tools.mcp_pool import McpPool
from stateline.tools.mcp_server import McpServer
from stateline.tools.mcp_vault import VaultHost


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
        vault: opens those of their secrets that are in it.
        most: hosts of requests that are kept, with their connections.
        most_of_tenants: the same of servers with secrets in the vault.
    """

    def __init__(
        self,
        servers: Sequence[McpServer],
        egress: Egress,
        *,
        vault: OpensSecrets | None = None,
        most: int = MCP_SESSIONS_MAX,
        most_of_tenants: int = MCP_TENANT_SESSIONS_MAX,
        idle_s: float = MCP_IDLE_S,
    ) -> None:
        self._egress = egress
        self._vault = vault
        self._idle_s = idle_s
        self._own = {each.label: McpHost(each, egress, idle_s=idle_s) for each in servers if each.vault is None}
        self._sealed = {each.label: each for each in servers if each.vault is not None}
        busy = "servers that requests have named are in use; try again, or use one of the operator's"
        self._named = McpPool(most, idle_s, busy)
        busy = "connections with credentials of the vault are in use; try again"
        self._of_tenants = McpPool(most_of_tenants, idle_s, busy)

    @property
    def own(self) -> Mapping[str, McpHost]:
        """The operator's that all tenants share, by label."""
        return self._own

    def of(self, label: str, tenant: str) -> ToolHost | None:
        """The operator's server of this label, as a tenant calls it; None where there is none."""
        server = self._sealed.get(label)
        if server is None:
            return self._own.get(label)
        return VaultHost(server, tenant, self._vault, self._of_tenants, self._made)

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
        return self._named.get(_key(tenant, tool), lambda: self._made(server))

    def _made(self, server: McpServer) -> McpHost:
        return McpHost(server, self._egress, idle_s=self._idle_s)

    async def close(self) -> None:
        await asyncio.gather(
            *(host.close() for host in self._own.values()), self._named.close(), self._of_tenants.close()
        )


def _key(tenant: str, tool: McpTool) -> bytes:
    """Of all that tells two of them apart; a digest, so that no token is kept as a key."""
    named = cast("dict[str, Any]", msgspec.to_builtins(tool))
    named["headers"] = sorted((tool.headers or {}).items())
    return hashlib.sha256(msgspec.json.encode([tenant, sorted(named.items())])).digest()
