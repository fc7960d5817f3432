"""A request's body into a TurnRequest and its items: everything is checked before the engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from stateline.api import params as p
from stateline.api.decode import decode_body, refuse_depth, refuse_duplicate_fields
from stateline.api.item_params import ItemReferenceParam
from stateline.api.parse_items import parse_items, user_message
from stateline.core.calls import (
    AllowedTools,
    FunctionChoice,
    FunctionTool,
    JsonObject,
    JsonSchema,
    ModelParams,
    ReasoningConfig,
    TextConfig,
    TextPlain,
    ToolChoice,
)
from stateline.core.errors import BadRequest, NotFound
from stateline.core.events import TurnRequest
from stateline.core.hosted import reserved, tool_name
from stateline.core.ids import parse_conversation_id
from stateline.core.items import Item
from stateline.core.secrets import looks_like_reference
from stateline.core.tools import McpTool

B = TypeVar("B", bound=p.Body)
Unresolved = list[Item | ItemReferenceParam]

_create = msgspec.json.Decoder(p.CreateResponse)
_create_event = msgspec.json.Decoder(p.WebSocketResponseCreateEvent)
_count = msgspec.json.Decoder(p.CountInputTokens)
_compact = msgspec.json.Decoder(p.CompactResponse)
_create_conversation = msgspec.json.Decoder(p.CreateConversation)
_update_conversation = msgspec.json.Decoder(p.UpdateConversation)
_add_items = msgspec.json.Decoder(p.AddConversationItems)

_PLAIN = TextConfig()


class ParsedTurn(msgspec.Struct, frozen=True, kw_only=True):
    """``conversation`` is a session id. ``items`` may hold references, which need the engine.

    ``secrets`` are headers for servers that the request names, by label.
    """

    request: TurnRequest
    items: Unresolved
    conversation: str | None = None
    secrets: dict[str, dict[str, str]] = {}


def parse_create(body: bytes) -> ParsedTurn:
    """``POST /v1/responses``.

    Raises:
        BadRequest: the first thing that is wrong, with its code and its field.
        NotFound: a conversation id that cannot exist.
    """
    return _turn(decode_exact(_create, body), body)


def parse_create_event(message: bytes) -> ParsedTurn:
    """``response.create`` on a WebSocket, which is always a stream.

    Raises:
        BadRequest, NotFound: as ``parse_create`` does, and for the fields that have no place here.
    """
    params = decode_exact(_create_event, message)
    if params.stream is False:
        # ``true`` asks for what is done anyway; openai-agents sends it, although the specification forbids it.
        raise BadRequest(
            "'stream' has no place on a WebSocket: every answer is streamed.",
            code="unsupported_parameter",
            param="stream",
        )
    parsed = _turn(params, message)
    return msgspec.structs.replace(parsed, request=msgspec.structs.replace(parsed.request, stream=True))


def _turn(params: p.CreateResponse, body: bytes) -> ParsedTurn:
    items = _context(params, body)
    background = params.background or False
    store = params.store is not False
    if background and not store:
        raise BadRequest(
            "A background response must be stored: 'store' may not be false.", code="invalid_value", param="store"
        )
    include = tuple(params.include or ())
    conversation = _conversation(params.conversation)
    request = TurnRequest(
        model=params.model,
        instructions=params.instructions,
        tools=_tools(params.tools, body),
        tool_choice=_tool_choice(params.tool_choice, params.tools),
        parallel_tool_calls=params.parallel_tool_calls,
        text=_text(params.text, body),
        reasoning=_reasoning(params.reasoning),
        max_output_tokens=params.max_output_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        top_logprobs=params.top_logprobs,
        logprobs="message.output_text.logprobs" in include or bool(params.top_logprobs),
        include=include,
        service_tier=params.service_tier,
        safety_identifier=params.safety_identifier,
        prompt_cache_key=params.prompt_cache_key,
        user=params.user,
        store=store,
        background=background,
        stream=params.stream or False,
        previous_response_id=params.previous_response_id,
        in_conversation=conversation is not None,
        metadata=params.metadata or {},
        max_tool_calls=params.max_tool_calls,
        truncation=params.truncation or "disabled",
        servers=_servers(params.tools) if params.tools else (),
    )
    secrets = _secrets(params.tools) if request.servers else {}
    return ParsedTurn(request=request, items=items, conversation=conversation, secrets=secrets)


def parse_count(body: bytes) -> ParsedTurn:
    """``POST /v1/responses/input_tokens``. Raises as ``parse_create``."""
    params = decode_exact(_count, body)
    items = _context(params, body)
    conversation = _conversation(params.conversation)
    request = TurnRequest(
        model=params.model,
        instructions=params.instructions,
        tools=_tools(params.tools, body),
        tool_choice=_tool_choice(params.tool_choice, params.tools),
        parallel_tool_calls=params.parallel_tool_calls,
        text=_text(params.text, body),
        reasoning=_reasoning(params.reasoning),
        previous_response_id=params.previous_response_id,
        in_conversation=conversation is not None,
    )
    return ParsedTurn(request=request, items=items, conversation=conversation)


def parse_compact(body: bytes) -> tuple[ModelParams, str | None, Unresolved]:
    """``POST /v1/responses/compact``: how to call the model, the previous response, and the items.

    Raises:
        BadRequest: the first thing that is wrong, with its code and its field.
    """
    params = decode_exact(_compact, body)
    text, previous = params.input, params.previous_response_id
    items: Unresolved = [user_message(text)] if isinstance(text, str) and text else parse_items(text or (), "input")
    if not items and previous is None:
        raise BadRequest(
            "There is nothing to compact: give an 'input' that is not empty, or a 'previous_response_id'.",
            code="missing_required_parameter",
            param="input",
        )
    asked = ModelParams(
        model=params.model,
        instructions=params.instructions,
        prompt_cache_key=params.prompt_cache_key,
        service_tier=params.service_tier,
    )
    return asked, previous, items


def parse_create_conversation(body: bytes) -> tuple[Unresolved, dict[str, str]]:
    params = decode_exact(_create_conversation, body)
    return parse_items(params.items or (), "items"), params.metadata or {}


def parse_update_conversation(body: bytes) -> dict[str, str]:
    return decode_exact(_update_conversation, body).metadata or {}


def parse_add_items(body: bytes) -> Unresolved:
    return parse_items(decode_exact(_add_items, body).items, "items")


def decode_exact(decoder: msgspec.json.Decoder[B], body: bytes) -> B:
    """Decode a body of known fields, each at most once."""
    if not body.strip():
        raise BadRequest("The body is empty; expected a JSON object.", code="invalid_json")
    params = decode_body(decoder, body)
    refuse_duplicate_fields(body, params)
    return params


def conversation_session(conversation: str, param: str | None = None) -> str:
    """The session of a conversation id.

    Raises:
        NotFound: it is not the id of a conversation.
    """
    session = parse_conversation_id(conversation)
    if session is None:
        raise NotFound(
            f"Conversation with id '{conversation[:128]}' not found.", code="conversation_not_found", param=param
        )
    return session


# -- the parts of a body ----------------------------------------------------------------------------------


def _context(params: p.CreateResponse | p.CountInputTokens, body: bytes) -> Unresolved:
    if params.previous_response_id is not None and params.conversation is not None:
        raise BadRequest(
            "'conversation' and 'previous_response_id' exclude each other: both name the context to go on from.",
            code="mutually_exclusive_parameters",
            param="previous_response_id",
        )
    if isinstance(params.input, str):
        return [user_message(params.input)]
    items = parse_items(params.input or (), "input")
    if not items and params.previous_response_id is None and params.conversation is None:
        raise BadRequest(
            "Missing required parameter: one of 'input', 'previous_response_id' and 'conversation'.",
            code="missing_required_parameter",
            param="input",
        )
    return items


def _conversation(value: str | p.ConversationIdParam | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return conversation_session(value, "conversation")
    return conversation_session(value.id, "conversation.id")


Tools = Sequence[p.FunctionToolParam | p.McpToolParam]


def _tools(tools: Tools | None, body: bytes) -> tuple[FunctionTool, ...]:
    if not tools:
        return ()
    functions: list[FunctionTool] = []
    for at, tool in enumerate(tools):
        if type(tool) is p.FunctionToolParam:
            refuse_depth(body, tool.parameters, f"tools[{at}].parameters")
            functions.append(
                FunctionTool(
                    name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
                )
            )
    return tuple(functions)


def _servers(tools: Tools | None) -> tuple[McpTool, ...]:
    """The servers whose tools the request wants, without what is secret in them."""
    servers: list[McpTool] = []
    for at, tool in enumerate(tools or ()):
        if type(tool) is not p.McpToolParam:
            continue
        if reserved(tool.server_label):
            raise BadRequest(
                f"The label '{tool.server_label}' is Stateline's own; take another.",
                code="server_label_reserved",
                param=f"tools[{at}].server_label",
            )
        if any(each.server_label == tool.server_label for each in servers):
            raise BadRequest(
                f"Two servers have the label '{tool.server_label}'.",
                code="duplicate_server_label",
                param=f"tools[{at}].server_label",
            )
        if tool.server_url is None and (tool.headers or tool.authorization):
            raise BadRequest(
                "The operator's own servers have their own credentials.",
                code="invalid_value",
                param=f"tools[{at}].headers",
            )
        if any(map(looks_like_reference, (tool.authorization or "", *(tool.headers or {}).values()))):
            # It would be sent as it stands: what is in the vault goes where the operator has put it, and nowhere else.
            raise BadRequest(
                "A request cannot name a secret of the vault. The operator configures servers with such credentials; "
                "use one of those by its 'server_label', or send the credential itself.",
                code="vault_reference_refused",
                param=f"tools[{at}]",
            )
        if tool.server_url is not None and not tool.server_url.startswith(("https://", "http://")):
            raise BadRequest(
                "Invalid 'server_url': expected an http or https URL.",
                code="invalid_url",
                param=f"tools[{at}].server_url",
            )
        asks = tool.require_approval
        filtered = asks if isinstance(asks, p.ApprovalFilterParam) else None
        servers.append(
            McpTool(
                server_label=tool.server_label,
                server_url=tool.server_url,
                server_description=tool.server_description,
                allowed_tools=_tool_names(tool.allowed_tools),
                require_approval=asks if isinstance(asks, str) else "always",
                always=() if filtered is None else _tool_names(filtered.always) or (),
                never=() if filtered is None else _tool_names(filtered.never) or (),
                secret=bool(tool.headers or tool.authorization),
            )
        )
    return tuple(servers)


def _tool_names(names: list[str] | p.ToolNamesParam | None) -> tuple[str, ...] | None:
    found = names.tool_names if isinstance(names, p.ToolNamesParam) else names
    return None if found is None else tuple(found)


def _secrets(tools: Tools | None) -> dict[str, dict[str, str]]:
    """What each server is to be told, by its label: headers."""
    out: dict[str, dict[str, str]] = {}
    for tool in tools or ():
        if type(tool) is p.McpToolParam and (tool.headers or tool.authorization):
            bearer = {} if tool.authorization is None else {"Authorization": f"Bearer {tool.authorization}"}
            out[tool.server_label] = {**(tool.headers or {}), **bearer}
    return out


def _tool_choice(
    choice: str | p.FunctionChoiceParam | p.McpChoiceParam | p.AllowedToolsParam | None, tools: Tools | None
) -> ToolChoice:
    if choice is None:
        return "auto"
    offered = tools or ()
    if isinstance(choice, p.FunctionChoiceParam | p.McpChoiceParam):
        return _chosen(choice, offered, "tool_choice")
    if isinstance(choice, p.AllowedToolsParam):
        chosen = [_chosen(tool, offered, f"tool_choice.tools[{at}]") for at, tool in enumerate(choice.tools)]
        return AllowedTools(tools=tuple(chosen), mode=choice.mode)
    names = {tool.name if type(tool) is p.FunctionToolParam else "" for tool in offered}
    return require_tools(choice, names)


def _chosen(choice: p.FunctionChoiceParam | p.McpChoiceParam, offered: Tools, at: str) -> FunctionChoice:
    """A tool as models know it: a server's by the name that it has there."""
    if isinstance(choice, p.FunctionChoiceParam):
        require_tool(choice.name, {tool.name for tool in offered if type(tool) is p.FunctionToolParam}, f"{at}.name")
        return FunctionChoice(name=choice.name)
    servers = {tool.server_label: tool for tool in offered if type(tool) is p.McpToolParam}
    require_tool(choice.server_label, set(servers), f"{at}.server_label")
    allowed = _tool_names(servers[choice.server_label].allowed_tools)
    if allowed is not None:
        require_tool(choice.name, set(allowed), f"{at}.name")
    return FunctionChoice(name=tool_name(choice.server_label, choice.name))


