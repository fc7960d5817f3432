"""`stateline vault`: tools' credentials, sealed. A value comes from standard input or a prompt, never an argument."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config, print_json
from stateline.core.errors import BadRequest
from stateline.core.limits import SECRET_BYTES_MAX
from stateline.ops.asking import ask_server

if TYPE_CHECKING:
    from stateline import config as settings
    from stateline.identity.vault import Stored, Vault

app = command_app("Keep tools' credentials, sealed under a master key.")

Shown = dict[str, Any]
NameArgument = Annotated[str, typer.Argument(help="Its name in the tenant.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="Whose tools may use it.")]
_PATH = "/v1/admin/secrets"


@app.command()
def key() -> None:
    """Print a new master key, for the file or variable that [vault] names.

    \b
    Examples:
      (umask 077 && stateline vault key > master.key)
    """
    import os

    from stateline.identity.raw_keys import new_key

    sys.stdout.write(new_key(os.urandom) + "\n")


@app.command("set")
def set_secret(
    name: NameArgument, tenant: TenantOption, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Store a value, read from standard input, or asked for at a terminal. One newline at its end is left out.

    \b
    Examples:
      stateline vault set github --tenant shop < token.txt
      stateline vault set github --tenant shop
    """
    value = _read_value()

    async def directly(vault: Vault) -> Shown:
        return _shown(await vault.put_text(tenant, name, value))

    stored = _ask(config, "POST", _PATH, {"tenant": tenant, "name": name, "value": value}, directly)
    _say(stored, as_json, f"stored {stored['name']} of tenant {stored['tenant']}")


@app.command("list")
def list_secrets(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List what is there: names, never values."""

    async def directly(vault: Vault) -> Shown:
        return {"object": "list", "data": [_shown(each) for each in await vault.list()]}

    found = _ask(config, "GET", _PATH, None, directly)
    if as_json:
        print_json(found)
        return
    for each in found["data"]:
        sys.stdout.write(f"{each['tenant']}  {each['name']}  under {each['key_id']}\n")


@app.command()
def remove(name: NameArgument, tenant: TenantOption, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Take a secret out of use."""
    for what in (name, tenant):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", what):
            raise BadRequest(f"{what!r} cannot be the name of a secret or tenant", code="secret_not_found")

    async def directly(vault: Vault) -> Shown:
        return _shown(await vault.remove(tenant, name))

    removed = _ask(config, "DELETE", f"{_PATH}/{tenant}/{name}", None, directly)
    _say(removed, as_json, f"removed {removed['name']} of tenant {removed['tenant']}")


@app.command()
def rotate(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Wrap every secret's key under the first of the master keys. After that, the others may go."""

    async def directly(vault: Vault) -> Shown:
        return {"object": "vault.rotation", "rewrapped": await vault.rotate()}

    done = _ask(config, "POST", _PATH + "/rotate", None, directly)
    _say(done, as_json, f"{done['rewrapped']} secrets are under the first master key now")


def _read_value() -> str:
    if sys.stdin.isatty():
        from getpass import getpass

        value = getpass("Value: ")
    else:
        value = sys.stdin.read(SECRET_BYTES_MAX + 2).removesuffix("\n").removesuffix("\r")
    if not value:
        raise BadRequest("There is no value; write it to standard input", code="invalid_value")
    return value


def _say(shown: Shown, as_json: bool, line: str) -> None:
    if as_json:
        print_json(shown)
    else:
        sys.stdout.write(line + "\n")


def _ask(
    config: Path | None, method: str, path: str, body: Shown | None, directly: Callable[[Vault], Awaitable[Shown]]
) -> Shown:
    """Through the server that runs on this database, or on the database itself."""
    loaded = load_config(config)
    store = loaded.store
    answer = ask_server(store.path, method, path, body) if store.path is not None else None
    if answer is not None:
        return answer
    import asyncio

    return asyncio.run(_on_database(loaded, directly))


async def _on_database(config: settings.Config, directly: Callable[[Vault], Awaitable[Shown]]) -> Shown:
    from stateline.admission import vault_of
    from stateline.stores.clock import SystemClock
    from stateline.wiring import open_store

    clock = SystemClock()
    store = await open_store(config.store, clock)
    try:
        vault = vault_of(config, store, clock)
        if vault is None:
            raise BadRequest("no vault is configured; set [vault] key_file or key_env", code="vault_off")
        return await directly(vault)
    finally:
        await store.close()


def _shown(record: Stored) -> Shown:
    """As the server shows it."""
    return {
        "object": "secret",
        "tenant": record.tenant,
        "name": record.name,
        "key_id": record.key_id,
        "written_at": record.written_at_ms // 1000,
    }
