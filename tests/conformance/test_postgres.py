"""What several nodes on one PostgreSQL database may count on."""

from __future__ import annotations

import asyncio
import time

import msgspec
from tests.conformance.nodes import OWN, REF, Two, seqs
from tests.postgres import ROLE, ask, new_database, superuser

from stateline.core.errors import StoreUnavailable
from stateline.core.events import Event
from stateline.core.ids import SessionRef
from stateline.ports import Duplicate, Fenced, HeadMoved, Ownership, Posted, Store, Watch
from stateline.stores.postgres import chunks, open_postgres, schema
from stateline.stores.postgres.connecting import Connection, place_of
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_checks.log import chunk, picture
from stateline.testing.store_rig import event, raises, text, texts

# -- several nodes -------------------------------------------------------------------------------------


async def test_a_dead_nodes_session_is_taken_over_and_the_late_writer_is_fenced(two: Two) -> None:
    await two.started()
    assert await two.b.claim("b", 10) == []
    two.clock.advance(10)
    await two.b.renew("b", 10)
    [taken] = await two.b.claim("b", 10)
    assert (taken.epoch, taken.head, taken.crashed) == (2, 1, True)
    # Node a still remembers the session as its own.
    await raises(Fenced, two.a.append(OWN, 1, texts(REF, 2, 1)))
    await raises(Fenced, two.a.release(OWN, 0))
    assert await two.b.append(taken, 1, texts(REF, 2, 1)) == 2
    assert await seqs(two.a) == [1, 2]


async def test_what_one_node_appends_another_follows(two: Two) -> None:
    await two.started()
    following = asyncio.ensure_future(two.b.tail([Watch(session=REF, after=1)], 20.0))
    await asyncio.sleep(0.1)
    await two.a.append(OWN, 1, [text(REF, 2), event(REF, 3, chunk(0)), event(REF, 4, picture())])
    found = await following
    assert [record.seq for record in found if isinstance(record, Event)] == [2, 3, 4]
    assert found == await two.a.tail([Watch(session=REF, after=1)])


async def test_a_node_that_took_over_is_followed_without_a_gap(two: Two) -> None:
    """Node a remembers its own events, which now have another node's between them."""
    await two.started()
    assert await two.a.append(OWN, 1, texts(REF, 2, 1), release=True) == 2
    adopting = Ownership(session=REF, owner="b", epoch=2, head=2)
    assert await two.b.append(adopting, 2, texts(REF, 3, 2), release=True) == 4
    back = msgspec.structs.replace(OWN, epoch=3)
    assert await two.a.append(back, 4, texts(REF, 5, 1)) == 5
    found = await two.a.tail([Watch(session=REF, after=1)], 20.0)
    assert [record.seq for record in found if isinstance(record, Event)] == [2, 3, 4, 5]


async def test_a_post_on_one_node_reaches_the_owner_on_another(two: Two) -> None:
    await two.started()
    waiting = asyncio.ensure_future(two.a.tail([Watch(session=REF, after=1, post=0)], 20.0))
    await asyncio.sleep(0.1)
    await two.b.post(REF, text(REF, 0, "from b"), "key")
    [posted] = await waiting
    assert isinstance(posted, Posted)
    assert posted.event.body == text(REF, 0, "from b").body
    await raises(Duplicate, two.a.post(REF, text(REF, 0), "key"))
    assert await two.a.append(OWN, 1, [text(REF, 2, post=posted.post)], release=True) == 2


async def test_a_release_is_refused_when_the_inbox_grew_on_another_node(two: Two) -> None:
    await two.started()
    await two.b.post(REF, text(REF, 0))
    assert await two.a.release(OWN, 0) is False
    await raises(HeadMoved, two.a.append(OWN, 1, texts(REF, 2, 1), release=True))
    assert await two.a.append(OWN, 1, texts(REF, 2, 1)) == 2


async def test_a_remembered_session_is_looked_at_again_where_others_changed_it(two: Two) -> None:
    await two.started()
    assert await two.a.release(OWN, 0)
    adopting = Ownership(session=REF, owner="b", epoch=2, head=1)
    assert await two.b.append(adopting, 1, texts(REF, 2, 1)) == 2
    await raises(Fenced, two.a.append(Ownership(session=REF, owner="a", epoch=2, head=1), 1, texts(REF, 2, 1)))
    await two.b.erase(REF)
    await two.a.create(REF)
    assert await two.a.append(OWN, 0, texts(REF, 1, 1)) == 1


async def test_two_nodes_that_claim_share_what_is_due_fairly(two: Two) -> None:
    await two.a.renew("a", 10)
    await two.b.renew("b", 10)
    for tenant, count in (("busy", 20), ("x", 12), ("y", 12)):
        for n in range(count):
            ref = SessionRef(tenant, f"{tenant}{n}")
            await two.a.create(ref)
            await two.a.post(ref, text(ref, 0))
    both = await asyncio.gather(two.a.claim("a", 6), two.b.claim("b", 6))
    taken = [own.session for owned in both for own in owned]
    assert len(set(taken)) == len(taken) == 12
    assert all({"busy", "x", "y"} == {own.session.tenant for own in owned} for owned in both)


