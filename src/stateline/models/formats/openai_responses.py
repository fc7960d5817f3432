"""OpenAI's Responses, and Open Responses servers that speak it: answers.

Items that a provider's own tool made (``_RUN_BY_PROVIDER``) are skipped: we offer no such tools, so
a server that ran one did so by itself, and what it found is in the text. An item that waits for
somebody to act on it, or that we do not know, cannot be skipped; it ends the call with
``unsupported_output``. Of annotations, URL citations have a neutral form; others are skipped.

The ids that the provider gave its items, and its encrypted reasoning, become sidecars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    SummaryDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.items import Phase
from stateline.models.formats.errors import ErrorBody, translate
from stateline.models.formats.openai_responses_request import encode_request
from stateline.models.formats.openai_shared import Citation, Logprob, malformed
from stateline.models.formats.sse import SseDecoder
from stateline.models.formats.together import BROKEN, decoded

__all__ = ["StreamDecoder", "decode_response", "encode_request"]

_RUN_BY_PROVIDER = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "mcp_list_tools",
        "mcp_call",
        "tool_search_call",
        "tool_search_output",
    }
)
_INCOMPLETE: dict[str, FinishReason] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}
"""By the reason of `incomplete_details`."""


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[Citation] | None = None
    logprobs: list[Logprob] | None = None


class _Item(msgspec.Struct, gc=False):
    type: str
    id: str | None = None
    phase: Phase | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    encrypted_content: str | None = None
    summary: list[_Part] | None = None
    content: list[_Part] | None = None


class _Bare(msgspec.Struct, gc=False):
    """An item of which only the type is of interest, for types whose fields mean something else."""

    type: str
    id: str | None = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def neutral(self) -> Usage:
        into, out = self.input_tokens_details, self.output_tokens_details
        return Usage(
            input_tokens=self.input_tokens or 0,
            output_tokens=self.output_tokens or 0,
            cached_tokens=(into.cached_tokens or 0) if into else 0,
            reasoning_tokens=(out.reasoning_tokens or 0) if out else 0,
        )


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Response(msgspec.Struct, gc=False):
    """A response object; its items are read from a whole answer only."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    error: ErrorBody | None = None
    incomplete_details: _Incomplete | None = None
    usage: _Usage | None = None
    service_tier: str | None = None


class _Whole(_Response, gc=False):
    output: list[msgspec.Raw] = []


class _Event(msgspec.Struct, gc=False):
    """Any event of a stream: the fields of all those that we read."""

    type: str
    delta: str | None = None
    logprobs: list[Logprob] | None = None
    output_index: int | None = None
    item_id: str | None = None
    text: str | None = None
    refusal: str | None = None
    arguments: str | None = None
    summary_index: int | None = None
    item: msgspec.Raw = msgspec.Raw()
    part: _Part | None = None
    annotation: Citation | None = None
    response: _Response | None = None
    error: ErrorBody | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None


class _Kind(msgspec.Struct, gc=False):
    type: str = ""


_event = msgspec.json.Decoder(_Event)
_events = msgspec.json.Decoder(list[_Event]).decode
_kind = msgspec.json.Decoder(_Kind)
_item = msgspec.json.Decoder(_Item)
_bare = msgspec.json.Decoder(_Bare)
_whole = msgspec.json.Decoder(_Whole)

_DONE = b"[DONE]"
_Key = int | str | None


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
        if answer.status not in ("completed", "incomplete", None):
            # An error, or an answer that was to be waited for, which we never ask.
            if answer.error is None:
                raise malformed(f"its status is {answer.status!r}", code=code)
            raise translate(None, answer.error)
        if answer.error is not None:
            raise translate(None, answer.error)
        if answer.id is None and not answer.output:
            raise malformed("it is no response object", code=code)
        for raw in answer.output:
            reader.take_whole(_read_item(raw), None, out)
    except BROKEN as error:
        raise malformed(str(error), code=code) from None
    out.append(reader.finish(answer))
    return out


def _read_item(raw: msgspec.Raw) -> _Item:
    """An item, of which only type and id are read where its other fields are not ours."""
    bare = _bare.decode(raw)
    if bare.type in ("message", "function_call", "reasoning"):
        return _item.decode(raw)
    return _Item(type=bare.type, id=bare.id)


class StreamDecoder(SseDecoder):
    """Decodes a stream that is fed in pieces of any size."""

    __slots__ = ("_reader",)

    def __init__(self) -> None:
        super().__init__()
        self._reader = _Reader("malformed_stream")

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
            for event in decoded(events, _events, _one):
                kind = event.type
                if kind == "response.output_text.delta":
                    if event.output_index == reader.at is not None and event.delta and not event.logprobs:
                        # Nearly all of a stream's: these go together.
                        texts.append(event.delta)
                        continue
                    _say(reader, texts, out)
                    reader.text(event, out)
                    continue
                _say(reader, texts, out)
                if kind in _TERMINAL:
                    out.append(reader.end(event))
                    self.done = True
                    break
                if (handler := _HANDLERS.get(kind)) is not None:
                    handler(reader, event, out)
        except BROKEN as error:
            raise malformed(str(error)) from None
        if ended and not self.done:
            raise malformed("the stream ended without a terminal event")
        _say(reader, texts, out)
        return out


