"""A session that is claimed while a submission is on its way to adopt it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.engine.conftest import Lab, asking, kinds, log_of, logged, texts

from stateline.core import events as e
from stateline.core.ids import SessionRef
from stateline.core.session import Session
from stateline.ports import Ownership
from stateline.testing.scripted import echo


async def test_a_submission_that_meets_a_claim_is_answered_and_runs_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first append is fenced: it must hear of that, and go through the inbox instead."""
    lab.script(echo)
    async with lab.engine() as engine:
        first = await engine.submit(asking("one"))
        await engine.wait(first, "open-responses")
        append = engine.store.append
        adopting, claimed = asyncio.Event(), asyncio.Event()

        async def late(
            own: Ownership, expected_seq: int, events: Sequence[e.Event], *rest: object, **how: object
        ) -> int:
            if isinstance(events[0].body, e.TurnRequested) and not adopting.is_set():
                adopting.set()
                await claimed.wait()
            return await append(own, expected_seq, events, *rest, **how)  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(engine.store, "append", late)
        submitting = asyncio.create_task(engine.submit(asking("two", after=first.response_id)))
        await adopting.wait()
        # Makes the session due, so that this node claims it, as one is after a crash.
        late_cancel = e.CancelRequested(response_id=first.response_id)
        await engine.store.post(first.session, e.Event(session=first.session, seq=0, at_ms=0, body=late_cancel))
        engine.kick()
        await asyncio.sleep(0.1)
        claimed.set()
        async with asyncio.timeout(20):
            second = await submitting
            assert texts((await engine.wait(second, "open-responses")).output) == ["two"]
            await logged(engine, first.session, "InputRejected", 1)
        assert second.session == first.session
        assert kinds(await log_of(engine, first.session)).count("TurnRequested") == 2


async def test_a_worker_that_has_the_session_by_the_claim_is_left_to_its_work(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is appending when the claim is worked off could not be called back."""
    lab.script(echo)
    async with asyncio.timeout(20), lab.engine() as engine:
        first = await engine.submit(asking("one"))
        await engine.wait(first, "open-responses")
        append, read = engine.store.append, engine.sessions.read
        claimed, adopted, underway = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def blocked(ref: SessionRef) -> Session:
            if not claimed.is_set():
                claimed.set()
                await underway.wait()
            return await read(ref)

        async def slow(own: Ownership, expected_seq: int, events: Sequence[e.Event], *rest: Any, **how: Any) -> int:
            if not adopted.is_set():
                adopted.set()
                return await append(own, expected_seq, events, *rest, **how)

            async def later() -> int:
                await asyncio.sleep(0.2)
                return await append(own, expected_seq, events, *rest, **how)

            underway.set()
            return await asyncio.shield(asyncio.create_task(later()))

        monkeypatch.setattr(engine.sessions, "read", blocked)
        monkeypatch.setattr(engine.store, "append", slow)
        late_cancel = e.CancelRequested(response_id=first.response_id)
        await engine.store.post(first.session, e.Event(session=first.session, seq=0, at_ms=0, body=late_cancel))
        engine.kick()
        await claimed.wait()
        second = await engine.submit(asking("two", after=first.response_id))
        assert texts((await engine.wait(second, "open-responses")).output) == ["two"]
        await logged(engine, first.session, "InputRejected", 1)
        found = kinds(await log_of(engine, first.session))
        assert found.count("TurnRequested") == 2
        assert "TurnResumed" not in found


async def test_a_fork_without_an_event_of_its_own_is_read_as_itself(lab: Lab) -> None:
    """As one is whose first append never came to the store: taken for its parent, it would be followed as that."""
    lab.script(echo)
    async with lab.engine() as engine:
        first = await engine.submit(asking("one"))
        await engine.wait(first, "open-responses")
        fork = engine.new_ref("default")
        await engine.store.create(fork, (first.session, 2))
        session = await engine.sessions.read(fork)
        assert (session.ref, session.seq, session.epoch) == (fork, 2, 0)
