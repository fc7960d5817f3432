"""The one task that commits: it takes what is queued, commits it together, and answers each by itself.

No request waits for others on purpose. While a commit is on its way, requests gather; the next one
carries them all. What a node remembers of its own sessions lets most commits be one statement, which
finds out for itself whether it still holds; whatever it did not move is decided on locked rows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stateline.core.errors import Overloaded, StatelineError, StoreUnavailable
from stateline.core.events import Dedup
from stateline.core.ids import SessionRef
from stateline.core.limits import BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, RECENT_SESSIONS_MAX, STORE_QUEUE_MAX
from stateline.ports import BudgetExceeded
from stateline.stores.balances import Standing
from stateline.stores.postgres import connecting
from stateline.stores.postgres.batch import Batch, Kept, Row, Unsure
from stateline.stores.postgres.blobs import Blobs
from stateline.stores.postgres.clock import now_sql
from stateline.stores.postgres.connecting import Connection
from stateline.stores.postgres.lookup import EACH
from stateline.stores.postgres.requests import Append, Release, Request
from stateline.stores.postgres.solo import GiveBack, Solo, Taken
from stateline.stores.postgres.writer import Again, Unresolved, Writer
from stateline.stores.recent import Recent

log = logging.getLogger("stateline.stores")

_NUMBERS = 64
"""Session numbers drawn at a time."""
# The rows are found first, each by itself (reader.py says why), and then locked in the order of their numbers.
_LOCK = (
    f"WITH found AS MATERIALIZED (SELECT w.tenant, s.n FROM unnest($1::text[], $2::text[]) AS w (tenant, id) {EACH})"
    " SELECT f.tenant, s.id, s.tenant, s.n, s.owner, s.epoch, s.head, s.crashed, s.inbox, s.post, s.due_ms, s.wake_ms,"
    f" {now_sql('$3')} FROM found f JOIN stateline_sessions s ON s.n = f.n ORDER BY s.n FOR UPDATE OF s"
)
_PROOF = (
    "UPDATE stateline_writers SET number = $3, void = false, done = NULL,"
    f" at_ms = {now_sql()} WHERE writer = $2 AND number = $3 - 1"
)


class Committer:
    """Owns the committing connection. Requests come from the event loop that made it."""

    def __init__(self, writer: Writer, blobs: Blobs, recent: Recent, committed: Callable[[bool, bool], None]) -> None:
        self._writer = writer
        self._blobs = blobs
        self._recent = recent
        self._committed = committed
        self._queue: deque[Request] = deque()
        self._waiting = 0
        self._closed = False
        self._wake = asyncio.Event()
        self._kept: dict[SessionRef, Kept] = {}
        self._tenants: dict[str, int] = {}
        self._numbers: deque[int] = deque()
        self._tight: set[str] = set()
        """Balances that had no room when they were last asked: appends that hold of them are decided on locked rows."""
        self._unresolved: tuple[int, list[Taken]] | None = None
        """The commit that nobody can tell about, and the sessions that it took, if it happened."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="committer")

    # -- from outside ------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request and give it its future.

        Raises:
            Overloaded: STORE_QUEUE_MAX requests wait already.
            StoreUnavailable: the store was closed.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= STORE_QUEUE_MAX:
            raise Overloaded("the store has too many writes queued", retry_after_s=1.0)
        self._waiting += 1
        request.future = asyncio.get_running_loop().create_future()
        self._queue.append(request)
        self._wake.set()

    async def stop(self) -> None:
        """Commit what is queued, then close the connection."""
        self._closed = True
        self._wake.set()
        await self._task
        await self._writer.close()

    def forget(self, ref: SessionRef) -> None:
        self._kept.pop(ref, None)

    # -- the task ----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while self._queue or not self._closed:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = _take(self._queue)
            try:
                await self._settle()
                await self._run(batch)
            except Exception as error:
                if not isinstance(error, StatelineError):
                    log.exception("a commit failed in a way that it should not")
                self._answer(batch, error)

    def _answer(self, requests: Iterable[Request], error: Exception | None = None) -> None:
        """Resolve requests; those that were answered already are left as they are."""
        published = unshown = due = False
        for request in requests:
            future = request.future
            if request.answered:
                continue
            request.answered = True
            self._waiting -= 1
            failed = error or request.error
            if failed is None:
                request.publish(self._recent)
                published = True
                unshown = unshown or request.unshown
                due = due or request.due
            if future.done():
                continue  # The caller was cancelled; what it asked for is done all the same.
            if failed is None:
                future.set_result(request.result)
            else:
                future.set_exception(failed)
        if published:
            self._committed(unshown, due)

    async def _run(self, batch: list[Request]) -> None:
        if isinstance(batch[0], Solo):
            await self._alone(batch[0])
            self._answer(batch)
            return
        if any(request.large for request in batch):
            await self._blobs.move_out(batch)
        await self._draw(batch)
        if all(request.by_memory for request in batch) and not (self._tight and self._tight & _budgets(batch)):
            batch = await self._by_memory(batch)
        if batch:
            await self._by_rows(batch)

    async def _draw(self, batch: Sequence[Request]) -> None:
        """Numbers for sessions and tenants that may be new; what is not used does no harm."""
        creates = [request for request in batch if request.makes]
        if not creates:
            return
        names = sorted({request.session.tenant for request in creates} - self._tenants.keys())
        need = max(len(creates) - len(self._numbers), 0)
        if not names and not need:
            return

        async def draw(db: Connection) -> None:
            if names:
                await db.execute(
                    "INSERT INTO stateline_tenants (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", names
                )
                found = await db.fetch("SELECT name, n FROM stateline_tenants WHERE name = ANY($1::text[])", names)
                if len(self._tenants) >= RECENT_SESSIONS_MAX:
                    self._tenants.clear()
                self._tenants.update({row[0]: row[1] for row in found})
            if need:
                drawn = await db.fetch(
                    "SELECT nextval('stateline_session_numbers') FROM generate_series(1, $1::int)", need + _NUMBERS
                )
                self._numbers.extend(number for (number,) in drawn)

        await self._writer.once(draw)

    # -- by what is remembered ---------------------------------------------------------------------------

    async def _by_memory(self, requests: list[Request]) -> list[Request]:
        """Commit with one statement and answer what it moved; returns the requests that it did not."""
        batch = Batch(0, locked=False)
        batch.tenants, batch.numbers = self._tenants, self._numbers
        units: dict[SessionRef, list[Request]] = {}
        for request in requests:
            units.setdefault(request.session, []).append(request)
        rest: list[Request] = []
        for ref, unit in units.items():
            if not self._decide(batch, ref, unit):
                rest += unit
        if not batch.touched or (batch.moves and _budgets(rest)):
            # What holds of balances keeps its order among all that do.
            return requests
        rows = {row.ref: row for row in batch.touched}

        async def attempt(db: Connection, number: int) -> list[int]:
            sql, values = batch.statement(self._writer.now_ms(), self._writer.name, number)
            if not self._writer.in_pool:
                row = await db.fetchrow(sql, *values)
            else:
                await db.execute(self._writer.begin)
                row = await db.fetchrow(sql, *values)
                await db.execute("COMMIT")
            assert row is not None
            return list(row[0])

        try:
            done = set(await self._writer.commit(attempt, list))
        except Unresolved:
            self._remember_unresolved(rows.values())
            raise
        except StatelineError:
            raise
        except Exception as error:
            if connecting.lacks_room(error):
                self._tight |= _budgets(requests)
            # Somebody's value does not fit: the rows' way finds out whose.
            return requests
        for ref, row in rows.items():
            if row.number in done:
                self._keep(row)
                self._answer(units[ref])
            else:
                self.forget(ref)
                rest += units[ref]
        return rest

    def _decide(self, batch: Batch, ref: SessionRef, unit: list[Request]) -> bool:
        """Let a session's requests change the batch; False, and no change, where memory does not do."""
        kept = self._kept.get(ref)
        if kept is not None:
            row = Row(ref, kept.tenant, kept.number, kept.head)
            row.owner, row.epoch = kept.owner, kept.epoch
            row.was = (kept.owner, kept.epoch, kept.head)
            batch.rows[ref] = row
        elif not unit[0].makes:
            return False
        mark = batch.mark()
        try:
            for request in unit:
                request.result = request.run(batch)
        except (StatelineError, Unsure):
            batch.undo(mark, ref)
            return False
        return True

    # -- by locked rows ----------------------------------------------------------------------------------

    async def _by_rows(self, requests: list[Request]) -> None:
        """Commit with rows read and locked, and answer all."""
        batch: Batch | None = None
        budgets = _budgets(requests)
        # What was tried by memory has taken numbers for the same sessions.
        await self._draw(requests)

        async def attempt(db: Connection, number: int) -> None:
            nonlocal batch
            if batch is not None:
                self._numbers.extendleft(batch.drafted)
            await db.execute(self._writer.begin)
            batch = await self._locked(db, requests)
            if self._tight and self._tight & budgets:
                batch.know_balances(await _lock_balances(db, budgets))
            for request in requests:
                try:
                    request.result, request.error = request.run(batch), None
                except StatelineError as error:
                    request.error = error
            if batch.touched:
                sql, values = batch.statement(self._writer.now_ms(), self._writer.name, number)
                try:
                    row = await db.fetchrow(sql, *values)
                except Exception as error:
                    if not connecting.lacks_room(error):
                        raise
                    self._tight |= budgets
                    raise Again from error
                assert row is not None
                if set(row[0]) != {row.number for row in batch.touched} or row[1] != len(batch.keys):
                    raise Again
            else:
                await self._prove(db, number)
            await db.execute("COMMIT")

        try:
            await self._writer.commit(attempt, lambda _: None)
        except Unresolved:
            self._remember_unresolved([] if batch is None else batch.touched)
            raise
        except StatelineError:
            raise
        except Exception as error:
            await self._one_by_one(requests, error)
            return
        assert batch is not None
        for row in batch.touched:
            self._keep(row)
        if budgets:
            self._tight -= budgets
            self._tight |= {request.error.budget for request in requests if isinstance(request.error, BudgetExceeded)}
        self._answer(requests)

    async def _one_by_one(self, requests: list[Request], error: Exception) -> None:
        """One of them cannot be written: the others must not suffer for it."""
        if len(requests) == 1:
            self._answer(requests, error)
            return
        for request in requests:
            await self._by_rows([request])

    async def _locked(self, db: Connection, requests: Sequence[Request]) -> Batch:
        """A batch with the rows of all sessions concerned, and what else the requests ask about."""
        refs = sorted({ref for request in requests for ref in request.sessions()})
        found = await db.fetch(_LOCK, [ref.tenant for ref in refs], [ref.id for ref in refs], self._writer.now_ms())
        now_ms = found[0][12] if found else await db.fetchval(f"SELECT {now_sql()}", self._writer.now_ms())
        batch = Batch(now_ms, locked=True)
        batch.tenants, batch.numbers = self._tenants, self._numbers
        for tenant, name, *columns in found:
            ref = SessionRef(tenant, name)
            row = batch.rows[ref] = Row(ref, columns[0], columns[1], columns[4])
            row.owner, row.epoch, _, row.crashed, row.inbox, row.post, row.due_ms, row.wake_ms, _ = columns[2:]
            row.was = (row.owner, row.epoch, row.head)
        await self._look_into_inboxes(db, batch, requests)
        keys: dict[tuple[int, str], Dedup] = {}
        for request in requests:
            row = batch.row(request.session)
            if row is not None:
                keys.update({(row.tenant, entry.key): entry for entry in request.keys(row) if not entry.replace})
            elif isinstance(request, Append) and request.session.tenant in self._tenants:
                # Its session is made in this very commit.
                tenant = self._tenants[request.session.tenant]
                keys.update({(tenant, entry.key): entry for entry in request.dedup if not entry.replace})
        if keys:
            rows = await db.fetch(
                "SELECT w.tenant, w.key, d.ref, d.digest FROM unnest($1::int[], $2::text[]) AS w (tenant, key)"
                " CROSS JOIN LATERAL (SELECT k.ref, k.digest FROM stateline_dedup k"
                " WHERE k.tenant = w.tenant AND k.key = w.key AND k.expires_ms > $3 OFFSET 0) d",
                [tenant for tenant, _ in keys],
                [key for _, key in keys],
                now_ms,
            )
            batch.taken_keys = {(row[0], row[1]): (row[2], row[3]) for row in rows}
        return batch

    async def _look_into_inboxes(self, db: Connection, batch: Batch, requests: Sequence[Request]) -> None:
        numbers = {
            row.number: row
            for request in requests
            if isinstance(request, Append | Release) and (row := batch.row(request.session)) is not None and row.inbox
        }
        if not numbers:
            return
        for session, post in await db.fetch(
            "SELECT session, post FROM stateline_inbox WHERE session = ANY($1::bigint[])", list(numbers)
        ):
            batch.waiting.add((session, post))
            numbers[session].newest = max(numbers[session].newest, post)

    # -- alone -------------------------------------------------------------------------------------------

    async def _alone(self, request: Solo) -> None:
        async def attempt(db: Connection, number: int) -> Any:
            await db.execute(self._writer.begin)
            request.result = await request.execute(db, self._writer.now_ms())
            await self._prove(db, number)
            await db.execute("COMMIT")
            return request.result

        try:
            await self._writer.commit(attempt, lambda _: request.result)
        except Unresolved:
            self._unresolved = (self._writer.next_number, request.taken())
            raise
        for ref in request.touched():
            self.forget(ref)

    async def _prove(self, db: Connection, number: int) -> None:
        tag = await db.execute(_PROOF, self._writer.now_ms(), self._writer.name, number)
        if tag != "UPDATE 1":
            self._writer.unregister()
            raise Again

    # -- what nobody could tell --------------------------------------------------------------------------

    def _remember_unresolved(self, rows: Iterable[Row]) -> None:
        taken = [
            Taken(row.number, row.owner, row.epoch)
            for row in rows
            if row.owner is not None and (row.new or row.was[:2] != (row.owner, row.epoch))
        ]
        for row in rows:
            self.forget(row.ref)
        self._unresolved = (self._writer.next_number, taken)

    async def _settle(self) -> None:
        """Find out about a commit whose callers were told that the store is not there.

        Whoever asked for a session has given up on it: if it was taken, it is given back.
        """
        if self._unresolved is None:
            return
        number, taken = self._unresolved
        fate = await self._writer.fate(number)
        self._unresolved = None
        if fate.committed:
            # A statement by memory may have moved some of its sessions only; the others have not this epoch.
            await self._alone(GiveBack(taken))
            self._committed(True, True)

    def _keep(self, row: Row) -> None:
        if len(self._kept) >= RECENT_SESSIONS_MAX:
            self._kept.clear()
        self._kept[row.ref] = Kept(row.tenant, row.number, row.owner, row.epoch, row.head)


def _budgets(requests: Iterable[Request]) -> set[str]:
    """The balances that requests move."""
    return {hold.budget for request in requests if request.holds for hold in request.holds}


async def _lock_balances(db: Connection, names: Iterable[str]) -> dict[str, Standing]:
    """Those of these balances that there are, locked in the order of their names."""
    rows = await db.fetch(
        "SELECT name, held, spent, expires_ms FROM stateline_balances WHERE name = ANY($1::text[])"
        " ORDER BY name FOR UPDATE",
        sorted(names),
    )
    return {name: Standing(held, spent, expires_ms) for name, held, spent, expires_ms in rows}


def _take(waiting: deque[Request]) -> list[Request]:
    """The next batch; a request that goes alone is one of its own."""
    batch: list[Request] = []
    size = 0
    while waiting and len(batch) < BATCH_REQUESTS_MAX:
        size += waiting[0].size
        if batch and (size > BATCH_BYTES_MAX or isinstance(waiting[0], Solo)):
            break
        batch.append(waiting.popleft())
        if isinstance(batch[-1], Solo):
            break
    return batch
