"""Agents from Chat Completions and Anthropic's Messages, with the official SDKs and a real tool."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.api.test_hosted_tools import CONFIG, ended
from tests.crash.harness import Server, running_server
from tests.tools.mcp_servers import Seen, shop

from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.scripted import Answer, Asked

REFUND = ScriptedCall(name="shop-refund", arguments='{"cents": 500}')
LOOK_UP = ScriptedCall(name="look_up", arguments='{"word": "parcel"}')
PARAMETERS: Any = {"type": "object", "properties": {"word": {"type": "string"}}}
HELLO: Any = [{"role": "user", "content": "My parcel never came."}]


def clerk(asked: Asked, _: int) -> Answer:
    if asked.user_text == "fail":
        return Answer(status=400)
    if asked.tool_output is not None:
        return Answer(text=f"It said: {asked.tool_output}")
    if asked.user_text == "look up":
        return Answer(calls=(LOOK_UP,))
    return Answer(text="I give it back.", calls=(REFUND,))


@pytest.fixture
async def seen() -> Seen:
    return Seen()


@pytest.fixture
async def server(tmp_path: Path, seen: Seen) -> AsyncGenerator[Server]:
    async with ScriptedUpstream(clerk) as upstream, shop(seen) as url:
        host = url.removeprefix("http://").partition("/")[0]
        async with running_server(tmp_path, upstream, settings=CONFIG.format(host=host)) as server:
            yield server


async def test_chat_completions_use_an_agent(server: Server, seen: Seen) -> None:
    async with server.client(max_retries=0) as client:
        completion: Any = await client.chat.completions.create(model="agent/clerk", messages=HELLO)
        [choice] = completion.choices
        assert choice.message.content == "I give it back.\n\nIt said: done"
        assert (choice.finish_reason, choice.message.tool_calls, completion.model) == ("stop", None, "agent/clerk")
        assert completion.usage.total_tokens > 0
        kept = await client.responses.retrieve(completion.stateline["response_id"])
        assert [item.type for item in kept.output] == ["message", "mcp_call", "message"]
        assert len(seen.refunds) == 1

        streamed, last = "", None
        options: Any = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="agent/clerk", messages=HELLO, stream=True, stream_options=options
        )
        async for chunk in stream:
            for each in chunk.choices:
                streamed += each.delta.content or ""
                last = chunk if each.finish_reason else last
        assert streamed == choice.message.content
        assert last is not None
        told: Any = last
        assert told.stateline["agent"].startswith("clerk@")
        assert len(seen.refunds) == 2

        # What waits for a person is told in words, and can be answered.
        careful: Any = await client.chat.completions.create(model="agent/careful", messages=HELLO)
        [waits] = careful.stateline["waits_for"]
        assert waits["id"] in careful.choices[0].message.content
        assert len(seen.refunds) == 2
        answered: Any = await client.post(f"/approvals/{waits['id']}", body={"approve": True}, cast_to=object)
        assert (await ended(client, answered["response_id"])).output_text == "It said: done"

        await _own_tools_and_errors(client)


async def _own_tools_and_errors(client: openai.AsyncOpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "look_up", "parameters": PARAMETERS}}]
    messages: list[Any] = [{"role": "user", "content": "look up"}]
    asked = await client.chat.completions.create(model="agent/clerk", messages=messages, tools=tools)
    [choice] = asked.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("look_up", LOOK_UP.arguments)
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "lost"}]
    said = await client.chat.completions.create(model="agent/clerk", messages=messages, tools=tools)
    assert said.choices[0].message.content == "It said: lost"

    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="agent/nobody", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    fail: Any = [{"role": "user", "content": "fail"}]
    with pytest.raises(openai.APIStatusError) as failed:
        await client.chat.completions.create(model="agent/clerk", messages=fail)
    # The turn is on record: the same request would fail again.
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert failed.value.code


async def test_a_retry_of_a_chat_completion_finds_its_turn(server: Server, seen: Seen) -> None:
    async with server.client(max_retries=0) as client:
        answers: list[Any] = []
        for _ in range(2):
            answers.append(
                await client.chat.completions.create(
                    model="agent/clerk", messages=HELLO, extra_headers={"Idempotency-Key": "once"}
                )
            )
        first, second = answers
        assert first.stateline == second.stateline
        assert len(seen.refunds) == 1


async def test_messages_use_an_agent(server: Server, seen: Seen) -> None:
    async with anthropic.AsyncAnthropic(base_url=server.root, api_key="unused", max_retries=0) as client:
        message: Any = await client.messages.create(model="agent/clerk", max_tokens=100, messages=HELLO)
        assert [block.text for block in message.content] == ["I give it back.", "It said: done"]
        assert (message.stop_reason, message.model) == ("end_turn", "agent/clerk")
        assert message.stateline["response_id"].startswith("resp_")
        async with client.messages.stream(model="agent/clerk", max_tokens=100, messages=HELLO) as stream:
            final = await stream.get_final_message()
        assert [block.type for block in final.content] == ["text", "text"]
        assert final.usage.output_tokens > 0
        assert len(seen.refunds) == 2

        careful: Any = await client.messages.create(model="agent/careful", max_tokens=100, messages=HELLO)
        [waits] = careful.stateline["waits_for"]
        assert waits["id"] in careful.content[-1].text

        tools: Any = [{"name": "look_up", "input_schema": PARAMETERS}]
        look_up: Any = [{"role": "user", "content": "look up"}]
        async with client.messages.stream(model="agent/clerk", max_tokens=100, messages=look_up, tools=tools) as stream:
            called = await stream.get_final_message()
        [block] = called.content
        assert block.type == "tool_use"
        assert (block.name, block.input, called.stop_reason) == ("look_up", {"word": "parcel"}, "tool_use")
        fail: Any = [{"role": "user", "content": "fail"}]
        with pytest.raises(anthropic.APIStatusError) as failed:
            await client.messages.create(model="agent/clerk", max_tokens=100, messages=fail)
        body: Any = failed.value.body
        assert body["type"] == "error"
