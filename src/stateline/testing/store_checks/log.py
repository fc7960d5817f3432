"""Creating, appending, reading, forks, erasing, and what outlives the process."""

from __future__ import annotations

import asyncio

import msgspec

from stateline.core.calls import ModelParams, Usage
from stateline.core.errors import BadRequest, StoreUnavailable
from stateline.core.events import (
    Body,
    Chunk,
    Dedup,
    ItemsAdded,
    ModelCallFinished,
    SessionCreated,
    SessionDeleted,
    Snapshot,
    TurnRequest,
    TurnRequested,
)
from stateline.core.ids import SessionRef
from stateline.core.items import InputFile, InputImage, InputText, Message, OutputText, Sidecar
from stateline.core.limits import APPEND_EVENTS_MAX, BLOB_BYTES_MIN
from stateline.core.ops import Delta
from stateline.ports import (
    Duplicate,
    Fenced,
    HeadMoved,
    Ownership,
    SessionExists,
    SessionMissing,
)
from stateline.testing.store_rig import Rig, as_stored, durable, event, outcomes, raises, text, texts

NOBODY = SessionRef("t", "nobody")


# An image that pretends to be one of a store's own references.
PRETENDER = ItemsAdded(
    items=(Message(id="msg_3", role="user", content=(InputImage(image_url="stateline-blob:" + "0" * 64),)),)
)


def chunk(number: int, said: str = "x") -> Chunk:
    return Chunk(turn=1, step=1, first=number, ops=(Delta(0, 0, "text", said),))


def snapshot(said: int) -> Snapshot:
    return Snapshot(fold=1, state=msgspec.Raw(b'{"said":%d}' % said))


def picture(char: str = "A", size: int = 2 * BLOB_BYTES_MIN) -> ItemsAdded:
    """An item with an image and a file, both large."""
    content = (
        InputText(text='"image_url":"data:," is not one'),
        InputImage(image_url="data:image/png;base64," + char * size),
        InputFile(filename="a.pdf", file_data=char * size),
    )
    return ItemsAdded(items=(Message(id="msg_1", role="user", content=content),))


def bodies() -> list[Body]:
    """Bodies of many shapes."""
    said = 'tab\t quote" backslash\\ nul\x00 line\u2028 emoji \U0001f600'
    message = Message(id="msg_2", role="assistant", content=(OutputText(text=said),))
    params = ModelParams(model="m", instructions=said)
    return [
        SessionCreated(kind="conversation", metadata={said: said}),
        TurnRequested(
            response_id="resp_1",
            turn=1,
            request=TurnRequest(model=params.model, instructions=params.instructions, stop=("a", "b")),
            input=(Message(id="msg_1", role="user", content=(InputText(text=said),)),),
            sidecars={"msg_1": Sidecar(origin="f/c", data={"k": [1, 2.5, None, {"d": said}]})},
        ),
        chunk(0, said),
        chunk(1),
        ModelCallFinished(turn=1, step=1, finish_reason="stop", items=(message,), usage=Usage(input_tokens=3)),
        PRETENDER,
        SessionDeleted(),
    ]


# -- create ----------------------------------------------------------------------------------------


async def check_a_new_session_is_empty(rig: Rig) -> None:
    await rig.store.create(SessionRef("t", "s"))
    assert await rig.read(SessionRef("t", "s")) == []


async def check_an_id_is_taken_once_a_tenant(rig: Rig) -> None:
    own = await rig.session(events=1)
    await raises(SessionExists, rig.store.create(own.session))
    other = await rig.session(tenant="other", events=2)
    assert await rig.seqs(own.session) == [1]
    assert await rig.seqs(other.session) == [1, 2]


async def check_the_same_id_created_twice_in_one_commit_exists_once(rig: Rig) -> None:
    ref = SessionRef("t", "s")
    first, second = await outcomes(rig.store.create(ref), rig.store.create(ref))
    assert first is None
    assert isinstance(second, SessionExists)


async def check_an_append_makes_its_session(rig: Rig) -> None:
    ref = SessionRef("t", "s")
    own = _first(ref)
    assert await rig.store.append(own, 0, [event(ref, 1, picture()), text(ref, 2)], create=True) == 2
    assert await rig.store.append(own, 2, texts(ref, 3, 1)) == 3
    assert [e.epoch for e in await rig.read(ref)] == [1, 1, 1]
    assert len(await rig.tail(ref)) == 3


