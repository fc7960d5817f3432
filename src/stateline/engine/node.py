"""A node: the workers of the sessions that this process owns, and the loops that keep it alive.

``work`` owns a session, ``perform`` makes its calls, ``live`` follows logs, ``place`` chooses
deployments, ``sessions`` loads folds; ``facade`` is what the API calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from stateline.core import events as e
from stateline.core.call_spans import ObserveCall
from stateline.core.errors import NotFound, Overloaded, StoreUnavailable
from stateline.core.ids import SYSTEM_TENANT, SessionRef, base32, session_id
from stateline.core.limits import (
    ACTIVE_TURNS_MAX,
    CLAIM_POLL_S,
    HANDOVER_ASK_S,
    HANDOVER_GRACE_S,
    LEASE_TTL_S,
    TOOL_OUTPUT_SHOWN_BYTES,
    TurnLimits,
)
from stateline.core.measures import Readings
from stateline.core.session import Session
from stateline.core.tools import Agent
from stateline.engine import correlation
from stateline.engine.health import Monitor
from stateline.engine.lease import Lease
from stateline.engine.ledger import Ledger
from stateline.engine.live import Live
from stateline.engine.meter import Meter
from stateline.engine.place import Catalogue, Slots
from stateline.engine.sessions import Sessions
from stateline.engine.tooling import Authority, Toolbox
from stateline.engine.work import Worker
from stateline.ports import (
    DUE_NOW_MS,
    EVERY_POST,
    NO_EVENTS,
    Clock,
    Fenced,
    HeadMoved,
    ModelClient,
    Observe,
    Ownership,
    Posted,
    Rules,
    SessionMissing,
    Store,
    Watch,
)

log = logging.getLogger("stateline.engine")


A = TypeVar("A", bound=Authority)
Source = Callable[[], Readings]


class Node:
    """Runs sessions over one store.

    Args:
        entropy: ``entropy(n)`` gives n random bytes, for ids.
        volatile: the node of ``store: false`` sessions, over a store in memory; it has durable=False.
        limits: of each turn; recorded with it.
        shared: other nodes use the store, and take over what this one owns once its lease is over.
        rules: the contracts that placements are held against; None: there are none.
        meter: the prices and budgets that calls are held against; None: there are none.
        agents: those that requests may name, by name.
        toolbox: what tool calls are made with; None: there are no tools.
    """

    def __init__(
        self,
        *,
        store: Store,
        client: ModelClient,
        catalogue: Catalogue,
        clock: Clock,
        entropy: Callable[[int], bytes],
        volatile: Node | None = None,
        limits: TurnLimits | None = None,
        durable: bool = True,
        shared: bool = False,
        rules: Rules | None = None,
        meter: Meter | None = None,
        toolbox: Toolbox | None = None,
        agents: Mapping[str, Agent] | None = None,
    ) -> None:
        self.store = store
        self.client = client
        self.catalogue = catalogue
        self.clock = clock
        self.entropy = entropy
        self.volatile = volatile
        self.durable = durable
        self.limits = limits or TurnLimits()
        self.shared = shared
        self.rules = rules
        self.meter = meter
        self.toolbox = toolbox
        self.observe: Observe | None = None
        self.turn_ended: Callable[[SessionRef], None] | None = None
        self.observe_call: ObserveCall | None = None
        self.sources: list[Source] = []
        self.lease_losses = 0
        self.authority: Authority | None = None
        self.agents: Mapping[str, Agent] = agents or {}
        self.owner = self._new_owner()
        self.ledger = Ledger(self)
        if volatile is not None:
            volatile.ledger = self.ledger
        self._lease = Lease(self)
        self.live = Live(store)
        # One deployment is one, whatever the sessions are kept in.
        self.monitor: Monitor = Monitor(clock.now_ms) if volatile is None else volatile.monitor
        self.slots: Slots = Slots() if volatile is None else volatile.slots
        self.sessions = Sessions(store)
        self.workers: dict[SessionRef, Worker] = {}
        self._recorded: Counter[type[e.Body]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._kick = asyncio.Event()
        self._stopping = False
        self._draining = False
        self._handing_over = False
        self._left: list[Ownership] = []
        self._lapsed = False
        self._meter_wanted = meter

    # -- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what is due: first of all, turns that were running when a process died."""
        await self._lease.begin()
        if self.durable and self.meter is not None:
            await self.ledger.announce(self.meter.tariffs)
        self._spawn(self._lease.keep(), "lease")
        self._spawn(self._claim(), "claim")
        if self.shared:
            self.store.on_due(self.kick)
        if self.volatile is not None:
            await self.volatile.start()

    def configure(
        self,
        catalogue: Catalogue,
        limits: TurnLimits,
        rules: Rules | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Place calls, and begin turns, by these from now on. Calls under way stay where they are.

        Prices and budgets count a moment later, once the tariffs are recorded.
        """
        self.catalogue = catalogue
        self.rules = rules
        self.limits = limits
        if self.durable and meter is not self.meter:
            self._spawn(self._configure_meter(meter), "meter")
        self.monitor.keep({each.name for name in catalogue.names() for each in catalogue.candidates(name)})
        if self.volatile is not None:
            self.volatile.configure(catalogue, limits, rules)

    def equip(self, agents: Mapping[str, Agent], toolbox: Toolbox | None) -> None:
        """Begin turns with these agents, and make tool calls with this, from now on."""
        self.agents, self.toolbox = agents, toolbox
        if self.volatile is not None:
            self.volatile.equip(agents, toolbox)

    @property
    def shown_bytes(self) -> int:
        """What models are shown of one tool's output, in turns that begin now."""
        return TOOL_OUTPUT_SHOWN_BYTES if self.toolbox is None else self.toolbox.shown_bytes

    async def _configure_meter(self, meter: Meter | None) -> None:
        self._meter_wanted = meter
        if meter is not None:
            await self.ledger.announce(meter.tariffs)
        if self._meter_wanted is meter:
            self.meter = meter
            if self.volatile is not None:
                self.volatile.meter = meter

    def drain(self) -> None:
        """Say that no more should be sent here; what comes all the same is still taken."""
        self._draining = True

    def forget(self, erased: Iterable[SessionRef]) -> None:
        """Keep nothing of sessions that the store has erased."""
        for ref in erased:
            self.sessions.forget(ref)

    async def hand_over(self) -> bool:
        """Leave what runs here to other nodes, at once, and claim no more. False where there are none.

        What comes all the same is still taken, and handed back by ``stop``. A call under way is lost
        with what it cost, unless it ends within HANDOVER_GRACE_S: a session that stood still for as long
        as calls may take would cost its user more.
        """
        if not self.shared or not self._lease.held.is_set():
            return False
        try:
            async with asyncio.timeout(HANDOVER_ASK_S):
                others = await self.store.renew(self.owner, LEASE_TTL_S)
        except (StoreUnavailable, TimeoutError):
            return False
        if not others:
            return False
        self._handing_over = True
        log.info("handing %d sessions over to %d other nodes", len(self.workers), others)
        await self._drained(HANDOVER_GRACE_S)
        for worker in list(self.workers.values()):
            worker.hand_back()
        await self._drained(grace_s=2.0)
        return True

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """Take no more turns, let running ones end for ``grace_s``, then hand them back."""
        self._stopping = True
        if self.volatile is not None:
            await self.volatile.stop(grace_s=grace_s)
        ends_s = asyncio.get_running_loop().time() + grace_s
        await self._drained(grace_s)
        # Whoever reads here what other nodes go on with reads it to its end, if that comes in this time.
        while self._handing_over and self.live.followed and asyncio.get_running_loop().time() < ends_s:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for worker in list(self.workers.values()):
            worker.hand_back()
        await self._drained(grace_s=2.0)
        for task in [*self._tasks, *(worker.task for worker in self.workers.values())]:
            task.cancel()
        if self.durable:
            await self.ledger.close()
        await self.live.stop()

    async def _drained(self, grace_s: float) -> None:
        tasks = [worker.task for worker in self.workers.values()]
        if tasks and grace_s > 0:
            await asyncio.wait(tasks, timeout=grace_s)

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- ownership -----------------------------------------------------------------------------------------

    async def _claim(self) -> None:
        """Claim due sessions: at the start, when kicked, and every so often."""
        while True:
            try:
                await self._lease.held.wait()
                if self._lapsed:
                    # Where the store was away from all, the others must say first what they left in order:
                    # what is found without its owner counts as crashed.
                    self._lapsed = False
                    await self.clock.sleep(CLAIM_POLL_S)
                # Before it looks: who kicks meanwhile has something that it may not find.
                self._kick.clear()
                room = 0 if self._leaving else ACTIVE_TURNS_MAX - len(self.workers)
                owned = await self.store.claim(self.owner, min(room, 64)) if room > 0 else []
                for own in owned:
                    await self._take_up(own)
                if len(owned) == 64:
                    continue
            except StoreUnavailable as error:
                log.warning("cannot claim sessions: %s", error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLAIM_POLL_S):
                    await self._kick.wait()

    @property
    def may_send(self) -> bool:
        """Whether what this node owns is still its own, as far as it can know."""
        return not self.shared or self._lease.left_s > 0

    @property
    def _leaving(self) -> bool:
        return self._stopping or self._handing_over

    def _new_owner(self) -> str:
        return base32(int.from_bytes(self.entropy(10), "big"), 16)

    async def lapse(self) -> None:
        """The lease may be over: stop all work, which others may have taken up already.

        From now on this is another node. What the old one owned is given back as soon as the store can be
        told, or else is free once its lease is over, for whoever claims it.
        """
        self._lapsed = True
        self.lease_losses += 1
        log.warning("the lease could not be renewed in time; %d turns end here", len(self.workers))
        self.owner = self._new_owner()
        stopped = list(self.workers.values())
        for worker in stopped:
            worker.task.cancel()
        if stopped:
            await asyncio.wait([worker.task for worker in stopped])
        for worker in stopped:
            worker.abandon(Overloaded("this node lost its lease; try again", retry_after_s=1.0))
            self.retired(worker)
            self.sessions.forget(worker.session.ref)
        self._left += [worker.own for worker in stopped]

    async def regained(self) -> None:
        """Give back what a lapsed lease left, so that it does not count as a crash of those sessions."""
        told = await asyncio.gather(*[self._give_back(own) for own in self._left])
        self._left = [own for own, done in zip(self._left, told, strict=True) if not done]

    async def _give_back(self, own: Ownership) -> bool:
        """Release a session that has no worker here, unless others have it; False if the store is away."""
        with contextlib.suppress(Fenced, SessionMissing):
            try:
                await self.store.release(own, EVERY_POST, DUE_NOW_MS)
            except StoreUnavailable:
                return False
        return True

    def kick(self) -> None:
        """Something was posted to a session that nobody may own."""
        self._kick.set()

    async def _take_up(self, own: Ownership) -> None:
        if self._leaving:
            # It was claimed while the stop began; others need not wait until this process is gone.
            await self._give_back(own)
            return
        if own.session.tenant == SYSTEM_TENANT:
            self._spawn(self._recover_book(own), "recover")
            return
        session: Session | None = None
        while session is None or own.session in self.workers:
            # A submission may adopt the session while it is read, under the very epoch of this claim.
            fenced = self.workers.get(own.session)
            if fenced is not None:
                # It was taken from this node as dead, and given back to it under a new epoch. Its first
                # append must be answered before: whoever submitted waits for that.
                await fenced.answered()
                if (fenced.own.owner, fenced.own.epoch) == (own.owner, own.epoch) and not fenced.task.done():
                    # It has the session by this claim. What it is appending could not be called back.
                    return
                fenced.task.cancel()
                await asyncio.wait([fenced.task])
            try:
                if fenced is not None:
                    # It may have taken some of what the claim found waiting.
                    waiting = await self.store.tail([Watch(session=own.session, after=NO_EVENTS, post=0)])
                    inbox = tuple(record for record in waiting if isinstance(record, Posted))
                    own = msgspec.structs.replace(own, inbox=inbox)
                session = await self.sessions.read(own.session)
            except SessionMissing:
                return
            except StoreUnavailable as error:
                # It is this node's all the same, and no other can have it while this node lives.
                log.warning("cannot take up session %s yet: %s", own.session.id, error.message)
                self.crashed(own, clean=not own.crashed)
                return
        if self._leaving or own.owner != self.owner:
            # The lease lapsed since it was claimed, or a stop began.
            await self._give_back(own)
        else:
            with correlation.working_for(session.turn if self.observe is not None else None):
                self.workers[own.session] = Worker(self, own, session)

    async def _recover_book(self, own: Ownership) -> None:
        """Settle what a lost node's ledger left open."""
        delay_s = 0.5
        while not self._stopping:
            with contextlib.suppress(StoreUnavailable):
                with contextlib.suppress(Fenced, HeadMoved, SessionMissing):
                    await self.ledger.recover(own)
                return
            await self.clock.sleep(delay_s)
            delay_s = min(delay_s * 2, 5.0)

    def adopt(
        self, session: Session, first: Sequence[e.Body], dedup: tuple[e.Dedup, ...] = (), *, create: bool = False
    ) -> Worker:
        """A worker that takes an idle session (or one to ``create``) by its first append.

        Raises:
            Overloaded: this node has as many turns as it may, or is stopping.
            HeadMoved: a worker of this node has it already.
        """
        if self._stopping:
            raise Overloaded("this node is shutting down; try again", retry_after_s=1.0)
        if self.shared and not self._lease.held.is_set():
            raise Overloaded("this node has no lease now; try again", retry_after_s=1.0)
        if len(self.workers) >= ACTIVE_TURNS_MAX:
            raise Overloaded(f"{ACTIVE_TURNS_MAX} turns are running on this node; try again", retry_after_s=1.0)
        if session.ref in self.workers:
            raise HeadMoved("another request has just taken this session")
        own = Ownership(session=session.ref, owner=self.owner, epoch=session.epoch + 1, head=session.seq)
        worker = self.workers[session.ref] = Worker(self, own, session, first, dedup, create=create)
        return worker

    async def idle(self, ref: SessionRef) -> Worker | None:
        """The worker with a running turn, or None once the session is free to adopt."""
        for _ in range(100):
            worker = self.workers.get(ref)
            if worker is None or worker.busy:
                return worker
            # It is releasing the session; that takes one commit.
            await asyncio.wait([worker.task])
        return self.workers.get(ref)

    def retired(self, worker: Worker) -> None:
        """A worker is done with its session."""
        if self.observe is not None:
            correlation.leave()
        ref = worker.session.ref
        if self.workers.get(ref) is worker:
            del self.workers[ref]
            self.live.disown(ref)
            if worker.session.turn is None:
                self.sessions.keep(worker.session)
            else:
                self.sessions.forget(ref)

    def crashed(self, own: Ownership, *, clean: bool) -> None:
        """A worker failed after it had recorded something: the session is taken up again from its log.

        ``clean`` where the session is not to blame, so that it is not quarantined for it.
        """
        self.sessions.forget(own.session)
        self._spawn(self._retake(own, clean=clean), "retake")

    async def _retake(self, own: Ownership, *, clean: bool) -> None:
        # A store that takes some writes and not others would be tried, and complained about, without rest.
        delay_s = 0.5 if clean else 0.05
        while not self._stopping and own.session not in self.workers:
            await self.clock.sleep(delay_s)
            delay_s = min(delay_s * 2, 5.0)
            try:
                session = await self.sessions.read(own.session)
                # Only a commit tells whether the store takes writes again.
                await self.store.renew(self.owner, LEASE_TTL_S)
                if own.session in self.workers:
                    return  # A submission has taken it meanwhile, under the same ownership.
                if own.owner != self.owner:
                    # Whoever this node was has lost it.
                    await self._give_back(own)
                    return
            except StoreUnavailable:
                continue
            except (SessionMissing, Fenced):
                return
            again = Ownership(
                session=own.session, owner=own.owner, epoch=own.epoch, head=session.seq, crashed=not clean
            )
            with correlation.working_for(session.turn if self.observe is not None else None):
                self.workers[own.session] = Worker(self, again, session)
            return

    # -- changes to a session from outside --------------------------------------------------------------------

    def new_ref(self, tenant: str) -> SessionRef:
        return SessionRef(tenant, session_id(self.clock.now_ms(), self.entropy(9)))

    async def amend(self, ref: SessionRef, body: e.Body) -> None:
        """Record one event that is no turn: at once where the session is idle, else between its steps.

        Raises:
            NotFound: no such session.
        """
        for _ in range(3):
            if await self.idle(ref) is not None:
                break
            session = await self.load(ref)
            if session.turn is not None:
                break  # Its owner records it; one that must be found yet first takes the turn up.
            if isinstance(body, e.CancelRequested):
                return  # The turn has ended meanwhile.
            try:
                await self.adopt(session, [body]).started
                return
            except (HeadMoved, Fenced):
                self.sessions.forget(ref)
        await self._post(ref, body)

    async def _post(self, ref: SessionRef, body: e.Body) -> None:
        """Through the inbox; returns when the owner has recorded it."""
        try:
            session = await self.sessions.read(ref)
        except SessionMissing:
            raise NotFound("it does not exist") from None
        event = e.Event(session=ref, seq=0, at_ms=self.clock.now_ms(), body=body)
        await self.store.post(ref, event)
        self.kick()
        async with contextlib.aclosing(self.live.follow(ref, session.seq)) as batches:
            async for events in batches:
                if any(_same(seen.body, body) for seen in events):
                    return

    async def post_turn(
        self, ref: SessionRef, body: e.TurnRequested, after: int, dedup: tuple[e.Dedup, ...] = ()
    ) -> e.InputRejected | None:
        """A turn for a session that another owner has; what it answered, None when the turn began."""
        event = e.Event(session=ref, seq=0, at_ms=self.clock.now_ms(), body=body, dedup=dedup)
        await self.store.post(ref, event, body.response_id)
        self.kick()
        async with contextlib.aclosing(self.live.follow(ref, after)) as batches:
            async for events in batches:
                for seen in events:
                    if isinstance(seen.body, e.InputRejected) and seen.body.response_id == body.response_id:
                        return seen.body
                    if isinstance(seen.body, e.TurnRequested) and seen.body.response_id == body.response_id:
                        return None
        return None

    async def load(self, ref: SessionRef) -> Session:
        """The session as of now.

        Raises:
            NotFound: it does not exist, was deleted, or is another tenant's.
        """
        worker = self.workers.get(ref)
        try:
            session = worker.session if worker is not None else await self.sessions.load(ref)
        except SessionMissing:
            raise NotFound("it does not exist") from None
        if session.deleted:
            raise NotFound("it was deleted")
        return session

    async def discard(self, ref: SessionRef) -> None:
        """Forget a session of ``store: false``, and end its turn if nobody waits for it any more."""
        worker = self.workers.get(ref)
        if worker is not None:
            if worker.busy:
                worker.task.cancel()
            await asyncio.wait([worker.task])
        self.sessions.forget(ref)
        await self.store.erase(ref)

    def discard_soon(self, ref: SessionRef) -> None:
        self._spawn(self.discard(ref), "discard")

    @property
    def metrics(self) -> dict[str, int]:
        """Recorded events by the name of their type."""
        return {kind.__name__: count for kind, count in self._recorded.items()}

    def show(self, source: Source) -> None:
        """Ask it as well for what is counted outside of the engine, whenever ``Engine.readings`` is asked."""
        self.sources.append(source)

    def trusting(self, authority: A) -> A:
        """Have it asked who may still ask for something; gives it back."""
        self.authority = authority
        if self.volatile is not None:
            self.volatile.trusting(authority)
        return authority

    def trace(self, observe: Observe, observe_call: ObserveCall | None = None) -> None:
        """Have them told of what sessions record from now on, and of bare calls."""
        self.observe, self.observe_call = observe, observe_call
        if self.volatile is not None:
            self.volatile.trace(observe)

    def count(self, before: Session, events: Sequence[e.Event]) -> None:
        """Count recorded events, for /metrics, and tell whoever observes them."""
        if self.observe is not None:
            self.observe(before, events)
            for event in events:
                # The task that records them is their worker's.
                if type(event.body) is e.TurnRequested:
                    correlation.enter_turn(event.body.response_id, event.body.traceparent)
                elif type(event.body) in e.TERMINAL:
                    correlation.leave()
        recorded, meter, turn_ended = self._recorded, self.meter, self.turn_ended
        for event in events:
            body = event.body
            recorded[type(body)] += 1
            if turn_ended is not None and type(body) in e.TERMINAL:
                turn_ended(event.session)
            if meter is not None and (type(body) is e.ModelCallFinished or type(body) is e.ModelCallFailed):
                meter.count(body.charge)


def _same(seen: e.Body, posted: e.Body) -> bool:
    if isinstance(posted, e.CancelRequested) and isinstance(seen, e.InputRejected):
        return seen.response_id == posted.response_id
    return seen == posted
