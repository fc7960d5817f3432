"""The official SDK against our server: every call, and nothing special on either side."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel
from tests.api.conftest import MODEL, Answer, Served

from stateline.core.items import InputImage, Message
from stateline.testing.scripted import ModelAsked, ScriptedCall, tools_first

TOOL: Any = {
    "type": "function",
    "name": "look_up",
    "description": "Look a word up.",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    "strict": True,
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Weather(BaseModel):
    city: str
    degrees: int


def test_a_chain_of_two_responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="one", metadata={"a": "b"}, instructions="Be brief")
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    assert first.output_text == "You said: one"
    assert (second.output_text, second.previous_response_id) == ("You said: two", first.id)
    assert second.instructions is None
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.type for item in items] == ["message"] * 3
    again = client.responses.retrieve(first.id)
    assert (again.output, again.metadata, again.status) == (first.output, {"a": "b"}, "completed")


def test_two_branches_from_one_response_do_not_see_each_other(server: Served, client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="root")
    left = client.responses.create(model=MODEL, input="left", previous_response_id=first.id)
    right = client.responses.create(model=MODEL, input="right", previous_response_id=first.id)
    texts = [str(item) for item in client.responses.input_items.list(right.id)]
    assert not any("left" in text for text in texts)
    assert left.id != right.id


def test_a_tool_is_called_and_answered(server: Served, client: openai.OpenAI) -> None:
    server.script(tools_first)
    first = client.responses.create(model=MODEL, input="look it up", tools=[TOOL])
    call = first.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert call.name == "look_up"
    json.loads(call.arguments)
    second = client.responses.create(
        model=MODEL,
        previous_response_id=first.id,
        tools=[TOOL],
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "a small bird"}],
    )
    assert "a small bird" in second.output_text


def test_what_was_answered_goes_back_as_input(server: Served, client: openai.OpenAI) -> None:
    server.script(Answer(summary="Short.", reasoning="Long.", text="Well.", calls=(ScriptedCall(name="look_up"),)))
    first = client.responses.create(model=MODEL, input="go", tools=[TOOL], store=False)
    history: list[Any] = [{"role": "user", "content": "go"}, *(item.to_dict() for item in first.output)]
    calls = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    history += [{"type": "function_call_output", "call_id": call.call_id, "output": "x"} for call in calls]
    server.script(Answer(text="Done."))
    assert client.responses.create(model=MODEL, input=history, store=False).output_text == "Done."


def test_a_stored_item_is_referred_to_by_its_id(server: Served, client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="the first words")
    item = next(iter(client.responses.input_items.list(first.id)))
    reference: Any = {"type": "item_reference", "id": item.id}
    second = client.responses.create(model=MODEL, input=[reference])
    assert second.output_text == "You said: the first words"


def test_images_arrive_at_the_model(server: Served, client: openai.OpenAI) -> None:
    parts: Any = [{"type": "input_text", "text": "what is it"}, {"type": "input_image", "image_url": PIXEL}]
    client.responses.create(model=MODEL, input=[{"role": "user", "content": parts}])
    asked = server.scripted.requests[-1]
    assert isinstance(asked, ModelAsked)
    message = asked.request.items[-1]
    assert isinstance(message, Message)
    assert message.content[1] == InputImage(image_url=PIXEL)


def test_a_response_is_streamed_and_parsed(server: Served, client: openai.OpenAI) -> None:
    server.script(Answer(text='{"city": "Oslo", "degrees": 3}'))
    with client.responses.stream(model=MODEL, input="weather", text_format=Weather) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert final.output_parsed == Weather(city="Oslo", degrees=3)
    parsed = client.responses.parse(model=MODEL, input="weather", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Oslo", degrees=3)


def test_reasoning_is_streamed_in_openais_words(server: Served) -> None:
    server.script(Answer(summary="Short.", reasoning="A long thought.", text="Hi"))
    with (
        server.openai(default_headers={"Stateline-Dialect": "openai"}) as client,
        client.responses.stream(model=MODEL, input="think", reasoning={"effort": "low", "summary": "auto"}) as stream,
    ):
        thought = "".join(event.delta for event in stream if event.type == "response.reasoning_text.delta")
        final = stream.get_final_response()
    assert thought == "A long thought."
    assert [item.type for item in final.output] == ["reasoning", "message"]


def test_a_background_response_is_followed_and_deleted(client: openai.OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="later", background=True)
    assert made.status in ("queued", "in_progress", "completed")
    kinds = [event.type for event in client.responses.retrieve(made.id, stream=True)]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert client.responses.cancel(made.id).status == "completed"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.retrieve(made.id)
    assert gone.value.code == "response_not_found"


def test_a_response_that_is_not_in_the_background_is_not_cancelled(client: openai.OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="now")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.cancel(made.id)
    assert refused.value.code == "response_not_cancellable"


def test_a_response_that_is_not_stored_is_not_found(client: openai.OpenAI) -> None:
    made = client.responses.create(model=MODEL, input="hush", store=False)
    assert (made.output_text, made.to_dict()["store"]) == ("You said: hush", False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_input_tokens_are_counted_with_their_context(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="a few words " * 50)
    alone = client.responses.input_tokens.count(model=MODEL, input="more")
    chained = client.responses.input_tokens.count(model=MODEL, input="more", previous_response_id=first.id)
    assert 0 < alone.input_tokens < chained.input_tokens


def test_a_conversation_from_its_making_to_its_end(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[{"role": "user", "content": "zero"}], metadata={"topic": "birds"})
    answer = client.responses.create(model=MODEL, input="one", conversation=made.id)
    assert answer.conversation is not None
    assert answer.conversation.id == made.id
    again = client.responses.create(model=MODEL, input="two", conversation={"id": made.id})
    assert again.output_text == "You said: two"
    added = client.conversations.items.create(made.id, items=[{"role": "user", "content": "three"}]).data[0]
    assert added.id is not None
    listed = list(client.conversations.items.list(made.id, order="asc", limit=2))
    assert [item.type for item in listed] == ["message"] * 6
    assert client.conversations.items.retrieve(added.id, conversation_id=made.id).type == "message"
    client.conversations.items.delete(added.id, conversation_id=made.id)
    assert len(list(client.conversations.items.list(made.id, limit=4))) == 5
    assert client.conversations.update(made.id, metadata={"topic": "fish"}).metadata == {"topic": "fish"}
    assert client.conversations.retrieve(made.id).metadata == {"topic": "fish"}
    assert client.conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_pages_of_items_are_walked_in_both_orders(client: openai.OpenAI) -> None:
    items: Any = [{"role": "user", "content": str(at)} for at in range(20)]
    made = client.conversations.create(items=items)
    for order in ("asc", "desc"):
        page = client.conversations.items.list(made.id, limit=7, order=order)
        assert (page.has_more, len(page.data), page.last_id) == (True, 7, page.data[-1].id)
        texts = [item.content[0].text for item in page if item.type == "message"]  # type: ignore[union-attr]
        assert texts == sorted(map(str, range(20)), key=int, reverse=order == "desc")


def test_a_second_turn_on_a_busy_conversation_is_refused(server: Served, client: openai.OpenAI) -> None:
    made = client.conversations.create()
    server.script(Answer(text="slow words here", delay_ms=200))
    busy = client.responses.create(model=MODEL, input="one", conversation=made.id, background=True)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="two", conversation=made.id)
    assert refused.value.code == "conversation_locked"
    client.responses.cancel(busy.id)


def test_a_chat_completion_with_tools(server: Served, client: openai.OpenAI) -> None:
    server.script(tools_first)
    function = {key: value for key, value in TOOL.items() if key != "type"}
    tools: Any = [{"type": "function", "function": function}]
    messages: list[Any] = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "look it up"}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=tools, tool_choice="required")
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    messages.append(choice.message)
    messages.append({"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "a bird"})
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=tools)
    assert "a bird" in (second.choices[0].message.content or "")
    assert second.usage is not None


def test_a_chat_completion_is_streamed_with_its_usage(server: Served, client: openai.OpenAI) -> None:
    calls = (ScriptedCall(name="one", arguments='{"a": 1}'), ScriptedCall(name="two", arguments="{}"))
    server.script(Answer(reasoning="hm hm", text="Hello you", calls=calls))
    function: Any = {"type": "function", "function": {"name": "one"}}
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "hi"}],
        tools=[function],
        stream_options={"include_usage": True},
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    message = final.choices[0].message
    assert (message.content, message.refusal) == ("Hello you", None)
    assert [call.function.name for call in message.tool_calls or ()] == ["one", "two"]
    assert message.to_dict()["reasoning_content"] == "hm hm"
    assert final.usage is not None
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_refusal_and_a_cut_answer_are_told(server: Served, client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    server.script(Answer(refusal="I cannot."))
    refused = client.chat.completions.create(model=MODEL, messages=messages).choices[0]
    assert (refused.message.refusal, refused.message.content) == ("I cannot.", None)
    server.script(Answer(text="half", finish_reason="length"))
    cut = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=5).choices[0]
    assert cut.finish_reason == "length"


def test_a_model_that_refuses_a_chat_is_told_with_its_status(server: Served, client: openai.OpenAI) -> None:
    server.script(Answer(status=400, error_message="no such thing"))
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    assert refused.value.status_code >= 400
    assert "no such thing" in refused.value.message


def test_a_chat_stream_that_breaks_raises_in_the_sdk(server: Served, client: openai.OpenAI) -> None:
    server.script(Answer(text="one two three four", group=1, end="cut", after=2))
    stream = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True)
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    one = client.models.retrieve(MODEL)
    assert one.owned_by == "stateline"
    assert one.to_dict()["stateline"] == {"deployments": [{"name": "one", "cloud": "openai"}]}


async def test_the_asynchronous_client_does_the_same(server: Served) -> None:
    async with server.async_openai() as client:
        made = await client.responses.create(model=MODEL, input="one")
        assert made.output_text == "You said: one"
        kinds = [event.type async for event in await client.responses.retrieve(made.id, stream=True)]
        assert kinds[-1] == "response.completed"
        items = [item async for item in client.responses.input_items.list(made.id)]
        assert len(items) == 1
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text == "You said: hi"
