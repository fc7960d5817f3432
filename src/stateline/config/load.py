"""From a file and the environment to a `Config`."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec

from stateline.config.checks import check
from stateline.config.schema import (
    BUDGET_SCOPES,
    BY_NAME,
    CLOUD_DEFAULTS,
    ENVIRON_PREFIX,
    FILE_NAME,
    LISTS,
    LOCAL_MODEL,
    LOCAL_VENDOR,
    RATE_SCOPES,
    SECTIONS,
    TABLES,
    WITHIN,
    Config,
    ConfigError,
    Sandbox,
    Source,
    Store,
    choices_of,
    declared,
)
from stateline.config.secrets import from_environ, from_file, split_url

_SECRET_KEY = re.compile(r"(^|_)(api_?key|password|secret|token|credentials?)$")

_SECRET_OPTION = re.compile(r"[?&](ssl)?password=", re.IGNORECASE)

Tables = dict[str, Any]


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration in force.

    Args:
        path: the file that was asked for, or None for `stateline.toml` in the working directory,
            which may be absent: then the defaults hold.
        environ: the environment; `STATELINE_SECTION__KEY` overrides a key of the file.

    Raises:
        ConfigError: the file is missing, unreadable or not TOML, or a key or value is refused.
    """
    file = path or Path(FILE_NAME)
    tables = _read(file, required=path is not None)
    source = Source(str(file), _apply_environ(tables, environ))
    _check_keys(tables, source)
    base = file.parent
    _finish_store(tables, source, environ, base)
    _finish_deployments(tables, source, base)
    _finish_mcp_servers(tables, base)
    _name_by_scope(tables, "budgets", BUDGET_SCOPES)
    _name_by_scope(tables, "rate_limits", RATE_SCOPES)
    _absolute(tables.get("server"), ("tls_cert", "tls_key"), base)
    _absolute(tables.get("contracts"), ("path",), base)
    _absolute(tables.get("policy"), ("path",), base)
    _absolute(tables.get("vault"), ("key_file",), base)
    _absolute(tables.get("audit"), ("key_file",), base)
    _absolute(tables.get("prices"), ("path", "values"), base)
    _absolute(tables.get("approvals"), ("key_file",), base)
    agents = tables.get("agents")
    for agent in cast("list[object]", agents) if isinstance(agents, list) else ():
        _absolute(agent, ("instructions_file",), base)
    if isinstance(sandbox := tables.get("sandbox"), dict):
        cast("Tables", sandbox).setdefault("path", Sandbox().path)
        _absolute(cast("Tables", sandbox), ("path",), base)
    config = _convert(tables, source)
    check(config, source)
    return config


# -- reading -------------------------------------------------------------------------------------


def _read(file: Path, *, required: bool) -> Tables:
    try:
        # An amount of money must come out as it was written.
        return tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigError("config_missing", f"{file}: no such file", "name an existing one with --config") from None
    except OSError as error:
        raise ConfigError("config_unreadable", f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config_syntax", f"{file}: not valid TOML: {error}") from error


def _apply_environ(tables: Tables, environ: Mapping[str, str]) -> dict[str, str]:
    """Lay `STATELINE_SECTION__KEY` over the file; answers key path -> variable."""
    variables: dict[str, str] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRON_PREFIX) or "__" not in variable:
            continue
        section, _, key = variable.removeprefix(ENVIRON_PREFIX).lower().partition("__")
        if section in LISTS:
            raise ConfigError(
                "config_unknown_key",
                f"{variable}: {section} are a list and cannot be set by a variable",
                f"write them in {FILE_NAME}",
            )
        if section not in SECTIONS:
            _refuse_unknown(variable, section, [*SECTIONS], "section")
        table = tables.setdefault(section, {})
        if isinstance(table, dict):
            cast("Tables", table)[key] = _parse_variable(section, key, environ[variable])
            variables[f"{section}.{key}"] = variable
    return variables


