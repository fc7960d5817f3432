"""Every cursor of a stream, while the turn runs, after it ended and after pruning."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from signal import SIGTERM
from typing import Any, NamedTuple, cast

import openai
import pytest
import pytest_asyncio
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from tests.crash.harness import Server, running_server

from stateline.testing import Answer, Gate, ScriptedCall, ScriptedUpstream
from stateline.testing.scripted import Asked

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests."
CALL = ScriptedCall(name="look_up", arguments='{"word": "fox and dog"}')


pytestmark = pytest.mark.asyncio(loop_scope="module")


class Script:
    """One answer whose pieces a test lets through; the first attempt may break off."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.gate = Gate()
        self.cut_first = False

    def __call__(self, asked: Asked, attempt: int) -> Answer:
        if self.cut_first:
            self.cut_first = False
            return Answer(text="this attempt breaks off", end="cut", after=3, delay_ms=1)
        return Answer(
            summary="Thinking briefly.",
            reasoning="A fox, a dog.",
            text=TEXT,
            calls=(CALL,),
            gate=self.gate,
            # The pieces must not melt into one chunk, or there would be few cursors to try.
            delay_ms=30,
        )


class House(NamedTuple):
    """One server for all tests of this file; a start costs more than most of them."""

    server: Server
    script: Script


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House, None]:
    script = Script()
    async with (
        ScriptedUpstream(script) as url,
        running_server(tmp_path_factory.mktemp("cursors"), url) as server,
    ):
        yield House(server, script)


@pytest.fixture
def script(house: House) -> Script:
    house.script.reset()
    return house.script


@pytest.fixture
def server(house: House) -> Server:
    return house.server


