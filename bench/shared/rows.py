"""The rows: each starts its nodes over one database, measures, and gives a table and the figures of bounds."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from bench.durable import CONCURRENCIES, POSTGRES, Series, fsync_floor, measure, new_place
from bench.durable_systems import Turn, postgres_store
from bench.loop import run
from bench.servers import WORK
from bench.shared.processes import NodeProcess, Values, all_ask, node
from bench.shared.reference_loop import reference_loop
from bench.stats import median, median_ratio, percentile
from stateline.stores.postgres.connecting import connect, place_of
from stateline.testing.postgres_server import PostgresServer

LOOP = "postgres loop"
LOOP_AT_ONCE = "postgres loop, one statement"


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how much: figures to keep, a quick look, or a test that it runs at all."""

    loop_rounds: int = 5
    loop_cell_s: float = 1.2
    concurrencies: tuple[int, ...] = CONCURRENCIES
    node_rounds: int = 5
    node_cell_s: float = 4.0
    node_turns: int = 32
    owned: int = 10_000
    resting: int = 600
    owners: int = 3
    renew_s: float = 30.0
    readers: tuple[int, ...] = (1, 100, 1000)
    reading_s: float = 10.0
    appends_per_s: float = 100.0
    streams: int = 1000
    stream_gap_s: float = 1.0
    rate: float = 500.0
    rate_s: float = 10.0
    rate_tries: int = 5
    settle_s: float = 1.5
    hold_rounds: int = 7
    hold_cell_s: float = 3.0
    holders: int = 64


QUICK = Effort(
    loop_rounds=2,
    loop_cell_s=0.6,
    node_rounds=2,
    node_cell_s=2.0,
    renew_s=8.0,
    reading_s=5.0,
    rate_s=5.0,
    hold_rounds=3,
    hold_cell_s=1.5,
)
SMOKE = Effort(
    loop_rounds=1,
    loop_cell_s=0.1,
    concurrencies=(4,),
    node_rounds=1,
    node_cell_s=0.3,
    node_turns=4,
    owned=60,
    resting=10,
    owners=2,
    renew_s=0.5,
    readers=(1, 10),
    reading_s=0.3,
    appends_per_s=50.0,
    streams=5,
    stream_gap_s=0.1,
    rate=20.0,
    rate_s=0.5,
    rate_tries=1,
    settle_s=0.1,
    hold_rounds=1,
    hold_cell_s=0.3,
    holders=8,
)


@dataclass(slots=True)
class Found:
    """What a row gives: a table, what is kept as JSON, and the figures that bounds may name."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    kept: dict[str, object] = field(default_factory=dict[str, object])
    promises: dict[str, float] = field(default_factory=dict[str, float])


class Database:
    """A server of our own; each row has a schema to itself."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._numbers = itertools.count(1)

    async def new_url(self) -> str:
        return await new_place(self._server, next(self._numbers))

    def url(self) -> str:
        return run(self.new_url())

    def deadlocks(self) -> int:
        """That the server has found so far; one is counted when its backend next reports, or ends."""

        async def ask() -> int:
            db = await connect(place_of(self._server.url()))
            try:
                return await db.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            finally:
                await db.close()

        return run(ask())


# -- 1: against a bare loop ----------------------------------------------------------------------------


async def _against_loop(database: Database, effort: Effort) -> tuple[dict[tuple[str, int], Series], list[float]]:
    @asynccontextmanager
    async def store() -> AsyncGenerator[Turn]:
        async with postgres_store(await database.new_url()) as turn:
            yield turn

    @asynccontextmanager
    async def loop() -> AsyncGenerator[Turn]:
        async with reference_loop(await database.new_url()) as turn:
            yield turn

    @asynccontextmanager
    async def at_once() -> AsyncGenerator[Turn]:
        async with reference_loop(await database.new_url(), at_once=True) as turn:
            yield turn

    systems = {LOOP: loop, POSTGRES: store, LOOP_AT_ONCE: at_once}
    series: dict[tuple[str, int], Series] = {}
    fsync_ms: list[float] = []
    folder = WORK / "shared"
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(effort.loop_rounds):
        for concurrency in effort.concurrencies:
            fsync_ms += fsync_floor(folder, 50)
            for name, opened in systems.items():
                async with opened() as turn:
                    cell = await measure(turn, concurrency, effort.loop_cell_s)
                series.setdefault((name, concurrency), Series(name, concurrency)).cells.append(cell)
    shutil.rmtree(folder, ignore_errors=True)
    return series, fsync_ms


