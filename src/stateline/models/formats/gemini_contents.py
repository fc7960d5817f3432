"""Items as Gemini's contents: roles ``user`` and ``model``, answers to calls right behind them.

Instructions of the system and the developer have one place, wherever they stood. A signature goes back to
its origin alone, in a part as it came. Calls that another model made have none, and models from Gemini 3
on refuse those: the provider names a word to send in its place.
Source: https://ai.google.dev/gemini-api/docs/thought-signatures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from stateline.core.calls import ModelRequest
from stateline.core.carrying import own
from stateline.core.items import (
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
    Reasoning,
)
from stateline.models.formats.behind_calls import BehindCalls
from stateline.models.formats.openai_shared import refused

UNSIGNED = "skip_thought_signature_validator"
"""What stands for the signature of a call that another model made."""

_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*;base64,", re.IGNORECASE)
_TYPES = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "heic": "image/heic", "heif": "image/heif", "mp4": "video/mp4", "mpeg": "video/mpeg", "mpg": "video/mpeg",
    "mov": "video/quicktime", "webm": "video/webm", "wmv": "video/x-ms-wmv", "3gp": "video/3gpp",
    "mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "aac": "audio/aac",
    "pdf": "application/pdf", "txt": "text/plain", "md": "text/markdown", "csv": "text/csv", "html": "text/html",
    "htm": "text/html", "xml": "text/xml", "json": "application/json",
}  # fmt: skip
"""By the ending of a file's name, where nothing else says its type."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_Json = dict[str, Any]
_NOTHING = InputText(text="")


class _Turn(NamedTuple):
    """One content while it is built; in a user's, the results of calls come first."""

    role: str
    results: list[_Json]
    parts: list[_Json]


