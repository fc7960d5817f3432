"""Nodes that die, freeze or stall while others go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest
from tests.faults.cluster import SHORT_LEASE_S, Cluster, launched, running_cluster
from tests.faults.load import Json, judge, seed_of, under_load


async def kill_some(cluster: Cluster, random: Random, kills: int) -> Json:
    """SIGKILL any node, start it again a little later; never a third time within a step."""
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.5, 3.0))
        node = random.choice(cluster.nodes)
        await node.kill()
        await asyncio.sleep(random.uniform(0.0, 1.5))
        await node.start()
    return {"kills": kills}


@pytest.mark.timeout(300)
async def test_killed_nodes_lose_nothing(tmp_path: Path) -> None:
    """The short form: 3 kills under a short lease."""
    seed = seed_of()
    async with running_cluster(
        tmp_path, f"flaky:{seed}@0.06", seed=seed, environment=launched(SHORT_LEASE_S)
    ) as cluster:
        judge("kill_short", await under_load(cluster, seed, lambda c, r: kill_some(c, r, 3)), cluster)
