"""``stateline serve`` that is struck in the middle of a tool call, as a signal from outside may strike any process.

Where the file TOOL_STRIKE names is found, the process deletes it and sends itself what it says: ``SIGNAL PLACE TOOL``.
Places: ``before`` (the call is recorded as dispatched; nothing else was done), ``send`` (at the last step before the
host is told) and ``after`` (the tool has answered; nothing is recorded). TOOL ``*`` is any. FAULTS_LEASE_S makes the
lease another one. The product has no hooks for this.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stateline.core import limits

# Before anybody takes it over.
limits.LEASE_TTL_S = float(os.environ.get("FAULTS_LEASE_S") or limits.LEASE_TTL_S)

from stateline.cli import main  # noqa: E402
from stateline.core.tools import ToolCall, ToolResult  # noqa: E402
from stateline.engine.tooling import RunningTools  # noqa: E402
from stateline.ports import ToolHost  # noqa: E402

TRIGGER = Path(os.environ["TOOL_STRIKE"])
_call: Any = RunningTools._call  # pyright: ignore[reportPrivateUsage]


def strike(place: str, tool: str) -> None:
    """Be struck, if that is wanted here."""
    try:
        signum, wanted, name = TRIGGER.read_text().split()
    except FileNotFoundError:
        return
    if wanted == place and name in ("*", tool):
        TRIGGER.unlink()
        os.kill(os.getpid(), int(signum))


class Struck:
    """A host that is struck as it is called, or as it has answered."""

    def __init__(self, host: ToolHost) -> None:
        self._host = host

    async def call(self, call: ToolCall) -> ToolResult:
        strike("send", call.tool)
        result = await self._host.call(call)
        strike("after", call.tool)
        return result


async def struck_call(self: RunningTools, host: ToolHost, job: Any) -> Any:
    strike("before", job.call.tool)
    return await _call(self, Struck(host), job)


if __name__ == "__main__":
    RunningTools._call = struck_call  # pyright: ignore
    main()
