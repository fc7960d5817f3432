"""Secrets are named in the configuration and read from where they are named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from stateline.config.schema import Agent, Approvals, Audit, ConfigError, Deployment, Store, Vault
from stateline.core.limits import INSTRUCTIONS_BYTES_MAX

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def api_key(deployment: Deployment, environ: Mapping[str, str]) -> str | None:
    """The deployment's secret, read from where it is named; None for `auth = "none"`.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read or is empty.
    """
    where = f"deployment {deployment.name}"
    if deployment.api_key_env is not None:
        return from_environ(environ, deployment.api_key_env, where, "api_key_env")
    if deployment.api_key_file is not None:
        return from_file(Path(deployment.api_key_file), where, "api_key_file")
    return None


def store_url(store: Store, environ: Mapping[str, str]) -> str:
    """The URL of the store, with its password where it is named.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read or is empty.
    """
    if store.path is None and store.url_env is not None:
        return from_environ(environ, store.url_env, "store.url_env", "url_env")
    if store.path is None and store.url_file is not None:
        return from_file(Path(store.url_file), "store.url_file", "url_file")
    return store.url


def approval_keys(approvals: Approvals, environ: Mapping[str, str]) -> str | None:
    """The keys that seal approvals, as they are written; None where none are named.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read or is empty.
    """
    return _keys(approvals, "approvals", environ)


def vault_keys(vault: Vault, environ: Mapping[str, str]) -> str:
    """The text of the master keys, one a line.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read or is empty.
    """
    text = _keys(vault, "vault", environ)
    assert text is not None, "`load` refuses one that names none"
    return text


def audit_keys(audit: Audit, environ: Mapping[str, str]) -> str:
    """The text of the keys that sign audit chains, one a line.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read or is empty.
    """
    text = _keys(audit, "audit", environ)
    assert text is not None, "`load` refuses one that names none"
    return text


def _keys(section: Approvals | Vault | Audit, where: str, environ: Mapping[str, str]) -> str | None:
    """What a section's variable or file holds; None where it names neither."""
    if section.key_env is not None:
        return from_environ(environ, section.key_env, where, "key_env")
    if section.key_file is not None:
        return from_file(Path(section.key_file), where, "key_file")
    return None


def from_environ(environ: Mapping[str, str], variable: str, where: str, key: str) -> str:
    if not VARIABLE.fullmatch(variable):
        # What stands here may be the secret itself, so it is not repeated.
        raise ConfigError(
            "config_secret",
            f"{where}: {key} must be the name of an environment variable",
            "put the secret into a variable and write that variable's name",
        )
    if not (value := environ.get(variable, "").strip()):
        raise ConfigError("config_secret_missing", f"{where}: {variable} is not set")
    return value


def from_file(file: Path, where: str, key: str) -> str:
    try:
        value = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError("config_secret_missing", f"{where}: {key} {file} cannot be read: {reason}") from error
    if not value:
        raise ConfigError("config_secret_missing", f"{where}: {key} {file} is empty")
    return value


def split_url(url: str, where: str) -> SplitResult:
    """The parts of a URL, which may hold no password."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError("config_invalid", f"{where}: not a URL: {error}") from error
    if parts.password or (parts.username and parts.scheme in ("http", "https")):
        raise ConfigError(
            "config_secret",
            f"{where}: a secret is named, never written here",
            "take the user and password out of the URL and name it with url_env or api_key_env",
        )
    return parts


def instructions_of(agent: Agent) -> str:
    """What an agent is told, read where it is named.

    Raises:
        ConfigError: the file cannot be read, or is too long.
    """
    if agent.instructions_file is None:
        return agent.instructions or ""
    path = Path(agent.instructions_file)
    try:
        raw = path.read_bytes()
        if len(raw) > INSTRUCTIONS_BYTES_MAX:
            raise ValueError(f"it has more than {INSTRUCTIONS_BYTES_MAX} bytes")
        return raw.decode()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError("agent_unreadable", f"the instructions of the agent {agent.name} in {path}: {why}") from None
