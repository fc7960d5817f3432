"""One request and its answer on a connection of uvicorn's, made for answers of a few hundred microseconds.

uvicorn's protocol reads the requests. What it makes of each costs a third of a short answer: a regular
expression and a copy for every header, an event, two timers. This does what the application needs of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, cast

import httptools
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from stateline.api.joined import JoinedTransport
from stateline.core.limits import BODY_BYTES_MAX

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

_log = logging.getLogger("stateline.api")

_Message = dict[str, Any]
_NO_BODY = (204, 304)
_PERCENT, _HASH = b"%#"
_FAILED = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\nconnection: close\r\n\r\nInternal Server Error"
)


class Exchange:
    """A request as it comes in and its answer as it goes out; ``receive`` and ``send`` are ASGI's.

    One task at a time may wait in ``receive``.
    """

    __slots__ = (
        "_chunked", "_ended", "_expects_100", "_flow", "_gone", "_left", "_on_end", "_scope", "_transport", "_waiter",
        "body", "disconnected", "keep_alive", "more_body", "response_complete", "response_started",
    )  # fmt: skip

    def __init__(
        self,
        scope: _Message,
        transport: asyncio.Transport,
        flow: FlowControl,
        on_end: Callable[[], None],
        *,
        keep_alive: bool,
        expects_100: bool,
    ) -> None:
        self._scope = scope
        self._transport = transport
        self._flow = flow
        self._on_end = on_end
        self._expects_100 = expects_100
        self._ended = False
        self._chunked = False
        self._left = 0
        self._gone: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.keep_alive = keep_alive
        self.body = b""
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    # What uvicorn's protocol calls an event: something has changed that ``receive`` may wait for.

    @property
    def message_event(self) -> Exchange:
        return self

    def set(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._gone is not None and self.disconnected:
            self._gone()

    def watch(self, gone: Callable[[], None] | None) -> None:
        """Have ``gone`` called if the client hangs up before it has its whole answer; None: no more."""
        self._gone = gone
        # An end of the connection is heard of by reading alone.
        self._flow.resume_reading()

    async def run(self, app: ASGI3Application) -> None:
        """The application's answer; what it leaves undone closes the connection."""
        try:
            await app(cast(Any, self._scope), cast(Any, self.receive), cast(Any, self.send))
        except BaseException as error:
            _log.error("the answer failed", exc_info=error)
            if not self.response_started and not self.disconnected:
                self.response_started = self.response_complete = True
                self._transport.write(_FAILED)
            self._transport.close()
        else:
            if not self.response_complete and not self.disconnected:
                _log.error("the application ended without a whole answer")
                self._transport.close()

    async def receive(self) -> _Message:
        if self._expects_100 and not self._transport.is_closing():
            self._expects_100 = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._flow.resume_reading()
        while not (self.disconnected or self.response_complete):
            if self.body or not (self.more_body or self._ended):
                body, self.body = self.body, b""
                self._ended = not self.more_body
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return {"type": "http.disconnect"}

    async def send(self, message: _Message) -> None:
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._start(message["status"], message.get("headers", ()))

    def _start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._expects_100 = False
        content = [STATUS_LINE[status]]
        chunked = True
        for name, value in headers:
            if name == b"content-length":
                self._left = int(value)
                chunked = False
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
            content += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            content.append(b"connection: close\r\n")
        if chunked and self._scope["method"] != "HEAD" and status not in _NO_BODY:
            self._chunked = True
            content.append(b"transfer-encoding: chunked\r\n")
        content.append(b"\r\n")
        head = b"".join(content)
        lines = len(headers) + 2 + self._chunked + (not self.keep_alive)
        if head.count(b"\n") != lines or head.count(b"\r") != lines:
            raise ValueError("a header of the answer has a line break in it")
        self.response_started = True
        self._transport.write(head)

    def _write(self, body: bytes | bytearray, *, more: bool) -> None:
        if self.response_complete:
            raise RuntimeError("the answer has ended already")
        if self._chunked:
            pieces = [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            if not more:
                pieces.append(b"0\r\n\r\n")
            self._transport.write(b"".join(pieces))
        elif self._scope["method"] != "HEAD":
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the answer is not as long as its content-length says")
            self._transport.write(body)
        if not more:
            self.response_complete = True
            self.set()
            if not self.keep_alive:
                self._transport.close()
            self._on_end()


class LeanHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, whose requests become an Exchange each over a JoinedTransport.

    An idle connection's timer is left to run from one request to the next, and looks when it rings.
    """

    _idle_since_s = inf
    _keep_alive_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedTransport(transport))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._keep_alive_timer is not None:
            self._keep_alive_timer.cancel()
            self._keep_alive_timer = None

    def on_headers_complete(self) -> None:
        parser, scope = self.parser, cast(_Message, self.scope)
        assert parser is not None
        version = parser.get_http_version()
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        if parser.should_upgrade() and self._should_upgrade():
            return  # What comes is a WebSocket's.
        url = self.url
        if _PERCENT in url or _HASH in url or url[:1] != b"/":
            parsed = httptools.parse_url(url)
            raw_path, query = parsed.path, parsed.query or b""
            path = _unquoted(raw_path)
        else:
            raw_path, _, query = url.partition(b"?")
            path = raw_path.decode("ascii")
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        before = cast("Exchange | None", self.cycle)
        exchange = Exchange(
            scope,
            self.transport,
            self.flow,
            self.on_response_complete,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_100=self.expect_100_continue,
        )
        self.cycle = cast(Any, exchange)
        if before is None or before.response_complete:
            self._begin(exchange)
        else:
            # A pipelined request waits until the one before it is answered.
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, cast(Any, None)))

    def _begin(self, exchange: Exchange) -> None:
        task = self.loop.create_task(exchange.run(cast("ASGI3Application", self.app)))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._begin(cast(Exchange, self.pipeline.pop()[0]))
            return
        self._idle_since_s = self.loop.time()
        if self._keep_alive_timer is None:
            self._keep_alive_timer = self.loop.call_later(self.timeout_keep_alive, self._look)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = inf

    def _look(self) -> None:
        """Close a connection that was idle for long enough."""
        self._keep_alive_timer = None
        if self.transport.is_closing() or self._idle_since_s == inf:
            return  # The next answer sets it anew.
        rest_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if rest_s <= 0:
            self.transport.close()
        else:
            self._keep_alive_timer = self.loop.call_later(rest_s, self._look)


def server_config(app: Starlette, **options: Any) -> uvicorn.Config:
    """uvicorn's configuration to serve ``app`` with; ``options`` are uvicorn's own, such as TLS."""
    return uvicorn.Config(
        app,
        http=LeanHttpProtocol,
        interface="asgi3",
        loop="none",
        ws=cast(Any, _websocket_protocol),
        ws_max_size=BODY_BYTES_MAX,
        # Compressing each event costs more than sending it, and a window of memory a connection.
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        **options,
    )


def _websocket_protocol(**parts: Any) -> asyncio.Protocol:
    """The protocol of a connection that is upgraded. Its library is loaded by the first one: most servers see none."""
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    return WebSocketsSansIOProtocol(**parts)


def _unquoted(raw: bytes) -> str:
    from urllib.parse import unquote

    return unquote(raw.decode("ascii"))
