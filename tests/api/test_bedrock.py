"""Bedrock behind the real server: the official SDK on one side, a scripted ConverseStream on the other."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from tests.crash.harness import Server

from stateline.testing import Answer, ScriptedCall, ScriptedUpstream
from stateline.testing.converse import ConverseAsked, signature_of
from stateline.testing.scripted import Asked
from stateline.testing.upstream import BodyAsked

ACCESS_KEY = "AKIDTESTTESTTESTTEST"
SECRET_KEY = "verysecretverysecretverysecretverysecret"
TOKEN = "sessiontokensessiontokensessiontoken=="
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_EC2_METADATA_DISABLED": "true",
}
UPSTREAM_MODEL = "us.anthropic.claude-opus-4-8-v1:0"
TOOL: Any = {
    "type": "function",
    "name": "look_up",
    "description": "Looks a word up.",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
}
CHAT_TOOL: Any = {"type": "function", "function": {key: TOOL[key] for key in ("name", "description", "parameters")}}
THOUGHT = "Let me look it up."


def calls_then_tells(asked: Asked, _: int) -> Answer:
    """Thinks and calls until a second output has come, then says the outputs; text where nothing is offered."""
    if asked.user_text.startswith("fail"):
        return Answer(status=403, error_code="ExpiredTokenException", error_message=f"expired: {TOKEN} {ACCESS_KEY}")
    if asked.tool is None:
        return Answer(text=f"You said: {asked.user_text}", reasoning=THOUGHT)
    output = asked.tool_output
    if output is None or not output.startswith("last"):
        reasoning = THOUGHT if isinstance(asked, ConverseAsked) else ""
        return Answer(reasoning=reasoning, calls=(ScriptedCall(name="look_up", arguments='{"word": "wren"}'),))
    return Answer(text=f"It is {output}.")


@pytest.fixture
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    made = ScriptedUpstream(calls_then_tells)
    async with made:
        yield made


@pytest.fixture
async def server(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncGenerator[Server]:
    settings = f"""
[[deployments]]
name = "bedrock"
model = "claude"
cloud = "aws"
region = "us-east-1"
base_url = "{upstream.base_url}"
upstream_model = "{UPSTREAM_MODEL}"
"""
    server = Server(tmp_path, upstream.base_url, settings=settings, environment=ENVIRONMENT)
    try:
        await server.start()
        yield server
    finally:
        await server.close()


async def test_text_and_reasoning_come_over_both_apis_streamed_and_whole(
    server: Server, upstream: ScriptedUpstream
) -> None:
    async with server.client(max_retries=0) as client:
        async with client.responses.stream(model="claude", input="hi", reasoning={"effort": "low"}) as stream:
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        whole = await client.responses.create(model="claude", input="hi", store=False)
        chat: list[Any] = [{"role": "user", "content": "hi"}]
        said = await client.chat.completions.create(model="claude", messages=chat)
        streamed = await client.chat.completions.create(model="claude", messages=chat, stream=True)
        chunks = [chunk async for chunk in streamed]
    assert "".join(deltas) == final.output_text == whole.output_text == "You said: hi"
    assert said.choices[0].message.content == "You said: hi"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: hi"
    reasoning = final.output[0]
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.content or ()] == [THOUGHT]
    assert reasoning.encrypted_content == f"signature:{signature_of(THOUGHT)}"
    assert final.usage is not None
    assert final.usage.input_tokens == 10
    first = upstream.requests[0]
    assert isinstance(first, ConverseAsked)
    assert first.model == UPSTREAM_MODEL
    assert first.body["additionalModelRequestFields"]["output_config"] == {"effort": "low"}


async def test_a_chat_client_calls_a_tool(server: Server) -> None:
    messages: list[Any] = [{"role": "user", "content": "look it up"}]
    async with server.client(max_retries=0) as client:
        first = await client.chat.completions.create(model="claude", messages=messages, tools=[CHAT_TOOL])
        (call,) = first.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"word": "wren"}
        messages += [
            first.choices[0].message.to_dict(),
            {"role": "tool", "tool_call_id": call.id, "content": "last: a bird"},
        ]
        second = await client.chat.completions.create(model="claude", messages=messages, tools=[CHAT_TOOL])
    assert first.choices[0].finish_reason == "tool_calls"
    assert second.choices[0].message.content == "It is last: a bird."


async def _step(client: openai.AsyncOpenAI, model: str, previous: Any, output: str) -> Any:
    (call,) = [item for item in previous.output if isinstance(item, ResponseFunctionToolCall)]
    return await client.responses.create(
        model=model,
        previous_response_id=previous.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": output}],
        tools=[TOOL],
        reasoning={"effort": "low"} if model == "claude" else None,
    )


@pytest.mark.parametrize("other", ["scripted", "scripted-responses"])
async def test_a_session_changes_to_bedrock_and_back_in_the_midst_of_a_tool_loop(
    other: str, server: Server, upstream: ScriptedUpstream
) -> None:
    async with server.client(max_retries=0) as client:
        began = await client.responses.create(model=other, input="look it up", tools=[TOOL])
        on_bedrock = await _step(client, "claude", began, "once")
        back = await _step(client, other, on_bedrock, "twice")
        again = await _step(client, "claude", back, "thrice")
        ended = await _step(client, "claude", again, "last: a bird")
        final = await client.responses.create(model=other, input="thanks", previous_response_id=ended.id)
    assert ended.output_text == "It is last: a bird."
    assert final.output_text == "You said: thanks"
    asked = upstream.requests
    first_bedrock, back_asked, last_bedrock = asked[1], asked[2], asked[4]
    assert isinstance(first_bedrock, ConverseAsked)
    assert isinstance(last_bedrock, ConverseAsked)
    assert isinstance(back_asked, BodyAsked)
    # The call that the other model made is in Bedrock's history, with its answer right behind it.
    assert [message["role"] for message in first_bedrock.body["messages"]] == ["user", "assistant", "user"]
    assert "toolUse" in first_bedrock.body["messages"][1]["content"][0]
    assert "toolResult" in first_bedrock.body["messages"][2]["content"][0]
    # What Bedrock signed stays with Bedrock, and goes back there unchanged, before its call.
    assert THOUGHT not in json.dumps(back_asked.body)
    signed = {"reasoningText": {"text": THOUGHT, "signature": signature_of(THOUGHT)}}
    said = [message["content"] for message in last_bedrock.body["messages"] if message["role"] == "assistant"]
    assert [content[0].get("reasoningContent") for content in said] == [None, signed, None, signed]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_credentials_are_in_no_error_no_log_and_not_in_the_database(server: Server, tmp_path: Path) -> None:
    async with server.client(max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="claude", messages=[{"role": "user", "content": "fail"}])
        failed = await client.responses.create(model="claude", input="fail")
        await client.responses.create(model="claude", input="go well")
    assert caught.value.status_code == 502
    assert failed.error is not None
    told = f"{caught.value} {failed.to_json()} {server.log.read_text()}".encode()
    assert b"expired: [hidden]" in told
    files = _files(tmp_path)
    assert any(name.startswith("stateline.db") for name in files)
    kept = b"".join(files.values())
    for secret in (ACCESS_KEY, SECRET_KEY, TOKEN):
        assert secret.encode() not in told
        assert secret.encode() not in kept
