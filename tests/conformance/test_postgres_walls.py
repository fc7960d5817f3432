"""What row-level security hides on PostgreSQL, whatever a statement asks, and from whom."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import pytest
from tests.conformance.nodes import Two, seqs
from tests.postgres import ROLE, ask, new_database, superuser

from stateline.core.errors import StoreUnavailable
from stateline.core.events import Dedup, Event
from stateline.core.ids import SessionRef
from stateline.ports import Ownership, SessionMissing, Watch
from stateline.stores.postgres import (
    backup,
    chunks,
    lookup,
    open_postgres,
    opening,
    pool,
    reader,
    schema,
    walls,
)
from stateline.stores.postgres.connecting import EVERY, NOBODY, SETTING, Connection, Place, connect, place_of
from stateline.stores.postgres.pool import Pool
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_checks.log import chunk, picture, snapshot
from stateline.testing.store_rig import event, text

A, B = SessionRef("a", "of-a"), SessionRef("b", "of-b")
REFUSED: tuple[type[BaseException], ...] = (asyncpg.PostgresError,)


async def filled(two: Two) -> None:
    """Rows of tenants a and b in every table."""
    await two.a.renew("n", 60)
    for ref in (A, B):
        own = Ownership(session=ref, owner="n", epoch=1, head=0)
        first = text(ref, 1, dedup=[Dedup(key="k", ref="r", digest="d", ttl_s=600)])
        events = [first, event(ref, 2, chunk(0)), event(ref, 3, picture()), event(ref, 4, snapshot(3))]
        await two.a.append(own, 0, events, create=True)
        await two.a.post(ref, text(ref, 0), "posted")


async def numbers(url: str) -> dict[str, int]:
    return await ask(url, _numbers)


async def _numbers(db: Connection) -> dict[str, int]:
    return {row[0]: row[1] for row in await db.fetch("SELECT name, n FROM stateline_tenants")}


async def tables(url: str) -> dict[str, str]:
    """Every table of the catalogue that must have a wall, with the column of its tenant."""
    found = [wall.table for wall in await ask(url, walls.walls)]
    names = {table: table.removeprefix("stateline_") for table in found}
    columns = {
        table: walls.COLUMNS["chunks" if "chunks_p" in name else name]
        for table, name in names.items()
        if name not in walls.SHARED
    }
    assert columns.keys() > {f"stateline_{name}" for name in walls.COLUMNS}, "and the parts of the chunks"
    return columns


@asynccontextmanager
async def working_for(url: str, whom: str) -> AsyncGenerator[Connection]:
    db = await connect(place_of(url), whom)
    try:
        yield db
    finally:
        await db.close()


async def says_nothing(place: Place) -> Connection:
    """A connection that does not say for whom it works, as those of the release before."""
    return await cast("Any", asyncpg.connect)(place.url)  # pyright: ignore[reportUnknownMemberType]


@asynccontextmanager
async def undone(db: Connection) -> AsyncGenerator[None]:
    await db.execute("BEGIN")
    try:
        yield
    finally:
        await db.execute("ROLLBACK")


# -- every table ---------------------------------------------------------------------------------------


async def test_every_table_is_behind_a_wall_and_one_with_a_tenant_by_its_tenant(two: Two) -> None:
    await filled(two)
    for wall in await ask(two.url, walls.walls):
        assert wall.enabled, f"{wall.table} has no row-level security: its step must have walls.policy"
        assert wall.forced, f"{wall.table} is not forced"

    async def named(db: Connection) -> tuple[set[str], set[str]]:
        every = await db.fetch(
            "SELECT relname::text, EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = oid AND attname = 'tenant')"
            " FROM pg_class WHERE relname LIKE 'stateline\\_%' AND relkind IN ('r', 'p')"
            " AND relnamespace = current_schema()::regnamespace AND NOT relispartition"
        )
        names = {row[0].removeprefix("stateline_") for row in every}
        return names, {row[0].removeprefix("stateline_") for row in every if row[1]}

    names, with_tenant = await ask(two.url, named)
    assert names == {*walls.COLUMNS, *walls.SHARED, *walls.OPEN}
    assert with_tenant == {*walls.COLUMNS, "readers"} - {"tenants"}


async def test_who_works_for_one_tenant_sees_and_touches_nothing_of_another_in_any_table(two: Two) -> None:
    await filled(two)
    tenants = await numbers(two.url)
    a, b = tenants["a"], tenants["b"]
    async with working_for(two.url, str(a)) as db, working_for(two.url, EVERY) as every:
        for table, column in (await tables(two.url)).items():

            async def of(tenant: int, table: str = table, column: str = column) -> list[Any]:
                return await every.fetch(f"SELECT * FROM {table} WHERE {column} = $1 ORDER BY 1", tenant)

            kept, before = await of(a), await of(b)
            # Partitions of the time to come are empty.
            assert bool(before) == bool(kept)
            seen = await db.fetch(f"SELECT {column} FROM {table}")
            assert {row[0] for row in seen} == ({a} if kept else set())
            assert await db.fetch(f"SELECT 1 FROM {table} WHERE {column} = $1", b) == []
            async with undone(db):
                assert await db.execute(f"DELETE FROM {table} WHERE {column} = $1", b) == "DELETE 0"
            if table != "stateline_tenants":
                async with undone(db):
                    tag = await db.execute(f"UPDATE {table} SET tenant = tenant")
                    assert tag == f"UPDATE {len(kept)}"
                async with undone(db):
                    if kept:
                        with pytest.raises(REFUSED, match="row-level security"):
                            await db.execute(f"UPDATE {table} SET tenant = $1", b)
            for row in before:
                values = dict(row)
                places = ", ".join(f"${i}" for i in range(1, len(values) + 1))
                async with undone(db):
                    with pytest.raises(REFUSED, match="row-level security"):
                        await db.execute(
                            f"INSERT INTO {table} ({', '.join(values)}) OVERRIDING SYSTEM VALUE VALUES ({places})",
                            *values.values(),
                        )
            assert await of(b) == before


@pytest.mark.parametrize("said", [None, "", NOBODY])
async def test_who_does_not_say_for_whom_sees_no_row_though_it_owns_the_tables(two: Two, said: str | None) -> None:
    await filled(two)
    db = await says_nothing(place_of(two.url))
    try:
        if said is not None:
            await db.execute(f"SET {SETTING} = '{said}'")
        for table in await tables(two.url):
            assert await db.fetch(f"SELECT 1 FROM {table}") == []
    finally:
        await db.close()


async def test_a_part_of_the_chunks_that_is_made_later_has_its_wall(two: Two) -> None:
    await filled(two)
    before = {wall.table for wall in await ask(two.url, walls.walls)}
    two.clock.advance(10 * chunks.CHUNK_PART_S)
    await two.a.tend()
    after = await ask(two.url, walls.walls)
    assert len({wall.table for wall in after} - before) == 1 + chunks.CHUNK_PARTS_AHEAD
    assert all(wall.enabled and wall.forced for wall in after)


# -- a forgotten condition -----------------------------------------------------------------------------


def _without_tenant(query: str) -> str:
    condition = f"s.tenant = {lookup.TENANT.format(name='$1')} AND "
    assert query.count(condition) == 1
    return query.replace(condition, "$1::text IS NOT NULL AND ")


async def test_a_query_that_forgot_its_tenant_shows_nothing_of_others(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(two)
    monkeypatch.setattr(reader, "_LINEAGE", _without_tenant(reader._LINEAGE))  # pyright: ignore[reportPrivateUsage]
    not_its = SessionRef("a", B.id)
    assert await seqs(two.b, A) == [1, 2, 3]
    with pytest.raises(SessionMissing):
        await seqs(two.b, not_its)
    # Without the wall, as for a superuser, the same query does leak.
    bypassing = await open_postgres(superuser(two.url), clock=two.clock)
    leaked = [found async for found in bypassing.read(not_its, until=2, chunks=True)]
    assert [found.seq for found in leaked] == [1, 2]
    await bypassing.close()


@pytest.mark.parametrize("pooler", ["none", "transaction"])
async def test_the_pool_tells_its_connections_for_whom_they_work_and_keeps_to_its_size(
    two: Two, monkeypatch: pytest.MonkeyPatch, pooler: str
) -> None:
    await filled(two)
    made: list[Connection] = []

    async def counted(*args: Any) -> Connection:
        made.append(await connect(*args))
        return made[-1]

    monkeypatch.setattr(pool.connecting, "connect", counted)
    monkeypatch.setattr(pool, "RECENT_SESSIONS_MAX", 1)
    lent = Pool(place_of(f"{two.url}&stateline_pooler={pooler}"), 3)

    async def seen(db: Connection) -> set[str]:
        rows = await db.fetch("SELECT id FROM stateline_sessions")
        await db.fetchval("SELECT pg_sleep(0.005)")
        return {row[0] for row in rows}

    wanted = {"a": {A.id}, "b": {B.id}, "nobody": set[str](), None: {A.id, B.id}}
    jobs = [tenant for _ in range(12) for tenant in wanted]
    assert await asyncio.gather(*(lent.run(seen, tenant) for tenant in jobs)) == [wanted[tenant] for tenant in jobs]
    assert len(made) <= 3

    async def fails(db: Connection) -> None:
        await db.execute("SELECT 1 / 0")

    with pytest.raises(StoreUnavailable, match="division"):
        await lent.run(fails, "a")
    assert await lent.run(seen, "b") == {B.id}
    assert len(lent._numbers) == 1  # pyright: ignore[reportPrivateUsage]
    await lent.close()


async def test_a_connection_that_could_not_be_told_is_given_up(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(two)
    lent = Pool(place_of(two.url), 1)

    async def count(db: Connection) -> int:
        return await db.fetchval("SELECT count(*) FROM stateline_sessions")

    assert await lent.run(count, None) == 2

    async def fails(*_: object) -> None:
        raise asyncpg.PostgresError("planted")

    with monkeypatch.context() as planted:
        planted.setattr(pool.connecting, "work_for", fails)
        with pytest.raises(StoreUnavailable, match="planted"):
            await lent.run(count, "nobody")
    assert await lent.run(count, "a") == 1
    await lent.close()


async def test_followers_of_one_tenant_are_answered_within_it_and_of_many_across(two: Two) -> None:
    await filled(two)
    for refs in ([A], [A, B]):
        found = await two.b.tail([Watch(session=ref, after=0) for ref in refs])
        assert {(record.session, record.seq) for record in found if isinstance(record, Event)} == {
            (ref, seq) for ref in refs for seq in (1, 2, 3)
        }


# -- a role that reads ---------------------------------------------------------------------------------


@asynccontextmanager
async def reading(two: Two) -> AsyncGenerator[Connection]:
    """A connection of a role that reads tenant a's rows, with far more rights to read than it should have."""
    place = two.url.rpartition("=")[2]
    name = f"auditor_{place}"
    made = f"CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA {place} TO {name}"
    await ask(superuser(two.url), lambda db: db.execute(made))
    given = (
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO {name};"
        f" INSERT INTO stateline_readers SELECT '{name}', n FROM stateline_tenants WHERE name = 'a'"
    )
    await ask(two.url, lambda db: db.execute(given))
    async with working_for(two.url.replace(ROLE, name), EVERY) as db:
        yield db


