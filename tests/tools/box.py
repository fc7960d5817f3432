"""A sandbox for tests, and what runs in it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stateline.core.limits_tools import SandboxLimits
from stateline.core.tools import ToolCall, ToolResult
from stateline.tools.sandbox import Sandbox, Unavailable, try_out

_keys = itertools.count()


def _why_not() -> str:
    try:
        asyncio.run(try_out())
    except Unavailable as error:
        return error.message
    return ""


WHY_NOT = _why_not()
needs_sandbox = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it works")


def call(tool: str, text: str, *, key: str = "", session: str = "one", **more: Any) -> ToolCall:
    name = "code" if tool == "run_python" else "command"
    arguments = msgspec.json.encode({name: text}).decode()
    return ToolCall(
        tool=tool, arguments=arguments, key=key or f"key/{next(_keys)}", tenant="default", session=session, **more
    )


async def python(box: Sandbox, code: str, **more: Any) -> ToolResult:
    return await box.call(call("run_python", code, **more))


async def shell(box: Sandbox, command: str, **more: Any) -> ToolResult:
    return await box.call(call("run_shell", command, **more))


@contextlib.asynccontextmanager
async def sandbox(folder: Path, **limits: Any) -> AsyncGenerator[Sandbox]:
    box = Sandbox(folder / "workspaces", SandboxLimits(**limits))
    try:
        yield box
    finally:
        await box.close()


def processes_with(marker: str) -> list[int]:
    """Processes of this machine whose command line has a marker."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
    return found


async def until(marker: str, least: int = 1, most: int = 1000) -> None:
    """Wait until as many processes have a marker: the kernel takes a moment to begin and to end a namespace."""
    async with asyncio.timeout(30):
        while not least <= len(processes_with(marker)) <= most:  # noqa: ASYNC110 - other programs set no event
            await asyncio.sleep(0.02)


async def none_with(marker: str) -> None:
    await until(marker, 0, 0)
