"""Anthropic's Messages: requests.

What the format has no place for is refused with the field's name. Left out on purpose, because it is
no context or only a hint: annotations and log probabilities of earlier answers, an image's ``detail``,
a message's ``phase``, ``parallel_tool_calls: true`` (the format's own default), and
``reasoning.encrypted_content`` in ``include`` (thinking is always given back with its signature).

Thinking goes back only with the signature that its origin gave. A reasoning item with no sidecar came
from the client, who vouches for it; it goes back where its encrypted content is one of this format's.

``prompt_cache_key`` asks for prompt caching: breakpoints stand after the tools and the system prompt,
and after the last message (https://platform.claude.com/docs/en/build-with-claude/prompt-caching).
"""

from __future__ import annotations

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
from stateline.models.formats.anthropic_messages_items import WIRE, Messages
from stateline.models.formats.anthropic_messages_models import (
    BUDGETS,
    EFFORTS,
    MIN_BUDGET,
    Facts,
    facts_of,
)
from stateline.models.formats.openai_shared import allowed_names, refuse_sampling, refused

_encode = msgspec.json.Encoder().encode
_Json = dict[str, Any]
_EPHEMERAL: _Json = {"type": "ephemeral"}


class _Dialect(NamedTuple):
    """Where the clouds that serve the format differ.

    Attributes:
        version: ``anthropic_version``, where it stands in the body and not in a header.
        named: whether the body names the model; else the URL does.
        stream: whether the body asks for a stream; else the URL does.
        links: whether images and documents may be given by their URL.
        tiers: whether there are service tiers: at Anthropic alone, says
            https://platform.claude.com/docs/en/api/service-tiers.
    """

    version: str | None = None
    named: bool = True
    stream: bool = True
    links: bool = True
    tiers: bool = True


_DIRECT = _Dialect()
_DIALECTS = {
    "anthropic-messages/aws": _Dialect("bedrock-2023-05-31", named=False, stream=False, links=False, tiers=False),
    "anthropic-messages/google": _Dialect("vertex-2023-10-16", named=False, links=False, tiers=False),
    "anthropic-messages/azure": _Dialect(tiers=False),
}
"""By origin: InvokeModel at Bedrock, ``streamRawPredict`` at Vertex; Foundry; all others as Anthropic itself."""


