"""Hosts that are made when they are asked for, and kept within a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from stateline.core.tools import ToolError
from stateline.tools.mcp import McpHost
from stateline.tools.mcp_errors import BUSY


class McpPool:
    """Hosts with their connections, by keys that tell apart who may share one.

    Args:
        most: how many are kept.
        idle_s: who has not been asked for this long is let go where room is made.
        what: they are, for the error that says that all have calls under way.
    """

    def __init__(self, most: int, idle_s: float, what: str) -> None:
        self._most = most
        self._idle_s = idle_s
        self._what = what
        self._hosts: dict[bytes, McpHost] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, key: bytes, make: Callable[[], McpHost]) -> McpHost:
        """The host of this key, made where there is none.

        Raises:
            ToolError: ``tool_busy`` where as many as are kept have calls under way.
        """
        host = self._hosts.pop(key, None)
        if host is None:
            self._make_room()
            host = make()
        self._hosts[key] = host  # At the end: what was asked for least lately is first.
        return host

    def _make_room(self) -> None:
        for key, host in list(self._hosts.items()):
            # Nothing is kept of who has not been asked for long: it holds tokens.
            if host.running or time.monotonic() - host.used_at < self._idle_s:
                break
            self._drop(key)
        if len(self._hosts) < self._most:
            return
        resting = next((key for key, host in self._hosts.items() if not host.running), None)
        if resting is None:
            raise ToolError(f"{self._most} {self._what}", code=BUSY, sent=False, retryable=True)
        self._drop(resting)

    def _drop(self, key: bytes) -> None:
        task = asyncio.ensure_future(self._hosts.pop(key).close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        hosts = list(self._hosts.values())
        self._hosts.clear()
        await asyncio.gather(*(host.close() for host in hosts), *self._tasks)
