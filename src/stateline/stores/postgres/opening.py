"""The start: whether a database may be used, and carrying its tables forward.

A database that is not ours, is newer than this release, or gives us no rights is refused in one line,
and nothing of it is changed.
"""

from __future__ import annotations

import secrets

from stateline.core.errors import StoreUnavailable
from stateline.stores.postgres import chunks, connecting, schema, walls
from stateline.stores.postgres.connecting import Connection, Place

_VERSION = "SELECT coalesce(max(version), 0) FROM stateline_schema"
_TRIES = 6
"""Each waits for another node's step as long as for any lock."""


async def version_at(url: str) -> int:
    """The schema version of the database that ``url`` names, 0 where it has none of our tables.

    Raises:
        StoreUnavailable: it may not be used.
    """
    place = connecting.place_of(url)
    db = await connecting.connect(place)
    try:
        await _check_server(db, place)
        return await _version(db, place)
    except StoreUnavailable:
        raise
    except Exception as error:
        if connecting.of_the_server(error) or connecting.passes(error):
            raise connecting.unreachable(place, error) from error
        raise
    finally:
        await connecting.close(db)


async def prepare(db: Connection, place: Place, now_ms: int | None) -> bytes:
    """Check the database, bring its tables to this release, and return the installation's secret.

    Raises:
        StoreUnavailable: it may not be used; nothing was changed.
    """
    try:
        await _check_server(db, place)
        if await _version(db, place) < schema.VERSION:
            await _migrate(db, place)
        for table in schema.TABLES:
            await db.execute(f"SELECT 1 FROM stateline_{table} LIMIT 1")
        await chunks.ensure(db, now_ms)
        await walls.close(db, now_ms)
        secret: bytes | None = await db.fetchval("SELECT value FROM stateline_meta WHERE name = 'secret'")
    except StoreUnavailable:
        raise
    except Exception as error:
        if connecting.of_the_server(error) or connecting.passes(error):
            raise connecting.unreachable(place, error) from error
        raise
    if secret is None:
        raise _foreign(place, "its secret is missing")
    return secret


async def _check_server(db: Connection, place: Place) -> None:
    row = await db.fetchrow(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),"
        " current_setting('server_encoding'), current_schema() IS NOT NULL"
    )
    assert row is not None
    number, version, encoding, has_schema = row[0], row[1], row[2], row[3]
    if number < connecting.SERVER_MIN:
        raise StoreUnavailable(
            f"PostgreSQL {version} at {place.shown} is too old, 14 is needed", code="store_unreachable"
        )
    if encoding != "UTF8":
        raise StoreUnavailable(f"the database at {place.shown} is not in UTF8 but {encoding}", code="store_unreachable")
    if not has_schema:
        raise StoreUnavailable(f"the search_path at {place.shown} names no schema", code="store_unreachable")


async def _version(db: Connection, place: Place) -> int:
    # From the catalogue's table: a name's look-up may be remembered from before we waited for the lock.
    found = await db.fetch(
        "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY(current_schemas(false)) AND c.relname IN ('stateline_schema', 'stateline_sessions')"
    )
    names = {row[0] for row in found}
    if "stateline_schema" not in names:
        if names:
            raise _foreign(place, "it has tables with our names")
        return 0
    version = int(await db.fetchval(_VERSION))
    if version > schema.VERSION:
        raise StoreUnavailable(
            f"the database at {place.shown} has schema version {version}, this release knows {schema.VERSION}; "
            "use the release that wrote it, or a newer one",
            code="store_newer",
        )
    return version


def _foreign(place: Place, why: str) -> StoreUnavailable:
    return StoreUnavailable(f"the database at {place.shown} is not Stateline's: {why}", code="store_foreign")


async def _migrate(db: Connection, place: Place, migrations: tuple[str, ...] = schema.MIGRATIONS) -> None:
    """Each step in a transaction of its own, by one node at a time."""
    for tries_left in reversed(range(_TRIES)):
        try:
            while await _step(db, place, migrations):
                pass
        except Exception as error:
            await db.execute("ROLLBACK")
            if not tries_left or not connecting.passes(error):
                raise
        else:
            return


async def _step(db: Connection, place: Place, migrations: tuple[str, ...]) -> bool:
    """Take the next step; False when there is none."""
    await db.execute("BEGIN")
    await db.execute(f"SELECT pg_advisory_xact_lock({schema.LOCK})")
    version = await _version(db, place)
    if version == len(migrations):
        await db.execute("COMMIT")
        return False
    if version == 0:
        await db.execute(
            "CREATE TABLE stateline_schema"
            " (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
    await db.execute(migrations[version])
    if version == 0:
        await db.execute("INSERT INTO stateline_meta VALUES ('secret', $1)", secrets.token_bytes(32))
    await db.execute("INSERT INTO stateline_schema (version) VALUES ($1)", version + 1)
    await db.execute("COMMIT")
    return True
