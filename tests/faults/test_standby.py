"""A primary with a synchronous standby: one is lost, the other goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from random import Random
from signal import SIGSTOP
from typing import Any, NamedTuple

import aiohttp
import pytest
from tests.crash.checks import replay
from tests.crash.clients import Seen, seen_of
from tests.crash.harness import Server, free_port, until
from tests.faults.cluster import Cluster, ask, children, no_postgres_skips, postmaster, running_cluster, said
from tests.faults.load import Json, judge, record, seed_of, settled, under_load
from tests.faults.test_database import HAPPENED, UNKNOWN, no_traces

from stateline.testing.postgres_server import NoPostgres, PostgresServer, find_binaries, postgres_server

NAME = "second"
STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') AND state = 'streaming'"


class Pair(NamedTuple):
    primary: PostgresServer
    standby: PostgresServer

    @property
    def url(self) -> str:
        """Both hosts; whichever takes writes is the one to use."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self)
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write&sslmode=disable"

    async def promote(self) -> None:
        await asyncio.to_thread(self.standby.run, "pg_ctl", "-D", self.standby.data, "-w", "promote")

    async def in_step(self) -> None:
        """Wait until commits wait for the standby."""
        async with asyncio.timeout(60):
            while not await ask(self.primary.url(), lambda db: db.fetchval(STREAMING)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@contextlib.contextmanager
def pair() -> Generator[Pair]:
    """A primary whose commits wait for its standby."""
    with contextlib.ExitStack() as stack:
        with no_postgres_skips():
            primary = stack.enter_context(postgres_server())
        folder = Path(tempfile.mkdtemp(prefix="stateline-pg-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        shutil.chown(folder, "postgres")
        standby = PostgresServer(find_binaries(), folder, free_port())
        source = f"host={primary.folder} port={primary.port} user=postgres application_name={NAME}"
        with no_postgres_skips():
            standby.run("pg_basebackup", "-D", standby.data, "-d", source, "-R", "-X", "stream", "-c", "fast")
            standby.start()
            # Given at the start, not in the files that the standby copied: it must not wait for itself.
            primary.stop()
            primary.settings["synchronous_standby_names"] = NAME
            primary.start()

        def stop() -> None:
            with contextlib.suppress(NoPostgres):
                standby.stop("immediate")

        stack.callback(stop)
        yield Pair(primary, standby)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_primary_that_is_lost_is_followed_by_its_standby(tmp_path: Path) -> None:
    seed = seed_of()
    with pair() as both:
        await both.in_step()

        async def fault(cluster: Cluster, random: Random) -> Json:
            await asyncio.sleep(random.uniform(1.0, 4.0))
            await asyncio.to_thread(both.primary.stop, "immediate")
            await asyncio.sleep(random.uniform(0.5, 3.0))
            await both.promote()
            return {"failovers": 1, "unknown": said(cluster, UNKNOWN), "had_happened": said(cluster, HAPPENED)}

        async with running_cluster(
            tmp_path, f"flaky:{seed}@0.06", seed=seed, database=both.primary, url=both.url
        ) as cluster:
            judge("failover", await under_load(cluster, seed, fault), cluster)
            no_traces(cluster)


CANCEL = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "then",
    [
        "standby comes back",
        "primary is lost",
    ],
)
async def test_a_commit_that_skipped_its_standby_is_not_acknowledged(tmp_path: Path, then: str) -> None:
    """The standby is gone and somebody ends the waits for it: committed here, and nowhere else for sure.

    Then the standby comes back, or the primary is lost with all that only it had: in either case nothing
    is missing that a client was told.
    """
    seed = seed_of()
    with pair() as both:
        await both.in_step()

        async def fault(cluster: Cluster, random: Random) -> Json:
            cancelled = 0
            await asyncio.sleep(random.uniform(1.0, 2.0))
            await asyncio.to_thread(both.standby.stop, "fast")
            for _ in range(30):
                await asyncio.sleep(random.uniform(0.1, 0.3))
                cancelled += await ask(both.primary.url(), lambda db: db.fetchval(CANCEL))
            if then == "standby comes back":
                await asyncio.to_thread(both.standby.start)
            else:
                await asyncio.to_thread(both.primary.stop, "immediate")
                await asyncio.to_thread(both.standby.start)
                await both.promote()
            return {
                "waits_cancelled": cancelled,
                "unknown": said(cluster, UNKNOWN),
                "had_happened": said(cluster, HAPPENED),
            }

        async with running_cluster(
            tmp_path, f"flaky:{seed}@0.06", seed=seed, database=both.primary, url=both.url
        ) as cluster:
            result = await under_load(cluster, seed, fault)
            judge(
                "standby_skipped" if then == "standby comes back" else "standby_skipped_primary_lost", result, cluster
            )
            no_traces(cluster)
            assert result["waits_cancelled"] > 0


async def followed(node: Server, response_id: str, seen: list[Seen]) -> None:
    """Everything that a reader of this node is shown, for as long as it is."""
    async with node.client(max_retries=0) as client:
        stream: Any = await client.responses.retrieve(response_id, stream=True)
        async for event in stream:
            seen.append(seen_of(event.model_dump(mode="json")))


def receiver(standby: PostgresServer) -> int:
    """The process that takes what the primary sends."""
    running = children(postmaster(standby))
    return next(pid for pid in running if b"walreceiver" in Path(f"/proc/{pid}/cmdline").read_bytes())


async def shown_nothing_new(seen: list[list[Seen]]) -> None:
    """Wait until the streams stand still: their commits wait for the standby."""
    async with asyncio.timeout(60):
        before = [-1]
        while (now := [len(each) for each in seen]) != before:
            before = now
            await asyncio.sleep(1.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_what_only_the_lost_primary_had_was_shown_to_nobody(tmp_path: Path) -> None:
    """PostgreSQL makes a commit visible to all once its wait is ended; a reader waits for the standby all the same."""
    with pair() as both:
        await both.in_step()
        async with running_cluster(tmp_path, "prompt", database=both.primary, url=both.url) as cluster:
            owner, other, _ = cluster.nodes
            seen: list[list[Seen]] = [[], []]
            async with owner.client() as client:
                made = await client.responses.create(model="scripted", input="!tokens:600@30", background=True)
            reading = [
                asyncio.create_task(followed(node, made.id, to)) for node, to in zip((owner, other), seen, strict=True)
            ]
            await until(lambda: all(len(each) > 20 for each in seen))
            # A standby that stops in order may still have taken the very commit that waits for it.
            os.kill(receiver(both.standby), SIGSTOP)
            await shown_nothing_new(seen)
            await asyncio.to_thread(both.standby.stop, "immediate")
            for _ in range(20):
                await asyncio.sleep(0.1)
                await ask(both.primary.url(), lambda db: db.fetchval(CANCEL))
            await asyncio.to_thread(both.primary.stop, "immediate")
            for task in reading:
                task.cancel()
            await asyncio.wait(reading)
            await asyncio.to_thread(both.standby.start)
            await both.promote()
            await settled(cluster)
            async with aiohttp.ClientSession() as http:
                stored = {each.number: each for each in map(seen_of, await replay(http, other.base_url, made.id, None))}
            lost = [each for each in {*seen[0], *seen[1]} if stored.get(each.number) != each]
            record("shown_by_a_primary_that_was_lost", {"events_shown": len(seen[0]), "events_lost": len(lost)})
            assert lost == []
