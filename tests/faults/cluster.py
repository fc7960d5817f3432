"""Three real nodes over one real PostgreSQL, behind a load balancer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import openai
import pytest
from tests.crash import checks, money
from tests.crash.harness import Server, upstream_process
from tests.faults.network import Balancer, Wire, listening
from tests.postgres import MAKE_ROLE, ROLE

from stateline.core import events as e
from stateline.core.blobs import MARK
from stateline.stores.postgres.connecting import Connection, connect, place_of
from stateline.testing.postgres_server import NoPostgres, PostgresServer, postgres_server

NODES = 3
LAUNCHER = Path(__file__).with_name("launch.py")
SHORT_LEASE_S = 3.0
"""The lease of the short forms; the slow ones keep the real one."""
_T = TypeVar("_T")


class Cluster:
    """The nodes, what is under them, and what is before them."""

    def __init__(self, database: PostgresServer, nodes: list[Server], upstream_url: str, url: str) -> None:
        self.database = database
        self.nodes = nodes
        self.upstream_url = upstream_url
        self.url = url
        """Where the tests themselves find the database, past every wire."""
        self.root = ""
        self.wire: Wire | None = None
        self.balancer: Balancer | None = None

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        """The unmodified SDK; each request is a new connection, so any node may get it."""
        headers = {"Stateline-Dialect": "openai", "Connection": "close"}
        return openai.AsyncOpenAI(base_url=self.base_url, api_key="unused", default_headers=headers, **options)

    async def ask(self, query: str, *args: object) -> list[Any]:
        async def job(db: Connection) -> list[Any]:
            return await db.fetch(query, *args)

        return await ask(self.url, job)

    async def read_log(self) -> checks.Log:
        return checks.log_of(await ask(self.url, rows))

    async def money_wrong(self) -> list[str]:
        """Where balances are not what the log says that calls cost."""
        return await ask(self.url, wrong_money)

    async def start_what_ended(self) -> None:
        """Every node runs again; one that is stopped goes on."""
        for node in self.nodes:
            if node.process is not None and node.process.returncode is None:
                node.signal(signal.SIGCONT)
            else:
                node.process = None
                await node.start()


async def ask(url: str, job: Callable[[Connection], Awaitable[_T]]) -> _T:
    """Run a job on a connection of its own."""
    db = await connect(place_of(url))
    try:
        return await job(db)
    finally:
        await db.close()


async def _ordinary(db: Connection) -> None:
    await db.execute(f"{MAKE_ROLE}; ALTER SCHEMA public OWNER TO {ROLE}")


async def rows(db: Connection) -> checks.Rows:
    """The whole database as one picture."""
    await db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    records: dict[str, list[tuple[int, int, bytes]]] = {}
    for table in checks.RECORD_TABLES:
        found = await db.fetch(f"SELECT session, seq, body FROM stateline_{table} ORDER BY session, seq")
        records[table] = [(row[0], row[1], row[2]) for row in found]
    found = await db.fetch("SELECT n, id, head, parent_seq + 1 FROM stateline_sessions")
    await db.execute("ROLLBACK")
    return checks.Rows(records, [(row[0], row[1], row[2], row[3]) for row in found])


async def wrong_money(db: Connection) -> list[str]:
    await db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    found = await db.fetch("SELECT session, body FROM stateline_events ORDER BY session, seq")
    balances = await db.fetch("SELECT name, held, spent FROM stateline_balances")
    await db.execute("ROLLBACK")
    bodies = [(row[0], e.decode_body(row[1].removeprefix(MARK))) for row in found]
    return money.wrong(bodies, {row[0]: (row[1], row[2]) for row in balances})


@contextlib.contextmanager
def no_postgres_skips() -> Generator[None]:
    """Where no server can be started, the test is skipped."""
    try:
        yield
    except NoPostgres as error:
        pytest.skip(f"no PostgreSQL here: {error}")


@contextlib.asynccontextmanager
async def running_cluster(
    folder: Path,
    *rules: str,
    seed: int = 0,
    database: PostgresServer | None = None,
    url: str | None = None,
    wired: bool = False,
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[Cluster]:
    """A cluster, all nodes ready; gone at the end.

    Args:
        rules: of the scripted upstream.
        database: a server of the caller's; None: a new one.
        url: the DSN of the nodes; None: that of the database.
        wired: the nodes reach the database through a ``Wire``.
        environment: of the nodes' launcher.
    """
    async with contextlib.AsyncExitStack() as stack:
        if database is None:
            with no_postgres_skips():
                database = stack.enter_context(postgres_server({"track_commit_timestamp": "on"}))
        upstream_url = await stack.enter_async_context(upstream_process(*rules))
        url = url or database.url(tcp=True)
        if "sslmode" not in url:
            # The wire reads what passes.
            url += ("&" if "?" in url else "?") + "sslmode=disable"
        cluster = Cluster(database, [], upstream_url, url)
        node_url = cluster.url
        if "//postgres@" in node_url:
            # Nodes are held to row-level security; whoever looks at what they did is not.
            await ask(database.url(), _ordinary)
            node_url = node_url.replace("//postgres@", f"//{ROLE}@")
        if wired:
            cluster.wire = Wire(database.port)
            port = await stack.enter_async_context(listening(cluster.wire.handle))
            node_url = node_url.replace(f":{database.port}/", f":{port}/")
        for number in range(1, NODES + 1):
            node = new_node(folder / f"n{number}", upstream_url, node_url, environment)
            cluster.nodes.append(node)
            stack.push_async_callback(node.close)
        await asyncio.gather(*[node.start() for node in cluster.nodes])
        cluster.balancer = Balancer([node.port for node in cluster.nodes], seed)
        cluster.root = f"http://127.0.0.1:{await stack.enter_async_context(listening(cluster.balancer.handle))}"
        yield cluster


def new_node(folder: Path, upstream_url: str, url: str, environment: Mapping[str, str] | None = None) -> Server:
    folder.mkdir()
    variables = {"FAULTS_STOP": str(folder / "stop"), **(environment or {})}
    return Server(
        folder,
        upstream_url,
        settings=money.BUDGETS,
        price=money.PRICE,
        store=f"url = {json.dumps(url)}",
        program=(str(LAUNCHER),),
        environment=variables,
    )


def said(cluster: Cluster, words: str) -> int:
    """Lines of all nodes' logs with these words."""
    return sum(node.log.read_text(errors="replace").count(words) for node in cluster.nodes)


def launched(lease_s: float | None) -> dict[str, str]:
    return {} if lease_s is None else {"FAULTS_LEASE_S": str(lease_s)}


async def restart_database(database: PostgresServer, mode: str, random: Random) -> None:
    """Stop it, wait a little, start it; ``immediate`` is a crash that it recovers from."""
    await asyncio.to_thread(database.stop, mode)
    await asyncio.sleep(random.uniform(0.0, 1.0))
    await asyncio.to_thread(database.start)


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started."""
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in done.stdout.split()]


def postmaster(database: PostgresServer) -> int:
    return int((database.data / "postmaster.pid").read_text().splitlines()[0])
