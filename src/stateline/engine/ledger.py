"""The ledger of stateless calls: what they reserve and what they cost, durable, and without their content.

A node writes it into system sessions of its own, *books*. A call's reservation is durable before the call is sent.
Many calls share an append, and in it an event. Whoever finds a book whose node is gone charges what was under way with
all that it reserved, and gives the book back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Protocol

import msgspec

from stateline.core import events as e
from stateline.core.billing import EXACT, ZERO, Charge, Held, Reserved, Tariff
from stateline.core.calls import Usage
from stateline.core.errors import Overloaded, StatelineError, StoreUnavailable
from stateline.core.ids import SYSTEM_TENANT, SessionRef, effect_key, session_id
from stateline.core.limits import (
    LEDGER_BATCH_MAX,
    LEDGER_CALLS_MAX,
    LEDGER_DELAY_S,
    LEDGER_ENTRIES_MAX,
    LEDGER_GATHER_S,
    LEDGER_WAITING_MAX,
)
from stateline.core.session import Session
from stateline.engine.meter import NO_COVERS, Covers, costs, nothing, settled, whole
from stateline.engine.rates import ended, may_fail
from stateline.ports import BudgetExceeded, Clock, Fenced, HeadMoved, Hold, Ownership, SessionMissing, Store

log = logging.getLogger("stateline.engine")

_KEPT = frozenset((e.ModelCallStarted, e.ModelCallFinished, e.ModelCallFailed))


class Owner(Protocol):
    """The node whose ledger it is."""

    store: Store
    clock: Clock
    owner: str
    entropy: Callable[[int], bytes]


class _Entry(msgspec.Struct):
    """What is to be written, and who waits until it is.

    Attributes:
        covers: of a beginning, the budgets that set aside what it reserves.
        reserved: of an end, what it reserved; what budgets have set aside of it is settled by the end's charge.
        holds: how it moves other balances.
    """

    body: e.StatelessCallStarted | e.StatelessCallEnded | e.TariffRecorded
    done: asyncio.Future[None] | None = None
    covers: Covers = NO_COVERS
    reserved: Reserved | None = None
    holds: Sequence[Hold] = ()


class Ledger:
    """One node's books. Entries are written in the order in which they come."""

    def __init__(self, node: Owner) -> None:
        self._node = node
        self._book: _Book | None = None
        self._open: dict[str, tuple[_Book, e.StatelessCallStarted]] = {}
        """By the id of each call that is under way: its beginning, and the book that its end belongs into."""
        self._closing: set[_Book] = set()
        self._tariffs: Sequence[Tariff] = ()

    async def announce(self, tariffs: Sequence[Tariff]) -> None:
        """Record the tariffs of calls to come; on return they are durable."""
        self._tariffs = tuple(tariffs)
        if self._book is not None:
            self._retire(self._book)
            self._book = None
        if tariffs:
            await self._next().announced

    # -- calls ------------------------------------------------------------------------------------------

    async def start(
        self,
        body: e.StatelessCallStarted,
        holds: Sequence[Hold] = (),
        covers: Covers = NO_COVERS,
        *,
        wait: bool = True,
    ) -> None:
        """A call is about to be sent. On return it may be, unless nobody is to wait (``wait``).

        Args:
            covers: the budgets that set aside what it reserves; ``holds``: how it moves other balances.

        Raises:
            BudgetExceeded: a budget has too little left; nothing was recorded.
            StoreUnavailable: whether it was recorded is not known; if it was, nothing is charged for it.
            Overloaded: LEDGER_WAITING_MAX entries wait to be written.
        """
        book = self._book
        if book is None or book.over or book.own.owner != self._node.owner:
            book = self._next()
        if len(book.queue) >= LEDGER_WAITING_MAX:
            raise Overloaded("calls cannot be recorded fast enough now; try again", retry_after_s=1.0)
        self._open[body.id] = (book, body)
        book.open += 1
        if not wait:
            book.put(_Entry(body, None, covers, None, holds))
            return
        done = book.loop.create_future()
        book.put_first(_Entry(body, done, covers, None, holds))
        try:
            await done
        except (BudgetExceeded, StatelineError):
            self._forget(body.id)
            raise
        except asyncio.CancelledError:
            # Nobody sends it any more. Where it is recorded all the same, its book ends it; where it was refused at
            # the same moment, there is nothing to end.
            if done.cancelled() or done.exception() is not None:
                self._forget(body.id)
            else:
                self.end(body.id, None, "cancelled", sent=False)
            raise

    def end(
        self, id_: str, charge: Charge | None, code: str | None = None, usage: Usage | None = None, *, sent: bool = True
    ) -> Charge | None:
        """A call has ended; gives what it is charged. What it did not use of its reservation is given back soon.

        Args:
            charge: None: all that it reserved, or nothing where it was not ``sent``.
        """
        found = self._open.pop(id_, None)
        if found is None:
            return None
        book, started = found
        book.open -= 1
        reserved, counted = started.reserved, started.counted
        if charge is None and reserved is not None:
            charge = whole(reserved) if sent else nothing(reserved)
        body = e.StatelessCallEnded(id=id_, usage=usage, code=code, charge=charge)
        moves = ended(counted, usage, unsent=not sent) if counted else ()
        book.put(_Entry(body, None, NO_COVERS, reserved, moves))
        if book.retired:
            book.look()
        return charge

    def _forget(self, id_: str) -> None:
        found = self._open.pop(id_, None)
        if found is not None:
            found[0].open -= 1
            found[0].look()

    async def keep(self, session: Session, events: Sequence[e.Event], holds: Sequence[Hold], *, metered: bool) -> None:
        """What a session that is kept in memory records of its calls (``store: false``).

        Args:
            metered: there are prices, budgets or rate limits; else no call begins here.

        Raises:
            As ``start``.
        """
        if not any(type(event.body) in _KEPT for event in events):
            return
        turn = session.turn
        principal = "" if turn is None else turn.principal
        for event in events:
            body = event.body
            if type(body) is e.TurnRequested:
                principal = body.principal
            elif type(body) is e.ModelCallStarted and metered:
                started = e.StatelessCallStarted(
                    id=effect_key(event.session.id, body.turn, body.step),
                    tenant=event.session.tenant,
                    principal=principal,
                    interface="responses",
                    deployment=body.deployment,
                    model=body.model,
                    passed=body.passed,
                    verdict=body.verdict,
                    refused=body.refused,
                    reserved=body.reserved,
                    priced=body.priced,
                    counted=body.counted,
                )
                # The others are of a call's end, whose entry brings its own.
                taken = [hold for hold in holds if hold.held > 0 or hold.limit is not None]
                await self.start(started, taken, wait=costs(body.reserved) or may_fail(taken))
            elif type(body) is e.ModelCallFinished:
                self.end(effect_key(event.session.id, body.turn, body.step), body.charge, usage=body.usage)
            elif type(body) is e.ModelCallFailed:
                key, sent = effect_key(event.session.id, body.turn, body.step), not body.unbilled
                self.end(key, body.charge, body.code, body.usage, sent=sent)

    # -- books ------------------------------------------------------------------------------------------

    def _next(self) -> _Book:
        """Begin a book."""
        node = self._node
        if self._book is not None:
            self._retire(self._book)
        ref = SessionRef(SYSTEM_TENANT, session_id(node.clock.now_ms(), node.entropy(9)))
        own = Ownership(session=ref, owner=node.owner, epoch=1, head=0)
        book = self._book = _Book(node.store, node.clock, own, self._tariffs)
        return book

    def _retire(self, book: _Book) -> None:
        """No further call is put into it; it is given back when those under way have ended."""
        book.retire()
        self._closing.add(book)
        book.task.add_done_callback(lambda _: self._closing.discard(book))

    async def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, and give the books back. Calls under way are charged as if they were lost."""
        for id_ in list(self._open):
            self.end(id_, None, "node_stopped")
        if self._book is not None:
            self._retire(self._book)
            self._book = None
        books = [book.task for book in self._closing]
        if books:
            _, late = await asyncio.wait(books, timeout=timeout_s)
            for task in late:
                task.cancel()

    async def recover(self, own: Ownership) -> None:
        """Take up the book of a node that is gone: its calls that were under way may have been sent.

        Raises:
            StoreUnavailable, Fenced, SessionMissing: as the store does; what is left is for the next.
        """
        store, ref, seq = self._node.store, own.session, 0
        under_way: dict[str, e.StatelessCallStarted] = {}
        async for event in store.read(ref):
            body, seq = event.body, event.seq
            if type(body) is e.StatelessCalls:
                for started in body.started:
                    under_way[started.id] = started
                for over in body.ended:
                    under_way.pop(over.id, None)
        lost = list(under_way.values())
        if lost:
            log.info("a node was lost with %d stateless calls under way; they are charged in full", len(lost))
        for at in range(0, len(lost), LEDGER_BATCH_MAX):
            batch = [_lost(each) for each in lost[at : at + LEDGER_BATCH_MAX]]
            events = _events(own, seq, _bodies(batch), self._node.clock.now_ms())
            seq = await store.append(own, seq, events, _together(batch))
        await store.release(own, 0)


def _events(own: Ownership, seq: int, bodies: Iterable[e.Body], now_ms: int) -> list[e.Event]:
    return [
        e.Event(session=own.session, seq=seq + at, at_ms=now_ms, body=body, epoch=own.epoch)
        for at, body in enumerate(bodies, 1)
    ]


class _Book:
    """One system session, and the task that writes it.

    Attributes:
        open: how many calls are under way.
        queue: what is to be written.
        over: another book is to be begun.
        retired: no further call is put into it.
        announced: done once the book and the tariffs in its beginning are durable.
    """

    def __init__(self, store: Store, clock: Clock, own: Ownership, tariffs: Iterable[Tariff]) -> None:
        self.own = own
        self.open = 0
        loop = self.loop = asyncio.get_running_loop()
        self.announced: asyncio.Future[None] = loop.create_future()
        self._store = store
        self._clock = clock
        self._seq = 0
        self._written = 0
        self._made = False
        self._doubt = False
        self.over = False
        self.queue: deque[_Entry] = deque(_Entry(e.TariffRecorded(tariff=each)) for each in tariffs)
        self._queue_put = asyncio.Event()
        self._hurry = asyncio.Event()
        self._all_here = asyncio.Event()
        self._beginning = 0
        self.retired = False
        self._fenced = False
        if self.queue:
            self._hurry.set()
            self._queue_put.set()
        else:
            self.announced.set_result(None)
        self.task: asyncio.Task[None] = loop.create_task(self._run(), name="ledger")

    def put(self, entry: _Entry) -> None:
        """Have an entry written soon, unless another node has the book: that has charged what was under way."""
        queue = self.queue
        if not self._fenced:
            if not queue:
                self._queue_put.set()
            queue.append(entry)
            if len(queue) == LEDGER_BATCH_MAX:
                self._hurry.set()

    def put_first(self, entry: _Entry) -> None:
        """Have the beginning of a call written that waits for it."""
        self.put(entry)
        if not self._beginning:
            self._hurry.set()
        self._beginning += 1
        if self.open <= self._beginning:
            self._all_here.set()

    def look(self) -> None:
        """A call is no longer under way."""
        if self.retired and not self.open:
            self._queue_put.set()
            self._hurry.set()

    def retire(self) -> None:
        self.retired = self.over = True
        self.look()

    async def _run(self) -> None:
        delay_s, written_s, loop = 0.05, 0.0, asyncio.get_running_loop()
        while True:
            await self._queue_put.wait()
            if not self._hurry.is_set():
                try:
                    async with asyncio.timeout(LEDGER_DELAY_S):
                        await self._hurry.wait()
                except TimeoutError:
                    pass
            if loop.time() - written_s < LEDGER_GATHER_S * 4:
                await self._gather(loop)
            self._queue_put.clear()
            self._hurry.clear()
            try:
                if self._doubt:
                    await self._find_out()
                for _ in range(0, len(self.queue), LEDGER_BATCH_MAX):
                    await self._write()
                if self.queue:
                    # They came meanwhile; whoever put them into a queue that was not empty has woken nobody.
                    self._queue_put.set()
                written_s = loop.time()
                if not self.announced.done():
                    self.announced.set_result(None)
                if self.retired and not self.open and not self.queue:
                    if self._made:
                        await self._store.release(self.own, 0)
                    return
            except StoreUnavailable as error:
                log.warning("stateless calls cannot be recorded now: %s", error.message)
                self._doubt = True
                self._refuse(error)
                await self._clock.sleep(delay_s)
                delay_s = min(delay_s * 2, 5.0)
                self._queue_put.set()
            except (Fenced, SessionMissing, HeadMoved):
                # Another node has taken this one for dead, and has charged what was under way.
                log.warning("the ledger of this node has been taken up by another")
                self._end(Overloaded("this node lost its lease; try again", retry_after_s=1.0))
                return
            except Exception:
                # A defect: nobody may wait for ever, and calls go into another book.
                log.exception("the ledger failed; what was under way in it is charged when this node ends")
                self._end(StatelineError("the call could not be recorded"))
                return
            else:
                delay_s = 0.05

    async def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for more entries: an append of many costs as much as one of one.

        A call that ends is often followed by another. So it is over as soon as no call is under way but those that
        wait here, and after LEDGER_GATHER_S.
        """
        if self.open > self._beginning:
            self._all_here.clear()
            timer = loop.call_later(LEDGER_GATHER_S, self._all_here.set)
            await self._all_here.wait()
            timer.cancel()

    def _end(self, error: StatelineError) -> None:
        """Nothing more is written here."""
        self._fenced = self.over = True
        self._refuse(error)
        self.queue.clear()
        if not self.announced.done():
            self.announced.set_exception(error)

    def _refuse(self, error: StatelineError) -> None:
        """Tell whoever waits that its call is not to be sent. What is only to be known stays in the queue."""
        self._beginning = 0
        refused: set[str] = set()
        for entry in self.queue:
            if entry.done is not None:
                refused.add(_name(entry.body))
                if not entry.done.done():
                    entry.done.set_exception(error)
        self.queue = deque(entry for entry in self.queue if _name(entry.body) not in refused)

    async def _write(self) -> None:
        """Append what waits, as much as one append takes; what a budget does not allow is told so."""
        batch = [self.queue.popleft() for _ in range(min(len(self.queue), LEDGER_BATCH_MAX))]
        self._beginning = 0
        while batch:
            holds = _together(batch)
            bodies = _bodies(batch)
            if not self._made:
                bodies.insert(0, e.SessionCreated(kind="system"))
            events = _events(self.own, self._seq, bodies, self._clock.now_ms())
            try:
                self._seq = await self._store.append(self.own, self._seq, events, holds, create=not self._made)
            except BudgetExceeded as error:
                batch = _fitting(batch, error)
            except BaseException:
                self.queue.extendleft(reversed(batch))
                raise
            else:
                self._made = True
                self._count(len(batch))
                for entry in batch:
                    if entry.done is None:
                        continue
                    if entry.done.cancelled():
                        assert type(entry.body) is e.StatelessCallStarted
                        self.put(_unsent(entry.body))
                    elif not entry.done.done():
                        entry.done.set_result(None)
                return

    def _count(self, written: int) -> None:
        self._written += written
        if self._written >= LEDGER_ENTRIES_MAX:
            self.over = True

    async def _find_out(self) -> None:
        """What of the last append was made, whose answer never came."""
        kept = {(type(entry.body), _name(entry.body)) for entry in self.queue}
        made: set[tuple[type, str]] = set()
        unsent: list[_Entry] = []
        try:
            async for event in self._store.read(self.own.session, self._seq):
                self._made, self._seq = True, event.seq
                body = event.body
                if type(body) is e.TariffRecorded:
                    made.add((e.TariffRecorded, body.tariff.id))
                elif type(body) is e.StatelessCalls:
                    self._count(len(body.started) + len(body.ended))
                    made.update((type(each), each.id) for each in body.ended)
                    for started in body.started:
                        made.add((e.StatelessCallStarted, started.id))
                        if (e.StatelessCallStarted, started.id) not in kept:
                            # Its caller was told that it is not recorded.
                            unsent.append(_unsent(started))
        except SessionMissing:
            if self._made:
                raise
        self.queue = deque([*unsent, *(one for one in self.queue if (type(one.body), _name(one.body)) not in made)])
        self._doubt = False


