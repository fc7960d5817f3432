"""What the demo does, step by step, and what it verifies on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec

from stateline.cli._demo_http import ApiError, Gone, Json
from stateline.cli._demo_screen import Screen
from stateline.cli._demo_server import DemoError, ServerProcess
from stateline.cli._demo_state import State

KILL_AFTER_CHARS = 160
"""So much of the long answer is shown before the server is killed."""
FOLLOW_TRIES_MAX = 3
_ENDS = ("response.completed", "response.incomplete", "response.failed")

INTRODUCTION = "My name is Ada, and I have a cat called Babbage. Nice to meet you!"
RECALL = "What is my cat called?"
CAT = "babbage"
SHOP = "How many blue mugs do we have in stock?"
LONG = "Write a Python class Cat with a name, and methods to feed, wake and pet it. Then make my cat with it."
STOCK_TOOL: Json = {
    "type": "function",
    "name": "get_stock",
    "description": "Look up how many pieces of an item are in stock.",
    "parameters": {
        "type": "object",
        "properties": {"item": {"type": "string", "description": "The item, such as: red plate"}},
        "required": ["item"],
        "additionalProperties": False,
    },
    "strict": True,
}


class StockArguments(msgspec.Struct, forbid_unknown_fields=True):
    """What the parameters of STOCK_TOOL allow."""

    item: str


class Reader:
    """One client's view of one response's stream, over any number of connections.

    Attributes:
        cursor: the number of the last event seen, -1 before the first.
        gapless: whether each event's number was the one before plus one.
        texts: what the deltas of each message item said, by item id.
        lost: ids of items that were closed as incomplete before another attempt went on.
        response: the response object of the last event that had one.
        ended: whether the stream came to its end.
    """

    def __init__(self) -> None:
        self.cursor = -1
        self.gapless = True
        self.texts: dict[str, str] = {}
        self.lost: list[str] = []
        self.response: Json = {}
        self.ended = False

    def see(self, event: Json) -> str:
        """Take an event in; the text that it adds, or ""."""
        self.gapless = self.gapless and event["sequence_number"] == self.cursor + 1
        self.cursor = event["sequence_number"]
        self.response = event.get("response") or self.response
        kind = event["type"]
        if kind == "response.output_text.delta":
            self.texts[event["item_id"]] = self.texts.get(event["item_id"], "") + event["delta"]
            return event["delta"]
        if kind == "response.output_item.done" and event["item"].get("status") == "incomplete":
            self.lost.append(event["item"]["id"])
        self.ended = self.ended or kind in _ENDS
        return ""

    @property
    def id(self) -> str:
        return self.response["id"]

    @property
    def chars(self) -> int:
        return sum(map(len, self.texts.values()))

    @property
    def text(self) -> str:
        """The text of the answer as it ended."""
        return text_of(self.response)


def text_of(response: Json) -> str:
    parts = [part for item in response.get("output", ()) for part in item.get("content") or ()]
    return "".join([part.get("text", "") for part in parts if part.get("type") == "output_text"])


class Story:
    """The demo's steps. `failed` lists what did not hold.

    Args:
        sampling: parameters of every request, such as a temperature.
        long: parameters of the long answer besides.
    """

    def __init__(
        self, screen: Screen, server: ServerProcess, state: State, model: str, *, sampling: Json, long: Json
    ) -> None:
        self.screen = screen
        self.server = server
        self.api = server.api
        self.state = state
        self.model = model
        self.failed: list[str] = []
        self._sampling = sampling
        self._long = long

    # -- steps --------------------------------------------------------------------------------------

    def earlier_run(self) -> None:
        """What an earlier run left: its conversation, and the answer in whose middle it was stopped."""
        conversation, response = self.state.conversation, self.state.response
        if not conversation:
            return
        items = self._items(conversation)
        if not items:
            return
        self.screen.step("Your last run is still here")
        self.screen.note(f"The conversation {conversation} of your last run has {len(items)} items in the log.")
        found = response and self.api.get(f"/v1/responses/{response}")
        if found and found["status"] in ("queued", "in_progress"):
            self.screen.note("It was stopped in the middle of an answer. The server goes on with it by itself:")
            reader = Reader()
            self._follow(reader, self.api.stream(f"/v1/responses/{response}?stream=true"))
            self._verify(reader.ended, f"the interrupted answer came to its end: {reader.response.get('status')}")
        self.state.remember(response="")

    def conversation(self) -> None:
        self.screen.step("A conversation over two turns")
        made = self.api.post("/v1/conversations", {"metadata": {"made_by": "stateline demo"}})
        self.state.remember(conversation=made["id"], response="")
        self.screen.note(f"POST /v1/conversations made {made['id']}. Each turn names it and sends what is new.")
        self._ask(INTRODUCTION)
        second = self._ask(RECALL)
        self._verify(CAT in second.text.lower(), "the second turn knows what the first one said")

    def tool(self) -> None:
        self.screen.step("A tool call")
        self.screen.note("The request offers a function, get_stock(item). Only this program can run it.")
        calls = self._calls(SHOP)
        item = _valid_item(calls[0]) if calls else None
        self._verify(item is not None, "the model called get_stock, and its arguments fit the schema")
        if not calls:
            return
        stock = 10 + sum((item or "").encode()) % 80
        output = json.dumps({"item": item, "in_stock": stock})
        self.screen.says("tool", output)
        self.screen.note("The output goes back as the next turn's input.")
        results = [{"type": "function_call_output", "call_id": call["call_id"], "output": output} for call in calls]
        answer = self._ask(results)
        self._verify(str(stock) in answer.text, f"the answer uses the tool's output, {stock}")

    def crash(self) -> None:
        """A long answer, the server killed in its middle, and its stream taken up at the cursor."""
        self.screen.step("A long answer, and kill -9 in its middle")
        self.screen.note("background: true, stream: true. The turn belongs to the server, not to this connection.")
        self.screen.says("you", LONG)
        reader = Reader()
        body = self._body(LONG) | self._long | {"background": True, "stream": True}
        try:
            for event in self._shown(reader, self.api.stream("/v1/responses", body)):
                if event["type"] == "response.created":
                    self.state.remember(response=reader.id)
                if reader.chars >= KILL_AFTER_CHARS and self.server.started:
                    killed = self.server.kill()
                    self.screen.more(f" [kill -9 {killed}]", style="bold red")
        except Gone:
            if self.server.started:
                raise DemoError(f"the server ended by itself: {self.server.last_words()}") from None
        self.screen.end()
        if self.server.started:
            _require_success(reader.response)
            self.screen.note("The answer was over before it was long enough, so the server is killed after it.")
            self.server.kill()
        self.screen.note(f"The server is dead. The last event that this client saw is number {reader.cursor}.")
        self._after_the_crash(reader)

    def _after_the_crash(self, reader: Reader) -> None:
        cursor, seen = reader.cursor, set(reader.texts)
        self.screen.step("The same database, a new process")
        took_s = self.server.start()
        self.screen.note(f"$ stateline serve: answers after {took_s:.1f} s as process {self.server.pid}.")
        if not reader.ended:
            path = f"/v1/responses/{reader.id}?stream=true&starting_after={cursor}"
            self.screen.note(f"GET {path}")
            self.screen.note(
                "A model cannot go on in mid-word, so the server asked it again: the lost attempt is closed as "
                "incomplete, and what follows is a new attempt, in the same stream."
            )
            self._follow(reader, self.api.stream(path))
            numbers = f"the stream's numbers go on after {cursor} without a gap, up to {reader.cursor}"
            self._verify(reader.gapless and reader.cursor > cursor, numbers)
        self._verify(reader.ended and reader.response["status"] != "failed", "the answer came to its end")
        self._verify_the_text(reader, seen)
        self.state.remember(response="")

    def _verify_the_text(self, reader: Reader, before: set[str]) -> None:
        """What the client was shown is what the log holds."""
        stored = self.api.get(f"/v1/responses/{reader.id}") or {}
        kept = {item["id"]: text_of({"output": [item]}) for item in stored["output"] if item["type"] == "message"}
        shown = {item_id: reader.texts.get(item_id, "") for item_id in kept}
        chars = sum(map(len, kept.values()))
        self._verify(bool(kept) and shown == kept, f"the deltas add up to the stored answer, {chars} characters")
        lost = before - set(kept)
        if lost:
            self._verify(lost <= set(reader.lost), "the lost attempt is marked incomplete and is no part of the answer")

    def intact(self) -> None:
        self.screen.step("The conversation is intact")
        items = self._items(self.state.conversation)
        texts = [part.get("text", "") for item in items for part in item.get("content") or ()]
        calls = [item["type"] for item in items if item["type"].startswith("function_call")]
        self.screen.note(f"GET /v1/conversations/{self.state.conversation}/items gives {len(items)} items.")
        asked = [INTRODUCTION, RECALL, SHOP, LONG]
        self._verify(
            [text for text in texts if text in asked] == asked and calls == ["function_call", "function_call_output"],
            "all that was said before the crash is there, in order",
        )
        answer = self._ask(RECALL)
        self._verify(CAT in answer.text.lower(), "the new process knows what was said to the old one")

    # -- how ----------------------------------------------------------------------------------------

    def _body(self, content: str | list[Json]) -> Json:
        return {"model": self.model, "conversation": self.state.conversation, "input": content, **self._sampling}

    def _ask(self, content: str | list[Json]) -> Reader:
        """One streamed turn in the conversation, shown as it comes."""
        if isinstance(content, str):
            self.screen.says("you", content)
        reader = Reader()
        self._follow(reader, self.api.stream("/v1/responses", self._body(content) | {"stream": True}))
        return reader

    def _calls(self, content: str) -> list[Json]:
        """A turn that must call the tool: its calls."""
        self.screen.says("you", content)
        self.screen.begin("model")
        request = {"tools": [STOCK_TOOL], "tool_choice": "required", "parallel_tool_calls": False}
        response = self.api.post("/v1/responses", self._body(content) | request)
        calls = [item for item in response["output"] if item["type"] == "function_call"]
        self.screen.more("\n".join(f"{call['name']}({call['arguments']})" for call in calls) or text_of(response))
        self.screen.end()
        _require_success(response)
        return calls

    def _follow(self, reader: Reader, events: Iterator[Json]) -> None:
        """Show a stream to its end; a connection that breaks is taken up again at the cursor."""
        for _ in range(FOLLOW_TRIES_MAX):
            try:
                for _ in self._shown(reader, events):
                    pass
                break
            except Gone as error:
                if not reader.response or self.server.ended:
                    raise DemoError(f"the server ended by itself: {self.server.last_words()}") from error
                events = self.api.stream(f"/v1/responses/{reader.id}?stream=true&starting_after={reader.cursor}")
        self.screen.end()
        _require_success(reader.response)

    def _shown(self, reader: Reader, events: Iterator[Json]) -> Iterator[Json]:
        self.screen.begin("model")
        for event in events:
            self.screen.more(reader.see(event))
            yield event

    def _items(self, conversation: str) -> list[Json]:
        """The conversation's items, oldest first; none where it is not in this database."""
        try:
            page = self.api.get(f"/v1/conversations/{conversation}/items?order=asc&limit=100")
        except ApiError as error:
            if error.status != 404:
                raise
            return []
        return page["data"] if page else []

    def _verify(self, holds: bool, text: str) -> None:
        self.screen.check(holds, text)
        if not holds:
            self.failed.append(text)


def _valid_item(call: Json) -> str | None:
    """The item that a call asks for; None where its name or its arguments are not as the tool wants them."""
    try:
        item = msgspec.json.decode(call["arguments"], type=StockArguments).item
    except msgspec.MsgspecError:
        return None
    return item if item.strip() and call["name"] == STOCK_TOOL["name"] else None


def _require_success(response: Json) -> None:
    """Raises DemoError where the turn failed, with what the model's provider said."""
    if response.get("status") == "failed":
        error: Json = response.get("error") or {}
        raise DemoError(f"the model could not answer: {error.get('code')}: {error.get('message')}")
