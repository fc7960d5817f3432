"""Items as a request sends them into items as the log keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET

from stateline.api import item_params as p
from stateline.api.decode import decode_body, refuse_depth
from stateline.core.errors import BadRequest
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
    Item,
    ListedTool,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    McpCallError,
    McpListTools,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    Refusal,
    SummaryText,
    UrlCitation,
)

URL_SCHEMES = ("https://", "http://", "data:")


class _Probe(msgspec.Struct, frozen=True):
    """The two fields that say which shape an item has."""

    type: str | None = None
    role: str | None = None


class _LooseReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    type: Literal["item_reference"] | None = None


_probe = msgspec.json.Decoder(_Probe)
_MESSAGES: dict[str | None, msgspec.json.Decoder[p.MessageParam]] = {
    "user": msgspec.json.Decoder(p.UserMessageParam),
    "system": msgspec.json.Decoder(p.SystemMessageParam),
    "developer": msgspec.json.Decoder(p.DeveloperMessageParam),
    "assistant": msgspec.json.Decoder(p.AssistantMessageParam),
}
_call = msgspec.json.Decoder(p.FunctionCallParam)
_call_output = msgspec.json.Decoder(p.FunctionCallOutputParam)
_reasoning = msgspec.json.Decoder(p.ReasoningParam)
_compaction = msgspec.json.Decoder(p.CompactionParam)
_hosted: msgspec.json.Decoder[p.HostedParam] = msgspec.json.Decoder(p.HostedParam)
_HOSTED = ("mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call")
_reference = msgspec.json.Decoder(p.ItemReferenceParam)
_loose_reference = msgspec.json.Decoder(_LooseReference)

_HOSTED_SUFFIXES = ("_call", "_call_output", "_search_output", "_list_tools", "_approval_request", "_approval_response")
"""How the types of OpenAI's hosted-tool items end."""


def parse_items(raws: Sequence[msgspec.Raw], param: str) -> list[Item | p.ItemReferenceParam]:
    """Items in order; references are left for the caller to resolve.

    Args:
        param: the field that holds them, for errors.

    Raises:
        BadRequest: the first thing that is not as ``ItemParam`` has it, by its path.
    """
    return [_item(bytes(raw), f"{param}[{at}]") for at, raw in enumerate(raws)]


def user_message(text: str) -> Message:
    return Message(id="", role="user", content=(InputText(text=text),))


def _item(raw: bytes, at: str) -> Item | p.ItemReferenceParam:
    probe = decode_body(_probe, raw, at)
    kind = probe.type
    if kind == "message" or (kind is None and probe.role is not None):
        return _message(raw, probe, at)
    if kind == "function_call":
        call = decode_body(_call, raw, at)
        status = call.status or "completed"
        return FunctionCall(
            id=call.id or "", call_id=call.call_id, name=call.name, arguments=call.arguments, status=status
        )
    if kind == "function_call_output":
        return _function_output(decode_body(_call_output, raw, at), at)
    if kind == "reasoning":
        return _reasoning_item(decode_body(_reasoning, raw, at))
    if kind == "compaction":
        compaction = decode_body(_compaction, raw, at)
        return Compaction(id=compaction.id or "", encrypted_content=compaction.encrypted_content)
    if kind in _HOSTED:
        return _hosted_item(decode_body(_hosted, raw, at), raw, at)
    if kind == "item_reference" or kind is None:
        return decode_body(_reference, _without_null_type(raw, at), at)
    param = f"{at}.type"
    if kind.endswith(_HOSTED_SUFFIXES):
        raise BadRequest(
            f"Unsupported item type: '{kind[:64]}'. Items of hosted tools are not served here.",
            code="unsupported_item_type",
            param=param,
        )
    raise BadRequest(f"Invalid value: '{kind[:64]}' at '{param}'.", code="invalid_value", param=param)


def _without_null_type(raw: bytes, at: str) -> bytes:
    """Open Responses lets a reference's type be null, which a tag may not be."""
    if raw.find(b"null") < 0:
        return raw
    fields = decode_body(_loose_reference, raw, at)
    return msgspec.json.encode({"id": fields.id})


def _message(raw: bytes, probe: _Probe, at: str) -> Message:
    decoder = _MESSAGES.get(probe.role)
    if decoder is None:
        param = f"{at}.role"
        if probe.role is None:
            raise BadRequest(f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)
        raise BadRequest(f"Invalid value: '{probe.role[:64]}' at '{param}'.", code="invalid_value", param=param)
    message = decode_body(decoder, raw, at)
    content = message.content
    parts: tuple[Content, ...]
    if isinstance(content, str):
        parts = (OutputText(text=content) if message.role == "assistant" else InputText(text=content),)
    else:
        parts = tuple(_part(part, at, number) for number, part in enumerate(content))
    return Message(
        id=message.id or "",
        role=message.role,
        content=parts,
        status=message.status or "completed",
        phase=message.phase or UNSET,
    )


