"""Items: the unit of context, as Open Responses defines them (spec 2026-04-24, ``ItemField``).

These are the shapes that the log keeps and that responses show. What a request may send is looser
(``ItemParam``) and is turned into these by ``api``. Fields that the specification calls optional and
not nullable are left out of the JSON when unset.

The structs of ``core`` are immutable trees, in which the garbage collector has nothing to find; they
say so (``gc=False``), which saves it a good part of its work.
"""

from __future__ import annotations

from typing import Any, Literal, final

import msgspec
from msgspec import UNSET, UnsetType

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Role = Literal["user", "assistant", "system", "developer"]
Phase = Literal["commentary", "final_answer"]
ImageDetail = Literal["low", "high", "auto"]


class _Part(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type"):
    pass


@final
class InputText(_Part, tag="input_text", frozen=True, gc=False, kw_only=True):
    text: str


@final
class InputImage(_Part, tag="input_image", frozen=True, gc=False, kw_only=True):
    """``image_url`` is a URL or a ``data:`` URL."""

    image_url: str | None
    detail: ImageDetail = "auto"


@final
class InputFile(_Part, tag="input_file", frozen=True, gc=False, kw_only=True):
    """A file by URL or inline (``file_data``: base64 or a ``data:`` URL)."""

    filename: str | UnsetType = UNSET
    file_url: str | UnsetType = UNSET
    file_data: str | UnsetType = UNSET


@final
class InputVideo(_Part, tag="input_video", frozen=True, gc=False, kw_only=True):
    video_url: str


@final
class UrlCitation(_Part, tag="url_citation", frozen=True, gc=False, kw_only=True):
    """Character range ``[start_index, end_index)`` of the text that ``url`` supports."""

    url: str
    start_index: int
    end_index: int
    title: str


@final
class OutputText(_Part, tag="output_text", frozen=True, gc=False, kw_only=True):
    text: str
    annotations: tuple[UrlCitation, ...] = ()
    logprobs: list[dict[str, Any]] = []


@final
class Refusal(_Part, tag="refusal", frozen=True, gc=False, kw_only=True):
    refusal: str


@final
class ReasoningText(_Part, tag="reasoning_text", frozen=True, gc=False, kw_only=True):
    text: str


@final
class SummaryText(_Part, tag="summary_text", frozen=True, gc=False, kw_only=True):
    text: str


Content = InputText | OutputText | Refusal | InputImage | InputFile | InputVideo | ReasoningText | SummaryText
InputContent = InputText | InputImage | InputFile | InputVideo


class _Item(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type"):
    id: str


@final
class Message(_Item, tag="message", frozen=True, gc=False, kw_only=True):
    status: ItemStatus = "completed"
    role: Role
    content: tuple[Content, ...] = ()
    phase: Phase | UnsetType = UNSET


@final
class FunctionCall(_Item, tag="function_call", frozen=True, gc=False, kw_only=True):
    call_id: str
    name: str
    arguments: str
    status: ItemStatus = "completed"


@final
class FunctionCallOutput(_Item, tag="function_call_output", frozen=True, gc=False, kw_only=True):
    call_id: str
    output: str | tuple[InputContent, ...]
    status: ItemStatus = "completed"


@final
class Reasoning(_Item, tag="reasoning", frozen=True, gc=False, kw_only=True):
    """``encrypted_content`` is the provider's own and means something to that provider alone."""

    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] | UnsetType = UNSET
    encrypted_content: str | UnsetType = UNSET
    status: ItemStatus | UnsetType = UNSET


SIGNATURE = "signature:"
REDACTED = "redacted:"
"""What the encrypted content of Claude's reasoning begins with, on every cloud: a signature of the text
beside it, or all of the reasoning, redacted. Without a sidecar this tells it from other providers'."""


@final
class Compaction(_Item, tag="compaction", frozen=True, gc=False, kw_only=True):
    """Stands for everything before it in the context."""

    encrypted_content: str


ModelItem = Message | FunctionCall | FunctionCallOutput | Reasoning | Compaction
"""What models are given and give; what stands for the others there, `core.hosted` says."""


# -- calls of tools that the runtime makes itself: OpenAI's items of hosted MCP tools ----------------------

McpCallStatus = Literal["in_progress", "completed", "incomplete", "calling", "failed"]


class ListedTool(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    annotations: dict[str, Any] | None = None


@final
class McpListTools(_Item, tag="mcp_list_tools", frozen=True, gc=False, kw_only=True):
    """What a server that the request names offers."""

    server_label: str
    tools: tuple[ListedTool, ...] = ()
    error: str | None = None


@final
class McpApprovalRequest(_Item, tag="mcp_approval_request", frozen=True, gc=False, kw_only=True):
    """A call that waits for a person; ``arguments`` is JSON, as the model wrote it."""

    server_label: str
    name: str
    arguments: str


@final
class McpApprovalResponse(_Item, tag="mcp_approval_response", frozen=True, gc=False, kw_only=True):
    approval_request_id: str
    approve: bool
    reason: str | None = None


class McpCallError(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """OpenAI's ``MCPToolExecutionError``; its ``content`` may be anything."""

    type: Literal["mcp_tool_execution_error"] = "mcp_tool_execution_error"
    content: str


@final
class McpCall(_Item, tag="mcp_call", frozen=True, gc=False, kw_only=True):
    """A call that the runtime made, or was about to make.

    ``incomplete``: whether it took effect is not known. ``content`` is an extension: what the tool gave where that is
    more than text.
    """

    server_label: str
    name: str
    arguments: str
    output: str | None = None
    error: McpCallError | None = None
    approval_request_id: str | None = None
    status: McpCallStatus = "completed"
    content: tuple[InputContent, ...] | UnsetType = UNSET


@final
class EffectResolution(_Item, tag="stateline:effect_resolution", frozen=True, gc=False, kw_only=True):
    """What a person found out about a call whose outcome was not known.

    ``call_id`` is the id of its ``mcp_call``. ``committed``: it took effect, and ``output`` is what it gave;
    ``abandoned``: it is left as it is; ``retry``: it is made again.
    """

    call_id: str
    decision: Literal["committed", "abandoned", "retry"]
    output: str = ""


HostedItem = McpListTools | McpApprovalRequest | McpApprovalResponse | McpCall | EffectResolution
Item = ModelItem | HostedItem
HOSTED_ITEMS: frozenset[type] = frozenset(
    (McpListTools, McpApprovalRequest, McpApprovalResponse, McpCall, EffectResolution)
)

PREFIXES: dict[type, str] = {
    Message: "msg",
    FunctionCall: "fc",
    FunctionCallOutput: "fco",
    Reasoning: "rs",
    Compaction: "cmp",
    McpListTools: "mcpl",
    McpApprovalRequest: "mcpr",
    McpApprovalResponse: "mcpa",
    McpCall: "mcp",
    EffectResolution: "efr",
}
"""The prefix of each kind's ids, the field's own where it has one."""


class Sidecar(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What one provider needs back with an item and no other can read.

    ``origin`` is the wire format and cloud that made it, for example ``openai-responses/openai``.
    """

    origin: str
    data: dict[str, Any]
