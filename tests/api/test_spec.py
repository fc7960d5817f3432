"""Every object and event is what Open Responses says it is."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import MODEL, Answer, Served
from tests.api.http import Client, sse
from tests.api.spec import event_schemas, problems, validator

from stateline.api.errors import error_event
from stateline.core.calls import AnnotationDelta, Finish, ModelDelta, ModelRequest, TextDelta, Usage
from stateline.core.errors import StatelineError
from stateline.core.items import UrlCitation
from stateline.ports import Deployment
from stateline.testing.scripted import ScriptedCall

TOOL = {"type": "function", "name": "look_up", "parameters": {"type": "object"}}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look_up"}]}
SCHEMA = {"type": "json_schema", "name": "thing", "schema": {"type": "object"}, "strict": True}
CALLS = (
    ScriptedCall(name="look_up", arguments='{"word": "one"}'),
    ScriptedCall(name="look_up", arguments='{"word": "two"}'),
)


class Citing:
    """A model that cites, which no script can."""

    async def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta], None]:
        note = UrlCitation(url="https://example.com", title="Example", start_index=0, end_index=4)
        logprobs = [{"token": "Fact", "logprob": -0.1, "bytes": [70], "top_logprobs": []}]
        yield [TextDelta("Fact", logprobs), AnnotationDelta(note), Finish(reason="stop", usage=Usage())]

    async def close(self) -> None: ...


class Case:
    def __init__(self, answer: Answer | Citing, **fields: Any) -> None:
        self.answer = answer
        self.body = {"model": MODEL, "input": "hello", **fields}

    def set_up(self, server: Served) -> None:
        if isinstance(self.answer, Citing):
            server.model = self.answer
        else:
            server.script(self.answer)


CASES = {
    "text": Case(Answer(text="Hello to you")),
    "reasoning": Case(Answer(summary="short", reasoning="a deep thought", text="Hi"), reasoning={"effort": "low"}),
    "refusal": Case(Answer(refusal="I will not")),
    "calls": Case(Answer(text="Wait.", calls=CALLS), tools=[TOOL], tool_choice=ALLOWED),
    "citation": Case(Citing(), include=["message.output_text.logprobs"], top_logprobs=1),
    "schema": Case(Answer(text='{"a": 1}'), text={"format": SCHEMA, "verbosity": "low"}),
    "failed": Case(Answer(status=400, error_message="no")),
    "incomplete": Case(Answer(text="a b c", finish_reason="length"), max_output_tokens=16),
    "background": Case(Answer(text="a b"), background=True, metadata={"a": "b"}),
    "not stored": Case(Answer(text="a b"), store=False),
    "no usage": Case(Answer(text="a b", usage=None), instructions="Be brief", truncation="auto", user="u"),
}


@pytest.fixture
def http(server: Served) -> Generator[Client]:
    made = Client(server.port)
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_a_response_is_a_response_resource(server: Served, http: Client, shared: Path, name: str) -> None:
    case = CASES[name]
    case.set_up(server)
    reply = http("POST", "/v1/responses", case.body)
    assert reply.status == 200
    resource = validator(shared, "ResponseResource")
    assert problems(resource, reply.json) == []
    if case.body.get("store", True):
        again = http("GET", f"/v1/responses/{reply.json['id']}")
        assert problems(resource, again.json) == []
        items = http("GET", f"/v1/responses/{reply.json['id']}/input_items").json["data"]
        assert items
        assert all(problems(validator(shared, "ItemField"), item) == [] for item in items)


def test_streams_hold_every_event_type_as_the_specification_has_it(server: Served, http: Client, shared: Path) -> None:
    schemas = event_schemas(shared)
    seen: set[str] = set()
    for case in CASES.values():
        case.set_up(server)
        reply = http("POST", "/v1/responses", {**case.body, "stream": True})
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = list(sse(reply.body))
        assert events.pop() == (None, "[DONE]")
        numbers: list[int] = []
        for kind, data in events:
            event = json.loads(data)
            assert kind is not None
            assert event["type"] == kind
            assert problems(validator(shared, schemas[kind]), event) == []
            numbers.append(event["sequence_number"])
            seen.add(kind)
        assert numbers == list(range(len(numbers)))
    assert set(schemas) - seen == {"error"}


def test_an_error_event_is_nested_or_flat_as_the_dialect_has_it(shared: Path) -> None:
    import msgspec

    error = StatelineError("It broke.")
    nested = msgspec.to_builtins(error_event(error, "open-responses", 7))
    assert problems(validator(shared, event_schemas(shared)["error"]), nested) == []
    flat = msgspec.to_builtins(error_event(error, "openai", 7))
    assert problems(validator(shared, "ResponseErrorEvent", "openai-2.3.0-subset.json"), flat) == []


def test_reasoning_deltas_have_the_name_of_the_dialect(server: Served, http: Client) -> None:
    CASES["reasoning"].set_up(server)
    body = {**CASES["reasoning"].body, "stream": True}
    ours = {kind for kind, _ in sse(http("POST", "/v1/responses", body).body)}
    assert "response.reasoning.delta" in ours
    openais = {kind for kind, _ in sse(http("POST", "/v1/responses", body, {"stateline-dialect": "openai"}).body)}
    assert "response.reasoning_text.delta" in openais
    assert "response.reasoning.delta" not in openais


@pytest.mark.parametrize("name", [name for name in CASES if name != "failed"])
def test_a_chat_completion_is_what_openai_describes(server: Served, http: Client, shared: Path, name: str) -> None:
    CASES[name].set_up(server)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    whole = http("POST", "/v1/chat/completions", body).json
    document = "openai-2.3.0-subset.json"
    assert problems(validator(shared, "CreateChatCompletionResponse", document), whole) == []
    reply = http("POST", "/v1/chat/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
    events = list(sse(reply.body))
    assert events.pop() == (None, "[DONE]")
    for kind, data in events:
        assert kind is None
        chunk = json.loads(data)
        assert problems(validator(shared, "CreateChatCompletionStreamResponse", document), chunk) == []


def test_conversations_and_models_are_what_openai_describes(server: Served, http: Client, shared: Path) -> None:
    def check(name: str, value: object) -> None:
        assert problems(validator(shared, name, "openai-2.3.0-subset.json"), value) == []

    made = http("POST", "/v1/conversations", {"items": [{"role": "user", "content": "one"}]}).json
    check("ConversationResource", made)
    path = f"/v1/conversations/{made['id']}"
    check("ConversationItemList", http("GET", path + "/items").json)
    added = http("POST", path + "/items", {"items": [{"role": "user", "content": "two"}]}).json
    check("ConversationItemList", added)
    check("ConversationItem", http("GET", f"{path}/items/{added['first_id']}").json)
    check("DeletedConversationResource", http("DELETE", path).json)
    check("ListModelsResponse", http("GET", "/v1/models").json)
    check("Model", http("GET", f"/v1/models/{MODEL}").json)
    check("TokenCountsResource", http("POST", "/v1/responses/input_tokens", {"model": MODEL, "input": "x"}).json)
    check("ErrorResponse", http("GET", "/v1/models/nothing").json)