def _parse_variable(section: str, key: str, text: str) -> object:
    """A variable's text as the key's type wants it: plain for strings, else a TOML value."""
    if str in declared(section, key):
        return text
    try:
        return tomllib.loads(f"value = {text}", parse_float=Decimal)["value"]
    except tomllib.TOMLDecodeError:
        return text


# -- keys and values that are not ours -----------------------------------------------------------


def _check_keys(tables: Tables, source: Source) -> None:
    for section, table in tables.items():
        if section not in SECTIONS:
            _refuse_unknown(source.at(section), section, [*SECTIONS], "section")
        if section in LISTS and isinstance(table, list):
            for index, entry in enumerate(cast("list[object]", table)):
                _check_table(section, entry, f"{section}[{index}]", source)
        else:
            _check_table(section, table, section, source)


def _check_table(section: str, table: object, at: str, source: Source) -> None:
    if not isinstance(table, dict):
        return  # The conversion refuses it, with the type it should have.
    known = list(SECTIONS[section].__struct_fields__)
    for key, value in cast("Tables", table).items():
        where = source.at(f"{at}.{key}")
        if key not in known:
            _refuse_secret(where, section, key)
            _refuse_unknown(where, key, known, "key")
        if (section, key) in BY_NAME and isinstance(value, dict):
            for name, entry in cast("Tables", value).items():
                _check_within(TABLES[section, key], entry, f"{at}.{key}.{name}", source)
        elif (section, key) in TABLES:
            _check_within(TABLES[section, key], value, f"{at}.{key}", source)


def _check_within(struct: type[msgspec.Struct], value: object, at: str, source: Source) -> None:
    """The keys of a table in a section, or of each table of a list in one."""
    if isinstance(value, list):
        for index, entry in enumerate(cast("list[object]", value)):
            _check_within(struct, entry, f"{at}[{index}]", source)
    elif isinstance(value, dict):
        known = list(struct.__struct_encode_fields__)
        for key, inner in cast("Tables", value).items():
            if key not in known:
                _refuse_unknown(source.at(f"{at}.{key}"), key, known, "key")
            if (struct, key) in WITHIN:
                _check_within(WITHIN[struct, key], inner, f"{at}.{key}", source)


def _refuse_secret(where: str, section: str, key: str) -> None:
    if _SECRET_KEY.search(key):
        stem = {"deployments": "api_key", "mcp_servers": "token"}.get(section, "url")
        raise ConfigError(
            "config_secret",
            f"{where}: a secret is named, never written here",
            f"use {stem}_env or {stem}_file",
        )


def _refuse_unknown(where: str, name: str, known: list[str], what: str) -> None:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
    raise ConfigError("config_unknown_key", f"{where}: unknown {what} `{name}`", hint)


# -- filling in ----------------------------------------------------------------------------------


def _finish_store(tables: Tables, source: Source, environ: Mapping[str, str], base: Path) -> None:
    """Leave the URL in force in `store.url`, checked, with an anchored path."""
    store = tables.setdefault("store", {})
    if not isinstance(store, dict):
        return
    store = cast("Tables", store)
    keys = ("url", "url_env", "url_file")
    named = [key for key in keys if key in store]
    named = [key for key in named if f"store.{key}" in source.variables] or named
    if len(named) > 1:
        raise ConfigError("config_invalid", f"{source.at('store')}: {' and '.join(named)} are given", "keep one")
    key = named[0] if named else "url"
    value = store.get(key, Store().url)
    if not isinstance(value, str):
        return
    where = source.at(f"store.{key}")
    if key == "url":
        split_url(value, where)
        if _SECRET_OPTION.search(value):
            raise ConfigError(
                "config_secret",
                f"{where}: a secret is named, never written here",
                "name the URL with url_env or url_file",
            )
    elif key == "url_env":
        value = from_environ(environ, value, where, "url_env")
    elif key == "url_file":
        value = from_file(base / value, where, "url_file")
    _absolute(store, ("url_file",), base)
    for other in keys:
        if other != key:
            # A variable named another place than the file does: that one is in force.
            store.pop(other, None)
    if value.startswith(("postgres://", "postgresql://")):
        # What may hold a password stays where it is named.
        store["url"] = value if key == "url" else "postgresql://"
    else:
        store["url"] = _sqlite_url(value, where, base)


