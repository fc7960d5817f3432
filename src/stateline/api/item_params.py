"""What a request may send as an item: ``ItemParam`` of Open Responses and OpenAI's easy forms.

A field whose type is ``None`` is one that OpenAI knows and Stateline does not serve; a value in it is
refused by name instead of being lost in silence. A field of type ``Any`` is one that the official SDKs
add when they send an answer back as input; it says nothing that the rest does not, and is dropped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stateline.core.items import Phase
from stateline.core.limits import (
    CALL_ID_CHARS_MAX,
    FILE_DATA_CHARS_MAX,
    IMAGE_URL_CHARS_MAX,
    ITEM_ID_CHARS_MAX,
    TEXT_CHARS_MAX,
    TOOL_NAME_CHARS_MAX,
)

NAME_PATTERN = "^[a-zA-Z0-9_-]+$(?!\\n)"
"""In Python ``$`` also holds before a last newline, which the look-ahead bars; elsewhere it changes nothing."""

Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
ItemId = Annotated[str, Meta(max_length=ITEM_ID_CHARS_MAX)] | None
CallId = Annotated[str, Meta(min_length=1, max_length=CALL_ID_CHARS_MAX)]
FunctionName = Annotated[str, Meta(min_length=1, max_length=TOOL_NAME_CHARS_MAX, pattern=NAME_PATTERN)]
Status = Literal["in_progress", "completed", "incomplete"] | None


class _Param(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    pass


class InputTextParam(_Param, tag="input_text", frozen=True, kw_only=True):
    text: Text
    prompt_cache_breakpoint: None = None


class InputImageParam(_Param, tag="input_image", frozen=True, kw_only=True):
    image_url: Annotated[str, Meta(max_length=IMAGE_URL_CHARS_MAX)] | None = None
    detail: Literal["low", "high", "auto"] | None = None
    file_id: None = None
    prompt_cache_breakpoint: None = None


class InputFileParam(_Param, tag="input_file", frozen=True, kw_only=True):
    filename: Text | None = None
    file_data: Annotated[str, Meta(max_length=FILE_DATA_CHARS_MAX)] | None = None
    file_url: Text | None = None
    file_id: None = None
    detail: None = None
    prompt_cache_breakpoint: None = None


class InputVideoParam(_Param, tag="input_video", frozen=True, kw_only=True):
    video_url: Annotated[str, Meta(max_length=IMAGE_URL_CHARS_MAX)]


class UrlCitationParam(_Param, tag="url_citation", frozen=True, kw_only=True):
    url: Text
    title: Text
    start_index: Annotated[int, Meta(ge=0, le=TEXT_CHARS_MAX)]
    end_index: Annotated[int, Meta(ge=0, le=TEXT_CHARS_MAX)]


class OutputTextParam(_Param, tag="output_text", frozen=True, kw_only=True):
    text: Text
    annotations: list[UrlCitationParam] | None = None
    logprobs: Any = None
    parsed: Any = None


class RefusalParam(_Param, tag="refusal", frozen=True, kw_only=True):
    refusal: Text


class SummaryTextParam(_Param, tag="summary_text", frozen=True, kw_only=True):
    text: Text


class ReasoningTextParam(_Param, tag="reasoning_text", frozen=True, kw_only=True):
    text: Text


InputPart = InputTextParam | InputImageParam | InputFileParam
OutputPart = OutputTextParam | RefusalParam


class _Message(_Param, tag="message", frozen=True, kw_only=True):
    """``type`` may be missing: OpenAI's easy input message."""

    id: ItemId = None
    status: Status = None


class UserMessageParam(_Message, tag="message", frozen=True, kw_only=True):
    role: Literal["user"]
    content: Text | list[InputPart]
    phase: None = None


class SystemMessageParam(_Message, tag="message", frozen=True, kw_only=True):
    role: Literal["system"]
    content: Text | list[InputTextParam]
    phase: None = None


class DeveloperMessageParam(_Message, tag="message", frozen=True, kw_only=True):
    role: Literal["developer"]
    content: Text | list[InputTextParam]
    phase: None = None


class AssistantMessageParam(_Message, tag="message", frozen=True, kw_only=True):
    role: Literal["assistant"]
    content: Text | list[OutputPart]
    phase: Phase | None = None


class FunctionCallParam(_Param, tag="function_call", frozen=True, kw_only=True):
    id: ItemId = None
    call_id: CallId
    name: FunctionName
    arguments: Text
    status: Status = None
    namespace: None = None
    parsed_arguments: Any = None
    created_by: Any = None


class FunctionCallOutputParam(_Param, tag="function_call_output", frozen=True, kw_only=True):
    id: ItemId = None
    call_id: CallId
    output: Text | list[InputPart | InputVideoParam]
    status: Status = None
    created_by: Any = None


class ReasoningParam(_Param, tag="reasoning", frozen=True, kw_only=True):
    id: ItemId = None
    summary: list[SummaryTextParam]
    content: list[ReasoningTextParam] | None = None
    encrypted_content: Text | None = None
    status: Status = None


class CompactionParam(_Param, tag="compaction", frozen=True, kw_only=True):
    id: ItemId = None
    encrypted_content: Text
    created_by: Any = None


class ListedToolParam(msgspec.Struct, frozen=True, kw_only=True):
    name: Text
    input_schema: dict[str, Any]
    description: Text | None = None
    annotations: Any = None


class McpListToolsParam(_Param, tag="mcp_list_tools", frozen=True, kw_only=True):
    id: ItemId = None
    server_label: Text
    tools: list[ListedToolParam]
    error: Any = None
    created_by: Any = None


class McpApprovalRequestParam(_Param, tag="mcp_approval_request", frozen=True, kw_only=True):
    id: Annotated[str, Meta(min_length=1, max_length=ITEM_ID_CHARS_MAX)]
    server_label: Text
    name: Text
    arguments: Text
    created_by: Any = None


class McpApprovalResponseParam(_Param, tag="mcp_approval_response", frozen=True, kw_only=True):
    id: ItemId = None
    approval_request_id: Annotated[str, Meta(min_length=1, max_length=ITEM_ID_CHARS_MAX)]
    approve: bool
    reason: Text | None = None
    request_id: Any = None
    created_by: Any = None


class McpCallErrorParam(msgspec.Struct, frozen=True, kw_only=True):
    content: Any = None
    message: Any = None


class McpCallParam(_Param, tag="mcp_call", frozen=True, kw_only=True):
    id: ItemId = None
    server_label: Text
    name: Text
    arguments: Text
    output: Text | None = None
    error: Text | McpCallErrorParam | None = None
    approval_request_id: str | None = None
    status: Literal["in_progress", "completed", "incomplete", "calling", "failed"] | None = None
    content: Any = None
    created_by: Any = None


class ItemReferenceParam(_Param, tag="item_reference", frozen=True, kw_only=True):
    id: Annotated[str, Meta(min_length=1, max_length=ITEM_ID_CHARS_MAX)]


MessageParam = UserMessageParam | SystemMessageParam | DeveloperMessageParam | AssistantMessageParam
HostedParam = McpListToolsParam | McpApprovalRequestParam | McpApprovalResponseParam | McpCallParam
ItemParam = (
    MessageParam
    | FunctionCallParam
    | FunctionCallOutputParam
    | ReasoningParam
    | CompactionParam
    | HostedParam
    | ItemReferenceParam
)
