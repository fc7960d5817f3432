"""`stateline keys`: make, list and revoke API keys.

While a server runs on a database file it alone holds it, so it is asked, by the token that it left
beside the file. Otherwise the keys are written to the database directly: PostgreSQL has room for both.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config, print_json
from stateline.core.errors import BadRequest
from stateline.ops.asking import ask_server

if TYPE_CHECKING:
    from stateline import config as settings
    from stateline.identity.keys import Keys, Record

app = command_app("Make, list and revoke API keys.")

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600, "y": 365 * 24 * 3600}

Shown = dict[str, Any]


@app.command()
def create(
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose sessions the key opens.")],
    name: Annotated[str, typer.Option("--name", help="What the key is for.")],
    expires: Annotated[str | None, typer.Option("--expires", help="For how long, as in 90d or 12h.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="What it may do, once each; by default all but approve and admin."),
    ] = None,
    user: Annotated[str, typer.Option("--user", help="The person for whom it speaks.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="The one agent that it may use.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it. It is not kept: this is the only time that it is shown.

    \b
    Examples:
      stateline keys create --tenant shop --name checkout-agent
      stateline keys create --tenant shop --name trial --expires 90d
      stateline keys create --tenant shop --name desk --scope approve --scope audit --user ann
    """
    body: Shown = {"tenant": tenant, "name": name}
    if expires is not None:
        body["expires_in_s"] = seconds_of(expires)
    body |= {name: value for name, value in (("scopes", scope), ("user", user), ("agent", agent)) if value}

    async def directly(keys: Keys) -> Shown:
        record, key = await keys.create(
            tenant, name, body.get("expires_in_s"), scopes=scope or None, user=user, agent=agent
        )
        return {**_shown(record), "key": key}

    made = _ask(config, "POST", "/v1/admin/keys", body, directly)
    if as_json:
        print_json(made)
    else:
        sys.stdout.write(f"{made['key']}\n")
        typer.secho(f"{made['id']} of tenant {made['tenant']}; keep the key, it is not shown again.", err=True)


@app.command("list")
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the keys: whose they are and until when they hold; never the keys themselves.

    \b
    Examples:
      stateline keys list
      stateline keys list --json
    """

    async def directly(keys: Keys) -> Shown:
        return {"object": "list", "data": [_shown(record) for record in await keys.list()]}

    found = _ask(config, "GET", "/v1/admin/keys", None, directly)
    if as_json:
        print_json(found)
    else:
        _print_table(found["data"])


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `stateline keys list` shows it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a key for good.

    \b
    Examples:
      stateline keys revoke key_06h01cz5v5s8e9q2
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key_id):
        raise BadRequest(f"{key_id!r} is not the id of a key; see `stateline keys list`", code="key_not_found")

    async def directly(keys: Keys) -> Shown:
        return _shown(await keys.revoke(key_id))

    ended = _ask(config, "DELETE", f"/v1/admin/keys/{key_id}", None, directly)
    if as_json:
        print_json(ended)
    else:
        sys.stdout.write(f"revoked {ended['id']} ({ended['name']}) of tenant {ended['tenant']}\n")


def seconds_of(text: str) -> int:
    """``90d`` in seconds.

    Raises:
        BadRequest: not a whole number of s, m, h, d, w or y, from 1 on.
    """
    match = re.fullmatch(r"([1-9]\d{0,8})([smhdwy])", text)
    if match is None:
        raise BadRequest(
            f"--expires {text!r} is not a duration; write a number and s, m, h, d, w or y, as in 90d",
            code="invalid_value",
        )
    return int(match[1]) * _UNITS_S[match[2]]


# -- the two ways -----------------------------------------------------------------------------------------


def _ask(
    config: Path | None, method: str, path: str, body: Shown | None, directly: Callable[[Keys], Awaitable[Shown]]
) -> Shown:
    """Through the server that runs on this database, or on the database itself."""
    store = load_config(config).store
    answer = ask_server(store.path, method, path, body) if store.path is not None else None
    if answer is not None:
        return answer
    import asyncio

    return asyncio.run(_on_database(store, directly))


async def _on_database(where: settings.Store, directly: Callable[[Keys], Awaitable[Shown]]) -> Shown:
    import os

    from stateline.identity.keys import Keys
    from stateline.stores.clock import SystemClock
    from stateline.wiring import open_store

    clock = SystemClock()
    store = await open_store(where, clock)
    try:
        return await directly(Keys(store, clock, os.urandom))
    finally:
        await store.close()


# -- what is shown ----------------------------------------------------------------------------------------


def _shown(record: Record) -> Shown:
    """As the server shows it."""
    return {
        "id": record.id,
        "object": "key",
        "tenant": record.tenant,
        "name": record.name,
        "created_at": record.created_at_ms // 1000,
        "expires_at": None if record.expires_at_ms is None else record.expires_at_ms // 1000,
        "revoked_at": None if record.revoked_at_ms is None else record.revoked_at_ms // 1000,
        "scopes": list(record.scopes),
        "user": record.user or None,
        "agent": record.agent or None,
    }


def _print_table(keys: list[Shown]) -> None:
    from datetime import UTC, datetime
    from time import time

    from rich.console import Console
    from rich.table import Table

    def day(unix_s: int | None) -> str:
        return "-" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")

    table = Table(box=None, pad_edge=False)
    for heading in ("ID", "TENANT", "NAME", "CREATED (UTC)", "EXPIRES (UTC)", "STATE", "SCOPES", "FOR"):
        table.add_column(heading, no_wrap=True)
    for key in keys:
        expired = key["expires_at"] is not None and key["expires_at"] <= time()
        state = "revoked" if key["revoked_at"] is not None else "expired" if expired else "in force"
        bound = [key["user"], key["agent"] and f"agent/{key['agent']}"]
        whom = " ".join(filter(None, bound)) or "-"
        times = day(key["created_at"]), day(key["expires_at"])
        table.add_row(key["id"], key["tenant"], key["name"], *times, state, " ".join(key["scopes"]), whom)
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
