"""The owner of one session: it alone turns inputs into events and performs their effects.

A worker lives while its session has something to do. It folds, decides, appends, and only then
performs; a crash at any point is met by the next owner with the same fold and the same decide.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from stateline.core import events as e
from stateline.core.errors import StoreUnavailable
from stateline.core.ids import effect_key
from stateline.core.limits import BUDGET_TRIES_MAX, CHUNK_BYTES_MAX, CHUNK_INTERVAL_MS, CHUNK_INTERVAL_MS_MAX
from stateline.core.session import Session, fold, snapshot
from stateline.core.turn import (
    Act,
    CallModel,
    ListTools,
    StopCall,
    TakeUp,
    decide,
    lost_call,
    model_request,
    refusal,
    with_ids,
)
from stateline.engine import calling
from stateline.engine.health import Monitor
from stateline.engine.ledger import Ledger
from stateline.engine.live import Live
from stateline.engine.meter import Meter, Purse
from stateline.engine.paying import ENDINGS, closed, settlement
from stateline.engine.perform import RunningCall
from stateline.engine.place import Catalogue, Placement, Slots, fitted, purse_of
from stateline.engine.signal import Signal
from stateline.engine.story import Story
from stateline.engine.tooling import RunningTools, Tooled, decided, numbered
from stateline.ports import (
    DUE_NOW_MS,
    BudgetExceeded,
    Duplicate,
    Fenced,
    HeadMoved,
    Hold,
    ModelClient,
    Ownership,
    Posted,
    Rules,
    Store,
)

log = logging.getLogger("stateline.engine")


class Home(Tooled, Protocol):
    """What a worker needs of the node that runs it."""

    store: Store
    client: ModelClient
    catalogue: Catalogue
    live: Live
    monitor: Monitor
    slots: Slots
    rules: Rules | None
    meter: Meter | None
    ledger: Ledger
    durable: bool

    def retired(self, worker: Worker) -> None:
        """The worker is done with its session, whatever the reason."""
        ...

    def crashed(self, own: Ownership, *, clean: bool) -> None:
        """The worker failed in the middle, or may have; the session must be taken up again.

        ``clean``: not by its fault.
        """
        ...

    def count(self, before: Session, events: Sequence[e.Event]) -> None: ...


class Worker:
    """Runs one owned session until nothing is left to do.

    Args:
        own: the ownership; an adoption becomes real with the first append.
        session: the fold as of ``own.head``.
        first: what to append first, with the dedup keys of the first event.
        create: the session is made in the commit of its first append.
    """

    def __init__(
        self,
        home: Home,
        own: Ownership,
        session: Session,
        first: Sequence[e.Body] = (),
        dedup: tuple[e.Dedup, ...] = (),
        *,
        create: bool = False,
    ) -> None:
        self.session = session
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._home = home
        self._catalogue = home.catalogue
        self._own = own
        self._first = tuple(first)
        self._dedup = dedup
        self._create = create
        self._inbox: deque[Posted] = deque(own.inbox)
        self._seen = max((posted.post for posted in own.inbox), default=0)
        self._wake = Signal()
        self._alarm: asyncio.TimerHandle | None = None
        self._call: RunningCall | None = None
        self._to_perform: tuple[CallModel, Placement] | None = None
        self._purse: Purse | None = None
        self._tools: RunningTools | None = None
        self._to_do: Act | ListTools | TakeUp | None = None
        self._holds: list[Hold] = []
        self._next_chunk_s = 0.0
        self._handing_back = False
        self._released = False
        self._begun = False
        self._story = Story()
        self._answered: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._main())

    # -- from outside ----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a turn runs."""
        return self.session.turn is not None

    @property
    def own(self) -> Ownership:
        return self._own

    def deliver(self, posted: Posted) -> None:
        """An inbox row arrived (the tailer calls this)."""
        if posted.post > self._seen:
            self._seen = posted.post
            self._inbox.append(posted)
            self._wake.set()

    def hand_back(self) -> None:
        """Stop at the next step's edge and release the session, its turn unfinished."""
        self._handing_back = True
        self._wake.set()

    # -- the life of a worker ---------------------------------------------------------------------------

    async def _main(self) -> None:
        """Run; a defect here is a crash of this session's worker alone."""
        home = self._home
        try:
            await self._run()
        except Fenced:
            log.warning("session %s has another owner now; its work here ends", self.session.ref.id)
            self._fail(Fenced("another owner has the session now"))
            home.retired(self)
        except asyncio.CancelledError:
            home.retired(self)
            raise
        except Exception as error:
            if self._fail(error):
                # Nothing was recorded: the caller gets the error, and the session is as it was.
                home.retired(self)
                if isinstance(error, StoreUnavailable):
                    # Or it was, and the answer was lost: then the session is this node's, to be taken up.
                    home.crashed(self._own, clean=True)
                return
            # A store that is away is no defect of this session's: it is one line, and nothing to quarantine it for.
            away = isinstance(error, StoreUnavailable)
            if away:
                log.warning("work on session %s waits for the store: %s", self.session.ref.id, error)
            else:
                log.exception("the worker of session %s crashed", self.session.ref.id)
            home.retired(self)
            home.crashed(self._own, clean=away)
        finally:
            self._story.end(None)
            if self._alarm is not None:
                self._alarm.cancel()
            self._unplace()
            if self._call is not None:
                await self._call.stop()
            if self._tools is not None:
                await self._tools.stop()
            if not home.durable and (turn := self.session.turn) is not None and turn.call is not None:
                # Nobody takes it up; what it was sent for is charged all the same.
                home.ledger.end(
                    effect_key(self.session.ref.id, turn.number_in_session, turn.call.step), None, "cancelled"
                )

    def story(self, response_id: str) -> asyncio.Future[list[e.Event] | None] | None:
        """See ``Story.awaited``."""
        turn = self.session.turn
        if turn is None or turn.response_id != response_id or self.task.done():
            return None
        return self._story.awaited()

    def abandon(self, error: BaseException) -> None:
        """Its task was cancelled from outside: whoever waits for its first append hears why."""
        self._fail(error)

    def _fail(self, error: BaseException) -> bool:
        """Tell whoever still waits for the first append. False if that had been made."""
        if self._begun:
            return False
        if not self.started.done():
            self.started.set_exception(error)
        self._tell()
        return True

    def _begin(self) -> None:
        """The first append is made. Whoever waited for it may have gone: then the future is cancelled."""
        self._begun = True
        if not self.started.done():
            self.started.set_result(None)
        self._tell()

    def _tell(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    async def answered(self) -> None:
        """Return once its first append was answered, whether or not its submitter still waits for that."""
        if not (self._begun or self.task.done()):
            if self._answered is None:
                self._answered = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._answered, self.task], return_when=asyncio.FIRST_COMPLETED)

    async def _run(self) -> None:
        recorded: Sequence[e.Event] = ()
        if self._first:
            recorded = await self._record(self._first)
        else:
            self._begin()
            await self._resume()
        if self._released:
            self._home.retired(self)
            return
        self._home.live.own(self.session.ref, self.session.seq, self._seen, self.deliver, recorded)
        while True:
            while self._inbox and not self._call_done():
                await self._take_input()
            if self._released:
                self._home.retired(self)
                return
            # An answer that is here already is kept.
            if self._handing_back and not self._call_done() and not self._acting:
                await self._finish(handing_back=True)
                return
            if self.session.turn is None:
                if not self._inbox and await self._finish():
                    return
            elif self._call is not None:
                await self._tend_call(self._call)
                continue
            elif self._acting:
                await self._tend_tools()
                continue
            else:
                await self._wait_for_timer()
                continue
            if not self._inbox:
                # The release was refused: a row is on its way through the tailer.
                await self._sleep(None)

    @property
    def _acting(self) -> bool:
        """Whether tool calls are under way: a session is not given back in the middle of one."""
        return self._tools is not None and (self._tools.running or bool(self._tools.ended))

    def _call_done(self) -> bool:
        return self._call is not None and self._call.done

    async def _finish(self, *, handing_back: bool = False) -> bool:
        """Release the session; False if something was posted meanwhile."""
        if self._call is not None:
            await self._call.stop()
            self._call = None
        if not handing_back and self.session.worth_snapshot:
            await self._record([snapshot(self.session)])
            if self._released:
                self._home.retired(self)
                return True
        wake_at_ms = DUE_NOW_MS if self.session.turn is not None else None
        released = await self._home.store.release(self._own, self._seen, wake_at_ms)
        if released or handing_back:
            self._home.retired(self)
        return released

    # -- recording -----------------------------------------------------------------------------------------

    async def _record(self, bodies: Iterable[e.Body], post: int | None = None) -> Sequence[e.Event]:
        """Fold, decide and append what ``bodies`` and their consequences are; then perform. Returns what was appended.

        Placement is decided here, so that it is recorded with what asked for it. Where a budget has less left than
        a call reserves, all of it is decided again by what is left.
        """
        home = self._home
        given, tries, self._purse = tuple(bodies), 0, None
        while True:
            session, events, stop = self._decided(given, post)
            try:
                await self._append(session, events)
                break
            except BudgetExceeded as error:
                self._unplace()
                assert self._purse is not None
                tries += 1
                self._purse.found_short(error, tries, BUDGET_TRIES_MAX)
        self._dedup = ()
        before, self.session = self.session, session
        home.live.recorded(session.ref, events)
        self._story.tell(events)
        self._begin()
        home.count(before, events)
        if stop is not None and self._call is not None:
            await self._call.stop(stop.reason)
        if self._tools is not None or self._to_do is not None:
            await self._do_tools(stop)
        if self._to_perform is not None:
            self._perform(*self._to_perform)
        return events

    def _decided(self, bodies: Iterable[e.Body], post: int | None) -> tuple[Session, list[e.Event], StopCall | None]:
        """What ``bodies`` come to, with what they move of balances.

        Raises:
            BudgetExceeded, RateLimited: of the very first append, so that its submitter hears it.
        """
        now_ms = self._home.clock.now_ms()
        session = self.session
        events: list[e.Event] = []
        queue = deque(bodies)
        stop: StopCall | None = None
        self._holds, self._to_do = [], None
        while queue:
            body = queue.popleft()
            if type(body) in ENDINGS:
                body = closed(session, body, self._home.meter)
                self._holds += settlement(session, body)
            event = e.Event(
                session=session.ref,
                seq=session.seq + 1,
                at_ms=now_ms,
                body=body,
                epoch=self._own.epoch,
                post=None if events else post,
                dedup=() if events else self._dedup,
            )
            session = fold(session, event)
            events.append(event)
            decision = decide(session, event)
            queue.extendleft(reversed(decision.events))
            for effect in decision.effects:
                if type(effect) is CallModel:
                    queue.appendleft(self._place(session, effect))
                elif type(effect) is StopCall:
                    stop = effect
                elif type(effect) is Act:
                    self._to_do = effect
                    queue.extendleft(reversed(list(decided(self._home, session, effect))))
                else:
                    assert type(effect) is ListTools or type(effect) is TakeUp
                    self._to_do = effect
        return session, events, stop

    async def _append(self, session: Session, events: Sequence[e.Event]) -> None:
        """Append, and give the session back with the same commit where nothing is left to do."""
        store, head, live = self._home.store, self.session.seq, self._home.live
        create, holds = self._create, self._holds
        if not self._home.durable:
            # What is kept in memory alone leaves the balances to the ledger.
            await self._home.ledger.keep(self.session, events, holds, metered=self._home.meter is not None)
            holds = []
        if session.turn is None and not self._inbox and not session.worth_snapshot:
            # The tailer is told first: an inbox that is nobody's would have to be looked for on the disk.
            live.disown(session.ref, appending=True)
            try:
                await store.append(self._own, head, events, holds, create=create, release=True)
            except HeadMoved:
                # Something was posted meanwhile, or the head did move, which the next try finds out.
                if self._begun:
                    live.own(session.ref, head, self._seen, self.deliver)
            else:
                self._create = False
                self._released = True
                return
        await store.append(self._own, head, events, holds, create=create)
        self._create = False

    def _place(self, session: Session, effect: CallModel) -> e.Body:
        """See ``calling.placed``."""
        self._purse = self._purse or purse_of(self._home.meter, session)
        placed = calling.placed(self._home, session, effect, self._purse, (self._catalogue, self._begun))
        if placed.placement is not None:
            self._to_perform = (effect, placed.placement)
            self._holds += placed.holds
        return placed.body

    async def _do_tools(self, stop: StopCall | None) -> None:
        """Begin what was decided of tools, which is durable now; or end it."""
        todo, self._to_do = self._to_do, None
        if self._tools is not None and stop is not None:
            await self._tools.stop(stop.reason)
        if self.session.turn is None and self._tools is not None:
            # What the turn did not wait for: a list of tools that it was cancelled before.
            await self._tools.stop()
            self._tools = None
        elif todo is not None and self.session.turn is not None:
            if self._tools is None or type(todo) is ListTools:
                self._tools = RunningTools(self._home, self.session, self._wake.set)
            if type(todo) is ListTools:
                self._tools.list()
            else:
                self._tools.begin(self.session, found_lost=type(todo) is TakeUp)

    def _unplace(self) -> None:
        """What was placed does not go out after all."""
        if self._to_perform is not None and self._to_perform[1].permit is not None:
            self._to_perform[1].permit.end("unknown")
        self._to_perform = None

    def _perform(self, effect: CallModel, placement: Placement) -> None:
        self._to_perform = None
        turn, deployment = self.session.turn, placement.deployment
        assert turn is not None
        assert turn.call is not None
        assert deployment is not None
        request = fitted(model_request(self.session, effect, stream=turn.call.stream), deployment, turn.call.reserved)
        self._next_chunk_s = 0.0
        home = self._home
        self._call = RunningCall(
            home.client,
            home.slots.of(deployment),
            deployment,
            request,
            session=self.session,
            changed=self._wake.set,
            permit=placement.permit,
        )

    # -- resuming --------------------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Go on where the last owner stopped."""
        turn = self.session.turn
        if turn is None:
            return
        chunks: list[e.Chunk] = []
        if turn.call is not None:
            async for event in self._home.store.read(self.session.ref, turn.call.seq, chunks=True):
                if type(event.body) is e.Chunk:
                    chunks.append(event.body)
                    # Other events may stand between chunks; those were folded when it was loaded.
                    if event.seq > self.session.seq:
                        self.session = fold(self.session, event)
        log.info("resuming session %s turn %d at step %d", self.session.ref.id, turn.number_in_session, turn.steps)
        bodies: list[e.Body] = [
            e.TurnResumed(owner=self._own.owner, clean=not self._own.crashed, progress=bool(chunks))
        ]
        if turn.call is not None:
            bodies.append(lost_call(self.session, [chunk.ops for chunk in chunks]))
        await self._record(bodies)

    # -- inputs --------------------------------------------------------------------------------------------------

    async def _take_input(self) -> None:
        """Turn the next inbox row into events; a cancel goes before the others."""
        at = next((i for i, posted in enumerate(self._inbox) if isinstance(posted.event.body, e.CancelRequested)), 0)
        posted = self._inbox[at]
        del self._inbox[at]
        body = self._admitted(posted.event.body)
        if isinstance(body, e.TurnRequested):
            # A client's retry finds a turn that came through the inbox as it finds any other.
            self._dedup = posted.event.dedup
        try:
            await self._record([body], post=posted.post)
        except Duplicate:
            self._dedup = ()
            self._unplace()
            response_id = str(getattr(body, "response_id", ""))
            rejected = e.InputRejected(response_id=response_id, code="duplicate", message="it was recorded already")
            await self._record([rejected], post=posted.post)

    def _admitted(self, body: e.Body) -> e.Body:
        """The event that an input becomes, given what the session is now."""
        session = self.session
        if isinstance(body, e.TurnRequested):
            rejected = refusal(session, body)
            if rejected is not None:
                return rejected
            turn = session.turns + 1
            return msgspec.structs.replace(body, turn=turn, input=with_ids(body.input, session, turn))
        if isinstance(body, e.CancelRequested):
            turn_now = session.turn
            if turn_now is None or turn_now.response_id != body.response_id:
                return e.InputRejected(response_id=body.response_id, code="already_ended", message="it has ended")
        return body

    # -- the call in flight -----------------------------------------------------------------------------------------

    async def _tend_call(self, call: RunningCall) -> None:
        """Write the next chunk, or the end of the call, or wait for either."""
        if call.done:
            call.check()
            self._call = None
            chunk = call.chunk()
            ending = calling.told_of(self._home, self.session, call.failure, call.ending())
            await self._record([ending] if chunk is None else [chunk, ending])
            return
        turn = self.session.turn
        assert turn is not None
        left_s = (turn.deadline_ms - self._home.clock.now_ms()) / 1000
        if left_s <= 0 and not turn.overdue:
            await self._record([e.DeadlinePassed(turn=turn.number_in_session)])
        elif call.stream and call.builder.pending:
            await self._write_chunk(call)
        else:
            await self._sleep(max(left_s, 0.01))

    async def _tend_tools(self) -> None:
        """Record what has ended of the tool calls, or wait for it."""
        tools, turn = self._tools, self.session.turn
        assert tools is not None and turn is not None  # noqa: PT018
        tools.check()
        ended = tools.take()
        left_s = (turn.deadline_ms - self._home.clock.now_ms()) / 1000
        if ended:
            await self._record(numbered(turn, ended))
        elif left_s <= 0 and not turn.overdue:
            await self._record([e.DeadlinePassed(turn=turn.number_in_session)])
        else:
            await self._sleep(max(left_s, 0.01))

    async def _write_chunk(self, call: RunningCall) -> None:
        """Write what the model said since the last chunk, or wait until the next one is due.

        The call goes on meanwhile. The slower the store commits, the longer the next chunk waits, so
        that many streams do not make a backlog worse.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s < self._next_chunk_s and call.builder.pending_chars <= CHUNK_BYTES_MAX:
            await self._sleep(self._next_chunk_s - now_s)
            return
        chunk = call.chunk()
        if chunk is not None:
            await self._record([chunk])
        interval_ms = min(max(CHUNK_INTERVAL_MS, 2000 * (loop.time() - now_s)), CHUNK_INTERVAL_MS_MAX)
        self._next_chunk_s = now_s + interval_ms / 1000

    async def _wait_for_timer(self) -> None:
        """A turn without a call waits for its timer (or was resumed in a state that has none)."""
        turn = self.session.turn
        assert turn is not None
        now_ms = self._home.clock.now_ms()
        if now_ms >= turn.deadline_ms:
            await self._record([e.DeadlinePassed(turn=turn.number_in_session)])
        elif turn.due_ms is not None and now_ms >= turn.due_ms:
            await self._record([e.TimerFired(turn=turn.number_in_session, step=turn.steps)])
        else:
            due_ms = turn.deadline_ms if turn.due_ms is None else min(turn.due_ms, turn.deadline_ms)
            await self._sleep((due_ms - now_ms) / 1000)

    async def _sleep(self, seconds: float | None) -> None:
        """Until something happens, ``seconds`` at the longest (or some time sooner)."""
        if seconds is not None:
            loop = asyncio.get_running_loop()
            at_s = loop.time() + seconds
            # An alarm that rings earlier does as well, so a turn's deadline is set but once.
            if self._alarm is None or at_s < self._alarm.when():
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = loop.call_at(at_s, self._ring)
        await self._wake.wait()

    def _ring(self) -> None:
        self._alarm = None
        self._wake.set()
