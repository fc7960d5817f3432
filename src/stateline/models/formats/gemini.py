"""Google's Gemini (``generateContent`` and ``streamGenerateContent``): answers.

An answer is one candidate, a list of parts: texts, thoughts (summaries of them, never the thoughts
themselves) and whole function calls. Parts of tools that the provider ran by itself (code, searches) and
what grounds an answer are skipped: we offer no such tools, and what they found is in the text. A part that
we do not know ends the call with ``unsupported_output``.

The signature of a part is kept beside its item. That of a text may cover a piece of it, which goes back
as a part of its own, so the piece's place is kept as well.

A stream has no last event: it ends with the body, once a finish reason was said. It is asked for as
server-sent events; a gateway that drops the query gets one JSON array, which is decoded as it comes too.
Source: https://ai.google.dev/api/generate-content and …/gemini-api/docs/thought-signatures.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from stateline.core.calls import (
    CallDelta,
    CallStart,
    Finish,
    FinishReason,
    ModelDelta,
    RefusalDelta,
    SidecarDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.ids import digest
from stateline.models.formats.gemini_errors import Status, decode_error, translate_status
from stateline.models.formats.gemini_request import encode_request
from stateline.models.formats.json_stream import ArraySplitter
from stateline.models.formats.openai_shared import cut_stream, malformed, tier_named
from stateline.models.formats.sse import SseDecoder
from stateline.models.formats.together import BROKEN, decoded

__all__ = ["StreamDecoder", "decode_error", "decode_response", "encode_request"]

_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}
"""By ``finishReason``. What is not here says that the model's output was broken."""

_RUN_BY_PROVIDER = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")


class _Call(msgspec.Struct, gc=False):
    id: str | None = None
    name: str = ""
    args: msgspec.Raw = msgspec.Raw()


class _Part(msgspec.Struct, gc=False):
    text: str | None = None
    thought: bool | None = None
    thoughtSignature: str | None = None
    functionCall: _Call | None = None
    executableCode: msgspec.Raw = msgspec.Raw()
    codeExecutionResult: msgspec.Raw = msgspec.Raw()
    toolCall: msgspec.Raw = msgspec.Raw()
    toolResponse: msgspec.Raw = msgspec.Raw()
    inlineData: msgspec.Raw = msgspec.Raw()
    fileData: msgspec.Raw = msgspec.Raw()


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False):
    content: _Content | None = None
    finishReason: str | None = None
    finishMessage: str | None = None


class _Feedback(msgspec.Struct, gc=False):
    blockReason: str | None = None
    blockReasonMessage: str | None = None


_TRAFFIC = {
    "ON_DEMAND": "default",
    "ON_DEMAND_FLEX": "flex",
    "ON_DEMAND_PRIORITY": "priority",
    "PROVISIONED_THROUGHPUT": "dedicated",
}
"""Vertex's words for how a request was paid for, and the tier that asks for it."""


class _Usage(msgspec.Struct, gc=False):
    promptTokenCount: int | None = None
    toolUsePromptTokenCount: int | None = None
    cachedContentTokenCount: int | None = None
    candidatesTokenCount: int | None = None
    thoughtsTokenCount: int | None = None
    serviceTier: str | None = None
    trafficType: str | None = None

    @property
    def tier(self) -> str | None:
        """What it was served as: the Gemini API says it in one way, Vertex in another."""
        return tier_named(self.serviceTier) or _TRAFFIC.get(self.trafficType or "")

    def neutral(self) -> Usage:
        # Thoughts are counted beside the answer, and what the provider's own tools read beside the prompt.
        thoughts = self.thoughtsTokenCount or 0
        return Usage(
            input_tokens=(self.promptTokenCount or 0) + (self.toolUsePromptTokenCount or 0),
            output_tokens=(self.candidatesTokenCount or 0) + thoughts,
            cached_tokens=self.cachedContentTokenCount or 0,
            reasoning_tokens=thoughts,
        )


class _Answer(msgspec.Struct, gc=False):
    """A whole answer, or one event of a stream."""

    candidates: list[_Candidate] | None = None
    promptFeedback: _Feedback | None = None
    usageMetadata: _Usage | None = None
    modelVersion: str | None = None
    responseId: str | None = None
    error: Status | None = None


_answer = msgspec.json.Decoder(_Answer).decode
_answers = msgspec.json.Decoder(list[_Answer]).decode


def decode_response(body: bytes) -> list[ModelDelta]:
    """The deltas of a whole JSON answer; the last is a Finish.

    Raises:
        ModelError: ``malformed_response``, ``unsupported_output``, or what the answer's error says.
    """
    reader = _Reader("malformed_response")
    out: list[ModelDelta] = []
    try:
        reader.take(_answer(body), out)
    except BROKEN as error:
        raise malformed(str(error), code="malformed_response") from None
    if reader.reason is None:
        raise malformed("no finish reason", code="malformed_response")
    out.append(reader.finish())
    return out


class StreamDecoder(SseDecoder):
    """Decodes a stream that is fed in pieces of any size: server-sent events, or a JSON array."""

    __slots__ = ("_framed", "_reader")

    def __init__(self) -> None:
        super().__init__()
        self._framed = False
        self._reader = _Reader("malformed_stream")

    def feed(self, data: bytes) -> list[ModelDelta]:
        if not self._framed and (begun := data.lstrip()):
            # No line of server-sent events begins with a bracket or a brace.
            self._framed = True
            if begun[:1] in b"[{":
                self._events = ArraySplitter()
        return super().feed(data)

    def decode(self, events: list[bytes]) -> list[ModelDelta]:
        out: list[ModelDelta] = []
        try:
            self._reader.take_all(decoded(events, _answers, _answer), out)
        except BROKEN as error:
            raise malformed(str(error)) from None
        return out

    def end(self, out: list[ModelDelta]) -> None:
        if self._reader.reason is None:
            raise cut_stream()
        self.done = True
        out.append(self._reader.finish())


