"""The disk fills, fails or is read-only; callers vanish; one request is poison."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from stateline.core.errors import Overloaded, StoreUnavailable
from stateline.core.events import SessionUpdated
from stateline.core.ids import SessionRef
from stateline.core.limits import BLOB_BYTES_MIN
from stateline.ports import Fenced, HeadMoved, Ownership
from stateline.stores.sqlite import SqliteStore, blobs, open_sqlite, requests, transaction, writer
from stateline.testing.store_checks.log import picture
from stateline.testing.store_rig import event, text, texts

REF = SessionRef("t", "s")
OWN = Ownership(session=REF, owner="a", epoch=1, head=0)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    opened = await open_sqlite(tmp_path / "a.db")
    await opened.create(REF)
    yield opened
    await opened.close()


async def seqs(store: SqliteStore, ref: SessionRef = REF) -> list[int]:
    return [event.seq async for event in store.read(ref)]


async def pragma(store: SqliteStore, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """Run a statement on the writer's connection, before its next transaction."""
    begin = transaction.Transaction.begin

    def first(tx: transaction.Transaction, now_ms: int) -> None:
        tx.db.execute(statement).fetchall()
        begin(tx, now_ms)

    with monkeypatch.context() as patch:
        patch.setattr(transaction.Transaction, "begin", first)
        await store.renew("a", 60)


async def test_a_full_disk_refuses_in_one_line_and_loses_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = await store.append(OWN, 0, texts(REF, 1, 3))
    await pragma(store, monkeypatch, "PRAGMA max_page_count = 60")
    big = SessionUpdated(metadata={"said": "x" * 100_000})
    full: StoreUnavailable | None = None
    while full is None:
        try:
            head = await store.append(OWN, head, [event(REF, head + 1, big)])
        except StoreUnavailable as error:
            full = error
    assert full.message == "the store cannot be used now: the disk is full"
    assert await seqs(store) == list(range(1, head + 1))
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.append(OWN, head, [event(REF, head + 1, big)])
    # It recovers by itself once there is room.
    await pragma(store, monkeypatch, "PRAGMA max_page_count = 1000000")
    assert await store.append(OWN, head, [event(REF, head + 1, big)]) == head + 1
    assert await seqs(store) == list(range(1, head + 2))


