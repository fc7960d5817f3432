"""Errors with a stable code, a blame and a way out.

``blame`` says whose fault it is: ``client`` (the request), ``operator`` (configuration, disk),
``upstream`` (the model's provider), ``stateline`` (a defect here).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from stateline.core.calls import Usage

Blame = Literal["client", "operator", "upstream", "stateline"]
RateKind = Literal["requests", "tokens", "concurrency"]


class StatelineError(Exception):
    """Base of all errors that may reach a user.

    Attributes:
        code: stable, lower-case, documented in docs/errors.md.
        message: one sentence or two: what is wrong and what to do.
        param: the request's field at fault, or None.
        status: the HTTP status this error is answered with.
        retry_after_s: seconds after which another try makes sense, or None.
    """

    code: str = "internal_error"
    status: int = 500
    blame: Blame = "stateline"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class BadRequest(StatelineError):
    """The request cannot be served as it is; the same request will fail again."""

    code = "invalid_request"
    status = 400
    blame: Blame = "client"


class NotFound(BadRequest):
    """An id that does not exist, or that belongs to another tenant."""

    code = "not_found"
    status = 404


class Unauthorized(BadRequest):
    code = "invalid_api_key"
    status = 401


class Forbidden(BadRequest):
    code = "forbidden"
    status = 403


class Conflict(BadRequest):
    code = "conflict"
    status = 409


class Overloaded(StatelineError):
    """The node has no room now; another try later will do."""

    code = "overloaded"
    status = 503
    blame: Blame = "operator"


class RateLimited(StatelineError):
    """A limit of the caller's rate is reached; a later try will do, where ``retry_after_s`` says when.

    Attributes:
        kind: what is limited: ``requests`` or ``tokens`` a minute, or ``concurrency``.
        limit: how many; ``left``: how many of them are left now.
        until_ms: when the window ends, or another try makes sense (Unix time); None: this call never fits.
    """

    code = "rate_limit_exceeded"
    status = 429
    blame: Blame = "client"

    def __init__(
        self,
        message: str,
        *,
        kind: RateKind = "requests",
        limit: int = 0,
        left: int = 0,
        until_ms: int | None = None,
        at_ms: int = 0,
    ) -> None:
        retry_after_s = None if until_ms is None else max(1, -(-(until_ms - at_ms) // 1000))
        super().__init__(message, retry_after_s=retry_after_s)
        self.kind: RateKind = kind
        self.limit = limit
        self.left = left
        self.until_ms = until_ms


class NoDeployment(StatelineError):
    """Some deployments of the model could take the call, but none of them now; the message says why of each."""

    code = "no_deployment"
    status = 503
    blame: Blame = "upstream"


class StoreUnavailable(StatelineError):
    """The store cannot take writes (disk full, read-only, gone). Nothing was lost."""

    code = "store_unavailable"
    status = 503
    blame: Blame = "operator"


class ModelError(StatelineError):
    """A model call that failed, translated from the provider's own error.

    Attributes:
        retryable: whether the same call may succeed later or elsewhere.
        provider_status: the provider's HTTP status, or None when no answer came.
        provider_message: the provider's own text, kept.
        sent: whether any byte of the request may have reached the provider.
        usage: what the provider said that the call has used before it failed, or None.
    """

    code = "upstream_error"
    status = 502
    blame: Blame = "upstream"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool,
        status: int | None = None,
        retry_after_s: float | None = None,
        provider_status: int | None = None,
        provider_message: str | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message, code=code, status=status, retry_after_s=retry_after_s)
        self.retryable = retryable
        self.provider_status = provider_status
        self.provider_message = provider_message
        self.sent = sent
        self.usage: Usage | None = None


class IllegalTransition(StatelineError):
    """An event that the turn's table does not allow in its state: a defect, never input."""

    code = "illegal_transition"
