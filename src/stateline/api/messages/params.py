"""The bodies of ``POST /v1/messages`` and ``…/count_tokens``, as Anthropic describes them.

As in ``api.params``, a field of type ``None`` is one that Anthropic knows and Stateline does not serve.
``cache_control`` may stand wherever it may there: its place is the provider's to choose here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stateline.api.item_params import CallId, FunctionName, Text
from stateline.api.params import Body, ModelName, TopP, UserId
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


class _Block(_Tagged, frozen=True, kw_only=True):
    cache_control: Any = None


# -- content --------------------------------------------------------------------------------------------


class TextBlock(_Block, tag="text", frozen=True, kw_only=True):
    """``citations`` are left over where an answer is sent back; they are output, not context."""

    text: Text
    citations: Any = None


class Base64Source(_Tagged, tag="base64", frozen=True, kw_only=True):
    media_type: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\w.+-]+/[\w.+-]+$")]
    data: Annotated[str, Meta(max_length=FILE_DATA_CHARS_MAX)]


class UrlSource(_Tagged, tag="url", frozen=True, kw_only=True):
    url: Annotated[str, Meta(max_length=IMAGE_URL_CHARS_MAX)]


class TextSource(_Tagged, tag="text", frozen=True, kw_only=True):
    media_type: Literal["text/plain"]
    data: Text


class ImageBlock(_Block, tag="image", frozen=True, kw_only=True):
    source: Base64Source | UrlSource


class DocumentBlock(_Block, tag="document", frozen=True, kw_only=True):
    source: Base64Source | UrlSource | TextSource
    title: Text | None = None
    context: None = None
    citations: None = None


class ToolUseBlock(_Block, tag="tool_use", frozen=True, kw_only=True):
    id: CallId
    name: FunctionName
    input: dict[str, Any]
    caller: Any = None


class ToolResultBlock(_Block, tag="tool_result", frozen=True, kw_only=True):
    tool_use_id: CallId
    content: Text | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    is_error: bool | None = None


class ThinkingBlock(_Tagged, tag="thinking", frozen=True, kw_only=True):
    thinking: Text
    signature: Text


class RedactedThinkingBlock(_Tagged, tag="redacted_thinking", frozen=True, kw_only=True):
    data: Text


ContentBlock = (
    TextBlock | ImageBlock | DocumentBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock
)


class MessageParam(Body, frozen=True, kw_only=True):
    """A ``system`` message in between is what newer models take."""

    role: Literal["user", "assistant", "system"]
    content: Text | Annotated[list[ContentBlock], Meta(max_length=INPUT_ITEMS_MAX)]


# -- tools and settings -----------------------------------------------------------------------------------


class ToolParam(Body, frozen=True, kw_only=True):
    name: FunctionName
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: Text | None = None
    strict: bool | None = None
    cache_control: Any = None
    # Whether arguments may be streamed before they are known to be valid: they always are here.
    eager_input_streaming: bool | None = None
    allowed_callers: None = None
    defer_loading: None = None
    input_examples: None = None


class AutoChoice(_Tagged, tag="auto", frozen=True, kw_only=True):
    disable_parallel_tool_use: bool | None = None


class AnyChoice(_Tagged, tag="any", frozen=True, kw_only=True):
    disable_parallel_tool_use: bool | None = None


class ToolChoiceParam(_Tagged, tag="tool", frozen=True, kw_only=True):
    name: FunctionName
    disable_parallel_tool_use: bool | None = None


class NoneChoice(_Tagged, tag="none", frozen=True, kw_only=True):
    pass


Display = Literal["summarized", "omitted"]


class ThinkingEnabled(_Tagged, tag="enabled", frozen=True, kw_only=True):
    budget_tokens: Annotated[int, Meta(ge=1024, le=TOKENS_MAX)]
    display: Display | None = None


class ThinkingAdaptive(_Tagged, tag="adaptive", frozen=True, kw_only=True):
    display: Display | None = None


class ThinkingDisabled(_Tagged, tag="disabled", frozen=True, kw_only=True):
    pass


class SchemaFormat(_Tagged, tag="json_schema", frozen=True, kw_only=True):
    schema: dict[str, Any]


class OutputConfig(Body, frozen=True, kw_only=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: SchemaFormat | None = None


class RequestMetadata(Body, frozen=True, kw_only=True):
    user_id: UserId | None = None


class _ContextBody(Body, frozen=True, kw_only=True):
    """What decides a model's input: shared by a message and by a count of its tokens."""

    model: ModelName
    messages: Annotated[list[MessageParam], Meta(min_length=1, max_length=INPUT_ITEMS_MAX)]
    system: Text | list[TextBlock] | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoiceParam | NoneChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None
    cache_control: Any = None


class CreateMessage(_ContextBody, frozen=True, kw_only=True):
    """``POST /v1/messages``."""

    max_tokens: Annotated[int, Meta(ge=1, le=TOKENS_MAX)]
    stream: bool | None = None
    stop_sequences: Annotated[list[Text], Meta(max_length=STOP_SEQUENCES_MAX)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: TopP | None = None
    top_k: None = None
    metadata: RequestMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: None = None
    inference_geo: None = None


class CountMessageTokens(_ContextBody, frozen=True, kw_only=True):
    """``POST /v1/messages/count_tokens``."""
