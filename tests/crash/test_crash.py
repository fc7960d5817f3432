"""Kill the real server at random moments, and find nothing lost.

32 clients with the real SDK, a scripted model that answers differently at each attempt and fails now and
then, SIGKILL at moments drawn from a printed seed, some of them while the server recovers. The short
form runs with the other tests; the full one is `make crash`, and writes `bench/results/crash.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from random import Random, SystemRandom
from signal import SIGTERM
from typing import Any

import pytest
from tests.crash import checks, money
from tests.crash.clients import PATIENT_RETRIES, Client, Turn
from tests.crash.harness import Server, running_server, upstream_process, upstream_report

CLIENTS = 32
RESULTS = Path(__file__).parents[2] / "bench" / "results" / "crash.json"
DRAIN_S_MAX = 120.0
RECOVERY_KILL_SHARE = 0.3


async def kill_often(server: Server, random: Random, kills: int) -> tuple[list[float], int]:
    """Kill and restart until ``kills`` kills were made.

    Gives the seconds that each recovery took, and how many of the kills struck during one.

    Two kills without a step between are followed by a pause long enough for one, because a third would
    quarantine the session, as it should.
    """
    recoveries: list[float] = []
    done = in_recovery = 0
    pause_s = 0.3
    while done < kills:
        await asyncio.sleep(random.uniform(pause_s, pause_s + 2.5))
        await server.kill()
        done += 1
        pause_s = 0.3
        began = time.monotonic()
        await server.spawn()
        # The second one always meets a recovery, so that the short form has one, too.
        if done < kills and (done == 2 or random.random() < RECOVERY_KILL_SHARE):
            # Half of these strike while it starts, the others within 100 ms of its first answer.
            if random.random() < 0.5:
                await asyncio.sleep(random.uniform(0.1, 1.0))
            else:
                await server.ready()
                await asyncio.sleep(random.uniform(0.0, 0.1))
            await server.kill()
            done += 1
            in_recovery += 1
            pause_s = 1.0
            began = time.monotonic()
            await server.spawn()
        await server.ready()
        recoveries.append(time.monotonic() - began)
        if pause_s == 1.0:
            # On a busy machine a step takes longer, as the start did.
            pause_s = max(pause_s, recoveries[-1] / 2)
    return recoveries, in_recovery


async def crash_run(folder: Path, seed: int, kills: int) -> dict[str, Any]:
    """One run; what it found, violations by name."""
    began = time.monotonic()
    async with (
        upstream_process(f"flaky:{seed}@0.06") as upstream_url,
        running_server(folder, upstream_url, settings=money.BUDGETS, price=money.PRICE) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        clients: list[Client] = []
        for number in range(CLIENTS):
            # Three in four keep the SDK's default retries.
            options = {} if number % 4 else {"max_retries": PATIENT_RETRIES}
            clients.append(Client(number, await stack.enter_async_context(server.client(**options)), seed))
        stop = asyncio.Event()
        running = [asyncio.create_task(client.run(stop)) for client in clients]
        try:
            recoveries, in_recovery = await kill_often(server, Random(seed), kills)
        finally:
            stop.set()
            done, late = await asyncio.wait(running, timeout=DRAIN_S_MAX)
            for task in late:
                task.cancel()
        for task in done:
            task.result()
        turns = [turn for client in clients for turn in client.turns]
        await settled(server)
        lost = await checks.against_api(turns, server.base_url)
        ids = [conversation for client in clients for conversation in client.conversations]
        lost += await checks.conversations_lost(ids, server.base_url)
        report = await upstream_report(upstream_url)
        await server.end(SIGTERM)
        log = checks.read_log(server.database)
        bodies, balances = money.read(server.database)
    violations = checks.violations(turns, log, lost, report) | {"money_wrong": money.wrong(bodies, balances)}
    return {
        "seed": seed,
        "kills": kills,
        "kills_in_recovery": in_recovery,
        "clients": CLIENTS,
        "seconds": round(time.monotonic() - began, 1),
        "restart_s_max": round(max(recoveries), 2),
        "turns": len(turns),
        "outcomes": dict(Counter(turn.outcome for turn in turns)),
        "statuses": dict(Counter(str(turn.status) for turn in turns)),
        "modes": dict(Counter(turn.mode for turn in turns)),
        "events_seen": sum(len(turn.events) for turn in turns),
        "resumptions": sum(turn.resumptions for turn in turns),
        "turns_resumed": len(log.resumed),
        "retries_attached": sum(turn.mode == "plain" and turn.response_id in log.resumed for turn in turns),
        "sessions_quarantined": log.quarantined,
        "records": log.records,
        "model_calls": report["outcomes"],
        "spent": {name: str(spent) for name, (_, spent) in balances.items()},
        "violations": violations,
    }


async def settled(server: Server) -> None:
    """Wait until no turn is left running, those that no client knows of included; but not for ever."""
    ends_s = time.monotonic() + DRAIN_S_MAX
    while checks.stuck(checks.read_log(server.database)) and time.monotonic() < ends_s:  # noqa: ASYNC110
        await asyncio.sleep(0.5)


def judge(result: dict[str, Any], folder: Path) -> None:
    """Fail with what was violated; keep the run's folder in the message."""
    found = {name: rows for name, rows in result["violations"].items() if rows}
    shown = {name: [len(rows), *rows[:5]] for name, rows in found.items()}
    summary = {name: value for name, value in result.items() if name != "violations"}
    print(json.dumps(summary))  # noqa: T201
    assert not found, f"{json.dumps(shown, indent=1)}\nrun: {json.dumps(summary)}\nfolder: {folder}"
    # A run that never met what it is about would show nothing.
    assert result["outcomes"].get("ended", 0) > CLIENTS
    assert result["turns_resumed"] > 0
    assert result["resumptions"] > 0
    assert len(result["spent"]) == 2
    assert all(Decimal(spent) > 0 for spent in result["spent"].values())
    # A few kills may all miss the plain calls; that a retry attaches is shown in test_shutdown.py, too.
    assert result["retries_attached"] > 0 or result["kills"] < 50


