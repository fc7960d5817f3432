"""Tools that do what a script tells them to, and count what was done to the world."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from stateline.core.tools import McpTool, Tool, ToolCall, ToolError, ToolResult
from stateline.ports import ToolHost

Does = Callable[[ToolCall], ToolResult | Awaitable[ToolResult]]


class ScriptedTools:
    """A host whose tools are functions.

    Attributes:
        calls: what it was asked, in order: each call that reached it.
        proven: what ``look_up`` gives, by the effect's key.
    """

    def __init__(self, label: str, tools: Mapping[str, tuple[Tool, Does]]) -> None:
        self.label = label
        self.calls: list[ToolCall] = []
        self.looked_up: list[ToolCall] = []
        self.proven: dict[str, ToolResult] = {}
        self.listed = 0
        self._tools = dict(tools)

    async def tools(self) -> Sequence[Tool]:
        self.listed += 1
        return [tool for tool, _ in self._tools.values()]

    async def call(self, call: ToolCall) -> ToolResult:
        found = self._tools.get(call.tool)
        if found is None:
            raise ToolError(f"there is no tool {call.tool!r}", code="unknown_tool", sent=False)
        self.calls.append(call)
        result = found[1](call)
        return result if isinstance(result, ToolResult) else await result

    async def look_up(self, call: ToolCall) -> ToolResult | None:
        self.looked_up.append(call)
        return self.proven.get(call.key)

    async def close(self) -> None:
        await asyncio.sleep(0)


class ScriptedHosts:
    """The hosts of a node: the operator's by label, and those that requests name by their URL."""

    def __init__(self, own: Sequence[ToolHost] = (), named: Mapping[str, ToolHost] | None = None) -> None:
        self._own = {host.label: host for host in own}
        self._named = dict(named or {})
        self.zones: dict[str, str] = {}
        self.told: dict[str, Mapping[str, Mapping[str, str]]] = {}

    def own(self, label: str, tenant: str) -> ToolHost | None:
        del tenant
        return self._own.get(label)

    def tell(self, response_id: str, headers: Mapping[str, Mapping[str, str]]) -> None:
        self.told[response_id] = headers

    def named(self, tenant: str, response_id: str, server: McpTool) -> ToolHost:
        del tenant, response_id
        host = self._named.get(server.server_url or "")
        if host is None:
            raise ToolError(f"{server.server_url} cannot be reached", code="tool_unreachable", sent=False)
        return host

    def data_zone(self, label: str) -> str:
        return self.zones.get(label, "")
