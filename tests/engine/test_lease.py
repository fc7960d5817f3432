"""Two engines on one PostgreSQL database: whose lease is over, who stops, and who goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Generator
from typing import NoReturn

import pytest
from tests.engine.conftest import asking, kinds, log_of, logged, texts
from tests.postgres import new_database

from stateline.core import events as e
from stateline.core.errors import Overloaded, StoreUnavailable
from stateline.core.limits import CRASHES_MAX
from stateline.core.session import new_session
from stateline.engine import Engine
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment
from stateline.stores.clock import SystemClock
from stateline.stores.postgres import open_postgres
from stateline.testing import Answer, Gate, ScriptedModel
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.scripted import Script, echo

TTL_S = 1.5


@pytest.fixture
async def url(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("stateline.engine.lease.LEASE_TTL_S", TTL_S)
    monkeypatch.setattr("stateline.engine.node.CLAIM_POLL_S", 0.1)
    return await new_database(postgres)


@contextlib.asynccontextmanager
async def node(url: str, script: Script) -> AsyncGenerator[Engine]:
    store = await open_postgres(url)
    deployment = Deployment(name="d", model="m", cloud="openai", format="openai-chat", base_url="", upstream_model="m")
    engine = Engine(
        store=store,
        client=ScriptedModel(script),
        catalogue=Catalogue([deployment]),
        clock=SystemClock(),
        entropy=os.urandom,
        shared=True,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(grace_s=0.0)
        await store.close()


async def test_a_node_that_cannot_renew_stops_its_work_and_another_finishes_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(url, Answer(text="never said", gate=Gate())) as a, asyncio.timeout(60):
        accepted = await a.submit(asking("one", background=True))
        await logged(a, accepted.session, "ModelCallStarted", 1)
        was, renew = a.owner, a.store.renew

        async def lost(owner: str, ttl_s: float) -> None:
            raise StoreUnavailable("it is gone")

        monkeypatch.setattr(a.store, "renew", lost)
        started_s = time.monotonic()
        while a.workers:  # noqa: ASYNC110 - The lease is counted in time.
            await asyncio.sleep(0.01)
        assert time.monotonic() - started_s < TTL_S
        assert a.owner != was
        with pytest.raises(Overloaded):
            await a.submit(asking("two"))
        async with node(url, echo) as b:
            assert texts((await b.wait(accepted, "open-responses")).output) == ["one"]
            seen = kinds(await log_of(b, accepted.session))
            assert (seen.count("TurnResumed"), seen.count("TurnCompleted")) == (1, 1)
        # Once it can renew again, it works again.
        monkeypatch.setattr(a.store, "renew", renew)
        await a._lease.held.wait()  # pyright: ignore[reportPrivateUsage]


async def test_a_loop_that_was_held_up_gives_up_what_it_owned_and_takes_it_up_anew(url: str) -> None:
    gate = Gate()
    async with node(url, Answer(text="said", gate=gate)) as a, asyncio.timeout(60):
        accepted = await a.submit(asking("one", background=True))
        await logged(a, accepted.session, "ModelCallStarted", 1)
        was = a.owner
        time.sleep(TTL_S)  # noqa: ASYNC251 - This is what it is about.
        await logged(a, accepted.session, "TurnResumed", 1)
        assert a.owner != was
        gate.open()
        assert texts((await a.wait(accepted, "open-responses")).output)[-1] == "said"


async def test_a_turn_on_one_node_is_cancelled_and_continued_on_another(url: str) -> None:
    async with (
        node(url, Answer(text="never said", gate=Gate())) as a,
        node(url, echo) as b,
        asyncio.timeout(60),
    ):
        running = await a.submit(asking("one", background=True))
        await logged(b, running.session, "ModelCallStarted", 1)
        cancelled = await b.cancel("default", running.response_id, "open-responses")
        assert cancelled.status == "cancelled"
        second = await b.submit(asking("two", after=running.response_id))
        assert texts((await b.wait(second, "open-responses")).output) == ["two"]
        assert second.session == running.session
        # Node a kept the session as it was: it finds out that b went on.
        third = await a.submit(asking("three", after=second.response_id, background=True))
        assert third.session == running.session


@contextlib.contextmanager
def away(*nodes: Engine) -> Generator[None]:
    """To these nodes the store is not there."""

    async def lost(*_: object) -> NoReturn:
        raise StoreUnavailable("it is gone")

    with pytest.MonkeyPatch.context() as patch:
        for each in nodes:
            patch.setattr(each.store, "renew", lost)
            patch.setattr(each.store, "claim", lost)
        yield


@pytest.mark.parametrize("outage_s", [0.0, 1.2 * TTL_S], ids=["shorter than the lease", "longer than the lease"])
async def test_outages_of_the_store_are_no_crashes_of_its_sessions(url: str, outage_s: float) -> None:
    """Every node stops its work in order; however often that happens, no session is quarantined for it."""
    gate = Gate()
    script = Answer(text="said", gate=gate)
    async with node(url, script) as a, node(url, script) as b, asyncio.timeout(60):
        accepted = await a.submit(asking("one", background=True))
        await logged(a, accepted.session, "ModelCallStarted", 1)
        for times in range(1, CRASHES_MAX + 1):
            with away(a, b):
                while a.workers or b.workers:  # noqa: ASYNC110 - The lease is counted in time.
                    await asyncio.sleep(0.01)
                await asyncio.sleep(outage_s)
            await logged(a, accepted.session, "TurnResumed", times)
        gate.open()
        assert texts((await a.wait(accepted, "open-responses")).output)[-1] == "said"
        resumed = [event.body for event in await log_of(a, accepted.session) if isinstance(event.body, e.TurnResumed)]
        assert all(body.clean for body in resumed)


async def test_a_cancel_through_another_node_goes_to_the_inbox_alone(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        node(url, Answer(text="never said", gate=Gate())) as a,
        node(url, echo) as b,
        asyncio.timeout(60),
    ):
        running = await a.submit(asking("one", background=True))
        await logged(b, running.session, "ModelCallStarted", 1)
        # It knew the session as one at rest.
        b.sessions.keep(new_session(running.session))
        await b.cancel("default", running.response_id, "open-responses")
    assert "another owner" not in caplog.text


async def test_a_gentle_stop_leaves_a_running_turn_to_another_node_at_once(url: str) -> None:
    gate = Gate()
    async with node(url, Answer(text="never said", gate=gate)) as a, asyncio.timeout(60):
        assert not await a.hand_over()
        async with node(url, echo) as b:
            accepted = await a.submit(asking("one", background=True))
            await logged(a, accepted.session, "ModelCallStarted", 1)
            assert await a.hand_over()
            assert not a.workers
            # It is asked still, and answers from the log.
            assert texts((await a.wait(accepted, "open-responses")).output) == ["one"]
            resumed = [each.body for each in await log_of(b, accepted.session) if isinstance(each.body, e.TurnResumed)]
            assert [(body.owner, body.clean) for body in resumed] == [(b.owner, True)]
            again = await a.submit(asking("two", after=accepted.response_id, background=True))
            await logged(a, again.session, "ModelCallStarted", 3)
            await a.stop(grace_s=0.0)
            assert texts((await b.wait(again, "open-responses")).output) == ["two"]


async def test_a_stop_that_hears_nothing_of_others_keeps_its_turns(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stateline.engine.node.HANDOVER_ASK_S", 0.05)
    gate = Gate()
    async with node(url, Answer(text="said", gate=gate)) as a, node(url, echo) as b, asyncio.timeout(60):
        accepted = await a.submit(asking("one", background=True))
        await logged(a, accepted.session, "ModelCallStarted", 1)

        async def unanswered(*_: object) -> int:
            return await asyncio.get_running_loop().create_future()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(a.store, "renew", unanswered)
            assert not await a.hand_over()
        with away(a):
            assert not await a.hand_over()
        gate.open()
        assert texts((await b.wait(accepted, "open-responses")).output) == ["said"]