def _say(reader: _Reader, texts: list[str], out: list[ModelDelta]) -> None:
    """Texts of the open item, as one."""
    if texts:
        out.append(TextDelta("".join(texts)))
        texts.clear()
        reader.got = True


def _one(data: bytes) -> _Event:
    """An event by itself; one of a kind that we do not read may have fields of any type."""
    try:
        return _event.decode(data)
    except BROKEN as error:
        kind = _kind.decode(data).type
        if not kind or kind in _HANDLERS or kind in _TERMINAL:
            raise malformed(str(error)) from None
        return _Event(type=kind)


class _Reader:
    """Turns items and events into deltas, and gathers what Finish says.

    ``at`` is the item to which texts belong now; ``got`` whether its open part has any text yet,
    for servers that send a text only when it is done.
    """

    __slots__ = ("_calls", "_citations", "_code", "_seen", "_unspoken", "at", "got")

    def __init__(self, code: str) -> None:
        self._code = code
        self.at: _Key = None
        self.got = False
        self._seen: set[_Key] = set()
        self._calls: dict[_Key, int] = {}
        self._unspoken: set[_Key] = set()
        self._citations: list[Citation] = []

    # -- texts -----------------------------------------------------------------------------------

    def text(self, event: _Event, out: list[ModelDelta]) -> None:
        self._check(event)
        if event.delta:
            logprobs = event.logprobs
            out.append(TextDelta(event.delta, _logprobs(logprobs) if logprobs else None))
            self.got = True

    def other_text(self, event: _Event, out: list[ModelDelta]) -> None:
        self._check(event)
        if event.delta:
            out.append(_TEXTS[event.type](event.delta))
            self.got = True

    def text_done(self, event: _Event, out: list[ModelDelta]) -> None:
        whole = event.refusal if event.type == "response.refusal.done" else event.text
        if not self.got and whole:
            self._check(event)
            out.append(_DONE_TEXTS[event.type](whole))
            self.got = True
        self._cite(out)

    def part_added(self, event: _Event, out: list[ModelDelta]) -> None:
        self._check(event)
        # The builder opens a part with its first text; this ends one before it of the same kind.
        if self.got:
            out.append(PartStart())
        self.got = False

    def annotation(self, event: _Event, out: list[ModelDelta]) -> None:
        if event.annotation is not None:
            self._citations.append(event.annotation)
            self._cite(out)

    def _cite(self, out: list[ModelDelta]) -> None:
        """Give the citations so far; they need a text to belong to."""
        if self._citations and self.got:
            out += _citations(self._citations)
            self._citations = []

    def _check(self, event: _Event) -> None:
        """Texts belong to the item that began last; those of another could not be told apart."""
        key = event.output_index if event.output_index is not None else event.item_id
        if key != self.at and key is not None and self.at is not None:
            raise malformed("two items are streamed at once", code=self._code)

    # -- items -----------------------------------------------------------------------------------

    def item_added(self, event: _Event, out: list[ModelDelta]) -> None:
        if not bytes(event.item):
            raise malformed("an item event without its item", code=self._code)
        self._start(_read_item(event.item), event.output_index, out)

    def _start(self, item: _Item, index: int | None, out: list[ModelDelta]) -> None:
        key = self.at = index if index is not None else item.id
        self._seen.add(key)
        self.got = False
        if item.type == "message":
            out.append(ItemStart("message", item.phase))
        elif item.type == "reasoning":
            out.append(ItemStart("reasoning"))
        elif item.type == "function_call":
            if not item.call_id or not item.name:
                raise malformed("a function call without its id or name", code=self._code)
            number = self._calls[key] = len(self._calls)
            out.append(CallStart(number, item.call_id, item.name))
            self._unspoken.add(key)
            self._say_arguments(key, item.arguments, out)
        elif item.type not in _RUN_BY_PROVIDER:
            raise ModelError(
                f"the provider's answer has an item that Stateline cannot pass on: {item.type[:100]!r}",
                code="unsupported_output",
                retryable=False,
            )
        # Reasoning's encrypted content is final only when the item is done.
        if item.id and item.type in ("message", "function_call"):
            out.append(SidecarDelta({"id": item.id}))

    def item_done(self, event: _Event, out: list[ModelDelta]) -> None:
        if not bytes(event.item):
            raise malformed("an item event without its item", code=self._code)
        item = _read_item(event.item)
        key = event.output_index if event.output_index is not None else item.id
        if key not in self._seen:
            self.take_whole(item, event.output_index, out)
        elif item.type == "function_call":
            self._say_arguments(key, item.arguments, out)
        elif item.type == "reasoning" and key == self.at:
            _keep_reasoning(item, out)

    def take_whole(self, item: _Item, index: int | None, out: list[ModelDelta]) -> None:
        """An item that comes in one piece."""
        self._start(item, index, out)
        if item.type == "message":
            _say_content(item.content or (), out)
        elif item.type == "reasoning":
            _say_parts(item.summary or (), SummaryDelta, out)
            _say_parts(item.content or (), ReasoningDelta, out)
            _keep_reasoning(item, out)

    def arguments(self, event: _Event, out: list[ModelDelta]) -> None:
        key = event.output_index if event.output_index is not None else event.item_id
        number = self._calls.get(key)
        if number is None:
            raise malformed("arguments of a function call that never began", code=self._code)
        if event.delta:
            out.append(CallDelta(number, event.delta))
            self._unspoken.discard(key)

    def arguments_done(self, event: _Event, out: list[ModelDelta]) -> None:
        key = event.output_index if event.output_index is not None else event.item_id
        self._say_arguments(key, event.arguments, out)

    def _say_arguments(self, key: _Key, arguments: str | None, out: list[ModelDelta]) -> None:
        """Whole arguments, unless pieces of them have come."""
        if arguments and key in self._unspoken:
            out.append(CallDelta(self._calls[key], arguments))
            self._unspoken.discard(key)

    # -- the end ---------------------------------------------------------------------------------

    def end(self, event: _Event) -> Finish:
        response = event.response
        if event.type == "error":
            error = event.error or ErrorBody(event.message, None, event.code, event.param)
            raise translate(None, error)
        if response is None:
            raise malformed("a terminal event without its response", code=self._code)
        if event.type == "response.failed" or response.error is not None:
            raise translate(None, response.error or ErrorBody())
        return self.finish(response)

    def finish(self, response: _Response) -> Finish:
        reason: FinishReason | None = "tool_calls" if self._calls else "stop"
        if response.status == "incomplete" or response.incomplete_details is not None:
            said = response.incomplete_details.reason if response.incomplete_details else None
            reason = _INCOMPLETE.get(said or "")
            if reason is None:
                raise ModelError(
                    f"the provider broke its answer off: {(said or 'no reason given')[:100]}",
                    retryable=True,
                )
        return Finish(
            reason=reason,
            usage=response.usage.neutral() if response.usage else None,
            upstream_id=response.id,
            upstream_model=response.model,
            service_tier=response.service_tier,
        )