async def test_a_role_that_reads_one_tenant_cannot_lift_itself(two: Two) -> None:
    await filled(two)
    tenants = await numbers(two.url)
    columns = await tables(two.url)

    async def only_a(db: Connection) -> None:
        for table, column in columns.items():
            found = await db.fetch(f"SELECT {column} FROM {table}")
            assert {row[0] for row in found} <= {tenants["a"]}, table
        assert await db.fetchval("SELECT count(*) FROM stateline_events") == 2
        for name in ("meta", "balances"):
            assert await db.fetch(f"SELECT 1 FROM stateline_{name}") == []
        assert [row[0] for row in await db.fetch("SELECT tenant FROM stateline_readers")] == [tenants["a"]]

    async with reading(two) as db:
        # A connection like a node's says that it works across tenants: nobody listens.
        await only_a(db)
        for said in (str(tenants["b"]), "-1", "", EVERY):
            await db.execute(f"SELECT set_config('{SETTING}', $1, false)", said)
            await only_a(db)
        # Its own tables of the same names, found first, are not those that the policies ask.
        await db.execute(
            f"CREATE TEMP TABLE stateline_readers AS SELECT current_user AS role, {tenants['b']} AS tenant;"
            " SET search_path = pg_temp, public"
        )
        place = two.url.rpartition("=")[2]
        found = await db.fetch(f"SELECT DISTINCT tenant FROM {place}.stateline_events")
        assert [row[0] for row in found] == [tenants["a"]]
        await db.execute(f"SET search_path = {place}; DROP TABLE pg_temp.stateline_readers")
        for refused in (
            f"SET ROLE {ROLE}",
            "ALTER TABLE stateline_events DISABLE ROW LEVEL SECURITY",
            "DROP POLICY stateline_tenant ON stateline_events",
            f"UPDATE stateline_readers SET tenant = {tenants['b']}",
            "INSERT INTO stateline_sessions SELECT * FROM stateline_sessions",
            "DELETE FROM stateline_events",
            "SET row_security = off; SELECT 1 FROM stateline_events",
        ):
            with pytest.raises(REFUSED):
                await db.execute(refused)
        await db.execute("SET row_security = on")
        await only_a(db)


