"""What MCP servers say, as our values. The SDK's types come in; nothing of it is imported when this is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from stateline.core.items import InputContent, InputFile, InputImage, InputText
from stateline.core.limits import (
    JSON_DEPTH_MAX,
    MCP_DESCRIPTION_CHARS_MAX,
    MCP_NAME_CHARS_MAX,
    MCP_PARTS_MAX,
    MCP_SCHEMA_BYTES_MAX,
    PROVIDER_MESSAGE_CHARS_MAX,
)
from stateline.core.tools import EffectClass, Tool, ToolResult
from stateline.tools.mcp_server import McpServer, ReadBack
from stateline.tools.redaction import Redact

if TYPE_CHECKING:
    import mcp_types as types

# -- tools -----------------------------------------------------------------------------------------


def tool_of(server: McpServer, found: types.Tool, redact: Redact) -> Tool | None:
    """A tool as the host offers it; None for one that is not wanted, or that is not fit to be shown to a model."""
    hints = found.annotations
    if server.allowed_tools is not None and found.name not in server.allowed_tools:
        return None
    if server.read_only is not None and bool(hints and hints.read_only_hint) != server.read_only:
        return None
    if not 0 < len(found.name) <= MCP_NAME_CHARS_MAX or not found.name.isprintable():
        return None
    schema = found.input_schema
    if _too_deep(schema) or len(written := json.dumps(schema)) > MCP_SCHEMA_BYTES_MAX:
        return None
    if redact(found.name) != found.name:
        return None  # It could not be called by another name.
    if (cleared := redact(written)) != written:
        schema = cast("dict[str, Any]", json.loads(cleared))
    return Tool(
        name=found.name,
        description=redact(found.description or found.title or "")[:MCP_DESCRIPTION_CHARS_MAX],
        parameters=schema,
        effect=effect_of(server, found),
    )


def effect_of(server: McpServer, found: types.Tool) -> EffectClass:
    """The operator's word; else the server's own, where it is trusted; else ``unsafe``."""
    if found.name in server.effects:
        return server.effects[found.name]
    hints = found.annotations
    if not server.trusted or hints is None:
        return "unsafe"
    if hints.read_only_hint and not hints.destructive_hint:
        return "read"
    return "idempotent" if hints.idempotent_hint else "unsafe"


def _too_deep(value: object, depth: int = JSON_DEPTH_MAX) -> bool:
    if depth < 0:
        return True
    if isinstance(value, dict):
        return any(_too_deep(each, depth - 1) for each in cast("dict[str, object]", value).values())
    if isinstance(value, list):
        return any(_too_deep(each, depth - 1) for each in cast("list[object]", value))
    return False


# -- results ---------------------------------------------------------------------------------------


def result_of(found: types.CallToolResult, redact: Redact) -> ToolResult:
    """A result's parts as the model can be shown them; one text alone is a string.

    Structured content is left out where a text says the same, as the specification asks servers to do.
    """
    parts = [_part(each, redact) for each in found.content[:MCP_PARTS_MAX]]
    if len(found.content) > MCP_PARTS_MAX:
        parts.append(InputText(text=f"[{len(found.content) - MCP_PARTS_MAX} further parts are left out]"))
    structured: object = found.structured_content
    if structured is not None and not _say([each.text for each in found.content if each.type == "text"], structured):
        parts.append(InputText(text=redact(json.dumps(structured, ensure_ascii=False))))
    output: str | tuple[InputContent, ...] = tuple(parts)
    if not parts:
        output = ""
    elif len(parts) == 1 and isinstance(parts[0], InputText):
        output = parts[0].text
    return ToolResult(output=output, failed=bool(found.is_error))


def error_result(code: int, message: str, redact: Redact) -> ToolResult:
    """A JSON-RPC error: the server has answered that it did not do it."""
    return ToolResult(output=redact(f"{message} (code {code})")[:PROVIDER_MESSAGE_CHARS_MAX], failed=True)


def _say(texts: Sequence[str], structured: object) -> bool:
    """Whether the texts say what the structured content does: as JSON, or, as the SDK's servers do it for a tool that
    returns no object, a text for each value of what is wrapped as ``result``."""
    values = [_read(text) for text in texts]
    if structured in values:
        return True
    if not isinstance(structured, dict) or structured.keys() != {"result"}:
        return False
    inner = cast("dict[str, object]", structured)["result"]
    if not isinstance(inner, list):
        return inner in texts or inner in values
    wanted = cast("list[object]", inner)
    return len(wanted) == len(texts) and all(each in pair for each, *pair in zip(wanted, texts, values, strict=True))


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _part(block: types.ContentBlock, redact: Redact) -> InputContent:
    if block.type == "text":
        return InputText(text=redact(block.text))
    if block.type == "image":
        return InputImage(image_url=_data(block.mime_type, block.data, redact))
    if block.type == "audio":
        return InputText(text=redact(f"[audio, {_mime(block.mime_type)}, {_bytes(block.data)} bytes, not shown]"))
    if block.type == "resource_link":
        about = f": {block.description}" if block.description else ""
        return InputText(text=redact(f"[resource {block.title or block.name} at {block.uri}{about}]"))
    held = block.resource
    mime = _mime(held.mime_type or "")
    if hasattr(held, "text"):
        return InputText(text=redact(f"[resource {held.uri}]\n{cast('types.TextResourceContents', held).text}"))
    blob = cast("types.BlobResourceContents", held).blob
    if mime.startswith("image/"):
        return InputImage(image_url=_data(mime, blob, redact))
    if mime == "application/pdf":
        name = str(held.uri).rpartition("/")[2] or "resource.pdf"
        return InputFile(filename=redact(name), file_data=_data(mime, blob, redact))
    return InputText(text=redact(f"[resource {held.uri}, {mime}, {_bytes(blob)} bytes, not shown]"))


def _data(given: str, base64: str, redact: Redact) -> str:
    """A data URL. Whether what stands in it is base64 at all, nobody has looked."""
    return redact(f"data:{_mime(given)};base64,{base64}")


def _mime(given: str) -> str:
    """A media type without parameters; what is none would else be read as part of the data."""
    kind = given.partition(";")[0].strip().lower()
    plain = kind.replace("/", "", 1).replace("+", "").replace("-", "").replace(".", "")
    return kind if "/" in kind and plain.isalnum() and plain.isascii() else "application/octet-stream"


def _bytes(base64: str) -> int:
    return len(base64) * 3 // 4 - base64[-2:].count("=")


# -- proof -----------------------------------------------------------------------------------------


def proves(read_back: ReadBack, key: str, found: types.CallToolResult) -> bool:
    """Whether a read-back's answer has an object that repeats the key, and the other fields that are asked for.

    Words prove nothing: the answer is JSON, as structured content or as a text.
    """
    if found.is_error:
        return False
    answers: list[object] = []
    structured: object = found.structured_content
    if structured is not None:
        answers.append(structured)
    for block in found.content[:MCP_PARTS_MAX]:
        if block.type == "text":
            answers.append(_read(block.text))
    return any(_matches(read_back, key, each) for each in answers)


def _matches(read_back: ReadBack, key: str, answer: object, *, inside: bool = False) -> bool:
    """The object itself, one in a list, or either under ``result``, as the SDK's servers wrap what is no object."""
    if isinstance(answer, list):
        found = cast("list[object]", answer)
        return any(_matches(read_back, key, each, inside=True) for each in found if not isinstance(each, list))
    if not isinstance(answer, dict):
        return False
    fields = cast("dict[str, object]", answer)
    if fields.get(read_back.key_field) == key:
        return all(name in fields and fields[name] == value for name, value in read_back.where.items())
    return not inside and fields.keys() == {"result"} and _matches(read_back, key, fields["result"], inside=True)
