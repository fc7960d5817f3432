"""What comes from outside: posting, consuming, and who is woken."""

from __future__ import annotations

from stateline.core.events import CancelRequested, Dedup
from stateline.core.limits import DEDUP_TTL_S, INBOX_POSTS_MAX
from stateline.ports import Duplicate, HeadMoved, InboxFull, SessionMissing
from stateline.testing.store_checks.log import NOBODY, key, picture
from stateline.testing.store_rig import Rig, event, outcomes, raises, text, texts


async def check_posts_wait_in_order_and_are_seen_at_the_claim(rig: Rig) -> None:
    ref = await rig.released()
    posts = [text(ref, 0, f"post {n}") for n in range(5)] + [event(ref, 0, picture())]
    for posted in posts:
        await rig.store.post(ref, posted)
    await rig.alive("b")
    own = (await rig.claim())["s"]
    assert [row.event for row in own.inbox] == posts
    assert [row.post for row in own.inbox] == [1, 2, 3, 4, 5, 6]


async def check_a_post_keeps_the_keys_that_its_event_will_write(rig: Rig) -> None:
    ref = await rig.released()
    posted = text(ref, 0, dedup=[key("k", "resp_1"), Dedup(key="l", ref="", digest="", ttl_s=1, replace=True)])
    await rig.store.post(ref, posted)
    assert await rig.store.find_duplicate("t", "k") is None
    await rig.alive("b")
    own = (await rig.claim())["s"]
    assert [row.event for row in own.inbox] == [posted]


async def check_an_append_consumes_the_posts_that_it_names(rig: Rig) -> None:
    own = await rig.session(events=1)
    for _ in range(3):
        await rig.store.post(own.session, text(own.session, 0))
    rest = [text(own.session, 2, post=2), text(own.session, 3, post=2), text(own.session, 4, post=1)]
    assert await rig.store.append(own, 1, rest) == 4
    assert [e.post for e in await rig.read(own.session)] == [None, 2, 2, 1]
    assert await rig.store.release(own, 3)
    await rig.alive("b")
    claimed = (await rig.claim())["s"]
    assert [row.post for row in claimed.inbox] == [3]


async def check_a_post_is_consumed_once(rig: Rig) -> None:
    own = await rig.session(events=1)
    await rig.store.post(own.session, text(own.session, 0))
    await rig.store.append(own, 1, [text(own.session, 2, post=1)])
    await raises(HeadMoved, rig.store.append(own, 2, [text(own.session, 3, post=1)]))
    await raises(HeadMoved, rig.store.append(own, 2, [text(own.session, 3, post=7)]))
    assert await rig.seqs(own.session) == [1, 2]


async def check_post_numbers_are_not_used_again(rig: Rig) -> None:
    own = await rig.session(events=1)
    await rig.store.post(own.session, text(own.session, 0))
    await rig.store.append(own, 1, [text(own.session, 2, post=1)])
    await rig.store.post(own.session, text(own.session, 0))
    [row] = await rig.tail(own.session, 2, 0)
    assert getattr(row, "post", None) == 2


async def check_a_post_to_nobody_is_missing(rig: Rig) -> None:
    await raises(SessionMissing, rig.store.post(NOBODY, text(NOBODY, 0)))


async def check_a_post_with_a_key_enters_once_in_its_session(rig: Rig) -> None:
    first, second = await rig.released("s1"), await rig.released("s2")
    body = CancelRequested(response_id="resp_1")
    await rig.store.post(first, event(first, 0, body), "k")
    found = await raises(Duplicate, rig.store.post(first, event(first, 0, body), "k"))
    assert found.ref == "resp_1"
    await rig.store.post(second, event(second, 0, body), "k")
    await rig.store.post(first, event(first, 0, body), "other")
    await rig.store.post(first, event(first, 0, body))
    rig.clock.advance(DEDUP_TTL_S)
    await rig.store.post(first, event(first, 0, body), "k")
    await rig.alive("b")
    assert [len(own.inbox) for own in (await rig.claim()).values()] == [4, 1]


async def check_a_key_outlives_its_post(rig: Rig) -> None:
    own = await rig.session(events=1)
    await rig.store.post(own.session, text(own.session, 0), "k")
    await rig.store.append(own, 1, [text(own.session, 2, post=1)])
    await raises(Duplicate, rig.store.post(own.session, text(own.session, 0), "k"))


async def check_a_full_inbox_refuses_and_takes_again(rig: Rig) -> None:
    own = await rig.session(events=1)
    calls = [rig.store.post(own.session, text(own.session, 0)) for _ in range(INBOX_POSTS_MAX + 1)]
    results = await outcomes(*calls)
    assert results[:-1] == [None] * INBOX_POSTS_MAX
    assert isinstance(results[-1], InboxFull)
    await rig.store.append(own, 1, [text(own.session, 2, post=1)])
    await rig.store.post(own.session, text(own.session, 0))
    await raises(InboxFull, rig.store.post(own.session, text(own.session, 0)))


async def check_a_post_wakes_a_released_session(rig: Rig) -> None:
    ref = await rig.released()
    await rig.alive("b")
    assert await rig.claim() == {}
    await rig.store.post(ref, text(ref, 0))
    assert list(await rig.claim()) == ["s"]


async def check_a_post_to_an_owned_session_waits_for_its_owner(rig: Rig) -> None:
    await rig.alive("a", "b")
    own = await rig.session(events=1)
    await rig.store.post(own.session, text(own.session, 0))
    assert await rig.claim() == {}
    assert await rig.store.append(own, 1, texts(own.session, 2, 1)) == 2


async def check_create_and_post_share_an_order(rig: Rig) -> None:
    ref = NOBODY
    assert await outcomes(rig.store.create(ref), rig.store.post(ref, text(ref, 0))) == [None, None]
    await rig.alive("b")
    assert list(await rig.claim()) == [ref.id]
