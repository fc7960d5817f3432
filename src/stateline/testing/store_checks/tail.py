"""Following sessions."""

from __future__ import annotations

import asyncio

from stateline.core.events import Event
from stateline.core.ids import SessionRef
from stateline.ports import Ownership, Posted, Watch
from stateline.testing.store_checks.log import NOBODY, chunk, snapshot
from stateline.testing.store_rig import PATIENCE_S, Rig, event, text, texts


def places(records: list[Event | Posted]) -> list[tuple[str, int]]:
    """Session and number of each record, posts as negative numbers."""
    return [(r.session.id, -r.post if isinstance(r, Posted) else r.seq) for r in records]


async def check_tail_gives_what_is_after_each_cursor_in_order(rig: Rig) -> None:
    owns = [await rig.session(f"s{n}", events=n) for n in range(4)]
    found = places(await rig.store.tail([Watch(session=own.session, after=1) for own in owns]))
    assert sorted(found) == [("s2", 2), ("s3", 2), ("s3", 3)]
    assert [seq for name, seq in found if name == "s3"] == [2, 3]


async def check_tail_has_chunks_and_no_snapshots(rig: Rig) -> None:
    own = await rig.session(events=1)
    ref = own.session
    await rig.store.append(own, 1, [event(ref, 2, snapshot(2)), event(ref, 3, chunk(0)), event(ref, 4, snapshot(4))])
    assert places(await rig.tail(ref)) == [("s", 1), ("s", 3)]
    assert await rig.tail(ref, 3) == []
    assert await rig.tail(ref, 4) == []


async def check_tail_of_what_is_not_there_is_empty(rig: Rig) -> None:
    own = await rig.session(events=1)
    watches = [Watch(session=NOBODY, after=0, post=0), Watch(session=SessionRef("other", "s"), after=0, post=0)]
    assert await rig.store.tail(watches) == []
    assert await rig.store.tail(watches, 0.01) == []
    assert await rig.store.tail([]) == []
    assert await rig.tail(own.session, 99) == []


async def check_tail_has_posts_where_they_are_watched(rig: Rig) -> None:
    own = await rig.session(events=1)
    for n in range(3):
        await rig.store.post(own.session, text(own.session, 0, f"post {n}"))
    assert places(await rig.tail(own.session, 1, 0)) == [("s", -1), ("s", -2), ("s", -3)]
    assert places(await rig.tail(own.session, 1, 2)) == [("s", -3)]
    assert await rig.tail(own.session, 1, None) == []
    assert await rig.tail(own.session, 1, 3) == []
    [row] = await rig.tail(own.session, 1, 2)
    assert row == Posted(session=own.session, post=3, event=text(own.session, 0, "post 2"))


async def check_consumed_posts_are_not_tailed(rig: Rig) -> None:
    own = await rig.session(events=1)
    for n in range(2):
        await rig.store.post(own.session, text(own.session, 0, f"post {n}"))
    assert len(await rig.tail(own.session, 1, 0)) == 2
    await rig.store.append(own, 1, [text(own.session, 2, post=1)])
    assert places(await rig.tail(own.session, 2, 0)) == [("s", -2)]


async def check_a_waiting_tail_wakes_for_events_posts_and_new_sessions(rig: Rig) -> None:
    own = await rig.session(events=1)
    new = SessionRef("t", "new")
    watches = [Watch(session=own.session, after=1, post=0), Watch(session=new, after=0)]

    async def next_records() -> list[tuple[str, int]]:
        return places(await rig.store.tail(watches, PATIENCE_S))

    waiting = asyncio.ensure_future(next_records())
    await asyncio.sleep(0.01)
    await rig.store.append(own, 1, texts(own.session, 2, 2))
    assert await waiting == [("s", 2), ("s", 3)]
    watches[0] = Watch(session=own.session, after=3, post=0)
    waiting = asyncio.ensure_future(next_records())
    await asyncio.sleep(0.01)
    await rig.store.post(own.session, text(own.session, 0))
    assert await waiting == [("s", -1)]
    watches[0] = Watch(session=own.session, after=3, post=1)
    waiting = asyncio.ensure_future(next_records())
    await asyncio.sleep(0.01)
    await rig.session("new", events=1)
    assert await waiting == [("new", 1)]


async def check_a_fork_that_was_watched_before_it_was_made_is_seen(rig: Rig) -> None:
    own = await rig.session("p", events=2)
    ref = SessionRef("t", "f")
    assert await rig.tail(ref) == []
    await rig.store.create(ref, (own.session, 1))
    assert places(await rig.tail(ref)) == [("p", 1)]


async def check_a_tail_is_not_woken_into_an_answer_by_strangers(rig: Rig) -> None:
    own = await rig.session(events=1)
    other = await rig.session("other")
    waiting = asyncio.ensure_future(rig.store.tail([Watch(session=own.session, after=1)], 0.05))
    await asyncio.sleep(0)
    await rig.store.append(other, 0, texts(other.session, 1, 1))
    await rig.store.post(own.session, text(own.session, 0))
    assert await waiting == []


async def check_a_tail_can_be_cancelled_at_any_time(rig: Rig) -> None:
    own = await rig.session(events=1)
    for pause in range(4):
        waiting = asyncio.ensure_future(rig.store.tail([Watch(session=own.session, after=1, post=0)], PATIENCE_S))
        for _ in range(pause):
            await asyncio.sleep(0)
        waiting.cancel()
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)
    await rig.store.append(own, 1, texts(own.session, 2, 1))
    assert places(await rig.tail(own.session, 1)) == [("s", 2)]


async def check_following_misses_nothing_and_repeats_nothing(rig: Rig) -> None:
    owns: list[Ownership] = [await rig.session(f"s{n}") for n in range(5)]
    cursors = {own.session: 0 for own in owns}
    seen: dict[SessionRef, list[int]] = {own.session: [] for own in owns}

    async def write(own: Ownership) -> None:
        head = 0
        for count in (1, 3, 2, 5, 1, 1, 4, 3):
            head = await rig.store.append(own, head, texts(own.session, head + 1, count))

    async def follow() -> None:
        while any(cursor < 20 for cursor in cursors.values()):
            watches = [Watch(session=ref, after=after) for ref, after in cursors.items()]
            for record in await rig.store.tail(watches, PATIENCE_S):
                assert isinstance(record, Event)
                seen[record.session].append(record.seq)
                cursors[record.session] = record.seq

    await asyncio.gather(follow(), *(write(own) for own in owns))
    assert set(map(tuple, seen.values())) == {tuple(range(1, 21))}


async def check_an_old_cursor_is_served_as_well(rig: Rig) -> None:
    own = await rig.session()
    head = 0
    for _ in range(4):
        head = await rig.store.append(own, head, texts(own.session, head + 1, 400))
    cursor = 0
    while found := await rig.tail(own.session, cursor):
        assert [seq for _, seq in places(found)] == list(range(cursor + 1, cursor + 1 + len(found)))
        cursor += len(found)
    assert cursor == head
