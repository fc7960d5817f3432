"""The one place that speaks to providers.

A call sends one request, follows no redirect, retries nothing, and gives the answer's deltas in the
batches in which the network brings them. Whatever goes wrong comes out as a ModelError that says
whether anything may have been sent.

Connections are our own (`http1`): a third of the CPU that aiohttp takes for a JSON call, and half a
server's imports less. What leads through a proxy goes with aiohttp (`proxied`), which knows every kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from stateline.core.calls import Finish, ModelDelta, ModelRequest, Usage
from stateline.core.errors import BadRequest, Blame, ModelError
from stateline.core.limits import (
    ANSWER_BYTES_MAX,
    ERROR_BODY_BYTES_MAX,
    UPSTREAM_CONNECT_S,
    UPSTREAM_CONNECTIONS_MAX,
    UPSTREAM_CREDENTIALS_S,
    UPSTREAM_DRAIN_S,
    UPSTREAM_FIRST_BYTE_S,
    UPSTREAM_KEEPALIVE_S,
    UPSTREAM_ROUTES_MAX,
    UPSTREAM_STALL_S,
)
from stateline.models.clouds import CLOUDS, google
from stateline.models.clouds.cloud import Keyring
from stateline.models.formats import Decoder, WireFormat, embedding_of, wire_of
from stateline.models.http1 import Pool, TransportError, Trouble
from stateline.models.routes import Proxies, Route, prepare
from stateline.ports import Deployment

if TYPE_CHECKING:
    from stateline.models.proxied import Proxied


class Timeouts(NamedTuple):
    """Seconds; the whole call is bounded by its deployment's ``timeout_s``."""

    connect_s: float = UPSTREAM_CONNECT_S
    first_byte_s: float = UPSTREAM_FIRST_BYTE_S
    stall_s: float = UPSTREAM_STALL_S


class _Answer(Protocol):
    """An answer whose headers have come, over either transport."""

    @property
    def status(self) -> int: ...

    @property
    def over(self) -> bool: ...

    def header(self, name: bytes) -> str: ...

    def headers(self) -> dict[str, str]: ...

    async def read(self) -> bytes: ...

    def allow_silence(self, silence_s: float) -> None: ...

    def close(self) -> None: ...


class _Failure(NamedTuple):
    code: str
    words: str
    status: int = 502
    retryable: bool = True
    sent: bool = True
    blame: Blame = "upstream"


_FAILURES: dict[Trouble, _Failure] = {
    "bad_url": _Failure(
        "upstream_misconfigured",
        "has a base_url or a key that cannot be sent in HTTP",
        retryable=False,
        sent=False,
        blame="operator",
    ),
    "connect_timeout": _Failure("upstream_timeout", "could not be reached in time", 504, sent=False),
    "untrusted": _Failure(
        "upstream_unreachable",
        "has a certificate that is not trusted; set SSL_CERT_FILE to a private authority's",
        retryable=False,
        sent=False,
        blame="operator",
    ),
    "unreachable": _Failure("upstream_unreachable", "could not be reached", sent=False),
    "proxy": _Failure("upstream_unreachable", "could not be reached through the proxy", sent=False),
    "silent": _Failure("upstream_timeout", "fell silent", 504),
    "too_long": _Failure("upstream_timeout", "took longer than its timeout_s", 504),
    "cut": _Failure("answer_cut", "broke its answer off"),
    "not_http": _Failure("malformed_response", "does not answer in HTTP"),
    "disconnected": _Failure("upstream_disconnected", "closed the connection"),
}


