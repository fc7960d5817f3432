"""A process that writes to a store and says what was acknowledged, until it is killed.

Each line on standard output is one acknowledgement: ``A session head`` or ``P session count``. What
event ``seq`` of a session says can be told from its place alone, so that whoever looks later can
check it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import msgspec

from stateline.core.events import Body, Chunk, Event, ItemsAdded, SessionUpdated, Snapshot
from stateline.core.ids import SessionRef
from stateline.core.items import InputImage, Message
from stateline.core.limits import BLOB_BYTES_MIN
from stateline.core.ops import Delta
from stateline.ports import Ownership
from stateline.stores.sqlite import SqliteStore, open_sqlite

WRITERS = 8


def body(session: str, seq: int) -> Body:
    """The body of an event: of every kind that a store treats differently."""
    mark = f"<{session}:{seq}>"
    if seq % 11 == 3:
        return Chunk(turn=1, step=1, first=seq, ops=(Delta(0, 0, "text", mark),))
    if seq % 17 == 5:
        return Snapshot(fold=1, state=msgspec.Raw(msgspec.json.encode({"mark": mark})))
    if seq % 23 == 7:
        image = InputImage(image_url="data:" + mark + chr(65 + seq % 5) * BLOB_BYTES_MIN)
        return ItemsAdded(items=(Message(id="m", role="user", content=(image,)),))
    return SessionUpdated(metadata={"mark": mark, "padding": "x" * (seq * 37 % 900)})


def acknowledge(line: str) -> None:
    """One write, so that a line is whole or not there."""
    os.write(1, f"{line}\n".encode())


async def write(store: SqliteStore, name: str, chance: random.Random, appends: int) -> None:
    ref = SessionRef("t", name)
    own = Ownership(session=ref, owner=f"pid {os.getpid()}", epoch=1, head=0)
    head = posts = 0
    created = asyncio.ensure_future(store.create(ref))
    for _ in range(appends):
        events = [
            Event(session=ref, seq=seq, at_ms=seq, body=body(name, seq))
            for seq in range(head + 1, head + 1 + chance.randint(1, 3))
        ]
        head = await store.append(own, head, events)
        acknowledge(f"A {name} {head}")
        if chance.random() < 0.1:
            posted = SessionUpdated(metadata={"posted": str(posts)})
            await store.post(ref, Event(session=ref, seq=0, at_ms=0, body=posted))
            posts += 1
            acknowledge(f"P {name} {posts}")
    await created


async def main(path: Path, prefix: str, seed: int, appends: int) -> None:
    store = await open_sqlite(path)
    await store.renew(f"pid {os.getpid()}", 60)
    names = [f"{prefix}-{n}" for n in range(WRITERS)]
    await asyncio.gather(*(write(store, name, random.Random(f"{seed} {name}"), appends) for name in names))
    await store.close()


async def check(path: Path, acknowledged: list[str]) -> int:
    """Open the database as it is now; returns how many events there are.

    Raises:
        AssertionError: something acknowledged is missing, or there is a gap.
    """
    heads: dict[str, int] = {}
    posts: dict[str, int] = {}
    for line in acknowledged:
        kind, name, number = line.split()
        (heads if kind == "A" else posts)[name] = int(number)
    store = await open_sqlite(path)
    found = 0
    lasts: dict[str, int] = {}
    try:
        for name, head in heads.items():
            ref = SessionRef("t", name)
            events = [event async for event in store.read(ref, chunks=True)]
            snapshots = {event.seq async for event in store.read(ref, snapshot=True) if type(event.body) is Snapshot}
            last = max([event.seq for event in events] + list(snapshots), default=0)
            assert last >= head, f"{name} was acknowledged to {head} and ends at {last}"
            expected = [seq for seq in range(1, last + 1) if type(body(name, seq)) is not Snapshot]
            assert [event.seq for event in events] == expected, f"a gap in {name}"
            assert all(event.body == body(name, event.seq) for event in events), f"{name} says something else"
            lasts[name] = last
            found += last
        checker = f"checker {os.urandom(4).hex()}"
        await store.renew(checker, 60)
        taken = {own.session.id: own for own in await store.claim(checker, 10_000)}
        inboxes = {name: len(own.inbox) for name, own in taken.items()}
        for name, own in taken.items():
            # The next append goes where the log ends.
            assert own.head == lasts.get(name, own.head), f"{name} ends at {lasts[name]}, its row says {own.head}"
        for name, count in posts.items():
            assert inboxes[name] >= count, f"{name} has {inboxes[name]} posts, {count} were acknowledged"
    finally:
        await store.close()
    return found


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
