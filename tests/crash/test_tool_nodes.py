"""A node that is stopped between the record of a tool call and its sending, while another one takes over."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import openai
import pytest
from tests.crash.harness import Server, until
from tests.crash.test_tool_crash import LAUNCHER, strike_file
from tests.crash.tool_world import World
from tests.faults.cluster import SHORT_LEASE_S
from tests.faults.test_nodes import LAPSED
from tests.postgres import new_database

from stateline.stores.postgres.connecting import Connection, connect, place_of
from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.scripted import Answer, Asked

KEY = 'key_file = "../approvals"'


def as_told(asked: Asked, _: int) -> Answer:
    """Asks at once for the tools that the user names, and then says something."""
    if asked.tool_output is not None:
        return Answer(text="That is all.")
    names = asked.user_text.split()
    wished = [ScriptedCall(name=f"world-{name}", arguments=json.dumps({"wish": name})) for name in names]
    return Answer(calls=tuple(wished))


@contextlib.asynccontextmanager
async def two_nodes(folder: Path, url: str, world: World) -> AsyncGenerator[tuple[Server, Server]]:
    (folder / "url").write_text(url)
    (folder / "approvals").write_text("a-key-of-at-least-thirty-two-bytes-for-tests")
    async with ScriptedUpstream(as_told) as upstream, world.served() as settings, contextlib.AsyncExitStack() as stack:
        nodes: list[Server] = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            node = Server(
                folder / name,
                upstream,
                settings=f"{settings}\n[approvals]\n{KEY}\n",
                store='url_file = "../url"',
                program=(str(LAUNCHER),),
            )
            node.environment |= {"TOOL_STRIKE": str(strike_file(node)), "FAULTS_LEASE_S": str(SHORT_LEASE_S)}
            stack.push_async_callback(node.close)
            nodes.append(node)
        await asyncio.gather(*[node.start() for node in nodes])
        yield nodes[0], nodes[1]


def is_stopped(node: Server) -> bool:
    assert node.process is not None
    return Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Any:
    async with asyncio.timeout(60):
        while True:
            response: Any = await client.responses.retrieve(response_id)
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.05)


async def unknown(client: openai.AsyncOpenAI) -> list[tuple[str, str, str]]:
    page: Any = await client.get("/effects?status=unknown", cast_to=object)
    return [(each["id"], each["name"], each["key"]) for each in page["data"]]


async def owners(url: str, name: str) -> int:
    """How many owners a session has had."""
    db: Connection = await connect(place_of(url))
    try:
        row = await db.fetchrow(
            "SELECT max(e.epoch) FROM stateline_events e JOIN stateline_sessions s ON s.n = e.session WHERE s.id = $1",
            name,
        )
        assert row is not None
        return int(row[0])
    finally:
        await db.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("place", "tool", "late"),
    [
        pytest.param("before", "pay", None, id="before it looks at its lease"),
        pytest.param("send", "pay", "pay", id="as it sends what is unsafe", marks=pytest.mark.slow),
        pytest.param("send", "put", "put", id="as it sends what is idempotent", marks=pytest.mark.slow),
    ],
)
async def test_a_stopped_node_that_wakes_up_does_nothing_twice_that_is_unsafe(
    tmp_path: Path, postgres: PostgresServer, place: str, tool: str, late: str | None
) -> None:
    """``late``: what the first node may still send when it goes on."""
    world = World()
    url = await new_database(postgres)
    async with two_nodes(tmp_path, url, world) as (a, b), a.client() as on_a, b.client() as on_b:
        strike_file(a).write_text(f"{SIGSTOP.value} {place} {tool}")
        others = "put" if tool == "pay" else "pay"
        made = await on_a.responses.create(model="agent/clerk", input=f"{tool} {others}", background=True)
        await until(lambda: is_stopped(a))
        assert world.ran == []
        response = await ended(on_b, made.id)
        assert await owners(url, made.id[5:29]) > 1
        assert (response.status, response.incomplete_details.reason) == ("incomplete", "tool_outcome_unknown")
        [(id_, name, key)] = found = await unknown(on_b)
        assert name == "pay"
        assert [each["id"] for each in response.model_extra["stateline"]["waits_for"]] == [id_]
        # What may be done again was done by the second node; the unsafe one waits for a person.
        assert [each.tool for each in world.ran] == ["put"]
        a.signal(SIGCONT)
        await until(lambda: LAPSED in a.tail())
        await a.ready()
        await asyncio.sleep(1.0)
        done = Counter(each.tool for each in world.ran)
        # A send that has begun cannot be taken back, but is that of the one call that is on record.
        assert done["put"] in (1, 1 + (late == "put"))
        assert done["pay"] in (0, int(late == "pay"))
        assert len({each.key for each in world.ran if each.tool == "put"}) == 1
        assert all(each.key == key for each in world.ran if each.tool == "pay")
        # What the first node found out is void, and it knows that.
        assert await unknown(on_a) == found
        answered: Any = await on_a.post(f"/effects/{id_}", body={"decision": "abandoned"}, cast_to=object)
        assert (await ended(on_a, answered["response_id"])).status == "completed"
        assert await unknown(on_b) == []
        assert Counter(each.tool for each in world.ran) == done
