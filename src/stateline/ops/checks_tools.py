"""What the doctor looks at of agents and their tools: servers, secrets of the vault, policies, the sandbox."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from stateline.config import Config, ConfigError, McpServer, vault_keys
from stateline.core.errors import StatelineError, StoreUnavailable
from stateline.core.ids import SYSTEM_TENANT
from stateline.core.limits import DOCTOR_PROBE_S, DOCTOR_PROBES
from stateline.core.secrets import REFERENCE, Secret
from stateline.core.tools import ToolError
from stateline.ops.findings import Finding, fail, ok, warn
from stateline.store_logs import read_logs
from stateline.stores.logs import Wanted
from stateline.tool_hosts import egress_of, function_secrets_of, mcp_server_of
from stateline.tools.egress import Egress
from stateline.tools.mcp import McpHost
from stateline.tools.mcp_hosts import McpHosts
from stateline.tools.mcp_server import McpServer as Served
from stateline.tools.mcp_vault import VaultHost

if TYPE_CHECKING:
    from stateline.identity.vault import Sealed

T = TypeVar("T")

_TODO = {
    "tool_host_denied": "see allow_hosts in docs/tools.md",
    "tool_unreachable": "check its url or command, the network, and whether it runs",
    "tool_auth_refused": "give it a credential that holds",
    "tool_timeout": "look at what it does, or raise connect_timeout_s",
}


def _run(coroutine: Callable[[], Awaitable[T]]) -> T:
    """Its result, from a thread of its own, since the caller's may have an event loop that runs."""

    async def main() -> T:
        return await coroutine()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(main())).result()


# -- what is on this machine -----------------------------------------------------------------------------


def policy(config: Config) -> Iterator[Finding]:
    """The policies validate."""
    if config.policy is None:
        if config.uses_tools:
            todo = "write policies, see docs/policies.md"
            yield warn("policy", "none is set: nothing but its host stands between a tool and a call of it", todo)
        return
    from stateline.identity.policy import PolicyError, load_policy

    try:
        found = load_policy(Path(config.policy.path), mode=config.policy.mode)
    except PolicyError as error:
        yield fail("policy", error.message, "mend it; `stateline policy check` says more")
    else:
        yield ok("policy", f"{len(found.names)} policies in {config.policy.path} are valid ({config.policy.mode})")


def functions(config: Config) -> Iterator[Finding]:
    """The operator's own tools can be loaded. That runs their packages, as the server does."""
    if not (names := config.tools.functions):
        return
    from stateline.tools.functions import FunctionsInvalid, check_secrets, load

    try:
        offers = load(names)
        check_secrets(offers, function_secrets_of(config))
    except FunctionsInvalid as error:
        yield fail("tools", " ".join(error.message.split()), "see docs/tools-python.md")
    else:
        yield ok("tools", f"{len(offers)} loaded: {', '.join(sorted(offers))}")


def sandbox(config: Config) -> Iterator[Finding]:
    """Code can be run in a sandbox here: nothing is, to see it."""
    if not config.sandbox.enabled:
        return
    from stateline.tools.sandbox import Unavailable, try_out

    try:
        _run(try_out)
    except Unavailable as error:
        yield fail("sandbox", f"it cannot work here: {error.why}", error.todo)
    else:
        yield ok("sandbox", "a program that does nothing ran in it")


def agents(config: Config) -> Iterator[Finding]:
    """The servers that agents use are there."""
    known = {each.label for each in config.mcp_servers}
    known |= {"functions"} if config.tools.functions else set()
    known |= {"sandbox"} if config.sandbox.enabled else set()
    missing = False
    for agent in config.agents:
        for label in [each.server for each in agent.tools if each.server not in known]:
            missing = True
            todo = {"sandbox": "set sandbox.enabled", "functions": "name functions in [tools]"}.get(label)
            what = f"its server {label} is not there, so each of its turns fails"
            yield fail(f"agent {agent.name}", what, todo or "add it to [[mcp_servers]], or take it out of the agent")
    if config.agents and not missing:
        yield ok("agents", f"{len(config.agents)} configured, and all servers that they use are")