async def test_the_documented_role_reads_its_tenants_rows_alone(two: Two) -> None:
    await filled(two)
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    place = two.url.rpartition("=")[2]
    code = code.replace("public", place).replace("acme_auditor", f"acme_{place}").replace("'acme'", "'a'")
    await ask(superuser(two.url), lambda db: db.execute(code))
    async with working_for(two.url.replace(ROLE, f"acme_{place}"), EVERY) as db:
        assert [row[0] for row in await db.fetch("SELECT id FROM stateline_sessions")] == [A.id]
        assert await db.fetchval("SELECT count(*) FROM stateline_events") == 2
        with pytest.raises(REFUSED, match="permission denied"):
            await db.fetch("SELECT * FROM stateline_meta")


async def test_a_role_that_was_given_no_tenant_sees_nothing(two: Two) -> None:
    await filled(two)
    async with reading(two) as db:
        await ask(two.url, lambda owner: owner.execute("DELETE FROM stateline_readers"))
        for table in await tables(two.url):
            assert await db.fetch(f"SELECT 1 FROM {table}") == []


# -- upgrades, backups ---------------------------------------------------------------------------------


_LIVES = (
    "INSERT INTO stateline_nodes (owner, expires_ms) VALUES ('old', (extract(epoch FROM now()) * 1000)::bigint + $1)"
    " ON CONFLICT (owner) DO UPDATE SET expires_ms = excluded.expires_ms"
)


