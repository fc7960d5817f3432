"""OpenAI's Responses, and Open Responses servers that speak it: requests.

Nothing is stored at the provider: the whole context is sent each time, with ``store: false``. Items
go without our ids. What the same origin gave with an item (its id, its encrypted reasoning) goes
back with it; reasoning of another origin is left out, and so is reasoning that came without
anything to give back, together with the ids of what followed it, which would ask for it.

A reasoning or compaction item with no sidecar at all came from the client, who vouches for it.
"""

from __future__ import annotations

from collections.abc import Mapping
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
)
from stateline.core.carrying import own, sealed, thought_back
from stateline.core.items import (
    Compaction,
    Content,
    FunctionCall,
    FunctionCallOutput,
    InputContent,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
    Refusal,
)
from stateline.models.formats.openai_shared import (
    LOGPROBS_INCLUDED,
    file_fields,
    image_url,
    refused,
    wants_logprobs,
)

WIRE = "Responses"
REASONING_INCLUDED = "reasoning.encrypted_content"

_encode = msgspec.json.Encoder().encode
_Json = dict[str, Any]


class _Dialect(NamedTuple):
    """Where OpenAI and Open Responses differ."""

    penalties: bool
    video: bool


_OPENAI = _Dialect(penalties=False, video=False)
_OPEN = _Dialect(penalties=True, video=True)
_DIALECTS = {
    "openai-responses/openai": _OPENAI,
    "openai-responses/azure": _OPENAI,
    "openai-responses/aws": _OPENAI,
}
"""By origin; all others speak Open Responses."""

_REASONING_MODELS = ("gpt-5", "o1", "o3", "o4")
"""OpenAI's models that reason without being asked. Others refuse `reasoning.encrypted_content`."""


