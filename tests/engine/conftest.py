"""A real engine over a real SQLite file, with a scripted model behind it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import pytest

from stateline.core import events as e
from stateline.core.calls import FunctionTool
from stateline.core.ids import SessionRef
from stateline.core.items import InputText, Item, Message
from stateline.core.limits import TurnLimits
from stateline.core.tools import Agent, McpTool
from stateline.engine import Answerer, Engine, Submission
from stateline.engine.meter import Meter
from stateline.engine.tooling import Toolbox
from stateline.models.catalogue import Catalogue
from stateline.ports import Clock, Deployment, Observe
from stateline.stores.clock import SystemClock
from stateline.stores.memory import MemoryStore
from stateline.stores.sqlite import open_sqlite
from stateline.testing.scripted import Script, ScriptedModel


def user(text: str) -> Message:
    return Message(id="", role="user", content=(InputText(text=text),))


def asking(
    text: str | tuple[Item, ...],
    *,
    after: str | None = None,
    conversation: str | None = None,
    key: str | None = None,
    retry: bool = False,
    tools: tuple[FunctionTool, ...] = (),
    model: str = "m",
    store: bool = True,
    stream: bool = True,
    background: bool = False,
    tenant: str = "default",
    servers: tuple[McpTool, ...] = (),
    principal: str = "anonymous",
    person: str = "",
) -> Submission:
    """A submission as the API would make it."""
    request = e.TurnRequest(
        model=model,
        previous_response_id=after,
        in_conversation=conversation is not None,
        tools=tools,
        store=store,
        stream=stream,
        background=background,
        servers=servers,
    )
    return Submission(
        tenant=tenant,
        principal=principal,
        user=person,
        answerer=Answerer(principal, person, may_approve=True),
        request=request,
        input=(user(text),) if isinstance(text, str) else text,
        conversation=conversation,
        digest=f"{text}/{after}/{conversation}",
        idempotency_key=key,
        retry=retry,
    )


def deployment(name: str, **fields: object) -> Deployment:
    """One of the model ``m``; the scripted model knows it by its name, and ``a`` goes before ``b``."""
    shape: dict[str, object] = {"model": "m", "cloud": "openai", "format": "openai-chat", "base_url": ""}
    shape |= {"upstream_model": name, "priority": ord(name[0])}
    return Deployment(name=name, **(shape | fields))  # pyright: ignore[reportArgumentType]


class Lab:
    """Starts engines over one database file, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = ScriptedModel()

    def script(self, script: Script) -> ScriptedModel:
        self.model = ScriptedModel(script)
        return self.model

    @contextlib.asynccontextmanager
    async def engine(
        self,
        *,
        limits: TurnLimits | None = None,
        kill: bool = False,
        deployments: int | Sequence[Deployment] = 1,
        meter: Meter | None = None,
        clock: Clock | None = None,
        toolbox: Toolbox | None = None,
        agents: Mapping[str, Agent] | None = None,
        observe: Observe | None = None,
    ) -> AsyncGenerator[Engine]:
        """An engine that runs; with ``kill`` it ends as a killed process would, handing nothing back."""
        clock = clock or SystemClock()
        store = await open_sqlite(self.path / "stateline.db", clock=clock)
        if isinstance(deployments, int):
            deployments = [deployment(f"d{at}", upstream_model="m", priority=1) for at in range(deployments)]
        catalogue = Catalogue(deployments)
        memory = MemoryStore(clock=clock)

        def make(over: object, *, durable: bool, volatile: Engine | None = None) -> Engine:
            return Engine(
                store=over,  # pyright: ignore[reportArgumentType]
                client=self.model,
                catalogue=catalogue,
                clock=clock,
                entropy=os.urandom,
                limits=limits,
                volatile=volatile,
                durable=durable,
                meter=meter,
                toolbox=toolbox,
                agents=agents,
            )

        engine = make(store, durable=True, volatile=make(memory, durable=False))
        if observe is not None:
            engine.trace(observe)
        try:
            await engine.start()
            yield engine
        finally:
            if kill:
                await killed(engine)
            else:
                await engine.stop(grace_s=0.5)
            await memory.close()
            await store.close()


async def killed(engine: Engine) -> None:
    """End every task of an engine where it stands, with no further write."""
    store = engine.store

    async def never(*_: object, **__: object) -> object:
        raise AssertionError("a killed process writes nothing")

    for name in ("append", "release", "renew", "post", "claim"):
        setattr(store, name, never)
    for worker in list(engine.workers.values()):
        worker.task.cancel()
    await engine.stop(grace_s=0.0)


async def log_of(engine: Engine, ref: SessionRef, *, chunks: bool = True) -> list[e.Event]:
    return [event async for event in engine.store.read(ref, chunks=chunks)]


async def logged(engine: Engine, ref: SessionRef, kind: str, count: int) -> None:
    """Return once the session's log has ``count`` events of a kind."""
    found = 0
    async with contextlib.aclosing(engine.live.follow(ref, 0)) as batches:
        async for events in batches:
            found += kinds(events).count(kind)
            if found >= count:
                return


def kinds(events: list[e.Event]) -> list[str]:
    return [type(event.body).__name__ for event in events]


def texts(items: object) -> list[str]:
    """The texts of messages, in order."""
    assert isinstance(items, tuple | list)
    return [part.text for item in items if isinstance(item, Message) for part in item.content if hasattr(part, "text")]  # pyright: ignore


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
