"""Following a session that this node owns: its owner tells what it appended, and the log has the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from stateline.core.events import Event, SessionUpdated
from stateline.core.ids import SessionRef
from stateline.engine.live import LOOK_AGAIN_S, Live
from stateline.ports import NO_EVENTS, Ownership, Posted, Watch
from stateline.stores.memory import MemoryStore
from stateline.testing import ManualClock

REF = SessionRef("t", "s")
OWN = Ownership(session=REF, owner="a", epoch=1, head=0)
PATIENCE_S = 5.0


class SlowToEnd(MemoryStore):
    """A store whose readers are done only after ``before_the_end``."""

    before_the_end: Callable[[], Awaitable[None]] | None = None

    async def read(
        self, session: SessionRef, after: int = 0, *, until: int | None = None, chunks: bool = False,
        snapshot: bool = False,
    ) -> AsyncIterator[Event]:  # fmt: skip
        async for event in super().read(session, after, until=until, chunks=chunks, snapshot=snapshot):
            yield event
        call, self.before_the_end = self.before_the_end, None
        if call is not None:
            await call()


def nobody(posted: Posted) -> None:
    raise AssertionError(posted)


async def append(store: MemoryStore, seq: int) -> list[Event]:
    events = [Event(session=REF, seq=seq, at_ms=0, epoch=1, body=SessionUpdated(metadata={"n": str(seq)}))]
    await store.append(OWN, seq - 1, events)
    return events


async def followed(live: Live, after: int, until: int) -> list[int]:
    """The numbers of the events that a follower from ``after`` gets, up to ``until``."""
    seen: list[int] = []
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(live.follow(REF, after)) as batches:
        async for events in batches:
            seen += [event.seq for event in events]
            if seen[-1] >= until:
                return seen
    raise AssertionError("following has no end")


async def owned(store: MemoryStore) -> Live:
    """A session of one event, which this node owns."""
    await store.create(REF)
    live = Live(store)
    live.own(REF, 0, 0, nobody)
    live.recorded(REF, await append(store, 1))
    return live


async def test_a_follower_gets_what_the_owner_recorded_without_a_look_at_the_store() -> None:
    store = MemoryStore(clock=ManualClock())
    live = await owned(store)
    following = asyncio.ensure_future(followed(live, 0, 3))
    for seq in (2, 3):
        await asyncio.sleep(0)
        live.recorded(REF, await append(store, seq))
    assert await following == [1, 2, 3]
    await live.stop()


async def test_what_another_owner_appended_before_is_read_from_the_log() -> None:
    store = MemoryStore(clock=ManualClock())
    live = await owned(store)
    following = asyncio.ensure_future(followed(live, 1, 3))
    await asyncio.sleep(0)
    await append(store, 2)
    live.recorded(REF, await append(store, 3))
    assert await following == [2, 3]
    await live.stop()


async def test_what_is_recorded_while_a_late_follower_reads_the_log_is_not_lost() -> None:
    store = SlowToEnd(clock=ManualClock())
    live = await owned(store)
    following = asyncio.ensure_future(followed(live, 1, 4))
    await asyncio.sleep(0)

    async def one_more() -> None:
        live.recorded(REF, await append(store, 4))

    store.before_the_end = one_more
    await append(store, 2)
    live.recorded(REF, await append(store, 3))
    assert await following == [2, 3, 4]
    await live.stop()


async def test_a_follower_of_a_session_that_the_node_gave_back_hears_of_its_next_owner() -> None:
    store = MemoryStore(clock=ManualClock())
    live = await owned(store)
    following = asyncio.ensure_future(followed(live, 0, 2))
    await asyncio.sleep(0)
    live.disown(REF)
    await append(store, 2)
    assert await following == [1, 2]
    await live.stop()


class Counting(MemoryStore):
    """A store that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(clock=ManualClock())
        self.asked: list[Watch] = []

    async def tail(self, watched: Sequence[Watch], wait_s: float = 0.0) -> list[Event | Posted]:
        self.asked += watched
        return await super().tail(watched, wait_s)


async def test_a_follower_of_a_turn_that_has_just_begun_asks_the_store_for_nothing() -> None:
    store = Counting()
    await store.create(REF)
    live = Live(store)
    live.own(REF, 2, 0, nobody, recorded=[*await append(store, 1), *await append(store, 2)])
    following = asyncio.ensure_future(followed(live, 0, 3))
    await asyncio.sleep(0)
    assert not store.asked
    live.recorded(REF, await append(store, 3))
    assert await following == [1, 2, 3]
    await live.stop()


