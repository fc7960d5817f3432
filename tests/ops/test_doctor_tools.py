"""The doctor looks at tools: servers that answer or do not, secrets of the vault, policies, agents."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from tests.crash.harness import free_port
from tests.ops.server import stateline
from tests.ops.test_doctor import examined
from tests.tools.mcp_servers import Seen, odd, shop

from stateline.config import Config, load
from stateline.core.secrets import Secret
from stateline.identity.raw_keys import new_key
from stateline.identity.vault import Vault, master_keys
from stateline.ops import checks_tools
from stateline.ops.findings import Finding
from stateline.stores.clock import SystemClock
from stateline.stores.sqlite import open_sqlite
from stateline.testing.postgres_server import PostgresServer

ROOT = Path(__file__).parent.parent.parent
PLANTED = "doctor-planted-61c2"
VAULT = '[vault]\nkey_file = "master.key"\n'
TOOLS = '[tools]\nallow_hosts = ["127.0.0.1", "localhost"]\nallow_commands = ["{python}", "/no/such/program"]\n'
SERVER = '[[mcp_servers]]\nlabel = "{label}"\nurl = "{url}"\n'
PROGRAM = '[[mcp_servers]]\nlabel = "{label}"\ncommand = "{command}"\nargs = ["-m", "tests.tools.mcp_servers"]\n'


def tools_of(python: str = sys.executable) -> str:
    return TOOLS.format(python=python)


async def probed(folder: Path, text: str) -> dict[str, Finding]:
    return await asyncio.to_thread(lambda: examined(folder, text, probe=True))


async def with_secrets(folder: Path, *stored: tuple[str, str]) -> None:
    """A database whose vault has these, by tenant and name."""
    key = new_key(os.urandom)
    (folder / "master.key").write_text(key + "\n")
    store = await open_sqlite(folder / "stateline.db")
    vault = Vault(store, SystemClock(), os.urandom, master_keys(key))
    for tenant, name in stored:
        await vault.put(tenant, name, Secret(PLANTED))
    await store.close()


async def test_servers_are_asked_side_by_side_and_each_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    async def refuses(message: dict[str, Any], request: Request) -> Response | None:
        del message, request
        return Response(status_code=403)

    async with shop(Seen()) as url, odd(refuses) as (closed, _):
        text = tools_of() + "".join(
            SERVER.format(label=label, url=where)
            for label, where in {
                "good": url,
                "closed": closed,
                "away": f"http://127.0.0.1:{free_port()}/mcp",
                "nowhere": url.replace("/mcp", "/elsewhere"),
            }.items()
        )
        text += PROGRAM.format(label="program", command=sys.executable)
        text += PROGRAM.format(label="missing", command="/no/such/program")
        text += SERVER.format(label="unset", url=url) + 'token_env = "NOT_SET_HERE"\n'
        found = await probed(tmp_path, text)
    said = {name.removeprefix("MCP server "): each for name, each in found.items() if name.startswith("MCP server")}
    assert list(said) == ["good", "closed", "away", "nowhere", "program", "missing", "unset"]
    assert {name for name, each in said.items() if each.state == "ok"} == {"good", "program"}
    assert said["good"].message == "12 tools, MCP 2026-07-28"
    assert said["program"].message.startswith("12 tools, MCP 20")
    assert "403" in said["closed"].message
    assert said["closed"].todo == "give it a credential that holds"
    assert "cannot be connected to" in said["away"].message
    assert said["missing"].message == "/no/such/program is not there, or may not be run"
    assert "NOT_SET_HERE is not set" in said["unset"].message


async def test_without_the_wish_nobody_is_asked(tmp_path: Path) -> None:
    async def rule(message: dict[str, Any], request: Request) -> Response | None:
        raise AssertionError

    async with odd(rule) as (url, server):
        found = examined(tmp_path, tools_of() + SERVER.format(label="a", url=url))["MCP server a"]
        assert server.asked == []
    assert (found.state, found.message) == ("ok", f"{url} may be asked, and was not; --probe asks it for its tools")


async def test_a_server_that_does_not_answer_takes_no_longer_than_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks_tools, "DOCTOR_PROBE_S", 0.3)
    monkeypatch.setattr(checks_tools, "DOCTOR_PROBES", 2)

    async def waits(message: dict[str, Any], request: Request) -> Response | None:
        del message, request
        await asyncio.sleep(3)
        return None

    async with odd(waits) as (url, _):
        text = tools_of() + "".join(SERVER.format(label=f"s{at}", url=url) for at in range(3))
        found = await probed(tmp_path, text)
    for at in range(3):
        assert found[f"MCP server s{at}"].message == "it gave no list of tools within 0.3 s"


async def test_each_secret_that_is_named_is_looked_for_and_none_is_told(tmp_path: Path) -> None:
    await with_secrets(tmp_path, ("acme", "token"), ("shop", "token"), ("shop", "other"))
    seen = Seen()
    async with shop(seen) as url:
        text = VAULT + tools_of() + SERVER.format(label="a", url=url)
        text += 'authorization = "vault:token"\nheaders = {X-Other = "vault:other"}\n'
        text += SERVER.format(label="b", url=url) + 'authorization = "vault:lost"\n'
        found = await probed(tmp_path, text)
    assert found["vault"].message == "master keys: 1; secrets: 3, of tenants: 2; all open"
    assert found["vault:token"].message == "used by MCP server a; there for acme, shop"
    assert found["vault:other"].message == "used by MCP server a; there for shop"
    assert (found["vault:lost"].state, found["MCP server b"].state) == ("fail", "warn")
    assert "vault set lost --tenant" in found["vault:lost"].todo
    assert found["MCP server a"].message == "12 tools, MCP 2026-07-28, asked for the tenant shop"
    assert PLANTED not in repr(found)


async def test_a_vault_that_cannot_be_read_or_does_not_open_is_a_failure(tmp_path: Path) -> None:
    found = examined(tmp_path, VAULT)["vault"]
    assert found.state == "fail"
    assert "master.key cannot be read" in found.message
    (tmp_path / "master.key").write_text("not a key\n")
    assert examined(tmp_path, VAULT)["vault"].state == "fail"
    (tmp_path / "master.key").write_text(new_key(os.urandom))
    found = examined(tmp_path, VAULT)["vault"]
    assert found.message == "master keys: 1; secrets: 0, of tenants: 0; all open"
    await with_secrets(tmp_path, ("acme", "token"))
    (tmp_path / "master.key").write_text(new_key(os.urandom))
    found = examined(tmp_path, VAULT)["vault"]
    assert (found.state, found.todo) == ("fail", "see vault_key_missing in docs/errors.md")
    (tmp_path / "stateline.db").write_bytes(b"something else")
    found = examined(tmp_path, VAULT)["vault"]
    assert (found.state, found.todo) == ("fail", "see the findings of the database")


async def test_the_vault_of_a_postgres_is_read(tmp_path: Path, postgres: PostgresServer) -> None:
    from stateline.stores.postgres import open_postgres

    key = new_key(os.urandom)
    (tmp_path / "master.key").write_text(key)
    store = await open_postgres(postgres.url(tcp=True))
    await Vault(store, SystemClock(), os.urandom, master_keys(key)).put("acme", "token", Secret(PLANTED))
    await store.close()
    text = f'{VAULT}[store]\nurl_env = "VAULTS_STORE"\n'
    config = tmp_path / "stateline.toml"
    config.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAULTS_STORE", postgres.url(tcp=True))
        made = load(config, os.environ)
        [finding], found = await asyncio.to_thread(lambda: checks_tools.vault(made))
    assert finding.message == "master keys: 1; secrets: 1, of tenants: 1; all open"
    assert found.tenants == {"token": ["acme"]}


@pytest.mark.parametrize(
    ("policy", "state", "words"),
    [("permit(principal, action, resource);", "ok", "1 policies"), ("permit(", "fail", "")],
)
def test_policies_are_validated(tmp_path: Path, policy: str, state: str, words: str) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "all.cedar").write_text(policy)
    found = examined(tmp_path, '[policy]\npath = "policies"\n')["policy"]
    assert found.state == state
    assert words in found.message
    assert examined(tmp_path, '[tools]\nallow_hosts = ["a.example"]\n')["policy"].state == "warn"


def test_a_server_that_an_agent_uses_and_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    agent = '[[agents]]\nname = "{name}"\nmodel = "m"\ntools = [{{server = "{server}"}}]\n'
    model = '[[deployments]]\nname = "d"\nmodel = "m"\ncloud = "openai"\napi_key_env = "K"\n'
    servers = {"clerk": "shop", "coder": "sandbox", "caller": "functions"}
    text = model + "".join(agent.format(name=name, server=server) for name, server in servers.items())
    found = examined(tmp_path, text)
    assert {name: found[f"agent {name}"].state for name in servers} == dict.fromkeys(servers, "fail")
    assert found["agent coder"].todo == "set sandbox.enabled"
    here = tools_of() + SERVER.format(label="shop", url="http://127.0.0.1:9/mcp")
    found = examined(tmp_path, here + model + agent.format(name="clerk", server="shop"))
    assert found["agents"].state == "ok"


def test_secrets_of_functions_are_held_against_what_they_may_have(tmp_path: Path) -> None:
    text = f'{VAULT}[tools]\nfunctions = ["tests.tools.test_functions:charge"]\n'
    found = examined(tmp_path, text)["tools"]
    assert (found.state, "vault:pay" in found.message) == ("fail", True)
    (tmp_path / "master.key").write_text(new_key(os.urandom))
    found = examined(tmp_path, text + 'function_secrets = {charge = ["vault:pay"]}\n')
    assert (found["tools"].state, found["vault:pay"].message) == (
        "ok",
        "used by tool charge; no tenant has it, so no call is made",
    )


async def test_the_command_says_it_and_exits_with_1(tmp_path: Path) -> None:
    config = tmp_path / "stateline.toml"
    text = tools_of() + SERVER.format(label="away", url=f"http://127.0.0.1:{free_port()}/mcp")
    config.write_text(f"[server]\nport = {free_port()}\n{text}")
    said = await stateline(config, "doctor", "--probe")
    assert said.code == 1
    assert "\nfail MCP server away: it cannot be connected to; check its url" in said.out
    assert (await stateline(config, "doctor")).code == 0


def test_nothing_is_looked_at_where_nothing_is_configured() -> None:
    assert list(checks_tools.tools(Config(), probe=True)) == []
