"""Events of many logs, read from each store: each event once, page by page, whatever session it lies in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.ops.histories import Writing, words
from tests.postgres import new_database

from stateline.core import events as e
from stateline.core.limits import READ_PAGE_EVENTS_MAX
from stateline.core.placed import TAGS
from stateline.ports import LogPage, Store
from stateline.stores.logs import Wanted
from stateline.stores.postgres import logs as in_postgres
from stateline.stores.postgres import open_postgres
from stateline.stores.sqlite import logs as in_sqlite
from stateline.stores.sqlite import open_sqlite
from stateline.testing.postgres_server import PostgresServer

STARTED = e.ModelCallStarted(turn=1, step=1, deployment="one", origin="o", model="up")


def turn(said: str) -> e.TurnRequested:
    return e.TurnRequested(response_id="r", turn=1, request=e.TurnRequest(model="m"), input=(words(said),))


async def each_event_comes_once(
    store: Store, count: Callable[[], Awaitable[int]], read: Callable[[Wanted], AsyncIterator[LogPage]]
) -> None:
    """Over sessions, forks and pages."""
    try:
        writing = Writing(store)
        long = await writing.create("long")
        for _ in range(READ_PAGE_EVENTS_MAX // 2 + 1):
            await writing.append(long, 1000, turn("hi"), STARTED, e.TurnCompleted(response_id="r"))
        fork = await writing.create("fork", long, tenant="t")
        await writing.append(fork, 2000, turn("x" * 2_000_000), STARTED, e.TurnCompleted(response_id="r"))
        other = await writing.create("other", tenant="u")
        await writing.append(other, 3000, turn("hi"), STARTED, e.TurnCompleted(response_id="r"))
    finally:
        await store.close()
    assert await count() == 3
    pages = [page async for page in read(Wanted(TAGS))]
    seen = [(each.session, each.seq) for page in pages for each in page.events]
    assert len(seen) == len(set(seen)) == READ_PAGE_EVENTS_MAX + 2 + 4
    assert list(dict.fromkeys(ref for ref, _ in seen)) == [long, fork, other]
    assert len(pages) > 1
    assert (pages[-1].sessions, pages[-1].newer) == (3, 0)
    # Of one tenant, and of other types.
    asked = Wanted(("turn_completed",), tenant="u")
    assert [(each.session, type(each.body)) for page in [p async for p in read(asked)] for each in page.events] == [
        (other, e.TurnCompleted)
    ]
    # Nothing happened since, or it was not there yet.
    assert [page.events for page in [p async for p in read(Wanted(TAGS, 1 << 50))]] == [[]]


async def test_each_event_comes_once_from_postgres(postgres: PostgresServer) -> None:
    url = await new_database(postgres)
    await each_event_comes_once(
        await open_postgres(url),
        lambda: in_postgres.count_sessions(url),
        lambda wanted: in_postgres.read_logs(url, wanted),
    )


async def test_each_event_comes_once_from_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "stateline.db"
    await each_event_comes_once(
        await open_sqlite(path),
        lambda: in_sqlite.count_sessions(path),
        lambda wanted: in_sqlite.read_logs(path, wanted),
    )