class HttpModelClient:
    """Speaks to every deployment whose cloud is reached over HTTP.

    Proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY``), read once; private certificate
    authorities too (``SSL_CERT_FILE``). What signs for a cloud is made when it is first needed, unless
    ``keyrings`` has it.
    """

    def __init__(self, timeouts: Timeouts | None = None, keyrings: Mapping[str, Keyring] | None = None) -> None:
        self._timeouts = timeouts or Timeouts()
        self._proxies = Proxies()
        self._routes: dict[str, Route] = {}
        self._pool: Pool | None = None
        self._proxied: Proxied | None = None
        self._keyrings: dict[str, Keyring] = dict(keyrings or {})

    async def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta], None]:
        """Send the request and give its answer's deltas, one batch a network read.

        Raises:
            ModelError: translated from whatever went wrong.
            BadRequest: the format cannot carry the request. Nothing was sent.
        """
        wire = _wire(deployment)
        if request.embed is not None:
            wire = _embedding(deployment, request)
        tier: Mapping[str, str] = {}
        if request.params.service_tier is not None:
            request, tier = _tiered(deployment, request)
        body = wire.encode_request(request, deployment.upstream_model, deployment.origin)
        answer: _Answer | None = None
        decoder: Decoder | None = None
        signed: Mapping[str, str] = {}
        try:
            route = self._route(deployment, wire, embeds=request.embed is not None)
            signed = await _sign(route, body, stream=request.stream)
            answer = await self._ask(route, request, body, {**signed, **tier} if tier else signed)
            if answer.status != 200:
                refusal = wire.decode_error(answer.status, answer.headers(), await _read_error(answer))
                if route.signer is not None and refusal.code == "upstream_auth_failed":
                    route.signer.rejected()
                raise refusal
            if not _streams(answer, wire, asked=request.stream):
                deltas = wire.decode_response(await _read(answer))
                yield _counted(deltas, answer.header(wire.tokens_header)) if wire.tokens_header else deltas
                return
            answer.allow_silence(deployment.stall_s or self._timeouts.stall_s)
            decoder, length = wire.stream_decoder(), 0
            while data := await answer.read():
                length += len(data)
                _bound(length)
                batch = decoder.feed(data)
                if decoder.done and not answer.over:
                    await _drain(answer)
                if batch:
                    yield batch
                if decoder.done:
                    return
            yield decoder.eof()
        except TransportError as error:
            failure = _translated(deployment, error)
            failure.usage = _used(decoder)
            raise failure from error
        except ModelError as error:
            error.usage = _used(decoder)
            hide_secrets(error, secrets_of(deployment, signed))
            raise
        finally:
            if answer is not None:
                answer.close()

    def warm(self, deployments: Iterable[Deployment]) -> None:
        """Prepare what the first call to any of these would wait for. Sends nothing."""
        for deployment in deployments:
            with contextlib.suppress(ModelError, TransportError):
                route = self._route(deployment, _wire(deployment))
                if route.signer is not None:
                    route.signer.warm()
                if route.proxy is None and route.origin.tls:
                    self._connections().warm_tls()

    async def close(self) -> None:
        """Close all connections. Calls under way fail."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._proxied is not None:
            await self._proxied.close()
            self._proxied = None

    async def _ask(self, route: Route, request: ModelRequest, body: bytes, signed: Mapping[str, str]) -> _Answer:
        connect_s, first_byte_s, _ = self._timeouts
        deployment = route.deployment
        timeout_s = deployment.timeout_s
        silence_s = (deployment.first_byte_s or first_byte_s) if request.stream else inf
        if route.proxy is not None:
            if self._proxied is None:
                from stateline.models.proxied import Proxied

                self._proxied = Proxied(UPSTREAM_CONNECTIONS_MAX, UPSTREAM_KEEPALIVE_S)
            return await self._proxied.ask(
                route, request, body, signed, connect_s=connect_s, timeout_s=timeout_s, silence_s=silence_s
            )
        pool = self._connections()
        end_at_s = asyncio.get_running_loop().time() + timeout_s
        head = route.head(request.key, len(body), signed, stream=request.stream)
        connection = await pool.take(route.origin, min(connect_s, timeout_s))
        try:
            await connection.ask(head, body, end_at_s, silence_s)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connections(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(UPSTREAM_CONNECTIONS_MAX, UPSTREAM_KEEPALIVE_S)
        return self._pool

    def _route(self, deployment: Deployment, wire: WireFormat, *, embeds: bool = False) -> Route:
        name = deployment.name if not embeds else f"{deployment.name} embeddings"
        route = self._routes.get(name)
        if route is None or route.deployment is not deployment:
            if len(self._routes) >= UPSTREAM_ROUTES_MAX:
                self._routes.clear()
            route = prepare(deployment, wire, self._proxies)
            make = CLOUDS[deployment.cloud].keyring
            if make is not None:
                keyring = self._keyrings.get(deployment.cloud)
                if keyring is None:
                    keyring = self._keyrings[deployment.cloud] = make()
                route = route._replace(signer=keyring.signer(deployment, route.headers["Host"]))
            self._routes[name] = route
        return route


def _tiered(deployment: Deployment, request: ModelRequest) -> tuple[ModelRequest, Mapping[str, str]]:
    """The request without its service tier, and the headers for it, where the cloud takes it in those.

    Raises:
        BadRequest: the cloud does not take this tier.
    """
    tier = request.params.service_tier
    headers = None if tier is None else CLOUDS[deployment.cloud].tier_headers(deployment, tier)
    if headers is None:
        return request, {}
    bare = msgspec.structs.replace(request.params, service_tier=None)
    return msgspec.structs.replace(request, params=bare), headers


async def _sign(route: Route, body: bytes, *, stream: bool) -> Mapping[str, str]:
    """The headers that say who calls, where that is not said by a key."""
    if route.signer is None:
        return {}
    try:
        async with asyncio.timeout(min(UPSTREAM_CREDENTIALS_S, route.deployment.timeout_s)):
            return await route.signer.sign(route.asked(stream=stream).target, body)
    except TimeoutError as error:
        message = f"deployment {route.deployment.name!r}: its credentials did not come in time"
        raise ModelError(message, code="upstream_timeout", status=504, retryable=True, sent=False) from error


_HIDDEN = "[hidden]"
_SECRET_CHARS_MIN = 8
_SECRET_PART = re.compile(r"[A-Za-z0-9]{16,}")
_COUNT = re.compile(r"[0-9]{1,15}")


def secrets_of(deployment: Deployment, signed: Mapping[str, str]) -> list[str]:
    """What of a request no error may repeat, even where its provider does; the longest first."""
    # The date is no secret, and what a provider says of a wrong clock needs it.
    values = [value for name, value in signed.items() if name != "X-Amz-Date"]
    found = {deployment.api_key or "", *values}
    for value in values:
        found.update(_SECRET_PART.findall(value))
    return sorted((each for each in found if len(each) >= _SECRET_CHARS_MIN), key=len, reverse=True)


def hide_secrets(error: ModelError, secrets: Iterable[str]) -> None:
    """Take the secrets out of an error's words."""
    for secret in secrets:
        if secret in error.message:
            error.message = error.message.replace(secret, _HIDDEN)
            error.args = (error.message,)
        if error.provider_message and secret in error.provider_message:
            error.provider_message = error.provider_message.replace(secret, _HIDDEN)


