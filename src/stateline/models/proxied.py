"""Calls that lead through a proxy, by aiohttp, which knows all kinds of proxies."""

from __future__ import annotations

import io
from collections.abc import Mapping

import aiohttp
from yarl import URL

from stateline.core.calls import ModelRequest
from stateline.models.http1 import TransportError, Trouble
from stateline.models.routes import Route, check_headers

_BODY_BYTES_AT_ONCE = 2**20
"""aiohttp writes a larger `bytes` body in one blocking go, and warns of it."""
_FOREIGN = (aiohttp.ClientError, OSError)
_TROUBLES: tuple[tuple[type[BaseException], Trouble], ...] = (
    (aiohttp.ConnectionTimeoutError, "connect_timeout"),
    (aiohttp.ServerTimeoutError, "silent"),
    (TimeoutError, "too_long"),
    (aiohttp.ClientConnectorCertificateError, "untrusted"),
    (aiohttp.ClientProxyConnectionError, "proxy"),
    (aiohttp.ClientConnectorError, "unreachable"),
    (aiohttp.ClientHttpProxyError, "proxy"),
    (aiohttp.InvalidURL, "bad_url"),
    (aiohttp.ClientPayloadError, "cut"),
    (aiohttp.ClientResponseError, "not_http"),
)
"""The first row whose type fits decides; all others are a lost connection."""


class Proxied:
    """One aiohttp session."""

    def __init__(self, connections_max: int, keepalive_s: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections_max, limit_per_host=0, keepalive_timeout=keepalive_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # aiohttp would read ~/.netrc and ask a thread for the proxy at each call.
        )

    async def ask(
        self,
        route: Route,
        request: ModelRequest,
        body: bytes,
        signed: Mapping[str, str],
        *,
        connect_s: float,
        timeout_s: float,
        silence_s: float,
    ) -> ProxiedAnswer:
        """Send a request through the route's proxy, and wait for the headers of its answer.

        Raises:
            TransportError: translated from aiohttp's.
        """
        check_headers(signed)
        asked = route.asked(stream=request.stream)
        headers = {**route.headers, **signed, "Accept": asked.accept, "Idempotency-Key": request.key}
        try:
            response = await self._session.post(
                URL(route.base + asked.target, encoded=True),
                data=body if len(body) <= _BODY_BYTES_AT_ONCE else io.BytesIO(body),
                headers=headers,
                proxy=route.proxy,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=timeout_s, connect=connect_s, sock_read=silence_s if request.stream else None
                ),
            )
        except _FOREIGN as error:
            raise _translated(error) from error
        return ProxiedAnswer(response)

    async def close(self) -> None:
        await self._session.close()


class ProxiedAnswer:
    """An answer, as `http1.Connection` shows it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    @property
    def over(self) -> bool:
        return self._response.content.at_eof()

    def header(self, name: bytes) -> str:
        return self._response.headers.get(name.decode(), "")

    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self._response.headers.items()}

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except _FOREIGN as error:
            raise _translated(error) from error

    def allow_silence(self, silence_s: float) -> None:
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = silence_s
            connection.protocol.start_timeout()

    def close(self) -> None:
        # A response read to its end has given its connection back; this ends any other.
        self._response.close()


def _translated(error: BaseException) -> TransportError:
    for kind, trouble in _TROUBLES:
        if isinstance(error, kind):
            return TransportError(trouble, error)
    return TransportError("disconnected", error)