def encode_request(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of ``POST /v1/messages``, or of what another cloud has for it.

    Raises:
        BadRequest: ``unsupported_parameter``; ``param`` names what the format cannot carry.
    """
    dialect = _DIALECTS.get(origin, _DIRECT)
    params, facts = request.params, facts_of(upstream_model)
    _refuse(params)
    body: _Json = {"anthropic_version": dialect.version}
    if dialect.named:
        body["model"] = upstream_model
    if dialect.stream and request.stream:
        body["stream"] = True
    body["max_tokens"] = params.max_output_tokens or facts.output_tokens
    messages = Messages(request, origin, links=dialect.links)
    system, body["messages"] = messages.encode()
    body["system"] = system[0]["text"] if len(system) == 1 else system or None
    _tools(body, params)
    _think(body, params, facts, cut_off=messages.unthinking)
    _text(body, params)
    body["temperature"] = params.temperature
    body["top_p"] = params.top_p
    body["stop_sequences"] = list(params.stop) or None
    body["service_tier"] = _tier(params, dialect)
    user = params.safety_identifier or params.user
    body["metadata"] = {"user_id": user} if user is not None else None
    if params.prompt_cache_key is not None:
        _cache(body, system)
    return _encode({name: value for name, value in body.items() if value is not None})


def _refuse(params: ModelParams) -> None:
    refuse_sampling(params, WIRE)
    if params.text.verbosity is not None:
        raise refused("text.verbosity", "A verbosity", WIRE)


_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}


def _tier(params: ModelParams, dialect: _Dialect) -> str | None:
    if params.service_tier is None:
        return None
    tier = _TIERS.get(params.service_tier)
    if tier is None:
        raise refused("service_tier", f"The service tier {params.service_tier[:64]!r}", WIRE)
    # Where there are no tiers, both words mean what is served anyhow.
    return tier if dialect.tiers else None


# -- tools ------------------------------------------------------------------------------------------


def _tools(body: _Json, params: ModelParams) -> None:
    choice, tools = params.tool_choice, params.tools
    if isinstance(choice, AllowedTools):
        if choice.mode != "none":
            # The format cannot bar a tool that it offers.
            names = allowed_names(choice)
            tools = tuple(tool for tool in tools if tool.name in names)
        choice = choice.mode
    if not tools:
        return
    body["tools"] = [_tool(tool) for tool in tools]
    chosen: _Json = {"type": "auto"}
    if isinstance(choice, FunctionChoice):
        chosen = {"type": "tool", "name": choice.name}
    elif choice == "required":
        chosen = {"type": "any"}
    elif choice == "none":
        chosen = {"type": "none"}
    if params.parallel_tool_calls is False and choice != "none":
        chosen["disable_parallel_tool_use"] = True
    if chosen != {"type": "auto"}:
        body["tool_choice"] = chosen


def _tool(tool: FunctionTool) -> _Json:
    fields: _Json = {"name": tool.name}
    if tool.description is not None:
        fields["description"] = tool.description
    fields["input_schema"] = {"type": "object", **(tool.parameters or {})}
    if tool.strict:
        fields["strict"] = True
    return fields


# -- thinking and structured output -------------------------------------------------------------------


def _think(body: _Json, params: ModelParams, facts: Facts, *, cut_off: bool) -> None:
    """Ask for thinking: by effort where the model takes one, else by a budget of tokens.

    Args:
        cut_off: the turn's tool calls stand there without the thinking before them (another model made
            them); a model that takes budgets refuses to think on from there.
    """
    asked = params.reasoning
    if asked is None or (asked.effort is None and asked.summary is None):
        return
    if asked.effort == "none":
        body["thinking"] = {"type": "disabled"}
        return
    if facts.adaptive:
        thinking = {"type": "adaptive"}
        if asked.effort is not None:
            effort = "xhigh" if asked.effort == "xhigh" and facts.xhigh else EFFORTS[asked.effort]
            body.setdefault("output_config", {})["effort"] = effort
        if asked.summary is not None:
            thinking["display"] = "summarized"
        body["thinking"] = thinking
        return
    if cut_off:
        return
    limit = body["max_tokens"]
    if limit <= MIN_BUDGET:
        raise refused("max_output_tokens", f"Reasoning within {limit} output tokens", WIRE)
    # At least half of the output is left for what is said.
    budget = max(MIN_BUDGET, min(BUDGETS[asked.effort or "medium"], limit // 2))
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _text(body: _Json, params: ModelParams) -> None:
    wanted = params.text.format
    if isinstance(wanted, JsonObject):
        raise refused("text.format", "A wish for JSON without a schema", WIRE)
    if isinstance(wanted, JsonSchema):
        # The format knows no name of a schema, and always holds to it.
        schema = dict(wanted.schema or {"type": "object"})
        if wanted.description is not None:
            schema.setdefault("description", wanted.description)
        body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}


# -- prompt caching -----------------------------------------------------------------------------------


def _cache(body: _Json, system: list[_Json]) -> None:
    if system:
        body["system"] = [*system[:-1], system[-1] | {"cache_control": _EPHEMERAL}]
    elif "tools" in body:
        body["tools"][-1]["cache_control"] = _EPHEMERAL
    messages: list[_Json] = body["messages"]
    if messages:
        last: str | list[_Json] = messages[-1]["content"]
        if isinstance(last, str):
            last = messages[-1]["content"] = [{"type": "text", "text": last}]
        if last[-1]["type"] not in ("thinking", "redacted_thinking"):
            last[-1]["cache_control"] = _EPHEMERAL
