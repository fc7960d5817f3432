"""``/v1/responses/compact``: what comes out of it is the input that a conversation goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from tests.api.conftest import MODEL, Answer, Served
from tests.api.http import Client
from tests.api.spec import problems, validator

from stateline.core.items import FunctionCallOutput, InputText, Item, Message
from stateline.testing.scripted import Asked, ModelAsked, ScriptedCall

TOOL: Any = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}
ASKED = "Write a summary of the conversation above"


def sums_up(asked: Asked, _: int) -> Answer:
    """A summary where one is asked for; else the number of items that were seen."""
    assert isinstance(asked, ModelAsked)
    if asked.user_text.startswith(ASKED):
        return Answer(text=" The owl was found. ")
    return Answer(text=f"Saw {len(asked.request.items)}.")


def seen(server: Served) -> list[Item]:
    """The items of the model's last request."""
    asked = server.scripted.requests[-1]
    assert isinstance(asked, ModelAsked)
    return list(asked.request.items)


def text(item: Item) -> str:
    assert isinstance(item, Message)
    return "".join(part.text for part in item.content if isinstance(part, InputText))


def test_a_chain_is_compacted_and_goes_on(server: Served, client: openai.OpenAI) -> None:
    server.script(sums_up)
    first = client.responses.create(model=MODEL, input="one")
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    short = client.responses.compact(model=MODEL, previous_response_id=second.id, instructions="Be brief.")
    assert (short.object, [item.type for item in short.output]) == ("response.compaction", ["compaction"])
    assert (short.usage.input_tokens, short.usage.output_tokens) == (10, 5)
    asked = seen(server)
    assert len(asked) == 5
    assert text(asked[-1]).startswith(ASKED)
    items: list[Any] = [*(item.to_dict() for item in short.output), {"role": "user", "content": "three"}]
    third = client.responses.create(model=MODEL, input=items)
    assert third.output_text == "Saw 2."
    summary, new = seen(server)
    assert text(summary).endswith("The owl was found.")
    assert text(new) == "three"
    fourth = client.responses.create(model=MODEL, input="four", previous_response_id=third.id)
    assert fourth.output_text == "Saw 4."
    shown = [item.type for item in client.responses.input_items.list(fourth.id, order="asc")]
    assert shown == ["compaction", "message", "message", "message"]


def test_a_compaction_stands_for_what_was_there(server: Served, client: openai.OpenAI) -> None:
    server.script(sums_up)
    conversation = client.conversations.create(items=[{"role": "user", "content": "zero"}])
    client.responses.create(model=MODEL, input="one", conversation=conversation.id)
    listed = client.conversations.items.list(conversation.id, order="asc")
    items: list[Any] = [{"type": "item_reference", "id": item.id} for item in listed]
    short = client.responses.compact(model=MODEL, input=items)
    going_on: list[Any] = [*(item.to_dict() for item in short.output), {"role": "user", "content": "two"}]
    answer = client.responses.create(model=MODEL, input=going_on, conversation=conversation.id)
    assert answer.output_text == "Saw 2."
    unstored = client.responses.create(model=MODEL, input="x", conversation=conversation.id, store=False)
    assert unstored.output_text == "Saw 4."


def test_calls_that_wait_for_their_outputs_outlive_it(server: Served, client: openai.OpenAI) -> None:
    call = ScriptedCall(name="look_up", arguments='{"word": "owl"}')
    server.script(Answer(text="Let me look.", calls=(call,)))
    first = client.responses.create(model=MODEL, input="look it up", tools=[TOOL])
    server.script(sums_up)
    short = client.responses.compact(model=MODEL, previous_response_id=first.id)
    assert [item.type for item in short.output] == ["compaction", "function_call"]
    output = {"type": "function_call_output", "call_id": first.output[1].to_dict()["call_id"], "output": "a bird"}
    items: list[Any] = [*(item.to_dict() for item in short.output), output]
    assert client.responses.create(model=MODEL, input=items, tools=[TOOL]).output_text == "Saw 3."
    assert isinstance(seen(server)[-1], FunctionCallOutput)


