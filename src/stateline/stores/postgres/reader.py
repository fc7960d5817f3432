"""Reading: pages, each one statement and so one picture of the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stateline.core.events import Event, decode_body
from stateline.core.ids import SessionRef
from stateline.core.limits import READ_PAGE_BYTES_MAX, READ_PAGE_EVENTS_MAX, TAIL_EVENTS_MAX
from stateline.ports import Posted, Watch
from stateline.stores.postgres.blobs import Blobs
from stateline.stores.postgres.connecting import Connection, Record
from stateline.stores.postgres.lookup import EACH, ONE
from stateline.stores.postgres.solo import InboxRow
from stateline.stores.postgres.standbys import Standbys
from stateline.stores.rules import missing, read_dedup

_LINEAGE = (
    "WITH RECURSIVE line (n, id, low, high, parent, depth) AS ("
    " SELECT s.n, s.id, s.parent_seq, s.head, s.parent, 0 FROM stateline_sessions s"
    f"  WHERE {ONE}"
    " UNION ALL SELECT s.n, s.id, s.parent_seq, least(line.low, line.high), s.parent, line.depth + 1"
    "  FROM line JOIN stateline_sessions s ON s.n = line.parent)"
    " SELECT n, id, low, high FROM line ORDER BY depth"
)
_ROWS = (
    "SELECT r.seq, r.at_ms, r.epoch, r.post, r.body FROM {table} r"
    " WHERE r.session = {n} AND r.seq > {after} AND r.seq <= {until}"
)


def _rows(n: str, after: str, until: str, *, chunks: bool) -> str:
    """A session's rows in order, cut after a page's number and bytes, but never before the first."""
    tables = ("stateline_events", "stateline_chunks") if chunks else ("stateline_events",)
    every = " UNION ALL ".join(_ROWS.format(table=table, n=n, after=after, until=until) for table in tables)
    return (
        "SELECT seq, at_ms, epoch, post, body FROM (SELECT p.*,"
        " sum(octet_length(body)) OVER (ORDER BY seq) - octet_length(body) AS bytes_before"
        f" FROM ({every} ORDER BY seq LIMIT {READ_PAGE_EVENTS_MAX}) p) q"
        f" WHERE bytes_before < {READ_PAGE_BYTES_MAX} ORDER BY seq"
    )


_EVENTS = _rows("$1", "$2", "$3", chunks=False)
_MIXED = _rows("$1", "$2", "$3", chunks=True)
# One query for everybody: which sessions have something new, and what. A cursor inside a fork's prefix
# is answered by kind -1 alone: its ancestors must be read.
_NEWS = (
    "WITH news AS MATERIALIZED (SELECT w.i, s.n, w.after, w.post, s.head, s.parent_seq"
    " FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS w (tenant, id, after, post, i)"
    f" {EACH}"
    " WHERE s.head > w.after OR (w.post >= 0 AND s.inbox > 0 AND s.post > w.post))"
    " SELECT i, -1 AS kind, 0::bigint AS seq, 0::bigint AS at_ms, 0::bigint AS epoch, NULL::bigint AS post,"
    " NULL::bytea AS body FROM news WHERE after < parent_seq"
    " UNION ALL SELECT news.i, 0, r.seq, r.at_ms, r.epoch, r.post, r.body FROM news"
    f" CROSS JOIN LATERAL ({_rows('news.n', 'news.after', 'news.head', chunks=True)}) r WHERE news.after >= parent_seq"
    " UNION ALL SELECT news.i, 1, x.post, x.at_ms, 0, NULL, x.body FROM news"
    " JOIN stateline_inbox x ON x.session = news.n AND x.post > news.post WHERE news.post >= 0"
    f" ORDER BY i, kind, seq LIMIT {TAIL_EVENTS_MAX}"
)
_INBOX_KEYS = (
    "SELECT x.dedup FROM stateline_inbox x"
    f" WHERE x.session = (SELECT s.n FROM stateline_sessions s WHERE {ONE}) AND x.post = $3"
)


class Segment(NamedTuple):
    """A stretch ``(after, until]`` of a session's own rows."""

    ref: SessionRef
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


