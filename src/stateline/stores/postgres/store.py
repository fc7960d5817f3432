"""The store on a PostgreSQL database that any number of nodes share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from stateline.core.errors import StatelineError
from stateline.core.events import Event
from stateline.core.ids import SessionRef
from stateline.core.limits import CHUNK_PART_S, EXPIRED_ROWS_MAX, READ_PAGE_EVENTS_MAX, TAIL_POLL_S
from stateline.ports import Balance, Clock, Duplicate, Hold, Ownership, Posted, Watch
from stateline.stores.postgres import chunks, connecting, opening, walls
from stateline.stores.postgres.bells import Bells
from stateline.stores.postgres.blobs import Blobs
from stateline.stores.postgres.clock import now_sql
from stateline.stores.postgres.committer import Committer
from stateline.stores.postgres.connecting import Connection, Place
from stateline.stores.postgres.lookup import TENANT
from stateline.stores.postgres.maintenance import PostgresMaintenance
from stateline.stores.postgres.pool import Pool
from stateline.stores.postgres.reader import Reader
from stateline.stores.postgres.requests import Append, Create, Post, Release, Request
from stateline.stores.postgres.retention import Retire
from stateline.stores.postgres.solo import ANYTHING_DUE, Claim, Claimed, Erase, GiveBack, Leave, SetAside, Taken, Turns
from stateline.stores.postgres.standbys import Standbys
from stateline.stores.postgres.writer import Writer
from stateline.stores.recent import Recent
from stateline.stores.rules import is_unreadable, log_unreadable

log = logging.getLogger("stateline.stores")

_T = TypeVar("_T")
_TEND_S = 600.0
"""How often partitions are made ahead and what has expired is cleared."""


async def open_postgres(url: str, *, clock: Clock | None = None) -> PostgresStore:
    """Open the database that ``url`` names, making our tables in it if there are none.

    Args:
        clock: where time comes from; None: the database's own clock.

    Raises:
        StoreUnavailable: not reachable, no rights, newer, or with foreign tables of our names. The
            message is one line without a password; nothing was changed.
    """
    place = connecting.place_of(url)
    db = await connecting.connect(place)
    try:
        secret = await opening.prepare(db, place, clock.now_ms() if clock is not None else None)
    finally:
        await connecting.close(db)
    return PostgresStore(place, secret, clock)


class PostgresStore:
    """A ``stateline.ports.Store``. Made by ``open_postgres``; used on the event loop that opened it."""

    def __init__(self, place: Place, secret: bytes, clock: Clock | None) -> None:
        self._place = place
        self._clock = clock
        self._recent = Recent()
        self._blobs = Blobs(secret)
        self._reader = Reader(self._blobs, Standbys(in_pool=place.pooler))
        self._pool = Pool(place)
        self._due: Callable[[], None] | None = None
        self._bells = Bells(place, self._heard, self._heard_due)
        self._committer = Committer(Writer(place, self._now_ms), self._blobs, self._recent, self._committed)
        self.maintenance = PostgresMaintenance(
            place, partial(self._pool.run, tenant=None), self._apart, partial(self._submit, Retire), self._now_ms
        )
        self._turns = Turns()
        self._nodes: set[str] = set()
        self._looked: dict[SessionRef, tuple[int, int | None]] = {}
        """The cursors after which the last look at the database found nothing more."""
        self._look_due = True
        self._next_look_s = 0.0
        self._looks: set[asyncio.Future[list[Event | Posted]]] = set()
        self._tending: asyncio.Task[None] | None = None
        self._closed = False
        if not place.pooler:
            self._bells.start()
        if clock is None:
            self._tending = asyncio.get_running_loop().create_task(self._tend(), name="store-tending")

    def _now_ms(self) -> int | None:
        return self._clock.now_ms() if self._clock is not None else None

    # -- the port ------------------------------------------------------------------------------------------

    # What writes is queued by the call itself, not when its result is first awaited: so calls keep
    # their order, however they are awaited.

    def create(self, session: SessionRef, parent: tuple[SessionRef, int] | None = None) -> Coroutine[Any, Any, None]:
        return self._submit(Create, session, parent)

    def append(
        self,
        own: Ownership,
        expected_seq: int,
        events: Sequence[Event],
        holds: Sequence[Hold] = (),
        *,
        create: bool = False,
        release: bool = False,
    ) -> Coroutine[Any, Any, int]:
        return self._submit(partial(Append, create=create, release=release), own, expected_seq, events, holds)

    async def balances(self, names: Sequence[str]) -> dict[str, Balance]:
        async def look(db: Connection) -> dict[str, Balance]:
            rows = await db.fetch(
                "SELECT name, held, spent FROM stateline_balances WHERE name = ANY($1::text[])", list(names)
            )
            return {row[0]: Balance(row[1], row[2]) for row in rows}

        return await self._pool.run(look, None)

    async def read(
        self,
        session: SessionRef,
        after: int = 0,
        *,
        until: int | None = None,
        chunks: bool = False,
        snapshot: bool = False,
    ) -> AsyncIterator[Event]:
        run, reader, tenant = self._pool.run, self._reader, session.tenant
        first = partial(reader.first, ref=session, after=after, until=until, chunks=chunks, snapshot=snapshot)
        page = await run(first, tenant)
        while True:
            for event in page.events:
                yield event
            if page.rest is None:
                return
            page = await run(partial(reader.page, span=page.rest), tenant)

    async def find_duplicate(self, tenant: str, dedup_key: str) -> Duplicate | None:
        async def look(db: Connection) -> Duplicate | None:
            row = await db.fetchrow(
                f"SELECT d.ref, d.digest FROM stateline_dedup d WHERE d.tenant = {TENANT.format(name='$2')}"
                f" AND d.key = $3 AND d.expires_ms > {now_sql()}",
                self._now_ms(),
                tenant,
                dedup_key,
            )
            return Duplicate(row[0], row[1]) if row is not None else None

        return await self._pool.run(look, tenant)

    async def sessions(self, tenant: str, before: str | None, limit: int) -> list[str]:
        async def look(db: Connection) -> list[str]:
            rows = await db.fetch(
                f"SELECT s.id FROM stateline_sessions s WHERE s.tenant = {TENANT.format(name='$1')}"
                " AND ($2::text IS NULL OR s.id < $2) ORDER BY s.id DESC LIMIT $3",
                tenant,
                before,
                limit,
            )
            return [row[0] for row in rows]

        return await self._pool.run(look, tenant)

    def post(self, session: SessionRef, event: Event, dedup_key: str | None = None) -> Coroutine[Any, Any, None]:
        return self._submit(Post, session, event, dedup_key)

    async def claim(self, node: str, limit: int) -> list[Ownership]:
        self._nodes.add(node)
        # Most claims find nothing, and do not hold up the commits.
        if not await self._pool.run(lambda db: db.fetchval(ANYTHING_DUE, self._now_ms(), node), None):
            return []
        claimed: list[Claimed] = await self._submit(Claim, node, limit, self._turns)
        try:
            return [own for row in claimed if (own := await self._handed_out(row, node)) is not None]
        except Exception:
            # Nobody will hear that they are owned, so nobody must own them.
            await self._submit(GiveBack, [Taken(row.number, node, row.epoch) for row in claimed])
            raise

    async def _handed_out(self, row: Claimed, node: str) -> Ownership | None:
        """What the claimer gets; None, and the session is set aside, where its inbox cannot be read."""
        try:
            inbox = await self._inbox(row)
        except Exception as error:
            if not is_unreadable(error):
                raise
            log_unreadable(row.session, error)
            await self._submit(SetAside, row, node)
            return None
        return Ownership(
            session=row.session, owner=node, epoch=row.epoch, head=row.head, inbox=inbox, crashed=row.crashed
        )

    async def _inbox(self, row: Claimed) -> tuple[Posted, ...]:
        if not row.inbox:
            return ()
        look = partial(self._reader.inbox, ref=row.session, rows=row.inbox)
        return tuple(await self._pool.run(look, row.session.tenant))

    async def renew(self, node: str, ttl_s: float) -> int:
        self._nodes.add(node)

        async def renew(db: Connection) -> int:
            others: int = await db.fetchval(
                f"INSERT INTO stateline_nodes (owner, expires_ms, scoped) VALUES ($2, {now_sql()} + $3, true)"
                " ON CONFLICT (owner) DO UPDATE SET expires_ms = excluded.expires_ms"
                " RETURNING (SELECT count(*) FROM stateline_nodes n WHERE n.owner <> $2"
                f" AND n.expires_ms > {now_sql()})",
                self._now_ms(),
                node,
                round(ttl_s * 1000),
            )
            return others

        return await self._pool.run(renew, None)

    def on_due(self, call: Callable[[], None]) -> None:
        self._due = call

    def release(self, own: Ownership, seen: int, wake_at_ms: int | None = None) -> Coroutine[Any, Any, bool]:
        return self._submit(Release, own, seen, wake_at_ms)

    async def erase(self, session: SessionRef) -> None:
        await self._submit(Erase, session)

    async def prune_chunks(self, before_ms: int) -> int:
        """Delete chunks written before ``before_ms`` (Unix time) of sessions that are at rest; how many.

        Whole partitions at a time, so some stay up to CHUNK_PART_S longer. No part of the port.
        """

        async def prune(db: Connection) -> int:
            return await chunks.prune(db, before_ms, self._now_ms())

        return await self._apart(prune)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait([self._tending])
        if self._nodes:
            # What this process still owns need not wait for the end of its lease.
            with contextlib.suppress(StatelineError):
                await self._submit(Leave, sorted(self._nodes))
        await self._committer.stop()
        await self._bells.close()
        await self._pool.close()

    def _submit(self, kind: Any, *arguments: object) -> Coroutine[Any, Any, Any]:
        try:
            request: Request = kind(*arguments)
            self._committer.submit(request)
        except StatelineError as error:
            return _raise(error)
        return _result(request)

    # -- following -----------------------------------------------------------------------------------------

    async def tail(self, watched: Sequence[Watch], wait_s: float = 0.0) -> list[Event | Posted]:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        look_s = started_s + TAIL_POLL_S
        while True:
            out: list[Event | Posted] = []
            unknown = self._recent.committed(watched, out)
            if out or not watched:
                return out
            now_s = loop.time()
            due = self._look_due or now_s >= min(self._next_look_s, look_s)
            if wait_s <= 0 or due or self._unseen(unknown):
                out = await self._look(watched, keep=wait_s > 0)
                look_s = loop.time() + TAIL_POLL_S
                if out:
                    return out
            rest_s = started_s + wait_s - loop.time()
            if rest_s <= 0:
                return []
            if not self._look_due:
                await self._recent.wait(watched, min(rest_s, max(look_s - loop.time(), 0.001)))

    def _unseen(self, watches: Sequence[Watch]) -> bool:
        """Whether a watch of which memory knows nothing is not where the last look left it."""
        looked = self._looked
        return any(looked.get(watch.session, _NOWHERE) != (watch.after, watch.post) for watch in watches)

    async def _look(self, watched: Sequence[Watch], *, keep: bool) -> list[Event | Posted]:
        """Ask the database, for all watches at once."""
        if keep:
            self._look_due = False
            self._next_look_s = asyncio.get_running_loop().time() + TAIL_POLL_S
        # One statement looks for all, and so works for one tenant where all are of one.
        tenants = {watch.session.tenant for watch in watched}
        tenant = tenants.pop() if len(tenants) == 1 else None
        looking = asyncio.ensure_future(self._pool.run(partial(self._reader.news, watches=watched), tenant))
        # A caller may go away at any time; its query ends by itself, and keeps its connection.
        self._looks.add(looking)
        looking.add_done_callback(self._looked_once)
        found = await asyncio.shield(looking)
        if keep:
            looked = {watch.session: (watch.after, watch.post) for watch in watched}
            for record in found:
                ref = record.session
                after, post = looked.get(ref, _NOWHERE)
                if isinstance(record, Posted):
                    looked[ref] = (after, record.post)
                elif ref in looked:
                    looked[ref] = (record.seq, post)
            self._looked = looked
            # A full page may not be all.
            self._look_due = self._look_due or len(found) >= READ_PAGE_EVENTS_MAX
        return found

    def _looked_once(self, looking: asyncio.Future[list[Event | Posted]]) -> None:
        self._looks.discard(looking)
        if not looking.cancelled():
            looking.exception()

    def _committed(self, unshown: bool, due: bool) -> None:
        """This node committed something."""
        self._look_due = self._look_due or unshown
        self._bells.ring(due=due)

    def _heard(self) -> None:
        """Another node committed something."""
        self._look_due = True
        self._recent.wake_all()

    def _heard_due(self) -> None:
        """Another node left a session to whoever takes it."""
        if self._due is not None:
            self._due()

    # -- housekeeping --------------------------------------------------------------------------------------

    async def _apart(self, job: Callable[[Connection], Awaitable[_T]]) -> _T:
        async with connecting.apart(self._place) as db:
            return await job(db)

    async def tend(self) -> None:
        """Make partitions ahead of their time, and clear keys and balances whose time is over.

        It is done every so often by itself, where time is the database's.
        """
        await self._apart(self._tend_once)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(min(_TEND_S, CHUNK_PART_S))
            try:
                await self.tend()
            except StatelineError as error:
                log.warning("the store could not be tended: %s", error.message)

    async def _tend_once(self, db: Connection) -> None:
        await chunks.ensure(db, self._now_ms())
        await walls.close(db, self._now_ms())
        for table, place in (("dedup", "tenant, key"), ("balances", "name")):
            query = (
                f"DELETE FROM stateline_{table} WHERE ({place}) IN (SELECT {place} FROM stateline_{table}"
                f" WHERE expires_ms <= {now_sql()} ORDER BY expires_ms LIMIT {EXPIRED_ROWS_MAX} FOR UPDATE SKIP LOCKED)"
            )
            while await db.execute(query, self._now_ms()) == f"DELETE {EXPIRED_ROWS_MAX}":
                pass


_NOWHERE: tuple[int, int | None] = (-1, None)


async def _result(request: Request) -> Any:
    return await request.future


async def _raise(error: StatelineError) -> Any:
    raise error
