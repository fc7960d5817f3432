"""Reading where commits wait for a standby: nothing is shown that only this server has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from tests.conformance.nodes import REF, Two, seqs
from tests.postgres import ask, superuser

from stateline.core.errors import StoreUnavailable
from stateline.core.events import Event
from stateline.ports import Watch
from stateline.stores.postgres import open_postgres, standbys
from stateline.stores.postgres.connecting import Connection
from stateline.testing.store_rig import raises

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@contextlib.asynccontextmanager
async def standby_away(url: str) -> AsyncGenerator[None]:
    """Commits wait for a standby that is not there."""

    async def wait_for(db: Connection, names: str) -> None:
        await db.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await db.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(20):
            while await db.fetchval("SHOW synchronous_standby_names") != names:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    url = superuser(url)
    await ask(url, lambda db: wait_for(db, "nobody"))
    try:
        yield
    finally:
        await ask(url, lambda db: wait_for(db, ""))


async def waiting(url: str) -> None:
    async with asyncio.timeout(20):
        while not await ask(superuser(url), lambda db: db.fetchval(WAITING)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture
def asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standbys, "STANDBYS_ASKED_S", 0.0)


@pytest.mark.usefixtures("asked_at_once")
@pytest.mark.parametrize("pooler", [False, True])
async def test_what_was_read_waits_for_the_standby(two: Two, pooler: bool) -> None:
    await two.started()
    url = f"{two.url}&stateline_pooler=transaction" if pooler else two.url
    store = await open_postgres(url, clock=two.clock)
    try:
        async with standby_away(two.url):
            reading = asyncio.ensure_future(seqs(store))
            await waiting(two.url)
            following = asyncio.ensure_future(store.tail([Watch(session=REF, after=0)]))
            await asyncio.sleep(0.2)
            assert not reading.done()
            assert not following.done()
            # Whoever ends the wait has not replicated it.
            await ask(two.url, lambda db: db.fetchval(CANCEL))
            await waiting(two.url)
            assert not reading.done()
        assert await reading == [1]
        assert [record.seq for record in await following if isinstance(record, Event)] == [1]
    finally:
        await store.close()


@pytest.mark.usefixtures("asked_at_once")
async def test_a_reader_whose_waits_are_ended_again_and_again_is_told(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two.started()
    monkeypatch.setattr(standbys, "COMMIT_TRIES_MAX", 3)
    async with standby_away(two.url):
        reading = asyncio.ensure_future(raises(StoreUnavailable, seqs(two.b)))
        ended = 0
        while not reading.done():
            ended += await ask(two.url, lambda db: db.fetchval(CANCEL))
            await asyncio.sleep(0.05)
        assert ended == 3
        assert "standby" in (await reading).message
    assert await seqs(two.b) == [1]


@pytest.mark.usefixtures("asked_at_once")
async def test_what_was_confirmed_long_ago_is_read_while_the_standby_is_away(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The events have the time of a test's clock, which is some years ahead.
    monkeypatch.setattr(standbys, "CONFIRMED_AFTER_S", -1_000_000_000)
    await two.started()
    async with standby_away(two.url):
        reading = asyncio.ensure_future(seqs(two.b))
        await waiting(two.url)
    assert await reading == [1]
    async with standby_away(two.url), asyncio.timeout(10):
        assert await seqs(two.b) == [1]
