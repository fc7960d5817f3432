"""Bounds of what runs for tools on this machine: the sandbox, and functions of the operator's own."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

SANDBOX_CODE_BYTES_MAX = 256 * 1024
"""UTF-8 bytes of the code or command of one run."""
SANDBOX_RESULTS_KEPT = 8
"""Answers kept beside a workspace, so that the same call is not run again."""
SANDBOX_GRACE_S = 20.0
"""To start a sandbox and to move its workspace, beside the time of the run itself; large workspaces have more."""
SANDBOX_SHM_BYTES = 16 * 1024 * 1024
"""Shared memory of one run, in ``/dev/shm``."""
SANDBOX_FILES_OPEN_MAX = 256
"""Files and sockets that one process in the sandbox has open."""
FUNCTION_OUTPUT_BYTES_MAX = 8_000 * 1024
"""UTF-8 bytes of what a function answers; the rest is cut off, with a note. With it, it is still recorded whole."""
TOOL_FUNCTION_S = 60.0
"""One run of a function, where neither it nor the configuration says otherwise."""
TOOL_FUNCTIONS_AT_ONCE = 16
"""Functions that run at once, and threads for those that are not async."""
TOOL_FUNCTIONS_MAX = 500
"""Functions that one server offers as tools."""
FUNCTION_SECRETS_MAX = 16
"""Secrets of the vault that one function may have."""
SECRETS_TOLD_MAX = 64
"""Values of the vault that are remembered of one connection, to be taken out of what its server says."""
SECRET_CHARS_SOUGHT_MIN = 4
"""A shorter value of the vault is not looked for in answers: that would tear holes into ordinary words."""
MCP_TENANT_SESSIONS_MAX = 256
"""Connections of one node to MCP servers with credentials of the vault, each of one tenant and one version of them;
past it the one that rested longest is closed."""
TOOL_OUTPUTS_TURN_BYTES_MAX = 64 * 1024 * 1024
"""What is kept of all answers of one turn's calls: they are in memory as long as the turn, and in its response."""
TOOL_OUTPUT_SHOWN_BYTES_MIN = 1024
"""The least that may be set of what a model is shown of one output: the line that says what is left out, and some."""
OUTPUT_SEARCH_CHARS_MAX = 100
"""A text that is looked for in an output."""
OUTPUT_EXCERPT_CHARS = 200
"""What is shown of a long line before a match in it, and after."""


class SandboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one run in the sandbox may take, and how many run at once."""

    wall_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """From its start to its end; then all its processes are killed."""
    memory_mb: Annotated[int, Meta(ge=64, le=1_000_000)] = 512
    """Memory of all its processes together, and address space of each."""
    disk_mb: Annotated[int, Meta(ge=1, le=100_000)] = 64
    """The workspace's content, and as much again of temporary files. Held in memory while it runs."""
    files_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    """Files and folders in the workspace, and as many temporary ones."""
    processes_max: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Processes and threads."""
    output_kb: Annotated[int, Meta(ge=1, le=8_000)] = 64
    """What is kept of its output: three quarters of the beginning, one of the end. The most is still recorded whole."""
    runs_max: Annotated[int, Meta(ge=1, le=1000)] = 4
    """Runs at once; others wait for their turn within the time of their call."""