async def check_an_append_may_make_its_session_and_give_it_back(rig: Rig) -> None:
    ref = SessionRef("t", "s")
    assert await rig.store.append(_first(ref), 0, texts(ref, 1, 1), create=True, release=True) == 1
    next_one = Ownership(session=ref, owner="b", epoch=2, head=1)
    assert await rig.store.append(next_one, 1, texts(ref, 2, 1)) == 2


async def check_an_append_makes_no_session_that_there_is(rig: Rig) -> None:
    own = await rig.session(events=1)
    await raises(SessionExists, rig.store.append(own, 1, texts(own.session, 2, 1), create=True))
    await raises(SessionExists, rig.store.append(_first(own.session, "b"), 0, texts(own.session, 1, 1), create=True))
    ref = SessionRef("t", "new")
    results = await outcomes(
        rig.store.append(_first(ref, "a"), 0, texts(ref, 1, 1), create=True),
        rig.store.append(_first(ref, "b"), 0, texts(ref, 1, 2), create=True),
    )
    assert results[0] == 1
    assert isinstance(results[1], SessionExists)
    assert await rig.seqs(own.session) == [1]
    assert await rig.seqs(ref) == [1]


async def check_an_append_that_is_refused_makes_no_session(rig: Rig) -> None:
    key = Dedup(key="k", ref="resp_1", digest="d", ttl_s=60)
    await rig.store.append(
        _first(SessionRef("t", "first")), 0, [text(SessionRef("t", "first"), 1, dedup=[key])], create=True
    )
    ref = SessionRef("t", "s")
    late = Ownership(session=ref, owner="a", epoch=2, head=0)
    await raises(Duplicate, rig.store.append(_first(ref), 0, [text(ref, 1, dedup=[key])], create=True))
    await raises(Fenced, rig.store.append(late, 0, texts(ref, 1, 1), create=True))
    await raises(HeadMoved, rig.store.append(_first(ref), 1, texts(ref, 2, 1), create=True))
    await raises(HeadMoved, rig.store.append(_first(ref), 0, [text(ref, 1, post=1)], create=True))
    await raises(SessionMissing, rig.read(ref))
    assert await rig.store.append(_first(ref), 0, texts(ref, 1, 1), create=True) == 1


async def check_many_sessions_with_keys_are_made_in_one_commit(rig: Rig) -> None:
    refs = [SessionRef("t", f"s{number}") for number in range(200)]
    keys = [Dedup(key=f"k{number}", ref="resp_1", digest="d", ttl_s=60) for number in range(200)]
    for _ in range(2):
        results = await outcomes(
            *(
                rig.store.append(_first(ref), 0, [text(ref, 1, dedup=[key])], create=True)
                for ref, key in zip(refs, keys, strict=True)
            )
        )
        assert {type(result) for result in results} in ({int}, {SessionExists})
    assert [await rig.seqs(ref) for ref in refs] == [[1]] * 200


def _first(ref: SessionRef, owner: str = "a") -> Ownership:
    """Of a session that there is not yet."""
    return Ownership(session=ref, owner=owner, epoch=1, head=0)


# -- append ----------------------------------------------------------------------------------------


async def check_append_returns_the_head_and_numbers_from_the_expected_seq(rig: Rig) -> None:
    own = await rig.session()
    assert await rig.store.append(own, 0, texts(own.session, 1, 3)) == 3
    assert await rig.store.append(own, 3, texts(own.session, 4, 1)) == 4
    assert await rig.store.append(own, 4, []) == 4
    assert await rig.seqs(own.session) == [1, 2, 3, 4]


async def check_what_is_read_equals_what_was_appended(rig: Rig) -> None:
    own = await rig.session()
    events = [event(own.session, seq, body) for seq, body in enumerate(bodies(), 1)]
    await rig.store.append(own, 0, events)
    assert await rig.read(own.session, chunks=True) == as_stored(events, 1)
    assert await rig.tail(own.session) == as_stored(events, 1)


