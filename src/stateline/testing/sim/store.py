"""One node's connection to the simulated database: the Store port, with all that may happen on the way.

A request is applied some time after it was made and answered some time after that; requests of one
session keep their order, others do not. Everything that goes wrong is decided in ``_arrive``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from stateline.core.errors import StatelineError, StoreUnavailable
from stateline.core.events import Chunk, Event
from stateline.core.ids import SessionRef
from stateline.ports import Balance, Duplicate, Hold, Ownership, Posted, Watch
from stateline.testing.sim.audit import Audit
from stateline.testing.sim.database import Database
from stateline.testing.sim.faults import Fault, Faults
from stateline.testing.sim.loop import Host, SimLoop, ring

_T = TypeVar("_T")
REWIND_SHARE = 0.04
"""Tails that begin again with what was given before."""
POLL_S = 1.0
"""Tails that nobody wakes look again by themselves, at the latest after this."""
NEWS_S_MAX = 0.25
"""Who follows a log hears of what is new within this, as with a store that is asked so often."""


class World(Protocol):
    """What happens to a node as a whole."""

    loop: SimLoop
    outside: Host
    silent: bool
    """While True nobody who follows a log is woken."""

    def crash(self, host: Host) -> None: ...

    def stall(self, host: Host) -> float:
        """Stand still for longer than a lease; returns when it goes on."""
        ...

    def lose_renewals(self, host: Host) -> None: ...

    def rewind(self) -> None:
        """All tails give again what they gave last."""
        ...


_Ask = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]
"""One request: what to do, with which values, and who waits for the outcome."""


class _Commit:
    """The requests that travel together. ``places`` are those of its transitions."""

    __slots__ = ("appends", "asks", "claims", "places", "session", "tick")

    def __init__(self, session: SessionRef | None, tick: int, ask: _Ask, places: tuple[int, ...]) -> None:
        self.session = session
        self.tick = tick
        self.asks = [ask]
        self.places = places
        self.appends = False
        self.claims = False


class _Waiter:
    __slots__ = ("sessions", "told", "wake")

    def __init__(self, sessions: frozenset[SessionRef], wake: asyncio.Future[None]) -> None:
        self.sessions = sessions
        self.wake = wake
        self.told = False


class SimStore:
    """A ``stateline.ports.Store`` for one start of one node.

    Attributes:
        cut: while True nothing reaches the database: a network that is down.
        renewals_lost: while True its renewals do not arrive.
        rewind: the next tail begins again with what it gave before.
        waiting: tails that nobody has woken yet.
    """

    def __init__(self, world: World, database: Database, audit: Audit, faults: Faults, host: Host) -> None:
        self.cut = False
        self.renewals_lost = False
        self.rewind = False
        self._world = world
        self._database = database
        self._audit = audit
        self._faults = faults
        self._random = faults.random
        self._host = host
        self._loop = world.loop
        self._open: dict[SessionRef | None, _Commit] = {}
        self._last_s: dict[SessionRef, float] = {}
        self.waiting: list[_Waiter] = []
        self._polling = False

    # -- the port ------------------------------------------------------------------------------------

    def create(self, session: SessionRef, parent: tuple[SessionRef, int] | None = None) -> Coroutine[Any, Any, None]:
        return self._ask(session, self._database.create, (session, parent))

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
        places = self._audit.attempted(own.session, events)
        values = (own, expected_seq, events, create, release)
        apply = partial(self._database.append, holds=holds) if holds else self._database.append
        return self._ask(own.session, apply, values, places, appends=True)

    async def balances(self, names: Sequence[str]) -> dict[str, Balance]:
        await self._look()
        return {name: self._database.balances[name] for name in names if name in self._database.balances}

    async def read(
        self,
        session: SessionRef,
        after: int = 0,
        *,
        until: int | None = None,
        chunks: bool = False,
        snapshot: bool = False,
    ) -> AsyncIterator[Event]:
        await self._look()
        for event in self._database.read(session, after, until, snapshot):
            if chunks or type(event.body) is not Chunk:
                yield event

    async def tail(self, watched: Sequence[Watch], wait_s: float = 0.0) -> list[Event | Posted]:
        loop = self._loop
        if self.cut:
            await loop.pause(POLL_S)
            raise StoreUnavailable("the network is down")
        if self.rewind or (self._faults.rate and self._random.random() < REWIND_SHARE):
            self.rewind = False
            watched = [_before(watch) for watch in watched]
        out = self._database.since(watched)
        if out or wait_s <= 0:
            return out
        wake: asyncio.Future[None] = loop.create_future()
        if not self._polling:
            self._polling = True
            loop.at(loop.now_s + POLL_S, self._poll, None)
        waiter = _Waiter(frozenset([watch.session for watch in watched]), wake)
        self.waiting.append(waiter)
        try:
            await wake
        finally:
            self.waiting.remove(waiter)
        return self._database.since(watched)

    def post(self, session: SessionRef, event: Event, dedup_key: str | None = None) -> Coroutine[Any, Any, None]:
        return self._ask(session, self._database.post, (session, event, dedup_key))

    async def find_duplicate(self, tenant: str, dedup_key: str) -> Duplicate | None:
        await self._look()
        return self._database.find_duplicate(tenant, dedup_key)

    async def sessions(self, tenant: str, before: str | None, limit: int) -> list[str]:
        await self._look()
        return self._database.sessions(tenant, before, limit)

    async def claim(self, node: str, limit: int) -> list[Ownership]:
        return await self._ask(None, self._database.claim, (node, limit), claims=True)

    def renew(self, node: str, ttl_s: float) -> Coroutine[Any, Any, int]:
        return self._ask(None, self._renew, (node, ttl_s))

    def _renew(self, node: str, ttl_s: float) -> int:
        return 0 if self.renewals_lost else self._database.renew(node, ttl_s)

    def on_due(self, call: Callable[[], None]) -> None:
        """Nobody is told: polling is the truth."""

    def release(self, own: Ownership, seen: int, wake_at_ms: int | None = None) -> Coroutine[Any, Any, bool]:
        return self._ask(own.session, self._database.release, (own, seen, wake_at_ms))

    async def erase(self, session: SessionRef) -> None:
        await self._ask(session, self._database.erase, (session,))

    async def close(self) -> None:
        """There is nothing to release."""

    # -- those who wait for news ---------------------------------------------------------------------------

    def wake(self, session: SessionRef) -> None:
        """Something of ``session`` changed: whoever follows it looks a little later, once for several."""
        for waiter in self.waiting:
            if not waiter.told and session in waiter.sessions:
                waiter.told = True
                self._loop.at(self._loop.now_s + self._random.random() * NEWS_S_MAX, ring, waiter.wake)

    def _poll(self, _: None) -> None:
        """All tails look by themselves, told or not."""
        self._polling = bool(self.waiting) and self._host.alive
        for waiter in self.waiting:
            ring(waiter.wake)
        if self._polling:
            self._loop.at(self._loop.now_s + POLL_S, self._poll, None)

    # -- requests on their way -----------------------------------------------------------------------------

    async def _look(self) -> None:
        """A read's way: mostly short, at times long, at times cut."""
        draw = self._random.random()
        if draw < 0.4 and not self.cut:
            return
        delay_s = draw / 200
        if self._faults.rate and draw > 1 - self._faults.rate:
            delay_s = self._random.random() * 6
        if self._faults.rate:
            self._audit.excuse(self._host)
        await self._loop.pause(delay_s)
        if self.cut or (self._faults.rate and self._random.random() < 3 * self._faults.rate):
            raise StoreUnavailable("the connection was cut while reading")

    def _ask(
        self,
        session: SessionRef | None,
        apply: Callable[..., _T],
        values: tuple[Any, ...],
        places: tuple[int, ...] = (),
        *,
        appends: bool = False,
        claims: bool = False,
    ) -> Coroutine[Any, Any, _T]:
        """Send a request now; what is returned waits for its answer.

        It is a future, which is awaited as a coroutine is, and costs half.
        """
        loop = self._loop
        answer: asyncio.Future[_T] = asyncio.Future(loop=loop)
        ask = (apply, values, answer)
        if session is None:
            draw = self._random.random()
            commit = _Commit(None, 0, ask, places)
            commit.claims = claims
            loop.at(loop.now_s + draw * draw * 0.012, self._arrive, commit)
            return answer  # pyright: ignore[reportReturnType]
        commit = self._open.get(session)
        if commit is not None and commit.tick == loop.tick:
            commit.asks.append(ask)
            commit.places += places
            commit.appends |= appends
            return answer  # pyright: ignore[reportReturnType]
        commit = self._open[session] = _Commit(session, loop.tick, ask, places)
        commit.appends = appends
        draw = self._random.random()
        at_s = loop.now_s + draw * draw * 0.012
        # A little past the one before, as one connection would have it.
        last_s = self._last_s.get(session)
        if last_s is not None and last_s >= at_s:
            at_s = last_s + 1e-6
        self._last_s[session] = at_s
        loop.at(at_s, self._arrive, commit)
        return answer  # pyright: ignore[reportReturnType]

    def _arrive(self, commit: _Commit) -> None:
        """The requests of one commit have come to the database, or not."""
        host, random = self._host, self._random
        if not host.alive:
            if random.random() < 0.5:
                self._apply(commit)
            return
        if host.stalled and random.random() < 0.5:
            # It was about to be sent.
            self._again(commit, 1.0)
            return
        if self.cut:
            self._fail(commit, 1.0)
            return
        fault = self._faults.drawn(commit.places, commit.appends)
        if fault == "stolen" and not self._stealable(commit.session):
            fault = None
        if fault is None:
            if not commit.claims:
                _serve(commit)
                return
            outcomes = self._apply(commit)
            if outcomes != [[]] and random.random() < 20 * self._faults.rate:
                # Claims that find something are few, so chance alone would seldom meet one.
                self._audit.excuse(host)
                self._undo(outcomes)
                self._fail(commit, random.random())
            else:
                self._answer(commit, outcomes)
            return
        self._faults.note(fault, commit.places)
        self._audit.excuse(host)
        match fault:
            case "refused":
                self._fail(commit, 0.0)
            case "unknown_lost":
                self._fail(commit, random.random() * 4)
            case "unknown_done":
                outcomes = self._apply(commit)
                if commit.claims:
                    self._undo(outcomes)
                self._fail(commit, random.random() * 4)
            case "slow":
                self._again(commit, 0.5 + random.random() * 8)
            case "crash_before":
                self._world.crash(host)
            case "stall_before":
                self._again(commit, self._world.stall(host) - self._loop.now_s)
            case _:
                self._strike_done(commit, fault)

    def _strike_done(self, commit: _Commit, fault: Fault) -> None:
        """Faults that meet a commit which reaches the database."""
        host = self._host
        if fault == "stolen" and commit.session is not None:
            self._database.steal(commit.session)
        elif fault == "wake_late":
            self._world.silent = True
        outcomes = self._apply(commit)
        self._world.silent = False
        match fault:
            case "crash_after":
                self._world.crash(host)
                return
            case "stall_after":
                self._world.stall(host)
            case "delivered_twice":
                self._loop.at(self._loop.now_s + self._random.random() * 0.2, self._apply, commit)
            case "renew_lost":
                self._world.lose_renewals(host)
            case "wake_twice":
                self._world.rewind()
            case _:
                pass
        self._answer(commit, outcomes)

    def _stealable(self, session: SessionRef | None) -> bool:
        """A session that nobody else knows cannot be stolen."""
        row = self._database.rows.get(session) if session is not None else None
        return row is not None and (row.owner is not None or row.head > row.start)

    def _again(self, commit: _Commit, delay_s: float) -> None:
        """It arrives later; what the session asks after it, later still."""
        at_s = self._loop.now_s + delay_s
        if commit.session is not None:
            self._last_s[commit.session] = at_s
        self._loop.at(at_s, self._arrive, commit)

    def _apply(self, commit: _Commit) -> list[object]:
        return [_outcome(apply, values) for apply, values, _ in commit.asks]

    def _undo(self, outcomes: list[object]) -> None:
        """A store finds out what an unheard claim took, and gives it back, before it fails.

        Nobody else could: the node does not know what it owns, and it lives.
        """
        for owned in outcomes:
            if isinstance(owned, list):
                for own in cast("list[Ownership]", owned):
                    self._database.steal(own.session)

    def _fail(self, commit: _Commit, delay_s: float) -> None:
        error = StoreUnavailable("the commit was cut off; whether it was made is not known")
        self._loop.at(self._loop.now_s + delay_s, self._failed, (commit, error))

    def _failed(self, what: tuple[_Commit, StoreUnavailable]) -> None:
        commit, error = what
        self._answer(commit, [error] * len(commit.asks))

    def _answer(self, commit: _Commit, outcomes: list[object]) -> None:
        if self._host.alive:
            for (_, _, answer), outcome in zip(commit.asks, outcomes, strict=True):
                _tell(answer, outcome)


def _serve(commit: _Commit) -> None:
    """Make a commit that nothing happens to, and answer it."""
    for apply, values, answer in commit.asks:
        _tell(answer, _outcome(apply, values))


def _outcome(apply: Callable[..., object], values: tuple[Any, ...]) -> object:
    try:
        return apply(*values)
    except StatelineError as error:
        return error


def _tell(answer: asyncio.Future[Any], outcome: object) -> None:
    if answer.done():
        return
    if isinstance(outcome, StatelineError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _before(watch: Watch) -> Watch:
    post = None if watch.post is None else max(watch.post - 2, 0)
    return Watch(session=watch.session, after=max(watch.after - 3, 0), post=post)