def accumulate(events: Sequence[Any]) -> Any:
    """What the SDK's accumulator makes of a whole stream; it raises on what it does not accept."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(event)
    return state._completed_response  # pyright: ignore[reportPrivateUsage]


async def after(client: openai.AsyncOpenAI, response_id: str, cursor: int) -> list[Any]:
    """The events after ``cursor`` (-1: all)."""
    extra: Any = {} if cursor < 0 else {"starting_after": cursor}
    stream: Any = await client.responses.retrieve(response_id, stream=True, **extra)
    return [event async for event in stream]


def check_numbers(events: Sequence[Any], cursor: int) -> None:
    """Counted on from the cursor; a cursor at the last event has nothing after it."""
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(cursor + 1, cursor + 1 + len(numbers)))


def essence(response: Any) -> Any:
    """A response's output, without what the SDK's parser puts in beside it."""
    return _without_parsed(response.to_dict()["output"])


def _without_parsed(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {k: _without_parsed(v) for k, v in fields.items() if k not in ("parsed", "parsed_arguments")}
    return [_without_parsed(one) for one in cast("list[Any]", value)] if isinstance(value, list) else value


async def create(client: openai.AsyncOpenAI, **options: Any) -> tuple[str, Any]:
    """A turn that streams, up to its first event; its id and its stream."""
    stream: Any = await client.responses.create(
        model="scripted-responses", input="go", stream=True, reasoning={"summary": "auto"}, **options
    )
    return (await anext(stream)).response.id, stream


async def check_all(client: openai.AsyncOpenAI, response_id: str, lived: Sequence[Any]) -> None:
    """Each cursor: what was seen up to it and what comes after it make the stored response."""
    stored = await client.responses.retrieve(response_id)
    last = lived[-1].sequence_number
    check_numbers(lived, -1)
    for cursor in range(-1, last + 1):
        rest = await after(client, response_id, cursor)
        check_numbers(rest, cursor)
        assert [seen.to_dict() for seen in rest] == [seen.to_dict() for seen in lived[cursor + 1 :]]
        final = accumulate([*lived[: cursor + 1], *rest])
        assert essence(final) == essence(stored)


async def test_every_cursor_after_the_end(server: Server, script: Script) -> None:
    script.gate.open()
    async with server.client() as client:
        response_id, stream = await create(client)
        lived = [await first_of(client, response_id)] + [event async for event in stream]
        await check_all(client, response_id, lived)
        # The SDK's own way: it asks for everything and skips by itself.
        for cursor in (0, 5, lived[-1].sequence_number):
            async with client.responses.stream(response_id=response_id, starting_after=cursor) as again:
                final = await again.get_final_response()
        assert essence(final) == essence(await client.responses.retrieve(response_id))


async def first_of(client: openai.AsyncOpenAI, response_id: str) -> Any:
    return (await after(client, response_id, -1))[0]


async def test_every_cursor_while_the_turn_runs(server: Server, script: Script) -> None:
    """A reader at each cursor, opened between two pieces of the answer, reads on to the same end."""
    async with server.client(max_retries=0) as client:
        response_id, stream = await create(client)
        lived: list[Any] = []

        async def live() -> None:
            async for event in stream:
                lived.append(event)

        reading = asyncio.create_task(live())
        readers: dict[int, asyncio.Task[list[Any]]] = {}
        while not reading.done():
            seen = lived[-1].sequence_number if lived else 0
            for cursor in range(len(readers), seen + 1):
                readers[cursor] = asyncio.create_task(after(client, response_id, cursor))
            script.gate.step()
            await asyncio.sleep(0.02)
        await reading
        lived.insert(0, await first_of(client, response_id))
        stored = await client.responses.retrieve(response_id)
        assert len(readers) > 10
        for cursor, reader in readers.items():
            rest = await reader
            check_numbers(rest, cursor)
            assert essence(accumulate([*lived[: cursor + 1], *rest])) == essence(stored)


async def test_every_cursor_of_a_turn_whose_first_attempt_broke_off(server: Server, script: Script) -> None:
    script.cut_first = True
    script.gate.open()
    async with server.client() as client:
        response_id, stream = await create(client)
        lived = [await first_of(client, response_id)] + [event async for event in stream]
        assert "breaks" not in str(essence(lived[-1].response))
        await check_all(client, response_id, lived)


async def test_every_cursor_after_a_crash_in_the_middle(server: Server, script: Script) -> None:
    async with server.client() as client:
        response_id, stream = await create(client)
        lived: list[Any] = []
        script.gate.step(12)
        with pytest.raises(openai.APIConnectionError):  # noqa: PT012
            async for event in stream:
                lived.append(event)
                if len(lived) == 12:
                    await server.kill()
        script.gate.open()
        await server.start()
        lived += await after(client, response_id, lived[-1].sequence_number)
        lived.insert(0, await first_of(client, response_id))
        await check_all(client, response_id, lived)


@pytest.mark.parametrize("cut_first", [False, True])
async def test_every_cursor_after_pruning(server: Server, script: Script, cut_first: bool) -> None:
    """Numbers stay; a cursor inside pruned deltas gets what ends them, and nothing twice."""
    script.cut_first = cut_first
    script.gate.open()
    async with server.client() as client:
        response_id, stream = await create(client)
        lived = [await first_of(client, response_id)] + [event async for event in stream]
        await prune(server)
        stored = await client.responses.retrieve(response_id)
        last = lived[-1].sequence_number
        whole = await after(client, response_id, -1)
        assert whole[0].sequence_number == 0
        assert len(whole) < len(lived)
        assert essence(accumulate(whole)) == essence(stored)
        for cursor in range(-1, last + 1):
            rest = await after(client, response_id, cursor)
            assert [seen.sequence_number for seen in rest] == sorted({seen.sequence_number for seen in rest})
            assert all(seen.sequence_number > cursor for seen in rest)
            if cursor < last:
                assert rest[-1].sequence_number == last
            both = [*lived[: cursor + 1], *rest]
            assert essence(accumulate(both)) == essence(stored)
            for text in texts_of(both).values():
                assert not text or not any(text.count(word) > 1 for word in TEXT.split()[:4])


def texts_of(events: Sequence[Any]) -> dict[str, str]:
    """What the deltas of each item add up to."""
    texts: dict[str, str] = {}
    for event in events:
        if event.type == "response.output_text.delta":
            texts[event.item_id] = texts.get(event.item_id, "") + event.delta
    return texts


async def prune(server: Server) -> None:
    """Take the chunks away, as their retention time does."""
    await server.end(SIGTERM)
    with closing(sqlite3.connect(server.database)) as db:
        assert db.execute("DELETE FROM chunks").rowcount > 0
        db.commit()
    await server.start()
