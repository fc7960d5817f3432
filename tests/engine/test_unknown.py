"""What the store does while its answer is lost: nothing that was recorded may wait for a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.engine.conftest import asking, kinds, log_of, logged, texts
from tests.engine.test_two_nodes import two_nodes

from stateline.core import events as e
from stateline.core.errors import StoreUnavailable
from stateline.core.session import Session
from stateline.ports import Ownership

DIALECT = "open-responses"


async def test_a_turn_whose_first_append_was_made_unheard_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(20), two_nodes() as (node, _):
        append, cut = node.store.append, asyncio.Event()

        async def unheard(own: Ownership, expected: int, events: Sequence[e.Event], *rest: Any, **how: Any) -> int:
            head = await append(own, expected, events, *rest, **how)
            if not cut.is_set():
                cut.set()
                raise StoreUnavailable("the connection was cut")
            return head

        monkeypatch.setattr(node.store, "append", unheard)
        with pytest.raises(StoreUnavailable):
            await node.submit(asking("go", key="k"))
        again = await node.submit(asking("go", key="k"))
        assert again.attached
        assert texts((await node.wait(again, DIALECT)).output) == ["go"]
        assert kinds(await log_of(node, again.session)).count("TurnRequested") == 1


async def test_a_claimed_session_that_cannot_be_read_at_once_is_taken_up_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asyncio.timeout(20), two_nodes() as (first, second):
        await second.stop(grace_s=0.0)
        done = await first.submit(asking("one"))
        await first.wait(done, DIALECT)
        read, tried = first.sessions.read, asyncio.Event()

        async def cut(ref: Any) -> Session:
            if not tried.is_set():
                tried.set()
                raise StoreUnavailable("the connection was cut")
            return await read(ref)

        monkeypatch.setattr(first.sessions, "read", cut)
        late = e.CancelRequested(response_id=done.response_id)
        await first.store.post(done.session, e.Event(session=done.session, seq=0, at_ms=0, body=late))
        first.kick()
        await tried.wait()
        await logged(first, done.session, "InputRejected", 1)
