"""What does a durable turn: the bare loop, the store through its port, the whole engine.

Each is a context manager over a new folder that gives one coroutine function, a turn.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from bench.reference_log import ReferenceLog
from stateline.core.events import Event, ItemsAdded, TurnRequest, encode_body
from stateline.core.ids import SessionRef, session_id
from stateline.core.items import InputText, Message
from stateline.engine import Engine
from stateline.engine.types import Submission
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment, ModelClient, Ownership, Store
from stateline.stores.clock import SystemClock
from stateline.stores.postgres import open_postgres
from stateline.stores.sqlite import open_sqlite
from stateline.testing import Answer, ScriptedModel

RECORDS_A_TURN = 7
RECORD_BYTES = 2000
"""Two such records and their row headers fit a SQLite page of 4096 bytes; two of 2048 do not."""
ENGINE_INPUT_BYTES = 4700
ENGINE_OUTPUT_BYTES = 4100
"""A text is in its chunks and again in the finished call, so that the turn's records come to
about RECORDS_A_TURN * RECORD_BYTES."""

MODEL = "scripted"

Turn = Callable[[int, int], Awaitable[None]]
"""Does one turn: (worker, number of the turn of that worker, from 0)."""


@asynccontextmanager
async def reference(folder: Path) -> AsyncGenerator[Turn]:
    """The bare loop."""
    log = ReferenceLog(folder / "reference.db")
    record = os.urandom(RECORD_BYTES)
    heads: dict[int, int] = {}

    async def turn(worker: int, number: int) -> None:
        head = heads.get(worker, 0)
        for _ in range(RECORDS_A_TURN):
            head += 1
            await log.append(worker, head, record)
        heads[worker] = head

    try:
        yield turn
    finally:
        await log.close()


def event_body(size: int) -> ItemsAdded:
    """An event body whose stored form is `size` bytes."""

    def of(text: str) -> ItemsAdded:
        return ItemsAdded(items=(Message(id="msg_bench", role="user", content=(InputText(text=text),)),))

    return of("x" * (size - len(encode_body(of("")))))


@asynccontextmanager
async def store(folder: Path) -> AsyncGenerator[Turn]:
    """The real store through its port, on a file."""
    async with _turns_on(await open_sqlite(folder / "store.db")) as turn:
        yield turn


@asynccontextmanager
async def postgres_store(url: str) -> AsyncGenerator[Turn]:
    """The same on PostgreSQL."""
    async with _turns_on(await open_postgres(url)) as turn:
        yield turn


@asynccontextmanager
async def _turns_on(opened: Store) -> AsyncGenerator[Turn]:
    """Appends of one event, each awaited; a session a worker."""
    body = event_body(RECORD_BYTES)
    owned: dict[int, Ownership] = {}
    heads: dict[int, int] = {}
    await opened.renew("bench", 3600)

    async def turn(worker: int, number: int) -> None:
        own = owned.get(worker)
        if own is None:
            ref = SessionRef("default", session_id(0, (worker << 2).to_bytes(9, "big")))
            await opened.create(ref)
            own = owned[worker] = Ownership(session=ref, owner="bench", epoch=1, head=0)
        head = heads.get(worker, 0)
        for _ in range(RECORDS_A_TURN):
            event = Event(session=own.session, seq=head + 1, at_ms=0, body=body)
            head = await opened.append(own, head, (event,))
        heads[worker] = head

    try:
        yield turn
    finally:
        await opened.close()


def scripted() -> ScriptedModel:
    """A model that answers in two pieces: two chunks, and so seven records a turn.

    The millisecond between them is what makes two chunks of them; it passes while the first one
    is on its way to the disk.
    """
    half = "x" * (ENGINE_OUTPUT_BYTES // 2)
    return ScriptedModel(Answer(text=f"{half} {half}", group=1, delay_ms=1.0))


@asynccontextmanager
async def engine(folder: Path) -> AsyncGenerator[Turn]:
    """The engine over the same store: a new session, a streamed model call, the ended response.

    Seven records: session created, turn requested, call started, two chunks, call finished, turn
    completed.
    """
    opened = await open_sqlite(folder / "engine.db")
    running = engine_over(opened, scripted())
    await running.start()
    try:
        yield engine_turn(running, opened)
    finally:
        await running.stop(grace_s=1.0)
        await opened.close()


def engine_over(opened: Store, client: ModelClient, *, shared: bool = False) -> Engine:
    """An engine, not started, whose model MODEL is `client`; `shared` as `Node` has it."""
    deployment = Deployment(
        name=MODEL,
        model=MODEL,
        cloud="openai-compatible",
        format="openai-chat",
        base_url="",
        upstream_model=MODEL,
    )
    return Engine(
        store=opened,
        client=client,
        catalogue=Catalogue([deployment]),
        clock=SystemClock(),
        entropy=os.urandom,
        shared=shared,
    )


def engine_turn(running: Engine, opened: Store) -> Turn:
    """A turn of that engine, in a new session each; the first one checks what it stored."""
    request = TurnRequest(model=MODEL, stream=True)
    item = Message(id="", role="user", content=(InputText(text="y" * ENGINE_INPUT_BYTES),))

    async def turn(worker: int, number: int) -> None:
        submission = Submission(tenant="default", principal=f"worker-{worker}", request=request, input=(item,))
        accepted = await running.submit(submission)
        response = await running.wait(accepted, "open-responses")
        assert response.status == "completed"
        if worker == 0 and number == 0:
            events = [event async for event in opened.read(accepted.session, chunks=True)]
            stored = sum(len(encode_body(event.body)) for event in events)
            assert len(events) == RECORDS_A_TURN, [type(event.body).__name__ for event in events]
            assert 0.9 < stored / (RECORDS_A_TURN * RECORD_BYTES) < 1.1, stored

    return turn


SYSTEMS: dict[str, Callable[[Path], AbstractAsyncContextManager[Turn]]] = {
    "reference": reference,
    "store": store,
    "engine": engine,
}