def _wire(deployment: Deployment) -> WireFormat:
    wire = wire_of(deployment.format, deployment.cloud)
    if wire is None or deployment.cloud not in CLOUDS:
        error = ModelError(
            f"deployment {deployment.name!r}: no client for format {deployment.format!r} on cloud {deployment.cloud!r}",
            code="upstream_misconfigured",
            retryable=False,
            sent=False,
        )
        error.blame = "operator"
        raise error
    return wire


def _embedding(deployment: Deployment, request: ModelRequest) -> WireFormat:
    """How a deployment is asked for vectors.

    Raises:
        BadRequest: neither its format nor its model has them.
    """
    vertex = deployment.cloud == "google" and google.on_vertex(deployment)
    wire = embedding_of(deployment.format, deployment.upstream_model, request, vertex=vertex)
    if wire is None:
        message = f"deployment {deployment.name!r} speaks {deployment.format}, which has no embeddings of its model"
        raise BadRequest(message, code="unsupported_parameter", param="model")
    return wire


def _counted(deltas: list[ModelDelta], tokens: str) -> list[ModelDelta]:
    """The deltas of an answer whose input tokens are in a header, where its body had none."""
    last = deltas[-1]
    if type(last) is not Finish or last.usage is not None or not _COUNT.fullmatch(tokens):
        return deltas
    return [*deltas[:-1], msgspec.structs.replace(last, usage=Usage(input_tokens=int(tokens)))]


def _streams(answer: _Answer, wire: WireFormat, *, asked: bool) -> bool:
    """What the answer is; servers do not always do as asked, but then they say so."""
    if (coding := answer.header(b"content-encoding")) not in ("", "identity"):
        raise ModelError(
            f"the provider's answer is encoded as {coding[:100]!r}, which was not asked for",
            code="malformed_response",
            retryable=True,
        )
    kind = answer.header(b"content-type")
    if kind.startswith(("text/event-stream", "application/vnd.amazon.eventstream")):
        return True
    return asked and (wire.streams_json or "json" not in kind)


async def _read(answer: _Answer) -> bytes:
    pieces: list[bytes] = []
    length = 0
    while data := await answer.read():
        length += len(data)
        _bound(length)
        pieces.append(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _read_error(answer: _Answer) -> bytes:
    """The beginning of an error's body; the status counts even where the body does not come."""
    pieces: list[bytes] = []
    length = 0
    with contextlib.suppress(TransportError):
        while length < ERROR_BODY_BYTES_MAX and (data := await answer.read()):
            length += len(data)
            pieces.append(data)
    return b"".join(pieces)[:ERROR_BODY_BYTES_MAX]


async def _drain(answer: _Answer) -> None:
    with contextlib.suppress(TransportError, TimeoutError):
        async with asyncio.timeout(UPSTREAM_DRAIN_S):
            while await answer.read():
                pass


def _used(decoder: Decoder | None) -> Usage | None:
    """What an answer that broke off had said of what it used; not every format says it before the end."""
    return getattr(decoder, "used", None)


def _bound(length: int) -> None:
    if length > ANSWER_BYTES_MAX:
        raise ModelError(
            f"the provider's answer is longer than {ANSWER_BYTES_MAX} bytes",
            code="answer_too_large",
            retryable=False,
        )


def _translated(deployment: Deployment, error: TransportError) -> ModelError:
    failure = _FAILURES[error.trouble]
    said = str(error)
    translated = ModelError(
        f"deployment {deployment.name!r} {failure.words}" + (f": {said}" if said else ""),
        code=failure.code,
        status=failure.status,
        retryable=failure.retryable,
        sent=failure.sent,
    )
    translated.blame = failure.blame
    return translated
