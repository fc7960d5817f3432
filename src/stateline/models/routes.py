"""What stays the same from call to call of a deployment: where it leads, and its headers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import stateline
from stateline.models.clouds import CLOUDS
from stateline.models.clouds.cloud import Signer
from stateline.models.formats import WireFormat
from stateline.models.http1 import Origin, TransportError
from stateline.ports import Deployment

_PORTS = {"http": 80, "https": 443}
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"


class Asked(NamedTuple):
    """What the two kinds of calls of a deployment differ in: one wants JSON, one a stream."""

    target: str
    accept: str
    prefix: bytes


class Route(NamedTuple):
    """A deployment, prepared."""

    deployment: Deployment
    base: str
    origin: Origin
    headers: dict[str, str]
    proxy: str | None
    whole: Asked
    streamed: Asked
    signer: Signer | None = None

    def asked(self, *, stream: bool) -> Asked:
        return self.streamed if stream else self.whole

    def head(self, key: str, length: int, signed: Mapping[str, str] | None = None, *, stream: bool) -> bytes:
        """The request line and headers of one call; ``key`` is the effect's, so it is ASCII.

        Raises:
            TransportError: ``bad_url``, where no header can hold what was signed.
        """
        if signed:
            check_headers(signed)
            more = "".join([f"{name}: {value}\r\n" for name, value in signed.items()]).encode("ascii")
        else:
            more = b""
        return b"%b%bIdempotency-Key: %b\r\nContent-Length: %d\r\n\r\n" % (
            self.asked(stream=stream).prefix, more, key.encode("ascii"), length,
        )  # fmt: skip


class Proxies:
    """The environment's proxies, read once."""

    def __init__(self) -> None:
        self._by_scheme = getproxies()

    def find(self, scheme: str, host: str, port: int) -> str | None:
        proxy = self._by_scheme.get(scheme) or self._by_scheme.get("all")
        return None if proxy is None or proxy_bypass(f"{host}:{port}") else proxy


def _target(url: str) -> str:
    """The path of a URL, quoted where it is not, and its query as it is."""
    parts = urlsplit(url)
    return quote(parts.path, safe=_PATH_SAFE) + (f"?{parts.query}" if parts.query else "")


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse what would end a header and begin another.

    Raises:
        TransportError: ``bad_url``.
    """
    if any(not value.isascii() or not value.isprintable() for value in headers.values()):
        raise TransportError("bad_url")


def prepare(deployment: Deployment, wire: WireFormat, proxies: Proxies) -> Route:
    """The route to a deployment's cloud, in its wire format.

    Raises:
        TransportError: ``bad_url``, also for a key that no header can hold.
    """
    cloud = CLOUDS[deployment.cloud]
    model = quote(deployment.upstream_model, safe="")
    path, stream_path = [each.replace("{model}", model) for each in (wire.path, wire.stream_path or wire.path)]
    try:
        parts = urlsplit(cloud.url(deployment, path))
        targets = [_target(cloud.url(deployment, each)) for each in (path, stream_path)]
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
    check_headers(headers)
    asked: list[Asked] = []
    for target, accept in zip(targets, ("application/json", wire.stream_type), strict=True):
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        prefix = "\r\n".join([*lines, f"Accept: {accept}", ""]).encode("ascii")
        asked.append(Asked(target, accept, prefix))
    return Route(
        deployment=deployment,
        base=f"{parts.scheme}://{headers['Host']}",
        origin=Origin(parts.scheme == "https", host, port),
        headers=headers,
        proxy=proxies.find(parts.scheme, host, port),
        whole=asked[0],
        streamed=asked[1],
    )
