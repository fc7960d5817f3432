"""Simulated clients: what people and their SDKs do to a server, over nodes that come and go.

What a client was told is kept in ``Told``; ``verify`` holds the log to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from stateline.core import events as e
from stateline.core.errors import (
    BadRequest,
    Conflict,
    NoDeployment,
    NotFound,
    Overloaded,
    StatelineError,
    StoreUnavailable,
)
from stateline.core.ids import SessionRef, parse_conversation_id
from stateline.core.items import FunctionCall, FunctionCallOutput, InputText, Item, Message
from stateline.core.response import Response, StreamEvent
from stateline.engine import Accepted, Engine, Submission
from stateline.ports import BudgetExceeded
from stateline.testing.sim.model import GONE, MODELS
from stateline.testing.sim.world import ConnectionLost, World

_T = TypeVar("_T")
_DIALECT = "open-responses"
_TRIES = 6
_KEPT = 12
"""Responses and conversations that a client remembers."""
_LONG = "word " * 1_200
"""An input that makes a failed turn worth a snapshot."""


class Told:
    """What clients were told, over all of them.

    Attributes:
        accepted: responses whose submission was acknowledged.
        keyed: each idempotency key's marker, and the responses that its tries were given.
        read: what each reader of a response saw: the cursor it began at, and its events.
        answers: responses that were waited for, as they were given.
        amended: changes that were acknowledged.
    """

    def __init__(self) -> None:
        self.accepted: dict[str, SessionRef] = {}
        self.keyed: dict[str, set[str]] = {}
        self.read: dict[str, list[tuple[int, list[StreamEvent]]]] = {}
        self.answers: dict[str, Response] = {}
        self.amended: list[tuple[SessionRef, e.Body]] = []
        self.serial = 0
        self.refused = 0
        """Requests that a budget did not pay for."""

    def next(self) -> int:
        self.serial += 1
        return self.serial


class Client:
    """One client, which does one thing after the other."""

    def __init__(self, world: World, told: Told, number: int) -> None:
        self._world = world
        self._told = told
        self._random: Random = world.random
        self._name = f"client{number}"
        self._tenant = f"tenant{number % 2}"
        self._known: list[tuple[Accepted, tuple[Item, ...]]] = []
        self._talks: list[str] = []

    async def run(self) -> None:
        while not self._world.closing:
            await self._world.loop.pause(self._random.random() ** 2 * 4)
            try:
                await self._something()
            except Exception as error:
                self._world.audit.died(f"a request of {self._name}", error)
                return
            if len(self._known) > _KEPT:
                del self._known[: len(self._known) - _KEPT]
            del self._talks[: max(len(self._talks) - 3, 0)]

    async def _something(self) -> None:
        draw = self._random.random()
        if draw < 0.80 or not self._known:
            await self._turn()
        elif draw < 0.84:
            await self._delete_response()
        elif draw < 0.90:
            await self._begin_talk()
        elif draw < 0.96 and self._talks:
            await self._amend_talk(self._random.choice(self._talks))
        else:
            accepted, _ = self._random.choice(self._known)
            await self._try(lambda engine: engine.input_items(self._tenant, accepted.response_id))

    # -- requests ----------------------------------------------------------------------------------------

    async def _try(self, make: Callable[[Engine], Coroutine[Any, Any, _T]], tries: int = _TRIES) -> _T | None:
        """Ask any node, and others when it fails; None when the answer is that it cannot be."""
        for _ in range(tries):
            try:
                return await self._world.ask(make)
            except (ConnectionLost, StoreUnavailable, Overloaded, NoDeployment):
                await self._world.loop.pause(self._random.random() * 3)
            except (BadRequest, NotFound, Conflict):
                return None
            except BudgetExceeded:
                self._told.refused += 1
                return None
            except StatelineError as error:
                self._world.audit.broken("a client is told of its own faults alone", f"{type(error).__name__}: {error}")
                return None
        return None

    async def _turn(self) -> None:
        """A response in one of its many forms, read to its end or not."""
        submission, marker = self._submission()
        accepted = await self._submitted(submission, marker)
        if accepted is None:
            return
        self._told.accepted[accepted.response_id] = accepted.session
        background = submission.request.background
        if self._random.random() < (0.35 if background else 0.1):
            await self._world.loop.pause(self._random.random() ** 2 * 3)
            cancelling = self._try(lambda engine: engine.cancel(self._tenant, accepted.response_id, _DIALECT))
            response = await cancelling
            if response is not None and response.status in ("queued", "in_progress"):
                self._world.audit.broken("a cancel has an effect", f"{response.id} is {response.status} after it")
        if submission.request.stream or (background and self._random.random() < 0.5):
            readers = [self._stream(accepted) for _ in range(2 if self._random.random() < 0.2 else 1)]
            if len(readers) > 1:
                await asyncio.gather(*readers)
            else:
                await readers[0]
        if self._random.random() < 0.7:
            response = await self._try(lambda engine: engine.wait(accepted, _DIALECT), 12)
            if response is not None:
                self._told.answers[accepted.response_id] = response
                self._known.append((accepted, response.output if response.status != "failed" else ()))

    def _submission(self) -> tuple[Submission, str]:
        random = self._random
        draw, serial = random.random(), self._told.next()
        text = f"{self._name} says {serial}" + (_LONG if random.random() < 0.15 else "")
        items: list[Item] = [Message(id="", role="user", content=(InputText(text=text),))]
        previous = talk = None
        if draw < 0.45 and self._known:
            # The latest is continued in place, an older one as a fork.
            accepted, output = self._known[-1] if random.random() < 0.7 else random.choice(self._known)
            previous = accepted.response_id
            calls = [item for item in output if isinstance(item, FunctionCall)]
            items[:0] = [FunctionCallOutput(id="", call_id=call.call_id, output="done") for call in calls]
        elif draw < 0.75 and self._talks:
            talk = random.choice(self._talks)
        mode = random.random()
        model = GONE if random.random() < 0.05 else random.choice(MODELS if draw < 0.9 else ("flaky",))
        request = e.TurnRequest(
            model=model,
            previous_response_id=previous,
            in_conversation=talk is not None,
            stream=mode < 0.64,
            background=0.5 < mode < 0.94,
        )
        keyed = random.random() < 0.5
        submission = Submission(
            tenant=self._tenant,
            principal=self._name,
            request=request,
            input=tuple(items),
            conversation=talk,
            digest=f"{self._name}/{serial}",
            idempotency_key=f"key{serial}" if keyed else None,
        )
        return submission, f"{self._name} says {serial}"

    async def _submitted(self, submission: Submission, marker: str) -> Accepted | None:
        """Submit, and again with the same key (to another node, or to two at once) when it failed."""
        keyed, random = submission.idempotency_key is not None, self._random
        if not keyed:
            return await self._try(lambda engine: engine.submit(submission), 1)
        given = self._told.keyed.setdefault(marker, set())
        accepted: Accepted | None = None
        twice = random.random() < 0.1
        tries = [self._try(lambda engine: engine.submit(submission)) for _ in range(2 if twice else 1)]
        for result in await asyncio.gather(*tries):
            if result is not None:
                given.add(result.response_id)
                accepted = result
        if accepted is not None and random.random() < 0.15:
            # Its answer got lost on the way, it thinks.
            again = await self._try(lambda engine: engine.submit(submission))
            if again is not None:
                given.add(again.response_id)
        return accepted

    # -- streams ------------------------------------------------------------------------------------------

    async def _stream(self, accepted: Accepted) -> None:
        """Read to the end, breaking off and resuming on any node from the last number seen."""
        random = self._random
        cursor = -1 if random.random() < 0.9 else random.randrange(12)
        seen: list[StreamEvent] = []
        self._told.read.setdefault(accepted.response_id, []).append((cursor, seen))
        for _ in range(30):
            limit = random.randrange(1, 60) if random.random() < 0.3 else 1 << 30
            start = seen[-1].sequence_number if seen else cursor
            try:
                if await self._world.ask(lambda engine, s=start, n=limit: self._pump(engine, accepted, s, n, seen)):
                    return
            except (ConnectionLost, StoreUnavailable, Overloaded, NoDeployment):
                await self._world.loop.pause(random.random())
            except NotFound:
                return

    async def _pump(self, engine: Engine, accepted: Accepted, cursor: int, limit: int, seen: list[StreamEvent]) -> bool:
        """On the node: hand over what it streams. True at the end of the stream."""
        last = cursor
        async with contextlib.aclosing(engine.stream(accepted, cursor=cursor)) as batches:
            async for batch in batches:
                for event in batch:
                    if event.sequence_number <= last:
                        detail = f"{event.sequence_number} after {last} of {accepted.response_id}"
                        self._world.audit.broken("sequence numbers grow", detail)
                        return True
                    last = event.sequence_number
                seen += batch
                limit -= len(batch)
                if limit <= 0:
                    return False
        return True

    # -- what is no turn -----------------------------------------------------------------------------------

    async def _delete_response(self) -> None:
        accepted, _ = self._random.choice(self._known)
        body = e.ResponseDeleted(response_id=accepted.response_id)
        async with self._amending(accepted.session, body) as done:
            done.append(await self._acknowledged(lambda engine: engine.delete_response(self._tenant, body.response_id)))

    async def _begin_talk(self) -> None:
        talk = await self._try(lambda engine: engine.create_conversation(self._tenant, (), {}), 1)
        if talk is not None:
            session = parse_conversation_id(talk.id)
            assert session is not None
            self._talks.append(session)

    async def _amend_talk(self, talk: str) -> None:
        ref, draw = SessionRef(self._tenant, talk), self._random.random()
        if draw < 0.5:
            text = f"{self._name} adds {self._told.next()}" + _LONG
            item = Message(id="", role="user", content=(InputText(text=text),))
            added = await self._try(lambda engine: engine.add_items(self._tenant, talk, (item,)), 1)
            if added is not None:
                self._told.amended.append((ref, e.ItemsAdded(items=added)))
        elif draw < 0.75:
            items = await self._try(lambda engine: engine.conversation_items(self._tenant, talk))
            if items:
                victim = self._random.choice(items).id
                async with self._amending(ref, e.ItemDeleted(item_id=victim)) as done:
                    done.append(await self._acknowledged(lambda engine: engine.delete_item(self._tenant, talk, victim)))
        elif draw < 0.95:
            metadata = {"n": str(self._told.next())}
            async with self._amending(ref, e.SessionUpdated(metadata=metadata)) as done:
                done.append(
                    await self._acknowledged(lambda engine: engine.update_conversation(self._tenant, talk, metadata))
                )
        else:
            async with self._amending(ref, e.SessionDeleted()) as done:
                done.append(await self._acknowledged(lambda engine: engine.delete_conversation(self._tenant, talk)))
            self._talks.remove(talk)

    async def _acknowledged(self, make: Callable[[Engine], Coroutine[Any, Any, Any]]) -> bool:
        """Whether a change was said to be made; one try, since it may be made twice otherwise."""

        async def marked(engine: Engine) -> bool:
            await make(engine)
            return True

        return await self._try(marked, 1) is True

    @contextlib.asynccontextmanager
    async def _amending(self, ref: SessionRef, body: e.Body) -> AsyncGenerator[list[bool]]:
        done: list[bool] = []
        yield done
        if done == [True]:
            self._told.amended.append((ref, body))
