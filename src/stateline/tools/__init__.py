"""Tools: the hosts that the engine calls, and what authors of tools in Python need (docs/tools-python.md)."""

from __future__ import annotations

from stateline.core.secrets import Secret
from stateline.tools.authoring import Context, ToolFailure, tool

__all__ = ["Context", "Secret", "ToolFailure", "tool"]
