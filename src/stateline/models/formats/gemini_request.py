"""Google's Gemini (``generateContent`` and ``streamGenerateContent``): requests.

What the format has no place for is refused with the field's name. Left out on purpose are: reasoning of
other origins, annotations and log probabilities of earlier answers (output, not context), an image's
``detail`` (a hint), the name of a JSON schema (a label), ``prompt_cache_key`` (the provider caches by
itself) and ``reasoning.encrypted_content`` in ``include`` (what there is to show is always given).

Calls that a tool's schema has to hold for (``strict``), or that are free within a list of allowed ones,
are asked for in the mode ``VALIDATED``.
Source: https://ai.google.dev/api/generate-content, …/gemini-api/docs/function-calling and …/thinking.
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
)
from stateline.models.formats.gemini_contents import Contents
from stateline.models.formats.openai_shared import allowed_names, refused, wants_logprobs

__all__ = ["WIRE", "encode_request"]

WIRE = "Gemini"
STOP_SEQUENCES_MAX = 5
TEMPERATURE_MAX = 2

_LEVELS = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
"""For models from Gemini 3 on, which take a level."""
_BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}
"""Tokens of thinking for Gemini 2.5, which takes a budget; every one of its models takes these but 0."""
_TIERS = ("flex", "priority")
_STANDARD = ("auto", "default", "standard")
"""Not sent: a request without a tier is served so. Source: …/gemini-api/docs/flex-inference, …/priority-inference."""
_VERSION = re.compile(r"gemini-(\d+(?:\.\d+)?)")

_encode = msgspec.json.Encoder().encode
_Json = dict[str, Any]


def encode_request(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of ``POST …/models/{model}:generateContent`` and ``:streamGenerateContent``.

    Raises:
        BadRequest: ``unsupported_parameter``; ``param`` names what the format cannot carry.
    """
    params = request.params
    name = upstream_model if _VERSION.search(upstream_model) else params.model
    version = _version(name)
    _refuse(params)
    contents = Contents(request, origin, WIRE, signs=version >= 3)
    for item in request.items:
        contents.take(item)
    body: _Json = {"contents": contents.close()}
    system = [{"text": text} for text in (params.instructions, *contents.system) if text]
    if system:
        body["systemInstruction"] = {"parts": system}
    if params.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool) for tool in params.tools]}]
        body["toolConfig"] = {"functionCallingConfig": _choice(params)}
    if config := _config(params, name, version):
        body["generationConfig"] = config
    if params.service_tier in _TIERS:
        body["serviceTier"] = params.service_tier
    return _encode(body)


def _version(name: str) -> float:
    found = _VERSION.search(name.lower())
    return float(found[1]) if found else 0.0


def _refuse(params: ModelParams) -> None:
    if wants_logprobs(params) or params.top_logprobs:
        raise refused("top_logprobs", "A wish for log probabilities", WIRE)
    if params.temperature is not None and params.temperature > TEMPERATURE_MAX:
        raise refused("temperature", f"A temperature above {TEMPERATURE_MAX}", WIRE)
    if len(params.stop) > STOP_SEQUENCES_MAX:
        raise refused("stop", f"More than {STOP_SEQUENCES_MAX} stop sequences", WIRE)
    if params.parallel_tool_calls is False and params.tools:
        raise refused("parallel_tool_calls", "A wish for one tool call at a time", WIRE)
    if params.service_tier is not None and params.service_tier not in (*_STANDARD, *_TIERS):
        raise refused("service_tier", f"The service tier {params.service_tier[:64]!r}", WIRE)
    for name in ("user", "safety_identifier"):
        if getattr(params, name):
            raise refused(name, f"A {name}", WIRE)
    if params.text.verbosity is not None:
        raise refused("text.verbosity", "A verbosity", WIRE)


def _tool(tool: FunctionTool) -> _Json:
    # A function without parameters has no schema at all here.
    said = {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters}
    return {key: value for key, value in said.items() if value}


def _choice(params: ModelParams) -> _Json:
    choice = params.tool_choice
    names: list[str] | None = None
    if isinstance(choice, FunctionChoice):
        choice, names = "required", [choice.name]
    elif isinstance(choice, AllowedTools):
        names, choice = sorted(allowed_names(choice)), choice.mode
    if choice == "none":
        return {"mode": "NONE"}
    if choice == "required":
        mode = "ANY"
    else:
        mode = "VALIDATED" if names or any(tool.strict for tool in params.tools) else "AUTO"
    return {"mode": mode, "allowedFunctionNames": names} if names else {"mode": mode}


def _config(params: ModelParams, name: str, version: float) -> _Json:
    config: _Json = {
        "maxOutputTokens": params.max_output_tokens,
        "temperature": params.temperature,
        "topP": params.top_p,
        "stopSequences": params.stop or None,
        "presencePenalty": params.presence_penalty,
        "frequencyPenalty": params.frequency_penalty,
        "seed": params.seed,
    }
    wanted = params.text.format
    if isinstance(wanted, JsonObject | JsonSchema):
        config["responseMimeType"] = "application/json"
    if isinstance(wanted, JsonSchema):
        schema = wanted.schema or {"type": "object"}
        described = {"description": wanted.description, **schema} if wanted.description else schema
        config["responseJsonSchema"] = described
    config["thinkingConfig"] = _thinking(params, name.lower(), version)
    return {key: value for key, value in config.items() if value is not None}


def _thinking(params: ModelParams, name: str, version: float) -> _Json | None:
    asked = params.reasoning
    if asked is None or (asked.effort is None and asked.summary is None):
        return None
    config: _Json = {}
    effort = asked.effort
    if asked.summary is not None:
        config["includeThoughts"] = True
    if effort is None:
        return config
    # The larger models cannot be told not to think, and those from Gemini 3 on no model can.
    if version < 2.5 or (effort == "none" and (version >= 3 or "pro" in name)):
        raise refused("reasoning.effort", f"The reasoning effort {effort!r}", WIRE)
    if version < 3:
        return config | {"thinkingBudget": _BUDGETS[effort]}
    level = _LEVELS[effort]
    return config | {"thinkingLevel": "low" if level == "minimal" and "pro" in name else level}
