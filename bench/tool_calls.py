"""The CPU of a tool call, and 10,000 calls that wait for a person: ``python -m bench.tool_calls``.

A real server over SQLite, an agent, and a Python tool that does nothing. What a call costs is the difference between
turns that are alike but for the number of calls in their one step: it holds the policy's ruling, the two events of the
ledger, the call's item and the reading of what the model asked for, and nothing of the model calls, which are two
either way. Beside it stands the loop that a client would run instead, with the same two model calls in two requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from signal import SIGTERM
from typing import Any

import aiohttp
from tests.crash.harness import Server

from bench import report
from bench.bounds import check
from bench.proctree import cpu_s, resident_mb
from bench.stats import median, percentile
from stateline.core.ids import item_session
from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.scripted import Answer, Asked
from stateline.tools import Context, tool

MANY = 9
CONCURRENCY = 8
POLICIES = 20
RESUMED = 200
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = """
[tools]
functions = ["bench.tool_calls:nothing"]

[[agents]]
name = "clerk"
model = "scripted"
tools = [{server = "functions"}]

[[agents]]
name = "careful"
model = "scripted"
tools = [{server = "functions", require_approval = "always"}]
"""
FUNCTION = {"type": "function", "name": "functions-nothing", "parameters": {"type": "object"}, "strict": False}


@tool(effect="unsafe")
async def nothing(cents: int, context: Context) -> str:
    """Does nothing, and says when where somebody wants to know."""
    if (place := os.environ.get("BENCH_CALLED")) is not None:
        with Path(place).open("a") as out:  # noqa: ASYNC230 - What is measured ends here.
            out.write(f"{context.session} {time.time()}\n")
    return "done"


def model(asked: Asked, _: int) -> Answer:
    """As many calls as the user says, then a word."""
    if asked.tool_output is not None or asked.user_text == "0":
        return Answer(text="Done.")
    call = ScriptedCall(name="functions-nothing", arguments='{"cents": 1}')
    return Answer(calls=(call,) * int(asked.user_text))


def write_policies(folder: Path) -> None:
    """POLICIES policies, one of them about the tool, with an argument and a sum of the session's."""
    lines = [
        'permit(principal, action, resource == Tool::"functions/nothing") when { context.arguments.cents <= 5000 && '
        "context.history.sum.cents + context.arguments.cents <= 20000 };"
    ]
    lines += [
        f'permit(principal, action, resource == Tool::"s{at}/t") when {{ context.arguments.x < {at} }};'
        for at in range(POLICIES - 1)
    ]
    folder.mkdir()
    (folder / "a.cedar").write_text("\n".join(lines) + "\n")


def new_server(folder: Path, upstream: str, *, policy: bool) -> Server:
    folder.mkdir()
    settings = SETTINGS
    if policy:
        write_policies(folder / "policies")
        settings += '[policy]\npath = "policies"\n'
    return Server(folder, upstream, settings=settings, environment={"PYTHONPATH": str(ROOT)})


@contextlib.asynccontextmanager
async def served(folder: Path, *, policy: bool, upstream: str) -> AsyncGenerator[Server]:
    server = new_server(folder, upstream, policy=policy)
    try:
        yield server
    finally:
        await server.close()


async def post(http: aiohttp.ClientSession, server: Server, path: str, **body: Any) -> Any:
    async with http.post(f"{server.base_url}{path}", json=body) as reply:
        answer: Any = await reply.json()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {answer}")
        return answer


async def turn(http: aiohttp.ClientSession, server: Server, calls: int) -> None:
    """One turn of the agent's with so many calls in its one step."""
    made = await post(http, server, "/responses", model="agent/clerk", input=str(calls))
    done = [each for each in made["output"] if each["type"] == "mcp_call" and each["status"] == "completed"]
    if len(done) != calls:
        raise RuntimeError(f"{len(done)} calls of {calls}: {made}")


async def client_loop(http: aiohttp.ClientSession, server: Server, calls: int) -> None:
    """The same two model calls, where the client makes the tool call: two stored responses."""
    made = await post(http, server, "/responses", model="scripted", input=str(calls), tools=[FUNCTION])
    asked = [each for each in made["output"] if each["type"] == "function_call"]
    output = [{"type": "function_call_output", "call_id": each["call_id"], "output": "done"} for each in asked]
    previous = made["id"]
    await post(
        http, server, "/responses", model="scripted", input=output, tools=[FUNCTION], previous_response_id=previous
    )


async def cpu_ms(server: Server, http: aiohttp.ClientSession, kind: Any, calls: int, turns: int) -> float:
    """CPU of the server for one of these, in ms."""
    assert server.process is not None
    before_s = cpu_s(server.process.pid)
    left = iter(range(turns))

    async def worker() -> None:
        for _ in left:
            await kind(http, server, calls)

    await asyncio.gather(*[worker() for _ in range(CONCURRENCY)])
    return (cpu_s(server.process.pid) - before_s) * 1000 / turns


