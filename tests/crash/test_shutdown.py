"""How the server stops, and how it starts again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.crash.harness import Server, running_server, until

from stateline.core import events as e
from stateline.core import ids
from stateline.testing import Answer, Gate, ScriptedUpstream
from stateline.testing.scripted import Asked

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Script:
    """Each call of a test says other words; every piece waits at the gate."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.gate = Gate()
        self.calls: list[Asked] = []

    def __call__(self, asked: Asked, attempt: int) -> Answer:
        self.calls.append(asked)
        return Answer(text=words(len(self.calls)), gate=self.gate, delay_ms=1)


def words(call: int) -> str:
    """What the ``call``-th model call of a test says."""
    return " ".join([f"{call}w{at}" for at in range(20)])


class House(NamedTuple):
    """One server and its upstream for all tests of this file; a start costs more than most of them."""

    server: Server
    script: Script
    upstream_url: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House, None]:
    script = Script()
    async with (
        ScriptedUpstream(script) as url,
        running_server(tmp_path_factory.mktemp("shutdown"), url) as server,
    ):
        yield House(server, script, url)


@pytest.fixture
def script(house: House) -> Script:
    house.script.reset()
    return house.script


@pytest.fixture
def server(house: House) -> Server:
    return house.server


def bodies(server: Server, response_id: str) -> list[e.Body]:
    """What the session of a response has in its log, straight from the file."""
    found = ids.parse_response_id(response_id)
    assert found is not None
    query = "SELECT body FROM events WHERE session = (SELECT n FROM sessions WHERE id = ?) ORDER BY seq"
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as db:
        return [e.decode_body(raw) for (raw,) in db.execute(query, (found.session,))]


async def hanging_turn(server: Server, script: Script) -> str:
    """A background turn that waits in the middle of its answer; its id."""
    script.gate.step(5)
    async with server.client() as client:
        response = await client.responses.create(model="scripted", input="go", background=True)
    await script.gate.held()
    return response.id


async def ended(server: Server, response_id: str) -> Any:
    async with server.client() as client, asyncio.timeout(30):
        while True:
            response: Any = await client.responses.retrieve(response_id)
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("signum", [SIGTERM, SIGINT])
async def test_a_gentle_stop_hands_a_running_turn_back(server: Server, script: Script, signum: Signals) -> None:
    response_id = await hanging_turn(server, script)
    # Its own exit, or the signal's, as shells expect it.
    assert await server.end(signum) in (0, -signum, 128 + signum)
    script.gate.open()
    await server.start()
    response = await ended(server, response_id)
    assert response.status == "completed"
    assert response.output_text == words(2)
    resumed = [body for body in bodies(server, response_id) if isinstance(body, e.TurnResumed)]
    assert [body.clean for body in resumed] == [True]


async def test_a_gentle_stop_lets_a_turn_end_that_can(server: Server, script: Script) -> None:
    response_id = await hanging_turn(server, script)
    ending = asyncio.create_task(server.end(SIGTERM))
    await asyncio.sleep(0.3)
    script.gate.open()
    await ending
    await server.start()
    response = await ended(server, response_id)
    assert response.output_text == words(1)
    assert not [body for body in bodies(server, response_id) if isinstance(body, e.TurnResumed)]


async def test_a_second_signal_stops_at_once_and_loses_nothing(server: Server, script: Script) -> None:
    response_id = await hanging_turn(server, script)
    server.signal(SIGTERM)
    await asyncio.sleep(0.3)
    assert server.process is not None
    assert server.process.returncode is None
    await server.end(SIGTERM, timeout_s=2.0)
    script.gate.open()
    await server.start()
    assert (await ended(server, response_id)).status == "completed"


async def test_a_killed_turn_goes_on_at_the_next_start_without_a_client(server: Server, script: Script) -> None:
    response_id = await hanging_turn(server, script)
    await server.kill()
    script.gate.open()
    await server.start()
    await until(lambda: [body for body in bodies(server, response_id) if isinstance(body, e.TurnCompleted)])
    response = await ended(server, response_id)
    assert response.output_text == words(2)


async def test_the_retry_of_a_killed_call_attaches_to_its_turn(server: Server, script: Script) -> None:
    """The SDK retries by itself, with the same body and no key: one turn, and its answer."""
    async with server.client(max_retries=20) as client:
        asking = asyncio.create_task(client.responses.create(model="scripted", input="only once"))
        await until(lambda: len(script.calls) == 1)
        await server.kill()
        script.gate.open()
        await server.start()
        response = await asking
    assert response.output_text == words(2)
    assert len([body for body in bodies(server, response.id) if isinstance(body, e.TurnRequested)]) == 1
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as db:
        found = db.execute("SELECT count(*) FROM events WHERE instr(body, ?)", (b"only once",)).fetchone()
    assert found == (1,)


async def test_a_client_that_hangs_up_does_not_stop_its_turn(server: Server, script: Script) -> None:
    script.gate.step(5)
    async with server.client() as client:
        stream: Any = await client.responses.create(model="scripted", input="go", stream=True)
        response_id = (await anext(stream)).response.id
        await stream.close()
    script.gate.open()
    assert (await ended(server, response_id)).status == "completed"
    assert [asked.outcome for asked in script.calls] == ["finished"]


async def test_a_second_server_on_the_same_database_is_refused(house: House, tmp_path: Path) -> None:
    server = house.server
    second = Server(tmp_path, house.upstream_url)
    second.config.write_text(second.config.read_text().replace(str(second.database), str(server.database)))
    await second.spawn()
    try:
        assert second.process is not None
        async with asyncio.timeout(20):
            assert await second.process.wait() != 0
        lines = second.tail().strip().splitlines()
        assert len([line for line in lines if line.startswith("stateline:")]) == 1
        assert "Traceback" not in second.tail()
    finally:
        second.process = None
    async with server.client() as client:
        assert [model.id async for model in client.models.list()]


async def test_starting_again_many_times_changes_nothing(server: Server, script: Script) -> None:
    script.gate.open()
    async with server.client() as client:
        made = await client.responses.create(model="scripted", input="go")
        before = bodies(server, made.id)
        for _ in range(2):
            await server.end(SIGTERM)
            await server.start()
        assert (await client.responses.retrieve(made.id)).output_text == made.output_text
    assert bodies(server, made.id) == before


async def test_a_turn_that_crashes_its_worker_three_times_is_quarantined(server: Server, script: Script) -> None:
    """Killed each time before a step was done; the session ends in an error, and others go on."""
    async with server.client() as client:
        response = await client.responses.create(model="scripted", input="go", background=True)
    for calls in (1, 2, 3):
        await until(lambda calls=calls: len(script.calls) == calls)
        await server.kill()
        await server.start()
    failed = await ended(server, response.id)
    assert failed.status == "failed"
    assert failed.error.code == "session_quarantined"
    script.gate.open()
    async with server.client() as client:
        other: Any = await client.responses.create(model="scripted", input="go")
        assert other.status == "completed"
