"""What every store must keep: the promises of ``stateline.ports.Store``, each a check with a name.

A store's own tests run it over a factory:

    await exercise_store(make_store, reopen=reopen)

or each check by itself, so that a failure names the promise: ``CHECKS`` holds them by name and
``run_check`` runs one on a new store.
"""

from __future__ import annotations

import asyncio
from types import ModuleType

from stateline.testing.store_checks import inbox, log, money, ownership, tail
from stateline.testing.store_rig import DURABLE, PATIENCE_S, Check, MakeStore, ManualClock, Reopen, Rig

__all__ = ["CHECKS", "Check", "MakeStore", "ManualClock", "Reopen", "exercise_store", "needs_reopen", "run_check"]


def _named(*areas: ModuleType) -> dict[str, Check]:
    return {
        f"{area.__name__.rpartition('.')[2]}: {name.removeprefix('check_').replace('_', ' ')}": check
        for area in areas
        for name, check in vars(area).items()
        if name.startswith("check_")
    }


CHECKS: dict[str, Check] = _named(log, tail, inbox, ownership, money)
"""All checks by name: the area and the promise."""


async def run_check(check: Check, make_store: MakeStore, reopen: Reopen | None = None) -> None:
    """Run one check on a new store, and close it."""
    clock = ManualClock()
    rig = Rig(await make_store(clock), clock, reopen)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await check(rig)
    finally:
        await rig.store.close()


async def exercise_store(make_store: MakeStore, *, reopen: Reopen | None = None) -> list[str]:
    """Run every check, each on a new store; returns the names of those that held.

    Args:
        make_store: gives a new, empty store that takes its time from the clock.
        reopen: None for a store that keeps nothing; the checks of durability are left out.

    Raises:
        AssertionError: a promise is broken; the note says which.
    """
    held: list[str] = []
    for name, check in CHECKS.items():
        if reopen is None and needs_reopen(check):
            continue
        try:
            await run_check(check, make_store, reopen)
        except BaseException as error:
            error.add_note(f"the store does not keep: {name}")
            raise
        held.append(name)
    return held


def needs_reopen(check: Check) -> bool:
    """Whether a check is about what outlives the process."""
    return check in DURABLE
