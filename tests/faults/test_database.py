"""The database goes away and comes back, or its answers are lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from random import Random

import pytest
from tests.crash.harness import free_port, until
from tests.faults.cluster import (
    SHORT_LEASE_S,
    Cluster,
    children,
    launched,
    no_postgres_skips,
    postmaster,
    restart_database,
    running_cluster,
    said,
)
from tests.faults.load import Json, judge, seed_of, under_load

from stateline.testing.postgres_server import NoPostgres, PostgresServer, find_binaries

UNKNOWN = "the answer to a commit was lost"
HAPPENED = "the commit did happen"


def no_traces(cluster: Cluster) -> None:
    """What goes wrong with the database is said in lines, not in stacks."""
    for node in cluster.nodes:
        text = node.log.read_text(errors="replace")
        assert "Traceback" not in text, text[text.index("Traceback") - 300 :][:3000]


async def lose_answers(cluster: Cluster, random: Random, times: int) -> Json:
    """Commits whose answer never arrives, one after the other, and now and then all connections at once."""
    wire = cluster.wire
    assert wire is not None
    cuts = 0
    for _ in range(times):
        await asyncio.sleep(random.uniform(0.1, 0.5))
        if random.random() < 0.25:
            cuts += wire.cut()
        else:
            wire.swallow += random.randint(1, 3)
    async with asyncio.timeout(60):
        while wire.swallow:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return {
        "answers_lost": wire.swallowed,
        "connections_cut": cuts,
        "unknown": said(cluster, UNKNOWN),
        "had_happened": said(cluster, HAPPENED),
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_commits_whose_answer_is_lost_are_made_once(tmp_path: Path) -> None:
    seed = seed_of()
    async with running_cluster(tmp_path, f"flaky:{seed}@0.06", seed=seed, wired=True) as cluster:
        result = await under_load(cluster, seed, lambda c, r: lose_answers(c, r, 100))
        judge("answers_lost", result, cluster)
        no_traces(cluster)
        assert result["had_happened"] > 50


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nodes_that_reach_no_database_stop_in_time_and_go_on_later(tmp_path: Path) -> None:
    """The network swallows everything for longer than the lease, in both directions, without a word."""
    seed = seed_of()

    async def fault(cluster: Cluster, random: Random) -> Json:
        wire = cluster.wire
        assert wire is not None
        for _ in range(2):
            wire.hold()
            await asyncio.sleep(SHORT_LEASE_S * random.uniform(1.5, 2.5))
            wire.let_go()
            await asyncio.sleep(3.0)
        return {"partitions": 2, "lapses": said(cluster, "the lease could not be renewed in time")}

    environment = launched(SHORT_LEASE_S)
    async with running_cluster(tmp_path, "prompt", seed=seed, wired=True, environment=environment) as cluster:
        result = await under_load(cluster, seed, fault)
        judge("partition", result, cluster)
        no_traces(cluster)
        assert result["lapses"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_a_database_that_is_restarted_loses_nothing(tmp_path: Path, mode: str) -> None:
    seed = seed_of()

    async def fault(cluster: Cluster, random: Random) -> Json:
        for _ in range(5):
            await asyncio.sleep(random.uniform(1.0, 3.0))
            await restart_database(cluster.database, mode, random)
        return {"restarts": 5, "unknown": said(cluster, UNKNOWN), "had_happened": said(cluster, HAPPENED)}

    async with running_cluster(tmp_path, f"flaky:{seed}@0.06", seed=seed) as cluster:
        judge(f"database_restarted_{mode}", await under_load(cluster, seed, fault), cluster)
        no_traces(cluster)


# -- its disk -------------------------------------------------------------------------------------------------


def complaints(log: Path) -> int:
    """How often the server could not sync."""
    return log.read_text(errors="replace").count("could not fdatasync")


@contextlib.contextmanager
def failing_syncs(database: PostgresServer) -> Generator[None]:
    """Each fdatasync of the server's log ends with EIO while this lasts."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    main = postmaster(database)
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"]
    for pid in (main, *children(main)):
        command += ["-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracing:
        try:
            yield
            if tracing.poll() is not None:
                assert tracing.stderr is not None
                pytest.skip(f"this machine does not let strace trace: {tracing.stderr.read()[:200]}")
        finally:
            tracing.send_signal(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_database_whose_disk_cannot_sync_acknowledges_nothing_that_is_not_there(tmp_path: Path) -> None:
    """PostgreSQL stops itself at a failed sync, rightly; it is started again when the disk is well."""
    seed = seed_of()

    async def fault(cluster: Cluster, random: Random) -> Json:
        log = cluster.database.folder / "log"
        failed = 0
        for _ in range(2):
            await asyncio.sleep(random.uniform(1.0, 2.0))
            with failing_syncs(cluster.database):
                before = failed
                await until(lambda before=before: complaints(log) > before)
                await asyncio.sleep(random.uniform(0.5, 1.5))
            failed = complaints(log)
            await revived(cluster.database)
        return {"syncs_failed": failed, "unknown": said(cluster, UNKNOWN)}

    async with running_cluster(tmp_path, f"flaky:{seed}@0.06", seed=seed) as cluster:
        judge("sync_failed", await under_load(cluster, seed, fault), cluster)
        no_traces(cluster)


async def revived(database: PostgresServer) -> None:
    """Start the server as its operator would, unless it came back by itself."""
    with contextlib.suppress(NoPostgres):
        await asyncio.to_thread(database.stop, "immediate")
    await asyncio.to_thread(database.start)


@contextlib.contextmanager
def small_disk(megabytes: int) -> Generator[PostgresServer]:
    """A server on a disk of its own with so much room."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    with no_postgres_skips():
        binaries = find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="stateline-pg-"))
    try:
        options = f"size={megabytes}m,mode=0777"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"this machine does not let us mount: {done.stderr.strip()}")
        try:
            shutil.chown(folder, "postgres")
            wal = {"min_wal_size": "32MB", "max_wal_size": "48MB", "wal_recycle": "off", "wal_init_zero": "on"}
            server = PostgresServer(binaries, folder, free_port(), wal)
            with no_postgres_skips():
                server.make()
                server.start()
            try:
                yield server
            finally:
                with contextlib.suppress(NoPostgres):
                    server.stop("immediate")
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(64 * 1024))
    return ballast


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_database_whose_disk_is_full_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    seed = seed_of()

    def lines(cluster: Cluster) -> int:
        # The server's own log may have no room for its complaint: what the nodes say counts.
        return said(cluster, "No space left") + said(cluster, "the store cannot be used")

    async def fault(cluster: Cluster, random: Random) -> Json:
        for _ in range(2):
            await asyncio.sleep(random.uniform(1.0, 2.0))
            before = lines(cluster)
            ballast = await asyncio.to_thread(fill, cluster.database.folder)
            await until(lambda before=before: lines(cluster) > before)
            await asyncio.sleep(random.uniform(1.0, 3.0))
            ballast.unlink()
            await revived(cluster.database)
        return {"times_full": 2, "lines": lines(cluster), "unknown": said(cluster, UNKNOWN)}

    with small_disk(160) as database:
        async with running_cluster(tmp_path, f"flaky:{seed}@0.06", seed=seed, database=database) as cluster:
            result = await under_load(cluster, seed, fault)
            judge("disk_full", result, cluster)
            no_traces(cluster)
            assert result["sessions_quarantined"] == 0
