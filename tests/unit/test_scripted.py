"""The scripted model: in process, and over HTTP with the real client of OpenAI."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jsonschema
import msgspec
import openai
import pytest

from stateline.core.calls import (
    Finish,
    FunctionTool,
    JsonSchema,
    ModelDelta,
    ModelParams,
    ModelRequest,
    TextConfig,
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.items import FunctionCallOutput, InputText, Message, ModelItem
from stateline.ports import Deployment, ModelClient
from stateline.testing import Answer, Gate, ScriptedCall, ScriptedModel, ScriptedUpstream
from stateline.testing.schema_values import value_for
from stateline.testing.scripted import (
    REQUESTS_KEPT_MAX,
    auto,
    deltas_of,
    echo,
    flaky,
    parse_script,
    prompted,
    tokens,
    tools_first,
)

DEPLOYMENT = Deployment(name="d", model="m", cloud="openai", format="openai-chat", base_url="", upstream_model="m")
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 3, "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "unit": {"enum": ["C", "F"]},
        "at": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    },
    "required": ["city", "days", "unit", "at", "tags"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}},
}


def user(text: str) -> Message:
    return Message(id="msg_1", role="user", content=(InputText(text=text),))


def request(*items: ModelItem, key: str = "s/1/1", stream: bool = True, **params: Any) -> ModelRequest:
    return ModelRequest(params=ModelParams(model="m", **params), items=items or (user("hi"),), key=key, stream=stream)


async def said(model: ModelClient, asked: ModelRequest) -> list[ModelDelta]:
    return [delta async for batch in model.call(DEPLOYMENT, asked) for delta in batch]


def text_of(deltas: list[ModelDelta]) -> str:
    return "".join([delta.text for delta in deltas if isinstance(delta, TextDelta)])


# -- in process -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Hello there,  you", " a\n\nb ", "x", "\n"])
def test_pieces_add_up_to_the_text(text: str) -> None:
    assert text_of(deltas_of(Answer(text=text), 1)) == text


async def test_answers_come_in_turn_and_the_last_repeats() -> None:
    model = ScriptedModel([Answer(text="one"), Answer(text="two")])
    assert [text_of(await said(model, request())) for _ in range(3)] == ["one", "two", "two"]


async def test_attempts_are_counted_over_the_steps_of_a_turn_with_the_same_content() -> None:
    model = ScriptedModel(tokens(2))
    first = text_of(await said(model, request(key="s/1/1")))
    again = text_of(await said(model, request(key="s/1/2")))
    grown = text_of(await said(model, request(user("a"), user("b"), key="s/1/3")))
    assert (first, again, grown) == ("1a1w0 1a1w1", "2a2w0 2a2w1", "3a1w0 3a1w1")
    assert [(asked.key, asked.attempt, asked.outcome) for asked in model.requests] == [
        ("s/1/1", 1, "finished"),
        ("s/1/2", 2, "finished"),
        ("s/1/3", 1, "finished"),
    ]


async def test_a_rule_sees_the_request_and_its_attempt() -> None:
    model = ScriptedModel(lambda asked, attempt: Answer(text=f"{asked.user_text} {attempt}"))
    assert text_of(await said(model, request(user("try")))) == "try 1"


async def test_the_first_tool_is_called_then_its_output_is_the_answer() -> None:
    model = ScriptedModel(tools_first)
    tools = (FunctionTool(name="weather", parameters=WEATHER), FunctionTool(name="other"))
    called = await said(model, request(tools=tools))
    arguments = "".join([getattr(delta, "arguments", "") for delta in called])
    jsonschema.validate(msgspec.json.decode(arguments), WEATHER)
    assert isinstance(called[-1], Finish)
    assert called[-1].reason == "tool_calls"
    output = FunctionCallOutput(id="fco_1", call_id="call_1_0", output="sunny")
    assert text_of(await said(model, request(user("hi"), output, tools=tools))) == "sunny"
    # A new question after the output is a new reason to call.
    again = await said(model, request(output, user("and now?"), tools=tools))
    assert isinstance(again[-1], Finish)
    assert again[-1].reason == "tool_calls"


@pytest.mark.parametrize("seed", range(20))
def test_values_follow_their_schema_and_their_seed(seed: int) -> None:
    value = value_for(WEATHER, seed)
    jsonschema.validate(value, WEATHER)
    assert value == value_for(WEATHER, seed)


def test_a_schema_that_refers_to_itself_ends() -> None:
    tree = {
        "type": "object",
        "properties": {
            "kids": {"type": "array", "items": {"$ref": "#"}, "minItems": 0, "maxItems": 1},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
    }
    for seed in range(50):
        jsonschema.validate(value_for(tree, seed), tree)


async def test_structured_output_follows_the_requested_schema() -> None:
    asked = request(text=TextConfig(format=JsonSchema(name="w", schema=WEATHER)))
    value = msgspec.json.decode(text_of(await said(ScriptedModel(auto), asked)))
    jsonschema.validate(value, WEATHER)


async def test_a_gate_lets_piece_by_piece_through() -> None:
    gate = Gate()
    model = ScriptedModel(Answer(text="a b c", gate=gate))
    batches = aiter(model.call(DEPLOYMENT, request()))
    waiting = asyncio.ensure_future(anext(batches))
    await gate.held()
    assert not waiting.done()
    gate.step()
    assert text_of(await waiting) == "a"
    gate.open()
    assert [text_of(batch) async for batch in batches] == [" b", " c"]


async def test_a_caller_that_leaves_is_recorded() -> None:
    model = ScriptedModel(Answer(text="a b", gate=(gate := Gate())))
    gate.step()
    batches = model.call(DEPLOYMENT, request())
    await anext(batches)
    await batches.aclose()
    assert model.requests[0].outcome == "closed"


async def test_delays_are_slept_on_the_given_clock() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    script = [Answer(text="a b c", delay_ms=20, first_byte_ms=500), Answer(end="stall")]
    model = ScriptedModel(script, sleep=sleep)
    await said(model, request())
    assert slept == [0.5, 0.02, 0.02]
    with pytest.raises(ModelError, match="no byte came") as raised:
        await said(model, request())
    assert raised.value.retryable
    assert slept[-1] == DEPLOYMENT.timeout_s


@pytest.mark.parametrize("end", ["cut", "malformed"])
async def test_a_bad_end_comes_after_its_pieces(end: Any) -> None:
    model = ScriptedModel(Answer(text="a b c", end=end, after=2))
    batches = model.call(DEPLOYMENT, request())
    got = await anext(batches)
    with pytest.raises(ModelError) as raised:
        await anext(batches)
    assert (text_of(got), raised.value.retryable) == ("a b", True)


@pytest.mark.parametrize(("status", "retryable"), [(429, True), (503, True), (400, False)])
async def test_an_error_says_whether_to_retry(status: int, retryable: bool) -> None:
    model = ScriptedModel(Answer(status=status, retry_after_s=2.0))
    with pytest.raises(ModelError) as raised:
        await said(model, request())
    error = raised.value
    assert (error.provider_status, error.retryable, error.retry_after_s) == (status, retryable, 2.0)


async def test_without_stream_the_answer_comes_whole() -> None:
    gate = Gate()
    gate.open()
    model = ScriptedModel(Answer(text="a b c", gate=gate))
    batches = [batch async for batch in model.call(DEPLOYMENT, request(stream=False))]
    assert [text_of(batch) for batch in batches] == ["a b c"]


async def test_requests_are_remembered_up_to_the_bound() -> None:
    model = ScriptedModel(Answer(text="x"))
    for at in range(REQUESTS_KEPT_MAX + 2):
        await said(model, request(key=f"s/{at}/1"))
    assert len(model.requests) == REQUESTS_KEPT_MAX
    assert model.requests[0].serial == 3


async def test_each_model_may_have_its_script() -> None:
    model = ScriptedModel({"m": Answer(text="mine"), "n": echo})
    assert text_of(await said(model, request())) == "mine"
    with pytest.raises(ModelError):
        await said(ScriptedModel({"n": echo}), request())


async def test_a_prompt_may_name_its_rule() -> None:
    model = ScriptedModel(prompted)
    assert text_of(await said(model, request(user("!text:just this\nand no more")))) == "just this"
    assert len(await said(model, request(user("plain")))) == 21
    with pytest.raises(ModelError, match="no rule"):
        await said(model, request(user("!nonsense")))


@pytest.mark.parametrize(
    "word",
    [
        *("text:hi", "tokens:3@1", "echo", "tools", "schema:4", "auto", "prompt", "reasoning:2"),
        *("refusal:no", "slow:9", "stall:1", "cut:1", "malformed:1", "error:429@2", "flaky:7@0.5"),
    ],
)
def test_every_rule_of_the_command_line_is_known(word: str) -> None:
    parse_script(word)


@pytest.mark.parametrize("word", ["", "tokens:x", "echo:1", "nothing"])
def test_an_unknown_rule_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_script(word)


async def test_flaky_fails_the_same_way_for_the_same_seed() -> None:
    async def outcomes(seed: int) -> list[str]:
        model = ScriptedModel(flaky(seed, 0.5))
        for _ in range(60):
            with contextlib.suppress(ModelError):
                await said(model, request())
        return [asked.outcome for asked in model.requests]

    once = await outcomes(7)
    assert once == await outcomes(7)
    assert set(once) == {"finished", "error", "cut", "malformed"}


# -- over HTTP ------------------------------------------------------------------------------------


def client_of(base_url: str, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0, **options)


RICH = Answer(
    summary="Short thought.",
    reasoning="A longer thought.",
    text="Hello to  you",
    calls=(ScriptedCall(name="f", arguments='{"a": 1}'), ScriptedCall(name="g")),
    usage=Usage(input_tokens=7, output_tokens=5, cached_tokens=3, reasoning_tokens=2),
)


@pytest.fixture
async def rich() -> AsyncIterator[openai.AsyncOpenAI]:
    async with ScriptedUpstream(RICH) as base_url, client_of(base_url) as client:
        yield client


def check_response(response: Any) -> None:
    kinds = [item.type for item in response.output]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert response.output[0].summary[0].text == "Short thought."
    assert response.output[0].content[0].text == "A longer thought."
    assert response.output_text == "Hello to  you"
    assert [item.arguments for item in response.output[2:]] == ['{"a": 1}', "{}"]
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert response.usage.total_tokens == 12


async def test_responses_json(rich: openai.AsyncOpenAI) -> None:
    check_response(await rich.responses.create(model="m", input="hi"))


async def test_responses_stream_through_the_accumulator(rich: openai.AsyncOpenAI) -> None:
    async with rich.responses.stream(model="m", input="hi") as stream:
        numbers = [event.sequence_number async for event in stream]
        assert numbers == list(range(len(numbers)))
        check_response(await stream.get_final_response())


async def test_chat_json_and_stream_say_the_same(rich: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    both: list[Any] = [await rich.chat.completions.create(**asked)]
    async with rich.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        async for _ in stream:
            pass
        both.append(await stream.get_final_completion())
    for completion in both:
        choice = completion.choices[0]
        assert choice.message.content == "Hello to  you"
        assert choice.finish_reason == "tool_calls"
        assert [call.function.arguments for call in choice.message.tool_calls] == ['{"a": 1}', "{}"]
        assert completion.usage is not None
        assert completion.usage.total_tokens == 12


async def test_refusals_on_both_interfaces() -> None:
    async with ScriptedUpstream(Answer(refusal="No, sorry.")) as url, client_of(url) as client:
        response: Any = await client.responses.create(model="m", input="hi")
        assert response.output[0].content[0].refusal == "No, sorry."
        chat = await client.chat.completions.create(model="m", messages=[])
        assert chat.choices[0].message.refusal == "No, sorry."


async def test_tools_and_schemas_are_read_from_either_body() -> None:
    tool: Any = {"type": "function", "name": "w", "parameters": WEATHER}
    form: Any = {"type": "json_schema", "name": "w", "schema": WEATHER}
    async with ScriptedUpstream(auto) as url, client_of(url) as client:
        called: Any = await client.responses.create(model="m", input="hi", tools=[tool])
        jsonschema.validate(msgspec.json.decode(called.output[0].arguments), WEATHER)
        output: Any = {
            "type": "function_call_output",
            "call_id": called.output[0].call_id,
            "output": "sunny",
        }
        user_message: Any = {"role": "user", "content": "hi"}
        done = await client.responses.create(model="m", input=[user_message, output], tools=[tool])
        assert done.output_text == "sunny"
        shaped = await client.responses.create(model="m", input="hi", text={"format": form})
        jsonschema.validate(msgspec.json.decode(shaped.output_text), WEATHER)
        chat = await client.chat.completions.create(
            model="m",
            messages=[user_message],
            response_format={"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}},
        )
        jsonschema.validate(msgspec.json.decode(chat.choices[0].message.content or ""), WEATHER)


async def test_errors_carry_their_status_and_retry_after() -> None:
    script = [Answer(status=429, retry_after_s=2, error_code="rate_limit_exceeded"), Answer(status=500)]
    async with ScriptedUpstream(script) as url, client_of(url) as client:
        with pytest.raises(openai.RateLimitError) as limited:
            await client.responses.create(model="m", input="hi")
        assert limited.value.response.headers["retry-after"] == "2"
        assert limited.value.code == "rate_limit_exceeded"
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model="m", input="hi")


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_a_cut_stream_ends_without_its_marker(path: str) -> None:
    answer = Answer(text="a b c d", end="cut", after=2)
    got = b""
    async with (
        ScriptedUpstream(answer) as url,
        aiohttp.ClientSession() as http,
        http.post(f"{url}/{path}", json={"model": "m", "stream": True}) as reply,
    ):
        whole = False
        with contextlib.suppress(aiohttp.ClientPayloadError):
            while chunk := await reply.content.readany():
                got += chunk
            whole = True
        assert not whole
        assert b" b" in got
        assert b" c" not in got
        assert b"[DONE]" not in got
        assert b"completed" not in got


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stall_lasts_until_the_client_leaves(stream: bool) -> None:
    upstream = ScriptedUpstream(Answer(text="a b", end="stall", after=1))
    async with upstream as url, client_of(url, timeout=0.2) as client:
        with pytest.raises(openai.APITimeoutError):
            await _whole(client, stream)
    assert upstream.requests[0].outcome == "stall"


async def _whole(client: openai.AsyncOpenAI, stream: bool) -> None:
    answered: Any = await client.responses.create(model="m", input="hi", stream=stream)
    try:
        async for _ in answered:
            pass
    except Exception as error:  # httpx's own timeout comes through a stream untranslated.
        raise openai.APITimeoutError(request=answered.response.request) from error


async def test_malformed_json_whole_and_streamed() -> None:
    answer = Answer(text="a b", end="malformed", after=1)
    async with ScriptedUpstream(answer) as url, aiohttp.ClientSession() as http:
        for stream in (False, True):
            reply = await http.post(f"{url}/responses", json={"model": "m", "stream": stream})
            last = (await reply.read()).split(b"\n\n")[-2 if stream else -1]
            with pytest.raises(msgspec.DecodeError):
                msgspec.json.decode(last.removeprefix(b"data: "))


async def test_the_upstream_reports_what_it_was_asked() -> None:
    async with ScriptedUpstream(tokens(2)) as url, aiohttp.ClientSession() as http:
        for _ in range(2):
            await http.post(f"{url}/responses", json={"model": "m"}, headers={"Idempotency-Key": "s/1/1"})
        root = url.removesuffix("/v1")
        report = await (await http.get(f"{root}/_scripted/requests")).json()
    assert (report["total"], report["outcomes"]) == (2, {"finished": 2})
    assert [(row["key"], row["attempt"]) for row in report["requests"]] == [("s/1/1", 1), ("s/1/1", 2)]


async def test_models_unknown_paths_and_bad_bodies() -> None:
    async with ScriptedUpstream({"a": echo}) as url, aiohttp.ClientSession() as http:
        models = await (await http.get(f"{url}/models")).json()
        assert [model["id"] for model in models["data"]] == ["a"]
        assert (await http.get(f"{url}/nothing")).status == 404
        assert (await http.post(f"{url}/responses", data=b"{")).status == 400
        assert (await http.post(f"{url}/responses", json={"model": "b"})).status == 404


async def test_as_a_process_it_prints_its_url_and_ends_on_sigterm() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stateline.testing.upstream", "--script", "m=text:from afar", "n=echo",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        async with client_of(url) as client:
            response = await client.responses.create(model="m", input="hi")
            assert response.output_text == "from afar"
            assert [model.id async for model in client.models.list()] == ["m", "n"]
    finally:
        process.terminate()
        assert await process.wait() == 0
