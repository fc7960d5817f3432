"""One writer a session: adopting, claiming, renewing, releasing, and owners that die."""

from __future__ import annotations

import msgspec

from stateline.core.ids import SessionRef
from stateline.ports import Fenced, HeadMoved, Ownership
from stateline.testing.store_checks.log import chunk, snapshot
from stateline.testing.store_rig import Rig, durable, event, outcomes, raises, text, texts


def adopting(ref: SessionRef, epoch: int, head: int, owner: str = "b") -> Ownership:
    return Ownership(session=ref, owner=owner, epoch=epoch, head=head)


# -- adoption ----------------------------------------------------------------------------------------


async def check_a_first_append_adopts_and_needs_no_claim(rig: Rig) -> None:
    ref = SessionRef("t", "s")
    own = adopting(ref, 1, 0)
    assert await outcomes(rig.store.create(ref), rig.store.append(own, 0, texts(ref, 1, 2))) == [None, 2]
    assert [e.epoch for e in await rig.read(ref)] == [1, 1]


async def check_an_append_adopts_a_released_session(rig: Rig) -> None:
    await rig.alive("a", "b")
    ref = await rig.released(wake_at_ms=rig.clock.now_ms())
    own = adopting(ref, 2, 1)
    assert await rig.store.append(own, 1, texts(ref, 2, 1)) == 2
    assert await rig.claim("c") == {}
    assert await rig.store.append(own, 2, texts(ref, 3, 1)) == 3
    assert [e.epoch for e in await rig.read(ref)] == [1, 2, 2]


async def check_of_two_that_adopt_one_wins(rig: Rig) -> None:
    ref = await rig.released()
    own, late = adopting(ref, 2, 1), adopting(ref, 2, 1, "c")
    results = await outcomes(rig.store.append(own, 1, texts(ref, 2, 1)), rig.store.append(late, 1, texts(ref, 2, 1)))
    assert results[0] == 2
    assert isinstance(results[1], Fenced)


async def check_adoption_needs_the_next_epoch_the_head_and_an_empty_inbox(rig: Rig) -> None:
    ref = await rig.released()
    await raises(Fenced, rig.store.append(adopting(ref, 1, 1), 1, texts(ref, 2, 1)))
    await raises(Fenced, rig.store.append(adopting(ref, 3, 1), 1, texts(ref, 2, 1)))
    await raises(HeadMoved, rig.store.append(adopting(ref, 2, 0), 0, texts(ref, 1, 1)))
    await rig.store.post(ref, text(ref, 0))
    await raises(HeadMoved, rig.store.append(adopting(ref, 2, 1), 1, texts(ref, 2, 1)))
    assert await rig.seqs(ref) == [1]
    await rig.alive("b")
    assert (await rig.claim())["s"].epoch == 2


async def check_a_session_left_by_a_dead_owner_is_claimed_not_adopted(rig: Rig) -> None:
    await rig.alive("a", ttl_s=10)
    own = await rig.session(events=1)
    rig.clock.advance(10)
    await rig.alive("b")
    assert await rig.claim("b", 0) == {}
    await raises(Fenced, rig.store.append(adopting(own.session, 2, 1), 1, texts(own.session, 2, 1)))
    assert (await rig.claim())["s"].crashed


# -- claim -------------------------------------------------------------------------------------------


async def check_a_claim_raises_the_epoch_and_fences_the_old_owner(rig: Rig) -> None:
    await rig.alive("a", ttl_s=10)
    own = await rig.session(events=2)
    rig.clock.advance(10)
    await rig.alive("b")
    taken = (await rig.claim())["s"]
    assert taken == Ownership(session=own.session, owner="b", epoch=2, head=2, crashed=True)
    await raises(Fenced, rig.store.append(own, 2, texts(own.session, 3, 1)))
    await raises(Fenced, rig.store.release(own, 0))
    assert await rig.store.append(taken, 2, texts(own.session, 3, 1)) == 3


async def check_a_claimed_session_is_not_claimed_again(rig: Rig) -> None:
    ref = await rig.released()
    await rig.store.post(ref, text(ref, 0))
    await rig.alive("b", "c")
    first, second = await rig.claim("b"), await rig.claim("c")
    assert (list(first), list(second)) == (["s"], [])
    assert not first["s"].crashed


