"""The rules that hold between what is set of tools."""

from __future__ import annotations

import posixpath

from stateline.config.checks_vault import check_function_secrets, check_references
from stateline.config.schema import Config, ConfigError, Source
from stateline.config.schema_tools import McpOAuth, McpServer
from stateline.config.secrets import VARIABLE, from_environ, split_url
from stateline.core.headers import fits, is_ours, may_be_secret
from stateline.core.hosted import reserved
from stateline.core.hosts import Named, canonical, may_ask, read_named
from stateline.core.limits import MCP_HEADERS_MAX
from stateline.core.secrets import REFERENCE


def check_tools(config: Config, source: Source) -> None:
    named = _check_hosts(config, source)
    for command in config.tools.allow_commands:
        if not posixpath.isabs(command):
            raise ConfigError(
                "config_invalid",
                f'{source.at("tools.allow_commands")}: "{command}" is no whole path',
                "write where the program is, such as /usr/local/bin/mcp-tickets: what PATH finds is anybody's guess",
            )
    check_function_secrets(config, source)
    seen: set[str] = set()
    for index, server in enumerate(config.mcp_servers):
        at = f"mcp_servers[{index}]"
        if server.label in seen:
            where = source.at(f"{at}.label")
            raise ConfigError("config_invalid", f'{where}: "{server.label}" is taken', "each server has its own label")
        seen.add(server.label)
        if reserved(server.label):
            raise ConfigError(
                "config_invalid", f'{source.at(f"{at}.label")}: "{server.label}" is Stateline\'s own', "take another"
            )
        if (server.url is None) == (server.command is None):
            raise ConfigError(
                "config_invalid", f"{source.at(at)}: a server has a url, or a command that starts it", "set one of them"
            )
        if server.url is not None:
            _check_url(server, server.url, named, source, at)
        else:
            _check_command(config, server, source, at)
        check_references(config, server, source, at)
        _check_read_backs(server, source, at)


def _check_hosts(config: Config, source: Source) -> list[Named]:
    named: list[Named] = []
    for entry in config.tools.allow_hosts:
        try:
            named.append(read_named(entry))
        except ValueError as error:
            raise ConfigError(
                "config_invalid",
                f'{source.at("tools.allow_hosts")}: "{entry}": {error}',
                'write "host", "host:port", "[::1]:port", or "*" for any public address',
            ) from None
    return named


def _check_url(server: McpServer, url: str, named: list[Named], source: Source, at: str) -> None:
    where = source.at(f"{at}.url")
    parts = split_url(url, where)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ConfigError("config_invalid", f"{where}: not an http or https URL", "such as https://tools.example/mcp")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    try:
        name, _ = canonical(host)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigError("config_invalid", f"{where}: the host cannot be used: {error}") from None
    if not may_ask(named, name, port):
        raise ConfigError(
            "config_invalid",
            f"{where}: tools may not connect to {host}:{port}",
            f'add "{host}:{port}" to tools.allow_hosts',
        )
    for key in ("args", "env", "env_vault"):
        if getattr(server, key):
            raise ConfigError("config_invalid", f"{source.at(f'{at}.{key}')}: goes with a command alone")
    _check_headers(server, source, at)
    _check_token(server, source, at)


def _check_headers(server: McpServer, source: Source, at: str) -> None:
    if len(server.headers) + len(server.headers_env) > MCP_HEADERS_MAX:
        raise ConfigError("config_invalid", f"{source.at(f'{at}.headers')}: more than {MCP_HEADERS_MAX}")
    for key, headers in (("headers", server.headers), ("headers_env", server.headers_env)):
        for name, value in headers.items():
            where = source.at(f"{at}.{key}")
            if key == "headers" and may_be_secret(name) and not value.startswith(REFERENCE):
                raise ConfigError(
                    "config_secret",
                    f"{where}: a secret is named, never written here, and {name} is where one goes",
                    f'write "vault:NAME", or {{{name} = VARIABLE}} in headers_env, or name a token with token_env',
                )
            if is_ours(name):
                raise ConfigError("config_invalid", f"{where}: {name} is set by the connection itself")
            if not fits(name, value):
                raise ConfigError("config_invalid", f"{where}: {name} or its value is not printable ASCII, or too long")
            if key == "headers_env" and not VARIABLE.fullmatch(value):
                from_environ({}, value, where, name)


def _check_token(server: McpServer, source: Source, at: str) -> None:
    given = [key for key in ("authorization", "token_env", "token_file", "oauth") if getattr(server, key) is not None]
    for key in ("headers", "headers_env"):
        given += [f"{key}.{name}" for name in getattr(server, key) if name.lower() == "authorization"]
    if len(given) > 1:
        what = " and ".join(given)
        raise ConfigError("config_invalid", f"{source.at(at)}: {what} are given", "keep one")
    if server.token_env is not None and not VARIABLE.fullmatch(server.token_env):
        from_environ({}, server.token_env, source.at(at), "token_env")
    if server.oauth is not None:
        _check_oauth(server.oauth, source, f"{at}.oauth")


def _check_oauth(oauth: McpOAuth, source: Source, at: str) -> None:
    parts = split_url(oauth.issuer, source.at(f"{at}.issuer"))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("config_invalid", f"{source.at(f'{at}.issuer')}: not an http or https URL")
    keys = (
        *("client_secret", "client_secret_env", "client_secret_file"),
        *("private_key", "private_key_env", "private_key_file"),
    )
    given = [key for key in keys if getattr(oauth, key) is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "no secret or key is named"
        raise ConfigError("config_invalid", f"{source.at(at)}: {what}", f"set one of {', '.join(keys)}")
    value: str = getattr(oauth, given[0])
    if given[0].endswith("_env") and not VARIABLE.fullmatch(value):
        from_environ({}, value, source.at(at), given[0])


def _check_command(config: Config, server: McpServer, source: Source, at: str) -> None:
    if server.command not in config.tools.allow_commands:
        raise ConfigError(
            "config_invalid",
            f'{source.at(f"{at}.command")}: "{server.command}" is not in tools.allow_commands',
            "add it there if it may be started, by its whole path",
        )
    for key in ("headers", "headers_env", "authorization", "token_env", "token_file", "oauth"):
        if getattr(server, key):
            raise ConfigError("config_invalid", f"{source.at(f'{at}.{key}')}: goes with a url alone")
    for variable in server.env:
        if not VARIABLE.fullmatch(variable):
            from_environ({}, variable, source.at(at), "env")


def _check_read_backs(server: McpServer, source: Source, at: str) -> None:
    for name, tool in server.tools.items():
        back = tool.read_back
        if back is None:
            continue
        where = source.at(f"{at}.tools.{name}.read_back")
        if back.tool == name:
            raise ConfigError("config_invalid", f"{where}: a tool that is run again proves nothing", "name another")
        if server.allowed_tools is not None and name not in server.allowed_tools:
            raise ConfigError("config_invalid", f"{where}: {name} is not among the allowed_tools")