async def check_large_content_comes_back(rig: Rig) -> None:
    own = await rig.session()
    events = [event(own.session, 1, picture()), event(own.session, 2, picture("B")), event(own.session, 3, picture())]
    await rig.store.append(own, 0, events)
    assert await rig.read(own.session) == as_stored(events, 1)
    held = b'{"items":[{"type":"input_image","image_url":"data:' + b"C" * 2 * BLOB_BYTES_MIN + b'"}]}'
    kept = event(own.session, 4, Snapshot(fold=1, state=msgspec.Raw(held)))
    await rig.store.append(own, 3, [kept])
    assert await rig.read(own.session, snapshot=True) == as_stored([kept], 1, 4)


async def check_calls_keep_their_order_large_content_or_not(rig: Rig) -> None:
    ref = SessionRef("t", "s")
    own = Ownership(session=ref, owner="a", epoch=1, head=0)
    calls = [rig.store.create(ref), rig.store.append(own, 0, [event(ref, 1, picture())])]
    calls += [rig.store.append(own, seq - 1, [text(ref, seq)]) for seq in range(2, 10)]
    calls += [rig.store.append(own, 9, [event(ref, 10, picture("B"))])]
    assert await outcomes(*calls) == [None, *range(1, 11)]
    assert await rig.seqs(ref) == list(range(1, 11))


async def check_each_append_of_a_commit_has_its_own_outcome(rig: Rig) -> None:
    owns = [await rig.session(f"s{n}", events=1) for n in range(6)]
    stranger = Ownership(session=owns[0].session, owner="x", epoch=1, head=1)
    results = await outcomes(
        *(rig.store.append(own, 1, texts(own.session, 2, 2)) for own in owns),
        rig.store.append(stranger, 3, texts(stranger.session, 4, 1)),
        rig.store.append(owns[1], 1, texts(owns[1].session, 2, 1)),
        rig.store.append(Ownership(session=NOBODY, owner="a", epoch=1, head=0), 0, texts(NOBODY, 1, 1)),
    )
    assert results[:6] == [3] * 6
    assert [type(error) for error in results[6:]] == [Fenced, HeadMoved, SessionMissing]
    for own in owns:
        assert await rig.seqs(own.session) == [1, 2, 3]


async def check_an_append_without_its_session_is_missing(rig: Rig) -> None:
    own = Ownership(session=NOBODY, owner="a", epoch=1, head=0)
    await raises(SessionMissing, rig.store.append(own, 0, texts(NOBODY, 1, 1)))


async def check_a_head_elsewhere_writes_nothing(rig: Rig) -> None:
    own = await rig.session(events=3)
    for expected in (0, 2, 4):
        await raises(HeadMoved, rig.store.append(own, expected, texts(own.session, expected + 1, 2)))
    assert await rig.seqs(own.session) == [1, 2, 3]


async def check_another_owner_or_epoch_is_fenced(rig: Rig) -> None:
    own = await rig.session(events=1)
    for wrong in ({"owner": "b"}, {"epoch": 2}, {"epoch": 0}, {"owner": "b", "epoch": 2}):
        stranger = msgspec.structs.replace(own, **wrong)
        await raises(Fenced, rig.store.append(stranger, 1, texts(own.session, 2, 1)))
    assert await rig.seqs(own.session) == [1]


async def check_what_is_too_much_for_one_append_is_refused(rig: Rig) -> None:
    own = await rig.session()
    await raises(BadRequest, rig.store.append(own, 0, texts(own.session, 1, APPEND_EVENTS_MAX + 1)))
    assert await rig.store.append(own, 0, texts(own.session, 1, APPEND_EVENTS_MAX)) == APPEND_EVENTS_MAX


# -- dedup keys --------------------------------------------------------------------------------------


def key(name: str, ref: str, *, replace: bool = False) -> Dedup:
    return Dedup(key=name, ref=ref, digest=f"digest of {ref}", ttl_s=100, replace=replace)


async def check_a_dedup_key_counts_once_and_a_duplicate_writes_nothing(rig: Rig) -> None:
    own = await rig.session()
    await rig.store.append(own, 0, [text(own.session, 1, dedup=[key("k", "resp_1")])])
    again = [text(own.session, 2, dedup=[key("other", "resp_2"), key("k", "resp_2")])]
    found = await raises(Duplicate, rig.store.append(own, 1, again))
    assert (found.ref, found.digest) == ("resp_1", "digest of resp_1")
    assert await rig.seqs(own.session) == [1]
    assert await rig.store.find_duplicate("t", "other") is None