class Reader:
    """Jobs for a connection of the pool."""

    def __init__(self, blobs: Blobs, standbys: Standbys) -> None:
        self._blobs = blobs
        self._standbys = standbys

    async def first(
        self, db: Connection, *, ref: SessionRef, after: int, until: int | None, chunks: bool, snapshot: bool
    ) -> Page:
        """The first page of a reading.

        Raises:
            SessionMissing: no such session.
        """
        segments = await lineage(db, ref, after, until)
        if not segments:
            raise missing(ref)
        number = segments[-1].number
        events: list[Event] = []
        if snapshot:
            events, segments = await self._snapshot(db, segments)
        page = await self._page(db, Span(number, tuple(segments), chunks))
        await self._standbys.confirm(db, events + page.events)
        return Page(events + page.events, page.rest)

    async def _snapshot(self, db: Connection, segments: list[Segment]) -> tuple[list[Event], list[Segment]]:
        """The latest snapshot inside the segments, and what comes after it."""
        for index in reversed(range(len(segments))):
            segment = segments[index]
            row = await db.fetchrow(
                _ROWS.format(table="stateline_snapshots", n="$1", after="$2", until="$3"), *segment[1:]
            )
            if row is not None:
                rest = [segment._replace(after=row[0]), *segments[index + 1 :]]
                return await self._events(db, segment.ref, [row]), rest
        return [], segments

    async def page(self, db: Connection, span: Span) -> Page:
        """The next page.

        Raises:
            SessionMissing: the session was erased since the last one.
        """
        page = await self._page(db, span)
        if not await db.fetchval("SELECT EXISTS (SELECT 1 FROM stateline_sessions WHERE n = $1)", span.number):
            raise missing(span.segments[-1].ref)
        await self._standbys.confirm(db, page.events)
        return page

    async def _page(self, db: Connection, span: Span) -> Page:
        events: list[Event] = []
        for index, segment in enumerate(span.segments):
            if segment.after >= segment.until:
                continue
            rows = await db.fetch(_MIXED if span.chunks else _EVENTS, *segment[1:])
            events += await self._events(db, segment.ref, rows)
            full = len(rows) >= READ_PAGE_EVENTS_MAX or sum(len(row[4]) for row in rows) >= READ_PAGE_BYTES_MAX
            if full or len(events) >= READ_PAGE_EVENTS_MAX:
                after = rows[-1][0] if full else segment.until
                rest = (segment._replace(after=after), *span.segments[index + 1 :])
                return Page(events, span._replace(segments=rest))
        return Page(events, None)

    async def news(self, db: Connection, watches: Sequence[Watch]) -> list[Event | Posted]:
        """What is new for all watches, per session in order."""
        rows = await db.fetch(
            _NEWS,
            [watch.session.tenant for watch in watches],
            [watch.session.id for watch in watches],
            [watch.after for watch in watches],
            [-1 if watch.post is None else watch.post for watch in watches],
        )
        out: list[Event | Posted] = []
        by_watch: dict[int, list[Record]] = {}
        for row in rows:
            by_watch.setdefault(row[0], []).append(row)
        for place, found in by_watch.items():
            watch = watches[place - 1]
            if found[0][1] == -1:
                page = await self.first(
                    db, ref=watch.session, after=watch.after, until=None, chunks=True, snapshot=False
                )
                out += page.events
            out += await self._events(db, watch.session, [row[2:] for row in found if row[1] == 0])
            for row in found:
                if row[1] == 1:
                    keys: bytes | None = await db.fetchval(_INBOX_KEYS, *watch.session, row[2])
                    out += await self.inbox(db, watch.session, [(row[2], row[3], keys, row[6])])
        await self._standbys.confirm(db, out)
        return out

    # -- rows to values ----------------------------------------------------------------------------------

    async def _events(self, db: Connection, ref: SessionRef, rows: Sequence[Record]) -> list[Event]:
        contents = await self._blobs.fetch(db, ref.tenant, (row[4] for row in rows))
        return [
            Event(
                session=ref,
                seq=row[0],
                at_ms=row[1],
                epoch=row[2],
                post=row[3],
                body=decode_body(self._blobs.put_back(ref.tenant, row[4], contents)),
            )
            for row in rows
        ]

    async def inbox(self, db: Connection, ref: SessionRef, rows: Sequence[InboxRow]) -> list[Posted]:
        """Waiting rows as values."""
        contents = await self._blobs.fetch(db, ref.tenant, (row[3] for row in rows))
        return [
            Posted(
                session=ref,
                post=post,
                event=Event(
                    session=ref,
                    seq=0,
                    at_ms=at_ms,
                    body=decode_body(self._blobs.put_back(ref.tenant, raw, contents)),
                    dedup=read_dedup(dedup),
                ),
            )
            for post, at_ms, dedup, raw in rows
        ]


async def lineage(db: Connection, ref: SessionRef, after: int, until: int | None) -> list[Segment]:
    """The stretches that make up a session, its ancestors' first; empty where there is none."""
    rows = await db.fetch(_LINEAGE, *ref)
    end = rows[0][3] if rows and until is None else until or 0
    segments: list[Segment] = []
    for number, name, low, high in rows:
        segment = Segment(SessionRef(ref.tenant, name), number, max(low, after), min(high, end))
        # The session's own stretch stays even when it is empty: it says who is read.
        if not segments or segment.after < segment.until:
            segments.append(segment)
    segments.reverse()
    return segments
