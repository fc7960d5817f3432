"""Tool calls in a small model's text."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stateline.core.calls import FunctionTool
from stateline.core.limits import LOCAL_HOLD_CHARS_MAX
from stateline.models.local.schema import conform
from stateline.models.local.toolcalls import (
    NO_SUCH_TOOL,
    BrokenCall,
    CallGate,
    ParsedCall,
    call_text,
    forced_schema,
    output_text,
    read_calls,
    same_call,
    tools_prompt,
)


def tool(name: str, required: Sequence[str] = (), **properties: Any) -> FunctionTool:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} if isinstance(kind, str) else kind for key, kind in properties.items()},
        "required": list(required),
        "additionalProperties": False,
    }
    return FunctionTool(name=name, description=f"Does {name}", parameters=schema)


WEATHER = tool("get_weather", ["city"], city="string", unit={"type": "string", "enum": ["celsius", "fahrenheit"]})
ORDER = tool("get_order", ["order_id"], order_id="integer")
PING = FunctionTool(name="ping")
TOOLS = (WEATHER, ORDER, PING)

PARIS = ParsedCall("get_weather", '{"city":"Paris"}')

CALLS = [
    '{"name": "get_weather", "arguments": {"city": "Paris"}}',
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    '```json\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```',
    '```\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n```',
    '```xml\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n```',
    '<tools>{"name": "get_weather", "arguments": {"city": "Paris"}}</tools>',
    '[{"name": "get_weather", "parameters": {"city": "Paris"}}]',
    '{"type": "function", "function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}',
    '{"tool_calls": [{"name": "get_weather", "args": {"city": "Paris"}}]}',
    '{"function": "get_weather", "city": "Paris"}',
    '{"tool": "getWeather", "tool_input": null, "input": {"city": "Paris"}}',
    '{"action": "functions.get_weather", "action_input": {"city": "Paris"}}',
    '{"get_weather": {"city": "Paris"}}',
    "{'name': 'get_weather', 'arguments': {'city': 'Paris', 'unit': None},}",
    '{"name": "get_weather", "arguments": {"city": "Paris"',
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}',
]
TEXTS = [
    "The capital of France is Paris.",
    "A set is written {1, 2, 3} in mathematics.",
    "```python\nprint({'name': 'get_weather', 'arguments': {'city': 'Paris'}})\n```\nThat prints a call.",
    '{"answer": 42}',
    '```json\n{"answer": 42}\n```\nas you asked.',
    "[a link](https://example.com) and more\n[another](x)",
    "1 < 2 and <b>bold</b> and <tool is no tag",
    "```\nplain\n```",
    "``` ",
    "`code` and ``more``\n  indented\n",
    "<tool_call>no call at all</tool_call> indeed",
    '{"name": "Ann", "arguments": "none", "age": 3}',
    "{" * 30,
    "```json",
    "```json\n",
]


def through(gate: CallGate, pieces: Sequence[str], *, cut: bool = False) -> str:
    return "".join(gate.feed(piece) for piece in pieces) + gate.finish(cut=cut)


def chop(text: str, at: Sequence[int]) -> list[str]:
    edges = [0, *sorted({index % (len(text) + 1) for index in at}), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


CUTS = st.lists(st.integers(0, 500), max_size=12)


@pytest.mark.parametrize("text", CALLS)
def test_a_call_is_read_in_whatever_shape_it_comes(text: str) -> None:
    gate = CallGate(TOOLS)
    assert through(gate, [text]) == ""
    assert gate.calls == [PARIS]
    assert gate.broken is None


@given(st.sampled_from(CALLS), CUTS)
def test_how_a_call_is_cut_into_pieces_makes_no_difference(text: str, at: list[int]) -> None:
    gate = CallGate(TOOLS)
    assert through(gate, chop(text, at)) == ""
    assert gate.calls == [PARIS]


@given(st.sampled_from(TEXTS) | st.lists(st.sampled_from(TEXTS), max_size=3).map("\n".join), CUTS)
@example("".join(TEXTS), [1])
def test_text_that_is_no_call_comes_out_as_it_went_in(text: str, at: list[int]) -> None:
    gate = CallGate(TOOLS)
    assert through(gate, chop(text, at)) == text
    assert gate.calls == []
    assert gate.broken is None


@given(st.text(alphabet="ab{}[]`<>/\"': \ntol_cjsn", max_size=80), CUTS)
def test_no_text_is_lost_or_made_up(text: str, at: list[int]) -> None:
    gate = CallGate(TOOLS)
    assert through(gate, chop(text, at)) == text


@given(st.sampled_from(CALLS[:13]), st.sampled_from(["Let me look that up.\n", "Sure!\n\n"]), CUTS)
def test_text_before_a_call_is_shown_and_text_after_it_is_not(text: str, before: str, at: list[int]) -> None:
    gate = CallGate(TOOLS)
    assert through(gate, chop(f"{before}{text}\nIt will be sunny.", at)) == before
    assert gate.calls == [PARIS]
    assert gate.stray_chars == len("Itwillbesunny.")


def test_text_is_shown_as_soon_as_it_cannot_be_a_call() -> None:
    gate = CallGate(TOOLS)
    assert gate.feed("Hello") == "Hello"
    assert gate.feed(" <b") == " "
    assert gate.feed(">\n`") == "<b>\n"
    assert gate.feed("x` ``") == "`x` ``"
    assert gate.feed("\n```py") == "\n"
    assert gate.feed("thon\n{") == "```python\n{"
    assert not gate.holding
    assert gate.feed("}\n```\n{") == "}\n```\n"
    assert gate.holding


def test_several_calls_are_all_read() -> None:
    gate = CallGate(TOOLS)
    through(gate, [CALLS[0] + "\n" + '{"name": "get_order", "arguments": {"order_id": "4711"}}'])
    assert gate.calls == [PARIS, ParsedCall("get_order", '{"order_id":4711}')]


def test_a_call_that_does_not_fit_is_kept_apart_with_its_problems() -> None:
    gate = CallGate(TOOLS)
    assert through(gate, ['{"name": "get_order", "arguments": {"number": "x"}} done']) == ""
    assert gate.calls == []
    assert gate.broken == BrokenCall("get_order", ("/number: not a known property", "/order_id: missing"))
    assert read_calls('{"name": "get_order", "arguments": "soon"}', TOOLS) == [
        BrokenCall("get_order", ("/: not an object",))
    ]


def test_a_call_of_a_tool_that_was_made_up_is_not_shown() -> None:
    gate = CallGate(TOOLS)
    assert through(gate, ['{"name": "take_out_bread", "arguments": {"time": "25 minutes"}}']) == ""
    assert gate.broken == BrokenCall("take_out_bread", (NO_SUCH_TOOL,))


def test_an_answer_that_was_cut_off_is_no_call() -> None:
    cut = '{"name": "get_weather", "arguments": {"city": "San Fran'
    gate = CallGate(TOOLS)
    assert through(gate, [cut], cut=True) == cut
    assert gate.calls == []
    whole = CallGate(TOOLS)
    through(whole, [cut])
    assert whole.calls == [ParsedCall("get_weather", '{"city":"San Fran"}')]


def test_what_is_held_back_is_bounded() -> None:
    gate = CallGate(TOOLS)
    assert gate.feed("{" + "x" * (LOCAL_HOLD_CHARS_MAX - 1)) == ""
    assert len(gate.feed("yz")) == LOCAL_HOLD_CHARS_MAX + 2


def test_a_tool_without_parameters_can_be_called() -> None:
    for text in ('{"name": "ping"}', '{"name": "ping", "arguments": null}', '{"ping": {}}'):
        assert read_calls(text, TOOLS) == [ParsedCall("ping", "{}")]


@pytest.mark.parametrize("text", ["null", "3", '"get_weather"', '{"name": 3}', "[[]]", "{}", '{"ping": 3}'])
def test_other_json_is_no_call(text: str) -> None:
    assert read_calls(text, TOOLS) == []


def test_the_past_is_told_in_the_words_that_the_model_is_to_use() -> None:
    assert read_calls(call_text("get_weather", '{"city":"Paris"}'), TOOLS) == [PARIS]
    assert read_calls(call_text("ping", ""), TOOLS) == [ParsedCall("ping", "{}")]
    assert output_text("7") == "<tool_response>\n7\n</tool_response>"


def test_the_prompt_offers_each_tool_on_a_line_of_json() -> None:
    prompt = tools_prompt(TOOLS)
    lines = re.search(r"<tools>\n(.*)\n</tools>\n", prompt, re.DOTALL)
    assert lines
    assert [json.loads(line)["function"]["name"] for line in lines[1].splitlines()] == [t.name for t in TOOLS]
    assert tools_prompt(TOOLS) == prompt


def test_equal_calls_have_equal_keys() -> None:
    assert same_call("a", '{"x": 1, "y": 2}') == same_call("a", '{"y":2,"x":1}')
    assert same_call("a", '{"x": 1}') != same_call("b", '{"x": 1}')
    assert same_call("a", "not json") == ("a", "not json")


@pytest.mark.parametrize("tools", [TOOLS, (WEATHER,), (PING,)])
def test_the_forced_schema_accepts_exactly_a_fitting_call(tools: tuple[FunctionTool, ...]) -> None:
    schema = forced_schema(tools)
    for one in tools:
        good = {"get_weather": {"city": "x"}, "get_order": {"order_id": 1}, "ping": {}}[one.name]
        assert conform(schema, {"name": one.name, "arguments": good})[1] == []
        assert conform(schema, {"name": one.name, "arguments": {"zzz": 1}})[1]
        assert conform(schema, {"name": one.name})[1]


def test_references_inside_a_tools_schema_hold_in_the_forced_schema() -> None:
    city = {"type": "object", "properties": {"at": {"$ref": "#/$defs/c"}}, "$defs": {"c": {"enum": ["Oslo"]}}}
    referring = FunctionTool(name="refer", parameters=city)
    for tools in ((referring,), (PING, referring)):
        schema = forced_schema(tools)
        assert conform(schema, {"name": "refer", "arguments": {"at": "Oslo"}})[1] == []
        assert conform(schema, {"name": "refer", "arguments": {"at": "Rome"}})[1]
