"""How long a turn waits for another owner: after a kill, and after a gentle stop.

Times are those of the database's own commits (``track_commit_timestamp``), so that no poll is in them.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGTERM, Signals
from typing import NamedTuple

import pytest
from tests.crash.harness import Server, upstream_report
from tests.faults.cluster import Cluster, ask, running_cluster
from tests.faults.load import quantiles, record, seed_of

from stateline.core.ids import parse_response_id
from stateline.core.limits import LEASE_TTL_S
from stateline.stores.postgres.connecting import Connection

REPETITIONS = 10
HANDOVER_S_MAX = 1.0
TURNS = 4
_WATCH = """
CREATE TABLE freed (session bigint, at_s float8);
GRANT INSERT ON freed TO PUBLIC;
CREATE FUNCTION note_freed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO freed VALUES (old.n, extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER freed AFTER UPDATE ON stateline_sessions FOR EACH ROW
    WHEN (old.owner IS NOT NULL AND new.owner IS NULL) EXECUTE FUNCTION note_freed();
"""
"""Notes when an owner gave a session back, or was found dead."""
_TAKEN = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(e.xmin))::float8, (SELECT min(at_s) FROM freed WHERE session = s.n)
FROM stateline_events e JOIN stateline_sessions s ON s.n = e.session
WHERE s.id = $1 AND e.epoch > 1 ORDER BY e.seq LIMIT 1
"""


class Taken(NamedTuple):
    """When the first event of the next owner was committed, and when the session was free."""

    at_s: float
    freed_s: float


async def begun(node: Server, rule: str) -> list[str]:
    """Turns that run on this very node, by their ids."""
    async with node.client() as client:
        made = await asyncio.gather(
            *[client.responses.create(model="scripted", input=rule, background=True) for _ in range(TURNS)]
        )
    return [response.id for response in made]


async def taken_over(cluster: Cluster, response_ids: list[str]) -> list[Taken]:
    """How each of these turns went on under another owner."""
    places = [parse_response_id(response_id) for response_id in response_ids]

    async def look(db: Connection) -> list[Taken]:
        found: dict[str, Taken] = {}
        async with asyncio.timeout(60):
            while len(found) < len(places):
                await asyncio.sleep(0.1)
                for place in places:
                    assert place is not None
                    row = await db.fetchrow(_TAKEN, place.session)
                    if row is not None:
                        found[place.session] = Taken(row[0], row[1])
        return list(found.values())

    return await ask(cluster.url, look)


class Measured(NamedTuple):
    """Seconds, one for each repetition: to the first turn's next event, to that of the last turn, and
    from the moment the session was free."""

    first: list[float]
    last: list[float]
    since_freed: list[float]


async def measured(cluster: Cluster, random: Random, signum: Signals) -> Measured:
    out = Measured([], [], [])
    for _ in range(REPETITIONS):
        node = random.choice(cluster.nodes)
        # Long enough that none ends by itself, whatever the lease and the grace are.
        turns = await begun(node, "!tokens:300@100")
        # Anywhere between two renewals of the lease.
        await asyncio.sleep(random.uniform(0.2, 1.5))
        sent_s = time.time()
        ending = asyncio.create_task(node.end(signum))
        try:
            taken = await taken_over(cluster, turns)
        finally:
            await ending
        out.first.append(min(taken).at_s - sent_s)
        out.last.append(max(taken).at_s - sent_s)
        out.since_freed.append(max(turn.at_s - turn.freed_s for turn in taken))
        async with cluster.client() as client:
            for turn in turns:
                await client.responses.cancel(turn)
        await node.start()
    return out


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("signum", [SIGKILL, SIGTERM], ids=["killed", "stopped gently"])
async def test_another_node_goes_on_in_the_promised_time(tmp_path: Path, signum: Signals) -> None:
    seed = seed_of()
    async with running_cluster(tmp_path, "prompt", seed=seed) as cluster:
        await ask(cluster.url, lambda db: db.execute(_WATCH))
        seconds = await measured(cluster, Random(seed), signum)
        keys = [row["key"] for row in (await upstream_report(cluster.upstream_url))["requests"]]
    killed = signum is SIGKILL
    bound_s = LEASE_TTL_S + 1.0 if killed else HANDOVER_S_MAX
    figure = {
        "seed": seed,
        "promised_s": bound_s,
        **quantiles(seconds.first),
        "last_turn": quantiles(seconds.last),
        "since_free": quantiles(seconds.since_freed),
    }
    record("takeover" if killed else "handover", figure)
    assert len(keys) == len(set(keys))
    # After a gentle stop no session waits longer; after a kill, what was found dead is taken up in its turn.
    assert max(seconds.first if killed else seconds.last) <= bound_s