async def check_a_dedup_key_is_found_while_it_lives_by_its_tenant(rig: Rig) -> None:
    own = await rig.session()
    await rig.store.append(own, 0, [text(own.session, 1, dedup=[key("k", "resp_1")])])
    found = await rig.store.find_duplicate("t", "k")
    assert found is not None
    assert (found.ref, found.digest) == ("resp_1", "digest of resp_1")
    assert await rig.store.find_duplicate("other", "k") is None
    other = await rig.session(tenant="other")
    await rig.store.append(other, 0, [text(other.session, 1, dedup=[key("k", "resp_9")])])
    rig.clock.advance(100)
    assert await rig.store.find_duplicate("t", "k") is None
    assert await rig.store.append(own, 1, [text(own.session, 2, dedup=[key("k", "resp_2")])]) == 2
    found = await rig.store.find_duplicate("t", "k")
    assert found is not None
    assert found.ref == "resp_2"


async def check_a_dedup_key_that_may_be_replaced_is(rig: Rig) -> None:
    own = await rig.session()
    await rig.store.append(own, 0, [text(own.session, 1, dedup=[key("k", "resp_1")])])
    await rig.store.append(own, 1, [text(own.session, 2, dedup=[key("k", "resp_2", replace=True)])])
    found = await raises(Duplicate, rig.store.append(own, 2, [text(own.session, 3, dedup=[key("k", "resp_3")])]))
    assert found.ref == "resp_2"


async def check_of_two_appends_with_one_key_in_one_commit_one_wins(rig: Rig) -> None:
    owns = [await rig.session(f"s{n}") for n in range(2)]
    results = await outcomes(
        *(rig.store.append(o, 0, [text(o.session, 1, dedup=[key("k", o.session.id)])]) for o in owns)
    )
    assert results[0] == 1
    assert isinstance(results[1], Duplicate)


# -- read ----------------------------------------------------------------------------------------------


async def check_reading_an_unknown_session_is_missing(rig: Rig) -> None:
    await raises(SessionMissing, rig.read(NOBODY))
    await rig.session(events=1)
    await raises(SessionMissing, rig.read(SessionRef("other", "s")))


async def check_reading_begins_after_and_ends_at(rig: Rig) -> None:
    own = await rig.session(events=6)
    assert await rig.seqs(own.session, 4) == [5, 6]
    assert await rig.seqs(own.session, 6) == []
    assert await rig.seqs(own.session, 60) == []
    assert [e.seq for e in await rig.read(own.session, 1, until=3)] == [2, 3]
    assert [e.seq for e in await rig.read(own.session, until=60)] == [1, 2, 3, 4, 5, 6]


async def check_chunks_are_read_in_place_when_asked_for(rig: Rig) -> None:
    own = await rig.session(events=1)
    ref = own.session
    await rig.store.append(own, 1, [event(ref, 2, chunk(0)), event(ref, 3, chunk(1)), text(ref, 4)])
    await rig.store.append(own, 4, [event(ref, 5, chunk(2))])
    assert await rig.seqs(ref) == [1, 4]
    assert await rig.seqs(ref, chunks=True) == [1, 2, 3, 4, 5]
    assert await rig.seqs(ref, 2, chunks=True) == [3, 4, 5]


async def check_reading_begins_at_the_latest_snapshot_when_asked_for(rig: Rig) -> None:
    own = await rig.session(events=1)
    ref = own.session
    assert await rig.seqs(ref, snapshot=True) == [1]
    await rig.store.append(own, 1, [event(ref, 2, snapshot(2)), text(ref, 3)])
    await rig.store.append(own, 3, [event(ref, 4, snapshot(4)), text(ref, 5)])
    found = await rig.read(ref, snapshot=True)
    assert [e.seq for e in found] == [4, 5]
    assert found[0].body == snapshot(4)
    assert await rig.seqs(ref) == [1, 3, 5]
    assert await rig.seqs(ref, 4, snapshot=True) == [5]


async def check_a_long_log_is_read_whole(rig: Rig) -> None:
    own = await rig.session()
    head = 0
    for _ in range(3):
        events = texts(own.session, head + 1, 500)
        events[7] = event(own.session, head + 8, chunk(head))
        events[9] = text(own.session, head + 10, "y" * 300_000)
        head = await rig.store.append(own, head, events)
    assert await rig.seqs(own.session, chunks=True) == list(range(1, head + 1))
    assert len(await rig.seqs(own.session)) == head - 3
    assert await rig.seqs(own.session, 1234, chunks=True) == list(range(1235, head + 1))


