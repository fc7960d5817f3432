"""Anthropic's official SDK against our server, over every wire format that there is."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, ToolUseBlock
from pydantic import BaseModel
from tests.api import spec
from tests.api.conftest import ADMIN_TOKEN, MODEL, Served
from tests.api.http import Client, sse
from tests.crash.harness import Server

from stateline.api.messages.encode import MessageAnswer, MessageEvents
from stateline.api.messages.parse import parse_message
from stateline.core.calls import (
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    ItemStart,
    PartStart,
    ReasoningConfig,
    SidecarDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.items import FunctionCallOutput, InputFile, InputImage, Reasoning, UrlCitation
from stateline.core.items import Message as MessageItem
from stateline.testing import Answer, ScriptedCall, ScriptedUpstream
from stateline.testing.anthropic_bodies import SIGNED, MessagesAsked
from stateline.testing.scripted import Asked, ModelAsked

SHARED = Path(__file__).resolve().parents[3] / "shared"
DOCUMENT = "anthropic.json"
CLAUDE = "claude-opus-4-8"
MODELS = (CLAUDE, "scripted", "scripted-responses")
THOUGHT = "Let me look it up."
TOOL: Any = {
    "name": "look_up",
    "description": "Looks a word up.",
    "input_schema": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HELLO: Any = [{"role": "user", "content": "hello"}]


class Weather(BaseModel):
    city: str
    degrees: int


def _client(server: Served, api_key: str = "unused") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key=api_key, max_retries=0)


@pytest.fixture
def sdk(server: Served) -> Generator[anthropic.Anthropic]:
    with _client(server) as made:
        yield made


@pytest.fixture
def http(server: Served) -> Generator[Client]:
    made = Client(server.port)
    yield made
    made.close()


# -- over every format ----------------------------------------------------------------------------------


def thinks_calls_and_tells(asked: Asked, _: int) -> Answer:
    if asked.user_text.startswith("fail"):
        return Answer(status=int(asked.user_text[5:]), error_message="the provider's words", retry_after_s=99)
    if asked.tool is None:
        return Answer(text=f"You said: {asked.user_text}")
    if asked.tool_output is None:
        call = ScriptedCall(name="look_up", arguments='{"word": "wren"}')
        return Answer(reasoning=THOUGHT, text="Wait.", calls=(call, call))
    return Answer(text=f"It is {asked.tool_output}.")


@pytest.fixture
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    made = ScriptedUpstream(thinks_calls_and_tells)
    async with made:
        yield made


@pytest.fixture
async def whole_server(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncGenerator[Server]:
    settings = f"""
