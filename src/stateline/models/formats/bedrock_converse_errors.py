"""Errors of Bedrock: of its HTTP answers and of the exceptions inside its streams.

The name of an exception (the header ``x-amzn-errortype``, ``__type`` or ``code`` in the body) decides, then
the words, then the status. The provider's text is kept, but for what it repeats of the request: an answer
to a wrong signature holds the canonical request, with the session's token in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from stateline.core.errors import ModelError
from stateline.models.formats.aws_eventstream import Message
from stateline.models.formats.errors import ErrorBody, retry_after_s, translate

_NAMES: dict[str, str] = {
    "accessdeniedexception": "permission_denied",
    "accessdenied": "permission_denied",
    "unrecognizedclientexception": "invalid_authentication",
    "invalidsignatureexception": "invalid_authentication",
    "signaturedoesnotmatch": "invalid_authentication",
    "incompletesignature": "invalid_authentication",
    "incompletesignatureexception": "invalid_authentication",
    "missingauthenticationtoken": "invalid_authentication",
    "missingauthenticationtokenexception": "invalid_authentication",
    "invalidclienttokenid": "invalid_authentication",
    "expiredtoken": "invalid_authentication",
    "expiredtokenexception": "invalid_authentication",
    "requestexpired": "invalid_authentication",
    "notauthorizedexception": "invalid_authentication",
    "optinrequired": "permission_denied",
    "resourcenotfoundexception": "model_not_found",
    "servicequotaexceededexception": "insufficient_quota",
    "throttlingexception": "rate_limit_exceeded",
    "throttledexception": "rate_limit_exceeded",
    "toomanyrequestsexception": "rate_limit_exceeded",
    "modelnotreadyexception": "overloaded_error",
    "serviceunavailableexception": "overloaded_error",
    "serviceunavailable": "overloaded_error",
    "modeltimeoutexception": "timeout",
    "internalserverexception": "server_error",
    "internalfailure": "server_error",
    "modelerrorexception": "server_error",
    "modelstreamerrorexception": "server_error",
}
"""By the exception's name, lower-case: the code by which OpenAI says the same, which `errors` knows."""

_WORDS: tuple[tuple[str, str], ...] = (
    ("model identifier is invalid", "model_not_found"),
    ("on-demand throughput", "model_not_found"),
    ("too long for requested model", "context_length_exceeded"),
    ("input is too long", "context_length_exceeded"),
    ("prompt is too long", "context_length_exceeded"),
    ("too many input tokens", "context_length_exceeded"),
    ("maximum context length", "context_length_exceeded"),
    ("context window", "context_length_exceeded"),
    ("exceed context limit", "context_length_exceeded"),
    ("blocked by our content filters", "content_filter"),
    ("blocked by the content filter", "content_filter"),
    ("security token included in the request is expired", "invalid_authentication"),
    ("api key", "invalid_authentication"),
)
"""By a phrase, for a ``ValidationException`` or an ``AccessDeniedException``, which say many things."""

_REPEATED = ("the canonical string for this request", "the string-to-sign should have been")


class _Body(msgspec.Struct):
    message: str | None = None
    Message: str | None = None
    originalMessage: str | None = None
    originalStatusCode: int | None = None
    type: str | None = msgspec.field(name="__type", default=None)
    code: str | int | None = None


_decode = msgspec.json.Decoder(_Body).decode


def decode_error(status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """The error that an answer with this status says.

    ``headers`` has to look names up whatever their case, or have them in lower case.
    """
    found = _read(body)
    name = headers.get("x-amzn-errortype") or found.type or (found.code if isinstance(found.code, str) else "") or ""
    error = _translated(status, name, found)
    after = retry_after_s(headers)
    error.retry_after_s = after if error.retryable else None
    if request_id := headers.get("x-amzn-requestid"):
        error.message = f"{error.message} (provider's request {request_id[:100]})"
        error.args = (error.message,)
    return error


def translate_exception(message: Message) -> ModelError:
    """The error of a message that is no event."""
    (kind, name, headers), payload = message
    if kind == "error":
        # An error of the transport itself: its text is in a header, and there is no payload.
        return _translated(None, name, _Body(message=str(headers.get(":error-message") or name)))
    return _translated(None, name, _read(payload))


def _read(body: bytes) -> _Body:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Body(message=body.decode("utf-8", "replace"))


def _translated(status: int | None, name: str, found: _Body) -> ModelError:
    said = _without_request(found.message or found.Message or "")
    if found.originalMessage and found.originalMessage not in said:
        said = f"{said} {found.originalMessage}".strip()
    # "ThrottlingException:http://internal.amazon.com/…" and "com.amazon.coral.service#Throttling…" are the same.
    short = name.partition(":")[0].rpartition("#")[2].strip()
    code = _NAMES.get(short.lower())
    if code in (None, "permission_denied"):
        words = said.lower()
        code = next((known for phrase, known in _WORDS if phrase in words), code)
    if code is None and status is None and short.lower() == "validationexception":
        code = "invalid_request"
    error = translate(status, ErrorBody(message=said or short or None, code=code))
    error.provider_status = status if status is not None else found.originalStatusCode
    return error


def _without_request(said: str) -> str:
    """The text up to where it repeats what was signed."""
    words = said.lower()
    cuts = [at for phrase in _REPEATED if (at := words.find(phrase)) >= 0]
    return said[: min(cuts)].rstrip() if cuts else said
