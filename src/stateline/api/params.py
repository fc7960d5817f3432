"""The bodies of the stateful calls: ``CreateResponseBody`` of Open Responses with OpenAI's additions.

A field whose type is ``None`` is one of OpenAI's that Stateline does not serve: 400
``unsupported_parameter``. A field that is not here is unknown: 400 ``unknown_parameter``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stateline.api.item_params import NAME_PATTERN, FunctionName, Text
from stateline.core.calls import ToolMode
from stateline.core.limits import (
    CONVERSATION_ITEMS_ADD_MAX,
    INPUT_ITEMS_MAX,
    ITEM_ID_CHARS_MAX,
    MCP_HEADERS_MAX,
    MCP_TOOL_NAME_CHARS_MAX,
    METADATA_KEY_CHARS_MAX,
    METADATA_KEYS_MAX,
    METADATA_VALUE_CHARS_MAX,
    MODEL_NAME_CHARS_MAX,
    TOKENS_MAX,
    TOOL_NAME_CHARS_MAX,
    TOOLS_MAX,
    URL_CHARS_MAX,
)

Metadata = Annotated[
    dict[
        Annotated[str, Meta(max_length=METADATA_KEY_CHARS_MAX)],
        Annotated[str, Meta(max_length=METADATA_VALUE_CHARS_MAX)],
    ],
    Meta(max_length=METADATA_KEYS_MAX),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=MODEL_NAME_CHARS_MAX)]
Id = Annotated[str, Meta(min_length=1, max_length=ITEM_ID_CHARS_MAX)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Verbosity = Literal["low", "medium", "high"]
ServiceTier = Literal["auto", "default", "flex", "priority", "scale"]
UserId = Annotated[str, Meta(max_length=512)]
ShortId = Annotated[str, Meta(max_length=64)]
SchemaName = Annotated[str, Meta(min_length=1, max_length=TOOL_NAME_CHARS_MAX, pattern=NAME_PATTERN)]
ServerLabel = Annotated[str, Meta(min_length=1, max_length=TOOL_NAME_CHARS_MAX, pattern=NAME_PATTERN)]
HostedToolName = Annotated[str, Meta(min_length=1, max_length=MCP_TOOL_NAME_CHARS_MAX)]
ToolNames = Annotated[list[HostedToolName], Meta(max_length=TOOLS_MAX)]
HeaderName = Annotated[str, Meta(min_length=1, max_length=256, pattern="^[!#$%&'*+.^_`|~0-9A-Za-z-]+$(?!\\n)")]
HeaderValue = Annotated[str, Meta(max_length=8192, pattern="^[^\\x00\\r\\n]*$(?!\\n)")]
Include = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all request bodies."""


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    pass


class FunctionToolParam(_Tagged, tag="function", frozen=True, kw_only=True):
    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: None = None
    defer_loading: None = None
    allowed_callers: None = None


class ToolNamesParam(Body, frozen=True, kw_only=True):
    """``MCPToolFilter``."""

    tool_names: ToolNames | None = None
    read_only: None = None


class ApprovalFilterParam(Body, frozen=True, kw_only=True):
    always: ToolNamesParam | None = None
    never: ToolNamesParam | None = None


class McpToolParam(_Tagged, tag="mcp", frozen=True, kw_only=True):
    """``MCPTool``. Without a URL it is the operator's own server of that label."""

    server_label: ServerLabel
    server_url: Annotated[str, Meta(max_length=URL_CHARS_MAX)] | None = None
    server_description: Text | None = None
    authorization: HeaderValue | None = None
    headers: Annotated[dict[HeaderName, HeaderValue], Meta(max_length=MCP_HEADERS_MAX)] | None = None
    allowed_tools: ToolNames | ToolNamesParam | None = None
    require_approval: Literal["always", "never"] | ApprovalFilterParam | None = None
    connector_id: None = None
    tunnel_id: None = None
    defer_loading: None = None
    allowed_callers: None = None


class FunctionChoiceParam(_Tagged, tag="function", frozen=True, kw_only=True):
    name: FunctionName


class McpChoiceParam(_Tagged, tag="mcp", frozen=True, kw_only=True):
    """``ToolChoiceMCP``; which tool must be said."""

    server_label: ServerLabel
    name: HostedToolName


