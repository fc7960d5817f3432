"""Anthropic's Messages: items into messages.

Messages alternate between user and assistant. The outputs of an assistant's calls stand first in the
user message right behind it, so what comes between is held back until they are all there. System and
developer messages become blocks of ``system``, in their order: the format's messages have no such role.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from stateline.core.calls import ModelRequest
from stateline.core.carrying import sealed
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
    Refusal,
)
from stateline.models.formats.openai_shared import image_url, refused

WIRE = "Messages"

_Json = dict[str, Any]
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_ID = re.compile(r"[^a-zA-Z0-9_-]")
_DATA_URL = re.compile(r"data:([^;,]*)[^,]*?;base64,")
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_TEXT_NAMES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".log", ".yaml", ".yml")
_object = msgspec.json.Decoder(dict[str, Any])


class Messages:
    """Builds the list of messages.

    Attributes:
        unthinking: whether the calls of the turn that goes on have no thinking of this origin before them.
    """

    def __init__(self, request: ModelRequest, origin: str, *, links: bool) -> None:
        self._request = request
        self._origin = origin
        self._links = links
        self._system: list[_Json] = []
        self._out: list[_Json] = []
        self._held: list[_Json] = []
        self._calling: list[_Json] = []
        self._unanswered: set[str] = set()
        self._ids: dict[str, str] = {}
        self._thought = False
        self.unthinking = False

    def encode(self) -> tuple[list[_Json], list[_Json]]:
        """The blocks of ``system``, and the messages.

        Raises:
            BadRequest: ``unsupported_parameter``.
        """
        if self._request.params.instructions:
            self._system.append(_text(self._request.params.instructions))
        for item in self._request.items:
            self._take(item)
        if self._held:
            self._blocks("user").extend(self._held)
        for message in self._out:
            content = message["content"]
            if len(content) == 1 and content[0]["type"] == "text":
                message["content"] = content[0]["text"]
        return self._system, self._out

    def _take(self, item: ModelItem) -> None:
        match item:
            case Message(role="assistant"):
                if blocks := _said(item.content):
                    self._assistant().extend(blocks)
            case Message(role="user"):
                parts = [self._part(part) for part in item.content if not _is_empty(part)]
                if not parts:
                    return
                self._thought = self.unthinking = False
                (self._held if self._unanswered else self._blocks("user")).extend(parts)
            case Message():
                self._system += [_text(_only_text(part)) for part in item.content if not _is_empty(part)]
            case FunctionCall():
                self._call(item)
            case FunctionCallOutput():
                self._answer(item)
            case Reasoning():
                if (block := self._reasoning(item)) is not None:
                    self._assistant().append(block)
                    self._thought = True
            case Compaction():
                raise refused("input", "A compaction item", WIRE)

    def _blocks(self, role: str) -> list[_Json]:
        """The content of the last message, or of a new one where that is another's."""
        if not self._out or self._out[-1]["role"] != role:
            self._out.append({"role": role, "content": []})
        return self._out[-1]["content"]

    def _assistant(self) -> list[_Json]:
        """Where the assistant goes on: in the message whose calls still wait for their outputs."""
        return self._calling if self._unanswered else self._blocks("assistant")

    def _call(self, call: FunctionCall) -> None:
        if not self._unanswered:
            self._calling = self._blocks("assistant")
        if not self._thought:
            self.unthinking = True
        fields = {"id": self._id(call.call_id), "name": call.name, "input": _input(call.arguments)}
        self._calling.append({"type": "tool_use", **fields})
        self._unanswered.add(call.call_id)

    def _answer(self, output: FunctionCallOutput) -> None:
        block: _Json = {"type": "tool_result", "tool_use_id": self._id(output.call_id)}
        if output.status == "incomplete":
            block["is_error"] = True
        if isinstance(output.output, str):
            block["content"] = output.output
        else:
            block["content"] = [self._part(part) for part in output.output if not _is_empty(part)]
        self._blocks("user").append(block)
        self._unanswered.discard(output.call_id)
        if not self._unanswered and self._held:
            self._blocks("user").extend(self._held)
            self._held = []

    def _id(self, call_id: str) -> str:
        """The call's id, in the format's letters; other providers have dots and colons in theirs."""
        if _ID.fullmatch(call_id):
            return call_id
        known = self._ids.get(call_id)
        if known is None:
            known = self._ids[call_id] = f"{_NOT_ID.sub('_', call_id)}_{len(self._ids)}"
        return known

    def _reasoning(self, item: Reasoning) -> _Json | None:
        secret = sealed(item, self._request.sidecars, self._origin)
        if secret is None:
            return None
        if secret.startswith(REDACTED):
            return {"type": "redacted_thinking", "data": secret.removeprefix(REDACTED)}
        parts = () if isinstance(item.content, msgspec.UnsetType) else item.content
        thought = "".join(part.text for part in parts)
        return {"type": "thinking", "thinking": thought, "signature": secret.removeprefix(SIGNATURE)}

    def _part(self, part: Content) -> _Json:
        match part:
            case InputText() | OutputText():
                return _text(part.text)
            case InputImage():
                return {"type": "image", "source": self._image(part)}
            case InputFile():
                return self._file(part)
            case InputVideo():
                raise refused("input", "A video", WIRE)
            case _:
                raise refused("input", f"A {part.__struct_config__.tag} part of a user's message", WIRE)

    def _image(self, part: InputImage) -> _Json:
        url = image_url(part, WIRE)
        if not url.startswith("data:"):
            return self._link(url, "An image")
        media, data = _data(url)
        if media not in _IMAGES:
            raise refused("input", f"An image of the type {media[:64]!r}", WIRE)
        return {"type": "base64", "media_type": media, "data": data}

    def _file(self, part: InputFile) -> _Json:
        name = part.filename if isinstance(part.filename, str) else ""
        document: _Json = {"type": "document"}
        if isinstance(part.file_url, str):
            document["source"] = self._link(part.file_url, "A file")
        elif isinstance(part.file_data, str):
            document["source"] = _document(part.file_data, name)
        else:
            raise refused("input", "A file without its content", WIRE)
        if name:
            document["title"] = name[:500]
        return document

    def _link(self, url: str, what: str) -> _Json:
        if not self._links:
            raise refused("input", f"{what} by its URL", f"{WIRE} ({self._origin})")
        return {"type": "url", "url": url}


