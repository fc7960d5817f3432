"""Clients that use the server as applications do, and remember everything that it told them.

A client makes one turn after the other: plain, streamed, in the background; alone, in a chain, as a
fork, in a conversation, with a tool. Creating a turn is left to the SDK's own retries. What is safe to
repeat (retrieving, following a stream from a cursor) is repeated until it works.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple

import openai
from tests.crash.harness import MODELS

Outcome = Literal["running", "ended", "unknown", "refused"]
PATIENCE_S = 240.0
"""On a busy machine a restart takes many seconds, and a long answer may be killed ten times."""
PATIENT_RETRIES = 10
TURNS_A_SESSION_MAX = 4
"""Keeps a session's log short of its second snapshot, whose number would replace the first one's."""
_ENDS = ("completed", "failed", "incomplete", "cancelled")
_TOOL = {
    "type": "function",
    "name": "look_up",
    "description": "Look a word up.",
    "parameters": {
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
        "additionalProperties": False,
    },
    "strict": True,
}
_GONE = (openai.APIConnectionError, openai.InternalServerError)


class Seen(NamedTuple):
    """One stream event as a client saw it: enough to find it again."""

    number: int
    type: str
    item: str | None
    text: str | None


class Refused(Exception):
    """The server said no, with a 4xx."""


@dataclass
class Turn:
    """A turn from its client's side.

    ``acknowledged`` once an answer named its id. ``unknown`` where every try ended without an answer.
    """

    name: str
    mode: str
    response_id: str | None = None
    outcome: Outcome = "running"
    status: str | None = None
    streamed: bool = False
    events: list[Seen] = field(default_factory=list[Seen])
    resumptions: int = 0
    output: list[dict[str, Any]] | None = None
    error: str | None = None

    def acknowledge(self, response_id: str) -> None:
        assert self.response_id in (None, response_id), f"{self.name} is two responses"
        self.response_id = response_id

    def take(self, response: Any) -> None:
        """A response object, whole."""
        self.acknowledge(response.id)
        if response.status in _ENDS:
            self.status, self.outcome = response.status, "ended"
            self.output = [item.model_dump(mode="json") for item in response.output]

    def see(self, event: Any) -> None:
        """A stream event."""
        response = getattr(event, "response", None)
        if response is not None:
            self.take(response)
        self.events.append(seen_of(event.model_dump(mode="json", include=_SHOWN)))


_SHOWN = {"sequence_number", "type", "item_id", "delta", "text", "arguments", "item", "response"}


def seen_of(event: dict[str, Any]) -> Seen:
    """What of an event, in its JSON form, must be the same for every reader."""
    item: dict[str, Any] = event.get("item") or {}
    response: dict[str, Any] = event.get("response") or {}
    texts: list[str | None] = [event.get(name) for name in ("delta", "text", "arguments")]
    text = next((text for text in texts if text is not None), response.get("status"))
    return Seen(event["sequence_number"], event["type"], event.get("item_id") or item.get("id"), text)


class Client:
    """One application that makes turns until it is told to stop.

    A patient one lets the SDK retry for longer than its default, so that more of its retries find the
    server again, and makes mostly plain calls, which nothing but those retries brings to their end.
    """

    def __init__(self, number: int, sdk: openai.AsyncOpenAI, seed: int, patience_s: float = PATIENCE_S) -> None:
        self._weights = [70, 15, 10, 5] if sdk.max_retries == PATIENT_RETRIES else [25, 40, 20, 15]
        self.number = number
        self.sdk = sdk
        self.random = Random(f"{seed}/{number}")
        self.turns: list[Turn] = []
        self.patience_s = patience_s
        self.conversations: list[str] = []
        self._chain: list[str] = []
        self._conversation: tuple[str, int] | None = None
        self._call: tuple[str, str] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Make turns until ``stop``; the one that runs then is seen to its end."""
        while not stop.is_set():
            turn = await self.turn()
            # Who got no answer at all comes again a little later, as people do.
            await asyncio.sleep(self.random.uniform(0, 1.0 if turn.outcome == "unknown" else 0.3))

    async def turn(self) -> Turn:
        mode = self.random.choices(["plain", "stream", "poll", "background stream"], self._weights)[0]
        turn = Turn(f"c{self.number}r{len(self.turns)}", mode)
        self.turns.append(turn)
        request = await self._request(turn)
        if request is None:
            turn.outcome = "unknown"
            return turn
        try:
            await self._perform(turn, request)
        except _GONE as error:
            turn.error = repr(error)
            if turn.outcome == "running" and turn.response_id is None:
                turn.outcome = "unknown"
        except openai.APIStatusError as error:
            turn.outcome, turn.error = "refused", f"{error.status_code} {error.body}"
        except TimeoutError:
            turn.error = f"nothing within {self.patience_s} s"
        self._remember(turn)
        return turn

    # -- what is asked ------------------------------------------------------------------------------

    async def _request(self, turn: Turn) -> dict[str, Any] | None:
        """The arguments of ``responses.create``; None where a conversation could not be had."""
        random = self.random
        request: dict[str, Any] = {"model": random.choice(MODELS), "metadata": {"name": turn.name}}
        if self._call is not None:
            response_id, call_id = self._call
            output = {"type": "function_call_output", "call_id": call_id, "output": f"about {turn.name}"}
            return request | {"input": [output], "previous_response_id": response_id, "tools": [_TOOL]}
        # Plain calls are short: one that is killed three times without a step done is given up, rightly.
        rule = f"tokens:{random.randint(5, 12)}@30" if turn.mode == "plain" else f"tokens:{random.randint(10, 60)}@30"
        place = random.choices(["alone", "chain", "fork", "conversation", "tool"], [20, 30, 5, 30, 15])[0]
        if place == "tool":
            rule = "tools"
            request["tools"] = [_TOOL]
        elif place == "chain" and self._chain:
            request["previous_response_id"] = self._chain[-1]
        elif place == "fork" and self._chain:
            request["previous_response_id"] = random.choice(self._chain)
        elif place == "conversation":
            conversation = await self._conversation_id()
            if conversation is None:
                return None
            request["conversation"] = conversation
        else:
            self._chain = []
        return request | {"input": f"!{rule}\n{turn.name}"}

    async def _conversation_id(self) -> str | None:
        if self._conversation is None or self._conversation[1] >= TURNS_A_SESSION_MAX:
            try:
                made = await self.sdk.conversations.create()
            except _GONE:
                return None
            self.conversations.append(made.id)
            self._conversation = (made.id, 0)
        conversation, count = self._conversation
        self._conversation = (conversation, count + 1)
        return conversation

    def _remember(self, turn: Turn) -> None:
        """What the next turns go on from."""
        self._call = None
        if turn.outcome != "ended" or turn.status != "completed" or turn.response_id is None:
            # What an unknown turn left running would lock the conversation, rightly.
            self._conversation = None
            self._chain = []
            return
        for item in turn.output or []:
            if item["type"] == "function_call":
                self._call = (turn.response_id, item["call_id"])
                return
        self._chain.append(turn.response_id)
        if len(self._chain) >= TURNS_A_SESSION_MAX:
            self._chain = []

    # -- how ------------------------------------------------------------------------------------------

    async def _perform(self, turn: Turn, request: dict[str, Any]) -> None:
        if turn.mode == "plain":
            turn.take(await self.sdk.responses.create(**request))
        elif turn.mode == "poll":
            turn.take(await self.sdk.responses.create(**request, background=True))
            await self._poll(turn)
        else:
            background = turn.mode == "background stream"
            turn.streamed = True
            stream: Any = await self.sdk.responses.create(**request, stream=True, background=background)
            await self._follow(turn, stream)

    async def _poll(self, turn: Turn) -> None:
        assert turn.response_id is not None
        response_id = turn.response_id
        async with asyncio.timeout(self.patience_s):
            while turn.outcome == "running":
                await asyncio.sleep(self.random.uniform(0.05, 0.3))
                turn.take(await self._patiently(lambda: self.sdk.responses.retrieve(response_id)))

    async def _follow(self, turn: Turn, stream: Any) -> None:
        """Read the stream to its end, from the cursor again wherever it breaks."""
        async with asyncio.timeout(self.patience_s):
            while True:
                with contextlib.suppress(*_GONE):
                    async for event in stream:
                        turn.see(event)
                if turn.outcome == "ended":
                    return
                if turn.response_id is None:
                    raise openai.APIConnectionError(request=stream.response.request)
                stream = await self._resume(turn, turn.response_id, turn.events[-1].number)

    async def _resume(self, turn: Turn, response_id: str, cursor: int) -> Any:
        turn.resumptions += 1

        async def again() -> Any:
            return await self.sdk.responses.retrieve(response_id, stream=True, starting_after=cursor)

        return await self._patiently(again)

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Repeat a call that may be repeated, while the server is away."""
        while True:
            try:
                return await call()
            except _GONE:
                await asyncio.sleep(0.1)
