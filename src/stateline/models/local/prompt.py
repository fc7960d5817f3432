"""From a model call to what the local model is asked: messages, limits, and what is enforced.

Pure. The system prompt (instructions, then tools) is the first message and the same bytes in every
call of a session, so that llama.cpp keeps its cache of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from stateline.core.calls import (
    AllowedTools,
    FunctionChoice,
    FunctionTool,
    JsonObject,
    JsonSchema,
    ModelParams,
    ModelRequest,
    TextPlain,
)
from stateline.core.errors import BadRequest
from stateline.core.items import (
    Compaction,
    Content,
    FunctionCall,
    FunctionCallOutput,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    Refusal,
)
from stateline.core.limits import LOCAL_OUTPUT_TOKENS
from stateline.models.formats.openai_shared import allowed_names, refused, wants_logprobs
from stateline.models.local.schema import rebase
from stateline.models.local.toolcalls import call_text, forced_schema, output_text, same_call, tools_prompt

WIRE = "local"
DEFAULT_INSTRUCTIONS = "You are a helpful assistant."
ANSWER_NOW = "Answer my question in plain words."
"""Said after every tool output. Without it a 0.5B model makes the same call again, in 12 of 12 tries;
with it, it answered in 12 of 12."""

_Json = dict[str, Any]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask llama.cpp, and how to read its answer.

    Attributes:
        messages: for the model's own chat template.
        bare_messages: the same with no tools offered, for a last try to get an answer.
        tools: those that may be called; empty if none may.
        forced: a call must come, and the grammar sees to it.
        parallel: more than one call may come.
        schema: what the text must conform to, or None.
        answered: calls of this turn that have their outputs (see ``same_call``).
        sampling: the remaining fields of llama.cpp's request.
    """

    messages: list[_Json]
    bare_messages: list[_Json]
    tools: tuple[FunctionTool, ...]
    forced: bool
    parallel: bool
    schema: _Json | None
    answered: frozenset[tuple[str, str]]
    sampling: _Json

    def body(self) -> _Json:
        """The first request."""
        if self.forced:
            return self._enforcing(forced_schema(self.tools))
        if self.schema is None:
            return {"messages": self.messages, **self.sampling}
        if self.tools and not self.answered:
            calls = forced_schema(self.tools)
            branches = calls.get("anyOf", [calls])
            # Rebased once more: the calls' own references were to the root of their schema.
            moved = [
                branch if len(branches) > 1 else rebase(branch, f"/anyOf/{index}")
                for index, branch in enumerate(branches)
            ]
            return self._enforcing({"anyOf": [*moved, rebase(self.schema, f"/anyOf/{len(moved)}")]})
        return self._enforcing(self.schema)

    def forced_body(self, name: str) -> _Json:
        """A request for a call of one tool, after the model meant to call it and got it wrong."""
        return self._enforcing(forced_schema([tool for tool in self.tools if tool.name == name]))

    def bare_body(self) -> _Json:
        """A request with no tools, after the model would only repeat itself."""
        return {"messages": self.bare_messages, **self.sampling}

    def _enforcing(self, schema: _Json) -> _Json:
        wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
        return {"messages": self.messages, **self.sampling, "response_format": wanted}


def plan_call(request: ModelRequest) -> Plan:
    """How to put ``request`` to the local model.

    Raises:
        BadRequest: it cannot carry a field, or a named tool does not exist.
    """
    params = request.params
    if request.embed is not None:
        raise refused("model", "A request for embeddings", WIRE)
    if wants_logprobs(params) or params.top_logprobs:
        raise refused("top_logprobs", "A request for log probabilities", WIRE)
    callable_tools, forced = _choice(params)
    schema = _text_schema(params)
    # A tool that may be called in another turn stays in the prompt, and so in its cache.
    offered = params.tools if callable_tools else ()
    return Plan(
        messages=_messages(params, request.items, offered),
        bare_messages=_messages(params, request.items, ()),
        tools=callable_tools,
        forced=forced,
        parallel=params.parallel_tool_calls is True,
        schema=schema,
        answered=_answered(request.items),
        sampling=_sampling(params, greedy=bool(callable_tools) or schema is not None),
    )