def _text(text: str) -> _Json:
    return {"type": "text", "text": text}


def _is_empty(part: Content) -> bool:
    """The format refuses empty texts, which say nothing."""
    return isinstance(part, InputText | OutputText) and not part.text


def _only_text(part: Content) -> str:
    if isinstance(part, InputText | OutputText):
        return part.text
    raise refused("input", f"A {part.__struct_config__.tag} part in this place", WIRE)


def _said(content: Sequence[Content]) -> list[_Json]:
    """What the assistant said; a refusal is text like other text here."""
    texts = [part.refusal if isinstance(part, Refusal) else _only_text(part) for part in content]
    return [_text(text) for text in texts if text]


def _input(arguments: str) -> _Json:
    """The arguments as the object that the format wants; what is none stands in it as text."""
    if not arguments.strip():
        return {}
    try:
        return _object.decode(arguments)
    except msgspec.DecodeError:
        return {"invalid_json": arguments}


def _data(url: str) -> tuple[str, str]:
    """Media type and base64 of a ``data:`` URL."""
    found = _DATA_URL.match(url)
    if found is None:
        raise refused("input", "A data URL that is not base64", WIRE)
    return found[1].lower(), url[found.end() :]


def _document(content: str, name: str) -> _Json:
    """A file's source: PDFs as they are, texts as text. Without a media type its name decides."""
    if content.startswith("data:"):
        media, data = _data(content)
    else:
        media, data = "text/plain" if name.lower().endswith(_TEXT_NAMES) else "application/pdf", content
    if media == "application/pdf":
        return {"type": "base64", "media_type": media, "data": data}
    if not media.startswith("text/") and media not in ("application/json", "application/xml"):
        raise refused("input", f"A file of the type {media[:64]!r}", WIRE)
    try:
        text = base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise refused("input", "A text file that is not base64 of UTF-8", WIRE) from None
    return {"type": "text", "media_type": "text/plain", "data": text}
