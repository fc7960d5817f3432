"""What agents and their tools come to, of what the configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from stateline import config as settings
from stateline.core.ids import digest
from stateline.core.limits import INSTRUCTIONS_BYTES_MAX
from stateline.core.tools import Agent, McpTool


def agents_of(config: settings.Config) -> Mapping[str, Agent]:
    """The configured agents by name, each with a version of its own where none is given.

    Raises:
        ConfigError: ``agent_unreadable``: its file of instructions cannot be read.
    """
    return {each.name: _agent(each) for each in config.agents}


def _agent(item: settings.Agent) -> Agent:
    agent = Agent(
        name=item.name,
        version=item.version or "",
        model=item.model,
        instructions=_instructions(item),
        description=item.description,
        tools=tuple(
            McpTool(server_label=each.server, allowed_tools=each.allowed_tools, require_approval=each.require_approval)
            for each in item.tools
        ),
        max_output_tokens=item.max_output_tokens,
        max_tool_calls=item.max_tool_calls,
    )
    if agent.version:
        return agent
    return msgspec.structs.replace(agent, version=digest(msgspec.json.encode(agent))[:12])


def _instructions(item: settings.Agent) -> str:
    if item.instructions_file is None:
        return item.instructions or ""
    path = Path(item.instructions_file)
    try:
        raw = path.read_bytes()
        if len(raw) > INSTRUCTIONS_BYTES_MAX:
            raise ValueError(f"it has more than {INSTRUCTIONS_BYTES_MAX} bytes")
        return raw.decode()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise settings.ConfigError(
            "agent_unreadable", f"the instructions of the agent {item.name!r} in {path}: {why}"
        ) from None
