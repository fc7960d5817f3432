"""Items as Converse's messages: alternating roles, answers to calls right behind them.

Instructions of the system and the developer have one place, before all messages, wherever they stood. Call
ids and arguments that the format has no room for are changed, the same way each time: an id is hashed, and
arguments that are no JSON object are sent as the one member ``arguments`` of an object.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from stateline.core.calls import ModelRequest
from stateline.core.carrying import sealed, takes_status
from stateline.core.ids import digest
from stateline.core.items import (
    REDACTED,
    SIGNATURE,
    Compaction,
    Content,
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    Message,
    ModelItem,
    OutputText,
    Reasoning,
)
from stateline.models.formats.behind_calls import BehindCalls
from stateline.models.formats.openai_shared import refused

CACHE_POINT: dict[str, Any] = {"cachePoint": {"type": "default"}}

_CALL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_NAME_SIGNS = re.compile(r"[^a-zA-Z0-9\-()\[\]]+")
_NAME_CHARS_MAX = 200
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*;base64,", re.IGNORECASE)
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_VIDEOS = {
    "video/x-matroska": "mkv", "video/quicktime": "mov", "video/mp4": "mp4", "video/webm": "webm",
    "video/x-flv": "flv", "video/mpeg": "mpeg", "video/x-ms-wmv": "wmv", "video/3gpp": "three_gp",
}  # fmt: skip
_DOCUMENTS = {
    "application/pdf": "pdf", "text/csv": "csv", "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html", "text/plain": "txt", "text/markdown": "md",
}  # fmt: skip
_ENDINGS = {"jpg": "jpeg", "htm": "html", "markdown": "md", "text": "txt", "3gp": "three_gp", "mpg": "mpeg"}
"""Endings of file names that are not the format's own word."""

_arguments = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_Json = dict[str, Any]


class _Block(NamedTuple):
    """A message while it is built; in a user's, the results of calls come first."""

    role: str
    results: list[_Json]
    content: list[_Json]


