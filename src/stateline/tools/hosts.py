"""The hosts that need nothing but this machine, as the configuration has them; each is imported only where it is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stateline.core.limits_tools import SandboxLimits
from stateline.ports import ToolHost
from stateline.tools.credentials import OpensSecrets


def local_hosts(
    *,
    functions: Sequence[str],
    functions_at_once: int,
    function_timeout_s: float,
    function_secrets: Mapping[str, frozenset[str]],
    vault: OpensSecrets | None,
    workspaces: Path | None,
    limits: SandboxLimits,
) -> list[ToolHost]:
    """The operator's functions, if any are named, and the sandbox, if it has a folder for its workspaces.

    Raises:
        FunctionsInvalid: a function cannot be loaded, or asks for a secret that it may not have. Whether the sandbox
            can work, its first use says.
    """
    hosts: list[ToolHost] = []
    if functions:
        from stateline.tools.functions import Functions, check_secrets, load

        offers = load(functions)
        check_secrets(offers, function_secrets)
        hosts.append(Functions(offers, at_once=functions_at_once, timeout_s=function_timeout_s, vault=vault))
    if workspaces is not None:
        from stateline.tools.sandbox import Sandbox

        hosts.append(Sandbox(workspaces, limits))
    return hosts
