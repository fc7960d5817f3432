"""OpenAI's Chat Completions, and the many servers that speak it: answers.

An answer's pieces become deltas in the order in which they came. Deltas that carry nothing (the
role, empty texts, padding) are left out. A stream ends with a finish reason; ``[DONE]`` after it is
usual but some servers leave it out. Reasoning is read from ``reasoning_content`` (DeepSeek,
llama.cpp, vLLM) or ``reasoning`` (vLLM, OpenRouter), whichever has text.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stateline.core.calls import (
    AnnotationDelta,
    CallDelta,
    CallStart,
    Finish,
    FinishReason,
    ModelDelta,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.limits import CALL_ID_CHARS_MAX
from stateline.models.formats.errors import ErrorBody, translate
from stateline.models.formats.openai_chat_request import encode_request
from stateline.models.formats.openai_shared import Citation, Logprob, cut_stream, malformed
from stateline.models.formats.sse import SseDecoder
from stateline.models.formats.together import BROKEN, decoded

__all__ = ["StreamDecoder", "decode_response", "encode_request"]

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
}
"""OpenAI's finish reasons, and those by which other servers mean the same."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Annotation(msgspec.Struct, gc=False):
    type: str = ""
    url_citation: Citation | None = None


class _Delta(msgspec.Struct, gc=False):
    """A streamed delta or a whole message: the same fields, in pieces or complete."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    annotations: list[_Annotation] | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[Logprob] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None

    def neutral(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        cached = prompt.cached_tokens if prompt else self.prompt_cache_hit_tokens
        return Usage(
            input_tokens=self.prompt_tokens or 0,
            output_tokens=self.completion_tokens or 0,
            cached_tokens=cached or 0,
            reasoning_tokens=(completion.reasoning_tokens or 0) if completion else 0,
        )


class _Answer(msgspec.Struct, gc=False):
    """A chunk of a stream or a whole answer."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    service_tier: str | None = None
    error: ErrorBody | str | None = None


_answer = msgspec.json.Decoder(_Answer).decode
_answers = msgspec.json.Decoder(list[_Answer]).decode
_DONE = b"[DONE]"


def decode_response(body: bytes) -> list[ModelDelta]:
    """The deltas of a whole JSON answer; the last is a Finish.

    Raises:
        ModelError: ``malformed_response``, or what an error inside the answer says.
    """
    try:
        answer = _answer(body)
    except BROKEN as error:
        raise malformed(str(error), code="malformed_response") from None
    reader = _Reader("malformed_response")
    out: list[ModelDelta] = []
    reader.read(answer, out)
    if reader.reason is None:
        raise malformed("no finish reason", code="malformed_response")
    out.append(reader.finish())
    return out


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
        out.append(self._end())

    def decode(self, events: list[bytes]) -> list[ModelDelta]:
        out: list[ModelDelta] = []
        if self.done:
            return out
        reader = self._reader
        texts: list[str] = []
        ended = _DONE in events
        if ended:
            del events[events.index(_DONE) :]
        try:
            for answer in decoded(events, _answers, _answer):
                if reader.said and (text := _only_text(answer)):
                    # Nearly all of a stream's: these go together.
                    texts.append(text)
                    continue
                _say(texts, out)
                reader.read(answer, out)
        except BROKEN as error:
            raise malformed(str(error)) from None
        _say(texts, out)
        if ended:
            if reader.reason is None:
                raise malformed("the stream ended without a finish reason")
            out.append(self._end())
        return out

    def _end(self) -> Finish:
        self.done = True
        return self._reader.finish()


def _say(texts: list[str], out: list[ModelDelta]) -> None:
    """Texts that came one after the other, as one."""
    if texts:
        out.append(TextDelta("".join(texts)))
        texts.clear()


