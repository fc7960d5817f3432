"""Anthropic behind the real server: the official OpenAI SDK on one side, scripted Messages on the other."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall
from tests.crash.harness import Server

from stateline.testing import Answer, ScriptedCall, ScriptedUpstream
from stateline.testing.anthropic_bodies import SIGNED, MessagesAsked
from stateline.testing.scripted import Asked

KEY = "sk-ant-very-secret-key-of-the-operator"
CLAUDE, CHAT, RESPONSES = "claude-opus-4-8", "scripted", "scripted-responses"
TOOL: Any = {
    "type": "function",
    "name": "look_up",
    "description": "Looks a word up.",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    "strict": False,
}
THOUGHT = "Let me look it up."


def calls_until_last(asked: Asked, _: int) -> Answer:
    """Thinks and calls until an output that begins with "last" has come, then says it."""
    if asked.user_text.startswith("fail"):
        return Answer(status=529, error_message="Overloaded")
    if asked.tool is None:
        return Answer(reasoning=THOUGHT, text=f"You said: {asked.user_text}")
    output = asked.tool_output
    if output is None or not output.startswith("last"):
        call = ScriptedCall(name="look_up", arguments='{"word": "wren"}')
        return Answer(reasoning=THOUGHT, calls=(call, call))
    return Answer(text=f"It is {output}.")


@pytest.fixture
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    made = ScriptedUpstream(calls_until_last)
    async with made:
        yield made


@pytest.fixture
async def server(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncGenerator[Server]:
    settings = f"""
[[deployments]]
name = "anthropic"
model = "{CLAUDE}"
cloud = "anthropic"
format = "anthropic-messages"
base_url = "{upstream.base_url.removesuffix("/v1")}"
api_key_env = "ANTHROPIC_KEY_FOR_TESTS"
"""
    made = Server(tmp_path, upstream.base_url, settings=settings, environment={"ANTHROPIC_KEY_FOR_TESTS": KEY})
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def test_text_and_reasoning_come_over_both_apis_streamed_and_whole(
    server: Server, upstream: ScriptedUpstream
) -> None:
    async with server.client(max_retries=0) as client:
        async with client.responses.stream(
            model=CLAUDE, input="hi", reasoning={"effort": "low", "summary": "auto"}
        ) as stream:
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        whole = await client.responses.create(model=CLAUDE, input="hi", store=False)
        chat: list[Any] = [{"role": "user", "content": "hi"}]
        said = await client.chat.completions.create(model=CLAUDE, messages=chat)
        streamed = await client.chat.completions.create(model=CLAUDE, messages=chat, stream=True)
        chunks = [chunk async for chunk in streamed]
    assert "".join(deltas) == final.output_text == whole.output_text == "You said: hi"
    assert said.choices[0].message.content == "You said: hi"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "You said: hi"
    reasoning = final.output[0]
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.content or ()] == [THOUGHT]
    assert reasoning.encrypted_content == f"signature:{SIGNED}{THOUGHT}"
    assert final.usage is not None
    assert final.usage.input_tokens == 10
    first = upstream.requests[0]
    assert isinstance(first, MessagesAsked)
    assert (first.model, first.body["thinking"]) == (CLAUDE, {"type": "adaptive", "display": "summarized"})
    assert first.body["output_config"] == {"effort": "low"}


async def _go_on(client: openai.AsyncOpenAI, model: str, last: Response, output: str) -> Response:
    """The next step of a tool loop, by ``model``."""
    calls = [item for item in last.output if isinstance(item, ResponseFunctionToolCall)]
    assert len(calls) == 2
    assert json.loads(calls[0].arguments) == {"word": "wren"}
    outputs: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": output} for call in calls]
    return await client.responses.create(
        model=model, previous_response_id=last.id, input=outputs, tools=[TOOL], reasoning={"effort": "low"}
    )


@pytest.mark.parametrize("other", [CHAT, RESPONSES])
async def test_a_session_changes_to_it_and_back_in_the_middle_of_a_tool_loop(
    server: Server, upstream: ScriptedUpstream, other: str
) -> None:
    async with server.client(max_retries=0) as client:
        step = await client.responses.create(model=other, input="look it up", tools=[TOOL], reasoning={"effort": "low"})
        for model in (CLAUDE, CLAUDE, other, CLAUDE):
            step = await _go_on(client, model, step, "not yet")
        step = await _go_on(client, other, step, "last: a bird")
    assert step.output_text == "It is last: a bird."
    last = upstream.requests[-2]
    assert isinstance(last, MessagesAsked)
    kinds = [[block["type"] for block in message["content"]] for message in last.body["messages"][1:]]
    calls, results = ["tool_use"] * 2, ["tool_result"] * 2
    # Its own thinking goes back with its signature; the other's is not its to read.
    own = ["thinking", *calls]
    assert kinds == [calls, results, own, results, own, results, calls, results]


async def test_thinking_that_a_client_keeps_itself_goes_back_signed(server: Server, upstream: ScriptedUpstream) -> None:
    async def ask(client: openai.AsyncOpenAI, context: Any) -> Response:
        return await client.responses.create(
            model=CLAUDE, input=context, tools=[TOOL], store=False, reasoning={"effort": "low"}
        )

    async with server.client(max_retries=0) as client:
        first = await ask(client, "look it up")
        history: list[Any] = [{"role": "user", "content": "look it up"}, *(item.to_dict() for item in first.output)]
        for item in first.output:
            if isinstance(item, ResponseFunctionToolCall):
                history.append({"type": "function_call_output", "call_id": item.call_id, "output": "last: a bird"})
        second = await ask(client, history)
    assert second.output_text == "It is last: a bird."
    last = upstream.requests[-1]
    assert isinstance(last, MessagesAsked)
    block = {"type": "thinking", "thinking": THOUGHT, "signature": SIGNED + THOUGHT}
    assert last.body["messages"][1]["content"][0] == block


async def test_what_the_format_cannot_carry_is_refused_before_the_call(
    server: Server, upstream: ScriptedUpstream
) -> None:
    async with server.client(max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=CLAUDE, messages=[{"role": "user", "content": "hi"}], seed=7)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "seed")
    assert not upstream.requests


async def test_its_errors_keep_their_words_and_its_key_is_nowhere(server: Server, tmp_path: Path) -> None:
    async with server.client(max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as failed:
            await client.chat.completions.create(model=CLAUDE, messages=[{"role": "user", "content": "fail"}])
        await client.responses.create(model=CLAUDE, input="hi")
    assert (failed.value.status_code, failed.value.code) == (503, "upstream_overloaded")
    assert "Overloaded" in failed.value.message
    await server.kill()
    files = [path for path in _files(tmp_path) if KEY.encode() in path.read_bytes()]
    assert not files


def _files(folder: Path) -> list[Path]:
    """The database, its journal, the log."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert found
    return found
