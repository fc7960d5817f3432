"""Deltas into Anthropic's Messages: one object, or the events of a stream.

A message is a list of blocks that come one after another. ``_Blocks`` finds where one begins and ends;
the events of one block differ in a few bytes, so the rest is encoded once and joined to each.

The signature of a thinking block is the encrypted content of its reasoning, whoever made it: sent back,
it is replayed to its origin.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from stateline.api.agent_turns import AgentTurnField, Told
from stateline.core.calls import (
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    FinishReason,
    ItemStart,
    ModelDelta,
    PartStart,
    ReasoningDelta,
    RefusalDelta,
    SidecarDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.items import REDACTED, UrlCitation

Json = dict[str, Any]
StopReason = Literal["end_turn", "max_tokens", "tool_use", "refusal"]

_STOP: dict[FinishReason, StopReason] = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
    "cancelled": "end_turn",
    "max_output_bytes": "max_tokens",
    "max_wall_time": "max_tokens",
}
_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Any])


# -- shapes -------------------------------------------------------------------------------------------


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """``input_tokens`` are those that came from no cache."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: None = None
    inference_geo: None = None
    server_tool_use: None = None
    service_tier: None = None


class AnthropicMessage(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    content: list[dict[str, Any]]
    model: str
    stop_reason: StopReason | None
    stop_sequence: None = None
    stop_details: None = None
    container: None = None
    usage: MessageUsage
    stateline: AgentTurnField | msgspec.UnsetType = msgspec.UNSET


def usage_field(usage: Usage | None) -> MessageUsage:
    if usage is None:
        return MessageUsage(input_tokens=0, output_tokens=0)
    return MessageUsage(
        input_tokens=max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens),
        cache_creation_input_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        cache_read_input_tokens=usage.cached_tokens,
    )


def _citation(note: UrlCitation) -> Json:
    return {
        "type": "web_search_result_location",
        "url": note.url,
        "title": note.title or None,
        "cited_text": "",
        "encrypted_index": "",
    }


# -- blocks -------------------------------------------------------------------------------------------


class _Piece(msgspec.Struct, frozen=True, gc=False):
    """How a piece of text goes into a delta: the delta's type, and its field."""

    delta: str
    field: str


_TEXT = _Piece("text_delta", "text")
_THINKING = _Piece("thinking_delta", "thinking")
_INPUT = _Piece("input_json_delta", "partial_json")


