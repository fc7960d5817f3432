"""What may be set of tools and MCP servers, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stateline.config import ConfigError, load
from stateline.config.schema import LOCAL_MODEL
from stateline.core.limits import MCP_HEADERS_MAX

ALLOWED = '[tools]\nallow_hosts = ["shop.example", "[::1]:9000"]\nallow_commands = ["/bin/shop"]\n'
SHOP = f'{ALLOWED}[[mcp_servers]]\nlabel = "shop"\nurl = "https://shop.example/mcp"\n'
STARTED = f'{ALLOWED}[[mcp_servers]]\nlabel = "shop"\ncommand = "/bin/shop"\n'
VAULT = '[vault]\nkey_env = "MASTER_KEY"\n'
VARIABLES = ", ".join(f'V{number} = "vault:a"' for number in range(MCP_HEADERS_MAX + 1))
HEADERS = ", ".join(f'X-{number} = "v"' for number in range(MCP_HEADERS_MAX + 1))


def write(folder: Path, text: str) -> Path:
    file = folder / "stateline.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refused(folder: Path, text: str, code: str = "config_invalid") -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), {})
    assert caught.value.code == code, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_by_default_tools_connect_nowhere_and_nothing_is_started(tmp_path: Path) -> None:
    config = load(write(tmp_path, ""), {})
    assert (config.tools.allow_hosts, config.tools.allow_commands, config.mcp_servers) == ((), (), ())


def test_a_server_is_read_with_its_tools(tmp_path: Path) -> None:
    text = f"""{SHOP}token_file = "token"
