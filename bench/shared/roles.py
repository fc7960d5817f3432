"""What a node's process can be told to do, a role each: options to an async context that obeys commands."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from bench.durable import measure
from bench.durable_systems import engine_over, engine_turn, scripted
from bench.shared.following import reading, writing
from bench.shared.holding import holding
from bench.shared.processes import Values
from bench.shared.renewing import renewing
from bench.shared.streaming import streaming
from bench.stats import percentile
from stateline.stores.postgres import open_postgres

Obey = Callable[[Values], Awaitable[Values]]
Role = Callable[[Values], AbstractAsyncContextManager[Obey]]


@asynccontextmanager
async def turning(options: Values) -> AsyncGenerator[Obey]:
    """Turns of the engine. Command: `concurrency`, `warm_s`, `seconds`."""
    store = await open_postgres(options["url"])
    engine = engine_over(store, scripted(), shared=True)
    await engine.start()
    turn = engine_turn(engine, store)

    async def obey(command: Values) -> Values:
        concurrency: int = command["concurrency"]
        await measure(turn, concurrency, command["warm_s"])
        cell = await measure(turn, concurrency, command["seconds"])
        return {
            "turns": cell.turns,
            "wall_s": cell.wall_s,
            "cpu_s": cell.cpu_s,
            "p99_ms": percentile(cell.latencies_ms, 0.99),
        }

    try:
        yield obey
    finally:
        await engine.stop(grace_s=1.0)
        await store.close()


ROLES: dict[str, Role] = {
    "turning": turning,
    "renewing": renewing,
    "writing": writing,
    "reading": reading,
    "streaming": streaming,
    "holding": holding,
}
