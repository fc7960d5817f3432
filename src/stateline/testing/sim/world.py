"""The world of one run: nodes that start, stall and die, what connects clients to them, and the end.

``World.run`` works until enough steps were made, stops all faults, lets time pass until everything is
at rest, and has the whole judged.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from stateline.core.errors import StoreUnavailable
from stateline.core.ids import SessionRef
from stateline.core.limits import LEASE_TTL_S, TurnLimits
from stateline.engine import Engine
from stateline.ports import Deployment, Ownership
from stateline.testing.sim.audit import EXCUSED_S, Audit
from stateline.testing.sim.database import Database
from stateline.testing.sim.faults import Faults
from stateline.testing.sim.loop import Host, SimLoop
from stateline.testing.sim.model import GONE, MODELS, SimModel
from stateline.testing.sim.money import has_money, meter_of
from stateline.testing.sim.store import SimStore

_T = TypeVar("_T")
START_MS = 1_800_000_000_000
NODES = 3
PATIENCE_S = 1_800.0
"""No request of a client takes longer than this, whatever happens."""
REST_S_MAX = 3_600.0
"""After the last fault everything comes to rest within this."""


class ConnectionLost(Exception):
    """The node that a client spoke to is gone, or is not there."""


class SimClock:
    """A ``stateline.ports.Clock`` of the simulated time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return START_MS + int(self._loop.now_s * 1000)

    async def sleep(self, seconds: float) -> None:
        await self._loop.pause(seconds)


class SimCatalogue:
    """Two deployments of each model; ``GONE`` is not served by every node."""

    def __init__(self, with_gone: bool) -> None:
        models = (*MODELS, GONE) if with_gone else MODELS
        self._by_model = {
            model: tuple(
                Deployment(
                    name=f"{model}-{at}",
                    model=model,
                    cloud=f"cloud{at}",
                    format="openai-chat",
                    base_url="",
                    upstream_model=model,
                    timeout_s=30.0,
                    max_concurrency=8 if at else None,
                )
                for at in range(2)
            )
            for model in models
        }

    def candidates(self, model: str) -> tuple[Deployment, ...]:
        return self._by_model.get(model, ())

    def names(self) -> tuple[str, ...]:
        return tuple(self._by_model)

    def all(self) -> list[Deployment]:
        return [one for each in self._by_model.values() for one in each]


class SimEngine(Engine):
    """The real engine, which tells the audit why a worker of it crashed."""

    audit: Audit

    def crashed(self, own: Ownership, *, clean: bool) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, StoreUnavailable):
            self.audit.died(f"the worker of session {own.session.id}", error)
        super().crashed(own, clean=clean)


