"""One PostgreSQL server for all tests that need one, and a new place in it for each."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stateline.ports import Clock, Store
from stateline.stores.postgres import open_postgres
from stateline.stores.postgres.connecting import Connection, connect, place_of
from stateline.testing.exercise import MakeStore, Reopen
from stateline.testing.postgres_server import PostgresServer

_T = TypeVar("_T")
_numbers = itertools.count(1)
ROLE = "stateline_node"
MAKE_ROLE = (
    f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} LOGIN;"
    " END IF; END $$"
)


async def ask(url: str, job: Callable[[Connection], Awaitable[_T]]) -> _T:
    """Run a job on a connection of its own, beside every store."""
    db = await connect(place_of(url))
    try:
        return await job(db)
    finally:
        await db.close()


def superuser(url: str) -> str:
    """The same place for the server's superuser, whom row-level security does not hold."""
    return url.replace(f"{ROLE}@", "postgres@")


async def new_database(server: PostgresServer, *, tcp: bool = False) -> str:
    """The URL of a new, empty place: a schema, which is made in a tenth of a database's time.

    Its role is an ordinary one that owns it, so that row-level security holds as it does for an operator's.
    """
    name = f"t{next(_numbers)}"

    async def make(db: Connection) -> None:
        await db.execute(MAKE_ROLE)
        await db.execute(f"CREATE SCHEMA {name} AUTHORIZATION {ROLE}")

    await ask(server.url(), make)
    url = server.url(tcp=tcp).replace("postgres@", f"{ROLE}@")
    return f"{url}{'&' if '?' in url else '?'}search_path={name}"


def stores(server: PostgresServer) -> tuple[MakeStore, Reopen]:
    """Stores, each in a new place."""
    urls: dict[int, str] = {}

    async def make(clock: Clock) -> Store:
        url = await new_database(server)
        store = await open_postgres(url, clock=clock)
        urls[id(store)] = url
        return store

    async def reopen(store: Store, clock: Clock) -> Store:
        await store.close()
        again = await open_postgres(urls[id(store)], clock=clock)
        urls[id(again)] = urls[id(store)]
        return again

    return make, reopen
