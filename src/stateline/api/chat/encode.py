"""Deltas into Chat Completions: one object, or chunks of a stream.

Chunks of one answer differ in a few bytes, so the rest is encoded once and joined to each.
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
    ModelDelta,
    ReasoningDelta,
    RefusalDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)
from stateline.core.items import UrlCitation

ChatFinish = Literal["stop", "length", "tool_calls", "content_filter"]

_FINISH: dict[FinishReason, ChatFinish] = {
    "stop": "stop",
    "tool_calls": "tool_calls",
    "length": "length",
    "content_filter": "content_filter",
    "cancelled": "stop",
    "max_output_bytes": "length",
    "max_wall_time": "length",
}
_encode = msgspec.json.Encoder().encode


# -- shapes -------------------------------------------------------------------------------------------


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class CompletionUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    id: str
    function: CalledFunction


class ChatAnnotation(msgspec.Struct, frozen=True, tag_field="type", tag="url_citation"):
    url_citation: dict[str, Any]


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """``reasoning_content`` is an addition that DeepSeek began and many clients read."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None
    annotations: tuple[ChatAnnotation, ...] = ()
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: tuple[ToolCall, ...] | msgspec.UnsetType = msgspec.UNSET


class Logprobs(msgspec.Struct, frozen=True):
    content: list[dict[str, Any]]
    refusal: None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    message: ChatMessage
    logprobs: Logprobs | None
    finish_reason: ChatFinish


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """``created`` is in Unix seconds."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: CompletionUsage | msgspec.UnsetType = msgspec.UNSET
    service_tier: str | msgspec.UnsetType = msgspec.UNSET
    stateline: AgentTurnField | msgspec.UnsetType = msgspec.UNSET


def usage_field(usage: Usage) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(usage.reasoning_tokens),
    )


def _annotation(note: UrlCitation) -> ChatAnnotation:
    fields = {"url": note.url, "title": note.title, "start_index": note.start_index, "end_index": note.end_index}
    return ChatAnnotation(fields)


# -- one object ------------------------------------------------------------------------------------------


class ChatAnswer:
    """Gathers the deltas of one call into a chat completion."""

    __slots__ = ("_annotations", "_calls", "_finish", "_logprobs", "_reasoning", "_refusal", "_text", "_told")

    def __init__(self, told: Told | None = None) -> None:
        self._told = told
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._reasoning: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._annotations: list[ChatAnnotation] = []
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._finish: Finish | None = None

    def add(self, deltas: Iterable[ModelDelta]) -> None:
        for delta in deltas:
            if isinstance(delta, TextDelta):
                self._text.append(delta.text)
                if delta.logprobs:
                    self._logprobs += delta.logprobs
            elif isinstance(delta, CallStart):
                self._calls[delta.index] = (delta.call_id, delta.name, [])
            elif isinstance(delta, CallDelta):
                self._calls[delta.index][2].append(delta.arguments)
            elif isinstance(delta, ReasoningDelta | SummaryDelta):
                self._reasoning.append(delta.text)
            elif isinstance(delta, RefusalDelta):
                self._refusal.append(delta.text)
            elif isinstance(delta, AnnotationDelta):
                self._annotations.append(_annotation(delta.annotation))
            elif isinstance(delta, Finish):
                self._finish = delta

    def completion(self, completion_id: str, created: int, model: str) -> ChatCompletion:
        """The object. Call after the last delta."""
        finish = self._finish
        reason: ChatFinish = _FINISH[finish.reason] if finish else "stop"
        usage = finish.usage if finish else None
        calls = tuple(
            ToolCall(call_id, CalledFunction(name, "".join(arguments)))
            for call_id, name, arguments in self._calls.values()
        )
        message = ChatMessage(
            content="".join(self._text) if self._text or not (calls or self._refusal) else None,
            refusal="".join(self._refusal) if self._refusal else None,
            annotations=tuple(self._annotations),
            reasoning_content="".join(self._reasoning) if self._reasoning else msgspec.UNSET,
            tool_calls=calls or msgspec.UNSET,
        )
        return ChatCompletion(
            id=completion_id,
            created=created,
            model=model,
            choices=(
                Choice(
                    message=message,
                    logprobs=Logprobs(self._logprobs) if self._logprobs else None,
                    finish_reason="tool_calls" if calls and reason == "stop" else reason,
                ),
            ),
            usage=usage_field(usage) if usage else msgspec.UNSET,
            service_tier=(finish.service_tier if finish else None) or msgspec.UNSET,
            stateline=msgspec.UNSET if self._told is None else self._told.field,
        )


# -- a stream -----------------------------------------------------------------------------------------------


class ChatChunks:
    """Turns deltas into ``data:`` lines, one chunk a delta."""

    def __init__(
        self, completion_id: str, created: int, model: str, *, include_usage: bool, told: Told | None = None
    ) -> None:
        head = {"id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b"data: " + _encode(head)[:-1]
        self._choice = self._head + b',"choices":[{"index":0,"delta":'
        self._usage_null = b',"usage":null' if include_usage else b""
        self._tail = b',"logprobs":null,"finish_reason":null}]' + self._usage_null + b"}\n\n"
        self._include_usage = include_usage
        self._told = told
        self._begun = False
        self._numbers: dict[int, int] = {}

    def encode(self, deltas: Iterable[ModelDelta]) -> bytearray:
        """All chunks for ``deltas``, ready to be sent in one write."""
        out = bytearray()
        if not self._begun:
            self._begun = True
            out += self._choice + b'{"role":"assistant","content":"","refusal":null}' + self._tail
        choice, tail = self._choice, self._tail
        for delta in deltas:
            if isinstance(delta, TextDelta):
                if delta.logprobs:
                    self._logprobs(delta, out)
                else:
                    out += b"".join((choice, b'{"content":', _encode(delta.text), b"}", tail))
            elif isinstance(delta, Finish):
                self._finish(delta, out)
            else:
                fields = self._delta(delta)
                if fields is not None:
                    out += b"".join((choice, _encode(fields), tail))
        return out

    def _delta(self, delta: ModelDelta) -> dict[str, Any] | None:
        """The ``delta`` of a chunk; None for what Chat Completions cannot say."""
        if isinstance(delta, CallStart):
            number = self._numbers.setdefault(delta.index, len(self._numbers))
            function = {"name": delta.name, "arguments": ""}
            return {"tool_calls": [{"index": number, "id": delta.call_id, "type": "function", "function": function}]}
        if isinstance(delta, CallDelta):
            return {"tool_calls": [{"index": self._numbers[delta.index], "function": {"arguments": delta.arguments}}]}
        if isinstance(delta, ReasoningDelta | SummaryDelta):
            return {"reasoning_content": delta.text}
        if isinstance(delta, RefusalDelta):
            return {"refusal": delta.text}
        if isinstance(delta, AnnotationDelta):
            return {"annotations": [_annotation(delta.annotation)]}
        return None

    def _logprobs(self, delta: TextDelta, out: bytearray) -> None:
        logprobs = _encode({"content": delta.logprobs, "refusal": None})
        text = _encode(delta.text)
        out += self._choice + b'{"content":' + text + b'},"logprobs":' + logprobs
        out += b',"finish_reason":null}]' + self._usage_null + b"}\n\n"

    def _finish(self, finish: Finish, out: bytearray) -> None:
        reason: ChatFinish = _FINISH[finish.reason]
        if self._numbers and reason == "stop":
            reason = "tool_calls"
        out += self._choice + b'{},"logprobs":null,"finish_reason":"' + reason.encode() + b'"}]'
        out += self._usage_null
        if finish.service_tier is not None:
            out += b',"service_tier":' + _encode(finish.service_tier)
        if self._told is not None and self._told.field is not msgspec.UNSET:
            out += b',"stateline":' + _encode(self._told.field)
        out += b"}\n\n"
        if self._include_usage and finish.usage is not None:
            out += self._head + b',"choices":[],"usage":' + _encode(usage_field(finish.usage)) + b"}\n\n"