async def check_what_is_appended_while_reading_is_no_part_of_it(rig: Rig) -> None:
    own = await rig.session(events=700)
    seen: list[int] = []
    async for found in rig.store.read(own.session):
        if not seen:
            await rig.store.append(own, 700, texts(own.session, 701, 5))
        seen.append(found.seq)
    assert seen == list(range(1, 701))


# -- forks ---------------------------------------------------------------------------------------------


async def fork(rig: Rig, parent: SessionRef, at: int, name: str, events: int = 0) -> Ownership:
    ref = SessionRef(parent.tenant, name)
    await rig.store.create(ref, (parent, at))
    own = Ownership(session=ref, owner="a", epoch=1, head=at)
    await rig.store.append(own, at, texts(ref, at + 1, events))
    return own


async def check_a_fork_shares_the_prefix_and_nothing_after_it(rig: Rig) -> None:
    own = await rig.session("p", events=5)
    made = await fork(rig, own.session, 3, "f", 2)
    await rig.store.append(own, 5, texts(own.session, 6, 1))
    found = await rig.read(made.session)
    assert [(e.session.id, e.seq) for e in found] == [("p", 1), ("p", 2), ("p", 3), ("f", 4), ("f", 5)]
    assert await rig.seqs(made.session, 2) == [3, 4, 5]
    assert [e.seq for e in await rig.read(made.session, until=2)] == [1, 2]
    assert await rig.seqs(own.session) == [1, 2, 3, 4, 5, 6]
    assert [getattr(e, "seq", 0) for e in await rig.tail(made.session, 2)] == [3, 4, 5]


async def check_forks_of_forks_share_what_theirs_share(rig: Rig) -> None:
    own = await rig.session("p", events=4)
    one = await fork(rig, own.session, 3, "f", 4)
    late = await fork(rig, one.session, 5, "late", 1)
    early = await fork(rig, one.session, 2, "early", 1)
    found = [(e.session.id, e.seq) for e in await rig.read(late.session)]
    assert found == [("p", 1), ("p", 2), ("p", 3), ("f", 4), ("f", 5), ("late", 6)]
    found = [(e.session.id, e.seq) for e in await rig.read(early.session)]
    assert found == [("p", 1), ("p", 2), ("early", 3)]


async def check_a_fork_begins_at_a_snapshot_of_its_prefix_alone(rig: Rig) -> None:
    own = await rig.session("p", events=1)
    await rig.store.append(own, 1, [event(own.session, 2, snapshot(2)), *texts(own.session, 3, 2)])
    late = await fork(rig, own.session, 3, "late", 1)
    early = await fork(rig, own.session, 1, "early", 1)
    assert await rig.seqs(late.session, snapshot=True) == [2, 3, 4]
    assert await rig.seqs(early.session, snapshot=True) == [1, 2]
    assert await rig.seqs(late.session) == [1, 3, 4]


async def check_a_fork_needs_a_parent_of_its_tenant_that_is_long_enough(rig: Rig) -> None:
    own = await rig.session("p", events=2)
    await raises(SessionMissing, rig.store.create(SessionRef("t", "f"), (NOBODY, 0)))
    await raises(SessionMissing, rig.store.create(SessionRef("t", "f"), (own.session, 3)))
    await raises(SessionMissing, rig.store.create(SessionRef("other", "f"), (own.session, 1)))
    await raises(SessionMissing, rig.read(SessionRef("t", "f")))


# -- erase ---------------------------------------------------------------------------------------------


async def check_an_erased_session_is_gone_with_its_forks(rig: Rig) -> None:
    own = await rig.session("p", events=3)
    await rig.store.append(own, 3, [event(own.session, 4, picture()), event(own.session, 5, chunk(0))])
    made = await fork(rig, own.session, 2, "f", 1)
    deeper = await fork(rig, made.session, 3, "g", 1)
    other = await rig.session("other", events=1)
    await rig.store.erase(own.session)
    for gone in (own, made, deeper):
        await raises(SessionMissing, rig.read(gone.session))
        await raises(SessionMissing, rig.store.append(gone, 9, texts(gone.session, 10, 1)))
        await raises(SessionMissing, rig.store.post(gone.session, text(gone.session, 0)))
        assert await rig.tail(gone.session, 0, 0) == []
    assert await rig.seqs(other.session) == [1]


