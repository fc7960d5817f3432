"""Tools that the runtime calls itself: their names, and what models are given of their calls.

Items of hosted tools are OpenAI's own kind. To a model of any provider they are function calls with outputs, and the
list of tools stands in its request.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from stateline.core.arguments import ArgumentsError, read_arguments
from stateline.core.calls import FunctionTool
from stateline.core.cutting import byte_count, cut
from stateline.core.ids import digest
from stateline.core.items import (
    HOSTED_ITEMS,
    PREFIXES,
    EffectResolution,
    FunctionCall,
    FunctionCallOutput,
    InputContent,
    InputText,
    Item,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    ModelItem,
)
from stateline.core.limits import TOOL_NAME_CHARS_MAX, TOOL_OUTPUT_SHOWN_BYTES
from stateline.core.tools import Tool

_ODD = re.compile(r"[^a-zA-Z0-9_-]")
_DIGEST_CHARS = 16
_MADE = re.compile(rf"-[0-9a-f]{{{_DIGEST_CHARS}}}$")
"""How a name ends that a digest tells apart; a tool that is named so itself gets one as well."""

NOT_ANSWERED = "[This call has not been made: it waits for a person's approval.]"
UNKNOWN = "[Whether this call took effect is not known. A person has been asked. Do not repeat it.]"
ABANDONED = "[Whether this call took effect is not known, and will not be found out. Do not repeat it.]"
AGAIN = "[Whether this call took effect is not known. A person has let it be made again; do not repeat it.]"
NOT_MADE = "[A person has approved this call, but it has not been made.]"


class HostedTool(NamedTuple):
    """A tool that a turn's model may call; ``name`` is what the model calls it."""

    name: str
    server: str
    tool: Tool


class Hosting(NamedTuple):
    """Which calls of a model's answer are the runtime's to make.

    Attributes:
        tools: by the name under which the model calls them.
        functions: names of the client's own functions.
    """

    tools: Mapping[str, HostedTool]
    functions: frozenset[str]

    def whose(self, name: str) -> tuple[str, str] | None:
        """The server and tool of a call; None: it is the client's. A name that nobody knows is of the server ``""``."""
        found = self.tools.get(name)
        if found is not None:
            return found.server, found.tool.name
        return None if not self.tools or name in self.functions else ("", name)


def tool_name(server: str, tool: str) -> str:
    """What a model calls a tool: the same in every turn, and another for every tool.

    Providers take letters, digits, ``_`` and ``-``, 64 of them at most.
    """
    name = f"{_ODD.sub('_', server)}-{_ODD.sub('_', tool)}"
    plain = name == f"{server}-{tool}" and len(name) <= TOOL_NAME_CHARS_MAX and "-" not in server
    if plain and _MADE.search(name) is None:
        return name
    kept = name[: TOOL_NAME_CHARS_MAX - _DIGEST_CHARS - 1]
    return f"{kept}-{digest(server.encode(), tool.encode())[:_DIGEST_CHARS]}"


OWN_SERVER = "stateline"
"""The label under which the runtime offers a tool of its own; no server of anybody's may have it."""
READ_OUTPUT = "read_output"
READER = tool_name(OWN_SERVER, READ_OUTPUT)
"""What models call the tool that reads on in an output; `core.reading` has it."""


def reserved(label: str) -> bool:
    """Whether no server may be called so; what differs in upper and lower case alone would be taken for it."""
    return label.lower() == OWN_SERVER


def function_of(hosted: HostedTool) -> FunctionTool:
    """The tool as a model's request has it."""
    tool = hosted.tool
    return FunctionTool(name=hosted.name, description=tool.description or None, parameters=tool.parameters or _OBJECT)


_OBJECT: dict[str, Any] = {"type": "object", "properties": {}}


def for_model(items: Iterable[Item], shown_bytes: int = TOOL_OUTPUT_SHOWN_BYTES) -> list[ModelItem]:
    """Items as models are given them: a call and its output for what a hosted tool was asked.

    Calls of one answer come before their outputs, as the model has made them: providers want an output for each call
    of an answer before anything else is said.

    Args:
        shown_bytes: what the model is shown of one output of text; of a longer one the beginning and the end.
    """
    every = list(items)
    said = _said(every)
    made = {item.id for item in every if type(item) is McpCall}
    out: list[ModelItem] = []
    outputs: list[ModelItem] = []
    answer, seen = "", set[str]()
    for item in every:
        if type(item) not in HOSTED_ITEMS:
            out += outputs
            outputs = []
            out.append(item)  # pyright: ignore[reportArgumentType]
            continue
        # Who keeps the context itself may send the same item twice; providers take no call twice.
        pair = None if item.id in seen else _called(item, said, made, shown_bytes)
        seen.add(item.id)
        if pair is None:
            continue
        call, output = pair
        of = _answer_of(call.id)
        if not of or of != answer:
            out += outputs
            outputs = []
        answer = of
        out.append(call)
        outputs.append(output)
    return out + outputs


