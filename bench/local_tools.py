"""How often the local model calls the right tool with the right arguments.

Twenty questions, sixteen that need a tool and four that need none, each asked through LocalModel with
one, three and six tools on offer; then the same sixteen with the call forced by the grammar, and six
follow-ups in which the tool has answered. Greedy decoding, so a run repeats itself.

    python -m bench.local_tools [--json FILE] [--sets one,six,forced,after]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from stateline.core.calls import (
    CallDelta,
    CallStart,
    Finish,
    FunctionTool,
    ModelParams,
    ModelRequest,
    TextDelta,
    ToolMode,
    Usage,
)
from stateline.core.items import FunctionCall, FunctionCallOutput, InputText, Message, ModelItem
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
_TEXT = {"type": "string"}


def _tool(name: str, description: str, required: list[str], properties: dict[str, Any]) -> FunctionTool:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return FunctionTool(name=name, description=description, parameters=schema)


TOOLS = [
    _tool(
        "get_weather",
        "Current weather in a city",
        ["city"],
        {"city": _TEXT, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    ),
    _tool("calculate", "Evaluate an arithmetic expression", ["expression"], {"expression": _TEXT}),
    _tool("get_order", "Look up an order by its number", ["order_id"], {"order_id": {"type": "integer"}}),
    _tool("send_email", "Send an email", ["to", "subject", "body"], {"to": _TEXT, "subject": _TEXT, "body": _TEXT}),
    _tool("set_timer", "Start a countdown timer", ["minutes"], {"minutes": {"type": "integer"}, "label": _TEXT}),
    _tool(
        "convert_currency",
        "Convert an amount of money between currencies",
        ["amount", "from", "to"],
        {"amount": {"type": "number"}, "from": _TEXT, "to": _TEXT},
    ),
]


class Case(NamedTuple):
    """A question, the tool that it needs (None: no tool), and what its arguments must hold.

    A text must occur in the argument, whatever its case; several texts must all occur; a number must equal it.
    """

    question: str
    tool: str | None = None
    wants: Mapping[str, str | int | tuple[str, ...]] = MappingProxyType({})


CASES = [
    Case("What's the weather in Paris right now?", "get_weather", {"city": "paris"}),
    Case("Is it raining in Seoul?", "get_weather", {"city": "seoul"}),
    Case("How warm is it in Madrid, in celsius?", "get_weather", {"city": "madrid", "unit": "celsius"}),
    Case("Tell me the temperature in Oslo in fahrenheit.", "get_weather", {"city": "oslo", "unit": "fahrenheit"}),
    Case("What is 1234 * 5678?", "calculate", {"expression": ("1234", "5678")}),
    Case("Compute (17 + 4) / 3 for me.", "calculate", {"expression": ("17", "4", "3")}),
    Case("What's 15% of 260?", "calculate", {"expression": ("15", "260")}),
    Case("Where is my order 4711?", "get_order", {"order_id": 4711}),
    Case("Check the status of order number 90210 please.", "get_order", {"order_id": 90210}),
    Case("I ordered something, the number is 555. Has it shipped?", "get_order", {"order_id": 555}),
    Case(
        "Send an email to bob@example.com with subject Lunch saying: see you at noon.",
        "send_email",
        {"to": "bob@example.com", "subject": "lunch", "body": "noon"},
    ),
    Case("Email ann@example.org that the build is green.", "send_email", {"to": "ann@example.org", "body": "build"}),
    Case("Set a timer for 10 minutes.", "set_timer", {"minutes": 10}),
    Case("Remind me in 25 minutes to take out the bread.", "set_timer", {"minutes": 25}),
    Case("Convert 100 dollars to euros.", "convert_currency", {"amount": 100}),
    Case("How many yen is 50 USD?", "convert_currency", {"amount": 50}),
    Case("Say hello in French."),
    Case("Who wrote Romeo and Juliet?"),
    Case("Thanks, that was helpful!"),
    Case("Write a haiku about the sea."),
]

FOLLOW_UPS = [
    ("What's the weather in Paris right now?", "get_weather", '{"city":"Paris"}', '{"temp_c":18,"sky":"rain"}', "18"),
    ("Where is my order 4711?", "get_order", '{"order_id":4711}', '{"status":"shipped","eta":"Tuesday"}', "Tuesday"),
    ("What is 1234 * 5678?", "calculate", '{"expression":"1234 * 5678"}', "7006652", "7006652"),
    ("Set a timer for 10 minutes.", "set_timer", '{"minutes":10}', '{"started":true,"minutes":10}', "10"),
    ("How many yen is 50 USD?", "convert_currency", '{"amount":50,"from":"USD","to":"JPY"}', '{"amount":7712}', "7712"),
    ("Is it raining in Seoul?", "get_weather", '{"city":"Seoul"}', '{"temp_c":3,"sky":"clear"}', "clear"),
]


class Outcome(NamedTuple):
    """What one question brought."""

    text: str
    calls: list[tuple[str, str]]
    usage: Usage
    seconds: float


def _holds(given: Any, wanted: str | int | tuple[str, ...]) -> bool:
    if isinstance(wanted, int):
        return given == wanted
    texts = (wanted,) if isinstance(wanted, str) else wanted
    return all(text in str(given).lower() for text in texts)


def _offered(name: str | None, count: int) -> tuple[FunctionTool, ...]:
    """``count`` tools, the right one among them, at a place that varies with the tool."""
    first = next((index for index, tool in enumerate(TOOLS) if tool.name == name), 0)
    picked = {(first + step) % len(TOOLS) for step in range(count)}
    return tuple(tool for index, tool in enumerate(TOOLS) if index in picked)


def _said(text: str, number: int = 0) -> Message:
    return Message(id=f"msg_{number}", role="user", content=(InputText(text=text),))


async def _ask(model: LocalModel, items: list[ModelItem], tools: tuple[FunctionTool, ...], choice: ToolMode) -> Outcome:
    params = ModelParams(model=DEFAULT_MODEL.name, tools=tools, tool_choice=choice, max_output_tokens=200)
    request = ModelRequest(params=params, items=items, key="bench/1/1")
    text, calls, usage = "", list[tuple[str, str]](), Usage()
    started = time.perf_counter()
    async for batch in model.call(DEPLOYMENT, request):
        for delta in batch:
            match delta:
                case TextDelta():
                    text += delta.text
                case CallStart():
                    calls.append((delta.name, ""))
                case CallDelta():
                    calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
                case Finish():
                    usage = delta.usage or Usage()
                case _:
                    pass
    return Outcome(text, calls, usage, time.perf_counter() - started)


def _is_right(case: Case, outcome: Outcome) -> bool:
    if case.tool is None:
        return not outcome.calls and bool(outcome.text.strip())
    if len(outcome.calls) != 1 or outcome.calls[0][0] != case.tool:
        return False
    arguments = json.loads(outcome.calls[0][1])
    return all(_holds(arguments.get(name), wanted) for name, wanted in case.wants.items())


async def _run_set(model: LocalModel, name: str) -> dict[str, Any]:
    outcomes: list[tuple[str, bool, Outcome]] = []
    if name == "after":
        for question, tool, arguments, output, expected in FOLLOW_UPS:
            items: list[ModelItem] = [
                _said(question),
                FunctionCall(id="fc_1", call_id="call_1", name=tool, arguments=arguments),
                FunctionCallOutput(id="fco_1", call_id="call_1", output=output),
            ]
            outcome = await _ask(model, items, _offered(tool, 3), "auto")
            right = not outcome.calls and expected.lower() in outcome.text.lower().replace(",", "")
            outcomes.append((question, right, outcome))
    else:
        count = {"one": 1, "three": 3, "six": 6, "forced": 3}[name]
        for case in CASES:
            if name == "forced" and case.tool is None:
                continue
            choice: ToolMode = "required" if name == "forced" else "auto"
            outcome = await _ask(model, [_said(case.question)], _offered(case.tool, count), choice)
            outcomes.append((case.question, _is_right(case, outcome), outcome))
    for question, right, outcome in outcomes:
        if not right:
            print(f"    wrong: {question} -> {outcome.calls or outcome.text!r}")
    return {
        "set": name,
        "right": sum(right for _, right, _ in outcomes),
        "asked": len(outcomes),
        "seconds": round(sum(outcome.seconds for _, _, outcome in outcomes), 1),
        "output_tokens": sum(outcome.usage.output_tokens for _, _, outcome in outcomes),
        "cached_share": round(
            sum(outcome.usage.cached_tokens for _, _, outcome in outcomes)
            / max(1, sum(outcome.usage.input_tokens for _, _, outcome in outcomes)),
            2,
        ),
    }


async def _measure(sets: list[str]) -> list[dict[str, Any]]:
    model = LocalModel()
    rows: list[dict[str, Any]] = []
    try:
        started = time.perf_counter()
        await model.load(DEPLOYMENT)
        print(f"loaded in {time.perf_counter() - started:.1f} s")
        for name in sets:
            row = await _run_set(model, name)
            rows.append(row)
            print(
                f"{name:>7}: {row['right']} of {row['asked']} right, {row['seconds']} s, "
                f"{row['output_tokens']} tokens out, {100 * row['cached_share']:.0f}% of the prompt cached"
            )
    finally:
        await model.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None, help="write the rows there as well")
    parser.add_argument("--sets", default="one,three,six,forced,after")
    arguments = parser.parse_args()
    rows = asyncio.run(_measure(arguments.sets.split(",")))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
