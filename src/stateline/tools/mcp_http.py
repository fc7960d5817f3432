"""HTTP to MCP servers: the SDK's client over connections that the egress rule has judged.

The SDK speaks the protocol. This is what it speaks through, and it sees what the SDK does not tell: whether a call
left this machine, and with which status it was answered. Imported when the first server is asked, as the SDK is.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from typing import Any, cast

import httpcore2
import httpx2
import msgspec

from stateline import __version__
from stateline.core.limits import MCP_ANSWER_BYTES_MAX
from stateline.core.tools import ToolError
from stateline.tools.credentials import Credentials
from stateline.tools.egress import Egress
from stateline.tools.mcp_errors import auth_refused, protocol, too_large, unreachable

KEY_META = "stateline.dev/idempotency-key"
"""Where a call's key is in its ``_meta``. MCP has no name for it (SEP-3182, which proposed one, was closed)."""
KEY_HEADER = "Idempotency-Key"
_SEALED = "stateline.sealed"
"""The extension of a request that has the headers whose values are from the vault."""
_SHOWN_KEPT = 4
"""A client's secret, its token, and those before them."""


class Attempt:
    """What became of one call on its way.

    Attributes:
        sent: it may have reached the server. True until the contrary is certain.
        fault: why there is no answer, where that was seen here.
        status: of the HTTP answer; 0 while there is none.
    """

    __slots__ = ("fault", "sent", "status")

    def __init__(self) -> None:
        self.sent = True
        self.fault: ToolError | None = None
        self.status = 0


class _Params(msgspec.Struct):
    meta: dict[str, Any] = msgspec.field(default_factory=dict[str, Any], name="_meta")


class _Message(msgspec.Struct):
    method: str = ""
    params: _Params = msgspec.field(default_factory=_Params)


_decode = msgspec.json.Decoder(_Message).decode