def encode_request(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of ``POST /responses``.

    Raises:
        BadRequest: ``unsupported_parameter``; ``param`` names what the format cannot carry.
    """
    dialect = _DIALECTS.get(origin, _OPEN)
    params = request.params
    items = _Items(request, origin, dialect)
    body: _Json = {"model": upstream_model, "input": items.encode(), "store": False}
    if request.stream:
        body["stream"] = True
    body["instructions"] = params.instructions
    _refuse(params, dialect)
    if params.tools:
        body["tools"] = [_tool(tool) for tool in params.tools]
        body["parallel_tool_calls"] = params.parallel_tool_calls
    body["tool_choice"] = _tool_choice(params)
    body["text"] = _text(params)
    if params.reasoning is not None:
        asked = {"effort": params.reasoning.effort, "summary": params.reasoning.summary}
        body["reasoning"] = _set(asked) or None
    reasons = params.reasoning is not None or items.reasons
    body["include"] = _include(params, reasons or _reasons_unasked(upstream_model, dialect))
    for name in _SAME_NAME:
        body[name] = getattr(params, name)
    if dialect.penalties:
        body["presence_penalty"] = params.presence_penalty
        body["frequency_penalty"] = params.frequency_penalty
    return _encode(_set(body))


_SAME_NAME = (
    "max_output_tokens",
    "temperature",
    "top_p",
    "top_logprobs",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "user",
)


def _set(fields: _Json) -> _Json:
    return {name: value for name, value in fields.items() if value is not None}


def _refuse(params: ModelParams, dialect: _Dialect) -> None:
    if params.stop:
        raise refused("stop", "Stop sequences", WIRE)
    if params.seed is not None:
        raise refused("seed", "A seed", WIRE)
    if not dialect.penalties:
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(params, name):
                raise refused(name, f"A {name}", WIRE)


def _reasons_unasked(upstream_model: str, dialect: _Dialect) -> bool:
    return dialect is _OPENAI and upstream_model.startswith(_REASONING_MODELS) and "-chat" not in upstream_model


def _include(params: ModelParams, reasons: bool) -> list[str] | None:
    wanted = dict.fromkeys(params.include)
    if reasons:
        wanted[REASONING_INCLUDED] = None
    if wants_logprobs(params):
        wanted[LOGPROBS_INCLUDED] = None
    return list(wanted) or None


def _tool(tool: FunctionTool) -> _Json:
    # The format requires both, and takes null for the default.
    fields: _Json = {"type": "function", "name": tool.name}
    if tool.description is not None:
        fields["description"] = tool.description
    fields["parameters"] = tool.parameters
    fields["strict"] = tool.strict
    return fields


def _tool_choice(params: ModelParams) -> str | _Json | None:
    choice = params.tool_choice
    if isinstance(choice, FunctionChoice):
        return {"type": "function", "name": choice.name}
    if isinstance(choice, AllowedTools) and choice.mode != "none":
        tools = [{"type": "function", "name": tool.name} for tool in choice.tools]
        return {"type": "allowed_tools", "mode": choice.mode, "tools": tools}
    mode = choice.mode if isinstance(choice, AllowedTools) else choice
    if mode == "auto" or (mode == "none" and not params.tools):
        return None
    return mode


def _text(params: ModelParams) -> _Json | None:
    wanted = params.text.format
    fields: _Json = {}
    if isinstance(wanted, JsonObject):
        fields["format"] = {"type": "json_object"}
    elif isinstance(wanted, JsonSchema):
        form: _Json = {
            "type": "json_schema",
            "name": wanted.name,
            "schema": wanted.schema or {},
            "strict": wanted.strict,
        }
        if wanted.description is not None:
            form["description"] = wanted.description
        fields["format"] = form
    if params.text.verbosity is not None:
        fields["verbosity"] = params.text.verbosity
    return fields or None


# -- items --------------------------------------------------------------------------------------


class _Items:
    """Encodes the context, item by item.

    Attributes:
        reasons: whether reasoning goes back, so the model reasons.
    """

    def __init__(self, request: ModelRequest, origin: str, dialect: _Dialect) -> None:
        self._request = request
        self._origin = origin
        self._dialect = dialect
        self._bare = False
        self.reasons = False

    def encode(self) -> list[_Json]:
        encoded = [self._item(item) for item in self._request.items]
        return [item for item in encoded if item is not None]

    def _item(self, item: ModelItem) -> _Json | None:
        match item:
            case Message(role="assistant"):
                return self._said(item)
            case Message():
                self._bare = False
                parts = [_input_part(part, self._dialect) for part in item.content]
                return {"type": "message", "role": item.role, "content": parts or ""}
            case FunctionCall():
                call = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
                return {"type": "function_call", **self._id(item), **call}
            case FunctionCallOutput():
                self._bare = False
                output = item.output
                if not isinstance(output, str):
                    output = [_input_part(part, self._dialect) for part in output]
                given: _Json = {"type": "function_call_output", "call_id": item.call_id, "output": output}
                if item.status == "incomplete":
                    given["status"] = "incomplete"
                return given
            case Reasoning():
                return self._reasoning(item)
            case Compaction():
                if self._is_foreign(item):
                    raise refused("input", "Another provider's compaction item", WIRE)
                return {"type": "compaction", "encrypted_content": item.encrypted_content}

    def _own(self, item: ModelItem) -> Mapping[str, Any]:
        return own(item, self._request.sidecars, self._origin)

    def _is_foreign(self, item: ModelItem) -> bool:
        sidecar = self._request.sidecars.get(item.id)
        return sidecar is not None and sidecar.origin != self._origin

    def _id(self, item: ModelItem) -> _Json:
        upstream = None if self._bare else self._own(item).get("id")
        return {} if upstream is None else {"id": upstream}

    def _said(self, message: Message) -> _Json:
        """What the assistant said: with its provider's id as an output message, else as input."""
        fields: _Json = {"type": "message", "role": "assistant"}
        if isinstance(message.phase, str):
            fields["phase"] = message.phase
        identity = self._id(message)
        content = [_output_part(part) for part in message.content]
        if identity:
            status = "incomplete" if message.status == "incomplete" else "completed"
            return {**identity, **fields, "status": status, "content": content}
        if len(content) <= 1 and all(part["type"] == "output_text" for part in content):
            return {**fields, "content": content[0]["text"] if content else ""}
        return {**fields, "content": content}

    def _reasoning(self, item: Reasoning) -> _Json | None:
        sidecars, origin = self._request.sidecars, self._origin
        if not thought_back(item, sidecars, origin):
            self._bare = True
            return None
        self.reasons = True
        given, encrypted = self._own(item), sealed(item, sidecars, origin)
        fields: _Json = {"type": "reasoning"}
        if given.get("id"):
            fields["id"] = given["id"]
        fields["summary"] = [{"type": "summary_text", "text": part.text} for part in item.summary]
        if encrypted:
            fields["encrypted_content"] = encrypted
        elif not isinstance(item.content, msgspec.UnsetType):
            # An open model's reasoning is plain text, and goes back as such.
            fields["content"] = [{"type": "reasoning_text", "text": part.text} for part in item.content]
        return fields


def _input_part(part: Content | InputContent, dialect: _Dialect) -> _Json:
    match part:
        case InputText() | OutputText():
            return {"type": "input_text", "text": part.text}
        case InputImage():
            return {
                "type": "input_image",
                "image_url": image_url(part, WIRE),
                "detail": part.detail,
            }
        case InputFile():
            fields = file_fields(part)
            if isinstance(part.file_url, str):
                fields["file_url"] = part.file_url
            return {"type": "input_file", **fields}
        case InputVideo() if dialect.video:
            return {"type": "input_video", "video_url": part.video_url}
        case _:
            raise refused("input", f"A {part.__struct_config__.tag} part in this place", WIRE)


def _output_part(part: Content) -> _Json:
    match part:
        case InputText() | OutputText():
            return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
        case Refusal():
            return {"type": "refusal", "refusal": part.refusal}
        case _:
            tag = part.__struct_config__.tag
            raise refused("input", f"A {tag} part of an assistant's message", WIRE)
