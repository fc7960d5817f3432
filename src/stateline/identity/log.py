"""A system session that a kind of records is kept in: every node folds it, whoever changes it appends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from stateline.core.errors import Conflict
from stateline.core.events import Body, Event, SessionCreated
from stateline.core.ids import SessionRef, base32
from stateline.core.limits import KEY_APPEND_PAUSE_S, KEY_APPENDS_MAX
from stateline.ports import Clock, Fenced, HeadMoved, Ownership, SessionExists, SessionMissing, Store

_ID_BYTES = 10


class SystemLog:
    """One session's events, read from where the last look ended.

    Args:
        who: the first letters of its writers' names.
        entropy: ``entropy(n)`` gives n random bytes.
        apply: is given each event once, in order.
    """

    def __init__(
        self,
        session: SessionRef,
        who: str,
        store: Store,
        clock: Clock,
        entropy: Callable[[int], bytes],
        *,
        apply: Callable[[Event], None],
    ) -> None:
        self._session = session
        self._who = who
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._fold = apply
        self._seq = 0
        self._epoch = 0
        self._lock = asyncio.Lock()
        self.read_at_ms = 0

    async def load(self) -> None:
        """Read what the log has gained since the last time."""
        async with self._lock:
            await self._catch_up()

    async def append(self, body: Body) -> None:
        """Add one event: adopt the session, append, give it back. Another writer in between means another try.

        A writer that died before it gave the session back may have raised the epoch without an event,
        so a try that is fenced though the log stands still goes one epoch higher.

        Raises:
            Conflict: others were faster every time.
        """
        async with self._lock:
            epoch_behind = 0
            for at in range(KEY_APPENDS_MAX):
                if at > 0:
                    # Those who were in each other's way go on at different times.
                    share = int.from_bytes(self._entropy(2), "big") / 0xFFFF
                    await asyncio.sleep(share * KEY_APPEND_PAUSE_S * 2**at)
                seq = self._seq
                await self._catch_up()
                if self._seq > seq:
                    # What went before us told its epoch; ours is the next.
                    epoch_behind = 0
                bodies: list[Body] = [body]
                if self._seq == 0:
                    bodies.insert(0, SessionCreated(kind="system"))
                    with suppress(SessionExists):
                        await self._store.create(self._session)
                try:
                    await self._append_once(bodies, self._epoch + 1 + epoch_behind)
                except Fenced:
                    epoch_behind += 1
                except HeadMoved:
                    continue
                else:
                    await self._catch_up()
                    return
        raise Conflict("Others change the same records at this moment; try again.")

    async def _catch_up(self) -> None:
        with suppress(SessionMissing):
            async for event in self._store.read(self._session, self._seq):
                self._seq = event.seq
                self._epoch = event.epoch
                self._fold(event)
        self.read_at_ms = self._clock.now_ms()

    async def _append_once(self, bodies: list[Body], epoch: int) -> None:
        now_ms = self._clock.now_ms()
        owner = self._who + base32(int.from_bytes(self._entropy(_ID_BYTES), "big"), 16)
        own = Ownership(session=self._session, owner=owner, epoch=epoch, head=self._seq)
        events = [
            Event(session=self._session, seq=self._seq + 1 + at, at_ms=now_ms, body=each)
            for at, each in enumerate(bodies)
        ]
        # Given back in the same commit, so no other node ever finds it owned by somebody who is not alive.
        await self._store.append(own, self._seq, events, release=True)