class Slot:
    """A place where a node runs, one start after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.starts = 0
        self.host: Host | None = None
        self.store: SimStore | None = None
        self.engine: Engine | None = None
        self.open: dict[asyncio.Future[Any], None] = {}
        """What clients wait for on this start."""


class World:
    """Everything that one seed makes."""

    def __init__(self, seed: int, *, calm: bool) -> None:
        self.random = Random(seed)  # noqa: S311 - the seed of a simulation, no secret
        self.loop = SimLoop()
        self.loop.set_exception_handler(self._loose_end)
        self.outside = Host("world")
        self.silent = False
        self.calm = calm
        self.closing = False
        self.audit = Audit(self.loop)
        self.faults = Faults(seed, self.random, 0.0 if calm else self.random.choice((0.002, 0.006, 0.015)))
        self.clock = SimClock(self.loop)
        self.database = Database(self.clock.now_ms, self.audit, self._changed)
        self.model = SimModel(self.loop, self.audit, self.random)
        self.slots = [Slot(f"node{at}") for at in range(NODES)]
        self.hosts: list[Host] = [self.outside]
        self.meter = meter_of(seed, SimCatalogue(with_gone=True).all()) if has_money(seed) else None
        self.limits = self._limits()

    def _limits(self) -> TurnLimits:
        draw = self.random.random
        return TurnLimits(
            wall_time_ms_max=self.random.choice((8_000, 40_000, 120_000)),
            steps_max=self.random.choice((3, 64)) if draw() < 0.3 else 12,
            turn_tokens_max=60 if draw() < 0.1 else 2_000_000,
            output_bytes_max=400 if draw() < 0.1 else 1_000_000,
            model_failures_max=self.random.choice((2, 3, 5)),
        )

    def _changed(self, session: SessionRef) -> None:
        if self.silent:
            return
        for slot in self.slots:
            store = slot.store
            if store is not None and store.waiting:
                store.wake(session)

    def rewind(self) -> None:
        for slot in self.slots:
            if slot.store is not None:
                slot.store.rewind = True

    def _loose_end(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A task or a future ended with an error that nobody took."""
        error = context.get("exception")
        if error is not None and not isinstance(error, StoreUnavailable | ConnectionLost):
            self.audit.died(str(context.get("message")), error)

    # -- nodes --------------------------------------------------------------------------------------

    def start(self, slot: Slot) -> None:
        """A new process, with a new owner id and nothing in its memory."""
        slot.starts += 1
        host = slot.host = Host(f"{slot.name}.{slot.starts}")
        self.hosts.append(host)
        slot.store = SimStore(self, self.database, self.audit, self.faults, host)
        self.loop.spawn(host, self._boot(slot, host, slot.store), "boot")

    async def _boot(self, slot: Slot, host: Host, store: SimStore) -> None:
        engine = SimEngine(
            store=store,
            client=self.model,
            catalogue=SimCatalogue(with_gone=self.calm or self.random.random() < 0.6),
            clock=self.clock,
            entropy=self.random.randbytes,
            limits=self.limits,
            meter=self.meter,
            shared=True,
        )
        engine.audit = self.audit
        self.audit.joined(engine.owner, host)
        try:
            await engine.start()
        except StoreUnavailable:
            self.crash(host)
            return
        slot.engine = engine

    def crash(self, host: Host) -> None:
        """All tasks of the node vanish where they stand; it starts again some time later."""
        if not host.alive:
            return
        host.die()
        for slot in self.slots:
            if slot.host is host:
                self._down(slot)

    def _down(self, slot: Slot) -> None:
        slot.host = slot.store = slot.engine = None
        waiting, slot.open = list(slot.open), {}
        for answer in waiting:
            if not answer.done():
                answer.set_exception(ConnectionLost(slot.name))
        down_s = 0.1 + self.random.random() ** 2 * 25
        self.loop.at(self.loop.now_s + down_s, self.start, slot)

    def stall(self, host: Host) -> float:
        until_s = self.loop.now_s + LEASE_TTL_S * (1.05 + self.random.random())
        if not host.stalled and host.alive:
            host.stall()
            self.audit.excuse(host, until_s - self.loop.now_s + EXCUSED_S)
            self.loop.at(until_s, self.loop.resume, host)
        return until_s

    def lose_renewals(self, host: Host) -> None:
        for slot in self.slots:
            if slot.host is host and slot.store is not None:
                slot.store.renewals_lost = True
                lost_s = LEASE_TTL_S * (1.1 + self.random.random())
                self.audit.excuse(host, lost_s + EXCUSED_S)
                self.loop.at(self.loop.now_s + lost_s, _renewals_arrive, slot.store)

    def cut(self, slot: Slot) -> None:
        """The node's network is down for some seconds."""
        store = slot.store
        if store is not None and slot.host is not None:
            store.cut = True
            down_s = self.random.random() * 20
            self.audit.excuse(slot.host, down_s + EXCUSED_S)
            self.loop.at(self.loop.now_s + down_s, _network_up, store)

    def hand_over(self, slot: Slot) -> None:
        """The node is stopped in order, and starts again."""
        engine, host = slot.engine, slot.host
        if engine is None or host is None:
            return

        async def stop() -> None:
            await engine.stop(grace_s=self.random.random() * 3)
            self.crash(host)

        self.loop.spawn(host, stop(), "stop")

    # -- what clients do ---------------------------------------------------------------------------------

    async def ask(self, make: Callable[[Engine], Coroutine[Any, Any, _T]], slot: Slot | None = None) -> _T:
        """Have a node do something for a client, on that node's side of the wire.

        Raises:
            ConnectionLost: the node is down, or died meanwhile.
        """
        slot = slot or self.random.choice(self.slots)
        engine, host = slot.engine, slot.host
        if engine is None or host is None:
            await self.loop.pause(0.2)
            raise ConnectionLost(slot.name)
        answer: asyncio.Future[_T] = self.loop.create_future()
        slot.open[answer] = None
        task = self.loop.spawn(host, _serve(make, engine, answer), "request")
        patience = self.loop.call_later(PATIENCE_S, self._impatient, answer, slot)
        try:
            return await answer
        finally:
            patience.cancel()
            slot.open.pop(answer, None)
            if not task.done() and host.alive:
                task.cancel()

    def _impatient(self, answer: asyncio.Future[Any], slot: Slot) -> None:
        if not answer.done():
            self.audit.broken("every request is answered", f"one of {slot.name} was not, in {PATIENCE_S} s")

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self, clients: list[Callable[[], Coroutine[Any, Any, None]]], steps: int) -> None:
        """Run all clients until ``steps`` were made, then until everything is at rest."""
        for slot in self.slots:
            self.start(slot)
        self.loop.spawn(self.outside, self._conduct(clients, steps), "conductor")
        if not self.loop.run():
            self.audit.broken("the run ends", f"after {self.loop.tick} callbacks it had not")

    async def _conduct(self, clients: list[Callable[[], Coroutine[Any, Any, None]]], steps: int) -> None:
        loop = self.loop
        running = [loop.create_task(client()) for client in clients]
        while self.audit.steps < steps:
            await self.loop.pause(self.random.random() * 2)
            if not self.calm:
                self._trouble()
        self.closing = True
        self.model.calm = True
        self.faults.stop()
        for slot in self.slots:
            if slot.store is not None:
                slot.store.cut = slot.store.renewals_lost = False
        deadline_s = loop.now_s + REST_S_MAX
        while not (all(task.done() for task in running) and self._at_rest()):
            if loop.now_s > deadline_s:
                self.audit.broken("everything comes to rest", self._unrest(running))
                break
            await self.loop.pause(2.0)
        for task in running:
            if task.done() and task.exception() is not None:
                raise task.exception() or AssertionError
        loop.halted = True

    def _trouble(self) -> None:
        """Now and then something happens to a node as a whole, at whatever await it is."""
        slot, draw = self.random.choice(self.slots), self.random.random()
        if slot.host is None or draw > 0.06:
            return
        if draw < 0.012:
            self.crash(slot.host)
        elif draw < 0.024:
            self.stall(slot.host)
        elif draw < 0.036:
            self.cut(slot)
        elif draw < 0.048:
            self.hand_over(slot)
        else:
            self.lose_renewals(slot.host)

    def _at_rest(self) -> bool:
        return all(slot.engine is not None for slot in self.slots) and not self.database.unrest()

    def _unrest(self, running: list[asyncio.Task[None]]) -> str:
        left = sum(not task.done() for task in running)
        rows = self.database.unrest()
        return f"{left} clients still wait; " + "; ".join(rows[:4])


def _renewals_arrive(store: SimStore) -> None:
    store.renewals_lost = False


def _network_up(store: SimStore) -> None:
    store.cut = False


async def _serve(make: Callable[[Engine], Coroutine[Any, Any, _T]], engine: Engine, answer: asyncio.Future[_T]) -> None:
    try:
        result = await make(engine)
    except Exception as error:
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(result)
