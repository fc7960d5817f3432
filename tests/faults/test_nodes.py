"""Nodes that die, freeze or stall while others go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGSTOP, SIGUSR1, SIGUSR2, Signals
from typing import Any

import pytest
from tests.crash import checks
from tests.crash.harness import Server, until, upstream_report
from tests.faults.cluster import SHORT_LEASE_S, Cluster, launched, running_cluster, said
from tests.faults.load import Json, judge, record, seed_of, under_load
from tests.faults.test_database import lose_answers
from tests.postgres import new_database

from stateline.core import events as e
from stateline.core.ids import parse_response_id
from stateline.core.limits import LEASE_TTL_S
from stateline.testing.postgres_server import PostgresServer

LAPSED = "the lease could not be renewed in time"
FENCED = "has another owner now"


async def kill_some(cluster: Cluster, random: Random, kills: int) -> Json:
    """SIGKILL any node, and start it again a little later."""
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.5, 3.0))
        node = random.choice(cluster.nodes)
        await node.kill()
        await asyncio.sleep(random.uniform(0.0, 1.5))
        await node.start()
    return {"kills": kills}


async def freeze_some(cluster: Cluster, random: Random, times: int, lease_s: float) -> Json:
    """SIGSTOP any node for longer than its lease, then SIGCONT: it thinks that it still owns its sessions."""
    for _ in range(times):
        await asyncio.sleep(random.uniform(0.5, 2.0))
        node = random.choice(cluster.nodes)
        node.signal(SIGSTOP)
        await asyncio.sleep(lease_s * random.uniform(1.2, 1.5))
        node.signal(SIGCONT)
    return {"freezes": times, "lease_s": lease_s}


async def stall_some(cluster: Cluster, random: Random, signum: Signals, times: int, lease_s: float) -> Json:
    """Block any node's event loop, or all of its interpreter, for longer than the lease."""
    stalled: set[int] = set()
    for _ in range(times):
        await asyncio.sleep(random.uniform(0.5, 2.0))
        node = random.choice(cluster.nodes)
        stalled.add(cluster.nodes.index(node))
        node.signal(signum)
        await asyncio.sleep(block_s(lease_s) + 1.0)
    await until(lambda: all(LAPSED in cluster.nodes[at].tail(10_000) for at in stalled))
    return {"stalls": times, "lease_s": lease_s, "lapses": said(cluster, LAPSED)}


def block_s(lease_s: float) -> int:
    return round(lease_s * 1.3)


def stalling(lease_s: float) -> dict[str, str]:
    return {**launched(lease_s), "FAULTS_BLOCK_S": str(block_s(lease_s))}