async def check_erasing_a_fork_leaves_its_parent(rig: Rig) -> None:
    own = await rig.session("p", events=3)
    made = await fork(rig, own.session, 2, "f", 1)
    await rig.store.erase(made.session)
    assert await rig.seqs(own.session) == [1, 2, 3]
    await rig.store.erase(own.session)


async def check_erasing_what_is_not_there_is_no_error(rig: Rig) -> None:
    await rig.store.erase(NOBODY)
    own = await rig.session(events=1)
    await rig.store.erase(SessionRef("other", own.session.id))
    assert await rig.seqs(own.session) == [1]


async def check_an_id_can_be_used_again_after_erasure(rig: Rig) -> None:
    own = await rig.session(events=3)
    await rig.store.append(own, 3, [text(own.session, 4, dedup=[key("k", "resp_1")])])
    await rig.store.erase(own.session)
    assert await rig.store.find_duplicate("t", "k") is None
    await rig.session(events=1)
    assert await rig.seqs(own.session) == [1]
    assert [e.epoch for e in await rig.read(own.session)] == [1]


# -- time and processes ------------------------------------------------------------------------------------


async def check_a_closed_store_says_so(rig: Rig) -> None:
    own = await rig.session(events=1)
    pending = asyncio.ensure_future(rig.store.append(own, 1, texts(own.session, 2, 1)))
    await asyncio.sleep(0)
    await rig.store.close()
    assert await pending == 2
    await raises(StoreUnavailable, rig.store.append(own, 2, texts(own.session, 3, 1)))
    await raises(StoreUnavailable, rig.store.create(NOBODY))


@durable
async def check_what_was_acknowledged_is_there_after_a_restart(rig: Rig) -> None:
    own = await rig.session("p", events=3)
    ref = own.session
    rest = [event(ref, 4, picture()), event(ref, 5, chunk(0)), event(ref, 6, snapshot(6))]
    rest.append(text(ref, 7, dedup=[key("k", "resp_1")]))
    await rig.store.append(own, 3, rest)
    made = await fork(rig, ref, 4, "f", 2)
    before = [await rig.read(s, chunks=c) for s in (ref, made.session) for c in (False, True)]
    await rig.reopen()
    after = [await rig.read(s, chunks=c) for s in (ref, made.session) for c in (False, True)]
    assert after == before
    assert await rig.seqs(ref, snapshot=True) == [6, 7]
    assert await rig.store.find_duplicate("t", "k") is not None
    assert [getattr(e, "seq", 0) for e in await rig.tail(ref, 2, None)] == [3, 4, 5, 7]


@durable
async def check_posts_and_timers_are_there_after_a_restart(rig: Rig) -> None:
    first, second = await rig.released("s1"), await rig.released("s2", wake_at_ms=rig.clock.now_ms() + 5000)
    posted = text(first, 0, "hello")
    await rig.store.post(first, posted, "k")
    await rig.reopen()
    await raises(Duplicate, rig.store.post(first, posted, "k"))
    got = await rig.claim()
    assert list(got) == ["s1"]
    assert [row.event for row in got["s1"].inbox] == [posted]
    rig.clock.advance(5)
    await rig.alive("b")
    assert list(await rig.claim()) == ["s2"]
    assert second.id == "s2"


async def check_a_tenants_sessions_are_listed_from_the_highest_down_and_nobody_elses(rig: Rig) -> None:
    names = ["0a", "0b", "1a", "1b", "2a"]
    for name in (names[3], names[0], names[4], names[1], names[2]):
        await rig.store.create(SessionRef("t", name))
    await rig.store.create(SessionRef("u", "1c"))
    assert await rig.store.sessions("t", None, 10) == names[::-1]
    assert await rig.store.sessions("t", None, 2) == ["2a", "1b"]
    assert await rig.store.sessions("t", "1b", 2) == ["1a", "0b"]
    assert await rig.store.sessions("t", "1aa", 1) == ["1a"]
    assert await rig.store.sessions("t", "0a", 2) == []
    await rig.store.erase(SessionRef("t", "1b"))
    assert await rig.store.sessions("t", None, 3) == ["2a", "1a", "0b"]
    assert await rig.store.sessions("nobody", None, 10) == []
