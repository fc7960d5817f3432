"""What several nodes on one PostgreSQL database may count on, whatever becomes of their connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.postgres import ask, new_database

from stateline.core.errors import StoreUnavailable
from stateline.core.events import Event
from stateline.core.ids import SessionRef
from stateline.ports import Duplicate, Fenced, HeadMoved, Ownership, Posted, Store, Watch
from stateline.stores.postgres import PostgresStore, chunks, open_postgres, schema, writer
from stateline.stores.postgres.connecting import Connection, place_of
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_checks.log import chunk, picture
from stateline.testing.store_rig import ManualClock, event, raises, text, texts

REF = SessionRef("t", "s")
OWN = Ownership(session=REF, owner="a", epoch=1, head=0)


@dataclass
class Two:
    """Two nodes on one database."""

    a: PostgresStore
    b: PostgresStore
    clock: ManualClock
    url: str

    async def started(self) -> None:
        """Both live, and `a` owns REF with one event."""
        await self.a.renew("a", 10)
        await self.b.renew("b", 10)
        await self.a.create(REF)
        assert await self.a.append(OWN, 0, texts(REF, 1, 1)) == 1


@pytest.fixture
async def two(postgres: PostgresServer) -> AsyncGenerator[Two]:
    url, clock = await new_database(postgres), ManualClock()
    a, b = await open_postgres(url, clock=clock), await open_postgres(url, clock=clock)
    try:
        yield Two(a, b, clock, url)
    finally:
        await a.close()
        await b.close()


async def seqs(store: Store, ref: SessionRef = REF) -> list[int]:
    return [found.seq async for found in store.read(ref, chunks=True)]


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


# -- commits whose answer is lost ----------------------------------------------------------------------


class Proxy:
    """A TCP connection to the server that can lose what the server answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.drop_answers_to: bytes | None = None
        self.dropped = 0
        self.refuse = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, up_writer}
        lost = asyncio.Event()
        tasks = {
            asyncio.ensure_future(self._ask(reader, up_writer, lost)),
            asyncio.ensure_future(self._answer(up_reader, writer, lost)),
        }
        self._tasks |= tasks
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, up_writer):
            each.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.drop_answers_to is not None and self.drop_answers_to in data:
                    self.drop_answers_to = None
                    lost.set()
                writer.write(data)
                await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if lost.is_set():
                    # The server has answered, so it is committed; the answer never arrives.
                    self.dropped += 1
                    return
                writer.write(data)
                await writer.drain()

    def cut(self) -> None:
        for each in self._writers:
            each.transport.abort()


@dataclass
class Line:
    """A store behind a proxy."""

    store: PostgresStore
    proxy: Proxy
    direct: str
    refs: list[SessionRef] = field(default_factory=lambda: [SessionRef("t", f"l{n}") for n in range(5)])


