"""Errors of Google's APIs (``google.rpc.Status``), translated by table.

The error's details say more than its status: why a key is refused, which quota is used up, and how long
to wait. A quota of a day is not worth a retry. A stream that is no SSE wraps its error in an array.
Source: https://google.aip.dev/193 and https://ai.google.dev/gemini-api/docs/troubleshooting.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from stateline.core.errors import ModelError
from stateline.models.formats.errors import ErrorBody, retry_after_s, translate

_BY_STATUS = {
    "UNAUTHENTICATED": "invalid_authentication",
    "PERMISSION_DENIED": "permission_denied",
    # The account's place or its billing, never the request.
    "FAILED_PRECONDITION": "permission_denied",
    "NOT_FOUND": "model_not_found",
    "RESOURCE_EXHAUSTED": "rate_limit_exceeded",
    "UNAVAILABLE": "overloaded_error",
    "DEADLINE_EXCEEDED": "timeout",
    "INTERNAL": "server_error",
    "CANCELLED": "server_error",
    "UNKNOWN": "server_error",
    "ABORTED": "server_error",
}
_BY_REASON = {
    "API_KEY_INVALID": "invalid_authentication",
    "ACCESS_TOKEN_EXPIRED": "invalid_authentication",
    "BILLING_DISABLED": "billing_not_active",
}
_BY_WORDS = (
    ("api key not valid", "invalid_authentication"),
    ("api key expired", "invalid_authentication"),
    ("exceeds the maximum number of tokens", "context_length_exceeded"),
    ("prepayment credits are depleted", "insufficient_quota"),
)


class _Violation(msgspec.Struct):
    quotaId: str | None = None


class Detail(msgspec.Struct):
    """Any of the details that we read; ``retryDelay`` is a duration, such as ``36.5s``."""

    reason: str | None = None
    retryDelay: str | None = None
    violations: list[_Violation] | None = None


class Status(msgspec.Struct):
    """A ``google.rpc.Status`` as JSON, with its name."""

    code: int | None = None
    message: str | None = None
    status: str | None = None
    details: list[msgspec.Raw] | None = None


class _Envelope(msgspec.Struct):
    error: Status


_envelopes = msgspec.json.Decoder(_Envelope | list[_Envelope]).decode
_detail = msgspec.json.Decoder(Detail).decode


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """The error that an answer with this status says.

    ``headers`` has to look names up whatever their case, or have them in lower case.
    """
    try:
        found = _envelopes(body)
        said = found.error if isinstance(found, _Envelope) else (found[0].error if found else Status())
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = Status(message=body.decode("utf-8", "replace"))
    error = translate_status(status, said)
    if error.retryable and error.retry_after_s is None:
        error.retry_after_s = retry_after_s(headers)
    return error


def translate_status(status: int | None, said: Status) -> ModelError:
    """The error of a status; ``status`` is None where it stands inside a good answer."""
    details = _details(said)
    code = _BY_STATUS.get(said.status or "")
    words = (said.message or "").lower()
    code = next((known for phrase, known in _BY_WORDS if phrase in words), code)
    for detail in details:
        code = _BY_REASON.get(detail.reason or "", code)
        if any("PerDay" in (each.quotaId or "") for each in detail.violations or ()):
            code = "insufficient_quota"
    error = translate(status if status is not None else said.code, ErrorBody(message=said.message, code=code))
    if error.retryable:
        delays = [delay for each in details if (delay := _seconds(each.retryDelay)) is not None]
        error.retry_after_s = max(delays, default=None)
    return error


def _details(said: Status) -> list[Detail]:
    """The details that have the shape of one that we know."""
    found: list[Detail] = []
    for raw in said.details or ():
        try:
            found.append(_detail(raw))
        except msgspec.DecodeError:
            continue
    return found


def _seconds(duration: str | None) -> float | None:
    try:
        value = float((duration or "").removesuffix("s"))
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
