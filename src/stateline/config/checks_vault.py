"""The rules of references to the vault, ``vault:NAME``, and of where they may stand."""

from __future__ import annotations

from collections.abc import Iterator

from stateline.config.schema import Config, ConfigError, Source
from stateline.config.schema_tools import McpServer
from stateline.config.secrets import VARIABLE, from_environ
from stateline.core.errors import BadRequest
from stateline.core.limits import MCP_HEADERS_MAX
from stateline.core.secrets import REFERENCE, reference_of


def references(server: McpServer) -> Iterator[tuple[str, str]]:
    """The keys of a server that name a secret of the vault, and what stands there."""
    for name, value in server.headers.items():
        if value.startswith(REFERENCE):
            yield f"headers.{name}", value
    for name, value in server.env_vault.items():
        yield f"env_vault.{name}", value
    if server.authorization is not None:
        yield "authorization", server.authorization
    oauth = server.oauth
    for key in ("client_secret", "private_key"):
        if oauth is not None and (value := getattr(oauth, key)) is not None:
            yield f"oauth.{key}", value


def check_references(config: Config, server: McpServer, source: Source, at: str) -> None:
    """Each is one, and there is a vault to ask.

    Raises:
        ConfigError: what stands there, which may be a secret, is not repeated.
    """
    for key, value in references(server):
        _check_reference(config, value, source.at(f"{at}.{key}"))
    for variable in server.env_vault:
        if not VARIABLE.fullmatch(variable):
            from_environ({}, variable, source.at(at), "env_vault")
        if variable in server.env:
            where = source.at(f"{at}.env_vault.{variable}")
            raise ConfigError("config_invalid", f"{where}: it is in env as well", "keep one")
    if len(server.env_vault) > MCP_HEADERS_MAX:
        raise ConfigError("config_invalid", f"{source.at(f'{at}.env_vault')}: more than {MCP_HEADERS_MAX}")


def check_function_secrets(config: Config, source: Source) -> None:
    """What functions may have of the vault.

    Raises:
        ConfigError: as above.
    """
    for function, names in config.tools.function_secrets.items():
        for value in names:
            _check_reference(config, value, source.at(f"tools.function_secrets.{function}"))


def _check_reference(config: Config, value: str, where: str) -> None:
    try:
        name = reference_of(value)
    except BadRequest as error:
        raise ConfigError("config_invalid", f"{where}: {error.message}", 'write "vault:NAME"') from None
    if name is None:
        raise ConfigError("config_secret", f"{where}: a secret is named, never written here", 'write "vault:NAME"')
    if config.vault is None:
        raise ConfigError(
            "config_invalid",
            f"{where}: {value} is in no vault, since none is configured",
            "set [vault] key_file or key_env; `stateline vault key` makes a key",
        )
