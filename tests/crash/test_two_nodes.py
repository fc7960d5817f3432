"""Two real server processes on one PostgreSQL database: what begins on one goes on, and is seen, on the other."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import openai
import pytest
from tests.crash.harness import Server, config_of, upstream_process
from tests.postgres import new_database

from stateline.testing.postgres_server import PostgresServer

RULE = "prompt"
COUNT = "!tokens:60@30"
"""An answer of 60 words that takes two seconds."""


@contextlib.asynccontextmanager
async def two_nodes(
    folder: Path, database: str, upstream: str, settings: str = ""
) -> AsyncGenerator[tuple[Server, Server]]:
    (folder / "url").write_text(database)
    nodes: list[Server] = []
    for name in ("a", "b"):
        place = folder / name
        place.mkdir()
        node = Server(place, upstream)
        # The URL may hold a password, so it is named; a relative path is the configuration's own.
        config = config_of(node.port, node.database, upstream)
        node.config.write_text(config.replace(f'url = "sqlite:///{node.database}"', 'url_file = "../url"') + settings)
        nodes.append(node)
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            await node.close()


@pytest.fixture
async def database(postgres: PostgresServer) -> str:
    return await new_database(postgres)


async def streamed_text(client: openai.AsyncOpenAI, response_id: str, after: int | None = None) -> tuple[str, str]:
    """The text of the last item and the last event's type, of a stream taken up at a cursor."""
    texts: dict[str, str] = {}
    last = ""
    async for event in await client.responses.retrieve(
        response_id, stream=True, starting_after=openai.omit if after is None else after
    ):
        last = event.type
        if event.type == "response.output_text.delta":
            texts[event.item_id] = texts.get(event.item_id, "") + event.delta
    return next(reversed(texts.values()), ""), last


async def test_a_response_of_one_node_is_read_streamed_cancelled_and_continued_on_the_other(
    tmp_path: Path, database: str
) -> None:
    async with (
        upstream_process(RULE) as upstream,
        two_nodes(tmp_path, database, upstream) as (a, b),
        a.client() as on_a,
        b.client() as on_b,
        asyncio.timeout(90),
    ):
        stream = await on_a.responses.create(model="scripted", input=COUNT, background=True, stream=True)
        first = await anext(aiter(stream))
        assert first.type == "response.created"
        response_id = first.response.id
        # On the other node, while it runs: as it is now, and as it grows.
        assert (await on_b.responses.retrieve(response_id)).status == "in_progress"
        text, last = await streamed_text(on_b, response_id)
        assert last == "response.completed"
        finished = await on_b.responses.retrieve(response_id)
        assert (finished.status, finished.output_text) == ("completed", text)

        more = await on_b.responses.create(model="scripted", input="more", previous_response_id=response_id)
        assert more.status == "completed"
        # The same session: the first node finds out that the other one went on.
        again = await on_a.responses.create(model="scripted", input="again", previous_response_id=more.id)
        assert more.id[5:29] == again.id[5:29] == response_id[5:29]
        items = await on_b.responses.input_items.list(again.id, order="asc")
        assert len(items.data) == 5

        running = await on_a.responses.create(model="scripted", input=COUNT, background=True)
        cancelled = await on_b.responses.cancel(running.id)
        assert cancelled.status == "cancelled"
        assert (await on_a.responses.retrieve(running.id)).status == "cancelled"

        conversation = await on_a.conversations.create()
        await on_a.responses.create(model="scripted", input="hello", conversation=conversation.id)
        await on_b.responses.create(model="scripted", input="hello", conversation=conversation.id)
        assert len((await on_a.conversations.items.list(conversation.id)).data) == 4


async def test_a_node_that_is_killed_is_followed_by_the_other(tmp_path: Path, database: str) -> None:
    async with (
        upstream_process(RULE) as upstream,
        two_nodes(tmp_path, database, upstream) as (a, b),
        a.client() as on_a,
        b.client() as on_b,
        asyncio.timeout(110),
    ):
        stream = await on_a.responses.create(model="scripted", input=COUNT, background=True, stream=True)
        response_id, cursor = "", -1
        async for event in stream:
            cursor = event.sequence_number
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.output_text.delta":
                break
        await a.kill()
        # Its lease must run out first; the reader on the other node waits, and misses nothing.
        text, last = await streamed_text(on_b, response_id, cursor)
        assert last == "response.completed"
        finished = await on_b.responses.retrieve(response_id)
        assert (finished.status, finished.output_text) == ("completed", text)


async def test_a_key_made_beside_the_servers_is_known_to_both_and_ended_on_both(tmp_path: Path, database: str) -> None:
    async with (
        upstream_process(RULE) as upstream,
        two_nodes(tmp_path, database, upstream, '[auth]\nmode = "keys"\n') as (a, b),
        asyncio.timeout(90),
    ):
        made = await keys(a, "create", "--tenant", "shop", "--name", "test")
        for node in (a, b):
            async with client_of(node, made) as client:
                assert (await client.models.list()).data
        listed = await keys(b, "list", "--json")
        key_id = listed.split('"id": "')[1].split('"')[0]
        await keys(b, "revoke", key_id)
        for node in (a, b):
            async with client_of(node, made) as client:
                while await is_known(client):  # noqa: ASYNC110 - The other process refreshes.
                    await asyncio.sleep(0.1)


async def is_known(client: openai.AsyncOpenAI) -> bool:
    try:
        await client.models.list()
    except openai.AuthenticationError:
        return False
    return True


def client_of(node: Server, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=node.base_url, api_key=key)


async def keys(node: Server, *arguments: str) -> str:
    command = (sys.executable, "-c", "from stateline.cli import main; main()", "keys", *arguments)
    done = await asyncio.to_thread(
        subprocess.run, [*command, "--config", str(node.config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
