"""Amazon Bedrock's Converse and ConverseStream: answers.

A content block becomes a part of a message, a reasoning item of its own (each has its own signature), or
a function call. Tools that the provider ran by itself (``server_tool_use``) and their results are
skipped: what they found is in the text. Of citations, those of web pages have a neutral form; others are
skipped. A stream ends with its ``metadata`` event, which holds the usage.

The signature of a reasoning block, or the redacted block itself, is kept as ``encrypted_content``, with a
word before it that says which of the two it is; it goes back to models of the same family alone.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable
from typing import Literal

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
    SidecarDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.items import REDACTED, SIGNATURE, UrlCitation
from stateline.models.formats.aws_eventstream import Message, MessageSplitter
from stateline.models.formats.bedrock_converse_errors import decode_error, translate_exception
from stateline.models.formats.bedrock_converse_request import encode_request
from stateline.models.formats.openai_shared import cut_stream, malformed
from stateline.models.formats.together import BROKEN, decoded

__all__ = ["StreamDecoder", "decode_error", "decode_response", "encode_request"]

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
"""By ``stopReason``. What is not here says that the model's output was broken."""


class _ToolUse(msgspec.Struct, gc=False):
    """A call: its start or all of it, with ``input`` as an object, or a piece of its input, as a text."""

    toolUseId: str = ""
    name: str = ""
    type: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class _ReasoningText(msgspec.Struct, gc=False):
    text: str | None = None
    signature: str | None = None


class _Reasoning(msgspec.Struct, gc=False):
    """A block (``reasoningText``) or a piece of one (``text``, ``signature``)."""

    reasoningText: _ReasoningText | None = None
    text: str | None = None
    signature: str | None = None
    redactedContent: str | None = None


class _Web(msgspec.Struct, gc=False):
    url: str | None = None


class _Location(msgspec.Struct, gc=False):
    web: _Web | None = None


class _Citation(msgspec.Struct, gc=False):
    title: str | None = None
    location: _Location | None = None


class _Text(msgspec.Struct, gc=False):
    text: str | None = None


class _Cited(msgspec.Struct, gc=False):
    content: list[_Text] | None = None
    citations: list[_Citation] | None = None


class _Block(msgspec.Struct, gc=False):
    """A content block, its start, or a piece of it."""

    text: str | None = None
    toolUse: _ToolUse | None = None
    reasoningContent: _Reasoning | None = None
    citation: _Citation | None = None
    citationsContent: _Cited | None = None
    toolResult: msgspec.Raw = msgspec.Raw()
    image: msgspec.Raw = msgspec.Raw()
    audio: msgspec.Raw = msgspec.Raw()
    video: msgspec.Raw = msgspec.Raw()


class _Usage(msgspec.Struct, gc=False):
    inputTokens: int = 0
    outputTokens: int = 0
    cacheReadInputTokens: int | None = None
    cacheWriteInputTokens: int | None = None

    def neutral(self) -> Usage:
        # Bedrock counts what it read from, or wrote to, the cache beside the input.
        read, written = self.cacheReadInputTokens or 0, self.cacheWriteInputTokens or 0
        return Usage(
            input_tokens=self.inputTokens + read + written,
            output_tokens=self.outputTokens,
            cached_tokens=read,
            cache_write_tokens=written,
        )


class _Tier(msgspec.Struct, gc=False):
    type: str | None = None


class _Router(msgspec.Struct, gc=False):
    invokedModelId: str | None = None


class _Trace(msgspec.Struct, gc=False):
    promptRouter: _Router | None = None


class _Ended(msgspec.Struct, gc=False):
    """What is said of a whole answer at its end."""

    stopReason: str | None = None
    usage: _Usage | None = None
    serviceTier: _Tier | None = None
    trace: _Trace | None = None


class _Piece(msgspec.Struct, gc=False):
    contentBlockIndex: int = 0
    delta: _Block | None = None


class _Start(msgspec.Struct, gc=False):
    contentBlockIndex: int = 0
    start: _Block | None = None


class _Message(msgspec.Struct, gc=False):
    content: list[_Block] | None = None


class _Output(msgspec.Struct, gc=False):
    message: _Message | None = None


class _Answer(_Ended, gc=False):
    output: _Output | None = None


_piece = msgspec.json.Decoder(_Piece).decode
_pieces = msgspec.json.Decoder(list[_Piece]).decode
_start = msgspec.json.Decoder(_Start).decode
_ended = msgspec.json.Decoder(_Ended).decode
_answer = msgspec.json.Decoder(_Answer).decode
_string = msgspec.json.Decoder(str).decode

_Kind = Literal["", "text", "reasoning", "call", "skipped"]


def decode_response(body: bytes) -> list[ModelDelta]:
    """The deltas of a whole JSON answer; the last is a Finish.

    Raises:
        ModelError: ``malformed_response``, ``unsupported_output``.
    """
    code = "malformed_response"
    reader = _Reader(code)
    out: list[ModelDelta] = []
    try:
        answer = _answer(body)
        if answer.output is None or answer.output.message is None:
            raise malformed("no message in it", code=code)
        for at, block in enumerate(answer.output.message.content or ()):
            reader.whole(at, block, out)
    except BROKEN as error:
        raise malformed(str(error), code=code) from None
    reader.end(answer)
    if reader.reason is None:
        raise malformed("no stop reason", code=code)
    out.append(reader.finish())
    return out


