"""Amazon Bedrock's Converse and ConverseStream: requests.

One format serves the models of many makers. What a maker has a name of its own for (how much to reason,
one call at a time) goes into ``additionalModelRequestFields``, by the model's family (`core.origin`).

What the format has no place for is refused with the field's name. Left out on purpose are: reasoning
without a signature or of another family (it is refused by nearly all models; the model reasons anew),
annotations and log probabilities of earlier answers (output, not context), an image's ``detail`` (a
hint), ``prompt_cache_key`` for models that cache by themselves or not at all, and
``reasoning.encrypted_content`` in ``include`` (what there is to show is always given).
"""

from __future__ import annotations

import re
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
    TextConfig,
)
from stateline.core.origin import family
from stateline.models.formats.bedrock_converse_messages import CACHE_POINT, Messages
from stateline.models.formats.openai_shared import allowed_names, refuse_sampling, refused

__all__ = ["WIRE", "encode_request"]

WIRE = "Bedrock Converse"
_METADATA_CHARS_MAX = 256
_METADATA_SIGNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 :_@$#=/+,-.\t\n")
_TIERS = ("default", "priority", "flex", "reserved")

_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768}
"""Tokens of thinking for models of Claude's that take a budget and no effort; 1024 is the least."""
_BUDGET_MIN = 1024
_CLAUDE_BY_BUDGET = re.compile(r"claude-3|(?:opus|sonnet|haiku)-4(?:[-.][0-5](?!\d)|(?![-.]\d(?!\d)))")
"""In the names of Claude's models before 4.6; later ones decide by themselves how much, by effort."""
_THREE_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
"""For models that know three."""

_encode = msgspec.json.Encoder().encode
_Json = dict[str, Any]
_NO_ARGUMENTS: _Json = {"type": "object", "properties": {}}