async def costs(folder: Path, rounds: int, turns: int) -> dict[str, float]:
    """Medians over the rounds; each round has all kinds, so that a machine that changes its pace changes all."""
    found: dict[str, list[float]] = {}
    async with ScriptedUpstream(model) as upstream, contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        bare = await stack.enter_async_context(served(folder / "bare", policy=False, upstream=upstream))
        full = await stack.enter_async_context(served(folder / "full", policy=True, upstream=upstream))
        await bare.start()
        await full.start()
        for number in range(-1, rounds):
            row = {
                "one": await cpu_ms(full, http, turn, 1, turns),
                "many": await cpu_ms(full, http, turn, MANY, turns),
                "one_without_policy": await cpu_ms(bare, http, turn, 1, turns),
                "many_without_policy": await cpu_ms(bare, http, turn, MANY, turns),
                "no_call": await cpu_ms(full, http, turn, 0, turns),
                "client_loop": await cpu_ms(full, http, client_loop, 1, turns),
            }
            row["a_call"] = (row["many"] - row["one"]) / (MANY - 1)
            row["a_call_without_policy"] = (row["many_without_policy"] - row["one_without_policy"]) / (MANY - 1)
            row["one_less_client_loop"] = row["one"] - row["client_loop"]
            if number >= 0:
                for name, value in row.items():
                    found.setdefault(name, []).append(value)
    return {name: round(median(values), 3) for name, values in found.items()}


async def paused(server: Server, http: aiohttp.ClientSession, count: int) -> list[str]:
    """Turns that end with a question to a person; the ids of what is asked."""
    out: list[str] = []
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            made = await post(http, server, "/responses", model="agent/careful", input="1")
            out.append(next(each["id"] for each in made["output"] if each["type"] == "mcp_approval_request"))

    await asyncio.gather(*[worker() for _ in range(CONCURRENCY)])
    return out


async def approvals(folder: Path, count: int) -> dict[str, object]:
    """What paused turns keep of the memory, and how soon after its answer a call is made."""
    async with (
        ScriptedUpstream(model) as upstream,
        aiohttp.ClientSession() as http,
        served(folder / "paused", policy=True, upstream=upstream) as server,
    ):
        called = server.folder / "called"
        server.environment["BENCH_CALLED"] = str(called)
        await server.start()
        assert server.process is not None
        memory: dict[str, float] = {}
        ids: list[str] = []
        for share in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
            ids += await paused(server, http, round(share * count) - len(ids))
            memory[str(len(ids))] = round(resident_mb(server.process.pid), 1)
        await server.end(SIGTERM)
        await server.start()
        assert server.process is not None
        again_mb = round(resident_mb(server.process.pid), 1)
        sent = await resumed(server, http, Random(1).sample(ids, min(RESUMED, count)))
        lines = [line.split() for line in called.read_text().splitlines()]
    at = {session: float(when) for session, when in lines}
    took = sorted((at[str(item_session(id_))] - when) * 1000 for id_, when in sent.items())
    return {
        "paused": count,
        "resident_mb": memory,
        "resident_mb_after_restart": again_mb,
        "resumed": len(took),
        "resume_p50_ms": round(percentile(took, 0.50), 1),
        "resume_p99_ms": round(percentile(took, 0.99), 1),
        "resume_most_ms": round(took[-1], 1),
    }


async def resumed(server: Server, http: aiohttp.ClientSession, ids: Sequence[str]) -> dict[str, float]:
    """Approve one after the other, each once the one before has ended; when each was sent (Unix seconds)."""
    sent: dict[str, float] = {}
    for id_ in ids:
        sent[id_] = time.time()
        answered = await post(http, server, f"/approvals/{id_}", approve=True)
        status = ""
        while status != "completed":
            await asyncio.sleep(0.005)
            async with http.get(f"{server.base_url}/responses/{answered['response_id']}") as reply:
                status = (await reply.json())["status"]
    return sent


async def measured(rounds: int, turns: int, count: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {"cpu_ms": await costs(folder, rounds, turns), "approvals": await approvals(folder, count)}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m bench.tool_calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--turns", type=int, default=200, help="of each kind in a round")
    parser.add_argument("--paused", type=int, default=10_000)
    parser.add_argument("--json", type=Path, default=report.RESULTS / "tools.json")
    arguments = parser.parse_args(words)
    found: dict[str, Any] = asyncio.run(measured(arguments.rounds, arguments.turns, arguments.paused))
    report.table(
        "CPU of the server, ms", ("what", "ms"), [(name, f"{value:.3f}") for name, value in found["cpu_ms"].items()]
    )
    sys.stdout.write(json.dumps(found["approvals"], indent=1) + "\n")
    figures = {
        "tool call cpu_ms": found["cpu_ms"]["a_call"],
        "resume p99_ms": found["approvals"]["resume_p99_ms"],
    }
    promised = [each for name, value in figures.items() if (each := check(name, value)) is not None]
    report.checks(promised)
    report.write(arguments.json, {**found, "promised": [asdict(each) for each in promised]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