@pytest.fixture
async def line(postgres: PostgresServer) -> AsyncGenerator[Line]:
    direct = await new_database(postgres, tcp=True)
    proxy = Proxy(postgres.port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = await open_postgres(direct.replace(f":{postgres.port}/", f":{port}/") + "&sslmode=disable")
    try:
        yield Line(store, proxy, direct)
    finally:
        proxy.refuse = False
        await store.close()
        server.close()
        proxy.cut()


async def committed_once(line: Line, commit: Callable[[], Awaitable[object]], trigger: bytes) -> object:
    """What ``commit`` answers although the server's first answer to it was lost."""
    line.proxy.drop_answers_to, line.proxy.dropped = trigger, 0
    result = await commit()
    assert line.proxy.dropped == 1
    return result


def owns(line: Line) -> list[Ownership]:
    return [Ownership(session=ref, owner="a", epoch=1, head=0) for ref in line.refs]


async def test_appends_whose_answer_was_lost_are_acknowledged_and_made_once(line: Line) -> None:
    await line.store.renew("a", 60)
    await asyncio.gather(*(line.store.create(ref) for ref in line.refs))
    await asyncio.gather(*(line.store.append(own, 0, texts(own.session, 1, 1)) for own in owns(line)))

    async def commit() -> list[object]:
        stranger = Ownership(session=SessionRef("t", "l0"), owner="x", epoch=1, head=0)
        appends = [line.store.append(own, 1, texts(own.session, 2, 2)) for own in owns(line)[1:]]
        fenced = line.store.append(stranger, 1, texts(stranger.session, 2, 1))
        return await asyncio.gather(*appends, fenced, return_exceptions=True)

    # The statement's text goes once, when it is prepared; the values are what is sent each time.
    results = await committed_once(line, commit, b'"said":"3"')
    assert isinstance(results, list)
    assert results[:4] == [3] * 4
    assert isinstance(results[4], Fenced)
    for ref in line.refs[1:]:
        assert await seqs(line.store, ref) == [1, 2, 3]
    assert await line.store.append(owns(line)[1], 3, texts(line.refs[1], 4, 1)) == 4


async def test_a_post_whose_answer_was_lost_is_made_once(line: Line) -> None:
    await line.store.renew("a", 60)
    ref = line.refs[0]
    await line.store.create(ref)
    await committed_once(line, lambda: line.store.post(ref, text(ref, 0), "key"), b"COMMIT")
    [own] = await line.store.claim("a", 10)
    assert [posted.post for posted in own.inbox] == [1]
    released = await committed_once(line, lambda: line.store.release(own, 1), b"COMMIT")
    assert released is True


async def test_a_claim_whose_answer_was_lost_gives_what_it_took(line: Line) -> None:
    await line.store.renew("a", 60)
    for ref in line.refs:
        await line.store.create(ref)
        await line.store.post(ref, text(ref, 0))
    claimed = await committed_once(line, lambda: line.store.claim("a", 10), b"COMMIT")
    assert isinstance(claimed, list)
    assert [own.session for own in claimed] == line.refs
    for own in claimed:
        assert await line.store.append(own, 0, [text(own.session, 1, post=1)], release=True) == 1


async def test_a_commit_that_never_arrived_is_made_again(line: Line) -> None:
    await line.store.create(REF)
    line.proxy.cut()
    assert await line.store.append(OWN, 0, texts(REF, 1, 2)) == 2
    assert await seqs(line.store) == [1, 2]


async def test_a_store_that_cannot_be_reached_says_so_and_goes_on_later(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CONNECT_TIMEOUT_S", 0.2)
    await line.store.create(REF)
    line.proxy.refuse = True
    line.proxy.cut()
    error = await raises(StoreUnavailable, line.store.append(OWN, 0, texts(REF, 1, 1)))
    assert "\n" not in error.message
    await raises(StoreUnavailable, line.store.renew("a", 5))
    await raises(StoreUnavailable, line.store.tail([Watch(session=REF, after=0)]))
    line.proxy.refuse = False
    assert await line.store.append(OWN, 0, texts(REF, 1, 1)) == 1


async def test_what_was_taken_for_a_caller_who_was_told_no_is_given_back(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first append did commit, but nobody could tell in time: its caller has given up the session."""
    monkeypatch.setattr(writer, "CONNECT_TIMEOUT_S", 0.2)
    await line.store.renew("a", 60)
    await line.store.create(line.refs[1])
    line.proxy.drop_answers_to = b'"said":"1"'

    async def refuse_at_once() -> None:
        while not line.proxy.dropped:  # noqa: ASYNC110 - Another task counts.
            await asyncio.sleep(0)
        line.proxy.refuse = True
        line.proxy.cut()

    refusing = asyncio.ensure_future(refuse_at_once())
    own = owns(line)[1]
    await raises(StoreUnavailable, line.store.append(own, 0, texts(own.session, 1, 1)))
    await refusing
    line.proxy.refuse = False
    await line.store.create(line.refs[2])
    [taken] = await line.store.claim("b", 10)
    assert (taken.session, taken.head, taken.crashed) == (own.session, 1, True)


async def test_backends_that_are_killed_lose_nothing_and_repeat_nothing(two: Two) -> None:
    """Their ends fall anywhere: before, during and after commits."""
    await two.started()
    await two.a.renew("a", 60)
    done = asyncio.Event()

    async def kill() -> None:
        async def one(db: Connection) -> None:
            await db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND query LIKE '%stateline_writers%'"
            )

        while not done.is_set():
            await ask(two.url, one)
            await asyncio.sleep(0.03)

    killing = asyncio.ensure_future(kill())
    refs = [SessionRef("t", f"k{n}") for n in range(8)]
    await asyncio.gather(*(two.a.create(ref) for ref in refs))

    async def write(ref: SessionRef) -> None:
        own, head = Ownership(session=ref, owner="a", epoch=1, head=0), 0
        for _ in range(25):
            head = await two.a.append(own, head, texts(ref, head + 1, 2))

    await asyncio.gather(*map(write, refs))
    done.set()
    await killing
    for ref in refs:
        assert await seqs(two.b, ref) == list(range(1, 51))


async def test_a_skipped_standby_makes_a_commit_unknown_until_it_is_found_out(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No standby here; the warning is what the server would have sent with it."""
    await two.started()
    asked: list[int] = []
    fate = writer.Writer.fate

    async def counted(self: writer.Writer, number: int) -> writer.Fate:
        asked.append(number)
        return await fate(self, number)

    monkeypatch.setattr(writer.Writer, "fate", counted)

    async def warn(db: Connection) -> None:
        await db.execute(
            "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.head = 3 THEN RAISE WARNING"
            " 'canceling wait for synchronous replication due to user request'; END IF; RETURN NEW; END $$;"
            " CREATE TRIGGER warn BEFORE UPDATE ON stateline_sessions FOR EACH ROW EXECUTE FUNCTION warn()"
        )

    await ask(two.url, warn)
    assert await two.a.append(OWN, 1, texts(REF, 2, 1)) == 2
    assert asked == []
    assert await two.a.append(OWN, 2, texts(REF, 3, 1)) == 3
    assert len(asked) == 1
    assert await seqs(two.a) == [1, 2, 3]


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

    await ask(two.url, hold)


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
        rows = await db.fetch("SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema")
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

    await ask(bare, role)
    assert "permission denied" in (await refused(bare.replace("postgres@", "weak@"))).message
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