class _Backend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were judged, and resolves no name a second time."""

    def __init__(self, egress: Egress, connect_s: float) -> None:
        self._egress = egress
        self._connect_s = connect_s
        self._plain = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the backend's interface.
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        until = time.monotonic() + self._connect_s
        failed: Exception | None = None
        for address in await self._egress.addresses(host, port, self._connect_s):
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                return await self._plain.connect_tcp(str(address), port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore2.ConnectTimeout()

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError

    async def sleep(self, seconds: float) -> None:
        await self._plain.sleep(seconds)


class _Body(httpx2.AsyncByteStream):
    """An answer's body, up to its limit. A stream of events has one for each event instead, which the SDK holds."""

    def __init__(self, inner: httpx2.AsyncByteStream, attempt: Attempt | None, label: str, *, events: bool) -> None:
        self._inner = inner
        self._attempt = attempt
        self._label = label
        self._left = None if events else MCP_ANSWER_BYTES_MAX

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._inner:
                if self._left is not None:
                    self._left -= len(piece)
                    if self._left < 0:
                        self._fault(too_large(self._label))
                yield piece
        except httpx2.TransportError:
            self._fault(unreachable(self._label, "the connection broke in the middle of its answer", sent=True))

    def _fault(self, error: ToolError) -> None:
        if self._attempt is not None:
            self._attempt.fault = error
        # Of this one the SDK makes an error of the one call; any other would end the connection for all.
        raise httpx2.StreamError(error.message)

    async def aclose(self) -> None:
        await self._inner.aclose()


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all connections: reading the authorities takes longer than a call."""
    return ssl.create_default_context()


class _Transport(httpx2.AsyncHTTPTransport):
    """Connections of one client.

    Attributes:
        shown: the values of Authorization that went out lately, those of tokens that were got on the way too.
    """

    def __init__(self, label: str, egress: Egress, connect_s: float) -> None:
        context = _tls()
        super().__init__(verify=context)
        self._label = label
        self.shown: deque[str] = deque(maxlen=_SHOWN_KEPT)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context, http1=True, http2=False, network_backend=_Backend(egress, connect_s)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        shown = request.headers.get("authorization")
        # What is from the vault is known by its name, and kept with that.
        if shown is not None and shown not in self.shown and "authorization" not in request.extensions.get(_SEALED, ()):
            self.shown.append(shown)
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            # None was asked for, and what a few bytes unpack to has no bound.
            await response.aclose()
            raise httpx2.RemoteProtocolError("compressed")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        events = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        response.stream = _Body(response.stream, request.extensions.get("stateline"), self._label, events=events)
        return response


class McpHttpClient(httpx2.AsyncClient):
    """What the SDK sends through: one for each connection.

    Args:
        credentials: what of the vault is put into each request when it is sent.

    Attributes:
        fault: why the last message that is no call could not be sent or was refused.
    """

    def __init__(
        self,
        label: str,
        egress: Egress,
        headers: Mapping[str, str],
        connect_s: float,
        *,
        auth: httpx2.Auth | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._through = _Transport(label, egress, connect_s)
        super().__init__(
            headers={"user-agent": f"stateline/{__version__}", **headers, "accept-encoding": "identity"},
            auth=auth,
            # Calls have their own time; a stream on which a server may speak some day has none.
            timeout=httpx2.Timeout(connect_s, read=None),
            transport=self._through,
            # No proxy of the environment: it would be connected to in place of what was judged.
            trust_env=False,
            follow_redirects=False,
        )
        self.label = label
        self.fault: ToolError | None = None
        self._credentials = credentials
        self._attempts: dict[str, Attempt] = {}

    @property
    def shown(self) -> Iterable[str]:
        """What the server was lately shown to know us by."""
        return self._through.shown

    @contextlib.contextmanager
    def watched(self, key: str) -> Generator[Attempt]:
        """Note what becomes of the call with this key while the block runs."""
        attempt = self._attempts[key] = Attempt()
        try:
            yield attempt
        finally:
            if self._attempts.get(key) is attempt:
                del self._attempts[key]

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if request.method != "POST":
            try:
                await self._unseal(request)
            except ToolError:
                # A stream on which the server may speak, or a goodbye: neither is worth an error.
                return httpx2.Response(405, request=request)
            return await super().send(request, **options)
        attempt = self._attempt_of(request)
        if attempt is not None:
            request.extensions["stateline"] = attempt
        try:
            await self._unseal(request)
            response = await super().send(request, **options)
        except Exception as error:
            fault = self._told(error)
        else:
            status = response.status_code
            if status not in (401, 403, 407):
                if attempt is not None:
                    attempt.status = status
                    attempt.fault = self._no_answer(response)
                return response
            # What such an answer says may repeat the secret that it refuses (PEERS: secrets in 403 bodies).
            await response.aclose()
            fault = auth_refused(self.label, status, sent=True)
        if attempt is not None:
            attempt.fault, attempt.sent = fault, fault.sent
        else:
            self.fault = fault
        # Raised, it would end the connection for the calls beside this one; so the SDK is told in its own way.
        return httpx2.Response(503, request=request)

    async def _unseal(self, request: httpx2.Request) -> None:
        """Put what is in the vault into a request.

        Raises:
            ToolError: it is not there, or does not open; the request is not sent.
        """
        if self._credentials is not None:
            headers = await self._credentials.headers()
            request.headers.update(headers)
            request.extensions[_SEALED] = frozenset(name.lower() for name in headers)

    def _attempt_of(self, request: httpx2.Request) -> Attempt | None:
        try:
            message = _decode(request.content)
        except msgspec.DecodeError:
            return None
        key = message.params.meta.get(KEY_META)
        if message.method != "tools/call" or not isinstance(key, str):
            return None
        request.headers[KEY_HEADER] = key
        return self._attempts.get(key)

    def _no_answer(self, response: httpx2.Response) -> ToolError | None:
        """Why an answer of HTTP can hold none of MCP. The SDK makes an error of it that looks like a server's own."""
        status = response.status_code
        kind = response.headers.get("content-type", "").lower()
        if 200 <= status < 300 and status != 202 and kind.startswith(("application/json", "text/event-stream")):
            return None
        if status >= 400 and (status == 404 or kind.startswith("application/json")):
            return None
        said = f"it answered {status}, and not with MCP"
        if 300 <= status < 400:
            said = f"it answered {status}, which leads elsewhere; if that is the server, name its URL"
        return protocol(self.label, said, sent=True)

    def _told(self, error: Exception) -> ToolError:
        if isinstance(error, ToolError):
            return error
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
            return unreachable(self.label, "it cannot be connected to", sent=False)
        if isinstance(error, httpx2.TransportError):
            return unreachable(self.label, "the connection broke", sent=True)
        # Of the OAuth flow, whose messages repeat what servers said. A call may have gone out before it.
        return auth_refused(self.label, 0, sent=True)
