"""Whatever is asked, in whatever order, the stores on databases answer as the one in memory does."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, cast

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.postgres import stores

from stateline.core.errors import StatelineError
from stateline.core.events import Body, Chunk, Dedup, Event, SessionUpdated
from stateline.core.ids import SessionRef
from stateline.core.ops import Delta
from stateline.ports import Ownership, Posted, Store, Watch
from stateline.stores.memory import MemoryStore
from stateline.stores.sqlite import open_sqlite
from stateline.testing import ManualClock
from stateline.testing.exercise import MakeStore
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_checks.log import picture, snapshot

NODES = ("a", "b")
MADE = [SessionRef("t", "1"), SessionRef("t", "2"), SessionRef("u", "1")]
"""Sessions that are there from the beginning; the others come and go."""
REFS = [*MADE, SessionRef("t", "3"), SessionRef("t", "4")]
Op = tuple[Any, ...]


def body(kind: int) -> Body:
    if kind == 1:
        return Chunk(turn=1, step=1, first=0, ops=(Delta(0, 0, "text", "x"),))
    if kind == 2:
        return snapshot(kind)
    if kind == 3:
        return picture()
    return SessionUpdated(metadata={"kind": str(kind)})


refs = st.sampled_from(REFS)
passing = st.sampled_from(REFS[1:])
nodes = st.sampled_from(NODES)
few = st.integers(0, 3)
OPS: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("create"), passing, st.none() | st.tuples(refs, few)),
    # Which owner and epoch an append claims to have, and how far its head is off, is drawn as well.
    st.tuples(st.just("append"), refs, nodes, st.tuples(few, few), st.lists(few, max_size=3), st.booleans()),
    st.tuples(st.just("append"), refs, nodes, st.just((0, 0)), st.lists(few, max_size=3), st.booleans()),
    st.tuples(st.just("post"), refs, st.none() | st.sampled_from(["k", "l"])),
    st.tuples(st.just("consume"), refs, nodes, few),
    st.tuples(st.just("dedup"), refs, nodes, st.sampled_from(["x", "y"]), st.booleans()),
    st.tuples(st.just("find"), st.sampled_from(["x", "y"])),
    st.tuples(st.just("claim"), nodes, few),
    st.tuples(st.just("renew"), nodes, st.sampled_from([1.0, 10.0])),
    st.tuples(st.just("release"), refs, nodes, few, st.none() | few),
    st.tuples(st.just("erase"), passing),
    st.tuples(st.just("read"), refs, few, st.none() | few, st.booleans(), st.booleans()),
    st.tuples(st.just("tail"), few, st.none() | few),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 2.0, 20.0])),
)


class Player:
    """Plays operations on one store. What it believes of heads and epochs comes from the answers alone."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self._store = store
        self._clock = clock
        self._heads: dict[SessionRef, int] = {}
        self._epochs: dict[SessionRef, int] = {}

    async def play(self, op: Op) -> object:
        """The answer, or the name of the error."""
        try:
            return await getattr(self, f"_{op[0]}")(*op[1:])
        except StatelineError as error:
            return type(error).__name__, getattr(error, "ref", None)

    def _own(self, ref: SessionRef, node: str, off: int = 0) -> Ownership:
        epoch = max(0, self._epochs.get(ref, 1) + off - (off == 3) * 4)
        return Ownership(session=ref, owner=node, epoch=epoch, head=0)

    async def _append_events(self, own: Ownership, head: int, events: list[Event], *, release: bool = False) -> object:
        new = await self._store.append(own, head, events, release=release)
        self._heads[own.session] = new
        self._epochs[own.session] = own.epoch + release
        return new

    async def _create(self, ref: SessionRef, parent: tuple[SessionRef, int] | None) -> object:
        await self._store.create(ref, parent)
        self._heads[ref] = parent[1] if parent else 0
        self._epochs[ref] = 1
        return None

    async def _append(
        self, ref: SessionRef, node: str, wrong: tuple[int, int], kinds: list[int], release: bool
    ) -> object:
        off, behind = wrong
        head = self._heads.get(ref, 0) + behind
        events = [Event(session=ref, seq=0, at_ms=n, body=body(kind)) for n, kind in enumerate(kinds)]
        return await self._append_events(self._own(ref, node, off), head, events, release=release)

    async def _consume(self, ref: SessionRef, node: str, post: int) -> object:
        event = Event(session=ref, seq=0, at_ms=0, body=body(0), post=post)
        return await self._append_events(self._own(ref, node), self._heads.get(ref, 0), [event])

    async def _dedup(self, ref: SessionRef, node: str, key: str, replace: bool) -> object:
        entry = Dedup(key=key, ref=f"{ref.id} {self._heads.get(ref, 0)}", digest="", ttl_s=5, replace=replace)
        event = Event(session=ref, seq=0, at_ms=0, body=body(0), dedup=(entry,))
        return await self._append_events(self._own(ref, node), self._heads.get(ref, 0), [event])

    async def _find(self, key: str) -> object:
        found = await self._store.find_duplicate("t", key)
        return found and found.ref

    async def _post(self, ref: SessionRef, key: str | None) -> object:
        return await self._store.post(ref, Event(session=ref, seq=0, at_ms=0, body=body(3)), key)

    async def _claim(self, node: str, limit: int) -> object:
        claimed = await self._store.claim(node, limit)
        for own in claimed:
            self._epochs[own.session] = own.epoch
        return claimed

    async def _renew(self, node: str, ttl_s: float) -> object:
        return await self._store.renew(node, ttl_s)

    async def _release(self, ref: SessionRef, node: str, seen: int, wake_s: int | None) -> object:
        wake_at_ms = None if wake_s is None else self._clock.now_ms() + wake_s * 1000
        released = await self._store.release(self._own(ref, node), seen, wake_at_ms)
        self._epochs[ref] = self._epochs.get(ref, 1) + released
        return released

    async def _erase(self, ref: SessionRef) -> object:
        return await self._store.erase(ref)

    async def _read(self, ref: SessionRef, after: int, until: int | None, chunks: bool, snapshots: bool) -> object:
        read = self._store.read(ref, after, until=until, chunks=chunks, snapshot=snapshots)
        return [event async for event in read]

    async def _tail(self, after: int, post: int | None) -> object:
        """All that is new. One answer may be a part of it, as long as the rest comes to whoever moves on."""
        watches = {ref: Watch(session=ref, after=after, post=post) for ref in REFS}
        out: list[Event | Posted] = []
        while found := await self._store.tail(list(watches.values())):
            out += found
            for record in found:
                watch = watches[record.session]
                seen = {"after": record.seq} if isinstance(record, Event) else {"post": record.post}
                watches[record.session] = msgspec.structs.replace(watch, **seen)
        return out

    async def _advance(self, seconds: float) -> object:
        return self._clock.advance(seconds)