def _part(part: p.InputPart | p.OutputPart, at: str, number: int) -> Content:
    if isinstance(part, p.OutputTextParam):
        notes = tuple(
            UrlCitation(url=note.url, title=note.title, start_index=note.start_index, end_index=note.end_index)
            for note in part.annotations or ()
        )
        return OutputText(text=part.text, annotations=notes)
    if isinstance(part, p.RefusalParam):
        return Refusal(refusal=part.refusal)
    return input_part(part, f"{at}.content[{number}]")


def input_part(part: p.InputPart | p.InputVideoParam, at: str) -> InputContent:
    """A part of input, its URLs checked; ``at`` is its path."""
    if isinstance(part, p.InputTextParam):
        return InputText(text=part.text)
    if isinstance(part, p.InputImageParam):
        url = require_url(part.image_url, f"{at}.image_url")
        return InputImage(image_url=url, detail=part.detail or "auto")
    if isinstance(part, p.InputVideoParam):
        return InputVideo(video_url=require_url(part.video_url, f"{at}.video_url"))
    if part.file_data is None and part.file_url is None:
        raise BadRequest(
            f"Missing required parameter: one of '{at}.file_data' and '{at}.file_url'.",
            code="missing_required_parameter",
            param=f"{at}.file_data",
        )
    return InputFile(
        filename=UNSET if part.filename is None else part.filename,
        file_data=UNSET if part.file_data is None else part.file_data,
        file_url=UNSET if part.file_url is None else require_url(part.file_url, f"{at}.file_url"),
    )


def require_url(url: str | None, at: str) -> str:
    """A URL that a provider can fetch, or inline data.

    Raises:
        BadRequest: missing, or of another scheme.
    """
    if not url:
        raise BadRequest(f"Missing required parameter: '{at}'.", code="missing_required_parameter", param=at)
    if not url[:8].lower().startswith(URL_SCHEMES):
        raise BadRequest(f"Invalid '{at}': expected an http, https or data URL.", code="invalid_url", param=at)
    return url


def _function_output(output: p.FunctionCallOutputParam, at: str) -> FunctionCallOutput:
    value = output.output
    if not isinstance(value, str):
        value = tuple(input_part(part, f"{at}.output[{number}]") for number, part in enumerate(value))
    return FunctionCallOutput(
        id=output.id or "", call_id=output.call_id, output=value, status=output.status or "completed"
    )


def _hosted_item(item: p.HostedParam, raw: bytes, at: str) -> Item:
    match item:
        case p.McpApprovalResponseParam():
            return McpApprovalResponse(
                id=item.id or "",
                approval_request_id=item.approval_request_id,
                approve=item.approve,
                reason=item.reason,
            )
        case p.McpApprovalRequestParam():
            return McpApprovalRequest(
                id=item.id, server_label=item.server_label, name=item.name, arguments=item.arguments
            )
        case p.McpListToolsParam():
            for tool in item.tools:
                refuse_depth(raw, tool.input_schema, f"{at}.tools")
            listed = [
                ListedTool(name=tool.name, description=tool.description, input_schema=tool.input_schema)
                for tool in item.tools
            ]
            return McpListTools(id=item.id or "", server_label=item.server_label, tools=tuple(listed))
        case _:
            error = item.error
            if isinstance(error, p.McpCallErrorParam):
                said = error.content if error.content is not None else error.message
                error = said if isinstance(said, str) else msgspec.json.encode(said).decode()
            return McpCall(
                id=item.id or "",
                server_label=item.server_label,
                name=item.name,
                arguments=item.arguments,
                output=item.output,
                error=None if error is None else McpCallError(content=error),
                approval_request_id=item.approval_request_id,
                status=item.status or "completed",
            )


def _reasoning_item(item: p.ReasoningParam) -> Reasoning:
    content = item.content
    return Reasoning(
        id=item.id or "",
        summary=tuple(SummaryText(text=part.text) for part in item.summary),
        content=UNSET if content is None else tuple(ReasoningText(text=part.text) for part in content),
        encrypted_content=UNSET if item.encrypted_content is None else item.encrypted_content,
        status=UNSET if item.status is None else item.status,
    )
