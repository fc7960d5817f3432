"""Reading events of some types, of all sessions, beside the nodes that serve: in pages, and without writing."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from stateline.core.blobs import MARK
from stateline.core.errors import StoreUnavailable
from stateline.core.events import READER_VERSION, Event, decode_body
from stateline.core.ids import SessionRef
from stateline.core.limits import READ_PAGE_BYTES_MAX, READ_PAGE_EVENTS_MAX, REPLAY_SESSIONS_MAX
from stateline.ports import LogPage
from stateline.stores.logs import Seen, Wanted, may_hold
from stateline.stores.postgres import connecting, opening, schema
from stateline.stores.postgres.connecting import Connection

_SESSIONS = (
    "SELECT s.n, t.name, s.id, s.min_reader, s.created_ms < $1 AND coalesce((SELECT e.at_ms FROM stateline_events e"
    " WHERE e.session = s.n ORDER BY e.seq DESC LIMIT 1), 0) >= $2"
    " FROM stateline_sessions s JOIN stateline_tenants t ON t.n = s.tenant"
    f" WHERE s.n >= $3 AND ($4::text IS NULL OR t.name = $4) ORDER BY s.n LIMIT {REPLAY_SESSIONS_MAX}"
)
# Sessions are chosen in a way that no index serves, so that the rows come in the order of the primary key
# and the reading ends with the page.
_EVENTS = (
    "SELECT session, seq, at_ms, epoch, post, body FROM (SELECT p.*,"
    " sum(octet_length(body)) OVER (ORDER BY session, seq) - octet_length(body) AS bytes_before"
    " FROM (SELECT r.session, r.seq, r.at_ms, r.epoch, r.post, r.body FROM stateline_events r"
    "  WHERE (r.session, r.seq) > ($1, $2) AND r.session <= $3 AND (r.session <> ALL($4::bigint[])) IS FALSE"
    f"  AND {{tagged}} ORDER BY r.session, r.seq LIMIT {READ_PAGE_EVENTS_MAX}) p) q"
    f" WHERE bytes_before < {READ_PAGE_BYTES_MAX} ORDER BY session, seq"
)


async def count_sessions(url: str) -> int:
    """How many sessions there are.

    Raises:
        StoreUnavailable: there is no database, or it cannot be read.
    """
    place = connecting.place_of(url)
    if not await opening.version_at(url):
        raise StoreUnavailable(f"the database at {place.shown} is empty; see store.url", code="store_missing")
    async with connecting.apart(place) as db:
        return await db.fetchval("SELECT count(*) FROM stateline_sessions")


async def read_logs(url: str, wanted: Wanted) -> AsyncGenerator[LogPage]:
    """The events that are wanted, page by page.

    Raises:
        StoreUnavailable: the database cannot be read.
    """
    at: Seen | None = Seen()
    async with connecting.apart(connecting.place_of(url)) as db:
        while at is not None:
            page, at = await _page(db, at, wanted)
            yield page


async def _page(db: Connection, at: Seen, wanted: Wanted) -> tuple[LogPage, Seen | None]:
    found = await db.fetch(_SESSIONS, *may_hold(wanted), at.number, wanted.tenant)
    refs = {row[0]: SessionRef(row[1], row[2]) for row in found if row[4] and row[3] <= READER_VERSION}
    events: list[Event] = []
    if refs:
        first = min(refs)
        # Before the session's first event, or behind what was read of it.
        after = at.seq if first == at.number else 0
        rows = await db.fetch(_EVENTS.format(tagged=schema.tagged(wanted.tags)), first, after, max(refs), list(refs))
        size = 0
        for number, seq, at_ms, epoch, post, raw in rows:
            # Large content stays where it is.
            body = decode_body(raw.removeprefix(MARK))
            events.append(Event(session=refs[number], seq=seq, at_ms=at_ms, body=body, epoch=epoch, post=post))
            size += len(raw)
        if len(rows) >= READ_PAGE_EVENTS_MAX or size >= READ_PAGE_BYTES_MAX:
            number, seq = rows[-1][:2]
            before = [row for row in found if row[0] < number]
            seen = _past(at, before)._replace(number=number, seq=seq)
            return LogPage(events, seen.sessions, seen.newer), seen
    seen = _past(at, found)
    return LogPage(events, seen.sessions, seen.newer), seen if len(found) == REPLAY_SESSIONS_MAX else None


def _past(at: Seen, rows: list[connecting.Record]) -> Seen:
    """Behind these sessions."""
    if not rows:
        return at
    newer = sum(row[3] > READER_VERSION for row in rows)
    return Seen(rows[-1][0] + 1, 0, at.sessions + len(rows), at.newer + newer)
