"""The application: the route table behind the edge."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import time
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stateline.api.access import AccessLog
from stateline.api.auth import Authenticator, KeyAdmin, SecretAdmin
from stateline.api.edge import Bound, Edge
from stateline.api.metrics import RequestMetrics
from stateline.api.openapi import document
from stateline.api.operator import Operator
from stateline.api.proxies import TrustedProxies
from stateline.api.rates import RATE_HEADERS
from stateline.api.service import Service
from stateline.api.table import ROUTES
from stateline.api.websocket import Sockets
from stateline.engine import Engine

_PREFLIGHT_S = 600


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator may set of the API.

    Attributes:
        cors_origins: origins of browsers that may call, or ``*``; none: no CORS headers at all.
        trusted_proxies: addresses or networks whose X-Forwarded-* headers are believed.
    """

    cors_origins: Sequence[str] = ()
    trusted_proxies: Sequence[str] = ()


def create_app(
    engine: Engine,
    auth: Authenticator,
    options: Options | None = None,
    keys: KeyAdmin | None = None,
    operator: Operator | None = None,
    *,
    vault: SecretAdmin | None = None,
) -> Starlette:
    """The ASGI application.

    Args:
        engine: started and stopped by the caller.
        keys: where API keys are kept, for ``/v1/admin/keys``; None: that path answers 404.
        operator: who does what else is under ``/v1/admin``; None: 404 as well.
        vault: where tools' credentials are kept; None: 404 as well.
    """
    options = options or Options()
    metrics = RequestMetrics()
    engine.show(metrics.readings)
    access = AccessLog()
    service = Service(engine, keys, metrics, started_at=int(time()), operator=operator, vault=vault)
    service.openapi = document(ROUTES)
    hot: dict[tuple[str, str], Bound] = {}
    routes: list[Route] = []
    for route in ROUTES:
        path = route.path.replace(":path", "")
        allow = ", ".join(sorted(each.method for each in ROUTES if each.path == route.path))
        handler = partial(route.handler, service)
        bound = Bound(handler, path, route.scope, allow=allow, openai_only=route.openai_only, anthropic=route.anthropic)
        routes.append(Route(route.path, bound, methods=[route.method]))
        if route.hot:
            hot[route.method, route.path] = bound
    proxies = TrustedProxies(options.trusted_proxies)

    sockets = Sockets(service, auth, access, proxies, options.cors_origins)

    def edge(inner: ASGIApp) -> ASGIApp:
        outer = Edge(inner, auth=auth, hot=hot, proxies=proxies, metrics=metrics, access=access, sockets=sockets)
        return _cors(outer, options.cors_origins) if options.cors_origins else outer

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
        access.flush()

    app = Application(edge, routes=routes, lifespan=lifespan)
    app.router.redirect_slashes = False
    app.state.access = access
    logging.getLogger("stateline.api").debug("%d routes", len(routes))
    return app


class Application(Starlette):
    """Starlette's router and lifespan, inside the edge, which answers every error in the dialect's own shape."""

    def __init__(self, edge: Callable[[ASGIApp], ASGIApp], **options: Any) -> None:
        super().__init__(**options)
        self._edge = edge(self.router)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        """No coroutine of its own around each request."""
        scope["app"] = self
        return self._edge(scope, receive, send)


def _cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "x-should-retry", "retry-after", *RATE_HEADERS],
        max_age=_PREFLIGHT_S,
    )
