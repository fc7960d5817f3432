"""Row-level security: what a connection sees is what it said it works for, whatever its statements ask.

A connection says so in the setting ``stateline.tenant``: a tenant's number, or EVERY for what works across
tenants (commits, claims, the retention, backups). Where it says nothing there is no row. The setting counts
for roles that may write alone, since anybody can change it; another role sees the tenant that
``stateline_readers`` gives its name, and no setting changes that.

The policies come with a step of the schema, which leaves the tables' owner out: nodes of the release before
say nothing, and go on serving. Once none of them lives the walls are closed, for the owner too (``close``).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from stateline.stores.postgres import connecting
from stateline.stores.postgres.clock import now_sql
from stateline.stores.postgres.connecting import EVERY, SETTING, Connection

LOCK = 0x53744C6E
"""The advisory lock of whoever changes tables: ``StLn``."""

COLUMNS = {
    "tenants": "n",
    "sessions": "tenant",
    "events": "tenant",
    "snapshots": "tenant",
    "chunks": "tenant",
    "inbox": "tenant",
    "dedup": "tenant",
    "blobs": "tenant",
    "blob_refs": "tenant",
}
"""The tables whose rows are a tenant's, without their prefix, and the column that says whose."""
SHARED = ("meta", "balances", "readers")
"""Tables of the installation: who may write sees them, whatever it works for."""
OPEN = ("schema", "nodes", "writers")
"""Without walls: processes' ids, times and numbers are nobody's."""
_WALLED = frozenset(f"stateline_{name}" for name in (*COLUMNS, *SHARED))

# Constants of the type regclass name the table itself, so no search_path leads a policy elsewhere.
_WRITES = "has_table_privilege('stateline_sessions'::regclass, 'INSERT')"
_SAID = f"current_setting('{SETTING}', true)"
# In a subquery, which is asked once a statement and not once a row. One for both answers: each costs every
# statement two microseconds. -1 is no tenant's number, and stands for all.
_SEES = (
    f"(SELECT CASE WHEN NOT {_WRITES} THEN stateline_read_tenant() WHEN {_SAID} = '{EVERY}' THEN -1"
    f" ELSE nullif({_SAID}, '')::integer END)"
)


def policy(table: str, column: str) -> str:
    """The statements that put ``table``, a full name, behind its wall; its owner stays outside.

    Steps of the schema are made of them: never edited.
    """
    return (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
        f" CREATE POLICY stateline_tenant ON {table}"
        f" USING (CASE {_SEES} WHEN -1 THEN true WHEN {column} THEN true ELSE false END);"
    )


def shared_policy(table: str) -> str:
    """The same for a table of the installation."""
    return (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY stateline_engine ON {table}"
        f" USING ((SELECT {_WRITES}));"
    )


_PART = re.compile(r"stateline_chunks_p\d+")
_TABLES = (
    "SELECT c.relname::text, c.relrowsecurity, c.relforcerowsecurity FROM pg_catalog.pg_class c"
    " WHERE c.relname LIKE 'stateline\\_%' AND c.relkind IN ('r', 'p') AND c.relnamespace ="
    " (SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = to_regclass('stateline_sessions')) ORDER BY c.relname"
)
_FORCED = "SELECT relforcerowsecurity FROM pg_catalog.pg_class WHERE oid = to_regclass('stateline_chunks')"
_HURRY = "SET LOCAL lock_timeout = 500"
"""Who wants a table while we wait for it waits as well, so this does not wait long."""


class Wall(NamedTuple):
    """A table: whether rows are hidden in it from others, and from its owner."""

    table: str
    enabled: bool
    forced: bool


class State(NamedTuple):
    """How a database's walls stand, as one of its roles sees it.

    ``exempt``: a superuser, or a role with BYPASSRLS. ``older``: nodes that live and do not say for whom they work.
    """

    role: str
    exempt: bool
    gaps: tuple[str, ...]
    older: int


async def walls(db: Connection) -> list[Wall]:
    """Every table that must have one; what a newer release has added is its own to look after."""
    rows = [Wall(*row) for row in await db.fetch(_TABLES)]
    return [wall for wall in rows if wall.table in _WALLED or _PART.fullmatch(wall.table)]


async def state(db: Connection) -> State | None:
    """How the walls stand; None where the tables are older than walls, or not there."""
    if not await db.fetchval("SELECT to_regclass('stateline_readers') IS NOT NULL"):
        return None
    role = await db.fetchrow(
        "SELECT current_user::text, rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
    )
    assert role is not None
    gaps = tuple(wall.table for wall in await walls(db) if not (wall.enabled and wall.forced))
    return State(role[0], role[1], gaps, await _older(db, None))


async def _older(db: Connection, now_ms: int | None) -> int:
    return await db.fetchval(
        f"SELECT count(*) FROM stateline_nodes WHERE NOT scoped AND expires_ms > {now_sql()}", now_ms
    )


async def wall_part(db: Connection, table: str) -> None:
    """Put a new part of the chunks behind a wall like the others', in the caller's transaction.

    Older nodes count and delete in a part itself before they drop it: one that hid its rows from them would
    look empty. So it is forced where its parent is.
    """
    await db.execute(policy(table, COLUMNS["chunks"]))
    if await db.fetchval(_FORCED):
        await db.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


async def close(db: Connection, now_ms: int | None) -> None:
    """Wall what an older node made, and hold the owner to the walls once no older node lives.

    Where others are in the way nothing is done: it is tried again at the next start, and every few minutes.
    """
    if all(wall.enabled and wall.forced for wall in await walls(db)):
        return
    await db.execute("BEGIN")
    try:
        await db.execute(_HURRY)
        await db.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        found = await walls(db)
        for wall in found:
            if not wall.enabled and _PART.fullmatch(wall.table):
                await db.execute(policy(wall.table, COLUMNS["chunks"]))
        if not await _older(db, now_ms):
            # All at once: a backup that an older release has begun holds some of them, and must find its rows.
            await force(db, [wall.table for wall in found if not wall.forced])
        await db.execute("COMMIT")
    except Exception as error:
        if db.is_closed():
            raise
        await db.execute("ROLLBACK")
        if not connecting.passes(error) and not connecting.lacks_table(error):
            raise


async def force(db: Connection, tables: list[str]) -> None:
    """Hold the owner to these tables' walls."""
    if tables:
        await db.execute("; ".join(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in tables))


async def lift(db: Connection) -> list[str]:
    """Let the owner past the walls, in the caller's transaction, and say where to ``force`` it again.

    COPY into a table is refused to whom its policies hold.
    """
    tables = [wall.table for wall in await walls(db) if wall.forced]
    if tables:
        await db.execute("; ".join(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY" for table in tables))
    return tables