class _Reader:
    """Turns answers, whole or in chunks, into deltas, and gathers what Finish says.

    ``said`` is whether there was a text: from then on no citation waits for one.
    """

    __slots__ = (
        "_calls", "_citations", "_code", "_id", "_ids", "_model", "_tier", "_usage", "reason", "said",
    )  # fmt: skip

    def __init__(self, code: str) -> None:
        self.reason: FinishReason | None = None
        self._code = code
        self._calls = 0
        self._ids: dict[int, tuple[int, str]] = {}
        self._citations: list[AnnotationDelta] = []
        self.said = False
        self._id: str | None = None
        self._model: str | None = None
        self._tier: str | None = None
        self._usage: _Usage | None = None

    def read(self, answer: _Answer, out: list[ModelDelta]) -> None:
        if answer.error is not None:
            error = answer.error
            raise translate(None, ErrorBody(message=error) if isinstance(error, str) else error)
        if answer.usage is not None:
            self._usage = answer.usage
        if self._id is None:
            self._id, self._model = answer.id or None, answer.model or None
        if answer.service_tier is not None:
            self._tier = answer.service_tier
        for choice in answer.choices or ():
            if choice.index == 0:
                self._read_choice(choice, out)

    def _read_choice(self, choice: _Choice, out: list[ModelDelta]) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            if reasoning := delta.reasoning_content or delta.reasoning:
                out.append(ReasoningDelta(reasoning))
            if delta.content:
                out.append(TextDelta(delta.content, _logprobs(choice)))
                self.said = True
            if delta.annotations:
                self._citations += _citations(delta.annotations)
            if self._citations and self.said:
                out += self._citations
                self._citations = []
            if delta.refusal:
                out.append(RefusalDelta(delta.refusal))
            if delta.tool_calls:
                for call in delta.tool_calls:
                    self._read_call(call, out)
        if choice.finish_reason is not None:
            self.reason = self._finish_reason(choice.finish_reason)

    def _read_call(self, call: _Call, out: list[ModelDelta]) -> None:
        """A piece of a call. Servers that leave `index` out, or send 0 each time, send whole calls."""
        at = self._calls if call.index is None else call.index
        function = call.function or _Function()
        known = self._ids.get(at)
        if known is None or (function.name and call.id and call.id != known[1]):
            if not function.name:
                raise malformed("a tool call without a name", code=self._code)
            number = self._calls
            call_id = call.id or self._make_id(number)
            known = self._ids[at] = (number, call_id)
            self._calls += 1
            out.append(CallStart(number, call_id, function.name))
        if function.arguments:
            out.append(CallDelta(known[0], function.arguments))

    def _make_id(self, number: int) -> str:
        """An id for a call of a server that gives none, from the answer's own id."""
        if self._id is None:
            raise malformed("a tool call without an id", code=self._code)
        return f"call_{self._id[-(CALL_ID_CHARS_MAX - 16) :]}_{number}"

    def _finish_reason(self, said: str) -> FinishReason:
        reason = _FINISH.get(said)
        if reason is None:
            raise ModelError(f"the provider broke its answer off: finish reason {said[:100]!r}", retryable=True)
        # Some servers say "stop" after tool calls too; the calls are what counts.
        return "tool_calls" if reason == "stop" and self._calls else reason

    @property
    def used(self) -> Usage | None:
        return self._usage.neutral() if self._usage else None

    def finish(self) -> Finish:
        assert self.reason is not None
        return Finish(
            reason=self.reason,
            usage=self._usage.neutral() if self._usage else None,
            upstream_id=self._id,
            upstream_model=self._model,
            service_tier=self._tier,
        )


def _only_text(answer: _Answer) -> str | None:
    """The text of a chunk that brings nothing else, in a stream whose id is known."""
    choices = answer.choices
    if choices is None or len(choices) != 1 or answer.usage is not None or answer.error is not None:
        return None
    choice = choices[0]
    delta = choice.delta
    if delta is None or choice.index or choice.logprobs is not None or choice.finish_reason is not None:
        return None
    rest = delta.reasoning_content or delta.reasoning or delta.refusal or delta.tool_calls or delta.annotations
    return None if rest else delta.content


def _logprobs(choice: _Choice) -> list[dict[str, Any]] | None:
    if choice.logprobs is None or not choice.logprobs.content:
        return None
    return [logprob.neutral() for logprob in choice.logprobs.content]


def _citations(annotations: list[_Annotation]) -> list[AnnotationDelta]:
    return [
        AnnotationDelta(annotation.url_citation.neutral())
        for annotation in annotations
        if annotation.type == "url_citation" and annotation.url_citation is not None
    ]