def against_loop(database: Database, effort: Effort) -> Found:
    """The store against a bare fenced group-commit loop, by turns within each round."""
    series, fsync_ms = run(_against_loop(database, effort))
    summaries = [each.summary() for each in series.values()]
    columns = ("system", "concurrency", "turns_per_s", "cpu_ms_per_turn", "p50_ms", "p99_ms")
    found = Found(
        "Durable turns of 7 records of 2 KB on PostgreSQL, each record durable before the next",
        ("system", "at", "turns/s", "CPU ms/turn", "p50 ms", "p99 ms"),
        [tuple(s[column] for column in columns) for s in summaries],
    )
    ratios: dict[str, float] = {}
    for loop in (LOOP, LOOP_AT_ONCE):
        for concurrency in effort.concurrencies:
            rates = [[cell.turns_per_s for cell in series[name, concurrency].cells] for name in (POSTGRES, loop)]
            ratios[f"{POSTGRES}/{loop} at {concurrency}"] = round(median_ratio(*rates), 3)
    found.kept = {
        "series": summaries,
        "ratios": ratios,
        "fsync_p50_ms": round(percentile(fsync_ms, 0.5), 3),
        "fsync_p99_ms": round(percentile(fsync_ms, 0.99), 3),
    }
    found.rows += [(name, "", f"{ratio:.2f}", "", "", "") for name, ratio in ratios.items()]
    found.promises = ratios | {
        f"{POSTGRES} cpu_ms_per_turn at {s['concurrency']}": float(str(s["cpu_ms_per_turn"]))
        for s in summaries
        if s["system"] == POSTGRES
    }
    return found


# -- 2: one node or two ----------------------------------------------------------------------------------


def two_nodes(database: Database, effort: Effort) -> Found:
    """The same turns at a time on one node and on two: CPU of the nodes a turn."""
    url = database.url()
    cpu_ms: dict[int, list[float]] = {1: [], 2: []}
    turns_per_s: dict[int, list[float]] = {1: [], 2: []}
    p99_ms: dict[int, list[float]] = {1: [], 2: []}
    for number in range(effort.node_rounds):
        # Which comes first changes, since the database grows and the machine drifts.
        for count in (1, 2) if number % 2 == 0 else (2, 1):
            with ExitStack() as stack:
                nodes = [stack.enter_context(node("turning", url=url)) for _ in range(count)]
                answers = all_ask(
                    nodes,
                    concurrency=effort.node_turns // count,
                    warm_s=effort.node_cell_s / 4,
                    seconds=effort.node_cell_s,
                )
            turns = sum(a["turns"] for a in answers)
            cpu_ms[count].append(sum(a["cpu_s"] for a in answers) * 1000 / turns)
            turns_per_s[count].append(sum(a["turns"] / a["wall_s"] for a in answers))
            p99_ms[count].append(max(a["p99_ms"] for a in answers))
    ratio = round(median_ratio(cpu_ms[2], cpu_ms[1]), 3)
    found = Found(
        f"{effort.node_turns} turns of the engine at a time, over one database (CPU of the nodes, not of PostgreSQL)",
        ("nodes", "CPU ms/turn", "turns/s", "p99 ms"),
        [(n, f"{median(cpu_ms[n]):.3f}", f"{median(turns_per_s[n]):.0f}", f"{median(p99_ms[n]):.1f}") for n in (1, 2)],
    )
    found.rows.append(("2 / 1, within a round", f"{ratio:.2f}", "", ""))
    found.kept = {
        "turns_at_a_time": effort.node_turns,
        "cpu_ms_per_turn": {n: [round(each, 3) for each in rounds] for n, rounds in cpu_ms.items()},
        "turns_per_s": {n: [round(each, 1) for each in rounds] for n, rounds in turns_per_s.items()},
        "p99_ms": {n: [round(each, 1) for each in rounds] for n, rounds in p99_ms.items()},
        "ratio": ratio,
    }
    found.promises = {"CPU a turn of two nodes/one": ratio}
    return found


# -- 3: appends while sessions are renewed -----------------------------------------------------------------


