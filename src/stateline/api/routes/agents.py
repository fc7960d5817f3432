"""``/v1/agents``: the operator's agents, used as models named ``agent/NAME``."""

from __future__ import annotations

from typing import Literal

import msgspec

from stateline.api.call import Call
from stateline.api.service import Service
from stateline.core.errors import NotFound
from stateline.core.tools import AGENT_PREFIX, Agent


class AgentTools(msgspec.Struct, frozen=True, kw_only=True):
    """A server whose tools the agent uses; ``allowed_tools`` None: all of them."""

    server_label: str
    allowed_tools: tuple[str, ...] | None
    require_approval: Literal["always", "never"]


class AgentObject(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as callers see it; what it is told to be is the operator's alone.

    Attributes:
        id: what a request names as its model.
        model: what it runs on.
    """

    id: str
    object: Literal["agent"] = "agent"
    name: str
    version: str
    model: str
    description: str
    tools: tuple[AgentTools, ...]
    max_output_tokens: int | None
    max_tool_calls: int | None


class AgentList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[AgentObject, ...]


async def list_agents(service: Service, call: Call) -> None:
    agents = service.engine.agents
    await call.reply_json(AgentList(data=tuple(_object(agents[name]) for name in sorted(agents))))


async def retrieve(service: Service, call: Call) -> None:
    name = call.path_params["name"]
    agent = service.engine.agents.get(name)
    if agent is None:
        raise NotFound(f"Agent '{name[:128]}' not found.", code="agent_not_found", param="name")
    await call.reply_json(_object(agent))


def _object(agent: Agent) -> AgentObject:
    return AgentObject(
        id=AGENT_PREFIX + agent.name,
        name=agent.name,
        version=agent.version,
        model=agent.model,
        description=agent.description,
        tools=tuple(
            AgentTools(
                server_label=each.server_label,
                allowed_tools=each.allowed_tools,
                require_approval=each.require_approval,
            )
            for each in agent.tools
        ),
        max_output_tokens=agent.max_output_tokens,
        max_tool_calls=agent.max_tool_calls,
    )
