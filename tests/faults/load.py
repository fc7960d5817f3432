"""A run: clients that work, a fault, and what must hold after it.

Each run's figures go into ``bench/results/faults.json`` under the run's name, where FAULTS_RECORD is set
(``make faults`` sets it).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import openai
from tests.crash import checks
from tests.crash.clients import PATIENT_RETRIES, Client, Turn
from tests.crash.harness import upstream_report
from tests.faults.cluster import Cluster

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "faults.json"
CLIENTS = 10
DRAIN_S_MAX = 150.0

Json = dict[str, Any]
Fault = Callable[[Cluster, Random], Awaitable[Json]]


def seed_of() -> int:
    """``FAULTS_SEED``, or one drawn now; it is printed either way."""
    seed = int(os.environ.get("FAULTS_SEED") or SystemRandom().randrange(10**9))
    print(f"FAULTS_SEED={seed}")  # noqa: T201
    return seed


async def under_load(
    cluster: Cluster,
    seed: int,
    fault: Fault,
    *,
    clients: int = CLIENTS,
    make: Callable[[int, openai.AsyncOpenAI, int], Client] = Client,
    patient: bool = True,
) -> Json:
    """Run ``fault`` while clients work; then everything is up again, and the run is examined.

    Args:
        patient: one client in four retries for longer than the SDK does by itself.
    """
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        working: list[Client] = []
        for number in range(clients):
            options = {"max_retries": PATIENT_RETRIES} if patient and number % 4 == 0 else {}
            working.append(make(number, await stack.enter_async_context(cluster.client(**options)), seed))
        stop = asyncio.Event()
        running = [asyncio.create_task(client.run(stop)) for client in working]
        try:
            # What the fault meets is work, not a beginning.
            await asyncio.sleep(2.0)
            told = await fault(cluster, Random(seed))
            await cluster.start_what_ended()
            # The service goes on, and is seen to.
            await asyncio.sleep(2.0)
        finally:
            stop.set()
            done, late = await asyncio.wait(running, timeout=DRAIN_S_MAX)
            for task in late:
                task.cancel()
        for task in done:
            task.result()
        ids = [conversation for client in working for conversation in client.conversations]
        worked_s = time.monotonic() - began
        found = await examined(cluster, [turn for client in working for turn in client.turns], ids)
        return {"seed": seed, "clients": clients, "seconds": round(worked_s, 1), **told, **found}


async def examined(cluster: Cluster, turns: Sequence[Turn], conversations: Sequence[str]) -> Json:
    """What became of the turns, violations by name."""
    await settled(cluster)
    lost = await checks.against_api(turns, cluster.base_url)
    lost += await checks.conversations_lost(conversations, cluster.base_url)
    report = await upstream_report(cluster.upstream_url)
    log = await cluster.read_log()
    assert cluster.balancer is not None
    return {
        "turns": len(turns),
        "outcomes": dict(Counter(turn.outcome for turn in turns)),
        "statuses": dict(Counter(str(turn.status) for turn in turns)),
        "modes": dict(Counter(turn.mode for turn in turns)),
        "events_seen": sum(len(turn.events) for turn in turns),
        "resumptions": sum(turn.resumptions for turn in turns),
        "turns_resumed": len(log.resumed),
        "sessions_quarantined": log.quarantined,
        "records": log.records,
        "connections": list(cluster.balancer.served.values()),
        "model_calls": report["outcomes"],
        "effects_asked": len({row["key"] for row in report["requests"]}),
        "violations": checks.violations(turns, log, lost, report) | {"money_wrong": await cluster.money_wrong()},
    }


async def settled(cluster: Cluster) -> None:
    """Wait until no turn is left running, those that no client knows of included; but not for ever."""
    ends_s = time.monotonic() + DRAIN_S_MAX
    while checks.stuck(await cluster.read_log()) and time.monotonic() < ends_s:  # noqa: ASYNC110
        await asyncio.sleep(0.5)


def judge(name: str, result: Json, cluster: Cluster | None = None) -> None:
    """Record the run and fail with what was violated."""
    found: dict[str, list[str]] = {key: rows for key, rows in result["violations"].items() if rows}
    summary = {**result, "violations": {key: len(rows) for key, rows in result["violations"].items()}}
    record(name, summary)
    shown = {key: [len(rows), *rows[:5]] for key, rows in found.items()}
    folder = cluster.nodes[0].folder.parent if cluster is not None else ""
    assert not found, f"{json.dumps(shown, indent=1)}\nrun: {json.dumps(summary)}\nfolder: {folder}"
    # A run in which nothing was asked would show nothing.
    assert result["outcomes"].get("ended", 0) > CLIENTS / 2


def record(name: str, figure: Json) -> None:
    """Print a figure, and keep it where it is wanted."""
    print(json.dumps({name: figure}))  # noqa: T201
    if not os.environ.get("FAULTS_RECORD"):
        return
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    figures: Json = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    figures[name] = figure
    RESULTS.write_text(json.dumps(dict(sorted(figures.items())), indent=1) + "\n")


def quantiles(values: Sequence[float]) -> Json:
    ordered = sorted(values)
    return {
        "repetitions": len(ordered),
        "p50_s": round(ordered[len(ordered) // 2], 3),
        "max_s": round(ordered[-1], 3),
        "all_s": [round(value, 3) for value in ordered],
    }