def renewed(database: Database, effort: Effort) -> Found:
    """Appends, posts, claims and releases beside the renewals of nodes that own many sessions."""
    url = database.url()
    with ExitStack() as stack:
        nodes: list[NodeProcess] = []
        each = effort.owned // effort.owners
        for number in range(effort.owners):
            first = number * each
            count = each if number < effort.owners - 1 else effort.owned - first
            options: Values = {"url": url, "name": f"node{number}", "first": first, "count": count}
            options |= {"owned": effort.owned, "resting": effort.resting, "lays": number == 0}
            nodes.append(stack.enter_context(node("renewing", **options)))
        before = database.deadlocks()
        appenders = [32 // effort.owners + (number < 32 % effort.owners) for number in range(effort.owners)]
        for this, at_a_time in zip(nodes, appenders, strict=True):
            this.tell(seconds=effort.renew_s, appenders=at_a_time)
        answers = [this.answer() for this in nodes]
    # What a backend has not reported yet it reports when it ends.
    time.sleep(effort.settle_s)
    deadlocks = database.deadlocks() - before
    done = {what: sum(a["done"].get(what, 0) for a in answers) for what in sorted(answers[0]["done"])}
    errors = {why: count for a in answers for why, count in a["errors"].items()}
    appends_ms = [ms for a in answers for ms in a["appends_ms"]]
    failed = sum(sum(a["errors"].values()) for a in answers)
    found = Found(
        f"{effort.owned} owned sessions, {effort.owners} nodes that renew without rest, 32 appends of 2 KB at a time,"
        f" {effort.renew_s:g} s",
        ("what", "found"),
        [
            *((what, count) for what, count in done.items()),
            ("append p50 / p99, ms", f"{percentile(appends_ms, 0.5):.1f} / {percentile(appends_ms, 0.99):.1f}"),
            ("deadlocks", deadlocks),
            ("errors", failed),
        ],
    )
    found.kept = {
        "owned": effort.owned,
        "nodes": effort.owners,
        "seconds": effort.renew_s,
        "done": done,
        "append_p50_ms": round(percentile(appends_ms, 0.5), 2),
        "append_p99_ms": round(percentile(appends_ms, 0.99), 2),
        "deadlocks": deadlocks,
        "errors": errors,
    }
    found.promises = {"deadlocks while renewed": deadlocks, "errors while renewed": failed}
    return found


# -- 4: readers on another node ------------------------------------------------------------------------------


def readers(database: Database, effort: Effort) -> Found:
    """Followers on one node of sessions that another appends to: what they cost the database."""
    url = database.url()
    found = Found(
        f"Readers on a node of its own, of another's {effort.appends_per_s:g} events a second",
        ("readers", "queries/s of the readers", "delivered", "p50 ms", "p99 ms", "node's CPU ms/s"),
    )
    rates: dict[int, float] = {}
    kept: list[Values] = []
    undelivered = 0
    with node("writing", url=url, sessions=max(effort.readers)) as writer, node("reading", url=url) as reader:
        for count in effort.readers:
            reader.ask(do="follow", readers=count)
            time.sleep(effort.settle_s)
            window_s = effort.reading_s + 2 * effort.settle_s
            writer.tell(rate=effort.appends_per_s, seconds=window_s, sessions=count)
            time.sleep(effort.settle_s)
            reader.ask(do="mark")
            time.sleep(effort.reading_s)
            figures = reader.ask(do="since_mark")
            appended = writer.answer()["appended"]
            time.sleep(effort.settle_s)
            figures |= reader.ask(do="leave")
            rates[count] = figures["queries_per_s"]
            undelivered += appended - figures["delivered"]
            kept.append({"readers": count, "appended": appended, **{k: round(v, 2) for k, v in figures.items()}})
            found.rows.append(
                (
                    *(count, f"{rates[count]:.1f}", f"{figures['delivered']} of {appended}"),
                    *(f"{figures['p50_ms']:.1f}", f"{figures['p99_ms']:.1f}", f"{figures['cpu_ms_per_s']:.0f}"),
                )
            )
    few, many = min(rates), max(rates)
    found.promises = {
        f"queries of {many} readers/{few}": round(rates[many] / rates[few], 3),
        "undelivered to readers": undelivered,
    }
    found.kept = {"appends_per_s": effort.appends_per_s, "cells": kept}
    return found


# -- 5: streams beside turns -------------------------------------------------------------------------------


def streams(database: Database, effort: Effort) -> Found:
    """Open streams beside turns by a timetable; the highest rate that is held, if not the one asked for."""
    found = Found(
        f"{effort.streams} open streams with an event every {effort.stream_gap_s:g} s each, beside turns of 7 records"
        f" of 2 KB by a timetable of {effort.rate_s:g} s",
        ("turns/s asked", "reached", "turn p50 ms", "p99 ms", "stream event p50 ms", "p99 ms", "CPU", "failed"),
    )
    url = database.url()
    cells: list[Values] = []
    held: Values | None = None
    with node("streaming", url=url, streams=effort.streams, gap_s=effort.stream_gap_s) as this:
        rate = effort.rate
        for _ in range(effort.rate_tries):
            cell = this.ask(rate=rate, seconds=effort.rate_s)
            cells.append({k: round(v, 3) if isinstance(v, float) else v for k, v in cell.items()})
            found.rows.append(
                (
                    *(f"{cell['asked_per_s']:.0f}", f"{cell['reached_per_s']:.0f}"),
                    *(f"{cell['turn_p50_ms']:.1f}", f"{cell['turn_p99_ms']:.1f}"),
                    *(f"{cell['stream_p50_ms']:.1f}", f"{cell['stream_p99_ms']:.1f}"),
                    *(f"{cell['cpu_share']:.0%}", cell["errors"] + cell["unanswered"]),
                )
            )
            if holds(cell):
                held = cell
                break
            rate = float(round(min(cell["reached_per_s"], 0.9 * rate) * 0.95))
    found.kept = {
        "streams": effort.streams,
        "stream_gap_s": effort.stream_gap_s,
        "seconds": effort.rate_s,
        "cells": cells,
        "held_per_s": held["asked_per_s"] if held is not None else None,
    }
    found.promises = {"turns/s beside streams": held["asked_per_s"] if held is not None else 0.0}
    return found


def holds(cell: Values) -> bool:
    """Whether a timetable's rate was held: nothing failed, and what was asked for was answered in its time."""
    failed = cell["errors"] or cell["unanswered"]
    return not failed and cell["reached_per_s"] >= 0.97 * cell["asked_per_s"]


# -- 6: one budget for all -------------------------------------------------------------------------------


def budget(database: Database, effort: Effort) -> Found:
    """Appends of callers on two nodes that all move one balance, against the same appends that move none."""
    url = database.url()
    each = effort.holders // 2
    answers: list[Values] = []
    rates: dict[bool, list[float]] = {True: [], False: []}
    times_ms: dict[bool, list[float]] = {True: [], False: []}
    cpu_ms: dict[bool, list[float]] = {True: [], False: []}
    with ExitStack() as stack:
        options = [{"url": url, "name": f"node{n}", "first": n * each, "callers": each} for n in range(2)]
        nodes = [stack.enter_context(node("holding", **mine)) for mine in options]
        for number in range(effort.hold_rounds):
            # Which comes first changes, since the database grows and the machine drifts.
            for holds_ in (True, False) if number % 2 == 0 else (False, True):
                all_ask(nodes, seconds=effort.hold_cell_s / 4, holds=holds_)
                answers = all_ask(nodes, seconds=effort.hold_cell_s, holds=holds_)
                rates[holds_].append(sum(a["appends_per_s"] for a in answers))
                times = [ms for a in answers for ms in a["appends_ms"]]
                times_ms[holds_] += times
                cpu_ms[holds_].append(sum(a["cpu_s"] for a in answers) * 1000 / len(times))
    ratio = round(median_ratio(rates[True], rates[False]), 3)
    found = Found(
        f"Appends of 2 KB by {effort.holders} callers on two nodes, each with a hold on the same budget, or without",
        ("holds", "appends/s", "p50 ms", "p99 ms", "CPU ms/append"),
    )
    for holds_, name in ((True, "one budget"), (False, "none")):
        found.rows.append(
            (
                *(name, f"{median(rates[holds_]):.0f}"),
                *(f"{percentile(times_ms[holds_], p):.1f}" for p in (0.5, 0.99)),
                f"{median(cpu_ms[holds_]):.3f}",
            )
        )
    found.rows.append(("with / without, within a round", f"{ratio:.2f}", "", "", ""))
    found.kept = {
        "callers": effort.holders,
        "appends_per_s": {name: [round(r, 1) for r in rates[h]] for h, name in ((True, "with"), (False, "without"))},
        "p99_ms": {name: round(percentile(times_ms[h], 0.99), 2) for h, name in ((True, "with"), (False, "without"))},
        "cpu_ms_per_append": {
            name: [round(c, 4) for c in cpu_ms[h]] for h, name in ((True, "with"), (False, "without"))
        },
        "ratio": ratio,
        # Whoever answers last has seen all that both have settled.
        "spent": str(max(Decimal(a["spent"]) for a in answers)),
        "settled": str(sum(Decimal(a["settled"]) for a in answers)),
    }
    found.promises = {"appends of one budget/none": ratio}
    return found


ROWS: dict[str, Callable[[Database, Effort], Found]] = {
    "loop": against_loop,
    "nodes": two_nodes,
    "renewed": renewed,
    "readers": readers,
    "streams": streams,
    "budget": budget,
}


def names() -> Sequence[str]:
    return tuple(ROWS)