# -- the vault -------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """The vault as it is read here, beside a server that may run.

    Attributes:
        tenants: who has a secret that opens, by its name.
    """

    tenants: dict[str, list[str]]
    secrets: dict[tuple[str, str], Secret]

    async def open(self, tenant: str, name: str) -> Secret:
        found = self.secrets.get((tenant, name))
        if found is None:
            raise StatelineError("It does not open.", code="secret_not_found")
        return found


def vault(config: Config) -> tuple[list[Finding], Found]:
    """Its keys can be read, all secrets open, and each that is named is there."""
    findings: list[Finding] = []
    found = Found({}, {})
    wanted = _references(config)
    if config.vault is None:
        return findings, found
    from stateline.identity.vault import Sealed, master_keys

    try:
        keys = master_keys(vault_keys(config.vault, os.environ))
        sealed = Sealed(keys)
        _run(lambda: _read(config, sealed))
    except StatelineError as error:
        todo = "give the server's user the file or variable; `stateline vault key` makes a key"
        if isinstance(error, StoreUnavailable):
            todo = "see the findings of the database"
        return [fail("vault", " ".join(str(error).split()), todo)], found
    for tenant, name in sorted(sealed.records):
        try:
            found.secrets[tenant, name] = sealed.open(tenant, name)
            found.tenants.setdefault(name, []).append(tenant)
        except StatelineError as error:
            findings.append(fail("vault", error.message, f"see {error.code} in docs/errors.md"))
    if not findings:
        tenants = {tenant for tenant, _ in found.secrets}
        what = f"master keys: {len(keys)}; secrets: {len(found.secrets)}, of tenants: {len(tenants)}; all open"
        findings.append(ok("vault", what))
    for name, users in sorted(wanted.items()):
        check, used = f"{REFERENCE}{name}", f"used by {', '.join(users)}"
        if tenants_of_it := found.tenants.get(name):
            findings.append(ok(check, f"{used}; there for {', '.join(tenants_of_it)}"))
        else:
            todo = f"store it with `stateline vault set {name} --tenant TENANT`"
            findings.append(fail(check, f"{used}; no tenant has it, so no call is made", todo))
    return findings, found


def _references(config: Config) -> dict[str, list[str]]:
    """Who names each secret, by its name."""
    found: dict[str, list[str]] = {}
    for server in config.mcp_servers:
        named = mcp_server_of(server, {}).vault
        for name in named.names if named is not None else ():
            found.setdefault(name, []).append(f"MCP server {server.label}")
    for function, names in function_secrets_of(config).items():
        for name in names:
            found.setdefault(name, []).append(f"tool {function}")
    return found


async def _read(config: Config, sealed: Sealed) -> None:
    """Fold the vault's log into ``sealed``; what is not there yet has no secrets."""
    from stateline.identity.vault import VAULT_SESSION

    wanted = Wanted(("secret_stored", "secret_removed"), tenant=SYSTEM_TENANT)
    try:
        async with aclosing(read_logs(config.store, wanted)) as pages:
            async for page in pages:
                for event in page.events:
                    if event.session == VAULT_SESSION:
                        sealed.apply(event)
    except StoreUnavailable as error:
        if error.code != "store_missing":
            raise


# -- MCP servers -----------------------------------------------------------------------------------------


def servers(config: Config, found: Found, *, probe: bool) -> Iterable[Finding]:
    """Each can be asked by this machine; where that is wished it is asked, all side by side."""
    if not config.mcp_servers:
        return []
    egress = egress_of(config)
    looked: list[Finding | Served] = [_looked_at(each, egress, probe=probe) for each in config.mcp_servers]
    asking = [each for each in looked if isinstance(each, Served)]
    asked = iter(_run(lambda: _asked(asking, egress, found)) if asking else ())
    return [each if isinstance(each, Finding) else next(asked) for each in looked]


def _name(label: str) -> str:
    return f"MCP server {label}"


def _looked_at(item: McpServer, egress: Egress, *, probe: bool) -> Finding | Served:
    """What is wrong with it without asking it; itself, if it is to be asked."""
    name = _name(item.label)
    server = mcp_server_of(item, os.environ)
    try:
        server.headers()
        server.env()
        if server.url is not None:
            egress.check_url(server.url)
    except ConfigError as error:
        return fail(name, str(error), "set the variable for the server's process, or write the file")
    except ToolError as error:
        return fail(name, error.message, _TODO["tool_host_denied"])
    if server.url is None and not os.access(server.command[0], os.X_OK):
        return fail(name, f"{server.command[0]} is not there, or may not be run", "install it, or mend its path")
    if probe:
        return server
    where = server.url or server.command[0]
    return ok(name, f"{where} may be asked, and was not; --probe asks it for its tools")


async def _asked(asked: list[Served], egress: Egress, found: Found) -> list[Finding]:
    places = asyncio.Semaphore(DOCTOR_PROBES)

    async def one(server: Served) -> Finding:
        async with places:
            return await _ask(server, egress, found)

    return await asyncio.gather(*(one(each) for each in asked))


async def _ask(server: Served, egress: Egress, found: Found) -> Finding:
    """Connect, begin a session and list the tools, in the name of the first tenant that has all of its secrets."""
    name, tenant = _name(server.label), ""
    if server.vault is not None:
        having = [set(found.tenants.get(each, ())) for each in server.vault.names]
        both = sorted(set[str].intersection(*having))
        if not both:
            todo = "store them for a tenant that uses it"
            return warn(name, "it was not asked: no tenant has all of its secrets in the vault", todo)
        tenant = both[0]
    hosts = McpHosts([server], egress, vault=found)
    try:
        async with asyncio.timeout(DOCTOR_PROBE_S):
            host = hosts.of(server.label, tenant)
            if isinstance(host, VaultHost):
                host = await host.host()
            assert isinstance(host, McpHost)
            tools = await host.tools()
            said = f"{len(tools)} tools, MCP {host.protocol_version}"
        return ok(name, f"{said}{f', asked for the tenant {tenant}' if tenant else ''}")
    except ToolError as error:
        return fail(
            name, error.message.removeprefix(f"{name}: "), _TODO.get(error.code, f"see {error.code} in docs/errors.md")
        )
    except TimeoutError:
        return fail(name, f"it gave no list of tools within {DOCTOR_PROBE_S:g} s", _TODO["tool_timeout"])
    finally:
        await hosts.close()


def tools(config: Config, *, probe: bool) -> Iterator[Finding]:
    """All of it. A server that is asked may be one of many that each tenant has credentials of its own for."""
    yield from functions(config)
    yield from sandbox(config)
    yield from policy(config)
    yield from agents(config)
    findings, found = vault(config)
    yield from findings
    yield from servers(config, found, probe=probe)
