"""Scripted deltas as OpenAI's bodies: a chat completion and a response, whole and as SSE events.

Written apart from ``models.formats`` on purpose, so that the two check one another.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import msgspec

from stateline.core.calls import (
    CallDelta,
    CallStart,
    Finish,
    ModelDelta,
    ReasoningDelta,
    RefusalDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)

Json = dict[str, Any]
CREATED_S = 1_790_000_000
DONE = b"data: [DONE]\n\n"
_json = msgspec.json.Encoder().encode
_FINISH = {"content_filter": "content_filter", "length": "length", "tool_calls": "tool_calls"}


def chat_usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def responses_usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


class ChatBody:
    """A chat completion. Reasoning is ``reasoning_content``, as the compatible servers have it."""

    def __init__(self, serial: int, model: str, *, with_usage: bool) -> None:
        self.id = f"chatcmpl-scripted{serial}"
        self.model = model
        self.with_usage = with_usage
        # A stream is mostly text deltas, so what surrounds a text is made once.
        whole = self._chunk({"content": "\0"})
        self._head, self._tail = whole.split(b'"\\u0000"')

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._event([choice], None)

    def _event(self, choices: list[Json], usage: Json | None) -> bytes:
        body: Json = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": CREATED_S,
            "model": self.model,
            "choices": choices,
        }
        if self.with_usage:
            body["usage"] = usage
        return b"data: %b\n\n" % _json(body)

    def begin(self) -> bytes:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def events(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The SSE events of ``deltas``; a Finish ends the stream, its marker included."""
        return b"".join([self._of(delta) for delta in deltas])

    def _of(self, delta: ModelDelta) -> bytes:
        if isinstance(delta, TextDelta):
            return b"%b%b%b" % (self._head, _json(delta.text), self._tail)
        if isinstance(delta, CallStart):
            function = {"name": delta.name, "arguments": ""}
            call = {"index": delta.index, "id": delta.call_id, "type": "function"}
            return self._chunk({"tool_calls": [call | {"function": function}]})
        if isinstance(delta, CallDelta):
            call = {"index": delta.index, "function": {"arguments": delta.arguments}}
            return self._chunk({"tool_calls": [call]})
        if isinstance(delta, RefusalDelta):
            return self._chunk({"refusal": delta.text})
        if isinstance(delta, SummaryDelta | ReasoningDelta):
            return self._chunk({"reasoning_content": delta.text})
        if not isinstance(delta, Finish):
            return b""
        last = self._chunk({}, _FINISH.get(delta.reason, "stop"))
        if self.with_usage and delta.usage is not None:
            last += self._event([], chat_usage(delta.usage))
        return last + DONE

    def whole(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The completion as one JSON body."""
        texts: dict[type, str] = {}
        calls: list[Json] = []
        finish = Finish(reason="stop")
        for delta in deltas:
            if isinstance(delta, TextDelta | RefusalDelta | ReasoningDelta | SummaryDelta):
                texts[type(delta)] = texts.get(type(delta), "") + delta.text
            elif isinstance(delta, CallStart):
                function = {"name": delta.name, "arguments": ""}
                calls.append({"id": delta.call_id, "type": "function", "function": function})
            elif isinstance(delta, CallDelta):
                calls[delta.index]["function"]["arguments"] += delta.arguments
            elif isinstance(delta, Finish):
                finish = delta
        message: Json = {
            "role": "assistant",
            "content": texts.get(TextDelta),
            "refusal": texts.get(RefusalDelta),
        }
        thought = texts.get(SummaryDelta, "") + texts.get(ReasoningDelta, "")
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None}
        body: Json = {
            "id": self.id,
            "object": "chat.completion",
            "created": CREATED_S,
            "model": self.model,
            "choices": [choice | {"finish_reason": _FINISH.get(finish.reason, "stop")}],
        }
        if finish.usage is not None:
            body["usage"] = chat_usage(finish.usage)
        return _json(body)


SEALED = "sealed-by-the-script:"
"""What the encrypted content of reasoning begins with."""


class ResponseBody:
    """A response: the events of the Responses API in their order, or the object alone.

    Reasoning has an encrypted content where the request's ``include`` asks for it.
    """

    def __init__(self, serial: int, model: str, asked: Json) -> None:
        self.id = f"resp_scripted{serial}"
        self.serial = serial
        self.number = 0
        self.output: list[Json] = []
        self.base: Json = {
            "id": self.id,
            "object": "response",
            "created_at": CREATED_S,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "max_tool_calls": None,
            "metadata": {},
            "model": model,
            "output": [],
            "parallel_tool_calls": asked.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "reasoning": asked.get("reasoning") or {"effort": None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": 1.0,
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": asked.get("tool_choice", "auto"),
            "tools": asked.get("tools", []),
            "top_logprobs": 0,
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": None,
        }
        self._sealing = "reasoning.encrypted_content" in (asked.get("include") or ())
        self._part: str | None = None  # the kind of the part that is open
        self._text: list[str] = []
        self._events = True  # whether anybody reads the events
        self._head = b""  # what all deltas of the open part begin with

    def _event(self, kind: str, fields: Json) -> bytes:
        if not self._events:
            return b""
        body = {"type": kind, "sequence_number": self.number} | fields
        self.number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _json(body))

    def begin(self) -> bytes:
        return self._event("response.created", {"response": self.base}) + self._event(
            "response.in_progress", {"response": self.base}
        )

    def events(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The SSE events of ``deltas``; a Finish closes what is open and completes the response."""
        return b"".join([self._of(delta) for delta in deltas])

    def whole(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The completed response object."""
        self._events = False
        self.events(deltas)
        return _json(self.base)

    # The item that is open is the last of `output`.

    def _of(self, delta: ModelDelta) -> bytes:
        if isinstance(delta, TextDelta):
            return self._piece("output_text", delta.text)
        if isinstance(delta, ReasoningDelta):
            return self._piece("reasoning_text", delta.text)
        if isinstance(delta, SummaryDelta):
            return self._piece("summary_text", delta.text)
        if isinstance(delta, RefusalDelta):
            return self._piece("refusal", delta.text)
        if isinstance(delta, CallStart):
            item = {"type": "function_call", "call_id": delta.call_id, "name": delta.name}
            return self._end_item() + self._begin_item("fc", item | {"arguments": ""})
        if isinstance(delta, CallDelta):
            self._text.append(delta.arguments)
            fields = self._place() | {"delta": delta.arguments}
            return self._event("response.function_call_arguments.delta", fields)
        return self._finish(delta) if isinstance(delta, Finish) else b""

    def _place(self) -> Json:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}

    def _begin_item(self, prefix: str, item: Json) -> bytes:
        item = {"id": f"{prefix}_scripted{self.serial}_{len(self.output)}"} | item
        if item["type"] != "reasoning":
            item["status"] = "in_progress"
        self.output.append(item)
        self._text = []
        fields = {"output_index": len(self.output) - 1, "item": item}
        return self._event("response.output_item.added", fields)

    def _piece(self, kind: str, text: str) -> bytes:
        sent = b"" if self._part == kind else self._begin_part(kind)
        self._text.append(text)
        if not self._events:
            return b""
        number = self.number
        self.number += 1
        return b'%b%b%b,"sequence_number":%d}\n\n' % (sent, self._head, _json(text), number)

    def _delta_head(self, kind: str) -> bytes:
        """A delta event up to its text; a stream is mostly these, so this part is made once."""
        name = "reasoning_summary_text" if kind == "summary_text" else kind
        fields: Json = {"type": f"response.{name}.delta"} | self._place()
        if kind == "summary_text":
            fields["summary_index"] = 0
        else:
            fields["content_index"] = self._content_index()
        if kind == "output_text":
            fields["logprobs"] = []
        event, opened = fields["type"].encode(), _json(fields)[:-1]
        return b'event: %b\ndata: %b,"delta":' % (event, opened)

    def _content_index(self) -> int:
        return len(self.output[-1]["content"])

    def _begin_part(self, kind: str) -> bytes:
        home = "message" if kind in ("output_text", "refusal") else "reasoning"
        if self._part is None or self.output[-1]["type"] != home:
            sent = self._end_item()
            if home == "message":
                item: Json = {"type": "message", "role": "assistant", "content": []}
                sent += self._begin_item("msg", item)
            else:
                sent += self._begin_item("rs", {"type": "reasoning", "summary": [], "content": []})
        else:
            sent = self._end_part()
        self._part = kind
        self._text = []
        self._head = self._delta_head(kind)
        if kind == "summary_text":
            fields = self._place() | {"summary_index": 0, "part": self._shown_part("")}
            return sent + self._event("response.reasoning_summary_part.added", fields)
        place = self._place() | {"content_index": self._content_index()}
        return sent + self._event("response.content_part.added", place | {"part": self._shown_part("")})

    def _shown_part(self, text: str) -> Json:
        if self._part == "output_text":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        field = "refusal" if self._part == "refusal" else "text"
        return {"type": self._part, field: text}

    def _end_part(self) -> bytes:
        kind, text = self._part, "".join(self._text)
        if kind is None:
            return b""
        part, item = self._shown_part(text), self.output[-1]
        self._part = None
        if kind == "summary_text":
            place = self._place() | {"summary_index": 0}
            item["summary"] = [part]
            done = self._event("response.reasoning_summary_text.done", place | {"text": text})
            return done + self._event("response.reasoning_summary_part.done", place | {"part": part})
        place = self._place() | {"content_index": self._content_index()}
        item["content"] = [*item["content"], part]
        fields: Json = {"refusal" if kind == "refusal" else "text": text}
        if kind == "output_text":
            fields["logprobs"] = []
        done = self._event(f"response.{kind}.done", place | fields)
        return done + self._event("response.content_part.done", place | {"part": part})

    def _end_item(self) -> bytes:
        if not self.output:
            return b""
        item, sent = self.output[-1], self._end_part()
        if item["type"] == "function_call":
            item["arguments"] = "".join(self._text)
            fields = self._place() | {"arguments": item["arguments"], "name": item["name"]}
            sent += self._event("response.function_call_arguments.done", fields)
        if "status" in item:
            item["status"] = "completed"
        elif self._sealing:
            texts = [part["text"] for part in item["summary"] + item["content"]]
            item["encrypted_content"] = f"{SEALED}{zlib.crc32(''.join(texts).encode()):08x}"
        fields = {"output_index": len(self.output) - 1, "item": item}
        return sent + self._event("response.output_item.done", fields)

    def _finish(self, finish: Finish) -> bytes:
        sent = self._end_item()
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        reason = reasons.get(finish.reason)
        status = "incomplete" if reason else "completed"
        usage = None if finish.usage is None else responses_usage(finish.usage)
        details = {"reason": reason} if reason else None
        self.base = self.base | {
            "status": status,
            "incomplete_details": details,
            "output": self.output,
            "usage": usage,
        }
        return sent + self._event(f"response.{status}", {"response": self.base})