def _bodies(batch: Sequence[_Entry]) -> list[e.Body]:
    """Entries as events, as few as may be."""
    out: list[e.Body] = []
    for at in range(0, len(batch), LEDGER_CALLS_MAX):
        started: list[e.StatelessCallStarted] = []
        over: list[e.StatelessCallEnded] = []
        for entry in batch[at : at + LEDGER_CALLS_MAX]:
            body = entry.body
            if type(body) is e.StatelessCallStarted:
                started.append(body)
            elif type(body) is e.StatelessCallEnded:
                over.append(body)
            else:
                assert type(body) is e.TariffRecorded
                out.append(body)
        if started or over:
            out.append(e.StatelessCalls(started=tuple(started), ended=tuple(over)))
    return out


def _together(batch: Iterable[_Entry]) -> list[Hold]:
    """What entries move, as few holds: for each balance what is given back and spent, then what is set aside.

    Where these fit, those of each entry do.
    """
    add = EXACT.add
    given: dict[int, tuple[Sequence[Held], Decimal, Decimal]] = {}
    taken: dict[int, tuple[Covers, Decimal]] = {}
    ends: list[Hold] = []
    beginnings: list[Hold] = []
    # Calls of one payer are under the same budgets, the same object: their amounts add up before they are converted.
    for entry in batch:
        body, holds = entry.body, entry.holds
        if type(body) is e.StatelessCallEnded:
            charge, reserved = body.charge, entry.reserved
            if reserved is not None and charge is not None and (held := reserved.held):
                known = given.get(id(held))
                if known is None:
                    given[id(held)] = (held, reserved.amount, charge.amount)
                else:
                    given[id(held)] = (held, add(known[1], reserved.amount), add(known[2], charge.amount))
            if holds:
                ends += holds
        elif type(body) is e.StatelessCallStarted:
            covers = entry.covers
            if covers is not NO_COVERS and body.reserved is not None:
                before = taken.get(id(covers))
                amount = body.reserved.amount
                taken[id(covers)] = (covers, amount if before is None else add(before[1], amount))
            if holds:
                beginnings += holds
    for held, amount, spent in given.values():
        ends += settled(held, amount, spent)
    for covers, amount in taken.values():
        beginnings += covers.holds(amount)
    return [*_summed(ends), *_summed(beginnings)]


