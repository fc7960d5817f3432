"""``langchain-openai`` and ``langchain-anthropic`` against our server, over each API that they speak."""

from __future__ import annotations

from collections.abc import Callable, Generator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, SecretStr
from tests.api.conftest import MODEL, Answer, Served

from stateline.core.items import InputImage, Message
from stateline.testing.scripted import ModelAsked, ScriptedCall

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

Make = Callable[..., "BaseChatModel"]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CALLS = (
    ScriptedCall(name="look_up", arguments='{"word": "owl"}'),
    ScriptedCall(name="look_up", arguments='{"word": "heron"}'),
)


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def look_up(word: str) -> str:
    """Look a word up."""
    return f"found {word}"


@pytest.fixture(params=["chat", "responses", "messages"])
def make(request: pytest.FixtureRequest, server: Served) -> Generator[Make]:
    """The frameworks take seconds to import, so they are imported where a test runs."""
    api: str = request.param
    made: list[BaseChatModel] = []

    def chat_model(**fields: Any) -> BaseChatModel:
        made.append(new_model(**fields))
        return made[-1]

    def new_model(**fields: Any) -> BaseChatModel:
        if api == "messages":
            from langchain_anthropic import ChatAnthropic

            key = SecretStr("unused")
            return ChatAnthropic(
                model_name=MODEL, base_url=server.url, api_key=key, max_tokens_to_sample=500, max_retries=0, **fields
            )
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(
            model=MODEL,
            base_url=server.url + "/v1",
            api_key=SecretStr("unused"),
            max_retries=0,
            use_responses_api=api == "responses",
            **fields,
        )

    yield chat_model
    for model in made:
        client_of(model).close()
    forget_clients()


def client_of(model: BaseChatModel, *, asynchronous: bool = False) -> Any:
    """The SDK's client inside a model; neither framework closes it."""
    for name in ("root_async_client", "_async_client") if asynchronous else ("root_client", "_client"):
        if hasattr(model, name):
            return getattr(model, name)
    raise AssertionError("the model has no client of that kind")


def forget_clients() -> None:
    """Both frameworks keep HTTP clients for later models, closed ones too."""
    for package in ("langchain_openai.chat_models", "langchain_anthropic"):
        kept = vars(import_module(f"{package}._client_utils"))
        for name, value in kept.items():
            if "httpx_client" in name and hasattr(value, "cache_clear"):
                value.cache_clear()


def test_a_model_is_invoked(server: Served, make: Make) -> None:
    from langchain_core.messages import AIMessage

    answer = make().invoke([("system", "Be brief."), ("human", "hello")])
    assert isinstance(answer, AIMessage)
    assert answer.text == "You said: hello"
    assert answer.usage_metadata is not None
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (10, 3)


def test_a_model_is_streamed(server: Served, make: Make) -> None:
    from langchain_core.messages import AIMessageChunk

    whole: AIMessageChunk | None = None
    pieces: list[str] = []
    for chunk in make(stream_usage=True).stream("a few words"):
        assert isinstance(chunk, AIMessageChunk)
        pieces.append(chunk.text)
        whole = chunk if whole is None else whole + chunk
    assert "".join(pieces) == "You said: a few words"
    assert whole is not None
    assert whole.usage_metadata is not None
    assert (whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]) == (10, 5)


async def test_a_model_is_streamed_in_a_loop(server: Served, make: Make) -> None:
    model = make()
    pieces = [chunk.text async for chunk in model.astream("a few words")]
    assert "".join(pieces) == "You said: a few words"
    await client_of(model, asynchronous=True).close()


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_called_and_answered(server: Served, make: Make, streamed: bool) -> None:
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

    server.script(Answer(text="Let me look.", calls=CALLS))
    model = make().bind_tools([look_up])
    question = HumanMessage("look them up")
    called: Any = None
    if streamed:
        for chunk in model.stream([question]):
            called = chunk if called is None else called + chunk
    else:
        called = model.invoke([question])
    assert isinstance(called, AIMessage)
    assert called.text == "Let me look."
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [
        ("look_up", {"word": "owl"}),
        ("look_up", {"word": "heron"}),
    ]
    outputs = [ToolMessage(look_up(**call["args"]), tool_call_id=call["id"]) for call in called.tool_calls]
    server.script(lambda asked, _: Answer(text=f"It {asked.tool_output}."))
    answer = model.invoke([question, called, *outputs])
    assert isinstance(answer, AIMessage)
    assert answer.text == "It found heron."


def test_a_tool_that_is_demanded_is_the_tool_choice(server: Served, make: Make) -> None:
    server.script(Answer(calls=CALLS[:1]))
    called = make().bind_tools([look_up], tool_choice="look_up").invoke("go")
    assert getattr(called, "tool_calls", [])[0]["name"] == "look_up"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_output_has_the_shape_of_a_class(server: Served, make: Make, method: str) -> None:
    arguments = '{"city": "Oslo", "degrees": 3}'
    call = ScriptedCall(name="Weather", arguments=arguments)
    server.script(Answer(text=arguments) if method == "json_schema" else Answer(calls=(call,)))
    model = make().with_structured_output(Weather, method=method)
    assert model.invoke("weather") == Weather(city="Oslo", degrees=3)


def test_an_image_arrives_at_the_model(server: Served, make: Make) -> None:
    from langchain_core.messages import HumanMessage

    blocks: list[Any] = [
        {"type": "text", "text": "what is it"},
        {"type": "image", "base64": PIXEL, "mime_type": "image/png"},
    ]
    make().invoke([HumanMessage(content_blocks=blocks)])
    asked = server.scripted.requests[-1]
    assert isinstance(asked, ModelAsked)
    message = asked.request.items[-1]
    assert isinstance(message, Message)
    image = message.content[1]
    assert isinstance(image, InputImage)
    assert image.image_url == f"data:image/png;base64,{PIXEL}"


def test_reasoning_and_text_go_back_as_they_came(server: Served, make: Make) -> None:
    from langchain_core.messages import AIMessage, HumanMessage

    server.script(Answer(summary="Short.", text="One."))
    model = make()
    first = model.invoke([HumanMessage("one")])
    server.script(lambda asked, _: Answer(text=f"After {asked.user_text}."))
    second = model.invoke([HumanMessage("one"), first, HumanMessage("two")])
    assert isinstance(second, AIMessage)
    assert second.text == "After two."


def test_a_chain_is_kept_by_the_server(server: Served) -> None:
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model=MODEL, base_url=server.url + "/v1", api_key=SecretStr("unused"), use_previous_response_id=True
    )
    messages: list[Any] = [HumanMessage("one")]
    messages += [model.invoke(messages), HumanMessage("two")]
    answer = model.invoke(messages)
    assert isinstance(answer, AIMessage)
    assert answer.text == "You said: two"
    client_of(model).close()
    forget_clients()
    with server.openai() as client:
        response = client.responses.retrieve(answer.response_metadata["id"])
        items = list(client.responses.input_items.list(response.id))
    assert response.previous_response_id == messages[1].response_metadata["id"]
    assert len(items) == 3
