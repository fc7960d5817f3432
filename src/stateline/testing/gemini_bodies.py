"""Gemini in the scripted upstream: its requests as rules see them, and its bodies.

Written apart from ``models.formats`` on purpose, so that the two check one another. As models from Gemini 3
on do, it signs the first call of an answer, and refuses a call whose signature is neither its own nor the
word for calls that another model made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from stateline.core.calls import CallDelta, CallStart, Finish, ModelDelta, ReasoningDelta, SummaryDelta, TextDelta
from stateline.testing.converse import signature_of
from stateline.testing.scripted import Answer, Asked

Json = dict[str, Any]
UNSIGNED = "skip_thought_signature_validator"
_PATH = re.compile(r"/models/([^/:]+):(generateContent|streamGenerateContent)")
_FINISH = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}
_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_json = msgspec.json.Encoder().encode


class GeminiAsked(Asked):
    """A request as it came over HTTP."""

    __slots__ = ("body",)

    def __init__(self, body: Json, key: str, model: str, *, stream: bool) -> None:
        super().__init__(key, model, stream)
        self.body = body

    def _parts(self, role: str) -> list[Json]:
        """The parts of a role's contents, the last first."""
        contents: list[Json] = self.body.get("contents", [])
        return [part for each in reversed(contents) if each["role"] == role for part in reversed(each["parts"])]

    @property
    def user_text(self) -> str:
        return next((part["text"] for part in self._parts("user") if "text" in part), "")

    @property
    def tool_output(self) -> str | None:
        for part in self._parts("user"):
            if "functionResponse" in part:
                response: Json = part["functionResponse"]["response"]
                return str(response.get("output", response.get("error", "")))
            if "text" in part:
                return None
        return None

    @property
    def tool(self) -> tuple[str, Mapping[str, Any]] | None:
        offered: list[Json] = [each for tool in self.body.get("tools", ()) for each in tool["functionDeclarations"]]
        tools: dict[str, Json] = {each["name"]: each.get("parametersJsonSchema") or {} for each in offered}
        config: Json = self.body.get("toolConfig", {}).get("functionCallingConfig", {})
        if config.get("mode") == "NONE":
            return None
        names: list[str] = config.get("allowedFunctionNames") or list(tools)
        return (names[0], tools.get(names[0], {})) if names else None

    @property
    def schema(self) -> Mapping[str, Any] | None:
        config: Json = self.body.get("generationConfig", {})
        if config.get("responseMimeType") != "application/json":
            return None
        return config.get("responseJsonSchema") or {"type": "object"}

    def problem(self) -> str | None:
        """What Gemini would refuse in the contents, or None."""
        waiting: list[str] = []
        for at, content in enumerate(self.body.get("contents", [])):
            parts: list[Json] = content["parts"]
            answered = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
            if waiting != answered:
                return f"contents[{at}]: function responses {answered} behind the calls {waiting}"
            calls = [part for part in parts if "functionCall" in part]
            waiting = [part["functionCall"]["name"] for part in calls]
            if calls and calls[0].get("thoughtSignature") not in (UNSIGNED, _signature(calls[0]["functionCall"])):
                return f"contents[{at}]: Function call is missing a thought_signature"
        return f"contents: no function response for {waiting}" if waiting else None


def gemini_asked(path: str, body: Json, key: str) -> GeminiAsked | None:
    """The request, where the path is one of Gemini's."""
    found = _PATH.fullmatch(path.partition("?")[0])
    if found is None:
        return None
    return GeminiAsked(body, key, unquote(found[1]), stream=found[2] == "streamGenerateContent")


def _signature(call: Json) -> str:
    return signature_of(f"{call['name']} {msgspec.json.encode(call['args'], order='sorted').decode()}")


def gemini_refusal(answer: Answer) -> Json:
    """The body of an HTTP error."""
    status = answer.error_code or _STATUS.get(answer.status, "UNKNOWN")
    message = answer.error_message or f"scripted error {answer.status}"
    return {"error": {"code": answer.status, "message": message, "status": status}}


class GeminiBody:
    """An answer of Gemini's: the events of its stream, or the object alone."""

    def __init__(self, serial: int, model: str) -> None:
        self._base: Json = {"modelVersion": model, "responseId": f"scripted{serial}"}
        self._call: Json | None = None
        self._arguments: list[str] = []
        self._called = False

    def begin(self) -> bytes:
        return b""

    def events(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The events of ``deltas``; a Finish ends the stream."""
        found = [each for delta in deltas if (each := self._of(delta)) is not None]
        return b"".join([b"data: %b\r\n\r\n" % _json(each | self._base) for each in found])

    def whole(self, deltas: Iterable[ModelDelta]) -> bytes:
        """The answer as one JSON body."""
        parts: list[Json] = []
        last: Json = {}
        for delta in deltas:
            if (each := self._of(delta)) is not None:
                last = each
                for part in each["candidates"][0]["content"]["parts"]:
                    before = parts[-1] if parts else {}
                    if "text" in part and "text" in before and part.get("thought") == before.get("thought"):
                        before["text"] += part["text"]
                    else:
                        parts.append(part)
        candidate = last["candidates"][0] | {"content": {"role": "model", "parts": parts}}
        return _json(last | {"candidates": [candidate]} | self._base)

    def _of(self, delta: ModelDelta) -> Json | None:
        if isinstance(delta, TextDelta):
            return self._said([{"text": delta.text}])
        if isinstance(delta, ReasoningDelta | SummaryDelta):
            return self._said([{"text": delta.text, "thought": True}])
        if isinstance(delta, CallStart):
            done = self._ended()
            self._call, self._arguments = {"name": delta.name, "id": delta.call_id}, []
            return self._said(done) if done else None
        if isinstance(delta, CallDelta):
            self._arguments.append(delta.arguments)
            return None
        if not isinstance(delta, Finish):
            return None
        event = self._said(self._ended())
        event["candidates"][0]["finishReason"] = _FINISH.get(delta.reason, "STOP")
        if delta.usage is not None:
            event["usageMetadata"] = {
                "promptTokenCount": delta.usage.input_tokens,
                "cachedContentTokenCount": delta.usage.cached_tokens,
                "candidatesTokenCount": delta.usage.output_tokens - delta.usage.reasoning_tokens,
                "thoughtsTokenCount": delta.usage.reasoning_tokens,
            }
        return event

    def _said(self, parts: list[Json]) -> Json:
        return {"candidates": [{"index": 0, "content": {"role": "model", "parts": parts}}]}

    def _ended(self) -> list[Json]:
        """The open call, whole, as a part: calls are not streamed in pieces."""
        if self._call is None:
            return []
        call = self._call | {"args": msgspec.json.decode("".join(self._arguments) or "{}")}
        part: Json = {"functionCall": call}
        if not self._called:
            part["thoughtSignature"] = _signature(call)
        self._call, self._called = None, True
        return [part]