def _say_content(parts: Sequence[_Part], out: list[ModelDelta]) -> None:
    last = ""
    for part in parts:
        said = part.refusal if part.type == "refusal" else part.text
        if not said:
            continue
        if part.type == last:
            out.append(PartStart())
        last = part.type
        if part.type == "refusal":
            out.append(RefusalDelta(said))
        else:
            out.append(TextDelta(said, _logprobs(part.logprobs) if part.logprobs else None))
            out += _citations(part.annotations or ())


def _say_parts(parts: Sequence[_Part], kind: type[SummaryDelta | ReasoningDelta], out: list[ModelDelta]) -> None:
    texts = [part.text for part in parts if part.text]
    for at, text in enumerate(texts):
        if at:
            out.append(PartStart())
        out.append(kind(text))


def _keep_reasoning(item: _Item, out: list[ModelDelta]) -> None:
    data: dict[str, Any] = {"id": item.id} if item.id else {}
    if item.encrypted_content:
        data["encrypted_content"] = item.encrypted_content
    if data:
        out.append(SidecarDelta(data))


def _logprobs(logprobs: list[Logprob]) -> list[dict[str, Any]]:
    return [logprob.neutral() for logprob in logprobs]


def _citations(annotations: Sequence[Citation]) -> list[AnnotationDelta]:
    return [AnnotationDelta(citation.neutral()) for citation in annotations if citation.type == "url_citation"]


_TEXTS: dict[str, type[RefusalDelta | ReasoningDelta | SummaryDelta]] = {
    "response.refusal.delta": RefusalDelta,
    "response.reasoning_text.delta": ReasoningDelta,
    "response.reasoning.delta": ReasoningDelta,  # Open Responses' name for it
    "response.reasoning_summary_text.delta": SummaryDelta,
}
_DONE_TEXTS: dict[str, type[TextDelta | RefusalDelta | ReasoningDelta | SummaryDelta]] = {
    "response.output_text.done": TextDelta,
    "response.refusal.done": RefusalDelta,
    "response.reasoning_text.done": ReasoningDelta,
    "response.reasoning.done": ReasoningDelta,
    "response.reasoning_summary_text.done": SummaryDelta,
}
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_HANDLERS = {
    "response.output_text.delta": _Reader.text,
    **dict.fromkeys(_TEXTS, _Reader.other_text),
    **dict.fromkeys(_DONE_TEXTS, _Reader.text_done),
    "response.content_part.added": _Reader.part_added,
    "response.reasoning_summary_part.added": _Reader.part_added,
    "response.output_text.annotation.added": _Reader.annotation,
    "response.output_item.added": _Reader.item_added,
    "response.output_item.done": _Reader.item_done,
    "response.function_call_arguments.delta": _Reader.arguments,
    "response.function_call_arguments.done": _Reader.arguments_done,
}
"""Every event that is read; all others say nothing that these do not."""
