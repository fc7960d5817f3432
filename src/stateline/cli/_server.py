"""How commands speak to a running server as its clients do: where it is, and with whose key."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import typer

from stateline.cli._options import load_config, print_json
from stateline.core.errors import BadRequest, NotFound, Unauthorized
from stateline.core.ids import item_session
from stateline.ops.asking import ask_as_client, local

Shown = dict[str, Any]

KEY_ENV = "STATELINE_API_KEY"
_MISSING = {"approval": "approval_not_found", "effect": "effect_not_found"}

UrlOption = Annotated[
    str | None, typer.Option("--url", help="The server. Default: the one that runs on the configured store.")
]
KeyOption = Annotated[
    str,
    typer.Option("--api-key-env", help="The variable with your API key, whose tenant counts; its scope: approve."),
]
SessionOption = Annotated[str | None, typer.Option("--session", help="Of this session alone.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")]


class Server(NamedTuple):
    """``ours``: its address comes from the file that it left, not from a person."""

    url: str
    key: str | None
    ours: bool

    def ask(self, method: str, path: str, body: Shown | None = None) -> Shown:
        """
        Raises:
            BadRequest: ``server_not_running``, or the server refused, in its own words.
            Unauthorized: the key is not good, or none was given where one is needed.
        """
        try:
            answer = ask_as_client(self.url, self.key, method, path, body, ours=self.ours)
        except Unauthorized as error:
            make = "`stateline keys create --tenant TENANT --name NAME --scope approve --scope audit --user YOU`"
            how = f"put a key into {KEY_ENV}; {make} makes one" if self.key is None else "see `stateline keys list`"
            raise Unauthorized(f"{error.message.rstrip('.')}: {how}", code=error.code) from None
        if answer is None:
            raise BadRequest(
                f"no server answers at {self.url}; start it by `stateline serve`, or name another with --url",
                code="server_not_running",
            )
        return answer

    def listed(self, path: str, query: dict[str, str | None], limit: int) -> Shown:
        """Entries of a list up to ``limit``, whatever its pages are."""
        found: list[Shown] = []
        asked = {name: value for name, value in query.items() if value is not None}
        while True:
            page = self.ask("GET", f"{path}?{urlencode(asked)}")
            found += page["data"]
            more = page["has_more"]
            if not more or len(found) >= limit:
                return {"object": "list", "data": found[:limit], "has_more": more or len(found) > limit}
            asked["after"] = page["last_id"]

    def one(self, path: str, id_: str, what: str, query: dict[str, str | None]) -> Shown:
        """An entry of a list by its id, which tells its session.

        Raises:
            NotFound: there is none.
        """
        session = item_session(id_)
        if session is not None:
            for each in self.listed(path, {**query, "session": session}, sys.maxsize)["data"]:
                if each["id"] == id_:
                    return each
        raise NotFound(f"there is no {what} {id_[:128]!r} in this tenant", code=_MISSING[what])


def find_server(config: Path | None, url: str | None, key_env: str) -> Server:
    """The server that runs on the configured store, or at ``url``, and the caller's own key for it.

    The token beside the database is for what the installation's operator does. What is answered here is on record as
    said by somebody, so it takes that one's own key, but where ``auth.mode`` is ``open``.

    Raises:
        BadRequest: ``server_not_running``: none left a file beside the database; ``secret_missing``.
    """
    from stateline.identity.admin_file import read_admin_file

    key = os.environ.get(key_env) or None
    if key is None and key_env != KEY_ENV:
        raise BadRequest(f"--api-key-env: the variable {key_env} is not set", code="secret_missing")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise BadRequest(f"what {key_env} holds is no API key", code="invalid_value")
    if url is not None:
        if not re.match(r"https?://[^/\s]", url):
            raise BadRequest(f"--url: {url!r} is no http or https URL", code="invalid_url")
        return Server(url.rstrip("/").removesuffix("/v1"), key, ours=False)
    settings = load_config(config)
    path = settings.store.path
    if path is None:
        # Nodes on PostgreSQL leave no file: one listens here, as the configuration says, or --url names another.
        server = settings.server
        host = f"[{server.host}]" if ":" in server.host else server.host
        return Server(
            local(f"{'http' if server.tls_cert is None else 'https'}://{host}:{server.port}"), key, ours=False
        )
    access = read_admin_file(path)
    if access is None:
        raise BadRequest(
            f"no server runs on {path}; start it by `stateline serve`, or name another with --url",
            code="server_not_running",
        )
    return Server(local(access.url), key, ours=True)


def checked_id(id_: str, what: str) -> str:
    """Raises NotFound where it cannot be the id of an item, before anybody is asked."""
    if item_session(id_) is None:
        raise NotFound(f"{id_[:128]!r} is not the id of an {what}", code=_MISSING[what])
    return id_


# -- what is shown ----------------------------------------------------------------------------------------


def plain(text: object) -> str:
    """Text of others on one line: what a terminal would obey, or show as something else, is written as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def moment(unix_s: int | None) -> str:
    return "-" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def print_table(columns: Sequence[tuple[str, Callable[[Shown], object]]], found: Shown) -> None:
    """A table of a list; a cell that the terminal has no room for is cut short."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading, _ in columns:
        table.add_column(heading, no_wrap=True, overflow="ellipsis" if heading == "ARGUMENTS" else "fold")
    for each in found["data"]:
        table.add_row(*(Text(plain(cell(each))) for _, cell in columns))
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
    if found["has_more"]:
        typer.secho("There may be more: raise --limit.", err=True)


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """One thing, whole: a line a field; what is not there is left out."""
    for name, value in fields:
        if value is not None and value != "":
            sys.stdout.write(f"{name + ':':<14}{plain(value)}\n")


def policy_line(entry: Shown) -> str | None:
    policy = entry["policy"]
    if policy is None:
        return None
    by = ", ".join(policy["policies"]) or "nothing permits it"
    return f"{policy['outcome']} ({by})" + ("" if policy["enforced"] else ", only recorded")


def print_answer(answered: Shown, word: str, *, as_json: bool) -> None:
    """What an answer has set off: ``word`` says what was answered."""
    if as_json:
        print_json(answered)
    else:
        sys.stdout.write(f"{word} {plain(answered['id'])}; it goes on as {plain(answered['response_id'])}\n")
