"""Scripted deltas in Anthropic's words: what is asked, and a message, whole and as SSE events.

Written apart from ``models.formats`` on purpose, so that the two check one another. As Anthropic does,
it refuses a request whose tool results do not stand right behind their calls, and thinking that it did
not sign itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

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
from stateline.testing.openai_bodies import Json
from stateline.testing.scripted import Answer, Asked

SIGNED = "signed-by-the-script:"
_json = msgspec.json.Encoder().encode
_STOP = {"content_filter": "refusal", "length": "max_tokens", "tool_calls": "tool_use"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _blocks(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else cast("list[Json]", content)


def _text_of(content: Any) -> str:
    return "".join(str(block.get("text", "")) for block in _blocks(content))


class MessagesAsked(Asked):
    """A request as it came over HTTP."""

    __slots__ = ("body",)

    def __init__(self, body: Json, key: str) -> None:
        super().__init__(key, str(body.get("model", "")), body.get("stream") is True)
        self.body = body

    @property
    def user_text(self) -> str:
        for message in reversed(self.body.get("messages", [])):
            if message["role"] == "user" and (text := _text_of(message["content"])):
                return text
        return ""

    @property
    def tool_output(self) -> str | None:
        messages = self.body.get("messages", [])
        last = _blocks(messages[-1]["content"]) if messages else []
        results = [block for block in last if block["type"] == "tool_result"]
        return _text_of(results[-1].get("content", "")) if results and results[-1] is last[-1] else None

    @property
    def tool(self) -> tuple[str, Mapping[str, Any]] | None:
        tools = {tool["name"]: cast("Json", tool["input_schema"]) for tool in self.body.get("tools", ())}
        choice: Json = self.body.get("tool_choice", {"type": "auto"})
        if choice["type"] == "tool":
            return choice["name"], tools.get(choice["name"], {})
        return None if choice["type"] == "none" else next(iter(tools.items()), None)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        config = cast("Json", self.body.get("output_config") or {})
        form = cast("Json", config.get("format") or {})
        return form.get("schema")

    def problem(self) -> str | None:
        """What Anthropic would refuse in the messages, or None."""
        waiting: set[str] = set()
        for at, message in enumerate(self.body.get("messages", [])):
            blocks = _blocks(message["content"])
            results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
            if waiting != results:
                return f"messages.{at}: tool_use ids {sorted(waiting ^ results)} without their match"
            waiting = {block["id"] for block in blocks if block["type"] == "tool_use"}
            for block in blocks:
                if block["type"] == "thinking" and block["signature"] != SIGNED + block["thinking"]:
                    return f"messages.{at}: Invalid `signature` in `thinking` block"
        return f"messages: no tool_result for {sorted(waiting)}" if waiting else None


def refused_body(answer: Answer) -> bytes:
    """The body of an HTTP error."""
    message = answer.error_message or f"scripted error {answer.status}"
    kind = answer.error_code or _ERRORS.get(answer.status, "api_error")
    return _json({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"})


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


class MessageBody:
    """A message: the events of a stream in their order, or the object alone."""

    def __init__(self, serial: int, model: str) -> None:
        self._message: Json = {
            "id": f"msg_scripted{serial}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        self._content: list[Json] = []
        self._pieces: list[str] = []
        self._kind = ""
        self._head = b""

    def _event(self, kind: str, **fields: Any) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _json({"type": kind} | fields))

    def begin(self) -> bytes:
        return self._event("message_start", message=self._message) + self._event("ping")

    def events(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The SSE events of ``deltas``; a Finish ends the message."""
        return b"".join([self._of(delta) for delta in deltas])

    def _of(self, delta: ModelDelta) -> bytes:
        if isinstance(delta, TextDelta | RefusalDelta):
            return self._piece("text", "text", delta.text)
        if isinstance(delta, ReasoningDelta | SummaryDelta):
            return self._piece("thinking", "thinking", delta.text)
        if isinstance(delta, CallStart):
            return self._open({"type": "tool_use", "id": delta.call_id, "name": delta.name, "input": {}})
        if isinstance(delta, CallDelta):
            return self._piece("tool_use", "partial_json", delta.arguments)
        return self._finish(delta) if isinstance(delta, Finish) else b""

    def _piece(self, kind: str, field: str, text: str) -> bytes:
        sent = b""
        if self._kind != kind:
            empty: Json = {"signature": ""} if kind == "thinking" else {}
            sent = self._open({"type": kind, field: ""} | empty)
        if not self._head:
            # A stream is mostly pieces, so what surrounds their text is made once a block.
            name = "input_json" if field == "partial_json" else kind
            delta = {"type": f"{name}_delta", field: "\0"}
            at = len(self._content) - 1
            whole = self._event("content_block_delta", index=at, delta=delta)
            self._head, self._tail = whole.split(b'"\\u0000"')
        self._pieces.append(text)
        return b"%b%b%b%b" % (sent, self._head, _json(text), self._tail)

    def _open(self, block: Json) -> bytes:
        sent = self._close()
        self._content.append(block)
        self._kind, self._head, self._pieces = block["type"], b"", []
        return sent + self._event("content_block_start", index=len(self._content) - 1, content_block=block)

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        at, block, text = len(self._content) - 1, dict(self._content[-1]), "".join(self._pieces)
        sent = b""
        if self._kind == "thinking":
            block |= {"thinking": text, "signature": SIGNED + text}
            delta = {"type": "signature_delta", "signature": SIGNED + text}
            sent = self._event("content_block_delta", index=at, delta=delta)
        elif self._kind == "tool_use":
            block["input"] = msgspec.json.decode(text) if text else {}
        else:
            block["text"] = text
        self._content[at] = block
        self._kind = ""
        return sent + self._event("content_block_stop", index=at)

    def _finish(self, finish: Finish) -> bytes:
        sent = self._close()
        delta = {"stop_reason": _STOP.get(finish.reason, "end_turn"), "stop_sequence": None}
        usage = _usage(finish.usage or Usage())
        self._message = self._message | delta | {"content": self._content, "usage": usage}
        return sent + self._event("message_delta", delta=delta, usage=usage) + self._event("message_stop")

    def whole(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The message as one JSON body."""
        self.events(deltas)
        return _json(self._message)