async def check_a_claim_takes_no_more_than_its_limit(rig: Rig) -> None:
    await rig.alive("b")
    for n in range(5):
        ref = await rig.released(f"s{n}")
        await rig.store.post(ref, text(ref, 0))
        rig.clock.advance(0.001)
    assert list(await rig.claim(limit=2)) == ["s0", "s1"]
    assert list(await rig.claim(limit=0)) == []
    assert list(await rig.claim(limit=9)) == ["s2", "s3", "s4"]


async def check_a_claim_is_fair_over_tenants(rig: Rig) -> None:
    await rig.alive("b")
    for n in range(6):
        ref = await rig.released(f"busy{n}", tenant="busy")
        await rig.store.post(ref, text(ref, 0))
    rig.clock.advance(1)
    for tenant in ("x", "y"):
        ref = await rig.released(f"only {tenant}", tenant=tenant)
        await rig.store.post(ref, text(ref, 0))
    assert {"only x", "only y"} < set(await rig.claim(limit=3))
    assert len(await rig.claim(limit=3)) == 3


async def check_turns_go_round_over_claims(rig: Rig) -> None:
    await rig.alive("b")
    for tenant in ("x", "y", "z"):
        for n in range(3):
            ref = await rig.released(f"{tenant}{n}", tenant=tenant)
            await rig.store.post(ref, text(ref, 0))
    taken = [name[0] for _ in range(9) for name in await rig.claim(limit=1)]
    assert [sorted(taken[n : n + 3]) for n in (0, 3, 6)] == [["x", "y", "z"]] * 3


async def check_a_timer_makes_a_session_due_at_its_time(rig: Rig) -> None:
    await rig.alive("b")
    await rig.released(wake_at_ms=rig.clock.now_ms() + 5000)
    assert await rig.claim() == {}
    rig.clock.advance(4.999)
    assert await rig.claim() == {}
    rig.clock.advance(0.001)
    own = (await rig.claim())["s"]
    assert not own.crashed
    assert await rig.store.release(own, 0)
    rig.clock.advance(30)
    assert await rig.claim() == {}


async def check_the_earlier_of_a_timer_and_a_post_wakes(rig: Rig) -> None:
    await rig.alive("b")
    ref = await rig.released(wake_at_ms=rig.clock.now_ms() + 5000)
    await rig.store.post(ref, text(ref, 0))
    assert list(await rig.claim()) == ["s"]
    rig.clock.advance(5)
    assert await rig.claim() == {}


# -- nodes -------------------------------------------------------------------------------------------


async def check_an_owner_lives_as_long_as_it_renews(rig: Rig) -> None:
    await rig.alive("a", ttl_s=10)
    own = await rig.session(events=1)
    for _ in range(3):
        rig.clock.advance(9)
        await rig.alive("a", ttl_s=10)
        await rig.alive("b", ttl_s=10)
        assert await rig.claim() == {}
    assert await rig.store.append(own, 1, texts(own.session, 2, 1)) == 2
    rig.clock.advance(10)
    await rig.alive("b")
    assert (await rig.claim())["s"].crashed


async def check_an_owner_that_never_renewed_is_dead(rig: Rig) -> None:
    await rig.alive("b")
    await rig.session(events=1, owner="ghost")
    assert (await rig.claim())["s"].crashed


async def check_a_node_that_asks_late_keeps_what_it_owns(rig: Rig) -> None:
    await rig.alive("b", ttl_s=10)
    own = await rig.session(events=1, owner="b")
    rig.clock.advance(60)
    assert await rig.claim() == {}
    assert await rig.store.append(own, 1, texts(own.session, 2, 1)) == 2


async def check_crashed_is_said_once(rig: Rig) -> None:
    await rig.alive("b")
    await rig.session(events=1, owner="ghost")
    own = (await rig.claim())["s"]
    assert await rig.store.release(own, 0, rig.clock.now_ms())
    again = (await rig.claim())["s"]
    assert (again.epoch, again.crashed) == (3, False)


async def check_all_sessions_of_a_dead_owner_come_back(rig: Rig) -> None:
    await rig.alive("b")
    for n in range(450):
        await rig.session(f"s{n}", events=1, owner="ghost")
    taken: set[str] = set()
    while got := await rig.claim():
        assert all(own.crashed for own in got.values())
        taken |= set(got)
    assert len(taken) == 450


