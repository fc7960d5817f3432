"""Deterministic simulation: the real core and engine over a simulated world, replayed by its seed.

See docs/simulation.md. ``python -m stateline.testing.sim`` runs many seeds.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec

from stateline.testing.sim.audit import InvariantBroken
from stateline.testing.sim.clients import Client, Told
from stateline.testing.sim.faults import FAULTS, TABLE, Fault, is_calm
from stateline.testing.sim.histories import SCRIPTS, Scribe, Word, scripts_for
from stateline.testing.sim.verify import digest_of, verify
from stateline.testing.sim.world import World

__all__ = ["FAULTS", "STEPS", "TABLE", "Fault", "InvariantBroken", "Report", "simulate"]

STEPS = 5_000
"""Steps of one seed: appends attempted and effects dispatched."""
_CLIENTS = 6
_SCRIPTS_MAX = 6
_WRITINGS_MAX = 12
"""How often a script is written, in other sessions, for a target that keeps out of the way."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one seed did.

    Attributes:
        digest: of everything that it left in the log; the same on every run of the seed.
        simulated_s: how long it lasted in its own time.
        aimed: its target was struck, or it is calm and has none.
        hits: commits struck, by transition (its place in ``TABLE``) and fault.
        struck: commits struck, by fault.
        events: events in the log, by type.
    """

    seed: int
    steps: int
    digest: str
    simulated_s: float
    turns: int
    calls: int
    starts: int
    aimed: bool
    hits: dict[tuple[int, Fault], int]
    struck: dict[Fault, int]
    ended: dict[str, int]
    refused: int = 0
    """Requests that a budget did not pay for."""


def simulate(seed: int, *, steps: int = STEPS) -> Report:
    """Run the world that ``seed`` makes for at least ``steps`` steps, and judge it.

    Nothing outside the seed has any influence: not the time, the machine, or the hash seed. Not to be
    called on a thread that runs an event loop of its own at the moment.

    Raises:
        InvariantBroken: what must hold did not; the message says how to replay the seed.
    """
    logger = logging.getLogger("stateline")
    level, collecting, hook = logger.level, gc.isenabled(), sys.unraisablehook
    logger.setLevel(logging.CRITICAL + 1)
    # A collection comes when the process has made enough garbage, so it must not be seen in a run.
    gc.disable()
    try:
        report, findings = _run(seed, steps)
    finally:
        # What dead nodes left is taken apart in the middle of its awaits; that it complains says nothing.
        sys.unraisablehook = _unheard
        gc.collect()
        sys.unraisablehook = hook
        logger.setLevel(level)
        if collecting:
            gc.enable()
    if findings:
        raise InvariantBroken(seed, findings)
    return report


def _unheard(complaint: object) -> None:
    pass


def _run(seed: int, steps: int) -> tuple[Report, list[str]]:
    world = World(seed, calm=is_calm(seed))
    told = Told()
    try:
        world.run(_actors(world, told), steps)
        findings = list(world.audit.findings)
        if not findings:
            verify(world.database, world.audit, told)
            findings = list(world.audit.findings)
        return _report(world, told, seed), findings
    finally:
        sys.unraisablehook = _unheard
        world.loop.bury(world.hosts)


def _actors(world: World, told: Told) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    actors: list[Callable[[], Coroutine[Any, Any, None]]] = [
        Client(world, told, number).run for number in range(_CLIENTS)
    ]
    if not world.calm:
        scripts = [world.random.choice(SCRIPTS), *scripts_for(world)]
        actors += [partial(_write, world, number, script) for number, script in enumerate(scripts)]
    return actors


async def _write(world: World, number: int, script: Sequence[Word]) -> None:
    """Have a script written; one that leads to the run's target again, until the target was struck."""
    for _ in range(_WRITINGS_MAX if number else 1):
        scribe = Scribe(world, number, script)
        world.loop.spawn(scribe.host, scribe.write(), "scribe")
        await world.loop.pause(3.0 + world.random.random() * 6.0)
        if world.closing or world.faults.target_struck:
            return
        number += _SCRIPTS_MAX


def _report(world: World, told: Told, seed: int) -> Report:
    ended: dict[str, int] = {}
    for kind in world.audit.ended.values():
        ended[kind.__name__] = ended.get(kind.__name__, 0) + 1
    return Report(
        seed=seed,
        steps=world.audit.steps,
        digest=digest_of(world.database),
        simulated_s=world.loop.time(),
        turns=len(world.audit.turns),
        calls=world.model.calls,
        starts=sum(slot.starts for slot in world.slots),
        aimed=world.calm or world.faults.target_struck,
        hits=world.faults.hits,
        struck=world.faults.struck,
        ended=ended,
        refused=told.refused,
    )
