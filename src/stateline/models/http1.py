"""HTTP/1.1 to providers: one request at a time over each kept-alive connection.

The parser is llhttp (httptools); this is only what stands around it: a pool, timers, bounds. A
connection goes back to the pool when its answer was read to the end and nothing came after it;
any other is cut. Nothing is sent twice, no redirect is followed, no content coding is undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from math import inf
from typing import Any, Literal, NamedTuple, cast

import httptools
from aiohappyeyeballs import start_connection  # pyright: ignore[reportUnknownVariableType] its tuples say no more

from stateline.core.limits import UPSTREAM_DNS_TTL_S, UPSTREAM_HEAD_BYTES_MAX, UPSTREAM_READ_AHEAD_BYTES_MAX

_WRITE_BYTES = 256 * 1024
"""A larger body is written in pieces, so that encrypting it does not hold the event loop."""
_NEXT_ADDRESS_S = 0.25
"""After this a host's next address is tried beside the first (RFC 8305)."""

Trouble = Literal[
    "bad_url",
    "connect_timeout",
    "untrusted",
    "unreachable",
    "proxy",
    "silent",
    "too_long",
    "cut",
    "not_http",
    "disconnected",
]
"""What can go wrong. ``cut`` is after the answer's headers, ``disconnected`` before their end."""


class TransportError(Exception):
    """A call's transport failed."""

    def __init__(self, trouble: Trouble, said: object = "") -> None:
        super().__init__(str(said))
        self.trouble: Trouble = trouble


class Origin(NamedTuple):
    """Where connections lead."""

    tls: bool
    host: str
    port: int