def by_session(answer: object) -> object:
    """A tail's order is promised within a session's events, and within its inbox, alone."""
    records = cast("list[Event | Posted]", answer)
    return sorted(records, key=lambda record: (record.session, isinstance(record, Posted)))


async def compare(ops: list[Op], make: MakeStore) -> None:
    clocks = ManualClock(), ManualClock()
    stores = MemoryStore(clock=clocks[0]), await make(clocks[1])
    try:
        players = [Player(store, clock) for store, clock in zip(stores, clocks, strict=True)]
        for op in [*(("create", ref, None) for ref in MADE), *ops]:
            expected, found = [await player.play(op) for player in players]
            if op[0] == "tail":
                expected, found = by_session(expected), by_session(found)
            assert found == expected, op
        for ref in REFS:
            op = ("read", ref, 0, None, True, False)
            expected, found = [await player.play(op) for player in players]
            assert found == expected, ref
    finally:
        for store in stores:
            await store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(OPS, min_size=10, max_size=60))
def test_the_sqlite_store_answers_alike(ops: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(ops, lambda clock: open_sqlite(Path(folder) / "a.db", clock=clock)))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(OPS, min_size=10, max_size=60))
def test_the_postgres_store_answers_alike(postgres: PostgresServer, ops: list[Op]) -> None:
    make, _ = stores(postgres)
    asyncio.run(compare(ops, make))
