"""What agents and their tools come to, of what the configuration says."""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stateline import config as settings
from stateline.core.approvals import Sealer
from stateline.core.ids import SessionRef, digest
from stateline.core.limits import TOLD_TURNS_MAX
from stateline.core.tools import Agent, McpTool, ToolError
from stateline.engine.tooling import Toolbox
from stateline.ports import Policy, ToolHost
from stateline.tool_hosts import function_secrets_of, mcp_hosts_of
from stateline.tools.credentials import OpensSecrets
from stateline.tools.hosts import local_hosts
from stateline.tools.mcp_hosts import McpHosts
from stateline.tools.mcp_hosts import McpTool as NamedServer

if TYPE_CHECKING:
    from stateline.identity.policy import CedarPolicy


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
        instructions=settings.instructions_of(item),
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


class HouseHosts:
    """The tool hosts of a process: the operator's by their labels, and those that requests name.

    Args:
        mcp: the MCP servers.
        others: hosts that are no servers, by label.
    """

    def __init__(
        self,
        mcp: McpHosts,
        zones: Mapping[str, str],
        others: Mapping[str, ToolHost] | None = None,
        *,
        before: HouseHosts | None = None,
    ) -> None:
        self._mcp = mcp
        self._zones = zones
        self._others: Mapping[str, ToolHost] = others or {}
        self._told: OrderedDict[str, Mapping[str, Mapping[str, str]]]
        self._told = OrderedDict() if before is None else before._told

    def own(self, label: str, tenant: str) -> ToolHost | None:
        return self._others.get(label) or self._mcp.of(label, tenant)

    def tell(self, response_id: str, headers: Mapping[str, Mapping[str, str]]) -> None:
        self._told[response_id] = headers
        while len(self._told) > TOLD_TURNS_MAX:
            self._told.popitem(last=False)

    def named(self, tenant: str, response_id: str, server: McpTool) -> ToolHost:
        headers = self._told.get(response_id, {}).get(server.server_label)
        if headers is None and server.secret:
            raise ToolError(
                "the headers that its request brought for it are gone; send a request with them anew",
                code="tool_credentials_lost",
                sent=False,
            )
        named = NamedServer(
            server_label=server.server_label,
            server_url=server.server_url,
            headers=dict(headers or {}),
            allowed_tools=server.allowed_tools,
        )
        return self._mcp.named(tenant, named)

    def data_zone(self, label: str) -> str:
        return self._zones.get(label, "")

    async def forget(self, erased: Iterable[SessionRef]) -> None:
        """Erase what hosts keep for sessions that are erased: the sandbox, their workspaces."""
        for host in self._others.values():
            forget = getattr(host, "forget", None)
            if forget is not None:
                for ref in erased:
                    await forget(ref.id)

    async def close(self) -> None:
        await self._mcp.close()
        for host in self._others.values():
            await host.close()


def hosts_of(
    config: settings.Config,
    vault: OpensSecrets | None,
    environ: Mapping[str, str] = os.environ,
    *,
    before: HouseHosts | None = None,
) -> HouseHosts:
    """The configured hosts. Nothing is connected yet.

    Args:
        vault: opens those of their secrets that are in it.
        before: those that they replace; what turns under way have told these, they know.

    Raises:
        ConfigError: a secret is not where the configuration says.
    """
    zones = {each.label: each.data_zone or "" for each in config.mcp_servers}
    tools, sandbox = config.tools, config.sandbox
    local = local_hosts(
        functions=tools.functions,
        functions_at_once=tools.functions_at_once,
        function_timeout_s=tools.function_timeout_s,
        function_secrets=function_secrets_of(config),
        vault=vault,
        workspaces=Path(sandbox.path) if sandbox.enabled else None,
        limits=sandbox,
    )
    return HouseHosts(mcp_hosts_of(config, vault, environ), zones, {each.label: each for each in local}, before=before)


def toolbox_of(config: settings.Config, hosts: HouseHosts, policy: Policy | None) -> Toolbox:
    """What tool calls are made with.

    Raises:
        ConfigError: a key is not where the configuration says, or is none.
    """
    return Toolbox(hosts, sealer_of(config), policy, config.tools.output_shown_bytes)


def sealer_of(config: settings.Config, environ: Mapping[str, str] = os.environ) -> Sealer:
    """The keys that seal what persons are asked: the configured ones, or one that a file beside the database holds."""
    text = settings.approval_keys(config.approvals, environ)
    if text is None and config.uses_tools and config.store.path is not None:
        text = _own_key(config.store.path)
    if text is None:
        # There are no tools: nothing is ever sealed.
        text = secrets.token_urlsafe(32)
    keys: dict[str, bytes] = {}
    for line in text.split():
        key_id, _, key = line.rpartition(":")
        keys[key_id or digest(key.encode())[:8]] = key.encode()
    try:
        return Sealer(keys, next(iter(keys)))
    except ValueError as error:
        raise settings.ConfigError("config_secret", f"approvals: {error}") from None


def _own_key(database: Path) -> str:
    """The key in the file beside a database, made the first time; readable by this user alone."""
    path = database.with_name(database.name + ".approvals-key")
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        key = secrets.token_urlsafe(32)
    except (OSError, ValueError) as error:
        raise settings.ConfigError("config_secret_missing", f"approvals: {path} cannot be read: {error}") from None
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # Another process was first.
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise settings.ConfigError("config_unreadable", f"approvals: {path}: {error.strerror}") from None
    with os.fdopen(file, "w", encoding="ascii") as out:
        out.write(key + "\n")
        out.flush()
        os.fsync(out.fileno())
    return key


def tool_policy(config: settings.Config) -> CedarPolicy | None:
    """The policies that the configuration names for tool calls; None where it names none.

    Raises:
        PolicyError: a file cannot be read, or does not validate; in one line, with its place.
    """
    if config.policy is None:
        return None
    # The engine behind policies is a library of 16 MB, which nobody else need load.
    from stateline.identity.policy import load_policy

    return load_policy(Path(config.policy.path), mode=config.policy.mode)