async def test_many_nodes_race_for_sessions_and_each_has_one_writer(two: Two) -> None:
    refs = [SessionRef("t", f"r{n}") for n in range(40)]
    await asyncio.gather(*(two.a.create(ref) for ref in refs))

    async def adopt(store: Store, owner: str, ref: SessionRef) -> int | Exception:
        own = Ownership(session=ref, owner=owner, epoch=1, head=0)
        try:
            return await store.append(own, 0, [text(ref, 1, owner)])
        except Fenced as error:
            return error

    pairs = ((two.a, "a"), (two.b, "b"))
    results = await asyncio.gather(*(adopt(store, owner, ref) for ref in refs for store, owner in pairs))
    assert results.count(1) == 40
    for ref in refs:
        assert await seqs(two.a, ref) == [1]


# -- others in the way ---------------------------------------------------------------------------------


async def test_a_deadlock_is_tried_again(two: Two) -> None:
    await two.started()
    other = SessionRef("t", "other")
    await two.a.create(other)
    assert await two.a.append(Ownership(session=other, owner="a", epoch=1, head=0), 0, texts(other, 1, 1)) == 1

    async def hold(db: Connection) -> None:
        # The later session first, then the earlier one: the other way round than every commit.
        await db.execute("SET deadlock_timeout = '10s'")
        await db.execute("BEGIN")
        await db.execute("SELECT 1 FROM stateline_sessions WHERE id = 'other' FOR UPDATE")
        appends = asyncio.gather(
            two.a.append(OWN, 1, texts(REF, 2, 1)),
            two.a.append(Ownership(session=other, owner="a", epoch=1, head=1), 1, texts(other, 2, 1)),
        )
        await asyncio.sleep(0.2)
        await db.execute("SELECT 1 FROM stateline_sessions WHERE id = 's' FOR UPDATE")
        await db.execute("COMMIT")
        assert await appends == [2, 2]

    await ask(superuser(two.url), hold)


async def test_a_value_that_cannot_be_written_fails_its_own_session_alone(two: Two) -> None:
    await two.started()
    other = SessionRef("t", "other")
    await two.a.create(other)
    bad = msgspec.structs.replace(text(REF, 2), at_ms=1 << 70)
    results = await asyncio.gather(
        two.a.append(OWN, 1, [bad]),
        two.a.append(Ownership(session=other, owner="a", epoch=1, head=0), 0, texts(other, 1, 1)),
        return_exceptions=True,
    )
    assert isinstance(results[0], Exception)
    assert results[1] == 1
    assert await two.a.append(OWN, 1, texts(REF, 2, 1)) == 2


async def test_a_session_of_a_newer_release_is_left_to_it(two: Two) -> None:
    await two.a.create(REF)
    await two.a.post(REF, text(REF, 0))

    async def mark(db: Connection) -> None:
        await db.execute("UPDATE stateline_sessions SET min_reader = 99")

    await ask(two.url, mark)
    assert await two.a.claim("a", 10) == []


# -- content and chunks --------------------------------------------------------------------------------


async def test_large_content_is_kept_once_a_tenant_and_goes_with_the_last_reference(two: Two) -> None:
    refs = [SessionRef("t", "1"), SessionRef("t", "2"), SessionRef("u", "1")]
    for ref in refs:
        await two.a.create(ref)
        await two.a.append(Ownership(session=ref, owner="a", epoch=1, head=0), 0, [event(ref, 1, picture())])

    async def count(db: Connection) -> int:
        return await db.fetchval("SELECT count(*) FROM stateline_blobs")

    first = await ask(two.url, count)
    assert first == 4  # An image and a file, for two tenants.
    await two.b.erase(refs[0])
    assert await ask(two.url, count) == 4
    await two.b.erase(refs[1])
    assert await ask(two.url, count) == 2
    assert await seqs(two.b, refs[2]) == [1]


async def test_partitions_are_made_ahead_when_they_are_missing_and_dropped_whole(two: Two) -> None:
    width_s = chunks.CHUNK_PART_S
    await two.started()
    await two.a.append(OWN, 1, [event(REF, 2, chunk(0))])
    before = await ask(two.url, chunks.parts)
    assert len(before) == 1 + chunks.CHUNK_PARTS_AHEAD
    two.clock.advance(10 * width_s)
    await two.a.renew("a", 10)
    # No partition has been made for this time.
    await two.a.append(OWN, 2, [event(REF, 3, chunk(1))])
    now_ms = two.clock.now_ms()
    assert await two.a.prune_chunks(now_ms - width_s * 1000) == 0  # Its turn may need them.
    assert await two.a.release(OWN, 0)
    assert await two.a.prune_chunks(now_ms - width_s * 1000) == 1
    after = await ask(two.url, chunks.parts)
    assert not set(after) & set(before)
    assert await seqs(two.b) == [1, 3]
    assert await two.a.prune_chunks(now_ms + 1) == 1  # A retention shorter than a partition deletes rows.
    assert await seqs(two.b) == [1]


