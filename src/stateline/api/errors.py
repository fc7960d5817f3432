"""Errors as a client sees them: one object, in the dialect's own words, with a stable code."""

from __future__ import annotations

from typing import Literal

import msgspec

from stateline.core.errors import ModelError, RateLimited, StatelineError
from stateline.core.response import Dialect, ErrorEvent, ErrorPayload, FlatErrorEvent

Header = tuple[bytes, bytes]
Shape = Dialect | Literal["anthropic"]
"""Whose error object a request is answered with."""

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_OPEN_RESPONSES_TYPES = {404: "not_found", 429: "too_many_requests"}

_encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The client hung up before its request was whole; there is nobody to answer."""


def error_type(error: StatelineError, dialect: Shape) -> str:
    """The dialect's word for a kind of error.

    Open Responses has invalid_request, not_found, too_many_requests, model_error and server_error;
    OpenAI and Anthropic name their own.
    """
    status = error.status
    if dialect == "anthropic":
        return _ANTHROPIC_TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    if dialect == "openai":
        return _OPENAI_TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    if isinstance(error, ModelError) and status != 429:
        return "model_error"
    return _OPEN_RESPONSES_TYPES.get(status) or ("invalid_request" if status < 500 else "server_error")


def payload(error: StatelineError, dialect: Shape) -> ErrorPayload:
    return ErrorPayload(type=error_type(error, dialect), code=error.code, message=error.message, param=error.param)


def error_body(error: StatelineError, dialect: Shape) -> bytes:
    """``{"error": {"type", "code", "message", "param"}}``; Anthropic's says that it is one, too."""
    if dialect == "anthropic":
        return _encode({"type": "error", "error": payload(error, dialect)})
    return _encode({"error": payload(error, dialect)})


def error_headers(error: StatelineError, *, durable: bool) -> list[Header]:
    """Whether and when another try makes sense, in the headers that the official SDKs read."""
    headers: list[Header] = []
    if error.retry_after_s is not None and not durable:
        headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
    futile = isinstance(error, ModelError) and not error.retryable
    if isinstance(error, RateLimited):
        futile = error.until_ms is None
    spent = error.code == "insufficient_quota"
    if durable or futile or spent or (error.blame == "client" and error.status in (408, 409)):
        # The SDKs retry 408, 409, 429 and 5xx by themselves; this request would fail again.
        headers.append((b"x-should-retry", b"false"))
    return headers


def error_event(error: StatelineError, dialect: Dialect, number: int) -> ErrorEvent | FlatErrorEvent:
    """The stream event for an error after the headers; nested or flat, as the dialect has it."""
    if dialect == "openai":
        return FlatErrorEvent(
            type="error", sequence_number=number, code=error.code, message=error.message, param=error.param
        )
    return ErrorEvent(type="error", sequence_number=number, error=payload(error, dialect))


class WebSocketErrorEvent(msgspec.Struct, frozen=True):
    """What goes wrong on a WebSocket. ``status`` is what HTTP would have answered."""

    type: Literal["error"]
    status: int
    error: ErrorPayload


def websocket_error(error: StatelineError, dialect: Dialect) -> bytes:
    """Open Responses' ``WebSocketErrorEvent``, which is OpenAI's, too."""
    return _encode(WebSocketErrorEvent("error", error.status, payload(error, dialect)))


def internal_error(request_id: str) -> StatelineError:
    """What is said of a defect: nothing of its insides, only where the log has more."""
    return StatelineError(f"The server failed on this request. Its log has more under request id {request_id}.")
