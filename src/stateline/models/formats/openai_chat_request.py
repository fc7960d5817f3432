"""OpenAI's Chat Completions: requests.

What the format has no place for is refused with the field's name. Three things are left out on
purpose: reasoning items (the format cannot carry them back; the model reasons anew), annotations
and log probabilities of earlier answers (they are output, not context), and
``reasoning.encrypted_content`` in ``include`` (it asks to see what this format never has).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from stateline.core.calls import (
    AllowedTools,
    FunctionChoice,
    FunctionTool,
    JsonObject,
    JsonSchema,
    ModelParams,
    ModelRequest,
    TextConfig,
)
from stateline.core.items import (
    Compaction,
    Content,
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    Message,
    ModelItem,
    OutputText,
    Refusal,
)
from stateline.models.formats.openai_shared import (
    allowed_names,
    file_fields,
    image_url,
    refused,
    wants_logprobs,
)

WIRE = "Chat Completions"


class _Dialect(NamedTuple):
    """Where the servers that speak the format differ."""

    max_tokens: str
    developer_role: bool
    allowed_tools: bool


_OPENAI = _Dialect("max_completion_tokens", developer_role=True, allowed_tools=True)
_OTHERS = _Dialect("max_tokens", developer_role=False, allowed_tools=False)
_DIALECTS = {"openai-chat/openai": _OPENAI, "openai-chat/azure": _OPENAI, "openai-chat/aws": _OPENAI}
"""By origin. OpenAI's reasoning models refuse `max_tokens`; other servers know no other name, no
developer role (it becomes `system`), and no `allowed_tools` (only the allowed ones are offered)."""

_encode = msgspec.json.Encoder().encode
_Json = dict[str, Any]


def encode_request(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of ``POST /chat/completions``.

    Raises:
        BadRequest: ``unsupported_parameter``; ``param`` names what the format cannot carry.
    """
    dialect = _DIALECTS.get(origin, _OTHERS)
    params = request.params
    body: _Json = {"model": upstream_model, "messages": _messages(request, dialect)}
    if request.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    _tools(body, params, dialect)
    _text(body, params.text)
    if params.reasoning is not None:
        if params.reasoning.summary is not None:
            raise refused("reasoning.summary", "A reasoning summary", WIRE)
        body["reasoning_effort"] = params.reasoning.effort
    body[dialect.max_tokens] = params.max_output_tokens
    if wants_logprobs(params) or params.top_logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = params.top_logprobs
    for name in _SAME_NAME:
        body[name] = getattr(params, name)
    body["stop"] = params.stop or None
    return _encode({name: value for name, value in body.items() if value is not None})


_SAME_NAME = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "user",
    "seed",
)


