"""Kill the server in the middle of tool calls: what may not be done twice is not, as counted at the tool.

A real MCP server counts what is executed. The server is killed before a recorded call is sent, while it is executed,
and after its answer, before that is recorded. The short form runs with the other tests; the full one is
`make tool-crash`, and writes `bench/results/tool-crash.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import openai
import pytest
from tests.crash import checks
from tests.crash.harness import START_S_MAX, Server
from tests.crash.test_crash import seed_of
from tests.crash.tool_world import Ran, Wishes, World, ledger_of, wrong

from stateline.testing import ScriptedUpstream

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "tool-crash.json"
LAUNCHER = Path(__file__).with_name("tool_launch.py")
CLIENTS = 3
PLACES = ("before", "send", "held", "after")
STATUSES = ("dispatched", "committed", "failed", "resolved", "abandoned", "refused")


class Run:
    """One server, its world, and turns that are made all the while."""

    def __init__(self, server: Server, world: World, seed: int) -> None:
        self.server = server
        self.world = world
        self.random = Random(seed)
        self.open: set[str] = set()
        self.turns = 0
        self.again: Counter[str] = Counter()

    async def turns_until(self, stop: asyncio.Event) -> None:
        """Make one turn after the other; a request that fails is made no more."""
        async with self.server.client(max_retries=0) as client:
            while not stop.is_set():
                try:
                    made = await client.responses.create(model="agent/clerk", input="Do.", background=True)
                except openai.APIError:
                    await asyncio.sleep(0.1)
                    continue
                self.open.add(made.id)
                self.turns += 1
                await self.ended(client, made.id)
                self.open.discard(made.id)
                await asyncio.sleep(0.02)

    async def ended(self, client: openai.AsyncOpenAI, response_id: str) -> Any:
        """A response once it has ended, however often the server is killed meanwhile."""
        async with asyncio.timeout(2 * START_S_MAX):
            while True:
                with contextlib.suppress(openai.APIConnectionError, openai.InternalServerError):
                    response: Any = await client.responses.retrieve(response_id)
                    if response.status not in ("queued", "in_progress"):
                        return response
                await asyncio.sleep(0.03)

    async def kill_at(self, place: str, tool: str) -> None:
        """Kill the server at the next call of a tool (``*``: of any) that comes to this place."""
        async with asyncio.timeout(START_S_MAX):
            if place == "held":
                self.world.hold(tool)
                await self.world.arrived.wait()
                await asyncio.sleep(self.random.uniform(0.0, 0.02))
            else:
                trigger = strike_file(self.server)
                trigger.with_suffix(".new").write_text(f"{signal.SIGKILL.value} {place} {tool}")
                trigger.with_suffix(".new").rename(trigger)
                assert self.server.process is not None
                await self.server.process.wait()
        await self.server.kill()
        self.world.release()

    async def kills(self, count: int) -> Counter[str]:
        """Kill and start again; every turn that was struck ends before the next call is.

        So does one of which its client heard nothing. Nothing is struck three times without a step between, which would
        be what quarantines a session.
        """
        done: Counter[str] = Counter()
        while done.total() < count:
            # Each place comes as often as the others.
            place = PLACES[sum(done[each] for each in PLACES) % len(PLACES)]
            await self.kill_at(place, self.random.choice(("pay", "*")) if done.total() >= len(PLACES) else "pay")
            done[place] += 1
            struck = set(self.open)
            if len(PLACES) <= done.total() < count and self.random.random() < 0.2:
                await self.server.spawn()
                await asyncio.sleep(self.random.uniform(0.2, 1.0))
                await self.server.kill()
                done["recovery"] += 1
            unheard = set(checks.stuck(checks.read_log(self.server.database)))
            await self.server.start()
            async with asyncio.timeout(START_S_MAX):
                while struck & self.open:  # noqa: ASYNC110 - The clients ask the server.
                    await asyncio.sleep(0.03)
                while unheard & set(checks.stuck(checks.read_log(self.server.database))):  # noqa: ASYNC110 - Nor here.
                    await asyncio.sleep(0.1)
        return done

    async def listed(self, client: openai.AsyncOpenAI, status: str) -> dict[str, Any]:
        """All effects of a status, by id."""
        found: dict[str, Any] = {}
        after = ""
        while True:
            page: Any = await client.get(f"/effects?status={status}{after}", cast_to=object)
            found |= {each["id"]: each for each in page["data"]}
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"

    async def resolve(self, client: openai.AsyncOpenAI, id_: str) -> None:
        """Say what became of a call, and see that its session goes on."""
        decision = self.random.choice(("committed", "abandoned", "retry"))
        answered: Any = await client.post(f"/effects/{id_}", body={"decision": decision}, cast_to=object)
        assert (await self.ended(client, answered["response_id"])).status in ("completed", "incomplete")
        self.again[decision] += 1


def strike_file(server: Server) -> Path:
    return server.folder / "strike"


async def tool_crash_run(folder: Path, seed: int, kills: int) -> dict[str, Any]:
    """One run; what it found, violations by name."""
    began = time.monotonic()
    world = World()
    async with ScriptedUpstream(Wishes(seed)) as upstream_url, world.served() as settings:
        server = Server(folder, upstream_url, settings=settings, program=(str(LAUNCHER),))
        server.environment["TOOL_STRIKE"] = str(strike_file(server))
        run = Run(server, world, seed)
        stop = asyncio.Event()
        try:
            await server.start()
            clients = [asyncio.create_task(run.turns_until(stop)) for _ in range(CLIENTS)]
            try:
                done = await run.kills(kills)
            finally:
                stop.set()
                await asyncio.gather(*clients)
            while checks.stuck(checks.read_log(server.database)) and time.monotonic() - began < 60 + 20 * kills:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            result = await judged(run)
        finally:
            await server.close()
    return {
        "seed": seed,
        "kills": done.total(),
        "places": dict(done),
        "seconds": round(time.monotonic() - began, 1),
    } | result


async def judged(run: Run) -> dict[str, Any]:
    """What is wrong before anybody has answered for an unknown outcome, and whether each can be answered for."""
    log, ledger, ran = checks.read_log(run.server.database), ledger_of(run.server.database), list(run.world.ran)
    async with run.server.client(max_retries=0) as client:
        unknown = await run.listed(client, "unknown")
        others = [id_ for status in STATUSES for id_ in await run.listed(client, status) if id_ in ledger.unknown]
        for id_ in unknown:
            await run.resolve(client, id_)
        left = await run.listed(client, "unknown")
        # What was made again on a person's word, or asked for after it, was done once more and no oftener.
        late = Counter(each.key for each in run.world.ran if each.tool == "pay")
    times = Counter(each.wish for each in ran)
    tools = {each.wish: each.tool for each in ran}
    violations = wrong(ran, ledger) | {
        "stuck": checks.stuck(log),
        "gaps": log.gaps,
        "run_twice": checks.run_twice([], log),
        "quarantined": ["a session was"] * log.quarantined,
        "unknown_not_listed": sorted(ledger.unknown - unknown.keys()),
        "listed_not_unknown": sorted(unknown.keys() - ledger.unknown),
        "listed_otherwise": others,
        "wrong_key_listed": [id_ for id_, each in unknown.items() if each["key"] != ledger.keys[ledger.wishes[id_]]],
        "still_unknown": sorted(left),
        "key_twice": [key for key, count in late.items() if count > 1],
    }
    return {
        "turns": run.turns,
        "tool_calls": len(times),
        "executions": len(ran),
        "again_with_the_same_key": dict(Counter(tools[wish] for wish, count in times.items() if count > 1)),
        "unknown": len(ledger.unknown),
        "unknown_that_were_executed": sum(ledger.wishes[id_] in times for id_ in ledger.unknown),
        "answered": dict(run.again),
        "violations": violations,
    }


def judge(result: dict[str, Any], folder: Path) -> None:
    """Fail with what was violated."""
    found = {name: rows[:5] for name, rows in result["violations"].items() if rows}
    summary = {name: value for name, value in result.items() if name != "violations"}
    print(json.dumps(summary))  # noqa: T201
    assert not found, f"{json.dumps(found, indent=1)}\nrun: {json.dumps(summary)}\nfolder: {folder}"
    # A run that never met what it is about would show nothing.
    assert result["unknown"] > 0
    assert 0 < result["unknown_that_were_executed"] < result["unknown"]
    assert result["kills"] < 50 or result["again_with_the_same_key"].get("put", 0) > 0


@pytest.mark.timeout(240)
async def test_kills_in_the_middle_of_tool_calls_do_nothing_twice(tmp_path: Path) -> None:
    """The short form: one kill at each place."""
    judge(await tool_crash_run(tmp_path, seed_of(), len(PLACES)), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_two_hundred_kills_in_the_middle_of_tool_calls_do_nothing_twice(tmp_path: Path) -> None:
    """The full form: 200 kills. The counts of violations go into bench/results/tool-crash.json."""
    result = await tool_crash_run(tmp_path, seed_of(), int(os.environ.get("CRASH_KILLS") or 200))
    counts = {name: len(rows) for name, rows in result["violations"].items()}
    RESULTS.write_text(json.dumps(result | {"violations": counts}, indent=1) + "\n")
    judge(result, tmp_path)


def test_the_checks_of_tool_calls_find_what_they_look_for() -> None:
    """A check that finds nothing in a broken run proves nothing."""
    from tests.crash.tool_world import Ledger

    ledger = Ledger({"a": "w1", "b": "w2", "c": "w3"}, {"w1": "s/1/2", "w2": "s/1/3"}, {"a"}, {"a", "b"}, {"c"})
    ran = [Ran("pay", "w2", "s/1/3"), Ran("pay", "w2", "s/1/4"), Ran("put", "w3", "s/1/3"), Ran("pay", "w4", "k")]
    found = {name: len(rows) for name, rows in wrong(ran, ledger).items()}
    assert found == {
        "unsafe_twice": 1,
        "keys_changed": 3,
        "keys_shared": 1,
        "done_but_failed": 1,
        "committed_undone": 1,
        "done_without_a_record": 2,
        "unknown_though_repeatable": 1,
        "two_ends": 1,
    }