async def _part_of_an_older_node(db: Connection, number: int) -> None:
    name, width_ms = f"stateline_chunks_p{number}", chunks.CHUNK_PART_S * 1000
    await db.execute(
        f"CREATE TABLE {name} (LIKE stateline_chunks INCLUDING DEFAULTS INCLUDING STORAGE);"
        f" ALTER TABLE stateline_chunks ATTACH PARTITION {name}"
        f" FOR VALUES FROM ({number * width_ms}) TO ({(number + 1) * width_ms})"
    )


async def test_an_older_node_serves_until_its_end_and_then_the_walls_are_closed(postgres: PostgresServer) -> None:
    url = await new_database(postgres)
    place = place_of(url)
    old = await says_nothing(place)
    await opening._migrate(old, place, schema.MIGRATIONS[:3])  # pyright: ignore[reportPrivateUsage]
    await old.execute(_LIVES, 60_000)
    await _part_of_an_older_node(old, 1)
    store = await open_postgres(url)
    await store.append(Ownership(session=A, owner="new", epoch=1, head=0), 0, [text(A, 1)], create=True)
    assert await seqs(store, A) == [1]

    async def old_sees() -> list[int]:
        return [await old.fetchval(f"SELECT count(*) FROM stateline_{name}") for name in ("sessions", "events", "meta")]

    await _part_of_an_older_node(old, 2)
    await store.tend()
    assert await old_sees() == [1, 1, 1]
    stands = await ask(url, walls.state)
    assert stands is not None
    assert (stands.role, stands.exempt, stands.older) == (ROLE, False, 1)
    found = await ask(url, walls.walls)
    assert {wall.table for wall in found} > {"stateline_chunks_p1", "stateline_chunks_p2"}
    assert all(wall.enabled and not wall.forced for wall in found)
    await old.execute(_LIVES, -1)
    # A backup that the older release has begun holds tables: nothing is closed under it.
    await old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1 FROM stateline_events")
    await store.tend()
    assert await old_sees() == [1, 1, 1]
    await old.execute("COMMIT")
    await store.tend()
    assert all(wall.enabled and wall.forced for wall in await ask(url, walls.walls))
    assert (await old_sees())[:2] == [0, 0]
    stands = await ask(url, walls.state)
    assert stands is not None
    assert (stands.gaps, stands.older) == ((), 0)
    assert await seqs(store, A) == [1]
    await store.close()
    await old.close()


async def test_a_backup_has_every_tenants_rows_and_a_restore_leaves_the_walls_closed(two: Two, tmp_path: Path) -> None:
    await filled(two)
    made = await two.a.maintenance.backup(str(tmp_path / "b"))
    assert (made.sessions, made.files) == (2, 4)
    await two.a.close()
    await two.b.close()
    await backup.restore(two.url, tmp_path / "b", force=True)
    assert all(wall.enabled and wall.forced for wall in await ask(two.url, walls.walls))
    store = await open_postgres(two.url, clock=two.clock)
    assert await seqs(store, B) == [1, 2, 3]
    await store.close()


async def test_a_restore_of_an_older_backup_gives_nobody_a_tenant(two: Two, tmp_path: Path) -> None:
    """Numbers of tenants may stand for others there."""
    await filled(two)
    await two.a.maintenance.backup(str(tmp_path / "b"))
    path = tmp_path / "b" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["tables"]["readers"]
    path.write_text(json.dumps(manifest | {"schema_version": 3}))
    await two.a.close()
    await two.b.close()
    async with reading(two) as db:
        assert await db.fetchval("SELECT count(*) FROM stateline_sessions") == 1
        await backup.restore(two.url, tmp_path / "b", force=True)
        assert await db.fetchval("SELECT count(*) FROM stateline_sessions") == 0