def _only_text(answer: _Answer) -> str | None:
    """The text of an event that says nothing else, but for what every event of an answer says."""
    candidates = answer.candidates
    if not candidates or answer.error is not None or answer.promptFeedback is not None:
        return None
    content = candidates[0].content
    if content is None or candidates[0].finishReason is not None or content.parts is None or len(content.parts) != 1:
        return None
    part = content.parts[0]
    plain = part.thoughtSignature is None and part.functionCall is None and not part.thought
    return part.text if plain else None


class _Reader:
    """Turns parts into deltas, and gathers what Finish says.

    ``_last`` is what the last part said, and ``_chars`` the length of the open text.
    """

    __slots__ = ("_calls", "_chars", "_code", "_id", "_last", "_model", "_usage", "reason")

    def __init__(self, code: str) -> None:
        self.reason: FinishReason | None = None
        self._code = code
        self._calls = 0
        self._chars = 0
        self._last = ""
        self._id: str | None = None
        self._model: str | None = None
        self._usage: _Usage | None = None

    def take_all(self, answers: Iterable[_Answer], out: list[ModelDelta]) -> None:
        """Take in the next events of an answer, the texts among them as one where nothing comes between."""
        texts: list[str] = []
        for answer in answers:
            if self._last == "text" and (text := _only_text(answer)):
                texts.append(text)
                self._usage = answer.usageMetadata or self._usage
                continue
            self._say(texts, out)
            self.take(answer, out)
        self._say(texts, out)

    def _say(self, texts: list[str], out: list[ModelDelta]) -> None:
        if texts:
            self._text("".join(texts), None, out, thought=False)
            texts.clear()

    def take(self, answer: _Answer, out: list[ModelDelta]) -> None:
        """Take in an answer, or the next event of one."""
        if answer.error is not None:
            raise translate_status(None, answer.error)
        self._id = answer.responseId or self._id
        self._model = answer.modelVersion or self._model
        self._usage = answer.usageMetadata or self._usage
        feedback = answer.promptFeedback
        if feedback is not None and feedback.blockReason:
            # The prompt was refused, so there is no candidate.
            self.reason = "content_filter"
            if feedback.blockReasonMessage:
                out.append(RefusalDelta(feedback.blockReasonMessage))
        for candidate in (answer.candidates or ())[:1]:
            for part in (candidate.content.parts if candidate.content else None) or ():
                self._part(part, out)
            if candidate.finishReason is not None:
                self._end(candidate.finishReason, candidate.finishMessage)

    def _part(self, part: _Part, out: list[ModelDelta]) -> None:
        signature = part.thoughtSignature
        if part.functionCall is not None:
            self._call(part.functionCall, signature, out)
        elif part.text is not None:
            self._text(part.text, signature, out, thought=part.thought is True)
        elif any(bytes(getattr(part, name)) for name in _RUN_BY_PROVIDER):
            return
        elif bytes(part.inlineData) or bytes(part.fileData):
            raise ModelError(
                "the provider's answer has a part that Stateline cannot pass on: an image or a file",
                code="unsupported_output",
                retryable=False,
            )
        elif signature:
            self._text("", signature, out, thought=False)

    def _text(self, text: str, signature: str | None, out: list[ModelDelta], *, thought: bool) -> None:
        kind = "thought" if thought else "text"
        if text:
            if kind != self._last:
                self._chars = 0
            self._last = kind
            self._chars += len(text)
            out.append(SummaryDelta(text) if thought else TextDelta(text))
        if not signature:
            return
        if self._last == "text" and not thought:
            data = {"signed_from": self._chars - len(text), "signed_to": self._chars}
            out.append(SidecarDelta({"thought_signature": signature, **data}))
        elif self._last != "call":
            # It covers thoughts alone. Behind a call, whose own signature is what counts, it has no item.
            self._last = self._last or "thought"
            out.append(SidecarDelta({"thought_signature": signature}))

    def _call(self, call: _Call, signature: str | None, out: list[ModelDelta]) -> None:
        if not call.name:
            raise malformed("a function call without its name", code=self._code)
        arguments = bytes(call.args).decode() or "{}"
        # Many models name no id. Ours follows from the answer, so that a second reading gives the same.
        made = f"{self._id or arguments}/{self._calls}/{call.name}"
        out.append(CallStart(self._calls, call.id or f"call_{digest(made.encode())}", call.name))
        out.append(CallDelta(self._calls, "{}" if arguments == "null" else arguments))
        data = {"thought_signature": signature, "call_id": call.id}
        if kept := {name: value for name, value in data.items() if value}:
            out.append(SidecarDelta(kept))
        self._calls += 1
        self._last = "call"

    def _end(self, said: str, why: str | None) -> None:
        reason = _FINISH.get(said)
        if reason is None:
            words = f"finish reason {said[:100]!r}" + (f", {why[:500]}" if why else "")
            raise malformed(words, code=self._code)
        self.reason = "tool_calls" if reason == "stop" and self._calls else reason

    def finish(self) -> Finish:
        assert self.reason is not None
        usage = self._usage
        return Finish(
            reason=self.reason,
            usage=usage.neutral() if usage else None,
            upstream_id=self._id,
            upstream_model=self._model,
            service_tier=usage.tier if usage else None,
        )