[[deployments]]
name = "anthropic"
model = "{CLAUDE}"
cloud = "anthropic"
base_url = "{upstream.base_url}"
auth = "none"
"""
    made = Server(tmp_path, upstream.base_url, settings=settings)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def _ask(client: anthropic.AsyncAnthropic, model: str, messages: list[Any], *, stream: bool) -> Message:
    thinking: Any = {"type": "enabled", "budget_tokens": 2048}
    if not stream:
        return await client.messages.create(
            model=model, max_tokens=4096, messages=messages, tools=[TOOL], thinking=thinking
        )
    async with client.messages.stream(
        model=model, max_tokens=4096, messages=messages, tools=[TOOL], thinking=thinking
    ) as events:
        return await events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_loop_with_thinking_works_over_every_format(
    whole_server: Server, upstream: ScriptedUpstream, stream: bool
) -> None:
    async with anthropic.AsyncAnthropic(base_url=whole_server.root, api_key="unused", max_retries=0) as client:
        for model in MODELS:
            messages: list[Any] = [{"role": "user", "content": "look it up"}]
            first = await _ask(client, model, messages, stream=stream)
            kinds = [block.type for block in first.content]
            assert (kinds, first.stop_reason) == (["thinking", "text", "tool_use", "tool_use"], "tool_use")
            calls = [block for block in first.content if isinstance(block, ToolUseBlock)]
            assert [call.input for call in calls] == [{"word": "wren"}] * 2
            messages.append({"role": "assistant", "content": first.content})
            results = [{"type": "tool_result", "tool_use_id": call.id, "content": "a bird"} for call in calls]
            messages.append({"role": "user", "content": results})
            second = await _ask(client, model, messages, stream=stream)
            assert [block.text for block in second.content if block.type == "text"] == ["It is a bird."]
            assert (second.stop_reason, second.usage.input_tokens) == ("end_turn", 10)
    asked = [each for each in upstream.requests if isinstance(each, MessagesAsked)]
    assert asked[0].body["thinking"]["type"] == "adaptive"
    replayed = asked[1].body["messages"][1]["content"][0]
    assert replayed == {"type": "thinking", "thinking": THOUGHT, "signature": SIGNED + THOUGHT}


async def test_a_client_changes_its_model_in_the_middle_of_a_tool_loop(whole_server: Server) -> None:
    async with anthropic.AsyncAnthropic(base_url=whole_server.root, api_key="unused", max_retries=0) as client:
        for before in MODELS:
            for after in MODELS:
                messages: list[Any] = [{"role": "user", "content": "look it up"}]
                first = await _ask(client, before, messages, stream=False)
                calls = [block.id for block in first.content if isinstance(block, ToolUseBlock)]
                results = [{"type": "tool_result", "tool_use_id": call, "content": "a bird"} for call in calls]
                messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
                second = await _ask(client, after, messages, stream=False)
                assert second.stop_reason == "end_turn", (before, after)


# -- the dialect ----------------------------------------------------------------------------------------


def test_a_message_is_what_the_description_says(server: Served, http: Client) -> None:
    if not SHARED.exists():
        pytest.skip("../shared, with the description, is not here")
    call = ScriptedCall(name="look_up", arguments='{"word": "x"}')
    server.script(Answer(summary="Short.", reasoning="Long.", text="Well.", calls=(call,)))
    body = {"model": MODEL, "max_tokens": 99, "messages": HELLO}
    reply = http("POST", "/v1/messages", body)
    assert reply.status == 200
    blocks = reply.json["content"]
    # A direct caller is what an absent one means; the description has it as a default and requires it.
    for block in blocks:
        if block["type"] == "tool_use":
            block["caller"] = {"type": "direct"}
    assert spec.problems(spec.validator(SHARED, "Message", DOCUMENT), {**reply.json, "content": blocks}) == []
    streamed = http("POST", "/v1/messages", {**body, "stream": True})
    events = [(name, json.loads(data)) for name, data in sse(streamed.body)]
    assert [name for name, _ in events] == [event["type"] for _, event in events]
    validator = spec.validator(SHARED, "MessageStreamEvent", DOCUMENT)
    for _, event in events:
        block = event.get("content_block", {})
        if block.get("type") == "tool_use":
            block["caller"] = {"type": "direct"}
        assert spec.problems(validator, event) == []


def test_a_stream_adds_up_to_the_same_message(server: Served, sdk: anthropic.Anthropic) -> None:
    usage = Usage(input_tokens=50, output_tokens=7, cached_tokens=30)
    server.script(Answer(reasoning="Hm.", text="Two words", usage=usage, finish_reason="length"))
    whole = sdk.messages.create(model=MODEL, max_tokens=99, messages=HELLO)
    with sdk.messages.stream(model=MODEL, max_tokens=99, messages=HELLO) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert texts == ["Two", " words"]
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    for message in (whole, final):
        assert message.stop_reason == "max_tokens"
        assert (message.usage.input_tokens, message.usage.output_tokens) == (20, 7)
        assert message.usage.cache_read_input_tokens == 30


def test_structured_output_is_parsed(server: Served, sdk: anthropic.Anthropic) -> None:
    server.script(Answer(text='{"city": "Oslo", "degrees": 3}'))
    parsed = sdk.messages.parse(model=MODEL, max_tokens=99, messages=HELLO, output_format=Weather)
    assert parsed.parsed_output == Weather(city="Oslo", degrees=3)
    asked = server.scripted.requests[-1]
    assert asked.schema is not None
    assert set(asked.schema["properties"]) == {"city", "degrees"}


def test_a_refusal_is_a_stop_reason(server: Served, sdk: anthropic.Anthropic) -> None:
    server.script(Answer(refusal="I will not."))
    message = sdk.messages.create(model=MODEL, max_tokens=99, messages=HELLO)
    assert (message.stop_reason, message.content[0].to_dict()["text"]) == ("refusal", "I will not.")


def test_everything_that_a_request_says_reaches_the_model(server: Served, sdk: anthropic.Anthropic) -> None:
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    document: Any = {"type": "document", "title": "a.pdf", "source": {"type": "url", "url": "https://x.test/a.pdf"}}
    thought: Any = {"type": "thinking", "thinking": "Hm.", "signature": "signature:s"}
    use: Any = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"word": "x"}}
    result: Any = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image], "is_error": True}
    sdk.messages.create(
        model=MODEL,
        max_tokens=77,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "see"}, image, document]},
            {"role": "assistant", "content": [thought, {"type": "redacted_thinking", "data": "redacted:d"}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
        ],
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        extra_body={"temperature": 0.5, "top_p": 0.9},
        metadata={"user_id": "u"},
        service_tier="standard_only",
        thinking={"type": "disabled"},
    )
    asked = server.scripted.requests[-1]
    assert isinstance(asked, ModelAsked)
    params = asked.request.params
    assert (params.max_output_tokens, params.stop, params.temperature, params.top_p) == (77, ("END",), 0.5, 0.9)
    assert (params.tool_choice, params.parallel_tool_calls, params.safety_identifier) == ("required", False, "u")
    assert (params.service_tier, params.reasoning and params.reasoning.effort) == ("default", "none")
    assert params.prompt_cache_key is not None
    kinds = [type(item) for item in asked.request.items]
    assert [kind.__name__ for kind in kinds] == [
        "Message", "Message", "Reasoning", "Reasoning", "FunctionCall", "FunctionCallOutput", "Message",
    ]  # fmt: skip
    said = asked.request.items[1]
    assert isinstance(said, MessageItem)
    assert said.content[1:] == (
        InputImage(image_url=f"data:image/png;base64,{PIXEL}"),
        InputFile(filename="a.pdf", file_url="https://x.test/a.pdf"),
    )
    redacted, output = asked.request.items[3], asked.request.items[5]
    assert isinstance(redacted, Reasoning)
    assert redacted.encrypted_content == "redacted:d"
    assert isinstance(output, FunctionCallOutput)
    assert output.status == "incomplete"


def test_tokens_are_counted(sdk: anthropic.Anthropic) -> None:
    few = sdk.messages.count_tokens(model=MODEL, messages=HELLO)
    more = sdk.messages.count_tokens(model=MODEL, messages=HELLO, system="Be brief. " * 50, tools=[TOOL])
    assert 0 < few.input_tokens < more.input_tokens


# -- errors ---------------------------------------------------------------------------------------------


def _bad(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 9, "messages": HELLO, **fields}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (_bad(model="nobody"), (404, "not_found_error", "model_not_found", "model")),
        (_bad(top_k=5), (400, "invalid_request_error", "unsupported_parameter", "top_k")),
        (_bad(max_tokens=0), (400, "invalid_request_error", "integer_below_min_value", "max_tokens")),
        (_bad(wings=2), (400, "invalid_request_error", "unknown_parameter", "wings")),
        (_bad(tools=[{"type": "bash_20250124", "name": "bash"}]),
         (400, "invalid_request_error", "unsupported_tool_type", "tools[0].type")),
        (_bad(tool_choice={"type": "tool", "name": "fly"}),
         (400, "invalid_request_error", "invalid_value", "tool_choice.name")),
        (_bad(messages=[{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]),
         (400, "invalid_request_error", "invalid_value", "messages[0].content[0].type")),
        (_bad(messages=[{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]),
         (400, "invalid_request_error", "invalid_value", "messages[0].content[0].type")),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_in_anthropics_shape(http: Client, body: Any, expected: tuple[Any, ...]) -> None:
    status, kind, code, param = expected
    reply = http("POST", "/v1/messages", body)
    assert (reply.status, reply.json["type"]) == (status, "error")
    assert (reply.error["type"], reply.error["code"], reply.error["param"]) == (kind, code, param)
    assert reply.headers["request-id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("model", MODELS)
async def test_the_providers_errors_arrive_as_the_sdks_own(whole_server: Server, model: str) -> None:
    expected: dict[int, type[anthropic.APIStatusError]] = {
        400: anthropic.BadRequestError,
        429: anthropic.RateLimitError,
        529: anthropic.InternalServerError,
    }
    async with anthropic.AsyncAnthropic(base_url=whole_server.root, api_key="unused", max_retries=0) as client:
        for status, raised in expected.items():
            asked: Any = [{"role": "user", "content": f"fail {status}"}]
            with pytest.raises(raised) as failed:
                await client.messages.create(model=model, max_tokens=9, messages=asked)
            assert "the provider's words" in str(failed.value)


def test_an_error_in_the_middle_of_a_stream_is_an_error_event(server: Served, sdk: anthropic.Anthropic) -> None:
    server.script(Answer(text="a few words here", end="cut", after=2, group=1))
    seen: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError) as failed,
        sdk.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as stream,
    ):
        seen += stream.text_stream
    assert "broke its answer off" in str(failed.value)


def test_a_key_goes_in_anthropics_header(tmp_path: Path) -> None:
    served = Served(tmp_path / "keys.db", auth_mode="keys").start()
    try:
        with _client(served) as client, pytest.raises(anthropic.AuthenticationError):
            client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
        admin = Client(served.port)
        made = admin("POST", "/v1/admin/keys", {"tenant": "t", "name": "k"}, {"authorization": f"Bearer {ADMIN_TOKEN}"})
        admin.close()
        with _client(served, api_key=made.json["key"]) as client:
            assert client.messages.create(model=MODEL, max_tokens=9, messages=HELLO).role == "assistant"
    finally:
        served.stop()


def test_redacted_thinking_is_passed_on() -> None:
    sealed = SidecarDelta({"encrypted_content": "redacted:abc"})
    deltas = [ItemStart("reasoning"), sealed, TextDelta("x"), Finish(reason="stop")]
    answer = MessageAnswer()
    answer.add(deltas)
    block = {"type": "redacted_thinking", "data": "redacted:abc"}
    assert answer.message("m", "n").content[0] == block
    events = [json.loads(data) for _, data in sse(bytes(MessageEvents("m", "n").encode(deltas)))]
    assert events[1]["content_block"] == block
    assert events[2] == {"type": "content_block_stop", "index": 0}


def test_calls_that_are_streamed_side_by_side_are_no_message() -> None:
    deltas = [CallStart(0, "a", "f"), CallStart(1, "b", "f"), CallDelta(0, "{")]
    with pytest.raises(ModelError) as failed:
        MessageEvents("m", "n").encode(deltas)
    assert failed.value.code == "malformed_stream"


def test_what_is_no_json_object_is_shown_as_it_is() -> None:
    answer = MessageAnswer()
    answer.add([CallStart(0, "a", "f"), CallDelta(0, '{"wor'), Finish(reason="length")])
    assert answer.message("m", "n").content[0]["input"] == {"invalid_json": '{"wor'}


def test_a_cited_page_is_a_citation_of_its_block() -> None:
    note = UrlCitation(url="https://x.test", start_index=0, end_index=1, title="X")
    answer = MessageAnswer()
    answer.add([TextDelta("x"), AnnotationDelta(note), PartStart(), TextDelta("y"), Finish(reason="stop")])
    first, second = answer.message("m", "n").content
    assert (first["citations"][0]["url"], first["citations"][0]["title"]) == ("https://x.test", "X")
    assert (second["text"], second["citations"]) == ("y", None)


def test_a_budget_of_thinking_becomes_an_effort() -> None:
    efforts: list[str | None] = []
    for budget in (1024, 4000, 10_000, 20_000, 60_000):
        thinking = {"type": "enabled", "budget_tokens": budget, "display": "summarized"}
        found = parse_message(json.dumps(_bad(thinking=thinking)).encode()).params.reasoning
        assert found is not None
        assert found.summary == "auto"
        efforts.append(found.effort)
    assert efforts == ["minimal", "low", "medium", "high", "xhigh"]
    adaptive = _bad(thinking={"type": "adaptive"}, output_config={"effort": "max"})
    assert parse_message(json.dumps(adaptive).encode()).params.reasoning == ReasoningConfig(effort="xhigh")
    bare = _bad(output_config={"effort": "low"})
    assert parse_message(json.dumps(bare).encode()).params.reasoning == ReasoningConfig(effort="low")