class Messages(BehindCalls):
    """Builds the list of messages.

    Args:
        origin: sidecars of this one go back.

    Attributes:
        called: the names of the tools that were called.
    """

    def __init__(self, request: ModelRequest, origin: str, wire: str) -> None:
        super().__init__(wire)
        self.called: dict[str, None] = {}
        self._request = request
        self._origin = origin
        self._out: list[_Block] = []
        self._documents: dict[str, int] = {}

    def close(self, *, cached: bool) -> list[_Json]:
        """All messages; ``cached`` lets the provider keep what it reads up to the end of the last one."""
        self._release()
        out: list[_Json] = []
        for block in self._out:
            content = block.results + block.content
            if any("document" in part for part in content) and not any("text" in part for part in content):
                # The format wants a text beside a document.
                content.append({"text": "See the attached document."})
            out.append({"role": block.role, "content": content})
        if cached and out:
            out[-1]["content"].append(CACHE_POINT)
        return out

    @property
    def calls_unthought(self) -> bool:
        """Whether calls that were just answered were made without reasoning that goes back."""
        if len(self._out) < 2 or not self._out[-1].results:
            return False
        return "reasoningContent" not in self._out[-2].content[0]

    def _block(self, role: str) -> _Block:
        if not self._out or self._out[-1].role != role:
            self._out.append(_Block(role, [], []))
        return self._out[-1]

    # -- items -----------------------------------------------------------------------------------

    def _add(self, item: ModelItem) -> None:
        match item:
            case Message(role="assistant"):
                self._say([{"text": text} for part in item.content if (text := self._plain(part)).strip()])
            case Message():
                parts = [self._part(part) for part in item.content if not _blank(part)]
                if parts:
                    self._block("user").content.extend(parts)
            case Reasoning():
                self._reason(item)
            case Compaction():
                raise refused("input", "A compaction item", self._wire)
            case _:  # pragma: no cover - calls and their answers are never held back
                raise AssertionError(item)

    def _say(self, parts: list[_Json]) -> None:
        if parts:
            self._block("assistant").content.extend(parts)

    def _call(self, item: FunctionCall) -> None:
        self.called[item.name] = None
        use = {"toolUseId": _fitting_id(item.call_id), "name": item.name, "input": _object(item.arguments)}
        self._block("assistant").content.append({"toolUse": use})

    def _answer(self, item: FunctionCallOutput) -> None:
        said = item.output
        parts: Sequence[Content] = (InputText(text=said),) if isinstance(said, str) else said
        content = [self._part(part) for part in parts if not _blank(part)]
        result: _Json = {"toolUseId": _fitting_id(item.call_id), "content": content}
        if item.status == "incomplete" and takes_status(self._origin):
            result["status"] = "error"
        self._block("user").results.append({"toolResult": result})

    def _reason(self, item: Reasoning) -> None:
        secret = sealed(item, self._request.sidecars, self._origin)
        if secret is None:
            return
        if secret.startswith(REDACTED):
            self._say([{"reasoningContent": {"redactedContent": secret.removeprefix(REDACTED)}}])
        else:
            parts = () if isinstance(item.content, msgspec.UnsetType) else item.content
            text = "".join(part.text for part in parts)
            signed = {"text": text, "signature": secret.removeprefix(SIGNATURE)}
            self._say([{"reasoningContent": {"reasoningText": signed}}])

    # -- parts -----------------------------------------------------------------------------------

    def _part(self, part: Content) -> _Json:
        match part:
            case InputImage():
                return {"image": self._media("image", part.image_url, _IMAGES, "")}
            case InputVideo():
                return {"video": self._media("video", part.video_url, _VIDEOS, "")}
            case InputFile():
                return self._document(part)
            case _:
                return {"text": self._plain(part)}

    def _document(self, part: InputFile) -> _Json:
        filename = part.filename if isinstance(part.filename, str) else ""
        stem, _, ending = filename.rpartition(".")
        data = part.file_data if isinstance(part.file_data, str) else None
        if data is not None and not data.startswith("data:"):
            data = f"data:;base64,{data}"
        url = data or (part.file_url if isinstance(part.file_url, str) else None)
        source = self._media("file", url, _DOCUMENTS, ending)
        return {"document": {"name": self._name(stem or filename), **source}}

    def _name(self, stem: str) -> str:
        """A name that the format takes, which no other document of the request has."""
        name = _NAME_SIGNS.sub(" ", stem).strip()[: _NAME_CHARS_MAX - 8] or "Document"
        again = self._documents[name] = self._documents.get(name, 0) + 1
        return name if again == 1 else f"{name} ({again})"

    def _media(self, what: str, url: str | None, kinds: dict[str, str], ending: str) -> _Json:
        if url is None:
            raise refused("input", f"A {what} without its content", self._wire)
        if url.startswith("s3://"):
            ending = url.rpartition(".")[2]
            source: _Json = {"s3Location": {"uri": url}}
            kind = ""
        elif found := _DATA_URL.match(url):
            source, kind = {"bytes": url[found.end() :]}, found[1].lower()
        else:
            raise refused("input", f"A {what} by a URL that is neither s3:// nor data:", self._wire)
        ending = _ENDINGS.get(ending.lower(), ending.lower())
        form = kinds.get(kind) or (ending if ending in kinds.values() else None)
        if form is None:
            raise refused("input", f"A {what} of the type {(kind or ending or 'unknown')[:100]!r}", self._wire)
        return {"format": form, "source": source}


def _blank(part: Content) -> bool:
    """Whether this is a text of nothing but spaces, which the format refuses."""
    return isinstance(part, InputText | OutputText) and not part.text.strip()


def _fitting_id(call_id: str) -> str:
    return call_id if _CALL_ID.fullmatch(call_id) else f"call_{digest(call_id.encode())}"


def _object(arguments: str) -> msgspec.Raw | _Json:
    """Arguments as an object, as they are written."""
    try:
        _arguments(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return {"arguments": arguments} if arguments.strip() else {}
    return msgspec.Raw(arguments.encode())
