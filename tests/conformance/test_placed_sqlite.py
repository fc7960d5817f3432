"""Where calls went, read from a SQLite file: each event once, page by page, whatever session it lies in."""

from __future__ import annotations

from pathlib import Path

from tests.ops.histories import Writing, words

from stateline.core import events as e
from stateline.core.limits import READ_PAGE_EVENTS_MAX
from stateline.stores.sqlite import open_sqlite, placed

STARTED = e.ModelCallStarted(turn=1, step=1, deployment="one", origin="o", model="up")


def turn(said: str) -> e.TurnRequested:
    return e.TurnRequested(response_id="r", turn=1, request=e.TurnRequest(model="m"), input=(words(said),))


async def test_each_event_comes_once_over_sessions_forks_and_pages(tmp_path: Path) -> None:
    path = tmp_path / "stateline.db"
    store = await open_sqlite(path)
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
    assert await placed.count_sessions(path) == 3
    pages = [page async for page in placed.read_placed(path, 0, 1 << 52)]
    seen = [(each.session, each.seq) for page in pages for each in page.events]
    assert len(seen) == len(set(seen)) == READ_PAGE_EVENTS_MAX + 2 + 4
    assert list(dict.fromkeys(ref for ref, _ in seen)) == [long, fork, other]
    assert len(pages) > 1
    assert (pages[-1].sessions, pages[-1].newer) == (3, 0)
    # Nothing happened since, or it was not there yet.
    assert [page.events for page in [p async for p in placed.read_placed(path, 1 << 50, 1 << 52)]] == [[]]