headers = {{X-Team = "billing"}}
[mcp_servers.tools.refund]
effect = "idempotent"
read_back = {{tool = "find", key_argument = "key", where = {{found = true}}}}
"""
    (server,) = load(write(tmp_path, text), {}).mcp_servers
    assert server.token_file == str(tmp_path / "token")
    tool = server.tools["refund"]
    assert tool.effect == "idempotent"
    assert tool.read_back is not None
    assert (tool.read_back.tool, tool.read_back.key_field, tool.read_back.where) == ("find", None, {"found": True})


def test_a_program_is_read_with_its_arguments(tmp_path: Path) -> None:
    (server,) = load(write(tmp_path, f'{STARTED}args = ["--fast"]\nenv = ["SHOP_TOKEN"]\n'), {}).mcp_servers
    assert (server.command, server.args, server.env) == ("/bin/shop", ("--fast",), ("SHOP_TOKEN",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tools]\nallow_hosts = ["169.254.169.254"]\n', "credentials"),
        ('[tools]\nallow_hosts = ["https://a.example"]\n', "allow_hosts"),
        ('[tools]\nallow_commands = ["npx"]\n', "whole path"),
        (f'{SHOP}command = "/bin/shop"\n', "set one of them"),
        (f'{ALLOWED}[[mcp_servers]]\nlabel = "shop"\n', "set one of them"),
        (f'{SHOP}[[mcp_servers]]\nlabel = "shop"\nurl = "https://shop.example/"\n', "taken"),
        (SHOP.replace("https://shop", "https://other"), 'add "other.example:443" to tools.allow_hosts'),
        (SHOP.replace("https://shop.example", "http://[::1]:9001"), "allow_hosts"),
        (SHOP.replace("https://", "ftp://"), "http"),
        (SHOP.replace("/mcp", "/mcp#x"), "http"),
        (SHOP.replace("shop.example/", "0x7f.1/"), "four decimal numbers"),
        (SHOP.replace("shop.example/", "shop.example:99999/"), "host"),
        (SHOP.replace('label = "shop"', 'label = "a b"'), "label"),
        (SHOP.replace('label = "shop"', 'label = "Stateline"'), "Stateline's own"),
        (f'[[agents]]\nname = "a"\nmodel = "{LOCAL_MODEL}"\ntools = [{{server = "stateline"}}]\n', "Stateline's own"),
        ("[tools]\noutput_shown_bytes = 1023\n", "output_shown_bytes"),
        ("[tools]\noutput_shown_bytes = 8388609\n", "output_shown_bytes"),
        (f'{SHOP}args = ["x"]\n', "goes with a command"),
        (f'{SHOP}env = ["X"]\n', "goes with a command"),
        (f'{SHOP}headers = {{Host = "x"}}\n', "connection itself"),
        (f'{SHOP}headers = {{X-A = "a\\nb"}}\n', "printable"),
        (f"{SHOP}headers = {{{HEADERS}}}\n", str(MCP_HEADERS_MAX)),
        (f'{SHOP}token_env = "A"\ntoken_file = "b"\n', "token_env and token_file"),
        (f'{SHOP}token_env = "A"\nheaders_env = {{Authorization = "B"}}\n', "keep one"),
        (f'{SHOP}oauth = {{client_id = "a", issuer = "https://i.example"}}\n', "no secret or key"),
        (
            f'{SHOP}oauth = {{client_id = "a", issuer = "https://i.example", client_secret_env = "A", '
            'private_key_file = "b"}\n',
            "are given",
        ),
        (f'{SHOP}oauth = {{client_id = "a", issuer = "i", client_secret_env = "A"}}\n', "issuer"),
        (STARTED.replace('command = "/bin/shop"', 'command = "/bin/sh"'), "allow_commands"),
        (f'{STARTED}token_env = "A"\n', "goes with a url"),
        (f'{STARTED}headers = {{X-A = "a"}}\n', "goes with a url"),
        (f'{SHOP}[mcp_servers.tools.a]\nread_back = {{tool = "a", key_argument = "k"}}\n', "proves nothing"),
        (
            f'{SHOP}allowed_tools = ["b"]\n[mcp_servers.tools.a]\nread_back = {{tool = "b", key_argument = "k"}}\n',
            "allowed_tools",
        ),
        (f'{SHOP}[mcp_servers.tools.a]\neffect = "safe"\n', "mcp_servers"),
        (f'{SHOP}authorization = "vault:token"\n', "set [vault]"),
        (f'{VAULT}{SHOP}authorization = "vault:no/name"\n', "letters"),
        (f'{VAULT}{SHOP}authorization = "vault:a"\ntoken_file = "b"\n', "authorization and token_file"),
        (f'{VAULT}{SHOP}authorization = "vault:a"\nheaders = {{Authorization = "vault:b"}}\n', "keep one"),
        (f'{VAULT}{SHOP}env_vault = {{A = "vault:a"}}\n', "goes with a command"),
        (f'{VAULT}{STARTED}authorization = "vault:a"\n', "goes with a url"),
        (f'{VAULT}{STARTED}env = ["A"]\nenv_vault = {{A = "vault:a"}}\n', "in env as well"),
        (f"{VAULT}{STARTED}env_vault = {{{VARIABLES}}}\n", str(MCP_HEADERS_MAX)),
        (
            f'{VAULT}{SHOP}oauth = {{client_id = "a", issuer = "https://i.example", client_secret = "vault:a", '
            'private_key = "vault:b"}\n',
            "client_secret and private_key are given",
        ),
        (f'{VAULT}[tools]\nfunction_secrets = {{f = ["vault:"]}}\n', "letters"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        f'{SHOP}token = "sk-written-here"\n',
        f'{SHOP}token_env = "sk-written-here"\n',
        f'{SHOP}headers = {{X-Api-Key = "sk-written-here"}}\n',
        f'{SHOP}headers_env = {{X-Api-Key = "sk-written-here"}}\n',
        SHOP.replace("https://", "https://user:sk-written-here@"),
        f'{SHOP}oauth = {{client_id = "a", issuer = "https://i.example", client_secret_env = "sk-written-here"}}\n',
        f'{STARTED}env = ["TOKEN=sk-written-here"]\n',
        f'{VAULT}{SHOP}authorization = "sk-written-here"\n',
        f'{VAULT}{SHOP}oauth = {{client_id = "a", issuer = "https://i.example", private_key = "sk-written-here"}}\n',
        f'{VAULT}{STARTED}env_vault = {{A = "sk-written-here"}}\n',
        f'{VAULT}{STARTED}env_vault = {{"A=sk-written-here" = "vault:a"}}\n',
        f'{VAULT}[tools]\nfunction_secrets = {{f = ["sk-written-here"]}}\n',
    ],
)
def test_a_secret_that_is_written_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    assert "sk-written-here" not in refused(tmp_path, text, "config_secret")


@pytest.mark.parametrize(
    "text",
    [
        f'{SHOP}[mcp_servers.tools.a]\nefect = "read"\n',
        f'{SHOP}[mcp_servers.tools.a]\nread_back = {{tool = "b", key_argument = "k", key_feild = "k"}}\n',
        f'{SHOP}oauth = {{client_idd = "a"}}\n',
        f"{SHOP}[mcp_servers.toolz]\n",
    ],
)
def test_a_misspelt_key_is_refused_however_deep(tmp_path: Path, text: str) -> None:
    assert "did you mean" in refused(tmp_path, text, "config_unknown_key")
