"""Loading sessions: the fold of a log, from its latest snapshot, kept while there is room."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from stateline.core.ids import SessionRef
from stateline.core.limits import SESSIONS_CACHED_BYTES_MAX, SESSIONS_CACHED_MAX
from stateline.core.session import Session, SnapshotStale, fold, new_session
from stateline.ports import Store


class Sessions:
    """Idle sessions by last use, bounded in number and in the bytes of their items."""

    def __init__(
        self, store: Store, *, count_max: int = SESSIONS_CACHED_MAX, bytes_max: int = SESSIONS_CACHED_BYTES_MAX
    ) -> None:
        self._store = store
        self._kept: OrderedDict[SessionRef, Session] = OrderedDict()
        self._bytes = 0
        self._count_max = count_max
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        return self._bytes

    async def load(self, ref: SessionRef) -> Session:
        """The session as of now: what is kept of it, and what was appended since.

        Raises:
            SessionMissing: no such session.
        """
        kept = self._kept.get(ref)
        if kept is None:
            session = await self.read(ref)
        else:
            session = kept
            async for event in self._store.read(ref, kept.seq):
                session = fold(session, event)
        if session.turn is None:
            self.keep(session)
        return session

    def kept(self, ref: SessionRef) -> Session | None:
        """What is kept; another node may have appended since, which an append would find out."""
        return self._kept.get(ref)

    async def read(self, ref: SessionRef) -> Session:
        """The session from the store alone."""
        try:
            session = new_session(ref)
            async for event in self._store.read(ref, snapshot=True):
                session = fold(session, event)
        except SnapshotStale:
            session = new_session(ref)
            async for event in self._store.read(ref):
                session = fold(session, event)
        # A fork that has no event of its own is folded from its parent's alone, and is not its parent.
        return session if session.ref == ref else msgspec.structs.replace(session, ref=ref, epoch=0)

    def keep(self, session: Session) -> None:
        self.forget(session.ref)
        self._kept[session.ref] = session
        self._bytes += session.context.bytes
        while len(self._kept) > self._count_max or (self._bytes > self._bytes_max and len(self._kept) > 1):
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.context.bytes

    def forget(self, ref: SessionRef) -> None:
        dropped = self._kept.pop(ref, None)
        if dropped is not None:
            self._bytes -= dropped.context.bytes