def test_calls_alone_have_nothing_to_be_summed_up(server: Served, client: openai.OpenAI) -> None:
    asked = len(server.scripted.requests)
    call: Any = {"type": "function_call", "call_id": "one", "name": "look_up", "arguments": "{}"}
    short = client.responses.compact(model=MODEL, input=[call])
    assert ([item.type for item in short.output], short.usage.total_tokens) == (["function_call"], 0)
    assert len(server.scripted.requests) == asked


def test_it_is_a_compact_resource(server: Served, shared: Path) -> None:
    server.script(sums_up)
    http = Client(server.port)
    made = http("POST", "/v1/responses/compact", {"model": MODEL, "input": "hello"}).json
    http.close()
    assert problems(validator(shared, "CompactResource"), made) == []


def test_nothing_of_it_is_kept(server: Served, client: openai.OpenAI) -> None:
    server.script(sums_up)
    before = server.stored()
    short = client.responses.compact(model=MODEL, input="hello")
    assert server.stored() == before
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(short.id)


@pytest.mark.parametrize(
    "answer", [Answer(text="The owl", finish_reason="length"), Answer(refusal="No."), Answer(text="  ")]
)
def test_half_a_summary_is_none(server: Served, client: openai.OpenAI, answer: Answer) -> None:
    server.script(answer)
    with pytest.raises(openai.InternalServerError) as failed:
        client.responses.compact(model=MODEL, input="hello")
    assert (failed.value.status_code, failed.value.code) == (502, "compaction_failed")


def test_what_is_compacted_must_be_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as missing:
        client.responses.compact(model=MODEL, previous_response_id="resp_nothing")
    assert (missing.value.code, missing.value.param) == ("previous_response_not_found", "previous_response_id")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.compact(model="nothing", input="hello")
    assert unknown.value.code == "model_not_found"


@pytest.mark.parametrize("nothing", [{}, {"input": None}, {"input": ""}, {"input": []}])
def test_an_empty_input_is_refused_before_any_model_is_asked(server: Served, nothing: dict[str, Any]) -> None:
    server.script(sums_up)
    asked = len(server.scripted.requests)
    http = Client(server.port)
    answer = http("POST", "/v1/responses/compact", {"model": MODEL, **nothing})
    http.close()
    assert answer.status == 400
    assert (answer.json["error"]["code"], answer.json["error"]["param"]) == ("missing_required_parameter", "input")
    assert len(server.scripted.requests) == asked


def test_an_empty_input_adds_nothing_to_what_a_previous_response_has(server: Served, client: openai.OpenAI) -> None:
    server.script(sums_up)
    first = client.responses.create(model=MODEL, input="one")
    short = client.responses.compact(model=MODEL, input="", previous_response_id=first.id)
    assert [item.type for item in short.output] == ["compaction"]
    assert len(seen(server)) == 3


async def test_the_agents_sdk_compacts_its_session(server: Served) -> None:
    from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, SQLiteSession
    from agents.memory import OpenAIResponsesCompactionSession

    server.script(sums_up)
    async with server.async_openai() as client:
        session = OpenAIResponsesCompactionSession(
            session_id="one", underlying_session=SQLiteSession("one"), client=client, model="gpt-5",
            should_trigger_compaction=lambda _: False,
        )  # fmt: skip
        session.model = MODEL
        agent = Agent(name="Helper", model=OpenAIResponsesModel(model=MODEL, openai_client=client))
        quiet = RunConfig(tracing_disabled=True)
        await Runner.run(agent, "one", session=session, run_config=quiet)
        await Runner.run(agent, "two", session=session, run_config=quiet)
        assert len(await session.get_items()) == 4
        await session.run_compaction({"force": True})
        assert len(await session.get_items()) == 1
        result = await Runner.run(agent, "three", session=session, run_config=quiet)
        assert result.final_output == "Saw 2."
