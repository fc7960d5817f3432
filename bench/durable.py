"""Durable turns per second: a bare loop, the store through its port, the whole engine.

A turn is seven records of 2 KB, each durable before the next. The disk's fsync time drifts by a
factor of ten within an hour, so the three take turns within each round, every ratio is taken
within a round, and the median of the rounds is reported beside the fsync floor of the same rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from bench.durable_systems import RECORD_BYTES, RECORDS_A_TURN, SYSTEMS, Turn, postgres_store
from bench.servers import WORK
from bench.stats import median, median_ratio, percentile
from stateline.stores.postgres.connecting import connect, place_of
from stateline.testing.postgres_server import NoPostgres, PostgresServer, postgres_server

CONCURRENCIES = (1, 32, 256)


@dataclass(slots=True)
class Cell:
    """One measurement: a system at a concurrency in one round."""

    turns: int
    wall_s: float
    cpu_s: float
    latencies_ms: list[float]

    @property
    def turns_per_s(self) -> float:
        return self.turns / self.wall_s

    @property
    def cpu_ms_per_turn(self) -> float:
        return self.cpu_s * 1000 / self.turns


@dataclass(slots=True)
class Series:
    """The cells of one system at one concurrency, a cell a round."""

    system: str
    concurrency: int
    cells: list[Cell] = field(default_factory=list[Cell])

    def summary(self) -> dict[str, float | str | int | list[float]]:
        rates = [cell.turns_per_s for cell in self.cells]
        latencies = [value for cell in self.cells for value in cell.latencies_ms]
        return {
            "system": self.system,
            "concurrency": self.concurrency,
            "turns_per_s": round(median(rates), 1),
            "turns_per_s_rounds": [round(rate, 1) for rate in rates],
            "cpu_ms_per_turn": round(median([c.cpu_ms_per_turn for c in self.cells]), 3),
            "p50_ms": round(percentile(latencies, 0.5), 2),
            "p99_ms": round(percentile(latencies, 0.99), 2),
        }


async def measure(turn: Turn, concurrency: int, duration_s: float) -> Cell:
    """Run `turn` in `concurrency` workers until the time is up; CPU is this process's own."""
    latencies: list[float] = []
    for worker in range(concurrency):  # Start-up costs of a session are no part of a turn's.
        if worker < 2:
            await turn(worker, 0)
    cpu, start = time.process_time(), time.perf_counter()
    deadline = start + duration_s

    async def work(worker: int) -> None:
        number = 1
        while (began := time.perf_counter()) < deadline:
            await turn(worker, number)
            latencies.append((time.perf_counter() - began) * 1000)
            number += 1

    await asyncio.gather(*(work(worker) for worker in range(concurrency)))
    wall_s = time.perf_counter() - start
    return Cell(len(latencies), wall_s, time.process_time() - cpu, latencies)


def fsync_floor(folder: Path, appends: int = 200) -> list[float]:
    """Milliseconds of each 2 KB append + fdatasync to a file in that folder."""
    path = folder / "fsync.probe"
    record = os.urandom(RECORD_BYTES)
    times: list[float] = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(appends):
            start = time.perf_counter()
            os.write(descriptor, record)
            os.fdatasync(descriptor)
            times.append((time.perf_counter() - start) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    return times


@dataclass(slots=True)
class Result:
    """All series of one run and the fsync floor beside them."""

    series: dict[tuple[str, int], Series]
    fsync_ms: list[float]
    skipped: list[str]

    @property
    def fsync_p50_ms(self) -> float:
        return percentile(self.fsync_ms, 0.5)

    @property
    def fsync_p99_ms(self) -> float:
        return percentile(self.fsync_ms, 0.99)

    def summaries(self) -> list[dict[str, float | str | int | list[float]]]:
        return [series.summary() for series in self.series.values()]

    def ratios(self) -> dict[str, float]:
        """Turns/s of each layer over the one below it, round by round, at each concurrency."""
        found: dict[str, float] = {}
        for above, below in (("store", "reference"), ("engine", "store"), (POSTGRES, "store")):
            for concurrency in CONCURRENCIES:
                top = self.series.get((above, concurrency))
                base = self.series.get((below, concurrency))
                if top is None or base is None:
                    continue
                found[f"{above}/{below} at {concurrency}"] = round(
                    median_ratio(
                        [cell.turns_per_s for cell in top.cells],
                        [cell.turns_per_s for cell in base.cells],
                    ),
                    3,
                )
        return found

    def promises(self) -> dict[str, float]:
        """The figures that bounds may name."""
        figures = self.ratios()
        for (system, concurrency), series in self.series.items():
            cpu = median([cell.cpu_ms_per_turn for cell in series.cells])
            figures[f"{system} cpu_ms_per_turn at {concurrency}"] = round(cpu, 3)
        return figures

    def as_json(self) -> dict[str, object]:
        return {
            "records_a_turn": RECORDS_A_TURN,
            "record_bytes": RECORD_BYTES,
            "series": self.summaries(),
            "ratios": self.ratios(),
            "fsync_p50_ms": round(self.fsync_p50_ms, 3),
            "fsync_p99_ms": round(self.fsync_p99_ms, 3),
        }


POSTGRES = "postgres store"


async def measure_all(rounds: int, cell_s: float) -> Result:
    """Each round measures every system at every concurrency, one after the other."""
    result = Result({}, [], [])
    with contextlib.ExitStack() as stack:
        systems = dict(SYSTEMS)
        try:
            server = stack.enter_context(postgres_server())
        except NoPostgres as error:
            result.skipped.append(f"{POSTGRES}: {error}")
        else:
            numbers = itertools.count(1)

            @contextlib.asynccontextmanager
            async def on_postgres(_: Path) -> AsyncGenerator[Turn]:
                async with postgres_store(await new_place(server, next(numbers))) as turn:
                    yield turn

            systems[POSTGRES] = on_postgres
        await _measure(result, systems, rounds, cell_s)
    return result


async def new_place(server: PostgresServer, number: int) -> str:
    """The URL of a new schema, for a role of its own: row-level security costs nothing where it does not hold."""
    db = await connect(place_of(server.url()))
    try:
        await db.execute(f"CREATE ROLE bench{number} LOGIN; CREATE SCHEMA bench{number} AUTHORIZATION bench{number}")
    finally:
        await db.close()
    return f"{server.url()}&search_path=bench{number}".replace("//postgres@", f"//bench{number}@")


async def _measure(
    result: Result, systems: dict[str, Callable[[Path], AbstractAsyncContextManager[Turn]]], rounds: int, cell_s: float
) -> None:
    for _ in range(rounds):
        for concurrency in CONCURRENCIES:
            for name, open_system in systems.items():
                folder = WORK / f"durable-{name.replace(' ', '-')}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                result.fsync_ms += fsync_floor(folder, 50)
                async with open_system(folder) as turn:
                    cell = await measure(turn, concurrency, cell_s)
                key = (name, concurrency)
                result.series.setdefault(key, Series(name, concurrency)).cells.append(cell)
                shutil.rmtree(folder, ignore_errors=True)
