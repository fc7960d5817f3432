"""The body of ``POST /v1/chat/completions``, as OpenAI describes it.

As in ``api.params``, a field of type ``None`` is one that OpenAI knows and Stateline does not serve.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stateline.api.item_params import CallId, FunctionName, Text
from stateline.api.params import (
    Body,
    Effort,
    Metadata,
    ModelName,
    Penalty,
    SchemaName,
    ServiceTier,
    ShortId,
    Temperature,
    TopLogprobs,
    TopP,
    UserId,
    Verbosity,
)
from stateline.core.limits import (
    FILE_DATA_CHARS_MAX,
    IMAGE_URL_CHARS_MAX,
    INPUT_ITEMS_MAX,
    STOP_SEQUENCES_MAX,
    TOKENS_MAX,
    TOOLS_MAX,
)


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    pass


# -- messages -----------------------------------------------------------------------------------------


class TextPart(_Tagged, tag="text", frozen=True, kw_only=True):
    text: Text
    # A hint of another provider's that some clients send everywhere.
    cache_control: Any = None
    prompt_cache_breakpoint: None = None


class ImageUrl(Body, frozen=True, kw_only=True):
    url: Annotated[str, Meta(max_length=IMAGE_URL_CHARS_MAX)]
    detail: Literal["low", "high", "auto"] | None = None


class ImagePart(_Tagged, tag="image_url", frozen=True, kw_only=True):
    image_url: ImageUrl
    prompt_cache_breakpoint: None = None


class FileData(Body, frozen=True, kw_only=True):
    filename: Text | None = None
    file_data: Annotated[str, Meta(max_length=FILE_DATA_CHARS_MAX)]
    file_id: None = None


class FilePart(_Tagged, tag="file", frozen=True, kw_only=True):
    file: FileData
    prompt_cache_breakpoint: None = None


class RefusalPart(_Tagged, tag="refusal", frozen=True, kw_only=True):
    refusal: Text


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role"):
    """``name`` tells participants apart; no other wire format has it, so it goes no further."""

    name: Annotated[str, Meta(max_length=512)] | None = None


class SystemMessage(_Message, tag="system", frozen=True, kw_only=True):
    content: Text | Annotated[list[TextPart], Meta(min_length=1)]


class DeveloperMessage(_Message, tag="developer", frozen=True, kw_only=True):
    content: Text | Annotated[list[TextPart], Meta(min_length=1)]


class UserMessage(_Message, tag="user", frozen=True, kw_only=True):
    content: Text | Annotated[list[TextPart | ImagePart | FilePart], Meta(min_length=1)]


class CalledFunction(Body, frozen=True, kw_only=True):
    name: FunctionName
    arguments: Text
    parsed_arguments: Any = None


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """``index`` is left over where a client sends a streamed call back as it came."""

    id: CallId
    function: CalledFunction
    index: int | None = None


class AssistantMessage(_Message, tag="assistant", frozen=True, kw_only=True):
    """``reasoning_content`` is what several providers add; it goes back as a reasoning item."""

    content: Text | Annotated[list[TextPart | RefusalPart], Meta(min_length=1)] | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=TOOLS_MAX)] | None = None
    reasoning_content: Text | None = None
    annotations: Any = None
    parsed: Any = None
    audio: None = None
    function_call: None = None


class ToolMessage(_Message, tag="tool", frozen=True, kw_only=True):
    content: Text | Annotated[list[TextPart], Meta(min_length=1)]
    tool_call_id: CallId


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage

# -- tools and formats ----------------------------------------------------------------------------------


class FunctionSpec(Body, frozen=True, kw_only=True):
    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Body, frozen=True, kw_only=True):
    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Body, frozen=True, kw_only=True):
    name: FunctionName


class NamedChoice(_Tagged, tag="function", frozen=True, kw_only=True):
    function: NamedFunction


class AllowedList(Body, frozen=True, kw_only=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoice], Meta(min_length=1, max_length=TOOLS_MAX)]


class AllowedChoice(_Tagged, tag="allowed_tools", frozen=True, kw_only=True):
    allowed_tools: AllowedList


class TextFormat(_Tagged, tag="text", frozen=True, kw_only=True):
    pass


class JsonObjectFormat(_Tagged, tag="json_object", frozen=True, kw_only=True):
    pass


class SchemaSpec(Body, frozen=True, kw_only=True):
    name: SchemaName
    schema: dict[str, Any] | None = None
    description: Text | None = None
    strict: bool | None = None


class JsonSchemaFormat(_Tagged, tag="json_schema", frozen=True, kw_only=True):
    json_schema: SchemaSpec


class ChatStreamOptions(Body, frozen=True, kw_only=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class CreateChatCompletion(Body, frozen=True, kw_only=True):
    """``POST /v1/chat/completions``."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=INPUT_ITEMS_MAX)]
    audio: None = None
    frequency_penalty: Penalty | None = None
    function_call: None = None
    functions: None = None
    logit_bias: None = None
    logprobs: bool | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=TOKENS_MAX)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=TOKENS_MAX)] | None = None
    metadata: Metadata | None = None
    modalities: list[Literal["text"]] | None = None
    moderation: None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    parallel_tool_calls: bool | None = None
    prediction: None = None
    presence_penalty: Penalty | None = None
    prompt_cache_key: ShortId | None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None
    reasoning_effort: Effort | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    safety_identifier: ShortId | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    service_tier: ServiceTier | None = None
    stop: str | Annotated[list[str], Meta(max_length=STOP_SEQUENCES_MAX)] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ChatStreamOptions | None = None
    temperature: Temperature | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | AllowedChoice | None = None
    tools: Annotated[list[ChatTool], Meta(max_length=TOOLS_MAX)] | None = None
    top_logprobs: TopLogprobs | None = None
    top_p: TopP | None = None
    user: UserId | None = None
    verbosity: Verbosity | None = None
    web_search_options: None = None