def _sqlite_url(url: str, where: str, base: Path) -> str:
    path = url.removeprefix("sqlite:///")
    if path == url or path in ("", "/", ":memory:") or "?" in path:
        raise ConfigError(
            "config_invalid",
            f"{where}: not the URL of a database file",
            'write "sqlite:///stateline.db", "sqlite:////var/lib/stateline.db" from the root, or "postgresql://host/name"',
        )
    return f"sqlite:///{base / path}"


def _finish_deployments(tables: Tables, source: Source, base: Path) -> None:
    """Fill in what a deployment's cloud implies; the local model where none is configured."""
    deployments = tables.setdefault("deployments", [])
    if not isinstance(deployments, list):
        return
    if not deployments:
        tables["deployments"] = deployments = [
            {"name": "local", "model": LOCAL_MODEL, "cloud": "local", "vendor": LOCAL_VENDOR}
        ]
    for index, entry in enumerate(cast("list[object]", deployments)):
        if not isinstance(entry, dict):
            continue
        entry = cast("Tables", entry)
        cloud = entry.get("cloud")
        if not isinstance(cloud, str) or "model" not in entry:
            continue  # The conversion says what is missing.
        if cloud == "local" and "base_url" in entry:
            raise ConfigError(
                "config_invalid",
                f"{source.at(f'deployments[{index}].base_url')}: a local model has no URL",
                'use cloud = "openai-compatible" for a server of your own',
            )
        entry.setdefault("host", cloud)
        entry.setdefault("upstream_model", entry["model"])
        if "api_key_env" not in entry and "api_key_file" not in entry:
            entry.setdefault("auth", CLOUD_DEFAULTS.get(cloud, {}).get("auth"))
        for key in ("format", "base_url"):
            entry.setdefault(key, CLOUD_DEFAULTS.get(cloud, {}).get(key))
        _absolute(entry, ("api_key_file",), base)
        if cloud == "local" and str(entry["upstream_model"]).endswith(".gguf"):
            _absolute(entry, ("upstream_model",), base)


def _finish_mcp_servers(tables: Tables, base: Path) -> None:
    servers = tables.get("mcp_servers")
    for entry in cast("list[object]", servers) if isinstance(servers, list) else ():
        if isinstance(entry, dict):
            entry = cast("Tables", entry)
            _absolute(entry, ("token_file",), base)
            _absolute(entry.get("oauth"), ("client_secret_file", "private_key_file"), base)


def _name_by_scope(tables: Tables, section: str, scopes: tuple[str, ...]) -> None:
    """Name a budget or a rate limit without a name by what it covers."""
    entries = tables.get(section)
    for entry in cast("list[object]", entries) if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            entry = cast("Tables", entry)
            scope = ",".join(f"{key}={entry[key]}" for key in scopes if key in entry)
            entry.setdefault("name", scope[:128] or "all")


def _absolute(table: object, keys: tuple[str, ...], base: Path) -> None:
    """Anchor the paths of a table at the folder of the file that names them."""
    if isinstance(table, dict):
        table = cast("Tables", table)
        for key in keys:
            if isinstance(table.get(key), str):
                table[key] = str(base / table[key])


def _convert(tables: Tables, source: Source) -> Config:
    try:
        return msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        path = path.removesuffix("`").lstrip(".")
        what = what.replace("`object`", "a table").replace("`array`", "a list")
        what = what.replace("got `decimal`", "got `float`")
        what = what.replace("Object missing required field", "missing key")
        section, _, key = path.partition(".")
        choices = choices_of(section.partition("[")[0], key) if key else ""
        raise ConfigError(
            "config_invalid",
            f"{source.at(path)}: {what[:1].lower()}{what[1:]}",
            f"it may be {choices}" if choices else "",
        ) from error
