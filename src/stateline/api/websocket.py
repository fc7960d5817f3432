"""The Responses API over a WebSocket: ``GET /v1/responses``, upgraded.

Each message begins a response, which runs as one of ``POST /v1/responses`` with ``stream`` does; its events go out
one a message. What a request brings with its headers over HTTP comes once, with the handshake.

Source: Open Responses, ``x-openresponses-websocket``; OpenAI's guide "WebSocket mode".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from time import perf_counter

import msgspec
from starlette.types import Message, Receive, Scope, Send

from stateline.api.access import CLIENT_CLOSED, AccessLine, AccessLog, now_s
from stateline.api.auth import SCOPE_API, Authenticator, Principal, challenge, require
from stateline.api.call import dialect_of
from stateline.api.errors import Header, error_body, error_headers, internal_error, websocket_error
from stateline.api.names import new_name, request_id
from stateline.api.parse import parse_create_event
from stateline.api.proxies import TrustedProxies
from stateline.api.routes.responses import submit
from stateline.api.service import Service
from stateline.core.errors import BadRequest, Forbidden, NotFound, StatelineError
from stateline.core.limits import WEBSOCKET_AGE_S, WEBSOCKET_IDLE_S, WEBSOCKET_WAITING_MAX, WEBSOCKETS_MAX
from stateline.core.response import Dialect
from stateline.engine import Accepted
from stateline.engine.correlation import current_trace, leave

PATH = "/v1/responses"
_METHOD = "WEBSOCKET"
_NORMAL, _GOING_AWAY = 1000, 1001
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("stateline.api")


class OriginNotAllowed(Forbidden):
    code = "origin_not_allowed"


class TooManyWebSockets(StatelineError):
    code = "too_many_websockets"
    status = 503
    blame = "stateline"


class TooManyWaiting(StatelineError):
    code = "too_many_messages_waiting"
    status = 429
    blame = "client"


class ConnectionTooOld(BadRequest):
    code = "websocket_connection_limit_reached"


class Sockets:
    """Takes handshakes. ``origins`` are those of browsers that may call, as CORS has them."""

    def __init__(
        self,
        service: Service,
        auth: Authenticator,
        access: AccessLog,
        proxies: TrustedProxies,
        origins: Sequence[str],
    ) -> None:
        self.service = service
        self.auth = auth
        self._access = access
        self._proxies = proxies
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        socket = Socket(self, scope, headers, receive, send)
        metrics = self.service.metrics
        began_at = perf_counter()
        await receive()  # The handshake, which is in ``scope``.
        try:
            principal = await self._admit(scope, headers, socket)
        except StatelineError as error:
            await socket.refuse(error)
            self.record(socket, socket.request_id, error.status, began_at)
            return
        except Exception:
            _log.exception("handshake %s failed", socket.request_id)
            error = internal_error(socket.request_id)
            await socket.refuse(error)
            self.record(socket, socket.request_id, error.status, began_at)
            return
        metrics.websockets += 1
        try:
            await socket.run()
        except OSError:
            pass  # The client went while something was on its way to it.
        finally:
            metrics.websockets -= 1
            self.record(socket, socket.request_id, 101, began_at, who=principal)

    async def _admit(self, scope: Scope, headers: Mapping[bytes, bytes], socket: Socket) -> Principal:
        if scope["path"] != PATH:
            raise NotFound(f"Unknown path for a WebSocket: {scope['path'][:200]}; use {PATH}.", code="unknown_url")
        if dialect_of(headers) is None:
            raise BadRequest(
                "Unknown Stateline-Dialect: send open-responses or openai.",
                code="invalid_value",
                param="Stateline-Dialect",
            )
        self._check_origin(headers)
        principal = await socket.authenticate()
        if self.service.metrics.websockets >= WEBSOCKETS_MAX:
            text = f"{WEBSOCKETS_MAX} WebSockets are open here; close one, or use HTTP."
            raise TooManyWebSockets(text, retry_after_s=5)
        return principal

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """A browser asks nobody before it opens a WebSocket to a foreign host, so the server has to look."""
        origin = headers.get(b"origin")
        if origin is None or "*" in self._origins or origin.decode("latin-1") in self._origins:
            return
        if origin.partition(b"://")[2] != headers.get(b"host"):
            raise OriginNotAllowed("Pages of this origin may not call: name it in server.cors_origins.")

    def record(
        self, socket: Socket, name: str, status: int, began_at: float, *, who: Principal | None = None, size: int = 0
    ) -> None:
        """Count a handshake, a connection or a response, and log it."""
        duration_s = perf_counter() - began_at
        path = socket.scope["path"]
        if status != 101:
            # How long a connection stays open says nothing of how fast the server answers.
            self.service.metrics.record(PATH if path == PATH else "other", _METHOD, status, duration_s)
        if self._access.enabled:
            trace_id, span_id = current_trace() or ("", "")
            self._access.add(
                AccessLine(
                    at=now_s(),
                    request_id=name,
                    method=_METHOD,
                    path=path,
                    status=status,
                    duration_ms=round(duration_s * 1000, 3),
                    bytes=size,
                    client=self._proxies.client(socket.scope, socket.headers),
                    tenant=who.tenant if who else "",
                    principal=who.id if who else "",
                    trace_id=trace_id,
                    span_id=span_id,
                )
            )


class Socket:
    """One connection: its messages in turn, one response at a time."""

    def __init__(
        self, sockets: Sockets, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        self.scope = scope
        self.headers = headers
        self.request_id = request_id(headers.get(b"x-request-id"))
        self._sockets = sockets
        self._dialect: Dialect = dialect_of(headers) or "open-responses"
        self._receive = receive
        self._send = send
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._sent = 0

    async def authenticate(self) -> Principal:
        """Who speaks. Asked again for each message: a key may be revoked while the connection is open.

        Raises:
            Unauthorized, Forbidden: as for a request over HTTP.
        """
        principal = await self._sockets.auth.authenticate(self.headers)
        require(principal, SCOPE_API)
        return principal

    async def refuse(self, error: StatelineError) -> None:
        """Answer the handshake as HTTP answers a request."""
        body = error_body(error, self._dialect)
        headers: list[Header] = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id.encode()),
            *error_headers(error, durable=False),
        ]
        if error.status == 401:
            headers.append((b"www-authenticate", challenge(error)))
        await self._send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body})

    async def run(self) -> None:
        """Accept, and answer until one side goes."""
        await self._send({"type": "websocket.accept", "headers": [(b"x-request-id", self.request_id.encode())]})
        loop = asyncio.get_running_loop()
        old_at = loop.time() + WEBSOCKET_AGE_S
        reader = loop.create_task(self._read())
        try:
            while True:
                until = min(old_at, loop.time() + WEBSOCKET_IDLE_S)
                try:
                    async with asyncio.timeout_at(until):
                        message = await self._waiting.get()
                except TimeoutError:
                    await self._end(old=until == old_at)
                    return
                if message is None:
                    return
                await self._answer(message, reader)
        finally:
            reader.cancel()

    async def _end(self, *, old: bool) -> None:
        if old:
            error = ConnectionTooOld(f"This connection is {WEBSOCKET_AGE_S:g} s old: open a new one and go on there.")
            await self._write(websocket_error(error, self._dialect))
        code, reason = (_NORMAL, "too old") if old else (_GOING_AWAY, "idle")
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _read(self) -> None:
        """Put messages in line, and notice the end of the connection while a response runs."""
        while True:
            message: Message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._waiting.put_nowait(None)
                return
            text: str | None = message.get("text")
            data = text.encode() if text is not None else message.get("bytes") or b""
            if self._waiting.qsize() < WEBSOCKET_WAITING_MAX:
                self._waiting.put_nowait(data)
                continue
            error = TooManyWaiting(f"{WEBSOCKET_WAITING_MAX} messages wait already: one response runs at a time.")
            try:
                await self._write(websocket_error(error, self._dialect))
            except OSError:
                self._waiting.put_nowait(None)
                return

    async def _answer(self, message: bytes, reader: asyncio.Task[None]) -> None:
        """One response from its message to its last event."""
        name = new_name("req_", 12)
        began_at, sent = perf_counter(), self._sent
        principal: Principal | None = None
        status = 500
        metrics = self._sockets.service.metrics
        metrics.in_flight += 1
        try:
            principal = await self.authenticate()
            # A stored turn is in the log behind this, so a client that hangs up must not interrupt it.
            accepted = await submit(self._sockets.service, principal, parse_create_event(message), message)
            status = await self._stream(accepted, reader)
        except StatelineError as error:
            status = error.status
            await self._write(websocket_error(error, self._dialect))
        except OSError:
            status = CLIENT_CLOSED
            raise
        except Exception:
            _log.exception("request %s failed: a message on a WebSocket", name)
            await self._write(websocket_error(internal_error(name), self._dialect))
        finally:
            metrics.in_flight -= 1
            self._sockets.record(self, name, status, began_at, who=principal, size=self._sent - sent)
            # The next message on this connection is of another trace.
            leave()

    async def _stream(self, accepted: Accepted, reader: asyncio.Task[None]) -> int:
        """The events of a turn, until its end or the client's. Returns the status for the log."""
        events = asyncio.get_running_loop().create_task(self._write_events(accepted))
        try:
            await asyncio.wait((events, reader), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Its reader gone, a turn that is not stored ends; a stored one goes on by itself.
            if not events.done():
                events.cancel()
                await asyncio.wait((events,))
        if events.cancelled():
            return CLIENT_CLOSED
        events.result()
        return 200

    async def _write_events(self, accepted: Accepted) -> None:
        async with aclosing(self._sockets.service.engine.stream(accepted, dialect=self._dialect)) as batches:
            async for batch in batches:
                for event in batch:
                    await self._write(_encode(event))

    async def _write(self, data: bytes) -> None:
        self._sent += len(data)
        await self._send({"type": "websocket.send", "text": data.decode()})
