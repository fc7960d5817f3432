"""Errors of OpenAI's API and of those that speak it, translated by table.

The tables are read in this order: the provider's own code or type, then its words where servers
have no code, then the HTTP status. The provider's text is always kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import msgspec

from stateline.core.errors import Blame, ModelError
from stateline.core.limits import PROVIDER_MESSAGE_CHARS_MAX


class Rule(NamedTuple):
    """What one kind of failure is to us: our code, the status we answer with, whose fault it is."""

    code: str
    status: int
    retryable: bool
    blame: Blame = "upstream"


_CONTEXT = Rule("context_length_exceeded", 400, retryable=False, blame="client")
_FILTERED = Rule("content_filter", 400, retryable=False, blame="client")
_REJECTED = Rule("upstream_rejected", 400, retryable=False, blame="client")
_TOO_LARGE = Rule("request_too_large", 413, retryable=False, blame="client")
_AUTH = Rule("upstream_auth_failed", 502, retryable=False, blame="operator")
_PERMISSION = Rule("upstream_permission_denied", 502, retryable=False, blame="operator")
_NO_MODEL = Rule("upstream_model_not_found", 502, retryable=False, blame="operator")
_QUOTA = Rule("insufficient_quota", 429, retryable=False, blame="operator")
_RATE = Rule("rate_limited", 429, retryable=True)
_OVERLOADED = Rule("upstream_overloaded", 503, retryable=True)
_TIMEOUT = Rule("upstream_timeout", 504, retryable=True)
_FAILED = Rule("upstream_error", 502, retryable=True)
_UNSUPPORTED = Rule("upstream_error", 502, retryable=False)

_BY_CODE: dict[str, Rule] = {
    "context_length_exceeded": _CONTEXT,
    "exceed_context_size_error": _CONTEXT,
    "string_above_max_length": _TOO_LARGE,
    "content_filter": _FILTERED,
    "content_policy_violation": _FILTERED,
    "responsibleaipolicyviolation": _FILTERED,
    "invalid_prompt": _FILTERED,
    "invalid_api_key": _AUTH,
    "invalid_authentication": _AUTH,
    "authentication_error": _AUTH,
    "authenticationerror": _AUTH,
    "account_deactivated": _AUTH,
    "permission_error": _PERMISSION,
    "permission_denied": _PERMISSION,
    "permissiondeniederror": _PERMISSION,
    "unsupported_country_region_territory": _PERMISSION,
    "model_not_found": _NO_MODEL,
    "deploymentnotfound": _NO_MODEL,
    "notfounderror": _NO_MODEL,
    "insufficient_quota": _QUOTA,
    "billing_hard_limit_reached": _QUOTA,
    "billing_not_active": _QUOTA,
    "insufficient_balance": _QUOTA,
    "rate_limit_exceeded": _RATE,
    "rate_limit_error": _RATE,
    "ratelimiterror": _RATE,
    "billing_error": _QUOTA,
    "not_found_error": _NO_MODEL,
    "request_too_large": _TOO_LARGE,
    "tokens": _RATE,
    "requests": _RATE,
    "overloaded_error": _OVERLOADED,
    "engine_overloaded": _OVERLOADED,
    "unavailable_error": _OVERLOADED,
    "slow_down": _OVERLOADED,
    "timeout": _TIMEOUT,
    "timeout_error": _TIMEOUT,
    "vector_store_timeout": _TIMEOUT,
    "server_error": _FAILED,
    "internal_error": _FAILED,
    "api_error": _FAILED,
    "internalservererror": _FAILED,
}
"""By the provider's `code` or `type`, lower-case: OpenAI's, and those of the servers that copy it."""

_BY_WORDS: tuple[tuple[str, Rule], ...] = (
    ("maximum context length", _CONTEXT),
    ("exceeds the available context size", _CONTEXT),
    ("context window", _CONTEXT),
    # Anthropic, whose every refusal has the type invalid_request_error.
    ("prompt is too long", _CONTEXT),
    ("exceed context limit", _CONTEXT),
    ("content filtering policy", _FILTERED),
    ("credit balance is too low", _QUOTA),
)
"""By a phrase of the message, for client errors of servers that send no code of their own."""

_BY_STATUS: dict[int, Rule] = {
    401: _AUTH,
    402: _QUOTA,
    403: _PERMISSION,
    404: _NO_MODEL,
    408: _TIMEOUT,
    409: _FAILED,
    413: _TOO_LARGE,
    425: _OVERLOADED,
    429: _RATE,
    501: _UNSUPPORTED,
    503: _OVERLOADED,
    504: _TIMEOUT,
    529: _OVERLOADED,
}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class ErrorBody(msgspec.Struct):
    """The `error` object; servers differ in the types of all but the message."""

    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    param: str | int | None = None


class _Envelope(msgspec.Struct):
    """`{"error": {…}}`, `{"error": "text"}`, `{"detail": …}`, or the error itself at the top."""

    error: ErrorBody | str | None = None
    detail: Any = None
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


_envelope = msgspec.json.Decoder(_Envelope)


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """The error that an answer with this status says.

    ``headers`` has to look names up whatever their case, or have them in lower case.
    """
    error = translate(status, read_body(body))
    after = retry_after_s(headers)
    error.retry_after_s = after if error.retryable else None
    if (hint := headers.get("x-should-retry")) in ("true", "false"):
        error.retryable = hint == "true"
    if request_id := headers.get("x-request-id") or headers.get("request-id"):
        error.message = f"{error.message} (provider's request {request_id[:100]})"
        error.args = (error.message,)
    return error


def translate(status: int | None, body: ErrorBody) -> ModelError:
    """The error of an answer, or, where ``status`` is None, of an event inside a good answer."""
    if isinstance(body.code, int) and status is None and 400 <= body.code < 600:
        status = body.code
    rule = _rule(status, body)
    said = (body.message or "").strip()[:PROVIDER_MESSAGE_CHARS_MAX] or None
    answered = f"with {status}" if status is not None else "with an error in its answer"
    error = ModelError(
        f"the provider answered {answered}: {said or 'no reason given'}",
        code=rule.code,
        status=rule.status,
        retryable=rule.retryable,
        provider_status=status,
        provider_message=said,
    )
    error.blame = rule.blame
    if rule.blame == "client" and isinstance(body.param, str):
        error.param = body.param
    return error


def _rule(status: int | None, body: ErrorBody) -> Rule:
    for name in (body.code, body.type):
        if isinstance(name, str) and (rule := _BY_CODE.get(name.lower())):
            return rule
    if status is None or 400 <= status < 500:
        words = (body.message or "").lower()
        for phrase, rule in _BY_WORDS:
            if phrase in words:
                return rule
    if status is None:
        named = any(isinstance(name, str) and "invalid" in name for name in (body.code, body.type))
        return _REJECTED if named else _FAILED
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    if 400 <= status < 500:
        return _REJECTED
    return _FAILED if status >= 500 else _UNSUPPORTED


def read_body(body: bytes) -> ErrorBody:
    """What an error's body says, whatever its shape; text that is no JSON is the message."""
    try:
        found = _envelope.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ErrorBody(message=body.decode("utf-8", "replace"))
    if isinstance(found.error, ErrorBody):
        return found.error
    text = found.error or found.message
    if text is None and found.detail is not None:
        text = found.detail if isinstance(found.detail, str) else _json(found.detail)
    return ErrorBody(message=text or body.decode("utf-8", "replace"), type=found.type, code=found.code)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by `retry-after-ms`, `retry-after` or the limits that are used up.

    Those are OpenAI's (`x-ratelimit-reset-…`, a duration) and Anthropic's (`anthropic-ratelimit-…-reset`, an
    instant: https://platform.claude.com/docs/en/api/rate-limits). A date is read against the answer's own `date`,
    so no clock is needed.
    """
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000
    after = headers.get("retry-after")
    if after is not None:
        if (seconds := _number(after)) is not None:
            return seconds
        if (seconds := _until(after, headers.get("date"))) is not None:
            return seconds
    resets = [
        _duration(headers.get(f"x-ratelimit-reset-{what}"))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    now = headers.get("date")
    resets += [
        _until_instant(headers.get(f"anthropic-ratelimit-{what}-reset"), now)
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
        if headers.get(f"anthropic-ratelimit-{what}-remaining") == "0"
    ]
    return max((reset for reset in resets if reset is not None), default=None)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _until(then: str, now: str | None) -> float | None:
    try:
        wait = parsedate_to_datetime(then) - parsedate_to_datetime(now or "")
    except (TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())


def _until_instant(then: str | None, now: str | None) -> float | None:
    """From the answer's `date` to an RFC 3339 instant."""
    try:
        wait = datetime.fromisoformat((then or "").replace("Z", "+00:00")) - parsedate_to_datetime(now or "")
    except (TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())


def _duration(text: str | None) -> float | None:
    """`6m0s`, `1.5s`, `20ms`, or a plain number of seconds, in seconds."""
    if (seconds := _number(text)) is not None:
        return seconds
    parts = _DURATION.findall(text or "")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else None