async def test_a_later_follower_gets_what_was_recorded_before_the_last_append_too() -> None:
    store = MemoryStore(clock=ManualClock())
    live = await owned(store)
    live.recorded(REF, await append(store, 2))
    assert await followed(live, 0, 2) == [1, 2]
    assert await followed(live, 1, 2) == [2]
    await live.stop()


async def test_the_append_that_gives_a_session_back_is_told_by_its_owner_and_what_follows_by_the_tailer() -> None:
    store = Counting()
    await store.create(REF)
    live = Live(store)
    live.own(REF, 0, 0, nobody)
    following = asyncio.ensure_future(followed(live, 0, 3))
    await asyncio.sleep(2 * LOOK_AGAIN_S)
    live.disown(REF, appending=True)
    await asyncio.sleep(2 * LOOK_AGAIN_S)
    events = await append(store, 1)
    await asyncio.sleep(2 * LOOK_AGAIN_S)
    assert all(watch.after == NO_EVENTS for watch in store.asked)
    live.recorded(REF, events)
    live.disown(REF)
    await append(store, 2)
    await asyncio.sleep(2 * LOOK_AGAIN_S)
    await append(store, 3)
    assert await following == [1, 2, 3]
    await live.stop()


async def test_where_the_append_that_gives_a_session_back_fails_the_log_has_the_rest() -> None:
    store = MemoryStore(clock=ManualClock())
    live = await owned(store)
    following = asyncio.ensure_future(followed(live, 0, 2))
    await asyncio.sleep(0)
    live.disown(REF, appending=True)
    live.disown(REF)
    await append(store, 2)
    assert await following == [1, 2]
    await live.stop()


class Late(MemoryStore):
    """A store whose first answer to the tailer is old when it comes."""

    stale: list[Event | Posted] | None = None

    def __init__(self) -> None:
        super().__init__(clock=ManualClock())
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def tail(self, watched: Sequence[Watch], wait_s: float = 0.0) -> list[Event | Posted]:
        if self.stale is None:
            return await super().tail(watched, wait_s)
        stale, self.stale = self.stale, None
        self.asked.set()
        await self.answer.wait()
        return stale


async def test_a_post_that_the_tailer_was_told_before_the_session_was_owned_is_not_delivered() -> None:
    store = Late()
    await store.create(REF)
    live = Live(store)
    event = Event(session=REF, seq=0, at_ms=0, body=SessionUpdated(metadata={}))
    store.stale = [Posted(session=REF, post=1, event=event)]
    live.own(REF, 0, 0, nobody)
    await store.asked.wait()
    live.disown(REF)
    got: list[int] = []
    arrived = asyncio.Event()

    def take(posted: Posted) -> None:
        got.append(posted.post)
        arrived.set()

    live.own(REF, 0, 0, take)
    store.answer.set()
    await asyncio.sleep(2 * LOOK_AGAIN_S)
    assert got == []
    await store.append(OWN, 0, [Event(session=REF, seq=1, at_ms=0, epoch=1, body=SessionUpdated(metadata={}))])
    await store.post(REF, event)
    async with asyncio.timeout(PATIENCE_S):
        await arrived.wait()
    assert got == [1]
    await live.stop()


class Damaged(MemoryStore):
    """A store in which one session cannot be read any more."""

    damaged: SessionRef | None = None

    async def tail(self, watched: Sequence[Watch], wait_s: float = 0.0) -> list[Event | Posted]:
        if any(watch.session == self.damaged for watch in watched):
            raise ValueError("no event")
        return await super().tail(watched, wait_s)

    async def read(
        self, session: SessionRef, after: int = 0, *, until: int | None = None, chunks: bool = False,
        snapshot: bool = False,
    ) -> AsyncIterator[Event]:  # fmt: skip
        if session == self.damaged:
            raise ValueError("no event")
        async for event in super().read(session, after, until=until, chunks=chunks, snapshot=snapshot):
            yield event


async def test_a_session_that_cannot_be_read_any_more_ends_its_own_readers_and_nobody_elses() -> None:
    store = Damaged(clock=ManualClock())
    await store.create(REF)
    await append(store, 1)
    other = SessionRef("t", "other")
    await store.create(other)
    live = Live(store)

    async def other_followed() -> None:
        async with contextlib.aclosing(live.follow(other, 0)) as batches:
            async for _ in batches:
                raise AssertionError("it has no events")

    try:
        broken = asyncio.create_task(other_followed())
        going_on = asyncio.create_task(followed(live, 0, 2))
        await asyncio.sleep(2 * LOOK_AGAIN_S)
        store.damaged = other
        await append(store, 2)
        assert await going_on == [1, 2]
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ValueError, match="no event"):
                await broken
    finally:
        await live.stop()