class _Blocks:
    """Follows deltas; what they do to the list of blocks goes to four methods."""

    def __init__(self) -> None:
        self.count = 0
        self.kind = ""
        self._call = -1
        self._called = False
        self._refused = False

    def open(self, block: Json) -> None: ...

    def piece(self, piece: _Piece, text: str) -> None: ...

    def whole(self, delta: str, field: str, value: Any) -> None: ...

    def close(self) -> None: ...

    def finish(self, finish: Finish) -> None: ...

    def take(self, delta: ModelDelta) -> None:
        """
        Raises:
            ModelError: ``malformed_stream``, when calls are streamed side by side, which no message can show.
        """
        match delta:
            case TextDelta():
                self._begin("text")
                self.piece(_TEXT, delta.text)
            case ReasoningDelta() | SummaryDelta():
                self._begin("thinking")
                self.piece(_THINKING, delta.text)
            case CallDelta():
                if delta.index != self._call:
                    raise ModelError("two calls are streamed at once", code="malformed_stream", retryable=True)
                self.piece(_INPUT, delta.arguments)
            case CallStart():
                self._start({"type": "tool_use", "id": delta.call_id, "name": delta.name, "input": {}})
                self._call, self._called = delta.index, True
            case RefusalDelta():
                self._refused = True
                self._begin("text")
                self.piece(_TEXT, delta.text)
            case AnnotationDelta():
                if self.kind == "text":
                    self.whole("citations_delta", "citation", _citation(delta.annotation))
            case SidecarDelta():
                self._seal(delta.data.get("encrypted_content"))
            case Finish():
                self.end()
                self.finish(delta)
            case ItemStart() | PartStart():
                # The parts of one thought, which one signature covers, stay in one block.
                if self.kind != "thinking" or isinstance(delta, ItemStart):
                    self.end()

    def stop_reason(self, finish: Finish) -> StopReason:
        reason = _STOP[finish.reason]
        if reason == "end_turn":
            return "refusal" if self._refused else "tool_use" if self._called else reason
        return reason

    def end(self) -> None:
        """End the open block, if any."""
        if self.kind:
            self.close()
            self.kind, self._call = "", -1

    def _begin(self, kind: str) -> None:
        if self.kind != kind:
            self._start({"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {"citations": None}))

    def _start(self, block: Json) -> None:
        self.end()
        self.kind = block["type"]
        self.open(block)
        self.count += 1

    def _seal(self, sealed: object) -> None:
        if not isinstance(sealed, str):
            return
        if sealed.startswith(REDACTED):
            self._start({"type": "redacted_thinking", "data": sealed})
        else:
            self._begin("thinking")
            self.whole("signature_delta", "signature", sealed)
        self.end()


class MessageAnswer(_Blocks):
    """Gathers the deltas of one call into a message."""

    def __init__(self, told: Told | None = None) -> None:
        super().__init__()
        self._told = told
        self._content: list[Json] = []
        self._pieces: list[str] = []
        self._finish: Finish | None = None

    def add(self, deltas: Iterable[ModelDelta]) -> None:
        for delta in deltas:
            self.take(delta)

    def open(self, block: Json) -> None:
        self._content.append(block)

    def piece(self, piece: _Piece, text: str) -> None:
        self._pieces.append(text)

    def whole(self, delta: str, field: str, value: Any) -> None:
        block = self._content[-1]
        if field == "citation":
            block["citations"] = [*(block["citations"] or ()), value]
        else:
            block[field] = value

    def close(self) -> None:
        block, text = self._content[-1], "".join(self._pieces)
        self._pieces = []
        if self.kind == "tool_use":
            block["input"] = _arguments(text)
        elif self.kind in ("text", "thinking"):
            block[self.kind] = text

    def finish(self, finish: Finish) -> None:
        self._finish = finish

    def message(self, message_id: str, model: str) -> AnthropicMessage:
        """The object. Call after the last delta."""
        self.end()
        finish = self._finish or Finish(reason="stop")
        return AnthropicMessage(
            id=message_id,
            content=self._content,
            model=model,
            stop_reason=self.stop_reason(finish),
            usage=usage_field(finish.usage),
            stateline=msgspec.UNSET if self._told is None else self._told.field,
        )


def _arguments(text: str) -> Json:
    """A message shows arguments as an object; what is none stands in it as text."""
    try:
        return _object.decode(text or b"{}")
    except msgspec.DecodeError:
        return {"invalid_json": text}


class MessageEvents(_Blocks):
    """Turns deltas into the events of a stream."""

    def __init__(self, message_id: str, model: str, told: Told | None = None) -> None:
        super().__init__()
        self._told = told
        message = AnthropicMessage(id=message_id, content=[], model=model, stop_reason=None, usage=usage_field(None))
        self._out = bytearray()
        self._event("message_start", {"message": message})
        self._piece: _Piece | None = None
        self._head = b""

    def encode(self, deltas: Iterable[ModelDelta]) -> bytearray:
        """All events for ``deltas``, ready to be sent in one write."""
        for delta in deltas:
            if type(delta) is TextDelta and self.kind == "text":
                self.piece(_TEXT, delta.text)
            else:
                self.take(delta)
        out, self._out = self._out, bytearray()
        return out

    def open(self, block: Json) -> None:
        self._event("content_block_start", {"index": self.count, "content_block": block})
        self._piece = None

    def piece(self, piece: _Piece, text: str) -> None:
        if self._piece is not piece:
            self._piece = piece
            opened = _encode({"type": "content_block_delta", "index": self.count - 1, "delta": {"type": piece.delta}})
            self._head = b'event: content_block_delta\ndata: %b,"%b":' % (opened[:-2], piece.field.encode())
        self._out += self._head
        self._out += _encode(text)
        self._out += b"}}\n\n"

    def whole(self, delta: str, field: str, value: Any) -> None:
        fields = {"index": self.count - 1, "delta": {"type": delta, field: value}}
        self._event("content_block_delta", fields)

    def close(self) -> None:
        self._event("content_block_stop", {"index": self.count - 1})

    def finish(self, finish: Finish) -> None:
        delta: Json = {
            "stop_reason": self.stop_reason(finish),
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
        }
        usage = msgspec.to_builtins(usage_field(finish.usage))
        shown = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        totals: Json = {name: usage[name] for name in shown} | {"server_tool_use": None}
        about: Json = {} if self._told is None or self._told.field is msgspec.UNSET else {"stateline": self._told.field}
        self._event("message_delta", {"delta": delta, "usage": totals, **about})

    def _event(self, kind: str, fields: Json) -> None:
        self._out += b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind} | fields))


STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def error_bytes(body: bytes) -> bytes:
    """The event for an error after the headers; ``body`` as it would have been the answer."""
    return b"event: error\ndata: %b\n\n" % body