class Connection(asyncio.Protocol):
    """One connection, and the answer to the request that it carries now.

    Attributes:
        status: of the answer, once ``ask`` has returned.
        over: whether the answer has come to its end, well or not.
    """

    __slots__ = (
        "_bare_bytes", "_closed", "_end_at_s", "_error", "_headed", "_headers", "_keep", "_loop", "_parser", "_paused",
        "_pieces", "_pool", "_read_ahead", "_reading", "_sent", "_silence_s", "_since_s", "_timer",
        "_transport", "_waiter", "_whole", "on_body", "origin", "over", "status",
    )  # fmt: skip

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self.origin = origin
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        # A stream comes in a piece an event: the parser appends them without a function of ours between.
        self.on_body = self._pieces.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._paused = False
        self._reading = True
        self._silence_s = self._since_s = self._end_at_s = inf
        self._reset()
        self.over = True

    def _reset(self) -> None:
        self.status = 0
        self.over = False
        self._headers: dict[bytes, bytes] = {}
        self._headed = self._keep = self._sent = False
        self._error: TransportError | None = None
        self._pieces.clear()
        self._whole: int | None = None
        self._read_ahead = self._bare_bytes = 0

    # -- for the caller --------------------------------------------------------------------------

    async def ask(self, head: bytes, body: bytes, end_at_s: float, silence_s: float) -> None:
        """Send a request, and wait for the headers of its answer.

        Args:
            end_at_s: the event loop's time at which the whole answer has to be there.
            silence_s: for the headers.
        """
        self._reset()
        self._end_at_s = end_at_s
        self._watch(silence_s)
        transport = self._transport
        if transport is None:
            raise TransportError("disconnected")
        if len(body) <= _WRITE_BYTES:
            transport.write(head + body)
        else:
            await self._write(transport, head, body)
        self._sent = not self.over
        while not self._headed:
            if self.over:
                raise self._error or TransportError("disconnected")
            await self._wait()

    async def read(self) -> bytes:
        """What has come of the body since the last read, at least a byte; empty at its end."""
        while not (pieces := self._pieces):
            if self.over:
                if self._error is not None:
                    raise self._error
                return b""
            await self._wait()
        self._read_ahead = 0
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def header(self, name: bytes) -> str:
        """A header of the answer by its name in lower case; empty where it is missing."""
        return self._headers.get(name, b"").decode("latin-1")

    def headers(self) -> dict[str, str]:
        """All headers, their names in lower case."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self._headers.items()}

    def allow_silence(self, silence_s: float) -> None:
        """Bound the waits for more of the body. A reader that is busy elsewhere waits for nothing."""
        if not self.over:
            self._watch(silence_s)

    def close(self) -> None:
        """Give the connection back, or cut it where its answer has not come to its end."""
        self._pool.give(self, reusable=self.over and self._keep and self._sent and self.open)

    @property
    def open(self) -> bool:
        return not self._closed and self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """Cut the connection. An answer that is under way fails."""
        if not self.over:
            self.over = True
            self._error = TransportError("disconnected")
            self._wake()
        if self._transport is not None:
            self._transport.abort()

    # -- waiting ---------------------------------------------------------------------------------

    async def _write(self, transport: asyncio.Transport, head: bytes, body: bytes) -> None:
        transport.write(head)
        for at in range(0, len(body), _WRITE_BYTES):
            transport.write(body[at : at + _WRITE_BYTES])
            while self._paused and not self.over:
                await self._wait()
            if self.over:
                return

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        self._since_s = self._loop.time()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _watch(self, silence_s: float) -> None:
        """One timer looks at both bounds; it is set anew only where it would ring too late."""
        self._silence_s = silence_s
        self._look_by(min(self._end_at_s, self._loop.time() + silence_s))

    def _look_by(self, at_s: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= at_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.over:
            return  # No call, or none that still waits.
        now_s = self._loop.time()
        silent_at_s = (self._since_s if self._waiter is not None else now_s) + self._silence_s
        if now_s >= self._end_at_s:
            self._fail(TransportError("too_long"))
        elif now_s >= silent_at_s:
            self._fail(TransportError("silent"))
        else:
            self._look_by(min(self._end_at_s, silent_at_s))

    def _fail(self, error: TransportError) -> None:
        if not self.over:
            self.over = True
            self._error = error
            self._wake()
        self.abort()

    # -- what the event loop calls ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.adopt(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._transport = self._parser = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.over:
            if not self._headed:
                self._error = TransportError("disconnected", exc or "")
            elif exc is not None or not self._ends_with_connection():
                self._error = TransportError("cut", exc or "")
            self.over = True
        self._wake()
        self._pool.forget(self)

    def _ends_with_connection(self) -> bool:
        coding = self._headers.get(b"transfer-encoding", b"").lower()
        return b"content-length" not in self._headers and b"chunked" not in coding

    def data_received(self, data: bytes) -> None:
        if self.over or self._parser is None:
            # Nothing was asked: an answer to nobody must not be taken for the next one.
            self._keep = False
            self.abort()
            return
        self._bare_bytes += len(data)
        before = len(self._pieces)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            self._fail(TransportError("not_http", error))
        if self._whole is not None:
            # What came behind the answer's end belongs to nobody.
            del self._pieces[self._whole :]
        if len(self._pieces) > before:
            self._bare_bytes = 0
            self._read_ahead += len(data)
        if self._bare_bytes > UPSTREAM_HEAD_BYTES_MAX and not self.over:
            self._fail(TransportError("not_http", f"more than {UPSTREAM_HEAD_BYTES_MAX} bytes of headers"))
        if self._read_ahead > UPSTREAM_READ_AHEAD_BYTES_MAX and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    # -- what the parser calls -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.over:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._parser is not None and not self.over:
            self.status = self._parser.get_status_code()
            self._headed = self.status >= 200

    def on_message_complete(self) -> None:
        if not self._headed:
            self._headers = {}  # An interim answer (1xx); the one that counts follows.
        elif not self.over and self._parser is not None:
            self._keep = self._parser.should_keep_alive()
            self._whole = len(self._pieces)
            self.over = True


class Pool:
    """Connections by origin, and a bound for all of them."""

    def __init__(self, connections_max: int, keepalive_s: float) -> None:
        self._max = connections_max
        self._keepalive_s = keepalive_s
        self._calls = asyncio.Semaphore(connections_max)
        self._open: set[Connection] = set()
        self._idle: dict[Origin, deque[tuple[float, Connection]]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._addresses: dict[Origin, _Addresses] = {}
        self._tls: asyncio.Future[ssl.SSLContext] | None = None
        self._loop = asyncio.get_running_loop()

    async def take(self, origin: Origin, timeout_s: float) -> Connection:
        """A connection that no other call uses, kept or new. The caller has to ``close`` it.

        Raises:
            TransportError: nothing was sent.
        """
        if not self._calls.locked() and (kept := self._kept(origin)) is not None:
            await self._calls.acquire()  # It is free, so this does not wait.
            return kept
        try:
            async with asyncio.timeout(timeout_s):
                await self._calls.acquire()
                try:
                    return self._kept(origin) or await self._connect(origin)
                except BaseException:
                    self._calls.release()
                    raise
        except TimeoutError:
            raise TransportError("connect_timeout") from None
        except ssl.SSLCertVerificationError as error:
            raise TransportError("untrusted", error) from error
        except OSError as error:
            raise TransportError("unreachable", error) from error

    def give(self, connection: Connection, *, reusable: bool) -> None:
        self._calls.release()
        if not reusable:
            connection.abort()
            return
        self._idle.setdefault(connection.origin, deque()).append((self._loop.time(), connection))
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._keepalive_s, self._sweep)

    def adopt(self, connection: Connection) -> None:
        self._open.add(connection)

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)

    def warm_tls(self) -> asyncio.Future[ssl.SSLContext]:
        """Load the trusted authorities in a thread: tens of milliseconds, once."""
        if self._tls is None or (self._tls.done() and self._tls.exception() is not None):
            self._tls = self._loop.run_in_executor(None, _tls_context)
        return self._tls

    def close(self) -> None:
        """Cut all connections. Calls under way fail."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()

    def _kept(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            since_s, connection = idle.pop()
            if connection.open and since_s + self._keepalive_s > self._loop.time():
                return connection
            connection.abort()
        return None

    def _sweep(self) -> None:
        self._sweeper = None
        before_s = self._loop.time() - self._keepalive_s
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0][0] <= before_s or not idle[0][1].open):
                idle.popleft()[1].abort()
            if not idle:
                del self._idle[origin]
        if self._idle:
            self._sweeper = self._loop.call_later(self._keepalive_s, self._sweep)

    async def _connect(self, origin: Origin) -> Connection:
        tls = await asyncio.shield(self.warm_tls()) if origin.tls else None
        infos = await self._resolve(origin)
        while len(self._open) >= self._max and self._drop_idle():
            pass
        try:
            sock = await start_connection(infos, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1)
        except OSError:
            self._addresses.pop(origin, None)
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _, connection = await self._loop.create_connection(
            lambda: Connection(self, origin), sock=sock, ssl=tls, server_hostname=origin.host if tls else None
        )
        return connection

    def _drop_idle(self) -> bool:
        """Cut the connection that was idle longest at the first origin that has one."""
        for idle in self._idle.values():
            if idle:
                connection = idle.popleft()[1]
                connection.abort()
                self._open.discard(connection)
                return True
        return False

    async def _resolve(self, origin: Origin) -> _Infos:
        """A host's addresses: asked once for all who wait for them, and kept for a minute."""
        known = self._addresses.get(origin)
        if known is None or known.until_s < self._loop.time():
            asked = asyncio.ensure_future(
                self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
            )
            known = self._addresses[origin] = _Addresses(self._loop.time() + UPSTREAM_DNS_TTL_S, asked)
        try:
            return cast("_Infos", await asyncio.shield(known.asked))
        except OSError:
            with contextlib.suppress(KeyError):
                del self._addresses[origin]
            raise


_Infos = list[tuple[int, int, int, str, tuple[str, int]]]


class _Addresses(NamedTuple):
    until_s: float
    asked: asyncio.Future[Any]


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
