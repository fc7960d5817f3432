"""What the configuration says of tools, as the values that `tools` works with."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from stateline.config import Config, ConfigError, McpServer
from stateline.config.schema_tools import McpOAuth
from stateline.config.secrets import from_environ, from_file
from stateline.core.headers import fits
from stateline.core.secrets import REFERENCE, reference_of
from stateline.core.tools import EffectClass
from stateline.tools.credentials import Credentials, Named, OpensSecrets, Placed
from stateline.tools.egress import Egress
from stateline.tools.mcp_auth import (
    MakeAuth,
    client_credentials,
    private_key_jwt,
    vault_client_credentials,
    vault_private_key_jwt,
)
from stateline.tools.mcp_hosts import McpHosts
from stateline.tools.mcp_server import McpServer as Served
from stateline.tools.mcp_server import ReadBack

Environ = Mapping[str, str]


def egress_of(config: Config) -> Egress:
    """Where tools may connect to."""
    return Egress(config.tools.allow_hosts)


def function_secrets_of(config: Config) -> Mapping[str, frozenset[str]]:
    """The secrets of the vault that the operator lets each function have."""
    allowed = config.tools.function_secrets
    return {function: frozenset([_named(each) for each in names]) for function, names in allowed.items()}


def mcp_hosts_of(config: Config, vault: OpensSecrets | None, environ: Environ = os.environ) -> McpHosts:
    """The hosts of the configured MCP servers, and of those that requests will name. Nothing is connected yet.

    Raises:
        ConfigError: a secret is not where the configuration says.
    """
    servers = [mcp_server_of(each, environ) for each in config.mcp_servers]
    for server in servers:
        # They are read again at each connection; here, so that a mistake is seen at the start.
        server.headers()
        server.env()
    return McpHosts(servers, egress_of(config), vault=vault)


def mcp_server_of(server: McpServer, environ: Environ) -> Served:
    """One of them. Its secrets are read where they are named each time that it is connected to."""
    where = f"mcp_servers {server.label}"
    effects: dict[str, EffectClass] = {}
    read_backs: dict[str, ReadBack] = {}
    for name, tool in server.tools.items():
        if tool.effect is not None:
            effects[name] = tool.effect
        if (back := tool.read_back) is not None:
            field = back.key_field or back.key_argument
            read_backs[name] = ReadBack(
                tool=back.tool, key_argument=back.key_argument, key_field=field, where=back.where
            )

    def headers() -> Mapping[str, str]:
        found = {name: value for name, value in server.headers.items() if not value.startswith(REFERENCE)}
        for name, variable in server.headers_env.items():
            found[name] = from_environ(environ, variable, where, "headers_env")
        if server.token_env is not None:
            found["Authorization"] = f"Bearer {from_environ(environ, server.token_env, where, 'token_env')}"
        if server.token_file is not None:
            found["Authorization"] = f"Bearer {from_file(Path(server.token_file), where, 'token_file')}"
        for name, value in found.items():
            if not fits(name, value):
                # The value is not shown: it is the secret.
                raise ConfigError("config_invalid", f"{where}: what is to be sent as {name} is not printable ASCII")
        return found

    return Served(
        label=server.label,
        url=server.url,
        command=(server.command, *server.args) if server.command is not None else (),
        env=lambda: {name: from_environ(environ, name, where, "env") for name in server.env},
        headers=headers,
        trusted=server.trusted,
        allowed_tools=frozenset(server.allowed_tools) if server.allowed_tools is not None else None,
        effects=effects,
        read_backs=read_backs,
        data_zone=server.data_zone or "",
        timeout_s=server.timeout_s,
        connect_timeout_s=server.connect_timeout_s,
        elicitation=server.elicitation,
        auth=_auth_of(oauth, environ, where) if (oauth := server.oauth) is not None and not _sealed(oauth) else None,
        vault=_in_vault(server),
    )


def _named(reference: str) -> str:
    name = reference_of(reference)
    assert name is not None, "checked"
    return name


def _sealed(oauth: McpOAuth) -> str | None:
    """The reference to what a client proves itself with."""
    return oauth.client_secret or oauth.private_key


def _in_vault(server: McpServer) -> Named | None:
    """What of a server's secrets the configuration has in the vault; None: nothing."""
    headers = {header: Placed(_named(value)) for header, value in server.headers.items() if value.startswith(REFERENCE)}
    if server.authorization is not None:
        headers["Authorization"] = Placed(_named(server.authorization), "Bearer ")
    env = {variable: _named(each) for variable, each in server.env_vault.items()}
    oauth = server.oauth
    sealed = None if oauth is None else _sealed(oauth)
    if oauth is None or sealed is None:
        return Named(headers=headers, env=env) if headers or env else None
    name = _named(sealed)

    def auth(credentials: Credentials) -> MakeAuth:
        def value() -> Awaitable[str]:
            return credentials.value(name)

        if oauth.private_key is not None:
            return vault_private_key_jwt(
                oauth.client_id, value, oauth.issuer, scope=oauth.scope, algorithm=oauth.algorithm
            )
        return vault_client_credentials(oauth.client_id, value, oauth.issuer, scope=oauth.scope, method=oauth.method)

    return Named(headers=headers, env=env, others=(name,), auth=auth)


def _auth_of(oauth: McpOAuth, environ: Environ, where: str) -> MakeAuth:
    def read(env: str | None, file: str | None, key: str) -> Callable[[], str]:
        if env is not None:
            return lambda: from_environ(environ, env, where, f"{key}_env")
        assert file is not None, "checked"
        return lambda: from_file(Path(file), where, f"{key}_file")

    if oauth.private_key_env is not None or oauth.private_key_file is not None:
        key = read(oauth.private_key_env, oauth.private_key_file, "private_key")
        return private_key_jwt(oauth.client_id, key, oauth.issuer, scope=oauth.scope, algorithm=oauth.algorithm)
    secret = read(oauth.client_secret_env, oauth.client_secret_file, "client_secret")
    return client_credentials(oauth.client_id, secret, oauth.issuer, scope=oauth.scope, method=oauth.method)