class Contents(BehindCalls):
    """Builds the list of contents.

    Args:
        origin: sidecars of this one go back.
        signs: whether the model refuses calls without a signature.
    """

    def __init__(self, request: ModelRequest, origin: str, wire: str, *, signs: bool) -> None:
        super().__init__(wire)
        self._request = request
        self._origin = origin
        self._signs = signs
        self._out: list[_Turn] = []
        self._calls: dict[str, _Json] = {}

    def close(self) -> list[_Json]:
        """All contents."""
        self._release()
        return [{"role": turn.role, "parts": turn.results + turn.parts} for turn in self._out]

    def _turn(self, role: str) -> _Turn:
        if not self._out or self._out[-1].role != role:
            self._out.append(_Turn(role, [], []))
        return self._out[-1]

    def _sidecar(self, item: ModelItem) -> Mapping[str, Any]:
        return own(item, self._request.sidecars, self._origin)

    # -- items -----------------------------------------------------------------------------------

    def _add(self, item: ModelItem) -> None:
        match item:
            case Message(role="assistant"):
                parts = _signed("".join(self._plain(part) for part in item.content), self._sidecar(item))
                if parts:
                    self._turn("model").parts.extend(parts)
            case Message():
                # The format refuses a part of nothing.
                parts = [self._part(part) for part in item.content if part != _NOTHING]
                if parts:
                    self._turn("user").parts.extend(parts)
            case Reasoning():
                signature = self._sidecar(item).get("thought_signature")
                if isinstance(signature, str):
                    text = "".join(part.text for part in item.summary)
                    thought = {"text": text, "thought": True, "thoughtSignature": signature}
                    self._turn("model").parts.append(thought)
            case Compaction():
                raise refused("input", "A compaction item", self._wire)
            case _:  # pragma: no cover - calls and their answers are never held back
                raise AssertionError(item)

    def _call(self, item: FunctionCall) -> None:
        kept = self._sidecar(item)
        call: _Json = {"name": item.name, "args": _arguments(item.arguments)}
        if isinstance(kept.get("call_id"), str):
            call["id"] = kept["call_id"]
        self._calls[item.call_id] = call
        part: _Json = {"functionCall": call}
        turn = self._turn("model")
        signature = kept.get("thought_signature")
        if isinstance(signature, str):
            part["thoughtSignature"] = signature
        elif self._signs and not kept and not any("functionCall" in each for each in turn.parts):
            # Of calls made at once the first alone is signed.
            part["thoughtSignature"] = UNSIGNED
        turn.parts.append(part)

    def _answer(self, item: FunctionCallOutput) -> None:
        call = self._calls.get(item.call_id)
        if call is None:
            raise refused("input", f"The output of a call that is not there ({item.call_id[:100]!r})", self._wire)
        said = item.output
        parts: Sequence[Content] = (InputText(text=said),) if isinstance(said, str) else said
        text = "".join(part.text for part in parts if isinstance(part, InputText))
        media = [self._part(part) for part in parts if not isinstance(part, InputText)]
        if media and not self._signs:
            raise refused("input", "An image or a file in the output of a call", self._wire)
        if any("mimeType" not in each for part in media for each in part.values()):
            raise refused("input", "A file of an unknown type in the output of a call", self._wire)
        response: _Json = {
            "name": call["name"],
            "response": _failed(text) if item.status == "incomplete" else _result(text),
        }
        if "id" in call:
            response["id"] = call["id"]
        if media:
            response["parts"] = media
        self._turn("user").results.append({"functionResponse": response})

    # -- parts -----------------------------------------------------------------------------------

    def _part(self, part: Content) -> _Json:
        match part:
            case InputImage():
                return self._media("image", part.image_url, "")
            case InputVideo():
                return self._media("video", part.video_url, "")
            case InputFile():
                filename = part.filename if isinstance(part.filename, str) else ""
                data = part.file_data if isinstance(part.file_data, str) else None
                if data is not None and not data.startswith("data:"):
                    data = f"data:;base64,{data}"
                return self._media(
                    "file", data or (part.file_url if isinstance(part.file_url, str) else None), filename
                )
            case _:
                return {"text": self._plain(part)}

    def _media(self, what: str, url: str | None, filename: str) -> _Json:
        if url is None:
            raise refused("input", f"A {what} without its content", self._wire)
        found = _DATA_URL.match(url)
        if found:
            kind = found[1].lower() or _type(filename)
            if not kind:
                raise refused("input", f"A {what} of an unknown type", self._wire)
            return {"inlineData": {"mimeType": kind, "data": url[found.end() :]}}
        if not url.startswith(("https://", "gs://")):
            raise refused("input", f"A {what} by a URL that is neither https://, gs:// nor data:", self._wire)
        kind = _type(filename) or _type(url.partition("?")[0].partition("#")[0])
        # Uploaded files and videos of YouTube need no type; it is the provider who knows what is there.
        return {"fileData": {"mimeType": kind, "fileUri": url} if kind else {"fileUri": url}}


def _type(filename: str) -> str:
    return _TYPES.get(filename.rpartition(".")[2].lower(), "")


def _signed(text: str, kept: Mapping[str, Any]) -> list[_Json]:
    """A text as parts, of which one may be signed."""
    signature, begin, end = kept.get("thought_signature"), kept.get("signed_from"), kept.get("signed_to")
    if not (isinstance(signature, str) and isinstance(begin, int) and isinstance(end, int)):
        return [{"text": text}] if text else []
    before, after = text[:begin], text[end:]
    parts: list[_Json] = [{"text": before}] if before else []
    parts.append({"text": text[begin:end], "thoughtSignature": signature})
    return [*parts, {"text": after}] if after else parts


def _arguments(arguments: str) -> msgspec.Raw | _Json:
    """Arguments as an object, as they are written."""
    try:
        _object(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return {"arguments": arguments} if arguments.strip() else {}
    return msgspec.Raw(arguments.encode())


def _result(text: str) -> msgspec.Raw | _Json:
    """What a function gave: its own object, or its text under the name that the format has for it."""
    try:
        _object(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return {"output": text}
    return msgspec.Raw(text.encode())


def _failed(text: str) -> _Json | msgspec.Raw:
    """What a function said that did not succeed, under the name that the format has for it."""
    said = _result(text)
    if isinstance(said, msgspec.Raw):
        return said if "error" in _object(text) else {"error": said}
    return {"error": text}