class AllowedToolsParam(_Tagged, tag="allowed_tools", frozen=True, kw_only=True):
    tools: Annotated[list[FunctionChoiceParam | McpChoiceParam], Meta(min_length=1, max_length=TOOLS_MAX)]
    mode: ToolMode = "auto"


class TextFormatParam(_Tagged, tag="text", frozen=True, kw_only=True):
    pass


class JsonObjectFormatParam(_Tagged, tag="json_object", frozen=True, kw_only=True):
    pass


class JsonSchemaFormatParam(_Tagged, tag="json_schema", frozen=True, kw_only=True):
    name: SchemaName
    schema: dict[str, Any]
    description: Text | None = None
    strict: bool | None = None


class TextParam(Body, frozen=True, kw_only=True):
    format: TextFormatParam | JsonObjectFormatParam | JsonSchemaFormatParam | None = None
    verbosity: Verbosity | None = None


class ReasoningConfigParam(Body, frozen=True, kw_only=True):
    """``generate_summary`` is the old name of ``summary``."""

    effort: Effort | None = None
    summary: Literal["concise", "detailed", "auto"] | None = None
    generate_summary: Literal["concise", "detailed", "auto"] | None = None
    context: None = None
    mode: None = None


class StreamOptionsParam(Body, frozen=True, kw_only=True):
    """Obfuscation pads deltas against readers of packet sizes; it is never on here."""

    include_obfuscation: bool | None = None


class ConversationIdParam(Body, frozen=True, kw_only=True):
    id: Id


class _ContextBody(Body, frozen=True, kw_only=True):
    """What decides a model's input: shared by a response and by a count of its tokens."""

    model: ModelName
    input: Text | Annotated[list[msgspec.Raw], Meta(max_length=INPUT_ITEMS_MAX)] | None = None
    instructions: Text | None = None
    previous_response_id: Id | None = None
    conversation: Id | ConversationIdParam | None = None
    tools: Annotated[list[FunctionToolParam | McpToolParam], Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: ToolMode | FunctionChoiceParam | McpChoiceParam | AllowedToolsParam | None = None
    parallel_tool_calls: bool | None = None
    text: TextParam | None = None
    reasoning: ReasoningConfigParam | None = None
    truncation: Literal["auto", "disabled"] | None = None


class CreateResponse(_ContextBody, frozen=True, kw_only=True):
    """``POST /v1/responses``."""

    background: bool | None = None
    context_management: None = None
    frequency_penalty: Penalty | None = None
    include: list[Include] | None = None
    max_output_tokens: Annotated[int, Meta(ge=16, le=TOKENS_MAX)] | None = None
    max_tool_calls: Annotated[int, Meta(ge=1, le=TOKENS_MAX)] | None = None
    metadata: Metadata | None = None
    moderation: None = None
    presence_penalty: Penalty | None = None
    prompt: None = None
    prompt_cache_key: ShortId | None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None
    safety_identifier: ShortId | None = None
    service_tier: ServiceTier | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptionsParam | None = None
    temperature: Temperature | None = None
    top_logprobs: TopLogprobs | None = None
    top_p: TopP | None = None
    user: UserId | None = None


class WebSocketResponseCreateEvent(CreateResponse, frozen=True, kw_only=True):
    """``response.create`` on a WebSocket. What chooses the transport of an answer has no place in it."""

    type: Literal["response.create"]
    background: None = None
    stream_options: None = None


class CountInputTokens(_ContextBody, frozen=True, kw_only=True):
    """``POST /v1/responses/input_tokens``."""

    personality: None = None


class CompactResponse(Body, frozen=True, kw_only=True):
    """``POST /v1/responses/compact``: ``CompactResponseMethodPublicBody`` with OpenAI's additions."""

    model: ModelName
    input: Text | Annotated[list[msgspec.Raw], Meta(max_length=INPUT_ITEMS_MAX)] | None = None
    previous_response_id: Id | None = None
    instructions: Text | None = None
    prompt_cache_key: ShortId | None = None
    service_tier: ServiceTier | None = None
    conversation: None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None


class CreateConversation(Body, frozen=True, kw_only=True):
    items: Annotated[list[msgspec.Raw], Meta(max_length=CONVERSATION_ITEMS_ADD_MAX)] | None = None
    metadata: Metadata | None = None


class UpdateConversation(Body, frozen=True, kw_only=True):
    metadata: Metadata | None


class AddConversationItems(Body, frozen=True, kw_only=True):
    items: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=CONVERSATION_ITEMS_ADD_MAX)]