def _summed(holds: Sequence[Hold]) -> Iterable[Hold]:
    """One hold of each balance."""
    add = EXACT.add
    sums: dict[str, Hold] = {}
    for hold in holds:
        name = hold.budget
        so_far = sums.get(name)
        if so_far is None:
            sums[name] = hold
            continue
        limit = so_far.limit
        if hold.limit is not None and (limit is None or hold.limit < limit):
            limit = hold.limit
        held, spent = add(so_far.held, hold.held), add(so_far.spent, hold.spent)
        sums[name] = Hold(budget=name, held=held, spent=spent, limit=limit, expires_ms=so_far.expires_ms)
    return sums.values()


def _moved(entry: _Entry) -> list[Hold]:
    """How one entry moves balances."""
    return _together((entry,))


def _lost(started: e.StatelessCallStarted) -> _Entry:
    """The end of a call whose node was lost: it may have been sent."""
    charge = None if started.reserved is None else whole(started.reserved)
    end = e.StatelessCallEnded(id=started.id, code="node_lost", charge=charge)
    return _Entry(end, reserved=started.reserved, holds=ended(started.counted, None, unsent=False))


def _unsent(started: e.StatelessCallStarted) -> _Entry:
    """The end of a call that was recorded, and never sent."""
    charge = None if started.reserved is None else nothing(started.reserved)
    end = e.StatelessCallEnded(id=started.id, code="not_sent", charge=charge)
    return _Entry(end, reserved=started.reserved, holds=ended(started.counted, None, unsent=True))


def _fitting(batch: list[_Entry], error: BudgetExceeded) -> list[_Entry]:
    """The entries that a balance has room for, in their order; the others are refused, one at the least."""
    left = error.left
    kept: list[_Entry] = []
    refused: list[_Entry] = []
    for entry in batch:
        wanted = sum((hold.held + hold.spent for hold in _moved(entry) if hold.budget == error.budget), ZERO)
        if wanted > left and _limited(entry, error.budget):
            refused.append(entry)
        else:
            kept.append(entry)
            left -= wanted
    if not refused:
        # Others drew on it meanwhile.
        last = next(at for at in range(len(kept) - 1, -1, -1) if _limited(kept[at], error.budget))
        refused.append(kept.pop(last))
    for entry in refused:
        if entry.done is not None and not entry.done.done():
            entry.done.set_exception(BudgetExceeded(error.budget, error.left))
    return kept


def _limited(entry: _Entry, budget: str) -> bool:
    return any(hold.budget == budget and hold.limit is not None for hold in _moved(entry))


def _name(body: e.StatelessCallStarted | e.StatelessCallEnded | e.TariffRecorded) -> str:
    return body.tariff.id if isinstance(body, e.TariffRecorded) else body.id
