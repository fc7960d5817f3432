"""Bedrock's Converse in the scripted upstream: its requests as rules see them, and its bodies.

Written apart from ``models.formats`` on purpose, so that the two check one another.
"""

from __future__ import annotations

import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from stateline.core.calls import CallDelta, CallStart, Finish, ModelDelta, ReasoningDelta, SummaryDelta, TextDelta
from stateline.testing.scripted import Answer, Asked

Json = dict[str, Any]
EVENT_STREAM = "application/vnd.amazon.eventstream"
_PATH = re.compile(r"/model/([^/]+)/(converse|converse-stream)")
_STOP = {"length": "max_tokens", "content_filter": "guardrail_intervened", "tool_calls": "tool_use"}
_EXCEPTIONS = {
    400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException",
    408: "ModelTimeoutException", 424: "ModelErrorException", 429: "ThrottlingException",
    503: "ServiceUnavailableException",
}  # fmt: skip
_json = msgspec.json.Encoder().encode


class ConverseAsked(Asked):
    """A request of Converse's."""

    __slots__ = ("body",)

    def __init__(self, body: Json, key: str, model: str, *, stream: bool) -> None:
        super().__init__(key, model, stream)
        self.body = body

    def _user_blocks(self) -> list[Json]:
        """The blocks of the user's messages, the last first."""
        messages: list[Json] = self.body.get("messages", [])
        return [
            block
            for message in reversed(messages)
            if message["role"] == "user"
            for block in reversed(message["content"])
        ]

    @property
    def user_text(self) -> str:
        return next((block["text"] for block in self._user_blocks() if "text" in block), "")

    @property
    def tool_output(self) -> str | None:
        for block in self._user_blocks():
            if "toolResult" in block:
                return "".join(part.get("text", "") for part in block["toolResult"]["content"])
            if "text" in block:
                return None
        return None

    @property
    def tool(self) -> tuple[str, Mapping[str, Any]] | None:
        config: Json = self.body.get("toolConfig") or {}
        specs: list[Json] = [tool["toolSpec"] for tool in config.get("tools", ()) if "toolSpec" in tool]
        tools = {spec["name"]: spec["inputSchema"]["json"] for spec in specs}
        demanded: Json | None = config.get("toolChoice", {}).get("tool")
        if demanded is not None:
            return demanded["name"], tools.get(demanded["name"], {})
        return next(iter(tools.items()), None)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        form: Json | None = self.body.get("outputConfig", {}).get("textFormat")
        return None if form is None else msgspec.json.decode(form["structure"]["jsonSchema"]["schema"])


def converse_asked(path: str, body: Json, key: str) -> ConverseAsked | None:
    """The request, where the path is one of Converse's."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    return ConverseAsked(body, key, unquote(found[1]), stream=found[2] == "converse-stream")


def signature_of(text: str) -> str:
    """What the scripted model signs a thought with; a test can tell whether it came back unchanged."""
    return b64encode(f"signed {zlib.crc32(text.encode()):08x}".encode()).decode()


class ConverseBody:
    """An answer of Converse's: the events of its stream, or the object alone."""

    content_type = EVENT_STREAM
    malformed = b"\0\0\0\x10\0\0\0\0no checksum"

    def __init__(self) -> None:
        self._blocks: list[Json] = []

    def begin(self) -> bytes:
        return event("messageStart", {"role": "assistant"})

    def events(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The events of ``deltas``; a Finish ends the stream."""
        return b"".join([self._of(delta) for delta in deltas])

    def whole(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The answer as one JSON body."""
        finish = Finish(reason="stop")
        for delta in deltas:
            self._of(delta)
            if isinstance(delta, Finish):
                finish = delta
        content: list[Json] = []
        for block in self._blocks:
            if "toolUse" in block:
                use = block["toolUse"]
                content.append({"toolUse": use | {"input": msgspec.json.decode(use["input"] or "{}")}})
            elif "reasoning" in block:
                thought = {"text": block["reasoning"], "signature": signature_of(block["reasoning"])}
                content.append({"reasoningContent": {"reasoningText": thought}})
            else:
                content.append(block)
        message = {"role": "assistant", "content": content}
        stop = _STOP.get(finish.reason, "end_turn")
        return _json({"output": {"message": message}, "stopReason": stop} | _metadata(finish))

    def _of(self, delta: ModelDelta) -> bytes:
        if isinstance(delta, TextDelta):
            return self._piece("text", delta.text, {"text": delta.text})
        if isinstance(delta, ReasoningDelta | SummaryDelta):
            return self._piece("reasoning", delta.text, {"reasoningContent": {"text": delta.text}})
        if isinstance(delta, CallStart):
            use = {"toolUseId": delta.call_id, "name": delta.name}
            sent = self._end()
            self._blocks.append({"toolUse": use | {"input": ""}})
            return sent + event("contentBlockStart", {"contentBlockIndex": self._at(), "start": {"toolUse": use}})
        if isinstance(delta, CallDelta):
            self._blocks[-1]["toolUse"]["input"] += delta.arguments
            return self._delta({"toolUse": {"input": delta.arguments}})
        if isinstance(delta, Finish):
            stop = {"stopReason": _STOP.get(delta.reason, "end_turn")}
            return self._end() + event("messageStop", stop) + event("metadata", _metadata(delta))
        return b""

    def _at(self) -> int:
        return len(self._blocks) - 1

    def _delta(self, delta: Json) -> bytes:
        # Real ones are padded, so that their length does not tell the text's.
        return event("contentBlockDelta", {"contentBlockIndex": self._at(), "delta": delta, "p": "abcdefgh"})

    def _piece(self, kind: str, text: str, delta: Json) -> bytes:
        sent = b""
        if not self._blocks or kind not in self._blocks[-1]:
            sent = self._end()
            self._blocks.append({kind: ""})
        self._blocks[-1][kind] += text
        return sent + self._delta(delta)

    def _end(self) -> bytes:
        if not self._blocks:
            return b""
        sent = b""
        if "reasoning" in self._blocks[-1]:
            sent = self._delta({"reasoningContent": {"signature": signature_of(self._blocks[-1]["reasoning"])}})
        return sent + event("contentBlockStop", {"contentBlockIndex": self._at()})


def _metadata(finish: Finish) -> Json:
    usage = finish.usage
    if usage is None:
        return {"metrics": {"latencyMs": 1}}
    counts = {
        "inputTokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "cacheReadInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": usage.cache_write_tokens,
    }
    return {"usage": counts, "metrics": {"latencyMs": 1}}


def event(name: str, body: Json) -> bytes:
    """One event of a stream."""
    return message({":event-type": name, ":content-type": "application/json", ":message-type": "event"}, _json(body))


def exception(name: str, text: str) -> bytes:
    """An exception in the midst of a stream."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return message(headers, _json({"message": text}))


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A message with headers of text."""
    packed = b"".join([
        struct.pack(f">B{len(name)}sBH", len(name), name.encode(), 7, len(value.encode())) + value.encode()
        for name, value in headers.items()
    ])  # fmt: skip
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    whole = prelude + packed + payload
    return whole + struct.pack(">I", zlib.crc32(whole))


def converse_refusal(answer: Answer) -> tuple[Json, dict[str, str]]:
    """The body and headers of an error; ``error_code`` is the exception's name where it is given."""
    name = answer.error_code or _EXCEPTIONS.get(answer.status, "InternalServerException")
    headers = {"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    return {"message": answer.error_message or f"scripted error {answer.status}"}, headers
