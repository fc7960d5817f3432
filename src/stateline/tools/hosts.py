"""The hosts that need nothing but this machine, as the configuration has them; each is imported only where it is on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stateline.core.limits_tools import SandboxLimits
from stateline.ports import ToolHost


def local_hosts(
    *,
    functions: Sequence[str],
    functions_at_once: int,
    function_timeout_s: float,
    workspaces: Path | None,
    limits: SandboxLimits,
) -> list[ToolHost]:
    """The operator's functions, if any are named, and the sandbox, if it has a folder for its workspaces.

    Raises:
        FunctionsInvalid: a function cannot be loaded. Whether the sandbox can work, its first use says.
    """
    hosts: list[ToolHost] = []
    if functions:
        from stateline.tools.functions import Functions, load

        hosts.append(Functions(load(functions), at_once=functions_at_once, timeout_s=function_timeout_s))
    if workspaces is not None:
        from stateline.tools.sandbox import Sandbox

        hosts.append(Sandbox(workspaces, limits))
    return hosts
