"""Reading events of some types, of all sessions, from a file that a server may have.

It is read in short transactions by connections that cannot write, as that server's own readers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

from stateline.core.blobs import MARK
from stateline.core.errors import StoreUnavailable
from stateline.core.events import READER_VERSION, Event, decode_body
from stateline.core.ids import SessionRef
from stateline.core.limits import READ_PAGE_BYTES_MAX, READ_PAGE_EVENTS_MAX, REPLAY_SESSIONS_MAX
from stateline.ports import LogPage
from stateline.stores.logs import Seen, Wanted, may_hold
from stateline.stores.sqlite import opening
from stateline.stores.sqlite.retention import tagged

_SESSIONS = (
    "SELECT s.n, s.tenant, t.name, s.id, s.min_reader, s.created_ms < ? AND ifnull((SELECT e.at_ms FROM events e"
    " WHERE e.tenant = s.tenant AND e.session = s.n ORDER BY e.seq DESC LIMIT 1), 0) >= ?"
    " FROM sessions s JOIN tenants t ON t.n = s.tenant WHERE s.n >= ? AND ifnull(t.name = ?, 1) ORDER BY s.n LIMIT ?"
)
_EVENTS = (
    "SELECT seq, at_ms, epoch, post, body FROM events WHERE tenant = ? AND session = ? AND seq > ? AND {tagged}"
    " ORDER BY seq LIMIT ?"
)


async def count_sessions(path: Path) -> int:
    """How many sessions there are.

    Raises:
        StoreUnavailable: there is no database, or it cannot be read.
    """

    def count() -> int:
        with _opened(path) as db:
            return db.execute("SELECT count(*) FROM sessions").fetchone()[0]

    return await asyncio.to_thread(count)


async def read_logs(path: Path, wanted: Wanted) -> AsyncGenerator[LogPage]:
    """The events that are wanted, page by page.

    Raises:
        StoreUnavailable: there is no database, or it cannot be read.
    """
    at: Seen | None = Seen()
    while at is not None:
        page, at = await asyncio.to_thread(_page, path, at, wanted)
        yield page


@contextlib.contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    if not opening.check_file(path):
        raise StoreUnavailable(f"there is no database at {path}; see store.url", code="store_missing")
    try:
        with contextlib.closing(opening.connect(path, "ro")) as db:
            yield db
    except sqlite3.Error as error:
        raise opening.unavailable(error) from error


def _page(path: Path, at: Seen, wanted: Wanted) -> tuple[LogPage, Seen | None]:
    with _opened(path) as db:
        query = _EVENTS.format(tagged=tagged(wanted.tags))
        given = (*may_hold(wanted), at.number, wanted.tenant, REPLAY_SESSIONS_MAX)
        found = db.execute(_SESSIONS, given).fetchall()
        events: list[Event] = []
        size = 0
        for number, tenant, tenant_name, name, min_reader, of_that_time in found:
            ref = SessionRef(tenant_name, name)
            newer = min_reader > READER_VERSION
            if of_that_time and not newer:
                after = at.seq if number == at.number else 0
                room = READ_PAGE_EVENTS_MAX - len(events)
                for seq, at_ms, epoch, post, raw in db.execute(query, (tenant, number, after, room)):
                    # Large content stays where it is.
                    body = decode_body(raw.removeprefix(MARK))
                    events.append(Event(session=ref, seq=seq, at_ms=at_ms, body=body, epoch=epoch, post=post))
                    size += len(raw)
                    if len(events) >= READ_PAGE_EVENTS_MAX or size >= READ_PAGE_BYTES_MAX:
                        at = at._replace(number=number, seq=seq)
                        return LogPage(events, at.sessions, at.newer), at
            at = Seen(number + 1, 0, at.sessions + 1, at.newer + newer)
        return LogPage(events, at.sessions, at.newer), at if len(found) == REPLAY_SESSIONS_MAX else None