@pytest.mark.timeout(240)
async def test_killed_and_frozen_nodes_and_lost_answers_lose_nothing(tmp_path: Path, postgres: PostgresServer) -> None:
    """The short form of most of what is here: a kill, a freeze and lost answers, under a short lease."""
    seed = seed_of()

    async def fault(cluster: Cluster, random: Random) -> Json:
        return (
            await lose_answers(cluster, random, 6)
            | await kill_some(cluster, random, 1)
            | await freeze_some(cluster, random, 1, SHORT_LEASE_S)
        )

    async with running_cluster(
        tmp_path,
        f"flaky:{seed}@0.06",
        seed=seed,
        database=postgres,
        url=await new_database(postgres, tcp=True),
        wired=True,
        environment=launched(SHORT_LEASE_S),
    ) as cluster:
        judge("short", await under_load(cluster, seed, fault, clients=8), cluster)
        # A check that finds nothing in a broken log proves nothing.
        await cluster.ask("DELETE FROM stateline_chunks WHERE seq = (SELECT min(seq) FROM stateline_chunks)")
        assert (await cluster.read_log()).gaps


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nodes_killed_again_and_again_lose_nothing(tmp_path: Path) -> None:
    seed = seed_of()
    async with running_cluster(tmp_path, f"flaky:{seed}@0.06", seed=seed) as cluster:
        result = await under_load(cluster, seed, lambda c, r: kill_some(c, r, 10))
        judge("killed", result, cluster)
        assert result["turns_resumed"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_frozen_nodes_are_fenced_when_they_come_back(tmp_path: Path) -> None:
    seed = seed_of()
    async with running_cluster(tmp_path, f"flaky:{seed}@0.06", seed=seed) as cluster:
        result = await under_load(cluster, seed, lambda c, r: freeze_some(c, r, 3, LEASE_TTL_S))
        judge("frozen", result | {"fenced": said(cluster, FENCED), "lapses": said(cluster, LAPSED)}, cluster)
        assert result["turns_resumed"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("signum", [SIGUSR1, SIGUSR2], ids=["event loop blocked", "interpreter held"])
async def test_a_stalled_node_gives_up_what_it_owns(tmp_path: Path, signum: Signals) -> None:
    seed = seed_of()
    async with running_cluster(tmp_path, f"flaky:{seed}@0.06", seed=seed, environment=stalling(LEASE_TTL_S)) as cluster:
        result = await under_load(cluster, seed, lambda c, r: stall_some(c, r, signum, 2, LEASE_TTL_S))
        judge("loop_blocked" if signum is SIGUSR1 else "interpreter_held", result, cluster)
        assert result["turns_resumed"] > 0


# -- one turn, looked at closely ---------------------------------------------------------------------------


async def turn_of(node: Server, rule: str) -> str:
    async with node.client() as client:
        return (await client.responses.create(model="scripted", input=rule, background=True)).id


async def ended(cluster: Cluster, response_id: str) -> Any:
    async with cluster.client() as client, asyncio.timeout(90):
        while True:
            response: Any = await client.responses.retrieve(response_id)
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.2)


async def test_a_zombie_with_a_recorded_call_is_fenced(tmp_path: Path, postgres: PostgresServer) -> None:
    """Stopped between the durable record of a model call and the sending of it, for longer than the lease.

    Another node makes the call under a key of its own. What the zombie still sends bears the first key,
    which nobody else sent, and nothing of it is kept.
    """
    url = await new_database(postgres, tcp=True)
    async with running_cluster(
        tmp_path, "prompt", database=postgres, url=url, environment=launched(SHORT_LEASE_S)
    ) as cluster:
        zombie = cluster.nodes[0]
        trigger = zombie.folder / "stop"
        trigger.touch()
        asking = asyncio.create_task(turn_of(zombie, "!tokens:20@20\nzombie"))
        await until(lambda: not trigger.exists())
        response_id = await ended_elsewhere(cluster)
        asked_before = len((await upstream_report(cluster.upstream_url))["requests"])
        zombie.signal(SIGCONT)
        await until(lambda: LAPSED in zombie.tail(1000) or FENCED in zombie.tail(1000))
        assert await asking == response_id
        response = await ended(cluster, response_id)
        # Whatever the zombie did in its last moments has arrived by now.
        async with zombie.client() as client:
            await client.responses.create(model="scripted", input="!tokens:3\nafter")
        report, log = await upstream_report(cluster.upstream_url), await cluster.read_log()
        own = await bodies(cluster, response_id)
        since = report["requests"][asked_before:]
        late = [row["outcome"] for row in since if row["key"].startswith(response_id[5:29])]
        record("zombie", {"calls_before": asked_before, "calls_sent_late": len(late), "outcomes": late})
        assert response.status == "completed"
        assert [body.step for body in own if isinstance(body, e.ModelCallStarted)] == [1, 2]
        assert [body.step for body in own if isinstance(body, e.ModelCallFinished)] == [2]
        assert checks.asked_twice(report) == []
        assert checks.run_twice([], log) == []
        assert log.gaps == []


async def ended_elsewhere(cluster: Cluster) -> str:
    """The one turn that was resumed, once it has its end."""
    async with asyncio.timeout(60):
        while True:
            log = await cluster.read_log()
            for response_id in log.resumed:
                if log.ends[response_id]:
                    return response_id
            await asyncio.sleep(0.2)


async def bodies(cluster: Cluster, response_id: str) -> list[e.Body]:
    sessions = "stateline_events e JOIN stateline_sessions s ON s.n = e.session"
    query = f"SELECT e.body FROM {sessions} WHERE s.id = $1 ORDER BY e.seq"
    place = parse_response_id(response_id)
    assert place is not None
    return [e.decode_body(row[0]) for row in await cluster.ask(query, place.session)]
