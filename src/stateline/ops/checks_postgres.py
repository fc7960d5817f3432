"""What the doctor looks at where the store is a PostgreSQL database."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from stateline.config import ConfigError, Store, store_url
from stateline.core.errors import StoreUnavailable
from stateline.core.limits import CLOCK_APART_FAIL_S, CLOCK_APART_WARN_S
from stateline.ops.findings import Finding, fail, ok, warn

if TYPE_CHECKING:
    from stateline.stores.postgres.walls import State

_SETTINGS = (
    "server_version",
    "synchronous_commit",
    "synchronous_standby_names",
    "fsync",
    "full_page_writes",
    "max_connections",
    "wal_level",
)
CONNECTIONS_A_NODE = 12
"""About what one node holds, with some to spare."""


def database(store: Store) -> Iterator[Finding]:
    """It answers, and what it is set to keeps what is acknowledged."""
    if importlib.util.find_spec("asyncpg") is None:
        yield fail("postgresql", "the driver is missing", "install stateline[postgres]")
        return
    try:
        seen = asyncio.run(_look(store_url(store, os.environ)))
    except ConfigError as error:
        yield fail("postgresql", error.message, "set what store.url_env or store.url_file names")
        return
    except StoreUnavailable as error:
        yield fail("postgresql", error.message, "see docs/running.md, and ask whoever keeps the database")
        return
    yield ok("postgresql", f"version {seen.settings['server_version']} answers")
    yield clocks(seen.ahead_s)
    yield from judge(seen.settings, seen.standbys)
    if seen.walls is not None:
        yield row_security(seen.walls)


def clocks(ahead_s: float) -> Finding:
    """What it means that this machine's clock is ``ahead_s`` of the database's, negative where it is behind."""
    apart_s = abs(ahead_s)
    message = f"this machine's clock is {apart_s:.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the database's"
    todo = "keep both by NTP: timers and deadlines come early or late by this"
    if apart_s >= CLOCK_APART_FAIL_S:
        return fail("database clock", message, todo)
    if apart_s >= CLOCK_APART_WARN_S:
        return warn("database clock", message, todo)
    return ok("database clock", message)


def row_security(stands: State) -> Finding:
    """Whether the database itself keeps tenants apart, for the role that looks."""
    check = "row security"
    if stands.exempt:
        return warn(
            check,
            f"the role {stands.role} is a superuser or has BYPASSRLS: the database keeps no tenant from another for it",
            "let servers connect as an ordinary role that owns the tables, see docs/running.md",
        )
    if not stands.gaps:
        return ok(check, f"each tenant's rows are kept from others in every table, for the role {stands.role} too")
    message = f"{len(stands.gaps)} tables do not hold their owner to row-level security, {stands.gaps[0]} first"
    if stands.older:
        todo = f"upgrade the servers that still run an older release ({stands.older}): it is done by itself then"
    else:
        todo = "start or keep a server running for ten minutes: it does so, where nothing else holds the tables"
    return warn(check, message, todo)


def judge(settings: Mapping[str, str], standbys: int) -> Iterator[Finding]:
    """What a server's settings mean for what was acknowledged. ``standbys`` are those that stream now."""
    for name in ("fsync", "full_page_writes"):
        if settings[name] != "on":
            yield fail(name, f"{name} is off: a power failure damages the database", f"set {name} = on")
    commit = settings["synchronous_commit"]
    if commit == "off":
        yield fail("commits", "synchronous_commit is off: acknowledged steps can be lost", "set it to on")
    elif not settings["synchronous_standby_names"]:
        if standbys:
            yield warn(
                "failover",
                f"{standbys} standbys follow asynchronously: failing over to one can lose acknowledged steps",
                "name them in synchronous_standby_names, or accept that",
            )
        else:
            yield ok("failover", "no standby follows; commits are on the server's own disk")
    elif commit == "local":
        yield fail("failover", "synchronous_commit is local: no standby is waited for", "set it to on")
    elif not standbys:
        yield warn("failover", "a synchronous standby is named and none follows: commits wait", "start a standby")
    else:
        yield ok("failover", f"commits wait for synchronous standbys; {standbys} follow")
    most = int(settings["max_connections"])
    nodes = most // CONNECTIONS_A_NODE
    if nodes < 2:
        yield warn("connections", f"max_connections is {most}, enough for {nodes} nodes", "raise max_connections")
    else:
        yield ok("connections", f"max_connections is {most}, enough for about {nodes} nodes")


class _Seen(NamedTuple):
    settings: dict[str, str]
    standbys: int
    ahead_s: float
    """By how much this clock is ahead of the database's, but for half a round trip."""
    walls: State | None


async def _look(url: str) -> _Seen:
    from stateline.stores.postgres import connecting, walls

    place = connecting.place_of(url)
    db = await connecting.connect(place)
    try:
        rows = await db.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])", list(_SETTINGS))
        asked_s = time.time()
        there_s = await db.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        ahead_s = (asked_s + time.time()) / 2 - there_s
        standbys = await db.fetchval("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
        stands = await walls.state(db)
    except Exception as error:
        if connecting.of_the_server(error) or connecting.passes(error):
            raise connecting.unreachable(place, error) from error
        raise
    finally:
        await connecting.close(db)
    return _Seen({str(row[0]): str(row[1]) for row in rows}, int(standbys), ahead_s, stands)


CHECKS = (database,)