async def test_a_write_that_the_system_refuses_loses_nothing_and_passes(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pretence here: the journal, and then the database in a checkpoint, may grow no further."""
    monkeypatch.setattr(writer, "WAL_BYTES_MAX", 100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = SessionUpdated(metadata={"said": "x" * 10_000})
    head = 0
    refused: StoreUnavailable | None = None
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, limits[1]))
    try:
        while True:
            head = await store.append(OWN, head, [event(REF, head + 1, big)])
    except StoreUnavailable as error:
        refused = error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused is not None
    assert len(refused.message.splitlines()) == 1
    assert head > 10
    assert await seqs(store) == list(range(1, head + 1))
    for _ in range(30):
        head = await store.append(OWN, head, [event(REF, head + 1, big)])
    await store.close()
    again = await open_sqlite(tmp_path / "a.db")
    assert await seqs(again) == list(range(1, head + 1))
    await again.close()


async def test_a_full_disk_fails_the_whole_batch_and_each_caller_hears_it(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pragma(store, monkeypatch, "PRAGMA max_page_count = 60")
    refs = [SessionRef("t", f"s{n}") for n in range(100)]
    big = SessionUpdated(metadata={"said": "x" * 10_000})
    calls = [store.create(ref) for ref in refs]
    owns = [Ownership(session=ref, owner="a", epoch=1, head=0) for ref in refs]
    appends = [store.append(own, 0, [event(own.session, 1, big)]) for own in owns]
    results = await asyncio.gather(*calls, *appends, return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    assert len({id(result) for result in results}) == len(results)
    await pragma(store, monkeypatch, "PRAGMA max_page_count = 1000000")
    # Nothing of it is remembered: neither the rows nor the numbers.
    assert (
        await asyncio.gather(
            *(store.create(ref) for ref in refs), *(store.append(own, 0, texts(own.session, 1, 1)) for own in owns)
        )
        == [None] * 100 + [1] * 100
    )


async def test_a_read_only_database_refuses_and_recovers(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.append(OWN, 0, texts(REF, 1, 1))
    query_only = transaction.Transaction.begin

    def begin(tx: transaction.Transaction, now_ms: int) -> None:
        tx.db.execute("PRAGMA query_only = ON")
        try:
            query_only(tx, now_ms)
            tx.db.execute("DELETE FROM nodes")
        finally:
            tx.db.execute("PRAGMA query_only = OFF")

    with monkeypatch.context() as patch:
        patch.setattr(transaction.Transaction, "begin", begin)
        with pytest.raises(StoreUnavailable, match="read-only"):
            await store.append(OWN, 1, texts(REF, 2, 1))
        assert await seqs(store) == [1]
    assert await store.append(OWN, 1, texts(REF, 2, 1)) == 2


async def test_a_failing_commit_is_rolled_back_whole(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(tx: transaction.Transaction) -> None:
        tx.flush()
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(transaction.Transaction, "commit", commit)
        with pytest.raises(StoreUnavailable, match="disk I/O error"):
            await store.append(OWN, 0, texts(REF, 1, 1))
    assert await seqs(store) == []
    assert await store.tail([]) == []
    assert await store.append(OWN, 0, texts(REF, 1, 1)) == 1


async def test_one_poisonous_request_does_not_take_its_batch_with_it(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [SessionRef("t", f"s{n}") for n in range(5)]
    create = requests.Create.run

    def run(request: requests.Create, tx: transaction.Transaction) -> None:
        create(request, tx)
        if request.session.id == "s2":
            raise ValueError("a defect")

    monkeypatch.setattr(requests.Create, "run", run)
    results = await asyncio.gather(*(store.create(ref) for ref in refs), return_exceptions=True)
    assert [repr(result) for result in results] == ["None", "None", "ValueError('a defect')", "None", "None"]
    for number, ref in enumerate(refs):
        own = Ownership(session=ref, owner="a", epoch=1, head=0)
        [result] = await asyncio.gather(store.append(own, 0, texts(ref, 1, 1)), return_exceptions=True)
        assert (result == 1) == (number != 2)


async def test_a_row_that_was_changed_behind_the_writer_fails_its_change_of_owner_alone(
    store: SqliteStore, tmp_path: Path
) -> None:
    await store.append(OWN, 0, texts(REF, 1, 1))
    other = SessionRef("t", "other")
    await store.create(other)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        db.execute("UPDATE sessions SET epoch = 9 WHERE id = 's'")
    own = Ownership(session=other, owner="a", epoch=1, head=0)
    results = await asyncio.gather(
        store.append(OWN, 1, texts(REF, 2, 1), release=True),
        store.append(own, 0, texts(other, 1, 1)),
        return_exceptions=True,
    )
    # Tried again by itself, from what the file says, it is told the truth.
    assert isinstance(results[0], Fenced)
    assert results[1] == 1
    assert await seqs(store) == [1]


async def test_a_number_that_is_taken_behind_the_writer_is_not_taken_twice(store: SqliteStore, tmp_path: Path) -> None:
    await store.append(OWN, 0, texts(REF, 1, 1))
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        db.execute(
            "INSERT INTO events (tenant, session, seq, at_ms, epoch, body)"
            " SELECT tenant, session, 2, 0, epoch, body FROM events"
        )
    # Whatever happened there, the file is right, and the writer learns it from the file.
    with pytest.raises(HeadMoved):
        await store.append(OWN, 1, texts(REF, 2, 1))
    assert await store.append(OWN, 2, texts(REF, 3, 1)) == 3
    assert await seqs(store) == [1, 2, 3]


async def test_too_many_queued_requests_are_refused(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "STORE_QUEUE_MAX", 10)
    results = await asyncio.gather(*(store.renew("a", 60) for _ in range(12)), return_exceptions=True)
    assert results[:10] == [0] * 10
    assert [type(result) for result in results[10:]] == [Overloaded] * 2
    await store.renew("a", 60)


async def test_many_requests_are_spread_over_commits(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH_REQUESTS_MAX", 7)
    monkeypatch.setattr(writer, "BATCH_BYTES_MAX", 5_000)
    refs = [SessionRef("t", f"s{n}") for n in range(40)]
    calls = [store.create(ref) for ref in refs]
    for ref in refs:
        own = Ownership(session=ref, owner="a", epoch=1, head=0)
        calls.append(store.append(own, 0, [text(ref, 1, "x" * 3_000)]))  # type: ignore[arg-type]
    assert await asyncio.gather(*calls) == [None] * 40 + [1] * 40


async def test_what_a_vanished_caller_asked_for_is_done(store: SqliteStore) -> None:
    asked = asyncio.ensure_future(store.append(OWN, 0, texts(REF, 1, 1)))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await store.append(OWN, 1, texts(REF, 2, 1)) == 2
    assert await seqs(store) == [1, 2]


async def test_a_disk_that_takes_no_files_fails_only_who_brings_them(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: blobs.Blobs, name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(blobs.Blobs, "_write", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await store.append(OWN, 0, [event(REF, 1, picture())])
        assert await store.append(OWN, 0, texts(REF, 1, 1)) == 1
    assert await store.append(OWN, 1, [event(REF, 2, picture())]) == 2


def on_disk(tmp_path: Path) -> bytes:
    """The database and its journal."""
    return b"".join(path.read_bytes() for path in tmp_path.glob("a.db*") if path.is_file())


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "a.db.blobs").rglob("*") if path.is_file()]


async def test_large_content_is_stored_once_a_tenant(store: SqliteStore, tmp_path: Path) -> None:
    for n in range(3):
        await store.append(OWN, n, [event(REF, n + 1, picture(size=BLOB_BYTES_MIN))])
    assert len(files(tmp_path)) == 2  # The image and the file.
    other = SessionRef("other", "s")
    await store.create(other)
    own = Ownership(session=other, owner="a", epoch=1, head=0)
    await store.append(own, 0, [event(other, 1, picture(size=BLOB_BYTES_MIN))])
    assert len(files(tmp_path)) == 4
    assert b"A" * 1000 not in on_disk(tmp_path)


async def test_a_lost_or_changed_file_is_named_and_the_rest_is_readable(store: SqliteStore, tmp_path: Path) -> None:
    await store.append(OWN, 0, [*texts(REF, 1, 1), event(REF, 2, picture())])
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreUnavailable, match="has changed") as caught:
        await seqs(store)
    assert caught.value.code == "blob_lost"
    for path in files(tmp_path):
        path.unlink()
    with pytest.raises(StoreUnavailable, match="No such file"):
        await seqs(store)
    assert [e.seq async for e in store.read(REF, until=1)] == [1]
    # The same content, brought again, mends it.
    await store.append(OWN, 2, [event(REF, 3, picture())])
    assert await seqs(store) == [1, 2, 3]


async def test_erased_content_leaves_neither_files_nor_bytes(store: SqliteStore, tmp_path: Path) -> None:
    other = SessionRef("t", "other")
    await store.create(other)
    own = Ownership(session=other, owner="a", epoch=1, head=0)
    await store.append(own, 0, [event(other, 1, picture("B"))])
    await store.append(OWN, 0, [event(REF, 1, picture("A")), event(REF, 2, picture("B")), text(REF, 3, "secret words")])
    assert b"secret words" in on_disk(tmp_path)
    await store.erase(REF)
    assert b"secret words" not in on_disk(tmp_path)
    # The image and the file of the other session stay, and nothing else does.
    assert {path.read_bytes()[-1:] for path in files(tmp_path)} == {b"B"}
    assert len(files(tmp_path)) == 2
    await store.close()
    assert b"secret words" not in on_disk(tmp_path)


async def test_content_that_is_on_its_way_is_not_deleted_with_its_last_reference(
    store: SqliteStore, tmp_path: Path
) -> None:
    """The file is there, its event is not yet: only who is writing it knows."""
    await store.append(OWN, 0, [event(REF, 1, picture())])
    other = SessionRef("t", "other")
    await store.create(other)
    own = Ownership(session=other, owner="a", epoch=1, head=0)
    for head in range(20):
        await asyncio.gather(store.append(own, head, [event(other, head + 1, picture())]), store.erase(REF))
        assert len(files(tmp_path)) == 2
        assert len(await seqs(store, other)) == head + 1
        await store.create(REF)
        await store.append(OWN, 0, [event(REF, 1, picture())])


async def test_files_that_no_event_ever_named_go_after_their_grace(store: SqliteStore, tmp_path: Path) -> None:
    await store.append(OWN, 0, [event(REF, 1, picture())])
    await store.close()
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        key = db.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()[0]
        db.execute("DELETE FROM blob_refs")
        db.commit()
    shelf = blobs.Blobs(tmp_path / "a.db", key)
    assert shelf.collect(grace_s=3600) == 0
    with shelf.held():
        assert shelf.collect(grace_s=0) == 0
    assert shelf.collect(grace_s=0) == 2
    assert files(tmp_path) == []


async def test_a_collection_that_fails_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "b.db.blobs" / "ab").mkdir(parents=True)
    monkeypatch.setattr(blobs.Blobs, "_files", None)
    opened = await open_sqlite(tmp_path / "b.db")
    await asyncio.sleep(0.05)
    await opened.close()
    assert "was not collected" in caplog.text


async def test_a_session_of_a_newer_release_is_left_to_it(store: SqliteStore, tmp_path: Path) -> None:
    await store.append(OWN, 0, texts(REF, 1, 1), release=True)
    await store.post(REF, text(REF, 0))
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        db.execute("UPDATE sessions SET min_reader = 99")
        await store.renew("b", 60)
        assert await store.claim("b", 10) == []
        db.execute("UPDATE sessions SET min_reader = 1")
    assert [own.session for own in await store.claim("b", 10)] == [REF]


async def test_the_threads_end_with_the_store(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    opened = await open_sqlite(tmp_path / "b.db")
    await opened.create(REF)
    assert await seqs(opened) == []
    await opened.close()
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("stateline")]
    assert left == []
    await opened.close()
