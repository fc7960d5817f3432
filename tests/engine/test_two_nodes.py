"""Two nodes over one store, where each may know less than the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator

import pytest
from tests.engine.conftest import asking, kinds, log_of

from stateline.core.errors import BadRequest
from stateline.core.ids import SessionRef, parse_conversation_id
from stateline.engine import Engine
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment, Duplicate
from stateline.stores.clock import SystemClock
from stateline.stores.memory import MemoryStore
from stateline.testing.scripted import ScriptedModel, echo

DIALECT = "open-responses"


@contextlib.asynccontextmanager
async def two_nodes() -> AsyncGenerator[tuple[Engine, Engine]]:
    clock = SystemClock()
    store = MemoryStore(clock=clock)
    deployment = Deployment(name="d", model="m", cloud="openai", format="openai-chat", base_url="", upstream_model="m")
    model = ScriptedModel(echo)
    nodes = [
        Engine(store=store, client=model, catalogue=Catalogue([deployment]), clock=clock, entropy=os.urandom)
        for _ in range(2)
    ]
    try:
        for node in nodes:
            await node.start()
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            await node.stop(grace_s=0.5)


async def test_a_retry_on_a_node_that_knows_less_finds_the_first_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked for its key a moment too early, and its turn then went through the inbox."""
    async with asyncio.timeout(20), two_nodes() as (first, second):
        talk = await second.create_conversation("default", (), {})
        session = parse_conversation_id(talk.id)
        assert session is not None
        request = asking("once", conversation=session, key="k")
        accepted = await first.submit(request)
        await first.wait(accepted, DIALECT)
        find = first.store.find_duplicate
        looks: list[str] = []

        async def too_early(tenant: str, dedup_key: str) -> Duplicate | None:
            looks.append(dedup_key)
            return None if len(looks) == 1 else await find(tenant, dedup_key)

        monkeypatch.setattr(first.store, "find_duplicate", too_early)
        again = await second.submit(request)
        assert again.response_id == accepted.response_id
        assert again.attached
        log = await log_of(first, SessionRef("default", session))
        assert kinds(log).count("TurnRequested") == 1
        looks.clear()
        with pytest.raises(BadRequest, match="another request body"):
            await second.submit(asking("something else", conversation=session, key="k"))
