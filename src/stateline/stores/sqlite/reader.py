"""Reading: pages in short transactions, on a few connections that cannot write."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from stateline.core.errors import Overloaded
from stateline.core.events import Event, decode_body
from stateline.core.ids import SessionRef
from stateline.core.limits import (
    READ_PAGE_BYTES_MAX,
    READ_PAGE_EVENTS_MAX,
    STORE_QUEUE_MAX,
    STORE_READERS,
)
from stateline.ports import Posted, Watch
from stateline.stores.rules import missing, read_dedup
from stateline.stores.sqlite import opening
from stateline.stores.sqlite.blobs import Blobs
from stateline.stores.sqlite.claiming import InboxRow
from stateline.stores.sqlite.schema import HEAD

_T = TypeVar("_T")

_PAGE = "SELECT seq, at_ms, epoch, post, body FROM {} WHERE tenant = ? AND session = ? AND seq > ? AND seq <= ?"
_EVENTS = _PAGE.format("events") + " ORDER BY seq LIMIT ?"
_MIXED = f"{_PAGE.format('events')} UNION ALL {_PAGE.format('chunks')} ORDER BY seq LIMIT ?"


class Segment(NamedTuple):
    """A stretch ``(after, until]`` of a session's own rows."""

    ref: SessionRef
    tenant: int
    number: int
    after: int
    until: int


class Span(NamedTuple):
    """What is left of a reading: stretches, the earliest first, and the session itself."""

    number: int
    segments: tuple[Segment, ...]
    chunks: bool


class Page(NamedTuple):
    events: list[Event]
    rest: Span | None


class Found(NamedTuple):
    """What the disk knows of a watched session; ``inbox`` is all that waits in it."""

    watch: Watch
    events: list[Event]
    last: int
    inbox: list[Posted]


