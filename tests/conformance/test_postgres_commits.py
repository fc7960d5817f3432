"""Commits whose answer is lost: what was acknowledged is there, and nothing is there twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from tests.conformance.nodes import OWN, REF, Two, seqs
from tests.postgres import ask, new_database

from stateline.core.errors import StoreUnavailable
from stateline.core.ids import SessionRef
from stateline.ports import Fenced, Ownership, Watch
from stateline.stores.postgres import PostgresStore, open_postgres, writer
from stateline.stores.postgres.connecting import Connection
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_rig import raises, text, texts

_T = TypeVar("_T")


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


async def committed_once(line: Line, commit: Callable[[], Awaitable[_T]], trigger: bytes) -> _T:
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


async def test_a_commit_that_is_given_up_never_happens_beside_the_one_that_replaces_it(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent first still waits in the server, and wakes when the second one does."""
    await two.started()
    monkeypatch.setattr(writer, "COMMIT_PATIENCE_S", 0.3)

    async def hold(db: Connection) -> asyncio.Future[int]:
        await db.execute("BEGIN")
        await db.execute("SELECT 1 FROM stateline_sessions FOR UPDATE")
        append = asyncio.ensure_future(two.a.append(OWN, 1, texts(REF, 2, 2)))
        await asyncio.sleep(1.0)
        assert not append.done()
        await db.execute("COMMIT")
        return append

    assert await (await ask(two.url, hold)) == 3
    assert await seqs(two.b) == [1, 2, 3]
    assert await two.a.append(OWN, 3, texts(REF, 4, 1)) == 4
    assert await seqs(two.b) == [1, 2, 3, 4]