def _answer_of(call_id: str) -> str:
    """The model's answer that a call is of, by its id; empty where that is none of ours."""
    return call_id.partition("_")[2].rpartition("i")[0]


def call_item_id(approval_id: str) -> str:
    """The id of the call that an approval request is about."""
    return PREFIXES[McpCall] + approval_id.removeprefix(PREFIXES[McpApprovalRequest])


def approval_item_id(call_id: str) -> str:
    """The id of the approval request about a call."""
    return PREFIXES[McpApprovalRequest] + call_id.removeprefix(PREFIXES[McpCall])


_Said = Mapping[str, McpApprovalResponse | EffectResolution]


def _said(items: Iterable[Item]) -> _Said:
    """What persons said: of an approval by the id of its request, of a call by its own."""
    said: dict[str, McpApprovalResponse | EffectResolution] = {}
    for item in items:
        if type(item) is McpApprovalResponse:
            said[item.approval_request_id] = item
        elif type(item) is EffectResolution:
            said[item.call_id] = item
    return said


def _called(
    item: Item, said: _Said, made: Container[str], shown_bytes: int
) -> tuple[FunctionCall, FunctionCallOutput] | None:
    """The call that the item stands for, if it stands for one; ``made``: the ids of calls that have an item."""
    if type(item) is McpCall:
        output = _output(item, said.get(item.id))
        text = _text(output)
        if text is not None and byte_count(text) > shown_bytes:
            output = cut(text, item.id, READER, shown_bytes)
        return _pair(item.id, item, output)
    if type(item) is not McpApprovalRequest:
        return None
    call_id, answer = call_item_id(item.id), said.get(item.id)
    if call_id in made:
        # The call itself follows.
        return None
    if type(answer) is not McpApprovalResponse:
        return _pair(call_id, item, NOT_ANSWERED)
    if answer.approve:
        return _pair(call_id, item, NOT_MADE)
    why = f" They said: {answer.reason}" if answer.reason else ""
    return _pair(call_id, item, f"[A person did not approve this call; it was not made.{why}]")


def _output(item: McpCall, said: McpApprovalResponse | EffectResolution | None) -> str | tuple[InputContent, ...]:
    if item.status in ("incomplete", "in_progress", "calling"):
        if type(said) is EffectResolution and said.decision == "committed":
            return said.output or "[This call took effect.]"
        if type(said) is EffectResolution:
            return AGAIN if said.decision == "retry" else ABANDONED
        return UNKNOWN
    return _given(item)


def _given(item: McpCall) -> str | tuple[InputContent, ...]:
    """What the tool itself has given."""
    if item.error is not None:
        return item.error.content
    return item.content or item.output or ""


def _text(output: str | tuple[InputContent, ...]) -> str | None:
    """An output of text alone as one text; None where it is more, which is never cut."""
    if isinstance(output, str):
        return output
    texts = [part.text for part in output if type(part) is InputText]
    return "\n".join(texts) if len(texts) == len(output) else None


def output_texts(items: Iterable[Item]) -> Iterator[tuple[str, str]]:
    """The id of each call whose output is text alone, and that text, whole."""
    every = list(items)
    said = _said(every)
    for item in every:
        if type(item) is McpCall and (text := _text(_output(item, said.get(item.id)))) is not None:
            yield item.id, text


def output_bytes(item: Item) -> int:
    """Bytes of the output of text that the item brings, if it brings one: its model may have to read on in it."""
    if type(item) is McpCall:
        text = _text(_given(item))
        return 0 if text is None else byte_count(text)
    return byte_count(item.output) if type(item) is EffectResolution else 0


def item_output_bytes(item: Item) -> int:
    """Roughly the bytes of what a tool has given, as an item holds it: texts, and images and files inline."""
    if type(item) is not McpCall:
        return 0
    output = _given(item)
    return byte_count(output) if isinstance(output, str) else len(msgspec.json.encode(output))


def _pair(
    call_id: str, item: McpCall | McpApprovalRequest, output: str | tuple[InputContent, ...]
) -> tuple[FunctionCall, FunctionCallOutput]:
    # What no tool is called the model has made up, and a provider may not take it back.
    made_up = _ODD.sub("_", item.name)[:TOOL_NAME_CHARS_MAX] or "_"
    name = tool_name(item.server_label, item.name) if item.server_label else made_up
    failed = type(item) is not McpCall or item.status != "completed"
    return (
        FunctionCall(id=call_id, call_id=call_id, name=name, arguments=item.arguments or "{}"),
        FunctionCallOutput(
            id=f"{call_id}o", call_id=call_id, output=output, status="incomplete" if failed else "completed"
        ),
    )


def decoded(arguments: str) -> dict[str, Any] | None:
    """A call's arguments; None where they are no JSON object, or one that tools may read in different ways.

    None at all are an empty one.
    """
    try:
        return read_arguments(arguments or "{}")
    except ArgumentsError:
        return None