class Readers:
    """A bounded pool of threads, each reading with a connection of its own."""

    def __init__(self, blobs: Blobs) -> None:
        self._path = blobs.database
        self._blobs = blobs
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(STORE_READERS, "stateline-reader")
        self._under_way = 0

    async def run(self, job: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a job with a connection, off the event loop.

        Raises:
            Overloaded: too many wait to read.
            StoreUnavailable: the file cannot be read.
        """
        if self._under_way >= STORE_QUEUE_MAX:
            raise Overloaded("the store has too many reads queued", retry_after_s=1.0)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._job, job)
        finally:
            self._under_way -= 1

    def _job(self, job: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            db = self._idle.get_nowait()
        except queue.Empty:
            try:
                db = opening.connect(self._path, "ro")
            except sqlite3.Error as error:
                raise opening.unavailable(error) from error
        try:
            return job(db)
        except sqlite3.Error as error:
            raise opening.unavailable(error) from error
        finally:
            self._idle.put(db)

    def close(self) -> None:
        """Wait for the reads under way, then close the connections."""
        self._pool.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get().close()

    # -- jobs ------------------------------------------------------------------------------------------

    def first(
        self,
        db: sqlite3.Connection,
        *,
        ref: SessionRef,
        after: int,
        until: int | None,
        chunks: bool,
        snapshot: bool,
    ) -> Page:
        """The first page of a reading.

        Raises:
            SessionMissing: no such session.
        """
        segments = lineage(db, ref, after, until)
        if not segments:
            raise missing(ref)
        number = segments[-1].number
        events: list[Event] = []
        if snapshot:
            events, segments = self._snapshot(db, segments)
        page = self.page(db, Span(number, tuple(segments), chunks))
        return Page(events + page.events, page.rest)

    def _snapshot(self, db: sqlite3.Connection, segments: list[Segment]) -> tuple[list[Event], list[Segment]]:
        """The latest snapshot inside the segments, and what comes after it."""
        for index in reversed(range(len(segments))):
            segment = segments[index]
            row = db.execute(
                "SELECT seq, at_ms, epoch, post, body FROM snapshots"
                " WHERE tenant = ? AND session = ? AND seq > ? AND seq <= ?",
                segment[1:],
            ).fetchone()
            if row is not None:
                rest = [segment._replace(after=row[0]), *segments[index + 1 :]]
                return [self._event(segment.ref, row)], rest
        return [], segments

    def page(self, db: sqlite3.Connection, span: Span) -> Page:
        """The next page.

        Raises:
            SessionMissing: the session was erased since the last one.
        """
        if db.execute("SELECT 1 FROM sessions WHERE n = ?", (span.number,)).fetchone() is None:
            raise missing(span.segments[-1].ref)
        events: list[Event] = []
        size = 0
        for index, segment in enumerate(span.segments):
            key = segment[1:]
            room = READ_PAGE_EVENTS_MAX - len(events)
            rows = db.execute(_MIXED, (*key, *key, room)) if span.chunks else db.execute(_EVENTS, (*key, room))
            try:
                for row in rows:
                    events.append(self._event(segment.ref, row))
                    size += len(row[4])
                    if size >= READ_PAGE_BYTES_MAX or len(events) >= READ_PAGE_EVENTS_MAX:
                        rest = (segment._replace(after=row[0]), *span.segments[index + 1 :])
                        return Page(events, span._replace(segments=rest))
            finally:
                rows.close()
        return Page(events, None)

    def look_up(self, db: sqlite3.Connection, watches: Sequence[Watch]) -> list[Found]:
        """For each watch what is new on the disk; sessions that do not exist have nothing."""
        found: list[Found] = []
        for watch in watches:
            segments = lineage(db, watch.session, watch.after, None)
            if not segments:
                found.append(Found(watch, [], 0, []))
                continue
            own = segments[-1]
            page = self.page(db, Span(own.number, tuple(segments), True))
            rows: list[InboxRow] = db.execute(
                "SELECT post, at_ms, dedup, body FROM inbox WHERE tenant = ? AND session = ? ORDER BY post",
                (own.tenant, own.number),
            ).fetchall()
            last = page.events[-1].seq if page.events else min(watch.after, own.until)
            if page.rest is not None:
                last = own.until
            found.append(Found(watch, page.events, last, self.inbox(watch.session, rows)))
        return found

    # -- rows to values --------------------------------------------------------------------------------

    def _event(self, ref: SessionRef, row: tuple[int, int, int, int | None, bytes]) -> Event:
        seq, at_ms, epoch, post, raw = row
        body = decode_body(self._blobs.put_back(ref.tenant, raw))
        return Event(session=ref, seq=seq, at_ms=at_ms, body=body, epoch=epoch, post=post)

    def inbox(self, ref: SessionRef, rows: Sequence[InboxRow]) -> list[Posted]:
        """Waiting rows as values; reads files where they hold large content."""
        return [
            Posted(
                session=ref,
                post=post,
                event=Event(
                    session=ref,
                    seq=0,
                    at_ms=at_ms,
                    body=decode_body(self._blobs.put_back(ref.tenant, raw)),
                    dedup=read_dedup(dedup),
                ),
            )
            for post, at_ms, dedup, raw in rows
        ]


def lineage(db: sqlite3.Connection, ref: SessionRef, after: int, until: int | None) -> list[Segment]:
    """The stretches that make up a session, its ancestors' first; empty where there is none."""
    rows = db.execute(
        "WITH RECURSIVE line (n, tenant, id, low, high, parent) AS ("
        f" SELECT n, tenant, id, parent_seq, CASE WHEN owner IS NULL THEN head ELSE {HEAD} END, parent FROM sessions"
        "  WHERE tenant = (SELECT n FROM tenants WHERE name = ?) AND id = ?"
        " UNION ALL SELECT s.n, s.tenant, s.id, s.parent_seq, min(line.low, line.high), s.parent"
        "  FROM line JOIN sessions s ON s.n = line.parent)"
        " SELECT n, tenant, id, low, high FROM line",
        ref,
    ).fetchall()
    end = rows[0][4] if rows and until is None else until or 0
    segments: list[Segment] = []
    for number, tenant, name, low, high in rows:
        segment = Segment(SessionRef(ref.tenant, name), tenant, number, max(low, after), min(high, end))
        # The session's own stretch stays even when it is empty: it says who is read.
        if not segments or segment.after < segment.until:
            segments.append(segment)
    segments.reverse()
    return segments
