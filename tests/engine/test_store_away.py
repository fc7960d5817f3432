"""A store that takes some writes and not others, as a database does whose disk is full."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.engine.conftest import Lab, asking, kinds, log_of, texts

from stateline.core import events as e
from stateline.core.errors import StoreUnavailable
from stateline.core.limits import CRASHES_MAX
from stateline.ports import Duplicate, Ownership
from stateline.testing import Answer


async def test_no_session_is_quarantined_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path)
    lab.script(Answer(text="said"))
    async with lab.engine() as engine, asyncio.timeout(60):
        append, left = engine.store.append, CRASHES_MAX + 1

        def full(
            own: Ownership, seq: int, events: Sequence[e.Event], *holds: Any, **options: Any
        ) -> Coroutine[Any, Any, int]:
            nonlocal left
            if left and isinstance(events[0].body, e.Chunk):
                left -= 1
                raise StoreUnavailable("no space left")
            return append(own, seq, events, *holds, **options)

        monkeypatch.setattr(engine.store, "append", full)
        accepted = await engine.submit(asking("one", background=True))
        assert texts((await engine.wait(accepted, "open-responses")).output)[-1] == "said"
        events = await log_of(engine, accepted.session)
        assert "SessionQuarantined" not in kinds(events)
        resumed = [event.body for event in events if isinstance(event.body, e.TurnResumed)]
        assert [body.clean for body in resumed] == [True] * (CRASHES_MAX + 1)


async def test_a_retry_attaches_to_its_first_try_that_was_committed_while_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path)
    lab.script(Answer(text="said", delay_ms=50, first_byte_ms=300))
    async with lab.engine() as engine, asyncio.timeout(60):
        conversation = (await engine.create_conversation("default", (), {})).id.removeprefix("conv_")
        first = await engine.submit(asking("one", conversation=conversation, background=True))
        find, looks = engine.store.find_duplicate, 0

        async def too_early(tenant: str, key: str) -> Duplicate | None:
            nonlocal looks
            looks += 1
            return None if looks == 1 else await find(tenant, key)

        monkeypatch.setattr(engine.store, "find_duplicate", too_early)
        again = await engine.submit(asking("one", conversation=conversation, background=True, retry=True))
        assert again.attached
        assert again.response_id == first.response_id
