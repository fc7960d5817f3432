"""Names of hosted tools, and what a model is given of their calls."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.driver import user
from tests.unit.core.examples import SESSION

from stateline.core.calls import FunctionTool
from stateline.core.hosted import (
    ABANDONED,
    AGAIN,
    NOT_ANSWERED,
    NOT_MADE,
    UNKNOWN,
    HostedTool,
    Hosting,
    approval_item_id,
    call_item_id,
    decoded,
    for_model,
    function_of,
    tool_name,
)
from stateline.core.items import (
    EffectResolution,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Item,
    ListedTool,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpCallError,
    McpListTools,
)
from stateline.core.tools import Tool

NAMES = (
    st.text(max_size=80) | st.text(alphabet="ab-_", max_size=6) | st.from_regex(r"[ab]-[0-9a-f]{16}", fullmatch=True)
)


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_every_tool_has_its_own_name_that_providers_take(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool_name(*one))
    assert (tool_name(*one) == tool_name(*other)) == (one == other)


def test_a_plain_name_is_kept_and_any_other_told_apart() -> None:
    assert tool_name("payments", "refund") == "payments-refund"
    assert tool_name("a-b", "c") != tool_name("a", "b-c") == "a-b-c"
    assert tool_name("a", "x.y") != tool_name("a", "x_y") == "a-x_y"
    assert len(tool_name("a", "x" * 100)) == 64


def test_no_server_can_give_a_tool_the_name_of_anothers() -> None:
    taken = tool_name("a-b", "c")
    assert tool_name("a", taken.removeprefix("a-")) != taken


TOOL = HostedTool("pay-refund", "pay", Tool(name="refund", description="Pays", parameters={"type": "object"}))


def test_a_call_is_of_a_hosted_tool_of_the_client_or_of_nobody() -> None:
    hosting = Hosting({TOOL.name: TOOL}, frozenset({"mine"}))
    assert hosting.whose("pay-refund") == ("pay", "refund")
    assert hosting.whose("mine") is None
    assert hosting.whose("nobody") == ("", "nobody")
    assert Hosting({}, frozenset()).whose("nobody") is None


def test_a_tool_is_a_function_to_the_model() -> None:
    assert function_of(TOOL) == FunctionTool(name="pay-refund", description="Pays", parameters={"type": "object"})
    bare = function_of(HostedTool("a-b", "a", Tool(name="b")))
    assert (bare.description, bare.parameters) == (None, {"type": "object", "properties": {}})


@pytest.mark.parametrize(("text", "value"), [("", {}), ('{"a":1}', {"a": 1}), ("[1]", None), ("{", None), ("1", None)])
def test_arguments_are_an_object_or_nothing(text: str, value: object) -> None:
    assert decoded(text) == value


def call_id(at: int = 0, step: int = 1) -> str:
    return f"mcp_{SESSION}t1s{step}i{at}"


def made(at: int = 0, step: int = 1, **fields: object) -> McpCall:
    shape: dict[str, object] = {"server_label": "pay", "name": "refund", "arguments": '{"n":1}'}
    return McpCall(id=call_id(at, step), **(shape | fields))  # pyright: ignore[reportArgumentType]


def asked(at: int = 0) -> McpApprovalRequest:
    return McpApprovalRequest(id=approval_item_id(call_id(at)), server_label="pay", name="refund", arguments="{}")


def said(at: int = 0, *, approve: bool, reason: str | None = None) -> McpApprovalResponse:
    return McpApprovalResponse(id="r", approval_request_id=asked(at).id, approve=approve, reason=reason)


def resolved(decision: str, output: str = "") -> EffectResolution:
    return EffectResolution(id="e", call_id=call_id(), decision=decision, output=output)  # pyright: ignore


IMAGE = (InputText(text="see"), InputImage(image_url="data:image/png;base64,AA=="))
LOST = made(status="incomplete", error=McpCallError(content="gone"))
TOOLS = McpListTools(id="l", server_label="pay", tools=(ListedTool(name="refund", input_schema={}),))


def test_the_id_of_a_request_and_of_its_call_tell_each_other() -> None:
    assert call_item_id(asked().id) == call_id()


@pytest.mark.parametrize(
    ("items", "output", "completed"),
    [
        ([made(output="done")], "done", True),
        ([made()], "", True),
        ([made(output="see [image]", content=IMAGE)], IMAGE, True),
        ([made(status="failed", error=McpCallError(content="no"))], "no", False),
        ([made(status="in_progress")], UNKNOWN, False),
        ([LOST], UNKNOWN, False),
        ([LOST, resolved("committed")], "[This call took effect.]", False),
        ([LOST, resolved("committed", "refund 7")], "refund 7", False),
        ([LOST, resolved("abandoned")], ABANDONED, False),
        ([LOST, resolved("retry")], AGAIN, False),
        ([asked()], NOT_ANSWERED, False),
        ([asked(), said(approve=True)], NOT_MADE, False),
        ([asked(), said(approve=True), made(output="done")], "done", True),
        ([asked(), said(approve=False)], "[A person did not approve this call; it was not made.]", False),
        (
            [asked(), said(approve=False, reason="too much")],
            "[A person did not approve this call; it was not made. They said: too much]",
            False,
        ),
        ([TOOLS, made(output="done"), made(output="done")], "done", True),
    ],
)
def test_a_model_is_given_a_call_and_its_output(items: list[Item], output: object, completed: bool) -> None:
    call, answer = for_model(items)
    assert isinstance(call, FunctionCall)
    assert isinstance(answer, FunctionCallOutput)
    # What a provider wants back with the call is kept by the call's id.
    assert (call.id, call.call_id, call.name) == (call_id(), call_id(), "pay-refund")
    assert (answer.call_id, answer.output) == (call_id(), output)
    assert answer.status == ("completed" if completed else "incomplete")


def test_a_call_of_a_tool_that_does_not_exist_has_a_name_that_providers_take() -> None:
    error = McpCallError(content="There is no tool.")
    call, _ = for_model([made(server_label="", name="foo.bar " + "x" * 99, arguments="", status="failed", error=error)])
    assert isinstance(call, FunctionCall)
    assert re.fullmatch(r"foo_bar_x{56}", call.name)
    assert call.arguments == "{}"
    call, _ = for_model([made(server_label="", name="", status="failed", error=error)])
    assert isinstance(call, FunctionCall)
    assert call.name == "_"


def shape(items: list[Item]) -> str:
    """Calls in capitals, outputs small, by the last letter of the id; messages as dots."""
    out = ""
    for item in for_model(items):
        if isinstance(item, FunctionCall):
            out += "ABCDEF"[int(item.call_id[-1])]
        elif isinstance(item, FunctionCallOutput):
            out += "abcdef"[int(item.call_id[-1])]
        else:
            out += "."
    return out


def own(at: int) -> Item:
    return FunctionCall(id=f"fc_{SESSION}t1s1i{at}", call_id=f"c{at}", name="f", arguments="{}")


def test_calls_of_one_answer_come_before_their_outputs() -> None:
    assert shape([made(0), made(1)]) == "ABab"
    assert shape([made(0), made(1, step=3)]) == "AaBb"
    assert shape([made(0), user("x"), made(1)]) == "Aa.Bb"
    own_output = FunctionCallOutput(id="o", call_id="c0", output="")
    assert shape([own(0), made(1), made(2), own_output]) == "ABCbca"
    assert shape([made(0), asked(1), said(1, approve=True), made(1)]) == "ABab"
    assert shape([made(0), asked(1), user("x")]) == "ABab."
    foreign = [McpCall(id=f"call_{at}", server_label="s", name="n", arguments="{}") for at in (0, 1)]
    assert shape(list(foreign)) == "AaBb"
