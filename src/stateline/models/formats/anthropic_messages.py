"""Anthropic's Messages: answers.

An answer is a list of blocks, which come one after another in a stream. Each text block is a part, each
thinking block a reasoning item whose signature (or redacted content) is kept for its origin. Blocks of
tools that the provider runs by itself are skipped: we offer none, and what they found is in the text. A
block that we do not know ends the call with ``unsupported_output``.

Of citations, those that name a URL have a neutral form, over the whole text of their block; others
(places in documents that the request held) are skipped.

Input tokens include those written to and read from the prompt cache, which the format counts apart.
Source: https://platform.claude.com/docs/en/api/messages and …/build-with-claude/streaming.
"""

from __future__ import annotations

import msgspec

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
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.items import REDACTED, SIGNATURE, UrlCitation
from stateline.models.formats.anthropic_messages_request import encode_request
from stateline.models.formats.errors import ErrorBody, translate
from stateline.models.formats.openai_shared import cut_stream, malformed, tier_named
from stateline.models.formats.sse import SseDecoder
from stateline.models.formats.together import BROKEN, decoded

__all__ = ["StreamDecoder", "decode_response", "encode_request"]

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_RUN_BY_PROVIDER = frozenset({"server_tool_use", "mcp_tool_use", "container_upload"})
"""Besides these, every block whose type ends in ``_tool_result``."""


class _Citation(msgspec.Struct, gc=False):
    """``source`` is the URL of a search result that the request held."""

    type: str = ""
    url: str | None = None
    source: str | None = None
    title: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    citations: list[_Citation] | None = None


class _Kind(msgspec.Struct, gc=False):
    type: str = ""


