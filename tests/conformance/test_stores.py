"""Every store keeps every promise of the port."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.postgres import stores

from stateline.ports import Clock, Store
from stateline.stores.memory import MemoryStore
from stateline.stores.sqlite import open_sqlite
from stateline.testing.exercise import CHECKS, MakeStore, Reopen, exercise_store, needs_reopen, run_check
from stateline.testing.postgres_server import PostgresServer


def sqlite(folder: Path) -> tuple[MakeStore, Reopen]:
    """Stores on files in ``folder``, each on a new one."""
    paths: dict[int, Path] = {}

    async def make(clock: Clock) -> Store:
        path = folder / f"{len(paths)}.db"
        store = await open_sqlite(path, clock=clock)
        paths[id(store)] = path
        return store

    async def reopen(store: Store, clock: Clock) -> Store:
        await store.close()
        return await open_sqlite(paths[id(store)], clock=clock)

    return make, reopen


async def memory(clock: Clock) -> Store:
    return MemoryStore(clock=clock)


@pytest.mark.parametrize("name", CHECKS)
async def test_the_sqlite_store_keeps(name: str, tmp_path: Path) -> None:
    make, reopen = sqlite(tmp_path)
    await run_check(CHECKS[name], make, reopen)


@pytest.mark.parametrize("name", CHECKS)
async def test_the_postgres_store_keeps(name: str, postgres: PostgresServer) -> None:
    make, reopen = stores(postgres)
    await run_check(CHECKS[name], make, reopen)


@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if not needs_reopen(check)])
async def test_the_memory_store_keeps(name: str) -> None:
    await run_check(CHECKS[name], memory)


async def test_the_suite_runs_whole_over_a_factory_and_names_what_is_broken() -> None:
    held = await exercise_store(memory)
    assert len(held) == sum(not needs_reopen(check) for check in CHECKS.values())

    async def broken(clock: Clock) -> Store:
        store = MemoryStore(clock=clock)
        await store.close()
        return store

    with pytest.raises(Exception, match="closed") as caught:
        await exercise_store(broken)
    assert caught.value.__notes__ == ["the store does not keep: log: a new session is empty"]