def seed_of() -> int:
    """``CRASH_SEED``, or one drawn now; it is printed either way."""
    seed = int(os.environ.get("CRASH_SEED") or SystemRandom().randrange(10**9))
    print(f"CRASH_SEED={seed}")  # noqa: T201
    return seed


@pytest.mark.timeout(600)
async def test_kills_lose_nothing(tmp_path: Path) -> None:
    """The short form: 6 kills."""
    judge(await crash_run(tmp_path, seed_of(), 6), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    """The full form: 100 kills. The counts of violations go into bench/results/crash.json."""
    result = await crash_run(tmp_path, seed_of(), int(os.environ.get("CRASH_KILLS") or 100))
    counts = {name: len(rows) for name, rows in result["violations"].items()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result | {"violations": counts}, indent=1) + "\n")
    judge(result, tmp_path)


def test_the_checks_find_what_they_look_for() -> None:
    """A check that finds nothing in a broken run proves nothing."""
    from tests.crash.clients import Seen

    from stateline.core import events as e

    request = e.TurnRequest(model="m", metadata={"name": "c0r0"})
    twice = e.TurnRequested(response_id="resp_a", turn=1, request=request, input=())
    log = checks.Log([], {"c0r0": [twice, twice]}, {"resp_a": []}, Counter({"1/1/1": 2}), 0, set(), 0)
    delta = "response.output_text.delta"
    message: Any = {"type": "message", "id": "m", "content": [{"text": "1a1w0 2a2w1"}]}
    turn = Turn(
        name="c0r1",
        mode="stream",
        streamed=True,
        response_id="resp_b",
        events=[Seen(0, delta, "m", "1a1w0"), Seen(2, delta, "m", " x")],
        output=[message],
    )
    turns: Sequence[Turn] = [turn]
    assert len(checks.run_twice(turns, log)) == 2
    assert len(checks.stuck(log)) == 2
    assert checks.lost_turns(turns, log)
    assert checks.numbers_back(turns)
    assert checks.texts_differ(turns)
    assert checks.mixed_attempts(turns)
    assert checks.asked_twice({"requests": [{"key": "k"}, {"key": "k"}]})


def test_money_that_is_wrong_is_found() -> None:
    from stateline.core import events as e
    from stateline.core.billing import Charge, Held, Reserved

    one = Decimal(1)
    reserved = Reserved(tariff="t", amount=2 * one, currency="USD", held=(Held("b"),))
    started = e.ModelCallStarted(turn=1, step=1, deployment="d", origin="o", model="m", reserved=reserved)
    cost = Charge(tariff="t", amount=one, currency="USD")
    finished = e.ModelCallFinished(turn=1, step=1, finish_reason="stop", next_number=2, charge=cost)
    whole: list[tuple[int, e.Body]] = [(1, started), (1, finished)]
    zero = Decimal(0)
    assert money.wrong(whole, {"b": (zero, one)}) == []
    # Not settled, settled twice, still held, for nobody, and never begun.
    assert len(money.wrong(whole[:1], {"b": (2 * one, zero)})) == 2
    assert len(money.wrong([*whole, (1, finished)], {"b": (zero, one)})) == 1
    assert len(money.wrong(whole, {"b": (zero, 2 * one)})) == 1
    assert len(money.wrong(whole, {"b": (one, one)})) == 1
    assert len(money.wrong(whole, {"b": (zero, one), "c": (one, zero)})) == 1
    assert len(money.wrong(whole, {})) == 1
