"""The operator's MCP servers whose credentials are in the vault, as one tenant calls them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from stateline.core.tools import Tool, ToolCall, ToolResult
from stateline.tools.credentials import Credentials, OpensSecrets
from stateline.tools.mcp import McpHost
from stateline.tools.mcp_pool import McpPool
from stateline.tools.mcp_server import McpServer


class VaultHost:
    """A `ports.ToolHost` without a connection: each use looks for that of the tenant and of its secrets as they are.

    So nothing that a server keeps for a connection goes from one tenant to another, or outlives a secret that was
    replaced. A secret that is missing or does not open ends a call here, before anything is connected to.

    Args:
        pool: shared by all tenants and servers of a node.
        make: a host of a server.
    """

    def __init__(
        self,
        server: McpServer,
        tenant: str,
        vault: OpensSecrets | None,
        pool: McpPool,
        make: Callable[[McpServer], McpHost],
    ) -> None:
        self._server = server
        self._tenant = tenant
        self._vault = vault
        self._pool = pool
        self._make = make

    @property
    def label(self) -> str:
        return self._server.label

    async def tools(self) -> Sequence[Tool]:
        return await (await self.host()).tools()

    async def call(self, call: ToolCall) -> ToolResult:
        return await (await self.host()).call(call)

    async def look_up(self, call: ToolCall) -> ToolResult | None:
        return await (await self.host()).look_up(call)

    async def close(self) -> None:
        """Nothing: the connections are the pool's."""

    async def host(self) -> McpHost:
        """That of the secrets as they are now.

        Raises:
            ToolError: one is missing or does not open, or the pool has no room; ``sent`` is False.
        """
        named = self._server.vault
        assert named is not None, "asked of servers with secrets in the vault"
        credentials = Credentials(self._vault, self._tenant, f"MCP server {self.label}", named)
        versions = await credentials.versions()
        key = hashlib.sha256(msgspec.json.encode([self.label, self._tenant, versions])).digest()

        def make() -> McpHost:
            auth = named.auth(credentials) if named.auth is not None else None
            return self._make(replace(self._server, credentials=credentials, auth=auth))

        return self._pool.get(key, make)