class StreamDecoder:
    """Decodes a stream that is fed in pieces of any size.

    Attributes:
        done: whether the Finish was given; what comes after it is ignored.
    """

    __slots__ = ("_messages", "_reader", "done")

    def __init__(self) -> None:
        self._messages = MessageSplitter()
        self._reader = _Reader("malformed_stream")
        self.done = False

    def feed(self, data: bytes) -> list[ModelDelta]:
        """The deltas of the messages that ``data`` completes.

        Raises:
            ModelError: ``malformed_stream``, ``unsupported_output``, or what an exception inside the
                stream says.
        """
        out: list[ModelDelta] = []
        said: list[bytes] = []
        try:
            for message in self._messages.feed(data):
                if self.done:
                    break
                (kind, name, _), payload = message
                if name == "contentBlockDelta" and kind == "event":
                    said.append(payload)
                    continue
                self._say(said, out)
                self._take(message, out)
            self._say(said, out)
        except BROKEN as error:
            raise malformed(str(error)) from None
        return out

    def _say(self, said: list[bytes], out: list[ModelDelta]) -> None:
        """Pieces that came one after the other."""
        if said:
            self._reader.pieces(decoded(said, _pieces, _piece), out)
            said.clear()

    def eof(self) -> list[ModelDelta]:
        """The deltas still due when the body has ended.

        Raises:
            ModelError: ``answer_cut``, when the stream has no end.
        """
        if self.done:
            return []
        if self._reader.reason is None or self._messages.partial:
            raise cut_stream()
        self.done = True
        return [self._reader.finish()]

    def _take(self, message: Message, out: list[ModelDelta]) -> None:
        (kind, name, _), payload = message
        reader = self._reader
        if kind != "event":
            raise translate_exception(message)
        if name == "contentBlockStart":
            start = _start(payload)
            reader.start(start.contentBlockIndex, start.start or _Block(), out)
        elif name == "contentBlockStop":
            reader.stop(out)
        elif name == "messageStop":
            reader.stop(out)
            reader.end(_ended(payload))
            if reader.reason is None:
                raise malformed("no stop reason")
        elif name == "metadata":
            reader.end(_ended(payload))
            # Nothing but the end of the message may come before it.
            if reader.reason is None:
                raise malformed("its usage came before its stop reason")
            self.done = True
            out.append(reader.finish())


