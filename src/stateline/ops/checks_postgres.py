"""What the doctor looks at where the store is a PostgreSQL database."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import time
from collections.abc import Iterator, Mapping

from stateline.config import ConfigError, Store, store_url
from stateline.core.errors import StoreUnavailable
from stateline.core.limits import CLOCK_APART_FAIL_S, CLOCK_APART_WARN_S
from stateline.ops.findings import Finding, fail, ok, warn

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
        settings, standbys, ahead_s = asyncio.run(_look(store_url(store, os.environ)))
    except ConfigError as error:
        yield fail("postgresql", error.message, "set what store.url_env or store.url_file names")
        return
    except StoreUnavailable as error:
        yield fail("postgresql", error.message, "see docs/running.md, and ask whoever keeps the database")
        return
    yield ok("postgresql", f"version {settings['server_version']} answers")
    yield clocks(ahead_s)
    yield from judge(settings, standbys)


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


async def _look(url: str) -> tuple[dict[str, str], int, float]:
    """Its settings, its standbys, and by how much this clock is ahead of its own, but for half a round trip."""
    from stateline.stores.postgres import connecting

    place = connecting.place_of(url)
    db = await connecting.connect(place)
    try:
        rows = await db.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])", list(_SETTINGS))
        asked_s = time.time()
        there_s = await db.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        ahead_s = (asked_s + time.time()) / 2 - there_s
        standbys = await db.fetchval("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
    except Exception as error:
        if connecting.of_the_server(error) or connecting.passes(error):
            raise connecting.unreachable(place, error) from error
        raise
    finally:
        await connecting.close(db)
    return {str(row[0]): str(row[1]) for row in rows}, int(standbys), ahead_s


CHECKS = (database,)
