"""The local model over a scripted runtime: what is asked of it, and what becomes of its words."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stateline.core.calls import (
    AllowedTools,
    CallDelta,
    CallStart,
    Finish,
    FunctionChoice,
    FunctionTool,
    JsonObject,
    JsonSchema,
    ModelDelta,
    ModelParams,
    ModelRequest,
    TextConfig,
    TextDelta,
    Usage,
)
from stateline.core.errors import BadRequest, ModelError
from stateline.core.items import (
    Compaction,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    Refusal,
)
from stateline.core.limits import LOCAL_CALLS_PARALLEL_MAX, LOCAL_OUTPUT_TOKENS
from stateline.models.local import LocalModel, model_path
from stateline.models.local.llama import Piece, Stopped
from stateline.models.local.prompt import ANSWER_NOW, DEFAULT_INSTRUCTIONS, plan_call
from stateline.models.local.schema import conform
from stateline.models.local.toolcalls import tools_prompt
from stateline.ports import Deployment, ModelClient

WEATHER = FunctionTool(
    name="get_weather",
    description="Weather",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
ORDER = FunctionTool(
    name="get_order",
    parameters={"type": "object", "properties": {"order_id": {"type": "integer"}}, "required": ["order_id"]},
)
PARIS = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
OSLO = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'


def deployment(upstream_model: str = "model.gguf", timeout_s: float = 60.0) -> Deployment:
    return Deployment(
        name="local",
        model="m",
        cloud="local",
        format="openai-chat",
        base_url="",
        upstream_model=upstream_model,
        timeout_s=timeout_s,
    )


class ScriptedRuntime:
    """Answers each generation with the next script: texts, one a batch. Ends with "stop" unless told."""

    def __init__(self, *scripts: Sequence[str], reason: str = "stop", stall: bool = False) -> None:
        self.scripts = list(scripts)
        self.reason = reason
        self.stall = stall
        self.bodies: list[dict[str, Any]] = []
        self.given: list[str] = []
        self.open = 0
        self.closed = False

    async def load(self) -> None:
        self.bodies.append({})

    async def stream(self, body: dict[str, Any], /) -> AsyncGenerator[list[Piece]]:
        self.bodies.append(body)
        self.open += 1
        try:
            usage = Usage(input_tokens=10)
            for number, text in enumerate(self.scripts.pop(0), 1):
                usage = Usage(input_tokens=10, output_tokens=number, cached_tokens=4)
                self.given.append(text)
                yield [usage, text]
            if self.stall:
                await asyncio.Event().wait()
            yield [Stopped(reason="length" if self.reason == "length" else "stop", usage=usage, upstream_id="u1")]
        finally:
            self.open -= 1

    async def close(self) -> None:
        self.closed = True


def user(text: str) -> Message:
    return Message(id="msg_1", role="user", content=(InputText(text=text),))


def asked(items: Sequence[ModelItem] = (user("hi"),), **params: Any) -> ModelRequest:
    return ModelRequest(params=ModelParams(model="m", **params), items=items, key="s/1/1")


def answered(city: str = "Paris") -> list[ModelItem]:
    return [
        user("weather?"),
        FunctionCall(id="fc_1", call_id="c1", name="get_weather", arguments=json.dumps({"city": city})),
        FunctionCallOutput(id="fco_1", call_id="c1", output="sunny"),
    ]


async def deltas(runtime: ScriptedRuntime, request: ModelRequest) -> list[ModelDelta]:
    model: ModelClient = LocalModel(lambda _path: runtime)
    out = [delta async for batch in model.call(deployment(), request) for delta in batch]
    assert isinstance(out[-1], Finish)
    assert not any(isinstance(delta, Finish) for delta in out[:-1])
    assert runtime.open == 0
    return out


def shown(out: Sequence[ModelDelta]) -> str:
    return "".join(delta.text for delta in out if isinstance(delta, TextDelta))


def calls(out: Sequence[ModelDelta]) -> list[tuple[str, Any]]:
    names = {delta.index: delta.name for delta in out if isinstance(delta, CallStart)}
    return [(names[delta.index], json.loads(delta.arguments)) for delta in out if isinstance(delta, CallDelta)]


def finish(out: Sequence[ModelDelta]) -> Finish:
    assert isinstance(out[-1], Finish)
    return out[-1]


# -- answers --------------------------------------------------------------------------------------------


async def test_text_comes_in_the_pieces_in_which_it_is_generated() -> None:
    out = await deltas(ScriptedRuntime(["Hel", "", "lo", "."]), asked())
    assert out == [
        TextDelta("Hel"),
        TextDelta("lo"),
        TextDelta("."),
        Finish(
            reason="stop",
            usage=Usage(input_tokens=10, output_tokens=4, cached_tokens=4),
            upstream_id="u1",
            upstream_model="model.gguf",
        ),
    ]


async def test_an_answer_at_its_limit_ends_with_length() -> None:
    assert finish(await deltas(ScriptedRuntime(["a"], reason="length"), asked())).reason == "length"


async def test_a_call_is_one_delta_and_ends_the_generation() -> None:
    runtime = ScriptedRuntime(["Let me see.\n", PARIS[:20], PARIS[20:], " It is", " sunny"])
    out = await deltas(runtime, asked(tools=(WEATHER, ORDER)))
    assert shown(out) == "Let me see.\n"
    assert calls(out) == [("get_weather", {"city": "Paris"})]
    assert finish(out).reason == "tool_calls"
    assert runtime.given[-1] == PARIS[20:]


async def test_the_same_step_gives_its_call_the_same_id() -> None:
    first, again = [await deltas(ScriptedRuntime([PARIS]), asked(tools=(WEATHER,))) for _ in range(2)]
    assert first == again


async def test_one_call_unless_more_are_asked_for() -> None:
    script = [PARIS, "\n", OSLO, "\n", PARIS]
    assert len(calls(await deltas(ScriptedRuntime(script), asked(tools=(WEATHER,))))) == 1
    both = await deltas(ScriptedRuntime(script), asked(tools=(WEATHER,), parallel_tool_calls=True))
    assert calls(both) == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Oslo"})]
    assert [delta.index for delta in both if isinstance(delta, CallStart)] == [0, 1]


async def test_parallel_calls_are_bounded_and_so_is_talk_after_them() -> None:
    many = [json.dumps({"name": "get_weather", "arguments": {"city": str(n)}}) + "\n" for n in range(20)]
    out = await deltas(ScriptedRuntime(many), asked(tools=(WEATHER,), parallel_tool_calls=True))
    assert len(calls(out)) == LOCAL_CALLS_PARALLEL_MAX
    runtime = ScriptedRuntime([PARIS + "\n", *(["and so on, "] * 50)])
    out = await deltas(runtime, asked(tools=(WEATHER,), parallel_tool_calls=True))
    assert len(runtime.given) < 10
    assert shown(out) == ""


async def test_a_call_that_does_not_fit_is_asked_for_again_under_a_grammar() -> None:
    runtime = ScriptedRuntime(['{"name": "get_weather", "arguments": {"town": "Paris"}}', " and"], [PARIS])
    out = await deltas(runtime, asked(tools=(WEATHER, ORDER)))
    assert calls(out) == [("get_weather", {"city": "Paris"})]
    assert shown(out) == ""
    schema = runtime.bodies[1]["response_format"]["json_schema"]["schema"]
    assert conform(schema, json.loads(PARIS))[1] == []
    assert conform(schema, {"name": "get_order", "arguments": {"order_id": 1}})[1]
    assert finish(out).usage == Usage(input_tokens=20, output_tokens=2, cached_tokens=8)


async def test_a_call_of_a_tool_that_was_made_up_is_answered_in_words() -> None:
    runtime = ScriptedRuntime(['{"name": "look_outside", "arguments": {}}'], ["I cannot look."])
    out = await deltas(runtime, asked(tools=(WEATHER, ORDER)))
    assert (shown(out), calls(out)) == ("I cannot look.", [])
    assert "response_format" not in runtime.bodies[1]
    assert "<tools>" not in runtime.bodies[1]["messages"][0]["content"]


async def test_a_call_whose_output_is_there_is_not_made_again() -> None:
    runtime = ScriptedRuntime([PARIS], ["It is ", "sunny."])
    out = await deltas(runtime, asked(answered(), tools=(WEATHER,)))
    assert (shown(out), calls(out), finish(out).reason) == ("It is sunny.", [], "stop")
    assert "<tools>" in runtime.bodies[0]["messages"][0]["content"]
    assert "<tools>" not in runtime.bodies[1]["messages"][0]["content"]


async def test_another_call_after_an_output_is_made() -> None:
    out = await deltas(ScriptedRuntime([OSLO]), asked(answered(), tools=(WEATHER,)))
    assert calls(out) == [("get_weather", {"city": "Oslo"})]


async def test_a_call_of_an_earlier_turn_may_be_made_again() -> None:
    out = await deltas(ScriptedRuntime([PARIS]), asked([*answered(), user("and now?")], tools=(WEATHER,)))
    assert calls(out) == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("choice", ["required", FunctionChoice(name="get_weather")])
async def test_a_required_call_is_enforced_by_the_grammar(choice: Any) -> None:
    runtime = ScriptedRuntime([PARIS[:9], PARIS[9:]])
    out = await deltas(runtime, asked(tools=(WEATHER, ORDER), tool_choice=choice))
    assert calls(out) == [("get_weather", {"city": "Paris"})]
    schema = runtime.bodies[0]["response_format"]["json_schema"]["schema"]
    other = conform(schema, {"name": "get_order", "arguments": {"order_id": 1}})[1]
    assert bool(other) is isinstance(choice, FunctionChoice)


async def test_a_required_call_that_was_cut_off_is_none() -> None:
    runtime = ScriptedRuntime([PARIS[:-2]], reason="length")
    out = await deltas(runtime, asked(tools=(WEATHER,), tool_choice="required"))
    assert out == [finish(out)]
    assert finish(out).reason == "length"


async def test_a_required_call_that_misses_its_schema_may_be_retried() -> None:
    runtime = ScriptedRuntime(['{"name": "get_weather", "arguments": {}}'])
    with pytest.raises(ModelError) as caught:
        await deltas(runtime, asked(tools=(WEATHER,), tool_choice="required"))
    assert caught.value.retryable


async def test_half_a_call_at_the_limit_is_text() -> None:
    out = await deltas(ScriptedRuntime([PARIS[:-4]], reason="length"), asked(tools=(WEATHER,)))
    assert (calls(out), shown(out), finish(out).reason) == ([], PARIS[:-4], "length")


COUNT = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
SHAPE = TextConfig(format=JsonSchema(name="answer", schema=COUNT))


async def test_a_json_schema_is_enforced_and_streamed() -> None:
    runtime = ScriptedRuntime(['{"n":', " 3}"])
    out = await deltas(runtime, asked(text=SHAPE))
    assert out[:2] == [TextDelta('{"n":'), TextDelta(" 3}")]
    assert runtime.bodies[0]["response_format"]["json_schema"]["schema"] == COUNT
    objects = ScriptedRuntime(["{}"])
    await deltas(objects, asked(text=TextConfig(format=JsonObject())))
    assert objects.bodies[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize("tools", [(WEATHER,), (WEATHER, ORDER)])
async def test_with_tools_a_json_schema_leaves_room_for_a_call(tools: tuple[FunctionTool, ...]) -> None:
    runtime = ScriptedRuntime([PARIS], ['{"n": 3}'])
    out = await deltas(runtime, asked(tools=tools, text=SHAPE))
    assert calls(out) == [("get_weather", {"city": "Paris"})]
    out = await deltas(runtime, asked(tools=tools, text=SHAPE))
    assert (calls(out), shown(out)) == ([], '{"n": 3}')
    schema = runtime.bodies[0]["response_format"]["json_schema"]["schema"]
    assert conform(schema, json.loads(PARIS))[1] == []
    assert conform(schema, {"n": "no number"})[1]
    after = ScriptedRuntime(['{"n": 3}'])
    await deltas(after, asked(answered(), tools=tools, text=SHAPE))
    assert after.bodies[0]["response_format"]["json_schema"]["schema"] == COUNT


async def test_a_caller_that_leaves_ends_the_generation() -> None:
    runtime = ScriptedRuntime(["a", "b"])
    batches = LocalModel(lambda _path: runtime).call(deployment(), asked())
    assert await anext(batches) == [TextDelta("a")]
    assert runtime.open == 1
    await batches.aclose()
    assert runtime.open == 0


async def test_a_call_past_its_timeout_ends() -> None:
    runtime = ScriptedRuntime(["a"], stall=True)
    model = LocalModel(lambda _path: runtime)
    with pytest.raises(ModelError, match="timeout_s") as caught:
        _ = [batch async for batch in model.call(deployment(timeout_s=0.01), asked())]
    assert (caught.value.code, caught.value.retryable, runtime.open) == ("upstream_timeout", True, 0)


async def test_each_file_has_one_runtime_until_the_model_is_closed() -> None:
    made: list[ScriptedRuntime] = []

    def make(path: Path) -> ScriptedRuntime:
        made.append(ScriptedRuntime(["a"], ["a"]))
        return made[-1]

    model = LocalModel(make)
    for name in ("a.gguf", "b.gguf", "a.gguf"):
        _ = [batch async for batch in model.call(deployment(name), asked())]
    await model.load(deployment("b.gguf"))
    assert len(made) == 2
    await model.close()
    assert all(runtime.closed for runtime in made)


def test_which_file_a_deployment_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_path(deployment("/models/c.GGUF")) == Path("/models/c.GGUF")
    with pytest.raises(ModelError, match=r"neither a known local model \(qwen2"):
        model_path(deployment("gpt-5"))
    monkeypatch.setenv("STATELINE_MODEL_DIR", str(tmp_path))
    with pytest.raises(ModelError, match=r"python -m stateline\.models\.local") as caught:
        model_path(deployment("qwen2.5-coder-0.5b-instruct"))
    assert (caught.value.code, caught.value.blame, caught.value.retryable) == (
        "upstream_misconfigured",
        "operator",
        False,
    )


# -- prompts ----------------------------------------------------------------------------------------------


def messages(items: Sequence[ModelItem], **params: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in plan_call(asked(items, **params)).messages]


def test_a_conversation_reads_as_it_went() -> None:
    items: list[ModelItem] = [
        Message(id="1", role="developer", content=(InputText(text="Be brief."),)),
        user("weather?"),
        Reasoning(id="2"),
        Message(id="3", role="assistant", content=(OutputText(text="I look."), Refusal(refusal="No."))),
        FunctionCall(id="4", call_id="a", name="get_weather", arguments='{"city":"Paris"}'),
        FunctionCall(id="5", call_id="b", name="get_weather", arguments='{"city":"Oslo"}'),
        FunctionCallOutput(id="6", call_id="a", output="sun"),
        FunctionCallOutput(id="7", call_id="b", output=(InputText(text="snow"),)),
        Message(id="8", role="assistant", content=(OutputText(text="Sun and snow."),)),
        Message(id="9", role="system", content=(InputText(text="Now in French."),)),
        user("again"),
    ]
    called = '<tool_call>\n{{"name": "get_weather", "arguments": {{"city":"{}"}}}}\n</tool_call>'
    assert messages(items, instructions="You are Bob.") == [
        ("system", "You are Bob.\n\nBe brief."),
        ("user", "weather?"),
        ("assistant", f"I look.\nNo.\n{called.format('Paris')}\n{called.format('Oslo')}"),
        (
            "user",
            "<tool_response>\nsun\n</tool_response>\n<tool_response>\nsnow\n</tool_response>\n" + ANSWER_NOW,
        ),
        ("assistant", "Sun and snow."),
        ("system", "Now in French."),
        ("user", "again"),
    ]


def test_a_users_own_message_is_not_joined_to_a_tools_output() -> None:
    assert messages([*answered(), user("and?")])[-1] == ("user", "and?")


def test_the_prompt_of_a_session_keeps_its_beginning() -> None:
    """What a later call sends begins with what the earlier one sent, or no cache would fit."""
    items: list[ModelItem] = [
        *answered(),
        Message(id="8", role="assistant", content=(OutputText(text="Sun."),)),
        user("?"),
    ]
    plans = [messages(items[:count], tools=(WEATHER,)) for count in (1, 3, 5)]
    for shorter, longer in itertools.pairwise(plans):
        assert longer[: len(shorter)] == shorter
    assert plans[0][0] == ("system", f"{DEFAULT_INSTRUCTIONS}\n\n{tools_prompt((WEATHER,))}")


def test_tools_that_may_not_be_called_now_stay_in_the_prompt_if_others_may() -> None:
    only = AllowedTools(tools=(FunctionChoice(name="get_order"),))
    plan = plan_call(asked(tools=(WEATHER, ORDER), tool_choice=only))
    assert plan.tools == (ORDER,)
    assert "get_weather" in plan.messages[0]["content"]
    none = plan_call(asked(tools=(WEATHER, ORDER), tool_choice="none"))
    assert none.tools == ()
    assert "get_weather" not in none.messages[0]["content"]
    forced = AllowedTools(tools=(FunctionChoice(name="get_order"),), mode="required")
    assert plan_call(asked(tools=(WEATHER, ORDER), tool_choice=forced)).forced


def test_sampling_is_greedy_for_calls_and_objects_and_lively_for_text() -> None:
    assert plan_call(asked()).sampling == {
        "max_tokens": LOCAL_OUTPUT_TOKENS,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repeat_penalty": 1.05,
    }
    assert plan_call(asked(tools=(WEATHER,))).sampling["temperature"] == 0.0
    assert plan_call(asked(text=SHAPE)).sampling["temperature"] == 0.0
    chosen = plan_call(
        asked(
            temperature=1.5,
            top_p=0.1,
            max_output_tokens=7,
            stop=("x",),
            seed=3,
            presence_penalty=0.5,
            frequency_penalty=0.25,
        )
    ).sampling
    assert chosen == {
        "max_tokens": 7,
        "temperature": 1.5,
        "top_p": 0.1,
        "top_k": 20,
        "repeat_penalty": 1.05,
        "stop": ["x"],
        "seed": 3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
    }


@pytest.mark.parametrize(
    ("items", "params", "param"),
    [
        ([Message(id="1", role="user", content=(InputImage(image_url="data:"),))], {}, "input"),
        ([Compaction(id="1", encrypted_content="x")], {}, "input"),
        ([user("x")], {"top_logprobs": 2}, "top_logprobs"),
        ([user("x")], {"tool_choice": "required"}, "tool_choice"),
        ([user("x")], {"tools": (WEATHER,), "tool_choice": FunctionChoice(name="other")}, "tool_choice"),
    ],
)
def test_what_it_cannot_carry_is_refused_by_name(items: list[ModelItem], params: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        plan_call(asked(items, **params))
    assert caught.value.param == param
