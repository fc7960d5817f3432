"""What stays the same from call to call of a deployment: where it leads, and its headers."""

from __future__ import annotations

from base64 import b64encode
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import stateline
from stateline.models.clouds import CLOUDS
from stateline.models.http1 import Origin, TransportError
from stateline.ports import Deployment

_PORTS = {"http": 80, "https": 443}
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"


class Route(NamedTuple):
    """A deployment, prepared."""

    deployment: Deployment
    url: str
    origin: Origin
    headers: dict[str, str]
    proxy: str | None
    prefix: bytes

    def head(self, key: str, length: int, *, stream: bool) -> bytes:
        """The request line and headers of one call; ``key`` is the effect's, so it is ASCII."""
        kind = b"text/event-stream" if stream else b"application/json"
        return b"%bAccept: %b\r\nIdempotency-Key: %b\r\nContent-Length: %d\r\n\r\n" % (
            self.prefix, kind, key.encode("ascii"), length,
        )  # fmt: skip


class Proxies:
    """The environment's proxies, read once."""

    def __init__(self) -> None:
        self._by_scheme = getproxies()

    def find(self, scheme: str, host: str, port: int) -> str | None:
        proxy = self._by_scheme.get(scheme) or self._by_scheme.get("all")
        return None if proxy is None or proxy_bypass(f"{host}:{port}") else proxy


def prepare(deployment: Deployment, path: str, proxies: Proxies) -> Route:
    """The route to ``path`` of a deployment's cloud.

    Raises:
        TransportError: ``bad_url``, also for a key that no header can hold.
    """
    cloud = CLOUDS[deployment.cloud]
    url = cloud.url(deployment, path)
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError as error:
        raise TransportError("bad_url", error) from error
    if parts.scheme not in _PORTS or not host:
        raise TransportError("bad_url")
    port = port or _PORTS[parts.scheme]
    named = f"[{host}]" if ":" in host else host
    headers = {
        "Host": named if port == _PORTS[parts.scheme] else f"{named}:{port}",
        **cloud.headers(deployment),
        # Compression would save bytes between data centres and cost CPU on every token.
        "Accept-Encoding": "identity",
        "User-Agent": f"stateline/{stateline.__version__}",
        "Content-Type": "application/json",
    }
    if parts.username is not None and cloud.auth_header not in headers:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + b64encode(login.encode()).decode()
    target = quote(parts.path, safe=_PATH_SAFE)
    # A line break in a key would end the header and begin another.
    if any(not value.isascii() or not value.isprintable() for value in headers.values()):
        raise TransportError("bad_url")
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), ""]
    return Route(
        deployment=deployment,
        url=f"{parts.scheme}://{headers['Host']}{target}",
        origin=Origin(parts.scheme == "https", host, port),
        headers=headers,
        proxy=proxies.find(parts.scheme, host, port),
        prefix="\r\n".join(lines).encode("ascii"),
    )