class _Details(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _Details | None = None
    service_tier: str | None = None

    def merge(self, later: _Usage) -> None:
        """The counts at a stream's end are totals; those that it leaves out stay as they were."""
        for name in self.__struct_fields__:
            if (value := getattr(later, name)) is not None:
                setattr(self, name, value)

    def neutral(self) -> Usage:
        read, details = self.cache_read_input_tokens or 0, self.output_tokens_details
        written = self.cache_creation_input_tokens or 0
        return Usage(
            input_tokens=(self.input_tokens or 0) + written + read,
            output_tokens=self.output_tokens or 0,
            cached_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=(details.thinking_tokens or 0) if details else 0,
        )


class _StopDetails(msgspec.Struct, gc=False):
    explanation: str | None = None


class _Message(msgspec.Struct, gc=False):
    """A message; in a stream's first event it has no content yet."""

    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None
    usage: _Usage | None = None


class _Whole(_Message, gc=False):
    type: str = ""
    content: list[msgspec.Raw] | None = None
    error: ErrorBody | None = None


class _Delta(msgspec.Struct, gc=False):
    """Of a block, or of the message."""

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: _Citation | None = None
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


class _Event(msgspec.Struct, gc=False):
    """Any event of a stream: the fields of all those that we read."""

    type: str
    index: int = 0
    delta: _Delta | None = None
    content_block: msgspec.Raw = msgspec.Raw()
    message: _Message | None = None
    usage: _Usage | None = None
    error: ErrorBody | None = None


_event = msgspec.json.Decoder(_Event)
_events = msgspec.json.Decoder(list[_Event]).decode
_block = msgspec.json.Decoder(_Block)
_kind = msgspec.json.Decoder(_Kind)
_whole = msgspec.json.Decoder(_Whole)


def decode_response(body: bytes) -> list[ModelDelta]:
    """The deltas of a whole JSON answer; the last is a Finish.

    Raises:
        ModelError: ``malformed_response``, ``unsupported_output``, or what the answer's error says.
    """
    code = "malformed_response"
    reader = _Reader(code)
    out: list[ModelDelta] = []
    try:
        answer = _whole.decode(body)
        if answer.error is not None:
            raise translate(None, answer.error)
        if answer.content is None:
            raise malformed("it is no message", code=code)
        reader.begin(answer)
        for at, raw in enumerate(answer.content):
            reader.start(_read_block(raw), at, out)
            reader.stop(out)
    except BROKEN as error:
        raise malformed(str(error), code=code) from None
    if answer.stop_reason is None:
        raise malformed("no stop reason", code=code)
    reader.end(answer.stop_reason, answer.stop_details, None, out)
    out.append(reader.finish())
    return out


def _read_block(raw: msgspec.Raw) -> _Block:
    """A block, of which only the type is read where its other fields are not ours."""
    kind = _kind.decode(raw).type
    return _block.decode(raw) if kind in _STARTS else _Block(type=kind)


class StreamDecoder(SseDecoder):
    """Decodes a stream that is fed in pieces of any size."""

    __slots__ = ("_reader",)

    def __init__(self) -> None:
        super().__init__()
        self._reader = _Reader("malformed_stream")

    @property
    def used(self) -> Usage | None:
        return self._reader.used

    def end(self, out: list[ModelDelta]) -> None:
        if self._reader.reason is None:
            raise cut_stream()
        self._end(out)

    def decode(self, events: list[bytes]) -> list[ModelDelta]:
        out: list[ModelDelta] = []
        reader = self._reader
        texts: list[str] = []
        try:
            for event in () if self.done else decoded(events, _events, _one):
                kind, delta = event.type, event.delta
                if kind == "content_block_delta":
                    if delta is not None and event.index == reader.at and reader.texts and delta.text:
                        # Nearly all of a stream's: these go together.
                        texts.append(delta.text)
                        continue
                    self._say(texts, out)
                    reader.delta(event, out)
                    continue
                self._say(texts, out)
                if kind == "message_stop":
                    self._end(out)
                    break
                if kind in _EVENTS:
                    reader.take(event, out)
        except BROKEN as error:
            raise malformed(str(error)) from None
        self._say(texts, out)
        return out

    def _say(self, texts: list[str], out: list[ModelDelta]) -> None:
        """Texts of the open block, as one."""
        if texts:
            text = "".join(texts)
            texts.clear()
            out.append(TextDelta(text))
            self._reader.chars += len(text)

    def _end(self, out: list[ModelDelta]) -> None:
        if self._reader.reason is None:
            raise malformed("the stream ended without a stop reason")
        self.done = True
        out.append(self._reader.finish())


def _one(data: bytes) -> _Event:
    """An event by itself; one of a kind that we do not read may have fields of any type."""
    try:
        return _event.decode(data)
    except BROKEN as error:
        kind = _kind.decode(data).type
        if not kind or kind in _EVENTS or kind in ("content_block_delta", "message_stop"):
            raise malformed(str(error)) from None
        return _Event(type=kind)


class _Reader:
    """Turns blocks and events into deltas, and gathers what Finish says.

    Attributes:
        at: the index of the open block, or -1.
        texts: whether it is a text, ``chars`` long so far.
    """

    __slots__ = (
        "_calls", "_citations", "_code", "_id", "_input", "_kind", "_model", "_said", "_signature", "_usage",
        "at", "chars", "reason", "texts",
    )  # fmt: skip

    def __init__(self, code: str) -> None:
        self.reason: FinishReason | None = None
        self.at = -1
        self.texts = False
        self.chars = 0
        self._code = code
        self._kind = ""
        self._calls = 0
        self._input = ""
        self._said = False
        self._signature: list[str] = []
        self._citations: list[_Citation] = []
        self._id: str | None = None
        self._model: str | None = None
        self._usage: _Usage | None = None

    def take(self, event: _Event, out: list[ModelDelta]) -> None:
        """An event that is no delta of a block."""
        if event.type == "content_block_start":
            if not bytes(event.content_block):
                raise malformed("a block's start without the block", code=self._code)
            self.start(_read_block(event.content_block), event.index, out)
        elif event.type == "content_block_stop":
            self._check(event.index)
            self.stop(out)
        elif event.type == "message_start":
            if event.message is None:
                raise malformed("the first event has no message", code=self._code)
            self.begin(event.message)
        elif event.type == "error":
            raise translate(None, event.error or ErrorBody())
        elif event.delta is not None and event.delta.stop_reason is not None:
            self.end(event.delta.stop_reason, event.delta.stop_details, event.usage, out)

    def begin(self, message: _Message) -> None:
        self._id, self._model, self._usage = message.id, message.model, message.usage

    # -- blocks ----------------------------------------------------------------------------------

    def start(self, block: _Block, index: int, out: list[ModelDelta]) -> None:
        if self.at >= 0:
            raise malformed("a block begins inside another", code=self._code)
        kind = self._kind = block.type
        self.at = index
        if kind == "text":
            self.texts, self.chars = True, len(block.text or "")
            # The builder opens a part with its first text; this ends one before it.
            if self._said:
                out.append(PartStart())
            self._citations = block.citations or []
            if block.text:
                out.append(TextDelta(block.text))
        elif kind == "tool_use":
            self._start_call(block, out)
        elif kind in ("thinking", "redacted_thinking"):
            out.append(ItemStart("reasoning"))
            self._said = False
            self._signature = [block.signature] if block.signature else []
            if block.thinking:
                out.append(ReasoningDelta(block.thinking))
            if block.data:
                out.append(SidecarDelta({"encrypted_content": REDACTED + block.data}))
        elif kind not in _RUN_BY_PROVIDER and not kind.endswith("_tool_result"):
            raise ModelError(
                f"the provider's answer has a block that Stateline cannot pass on: {kind[:100]!r}",
                code="unsupported_output",
                retryable=False,
            )

    def _start_call(self, block: _Block, out: list[ModelDelta]) -> None:
        if not block.id or not block.name:
            raise malformed("a tool call without its id or name", code=self._code)
        out.append(CallStart(self._calls, block.id, block.name))
        self._said = False
        self._calls += 1
        # In a stream the input is empty here and comes in pieces; without any it is this.
        self._input = bytes(block.input).decode() or "{}"

    def delta(self, event: _Event, out: list[ModelDelta]) -> None:
        self._check(event.index)
        delta = event.delta
        if delta is None:
            raise malformed("a delta event without its delta", code=self._code)
        if delta.partial_json:
            if self._kind == "tool_use":
                out.append(CallDelta(self._calls - 1, delta.partial_json))
                self._input = ""
        elif delta.thinking:
            self._require("thinking")
            out.append(ReasoningDelta(delta.thinking))
        elif delta.signature:
            self._require("thinking")
            self._signature.append(delta.signature)
        elif delta.citation is not None:
            self._citations.append(delta.citation)
        elif delta.text:
            self._require("text")

    def stop(self, out: list[ModelDelta]) -> None:
        if self.texts:
            self._said = self._said or self.chars > 0
            if self._citations and self.chars:
                out += [AnnotationDelta(found) for each in self._citations if (found := _url(each, self.chars))]
            self._citations = []
        elif self._kind == "tool_use" and self._input:
            out.append(CallDelta(self._calls - 1, self._input))
        elif self._kind == "thinking" and self._signature:
            out.append(SidecarDelta({"encrypted_content": SIGNATURE + "".join(self._signature)}))
        self.at, self.texts, self._kind = -1, False, ""

    def _check(self, index: int) -> None:
        if index != self.at:
            raise malformed("a block's event outside that block", code=self._code)

    def _require(self, kind: str) -> None:
        if self._kind != kind:
            raise malformed(f"a piece of {kind} in a block of {self._kind[:64]!r}", code=self._code)

    # -- the end ---------------------------------------------------------------------------------

    def end(self, said: str, details: _StopDetails | None, usage: _Usage | None, out: list[ModelDelta]) -> None:
        if usage is not None:
            if self._usage is None:
                self._usage = usage
            else:
                self._usage.merge(usage)
        reason = _FINISH.get(said)
        if reason is None:
            raise ModelError(f"the provider broke its answer off: stop reason {said[:100]!r}", retryable=True)
        if said == "refusal" and details is not None and details.explanation:
            out.append(RefusalDelta(details.explanation))
        # Some servers say "end_turn" after tool calls too; the calls are what counts.
        self.reason = "tool_calls" if reason == "stop" and self._calls else reason

    @property
    def used(self) -> Usage | None:
        return self._usage.neutral() if self._usage else None

    def finish(self) -> Finish:
        assert self.reason is not None
        usage = self._usage
        return Finish(
            reason=self.reason,
            usage=usage.neutral() if usage else None,
            upstream_id=self._id,
            upstream_model=self._model,
            service_tier=tier_named(usage.service_tier) if usage else None,
        )


def _url(citation: _Citation, chars: int) -> UrlCitation | None:
    url = citation.url or citation.source
    if not url:
        return None
    return UrlCitation(url=url, start_index=0, end_index=chars, title=citation.title or "")


_STARTS = frozenset({"text", "tool_use", "thinking", "redacted_thinking"})
_EVENTS = frozenset({"message_start", "content_block_start", "content_block_stop", "message_delta", "error"})
"""Every event that is read besides deltas and the end; ``ping``, and what may be added, say nothing."""
