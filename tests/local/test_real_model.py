"""The 0.5B model itself: it talks, calls a tool, obeys a schema, and can be stopped.

Each generation is kept short: two busy cores make a dozen tokens a second.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from stateline.core.calls import (
    CallDelta,
    CallStart,
    Finish,
    FunctionTool,
    JsonSchema,
    ModelDelta,
    ModelParams,
    ModelRequest,
    TextConfig,
    TextDelta,
)
from stateline.core.errors import BadRequest, ModelError
from stateline.core.items import FunctionCall, FunctionCallOutput, InputText, Message, ModelItem
from stateline.core.limits import LOCAL_CONTEXT_TOKENS
from stateline.models.local import LocalModel
from stateline.models.local.catalogue import DEFAULT_MODEL
from stateline.ports import Deployment

DEPLOYMENT = Deployment(
    name="local",
    model=DEFAULT_MODEL.name,
    cloud="local",
    format="openai-chat",
    base_url="",
    upstream_model=DEFAULT_MODEL.name,
)
WEATHER = FunctionTool(
    name="get_weather",
    description="Current weather in a city",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/unit"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    },
)


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    """One model for the whole file, whatever loops its tests bring: loading takes seconds."""
    shared = LocalModel()
    yield shared
    asyncio.run(shared.close())


def user(text: str) -> Message:
    return Message(id="msg_1", role="user", content=(InputText(text=text),))


def asked(items: Sequence[ModelItem], **params: Any) -> ModelRequest:
    fields: dict[str, Any] = {"max_output_tokens": 60, "temperature": 0.0, **params}
    return ModelRequest(params=ModelParams(model=DEFAULT_MODEL.name, **fields), items=items, key="s/1/1")


async def answer(model: LocalModel, request: ModelRequest) -> list[ModelDelta]:
    return [delta async for batch in model.call(DEPLOYMENT, request) for delta in batch]


def shown(deltas: Sequence[ModelDelta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def finish(deltas: Sequence[ModelDelta]) -> Finish:
    assert isinstance(deltas[-1], Finish)
    return deltas[-1]


async def test_it_answers_in_a_stream_and_counts_its_tokens(model: LocalModel) -> None:
    deltas = await answer(model, asked([user("What is the capital of France? One word.")]))
    assert "Paris" in shown(deltas)
    usage = finish(deltas).usage
    assert usage is not None
    assert usage.input_tokens > 10
    assert usage.output_tokens >= 1


async def test_an_answer_ends_at_its_limit(model: LocalModel) -> None:
    deltas = await answer(model, asked([user("Count from 1 to 100.")], max_output_tokens=5))
    assert finish(deltas).reason == "length"
    assert len(deltas) > 2
    usage = finish(deltas).usage
    assert usage is not None
    assert usage.output_tokens == 5


async def test_it_calls_a_tool_and_then_answers_from_its_output(model: LocalModel) -> None:
    question: list[ModelItem] = [user("What's the weather in Paris right now?")]
    deltas = await answer(model, asked(question, tools=(WEATHER,)))
    assert [delta.name for delta in deltas if isinstance(delta, CallStart)] == ["get_weather"]
    arguments = "".join(delta.arguments for delta in deltas if isinstance(delta, CallDelta))
    assert json.loads(arguments)["city"] == "Paris"
    assert finish(deltas).reason == "tool_calls"
    after: list[ModelItem] = [
        *question,
        FunctionCall(id="fc_1", call_id="c1", name="get_weather", arguments=arguments),
        FunctionCallOutput(id="fco_1", call_id="c1", output='{"temp_c": 18, "sky": "light rain"}'),
    ]
    deltas = await answer(model, asked(after, tools=(WEATHER,)))
    assert not [delta for delta in deltas if isinstance(delta, CallStart)]
    assert "18" in shown(deltas) or "rain" in shown(deltas)
    usage = finish(deltas).usage
    assert usage is not None
    assert usage.cached_tokens > usage.input_tokens / 2, "the system prompt and the question were read before"


async def test_a_call_can_be_forced(model: LocalModel) -> None:
    deltas = await answer(model, asked([user("Hello there.")], tools=(WEATHER,), tool_choice="required"))
    arguments = [json.loads(delta.arguments) for delta in deltas if isinstance(delta, CallDelta)]
    assert len(arguments) == 1
    assert isinstance(arguments[0]["city"], str)
    assert arguments[0].get("unit", "celsius") in ("celsius", "fahrenheit")


async def test_a_json_schema_is_kept_to(model: LocalModel) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string"}, "sure": {"type": "boolean"}},
        "required": ["capital", "sure"],
        "additionalProperties": False,
    }
    text = TextConfig(format=JsonSchema(name="capital", schema=schema))
    deltas = await answer(model, asked([user("The capital of Italy?")], text=text))
    out = json.loads(shown(deltas))
    assert set(out) == {"capital", "sure"}
    assert isinstance(out["sure"], bool)


async def test_a_schema_that_cannot_be_enforced_is_refused(model: LocalModel) -> None:
    text = TextConfig(format=JsonSchema(name="x", schema={"type": "no such type"}))
    with pytest.raises(BadRequest) as caught:
        await answer(model, asked([user("hi")], text=text))
    assert caught.value.code == "unsupported_schema"


async def test_a_prompt_that_is_too_long_is_refused(model: LocalModel) -> None:
    with pytest.raises(ModelError) as caught:
        await answer(model, asked([user("word " * (LOCAL_CONTEXT_TOKENS + 10))]))
    assert (caught.value.code, caught.value.status) == ("context_length_exceeded", 400)


async def test_a_caller_that_leaves_makes_room_for_the_next(model: LocalModel) -> None:
    """The first call would take minutes; that the second one ends at all shows that it was stopped."""
    endless = model.call(DEPLOYMENT, asked([user("Write a very long story.")], max_output_tokens=2000))
    assert await anext(endless)
    await endless.aclose()
    deltas = await answer(model, asked([user("Say ok.")], max_output_tokens=3))
    assert isinstance(deltas[-1], Finish)


async def test_the_event_loop_goes_on_while_the_model_thinks(model: LocalModel) -> None:
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    beating = asyncio.create_task(heart())
    batches = 0
    async for _ in model.call(DEPLOYMENT, asked([user("Count to twenty.")], max_output_tokens=20)):
        batches += 1
    beating.cancel()
    # A loop that waits for each token would beat about as often as batches come.
    assert beats > 20 * batches


LEAVES = """
    import asyncio, sys
    from stateline.core.calls import ModelParams, ModelRequest
    from stateline.core.items import InputText, Message
    from stateline.models.local import LocalModel
    from stateline.ports import Deployment

    async def main():
        model = LocalModel()
        name = sys.argv[1]
        where = Deployment(
            name="local", model=name, cloud="local", format="openai-chat", base_url="", upstream_model=name
        )
        say = Message(id="msg_1", role="user", content=(InputText(text="Write a very long story."),))
        request = ModelRequest(params=ModelParams(model=name, max_output_tokens=2000), items=[say], key="k")
        async for batch in model.call(where, request):
            print("leaving", flush=True)
            if sys.argv[2] == "close":
                await model.close()
            sys.exit(7)

    asyncio.run(main())
"""


@pytest.mark.parametrize("manner", ["close", "just leave"])
def test_a_process_can_leave_in_the_middle_of_an_answer(manner: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LEAVES), DEFAULT_MODEL.name, manner],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout == "leaving\n"
