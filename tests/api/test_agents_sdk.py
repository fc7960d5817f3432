"""``openai-agents`` against our server: its tool loop, its structured output, and all its ways to keep state."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest
from pydantic import BaseModel
from tests.api.conftest import MODEL, Answer, Served

from stateline.testing.scripted import Asked, ScriptedCall, tools_first

if TYPE_CHECKING:
    from agents import Agent, RunConfig
    from agents.models.interface import Model

Api = Literal["responses", "chat", "websocket"]
_models: list[Model] = []
APIS: tuple[Api, ...] = ("responses", "chat", "websocket")


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.fixture
async def client(server: Served) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with server.async_openai() as made:
        yield made
        # Over a WebSocket each model keeps its connection.
        while _models:
            await _models.pop().close()


def model_of(client: openai.AsyncOpenAI, api: Api) -> Model:
    """The framework takes long to import, so it is imported where a test runs."""
    from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel, OpenAIResponsesWSModel

    kinds = {
        "responses": OpenAIResponsesModel,
        "chat": OpenAIChatCompletionsModel,
        "websocket": OpenAIResponsesWSModel,
    }
    model = kinds[api](model=MODEL, openai_client=client)
    _models.append(model)
    return model


def agent_of(client: openai.AsyncOpenAI, api: Api = "responses", **fields: Any) -> Agent[None]:
    from agents import Agent

    return Agent(name="Helper", instructions="Help.", model=model_of(client, api), **fields)


def quiet() -> RunConfig:
    """No traces: they would be sent to OpenAI."""
    from agents import RunConfig

    return RunConfig(tracing_disabled=True)


def look_up() -> Any:
    from agents import function_tool

    @function_tool
    def look_up(word: str) -> str:
        """Look a word up."""
        return f"found {len(word)} letters"

    return look_up


def twice(asked: Asked, attempt: int) -> Answer:
    """Two calls side by side, with words before them; then what they gave."""
    if asked.tool_output is not None:
        return Answer(text=f"The tool {asked.tool_output}.")
    calls = tuple(ScriptedCall(name="look_up", arguments=f'{{"word": "{word}"}}') for word in ("owl", "heron"))
    return Answer(text="Let me look.", calls=calls)


@pytest.mark.parametrize("api", APIS)
async def test_an_agent_calls_its_tools_and_answers(server: Served, client: openai.AsyncOpenAI, api: Api) -> None:
    from agents import Runner

    server.script(twice)
    agent = agent_of(client, api, tools=[look_up()])
    result = await Runner.run(agent, "look them up", run_config=quiet())
    assert result.final_output == "The tool found 5 letters."
    kinds = [item.type for item in result.new_items]
    assert kinds.count("tool_call_output_item") == 2
    usage = result.context_wrapper.usage
    assert (usage.requests, usage.input_tokens) == (2, 20)


@pytest.mark.parametrize("api", APIS)
async def test_an_agent_is_streamed(server: Served, client: openai.AsyncOpenAI, api: Api) -> None:
    from agents import Runner

    server.script(twice)
    result = Runner.run_streamed(agent_of(client, api, tools=[look_up()]), "look them up", run_config=quiet())
    said, called = "", 0
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            said += event.data.delta
        elif event.type == "run_item_stream_event" and event.name == "tool_called":
            called += 1
    assert (said, called) == ("Let me look.The tool found 5 letters.", 2)
    assert result.final_output == "The tool found 5 letters."


@pytest.mark.parametrize("api", APIS)
async def test_an_agent_has_structured_output(server: Served, client: openai.AsyncOpenAI, api: Api) -> None:
    from agents import Runner

    server.script(Answer(text='{"city": "Oslo", "degrees": 3}'))
    result = await Runner.run(agent_of(client, api, output_type=Weather), "weather", run_config=quiet())
    assert result.final_output == Weather(city="Oslo", degrees=3)


@pytest.mark.parametrize("api", APIS)
async def test_an_agent_hands_over_to_another(server: Served, client: openai.AsyncOpenAI, api: Api) -> None:
    from agents import Runner

    script = [Answer(calls=(ScriptedCall(name="transfer_to_helper"),)), Answer(text="I am the other.")]
    server.script(script)
    first = agent_of(client, api, handoffs=[agent_of(client, api)])
    result = await Runner.run(first, "go", run_config=quiet())
    assert result.final_output == "I am the other."


@pytest.mark.parametrize("api", APIS)
async def test_what_was_said_goes_back_as_input(server: Served, client: openai.AsyncOpenAI, api: Api) -> None:
    from agents import Runner

    server.script([*[Answer(calls=(ScriptedCall(name="look_up", arguments='{"word": "owl"}'),))], Answer(text="One.")])
    agent = agent_of(client, api, tools=[look_up()])
    first = await Runner.run(agent, "first", run_config=quiet())
    server.script(Answer(reasoning="Hm.", text="Two."))
    again: list[Any] = [*first.to_input_list(), {"role": "user", "content": "second"}]
    second = await Runner.run(agent, again, run_config=quiet())
    assert second.final_output == "Two."
    third = await Runner.run(agent, second.to_input_list(), run_config=quiet())
    assert third.final_output == "Two."


@pytest.mark.parametrize("api", ["responses"])
async def test_an_agent_goes_on_from_its_last_response(server: Served, client: openai.AsyncOpenAI, api: Api) -> None:
    from agents import Runner

    agent = agent_of(client, api, tools=[look_up()])
    first = await Runner.run(agent, "one", run_config=quiet())
    server.script(tools_first)
    second = await Runner.run(agent, "two", previous_response_id=first.last_response_id, run_config=quiet())
    assert second.final_output.startswith("found ")
    assert second.last_response_id is not None
    items = [item.type async for item in client.responses.input_items.list(second.last_response_id, order="asc")]
    # Each request brings only what is new; the server has the rest.
    assert items == ["message", "message", "message", "function_call", "function_call_output"]


async def test_the_chain_of_a_run_is_the_servers(server: Served, client: openai.AsyncOpenAI) -> None:
    from agents import Runner

    server.script(twice)
    agent = agent_of(client, tools=[look_up()])
    result = await Runner.run(agent, "look", auto_previous_response_id=True, run_config=quiet())
    assert result.final_output == "The tool found 5 letters."
    assert result.last_response_id is not None
    response = await client.responses.retrieve(result.last_response_id)
    assert response.previous_response_id == result.raw_responses[0].response_id


async def test_a_conversation_is_the_agents_memory(server: Served, client: openai.AsyncOpenAI) -> None:
    from agents import Runner

    conversation = await client.conversations.create()
    server.script(twice)
    agent = agent_of(client, tools=[look_up()])
    await Runner.run(agent, "look", conversation_id=conversation.id, run_config=quiet())
    server.script(Answer(text="Second."))
    again = await Runner.run(agent, "more", conversation_id=conversation.id, run_config=quiet())
    assert again.final_output == "Second."
    kinds = [item.type async for item in client.conversations.items.list(conversation.id, order="asc")]
    call, answer = "function_call", "function_call_output"
    assert kinds == ["message", "message", call, call, answer, answer, "message", "message", "message"]


async def test_a_session_is_kept_in_a_conversation(server: Served, client: openai.AsyncOpenAI) -> None:
    from agents import OpenAIConversationsSession, Runner

    session: Any = OpenAIConversationsSession(openai_client=client)
    server.script(twice)
    agent = agent_of(client, tools=[look_up()])
    await Runner.run(agent, "look", session=session, run_config=quiet())
    server.script(Answer(reasoning="Hm.", summary="Hm.", text="Second."))
    again = await Runner.run(agent, "more", session=session, run_config=quiet())
    assert again.final_output == "Second."
    third = await Runner.run(agent, "and more", session=session, run_config=quiet())
    assert third.final_output == "Second."
    assert len(await session.get_items()) > 8
    assert len(await session.get_items(limit=2)) == 2
    popped = await session.pop_item()
    assert popped is not None
    await session.clear_session()