def _tools(body: _Json, params: ModelParams, dialect: _Dialect) -> None:
    choice, tools = params.tool_choice, params.tools
    if isinstance(choice, AllowedTools) and (choice.mode == "none" or not dialect.allowed_tools):
        if choice.mode != "none":
            names = allowed_names(choice)
            tools = tuple(tool for tool in tools if tool.name in names)
        choice = choice.mode
    if tools:
        body["tools"] = [_tool(tool) for tool in tools]
        body["parallel_tool_calls"] = params.parallel_tool_calls
    if isinstance(choice, FunctionChoice):
        body["tool_choice"] = _function(choice)
    elif isinstance(choice, AllowedTools):
        allowed = {"mode": choice.mode, "tools": [_function(tool) for tool in choice.tools]}
        body["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
    elif choice == "required" or (tools and choice == "none"):
        body["tool_choice"] = choice


def _tool(tool: FunctionTool) -> _Json:
    fields = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    function = {name: value for name, value in fields.items() if value is not None}
    return {"type": "function", "function": function}


def _function(choice: FunctionChoice) -> _Json:
    return {"type": "function", "function": {"name": choice.name}}


def _text(body: _Json, text: TextConfig) -> None:
    body["verbosity"] = text.verbosity
    wanted = text.format
    if isinstance(wanted, JsonObject):
        body["response_format"] = {"type": "json_object"}
    elif isinstance(wanted, JsonSchema):
        schema: _Json = {"name": wanted.name, "strict": wanted.strict}
        if wanted.description is not None:
            schema["description"] = wanted.description
        if wanted.schema is not None:
            schema["schema"] = wanted.schema
        body["response_format"] = {"type": "json_schema", "json_schema": schema}


# -- items to messages ------------------------------------------------------------------------


def _messages(request: ModelRequest, dialect: _Dialect) -> list[_Json]:
    messages = _Messages(dialect)
    if request.params.instructions is not None:
        messages.add({"role": "system", "content": request.params.instructions})
    for item in request.items:
        messages.take(item)
    return messages.close()


class _Messages:
    """Builds the list of messages.

    The format wants the answers of an assistant's calls right behind it, so what comes between is
    held back until they are all there.
    """

    def __init__(self, dialect: _Dialect) -> None:
        self._dialect = dialect
        self._out: list[_Json] = []
        self._held: list[_Json] = []
        self._assistant: _Json | None = None
        self._unanswered: set[str] = set()

    def take(self, item: ModelItem) -> None:
        if type(item) is Message:
            if item.role == "assistant":
                self._say(_assistant_fields(item.content))
            else:
                self.add(self._input(item))
        elif type(item) is FunctionCall:
            self._call(item)
        elif type(item) is FunctionCallOutput:
            self._answer(item)
        elif type(item) is Compaction:
            raise refused("input", "A compaction item", WIRE)

    def add(self, message: _Json) -> None:
        """A message that is not the assistant's."""
        self._assistant = None
        (self._held if self._unanswered else self._out).append(message)

    def close(self) -> list[_Json]:
        return self._out + self._held

    def _say(self, fields: _Json) -> None:
        last = self._assistant
        if last is not None and "tool_calls" in last:
            # What is said between calls belongs to the message that makes them.
            last["content"] = _joined(last["content"], fields["content"])
            if "refusal" in fields:
                last["refusal"] = last.get("refusal", "") + fields["refusal"]
            return
        message = {"role": "assistant", **fields}
        self.add(message)
        self._assistant = message

    def _call(self, call: FunctionCall) -> None:
        if self._assistant is None:
            # Calls may follow outputs that are still missing some: those are of an earlier message.
            self._release()
            self._say({"content": None})
        assert self._assistant is not None
        function = {"name": call.name, "arguments": call.arguments}
        calls = self._assistant.setdefault("tool_calls", [])
        calls.append({"id": call.call_id, "type": "function", "function": function})
        self._unanswered.add(call.call_id)

    def _answer(self, output: FunctionCallOutput) -> None:
        self._assistant = None
        message = {
            "role": "tool",
            "tool_call_id": output.call_id,
            "content": _tool_content(output.output),
        }
        self._out.append(message)
        self._unanswered.discard(output.call_id)
        if not self._unanswered:
            self._release()

    def _release(self) -> None:
        self._unanswered.clear()
        self._out += self._held
        self._held = []

    def _input(self, message: Message) -> _Json:
        role = message.role
        if role == "developer" and not self._dialect.developer_role:
            role = "system"
        if role == "user":
            return {"role": role, "content": _compact([_part(part) for part in message.content])}
        return {"role": role, "content": _compact([_text_part(part) for part in message.content])}


def _compact(parts: list[_Json]) -> str | list[_Json]:
    """A lone text as a plain string, which every server reads."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _joined(first: str | list[_Json] | None, second: str | list[_Json] | None) -> Any:
    if not first or not second:
        return first or second
    return [*_as_parts(first), *_as_parts(second)]


def _as_parts(content: str | list[_Json]) -> list[_Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: Content) -> _Json:
    if type(part) is InputText or type(part) is OutputText:
        return {"type": "text", "text": part.text}
    match part:
        case InputImage():
            url = {"url": image_url(part, WIRE), "detail": part.detail}
            return {"type": "image_url", "image_url": url}
        case InputFile():
            if isinstance(part.file_url, str):
                raise refused("input", "A file by its URL", WIRE)
            return {"type": "file", "file": file_fields(part)}
        case InputVideo():
            raise refused("input", "A video", WIRE)
        case _:
            raise refused("input", f"A {part.__struct_config__.tag} part of a user's message", WIRE)


def _text_part(part: Content) -> _Json:
    if isinstance(part, (InputText, OutputText)):
        return {"type": "text", "text": part.text}
    raise refused("input", f"A {part.__struct_config__.tag} part in this place", WIRE)


def _tool_content(output: str | Sequence[Content]) -> str | list[_Json]:
    if isinstance(output, str):
        return output
    return _compact([_text_part(part) for part in output])


def _assistant_fields(content: tuple[Content, ...]) -> _Json:
    texts = [_text_part(part) for part in content if isinstance(part, (InputText, OutputText))]
    refusals = [part.refusal for part in content if isinstance(part, Refusal)]
    for part in content:
        if isinstance(part, (InputImage, InputFile, InputVideo)):
            _text_part(part)
    fields: _Json = {"content": _compact(texts) if texts or not refusals else None}
    if refusals:
        fields["refusal"] = "".join(refusals)
    return fields