def encode_request(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of ``POST /model/{modelId}/converse`` and ``/converse-stream``.

    Raises:
        BadRequest: ``unsupported_parameter``; ``param`` names what the format cannot carry.
    """
    params = request.params
    maker = family(upstream_model, params.model)
    _refuse(params)
    messages = Messages(request, origin, WIRE)
    for item in request.items:
        messages.take(item)
    cached = params.prompt_cache_key is not None and maker in ("claude", "nova")
    body: _Json = {"messages": messages.close(cached=cached)}
    system: list[_Json] = [{"text": text} for text in (params.instructions, *messages.system) if text and text.strip()]
    if system and cached:
        system.append(CACHE_POINT)
    body["system"] = system
    extra: _Json = {}
    body["inferenceConfig"] = _set(
        maxTokens=params.max_output_tokens,
        temperature=params.temperature,
        topP=params.top_p,
        stopSequences=params.stop or None,
    )
    body["toolConfig"] = _tools(params, messages.called, maker, extra)
    body["outputConfig"] = _output(params.text)
    name = upstream_model if family(upstream_model) == maker else params.model
    _reasoning(params, name.lower(), maker, messages, extra)
    body["additionalModelRequestFields"] = extra
    body["requestMetadata"] = _metadata(params)
    if params.service_tier not in (None, "auto"):
        body["serviceTier"] = {"type": params.service_tier}
    return _encode({name: value for name, value in body.items() if value or name == "messages"})


def _set(**fields: Any) -> _Json:
    return {name: value for name, value in fields.items() if value is not None}


def _refuse(params: ModelParams) -> None:
    refuse_sampling(params, WIRE)
    if params.service_tier not in (None, "auto", *_TIERS):
        raise refused("service_tier", f"The service tier {params.service_tier!r}", WIRE)


# -- tools ------------------------------------------------------------------------------------------


def _tools(params: ModelParams, called: dict[str, None], maker: str, extra: _Json) -> _Json | None:
    choice, tools = params.tool_choice, params.tools
    if isinstance(choice, AllowedTools):
        if choice.mode != "none":
            names = allowed_names(choice)
            tools = tuple(tool for tool in tools if tool.name in names)
        choice = choice.mode
    if choice == "none" and tools:
        # The format cannot forbid a call but by offering nothing, which it refuses after a call.
        if called:
            raise refused("tool_choice", "The tool choice 'none' after a tool call", WIRE)
        tools = ()
    offered = [{"toolSpec": _tool(tool)} for tool in tools]
    # The format refuses calls in the history where it is not told of any tool.
    offered += [] if tools else [{"toolSpec": _called_before(name)} for name in called]
    if not offered:
        return None
    config: _Json = {"tools": offered}
    if isinstance(choice, FunctionChoice):
        config["toolChoice"] = {"tool": {"name": choice.name}}
    elif choice == "required":
        config["toolChoice"] = {"any": {}}
    if params.parallel_tool_calls is False and tools:
        if maker != "claude":
            raise refused("parallel_tool_calls", "A wish for one tool call at a time", WIRE)
        # Claude's own choice and the format's exclude each other.
        kinds: dict[str, _Json] = {"any": {"type": "any"}, "tool": {"type": "tool"}}
        said = config.pop("toolChoice", {})
        kind = next((kinds[name] | value for name, value in said.items()), {"type": "auto"})
        extra["tool_choice"] = kind | {"disable_parallel_tool_use": True}
    return config


def _tool(tool: FunctionTool) -> _Json:
    spec: _Json = {"name": tool.name}
    if tool.description:
        spec["description"] = tool.description
    spec["inputSchema"] = {"json": tool.parameters or _NO_ARGUMENTS}
    if tool.strict:
        spec["strict"] = True
    return spec


def _called_before(name: str) -> _Json:
    return {"name": name, "description": "Not available any more.", "inputSchema": {"json": _NO_ARGUMENTS}}


# -- what is asked beside that ------------------------------------------------------------------------


def _output(text: TextConfig) -> _Json | None:
    if text.verbosity is not None:
        raise refused("text.verbosity", "A verbosity", WIRE)
    wanted = text.format
    if isinstance(wanted, JsonObject):
        raise refused("text.format", "A wish for JSON without a schema", WIRE)
    if not isinstance(wanted, JsonSchema):
        return None
    schema: _Json = {"schema": _encode(wanted.schema or {"type": "object"}).decode(), "name": wanted.name}
    if wanted.description is not None:
        schema["description"] = wanted.description
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _metadata(params: ModelParams) -> _Json | None:
    """Who asks, for the account's own invocation logs."""
    fields: _Json = {}
    for name in ("user", "safety_identifier"):
        value: str | None = getattr(params, name)
        if not value:
            continue
        if len(value) > _METADATA_CHARS_MAX or not _METADATA_SIGNS.issuperset(value):
            raise refused(name, f"This {name}, for its length or its characters,", WIRE)
        fields[name] = value
    return fields or None


def _reasoning(params: ModelParams, name: str, maker: str, messages: Messages, extra: _Json) -> None:
    asked = params.reasoning
    if asked is None:
        return
    if asked.summary is not None and maker != "claude":
        raise refused("reasoning.summary", "A reasoning summary", WIRE)
    effort = asked.effort
    if maker == "claude":
        _claude(params, name, messages, extra)
    elif effort is None:
        return
    elif maker == "gpt":
        extra["reasoning"] = {"effort": "low" if effort == "minimal" else effort}
    elif maker in ("gpt-oss", "kimi") and effort != "none":
        extra["reasoning_effort"] = _THREE_EFFORTS[effort]
    elif maker == "nova" and "nova-2" in name:
        kind = {"type": "disabled"} if effort == "none" else None
        extra["reasoningConfig"] = kind or {"type": "enabled", "maxReasoningEffort": _THREE_EFFORTS[effort]}
    else:
        raise refused("reasoning.effort", f"The reasoning effort {effort!r}", WIRE)


def _claude(params: ModelParams, name: str, messages: Messages, extra: _Json) -> None:
    asked = params.reasoning
    assert asked is not None
    effort = asked.effort
    if effort == "none":
        return
    if effort is None and asked.summary is None:
        return
    choice = params.tool_choice
    choice = choice.mode if isinstance(choice, AllowedTools) else choice
    if choice == "required" or isinstance(choice, FunctionChoice):
        raise refused("tool_choice", "A tool choice that demands a call, together with reasoning,", WIRE)
    if _CLAUDE_BY_BUDGET.search(name):
        if messages.calls_unthought:
            # A model that began this chain of calls without thinking may not begin to think in its midst.
            return
        extra["thinking"] = {"type": "enabled", "budget_tokens": _budget(params, effort or "medium")}
        return
    extra["thinking"] = {"type": "adaptive"}
    if asked.summary is not None:
        extra["thinking"]["display"] = "summarized"
    if effort is not None:
        extra["output_config"] = {"effort": "low" if effort == "minimal" else effort}


def _budget(params: ModelParams, effort: str) -> int:
    """The tokens that may be thought, which count as output."""
    limit = params.max_output_tokens
    if limit is None:
        return _BUDGETS[effort]
    if limit <= _BUDGET_MIN:
        raise refused("max_output_tokens", f"A limit of {_BUDGET_MIN} or fewer tokens, together with reasoning,", WIRE)
    return max(_BUDGET_MIN, min(_BUDGETS[effort], limit // 2))