async def test_expired_keys_are_cleared(two: Two) -> None:
    await two.a.create(REF)
    await two.a.post(REF, text(REF, 0), "key")
    two.clock.advance(2 * 24 * 3600)
    await two.a.tend()

    async def count(db: Connection) -> int:
        return await db.fetchval("SELECT count(*) FROM stateline_dedup")

    assert await ask(two.url, count) == 0


# -- opening -------------------------------------------------------------------------------------------


async def refused(url: str) -> StoreUnavailable:
    error = await raises(StoreUnavailable, open_postgres(url))
    assert "\n" not in error.message
    assert "hunter2" not in error.message
    return error


async def test_what_cannot_be_reached_is_one_line_without_the_password(postgres: PostgresServer) -> None:
    assert "Connect" in (await refused("postgresql://u:hunter2@127.0.0.1:1/x")).message
    assert "does not exist" in (await refused(postgres.url("nowhere"))).message
    tcp = postgres.url(tcp=True)
    assert "nobody" in (await refused(tcp.replace("postgres@", "nobody:hunter2@"))).message
    for wrong in ("postgresql://u:hun#hunter2@host/x", "postgresql://h:hunter2/x", "postgresql://h/x?a=b&hunter2"):
        assert (await refused(wrong)).code == "store_unreachable"
    await refused(tcp + "?stateline_pooler=session")
    await refused(tcp + "?no_such_setting=1")
    place = place_of("postgresql://u:hunter2@h1:1,h2:2/x?sslmode=require&password=hunter2&stateline_pooler=transaction")
    assert place.shown == "postgresql://u@h1:1,h2:2/x?sslmode=require&stateline_pooler=transaction"
    assert place.pooler


async def test_a_database_of_somebody_else_or_of_a_newer_release_is_left_alone(postgres: PostgresServer) -> None:
    foreign, newer, bare = [await new_database(postgres) for _ in range(3)]

    async def others(db: Connection) -> None:
        await db.execute("CREATE TABLE stateline_sessions (x int)")

    async def later(db: Connection) -> None:
        await db.execute(f"INSERT INTO stateline_schema (version) VALUES ({schema.VERSION + 1})")

    async def tables(db: Connection) -> list[str]:
        rows = await db.fetch(
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema"
        )
        return [row[0] for row in rows]

    await ask(foreign, others)
    assert (await refused(foreign)).code == "store_foreign"
    assert await ask(foreign, tables) == ["stateline_sessions"]
    await (await open_postgres(newer)).close()
    await ask(newer, later)
    assert (await refused(newer)).code == "store_newer"

    async def role(db: Connection) -> None:
        name = bare.rpartition("=")[2]
        await db.execute(f"DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN; GRANT USAGE ON SCHEMA {name} TO weak")

    await ask(superuser(bare), role)
    assert "permission denied" in (await refused(bare.replace(ROLE, "weak"))).message
    assert await ask(bare, tables) == []


async def test_nodes_that_start_together_make_the_tables_once(postgres: PostgresServer) -> None:
    url = await new_database(postgres)
    opened = await asyncio.gather(*(open_postgres(url) for _ in range(4)))
    await opened[0].create(REF)
    assert await seqs(opened[3]) == []
    for store in opened:
        await store.close()


async def test_the_databases_clock_and_a_pooler_are_enough(postgres: PostgresServer) -> None:
    """Behind a transaction pooler nothing outlives a transaction: looking is all that is left."""
    url = await new_database(postgres) + "&stateline_pooler=transaction"
    a, b = await open_postgres(url), await open_postgres(url)
    await a.renew("a", 60)
    await a.create(REF)
    following = asyncio.ensure_future(b.tail([Watch(session=REF, after=0)], 20.0))
    assert await a.append(OWN, 0, [text(REF, 1), event(REF, 2, chunk(0))]) == 2
    assert len(await following) == 2
    await b.post(REF, text(REF, 0))
    await raises(HeadMoved, a.append(OWN, 2, texts(REF, 3, 1), release=True))
    assert await a.release(OWN, 1, round(time.time() * 1000))
    assert [own.epoch for own in await b.claim("b", 1)] == [2]
    await a.close()
    await b.close()


async def test_a_node_that_leaves_in_order_frees_what_it_owns(two: Two) -> None:
    await two.started()
    await two.a.close()
    [taken] = await two.b.claim("b", 10)
    assert taken.crashed