def require_tool(name: str, names: set[str], param: str) -> None:
    """Refuse a choice of a tool that is not offered."""
    if name not in names:
        raise BadRequest(f"Tool choice '{name}' not found in 'tools' parameter.", code="invalid_value", param=param)


def require_tools(choice: Any, names: set[str]) -> Any:
    """``required`` needs something to choose from."""
    if choice == "required" and not names:
        raise BadRequest(
            "Tool choice 'required' must be specified with a 'tools' parameter.",
            code="invalid_value",
            param="tool_choice",
        )
    return choice


def _text(text: p.TextParam | None, body: bytes) -> TextConfig:
    if text is None:
        return _PLAIN
    return TextConfig(format=_format(text.format, body), verbosity=text.verbosity)


def _format(
    form: p.TextFormatParam | p.JsonObjectFormatParam | p.JsonSchemaFormatParam | None, body: bytes
) -> TextPlain | JsonObject | JsonSchema:
    if isinstance(form, p.JsonSchemaFormatParam):
        refuse_depth(body, form.schema, "text.format.schema")
        return JsonSchema(name=form.name, description=form.description, schema=form.schema, strict=form.strict or False)
    return JsonObject() if isinstance(form, p.JsonObjectFormatParam) else TextPlain()


def _reasoning(reasoning: p.ReasoningConfigParam | None) -> ReasoningConfig | None:
    if reasoning is None:
        return None
    return ReasoningConfig(effort=reasoning.effort, summary=reasoning.summary or reasoning.generate_summary)
