"""Between the server and the handlers: everything that is the same for every request.

One ASGI layer: request id, who is calling, which handler, errors into the dialect's object, access log and metrics.
The busiest paths are found in a dict; the others go through Starlette's router.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import cast

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from stateline.api.access import CLIENT_CLOSED, AccessLine, AccessLog, now_s
from stateline.api.auth import Authenticator, challenge, require
from stateline.api.call import Call
from stateline.api.errors import ClientGone, error_body, error_headers, internal_error
from stateline.api.metrics import RequestMetrics
from stateline.api.names import request_id as request_id_of
from stateline.api.proxies import TrustedProxies
from stateline.core.errors import BadRequest, NotFound, StatelineError
from stateline.core.limits import QUERY_BYTES_MAX
from stateline.engine.correlation import current_trace, leave

Handler = Callable[[Call], Awaitable[None]]

_log = logging.getLogger("stateline.api")


class MethodNotAllowed(BadRequest):
    code = "method_not_allowed"
    status = 405

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class Bound:
    """A handler as an ASGI application, with what its route requires."""

    __slots__ = ("_anthropic", "_handler", "_openai_only", "_scope", "allow", "path")

    def __init__(
        self, handler: Handler, path: str, scope: str | None, *, allow: str, openai_only: bool, anthropic: bool
    ) -> None:
        self.path = path
        self.allow = allow
        self._handler = handler
        self._scope = scope
        self._openai_only = openai_only
        self._anthropic = anthropic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.run(cast(Call, scope["stateline.call"]), cast(Authenticator, scope["stateline.auth"]))

    async def run(self, call: Call, auth: Authenticator) -> None:
        call.route = self.path
        call.anthropic = self._anthropic
        if not call.dialect_is_known:
            raise BadRequest(
                "Unknown Stateline-Dialect: send open-responses or openai.",
                code="invalid_value",
                param="Stateline-Dialect",
            )
        if self._openai_only:
            call.dialect = "openai"
        if self._scope is not None:
            call.principal = await auth.authenticate(call.headers)
            require(call.principal, self._scope)
        await self._handler(call)


class Edge:
    """The outermost layer. ``hot`` maps (method, path) to handlers that need no router.

    ``sockets`` takes WebSockets.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        auth: Authenticator,
        hot: Mapping[tuple[str, str], Bound],
        proxies: TrustedProxies,
        metrics: RequestMetrics,
        access: AccessLog,
        sockets: ASGIApp,
    ) -> None:
        self._app = app
        self._sockets = sockets
        self._auth = auth
        self._hot = hot
        self._proxies = proxies
        self._metrics = metrics
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (self._sockets if scope["type"] == "websocket" else self._app)(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = request_id_of(headers.get(b"x-request-id"))
        call = Call(scope, receive, send, request_id, headers)
        self._metrics.in_flight += 1
        try:
            await self._dispatch(call)
        except ClientGone:
            call.status = call.status or CLIENT_CLOSED
        except StatelineError as error:
            await self._refuse(call, error)
        except HTTPException as error:
            await self._refuse(call, _routing_error(call, error))
        except Exception as error:
            _log.exception("request %s failed: %s %s", request_id, call.method, call.path)
            await self._refuse(call, internal_error(request_id), error)
        finally:
            self._metrics.in_flight -= 1
            self._finish(call)

    async def _dispatch(self, call: Call) -> None:
        bound = self._hot.get((call.method, call.path))
        if bound is not None:
            await bound.run(call, self._auth)
            return
        if len(call.query) > QUERY_BYTES_MAX:
            raise BadRequest(f"The query is longer than {QUERY_BYTES_MAX} bytes.", code="query_too_long")
        call.scope["stateline.call"] = call
        call.scope["stateline.auth"] = self._auth
        await self._app(call.scope, call.receive, call.send)

    async def _refuse(self, call: Call, error: StatelineError, defect: Exception | None = None) -> None:
        if call.status:
            # The answer has begun: all that can be done is to cut it, so that it is not taken for whole.
            raise defect or error
        headers = error_headers(error, durable=call.durable)
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", error.allow.encode()))
        if error.status == 401:
            headers.append((b"www-authenticate", challenge(error)))
        await call.reply(error_body(error, call.shape), error.status, headers)

    def _finish(self, call: Call) -> None:
        duration_s = perf_counter() - call.started_at
        status = call.status or 500
        trace = current_trace()
        self._metrics.record(call.route or "other", call.method if call.route else "other", status, duration_s)
        if self._access.enabled:
            principal = getattr(call, "principal", None)
            trace_id, span_id = trace or ("", "")
            self._access.add(
                AccessLine(
                    at=now_s(),
                    request_id=call.request_id,
                    method=call.method,
                    path=call.path,
                    status=status,
                    duration_ms=round(duration_s * 1000, 3),
                    bytes=call.bytes_sent,
                    client=self._proxies.client(call.scope, call.headers),
                    tenant=principal.tenant if principal else "",
                    principal=principal.id if principal else "",
                    trace_id=trace_id,
                    span_id=span_id,
                )
            )
        if trace is not None:
            leave()


def _routing_error(call: Call, error: HTTPException) -> StatelineError:
    endpoint = call.scope.get("endpoint")
    if error.status_code == 405 and isinstance(endpoint, Bound):
        return MethodNotAllowed(f"Not allowed: {call.method} on this path; use {endpoint.allow}.", endpoint.allow)
    return NotFound(f"Unknown path: {call.method} {call.path[:200]}.", code="unknown_url")