@durable
async def check_owners_of_an_earlier_process_are_dead(rig: Rig) -> None:
    await rig.alive("a", ttl_s=3600)
    own = await rig.session("owned", events=1)
    ends = {"chunk": event(own.session, 3, chunk(0)), "snapshot": event(own.session, 3, snapshot(3))}
    for name, last in ends.items():
        other = await rig.session(name, events=2)
        await rig.store.append(other, 2, [last])
    await rig.released("idle")
    await rig.reopen()
    await raises(Fenced, rig.store.append(own, 1, texts(own.session, 2, 1)))
    await rig.alive("b")
    got = await rig.claim()
    assert all(taken.crashed for taken in got.values())
    assert {name: taken.head for name, taken in got.items()} == {"owned": 1, "chunk": 3, "snapshot": 3}
    assert await rig.store.append(got["owned"], 1, texts(own.session, 2, 1)) == 2


# -- release -----------------------------------------------------------------------------------------


async def check_a_release_is_refused_while_something_newer_waits(rig: Rig) -> None:
    await rig.alive("a", "b")
    own = await rig.session(events=1)
    await rig.store.post(own.session, text(own.session, 0))
    assert await rig.store.release(own, 0) is False
    assert await rig.claim() == {}
    assert await rig.store.append(own, 1, [text(own.session, 2, post=1)]) == 2
    assert await rig.store.release(own, 1) is True
    assert await rig.claim() == {}


async def check_what_was_seen_and_left_makes_the_session_due_at_once(rig: Rig) -> None:
    await rig.alive("a", "b")
    own = await rig.session(events=1)
    await rig.store.post(own.session, text(own.session, 0))
    assert await rig.store.release(own, 1) is True
    taken = (await rig.claim())["s"]
    assert not taken.crashed
    assert [row.post for row in taken.inbox] == [1]


async def check_only_the_owner_releases(rig: Rig) -> None:
    own = await rig.session(events=1)
    for wrong in ({"owner": "b"}, {"epoch": 2}):
        await raises(Fenced, rig.store.release(msgspec.structs.replace(own, **wrong), 0))
    assert await rig.store.release(own, 0)
    await raises(Fenced, rig.store.release(own, 0))
    await raises(Fenced, rig.store.append(own, 1, texts(own.session, 2, 1)))
    await rig.store.erase(own.session)
    await raises(Fenced, rig.store.release(own, 0))


async def check_a_last_append_gives_the_session_back(rig: Rig) -> None:
    await rig.alive("a", "b")
    own = await rig.session(events=1)
    assert await rig.store.append(own, 1, texts(own.session, 2, 1), release=True) == 2
    await raises(Fenced, rig.store.append(own, 2, texts(own.session, 3, 1)))
    assert await rig.claim() == {}
    assert await rig.store.append(adopting(own.session, 2, 2), 2, texts(own.session, 3, 1), release=True) == 3
    await rig.store.post(own.session, text(own.session, 0))
    taken = (await rig.claim())["s"]
    assert (taken.epoch, taken.head, taken.crashed) == (3, 3, False)


async def check_a_whole_life_fits_in_one_commit(rig: Rig) -> None:
    ref = SessionRef("t", "s")
    calls = (
        rig.store.create(ref),
        rig.store.append(adopting(ref, 1, 0), 0, texts(ref, 1, 1)),
        rig.store.append(adopting(ref, 1, 0), 1, texts(ref, 2, 1), release=True),
        rig.store.append(adopting(ref, 2, 0), 2, texts(ref, 3, 1), release=True),
        rig.store.append(adopting(ref, 3, 0, "c"), 3, texts(ref, 4, 1)),
        rig.store.append(adopting(ref, 3, 0, "b"), 4, texts(ref, 5, 1)),
    )
    results = await outcomes(*calls)
    assert results[:5] == [None, 1, 2, 3, 4]
    assert isinstance(results[5], Fenced)
    assert [e.epoch for e in await rig.read(ref)] == [1, 1, 2, 3]


async def check_a_last_append_is_refused_while_something_waits(rig: Rig) -> None:
    await rig.alive("a", "b")
    own = await rig.session(events=1)
    await rig.store.post(own.session, text(own.session, 0))
    await rig.store.post(own.session, text(own.session, 0))
    last = [text(own.session, 2, post=1)]
    await raises(HeadMoved, rig.store.append(own, 1, last, release=True))
    assert await rig.seqs(own.session) == [1]
    assert len(await rig.tail(own.session, 1, 0)) == 2
    last.append(text(own.session, 3, post=2))
    assert await rig.store.append(own, 1, last, release=True) == 3
    assert await rig.claim() == {}