class _Reader:
    """Turns content blocks, whole or in pieces, into deltas, and gathers what Finish says.

    ``_at`` is the number of the open block and ``_kind`` what it is, once that is known; ``_last`` the kind
    of the last block that said anything.
    """

    __slots__ = (
        "_at", "_calls", "_chars", "_code", "_ended", "_kind", "_last", "_secret", "_spoken", "reason",
    )  # fmt: skip

    def __init__(self, code: str) -> None:
        self.reason: FinishReason | None = None
        self._code = code
        self._at = -1
        self._kind: _Kind = ""
        self._last: _Kind = ""
        self._calls = 0
        self._spoken = False  # whether the open call has said any arguments
        self._chars = 0  # of the open text
        self._secret: list[tuple[str, str]] = []  # pieces of the open block's signature or redacted content
        self._ended = _Ended()

    # -- blocks ----------------------------------------------------------------------------------

    def start(self, at: int, block: _Block, out: list[ModelDelta]) -> None:
        """A block begins. That of a text or of reasoning says so by its first piece."""
        self._open(at, out)
        call = block.toolUse
        if call is not None and call.type != "server_tool_use":
            if not call.toolUseId or not call.name:
                raise malformed("a tool use without its id or name", code=self._code)
            out.append(CallStart(self._calls, call.toolUseId, call.name))
            self._calls += 1
            self._kind, self._spoken = "call", False
        elif call is not None or bytes(block.toolResult):
            self._kind = "skipped"
        else:
            self._refuse(block)

    def pieces(self, pieces: Iterable[_Piece], out: list[ModelDelta]) -> None:
        texts: list[str] = []
        for piece in pieces:
            delta = piece.delta
            if delta is None:
                continue
            if delta.text and piece.contentBlockIndex == self._at and self._kind == "text":
                # Nearly all of most streams: these go together.
                texts.append(delta.text)
                continue
            self._say_texts(texts, out)
            self.piece(piece.contentBlockIndex, delta, out)
        self._say_texts(texts, out)

    def _say_texts(self, texts: list[str], out: list[ModelDelta]) -> None:
        """Texts of the open block, as one."""
        if texts:
            self._text("".join(texts), out)
            texts.clear()

    def piece(self, at: int, delta: _Block, out: list[ModelDelta]) -> None:
        text = delta.text
        if at != self._at:
            self._open(at, out)
        if text is not None:
            self._text(text, out)
        elif delta.reasoningContent is not None:
            self._reason(delta.reasoningContent, out)
        elif delta.toolUse is not None:
            self._arguments(delta.toolUse, out)
        elif delta.citation is not None:
            self._cite(delta.citation, out)
        else:
            self._refuse(delta)

    def stop(self, out: list[ModelDelta]) -> None:
        """The open block ends."""
        if self._kind == "call" and not self._spoken:
            # A call without arguments has no piece of them.
            out.append(CallDelta(self._calls - 1, "{}"))
        if self._secret:
            word = self._secret[0][0]
            pieces = [piece for _, piece in self._secret]
            whole = "".join(pieces) if word == SIGNATURE or len(pieces) == 1 else self._joined(pieces)
            out.append(SidecarDelta({"encrypted_content": word + whole}))
            self._secret = []
        if self._kind in ("text", "reasoning", "call"):
            self._last = self._kind
        self._kind, self._at = "", -1

    def whole(self, at: int, block: _Block, out: list[ModelDelta]) -> None:
        """A block that comes in one piece."""
        cited, call = block.citationsContent, block.toolUse
        if cited is not None:
            for text in cited.content or ():
                self.piece(at, _Block(text=text.text), out)
            for citation in cited.citations or ():
                self._cite(citation, out)
        elif call is not None or bytes(block.toolResult):
            self.start(at, block, out)
            if self._kind == "call" and bytes(call.input if call else b""):
                self._say(bytes(call.input if call else b"").decode(), out)
        else:
            self.piece(at, block, out)
        self.stop(out)

    def _open(self, at: int, out: list[ModelDelta]) -> None:
        if self._at >= 0:
            self.stop(out)
        self._at = at

    # -- what they say ---------------------------------------------------------------------------

    def _text(self, text: str, out: list[ModelDelta]) -> None:
        if not text:
            return
        if self._kind != "text":
            if self._kind:
                raise malformed("a text inside another block", code=self._code)
            if self._last == "text":
                out.append(PartStart())
            self._kind, self._chars = "text", 0
        self._chars += len(text)
        out.append(TextDelta(text))

    def _reason(self, said: _Reasoning, out: list[ModelDelta]) -> None:
        if self._kind != "reasoning":
            if self._kind:
                raise malformed("reasoning inside another block", code=self._code)
            out.append(ItemStart("reasoning"))
            self._kind = "reasoning"
        inner = said.reasoningText
        if text := said.text or (inner.text if inner else None):
            out.append(ReasoningDelta(text))
        if signature := said.signature or (inner.signature if inner else None):
            self._secret.append((SIGNATURE, signature))
        if said.redactedContent:
            self._secret.append((REDACTED, said.redactedContent))

    def _joined(self, pieces: list[str]) -> str:
        """Base64 texts as one."""
        try:
            return b64encode(b"".join([b64decode(piece, validate=True) for piece in pieces])).decode()
        except Base64Error as error:
            raise malformed(f"its redacted reasoning is no base64: {error}", code=self._code) from None

    def _arguments(self, call: _ToolUse, out: list[ModelDelta]) -> None:
        if self._kind == "skipped":
            return
        if self._kind != "call":
            raise malformed("the input of a tool use that never began", code=self._code)
        if bytes(call.input):
            self._say(_string(call.input), out)

    def _say(self, arguments: str, out: list[ModelDelta]) -> None:
        if arguments:
            out.append(CallDelta(self._calls - 1, arguments))
            self._spoken = True

    def _cite(self, citation: _Citation, out: list[ModelDelta]) -> None:
        web = citation.location.web if citation.location is not None else None
        if web is None or not web.url or self._kind != "text":
            return
        title = citation.title or ""
        out.append(AnnotationDelta(UrlCitation(url=web.url, start_index=0, end_index=self._chars, title=title)))

    def _refuse(self, block: _Block) -> None:
        for kind in ("image", "audio", "video"):
            if bytes(getattr(block, kind)):
                raise ModelError(
                    f"the provider's answer has a block that Stateline cannot pass on: {kind!r}",
                    code="unsupported_output",
                    retryable=False,
                )

    # -- the end ---------------------------------------------------------------------------------

    def end(self, ended: _Ended) -> None:
        """Take in what an event, or the whole answer, says of its end."""
        known = self._ended
        known.usage = ended.usage or known.usage
        known.serviceTier = ended.serviceTier or known.serviceTier
        known.trace = ended.trace or known.trace
        if ended.stopReason is not None:
            reason = _FINISH.get(ended.stopReason)
            if reason is None:
                said = ended.stopReason[:100]
                raise ModelError(f"the provider broke its answer off: stop reason {said!r}", retryable=True)
            if reason in ("stop", "tool_calls"):
                # Tools that the provider ran by itself are no calls of ours; the calls are what counts.
                reason = "tool_calls" if self._calls else "stop"
            self.reason = reason

    def finish(self) -> Finish:
        assert self.reason is not None
        ended = self._ended
        router = ended.trace.promptRouter if ended.trace else None
        return Finish(
            reason=self.reason,
            usage=ended.usage.neutral() if ended.usage else None,
            upstream_model=router.invokedModelId if router else None,
            service_tier=ended.serviceTier.type if ended.serviceTier else None,
        )