def _choice(params: ModelParams) -> tuple[tuple[FunctionTool, ...], bool]:
    """The tools that may be called, and whether one must be."""
    choice, tools = params.tool_choice, params.tools
    mode: str
    if isinstance(choice, AllowedTools):
        names, mode = allowed_names(choice), choice.mode
    elif isinstance(choice, FunctionChoice):
        names, mode = frozenset({choice.name}), "required"
    else:
        names, mode = frozenset(tool.name for tool in tools), choice
    allowed = tuple(tool for tool in tools if tool.name in names) if mode != "none" else ()
    if mode == "required" and not allowed:
        raise BadRequest("tool_choice asks for a call of a tool that is not among the tools", param="tool_choice")
    return allowed, mode == "required"


def _text_schema(params: ModelParams) -> _Json | None:
    match params.text.format:
        case TextPlain():
            return None
        case JsonObject():
            return {"type": "object"}
        case JsonSchema(schema=schema):
            return schema if schema is not None else {"type": "object"}


def _sampling(params: ModelParams, *, greedy: bool) -> _Json:
    """llama.cpp's names for the parameters; where they are unset, Qwen 2.5's recommended values.

    A call or a JSON object is not a matter of taste, so it is decoded greedily unless asked otherwise.
    """
    fields: _Json = {
        "max_tokens": params.max_output_tokens or LOCAL_OUTPUT_TOKENS,
        "temperature": params.temperature if params.temperature is not None else (0.0 if greedy else 0.7),
        "top_p": params.top_p if params.top_p is not None else 0.8,
        "top_k": 20,
        "repeat_penalty": 1.0 if greedy else 1.05,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "stop": list(params.stop) or None,
        "seed": params.seed,
    }
    return {name: value for name, value in fields.items() if value is not None}


# -- items to messages ------------------------------------------------------------------------------


def _messages(params: ModelParams, items: Sequence[ModelItem], tools: Sequence[FunctionTool]) -> list[_Json]:
    leading: list[str] = [params.instructions] if params.instructions else []
    rest = list(items)
    while rest and isinstance(first := rest[0], Message) and first.role in ("system", "developer"):
        leading.append(_text(first.content))
        del rest[0]
    system = ["\n\n".join(leading) or DEFAULT_INSTRUCTIONS]
    if tools:
        system.append(tools_prompt(tools))
    if isinstance(wanted := params.text.format, JsonSchema) and wanted.schema is not None:
        system.append("Answer with a JSON object of this schema:\n" + json.dumps(wanted.schema, ensure_ascii=False))
    out: list[_Json] = [{"role": "system", "content": "\n\n".join(system)}]
    for index, item in enumerate(rest):
        following = rest[index + 1] if index + 1 < len(rest) else None
        _take(item, following, out)
    return out


def _take(item: ModelItem, following: ModelItem | None, out: list[_Json]) -> None:
    match item:
        case Message(role="assistant"):
            _say(out, "assistant", _text(item.content))
        case Message(role="user"):
            out.append({"role": "user", "content": _text(item.content)})
        case Message():
            out.append({"role": "system", "content": _text(item.content)})
        case FunctionCall():
            _say(out, "assistant", call_text(item.name, item.arguments))
        case FunctionCallOutput():
            text = output_text(item.output if isinstance(item.output, str) else _text(item.output))
            if not isinstance(following, FunctionCallOutput):
                text += "\n" + ANSWER_NOW
            _say(out, "user", text, after="<tool_response>")
        case Reasoning():
            pass
        case Compaction():
            raise refused("input", "A compaction item", WIRE)


def _say(out: list[_Json], role: str, text: str, *, after: str = "") -> None:
    """A message, or more of the last one where the same side goes on speaking."""
    last = out[-1]
    if last["role"] == role and last["content"].startswith(after):
        last["content"] += "\n" + text
    else:
        out.append({"role": role, "content": text})


def _text(content: Sequence[Content]) -> str:
    texts: list[str] = []
    for part in content:
        match part:
            case InputText() | OutputText():
                texts.append(part.text)
            case Refusal():
                texts.append(part.refusal)
            case _:
                raise refused("input", f"A part of type {part.__struct_config__.tag}", WIRE)
    return "\n".join(texts)


def _answered(items: Sequence[ModelItem]) -> frozenset[tuple[str, str]]:
    """The calls since the user last spoke that have their outputs."""
    calls: dict[str, tuple[str, str]] = {}
    done: set[str] = set()
    for item in reversed(items):
        match item:
            case Message(role="user"):
                break
            case FunctionCall():
                calls[item.call_id] = same_call(item.name, item.arguments)
            case FunctionCallOutput():
                done.add(item.call_id)
            case _:
                pass
    return frozenset(key for call_id, key in calls.items() if call_id in done)
