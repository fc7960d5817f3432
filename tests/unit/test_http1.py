"""The HTTP/1.1 transport against peers that write whatever bytes they like."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from stateline.core.limits import UPSTREAM_HEAD_BYTES_MAX, UPSTREAM_READ_AHEAD_BYTES_MAX
from stateline.models import http1
from stateline.models.formats import FORMATS
from stateline.models.http1 import Connection, Origin, Pool, TransportError
from stateline.models.routes import Proxies, Route, prepare
from stateline.ports import Deployment

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
ASK = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


class Peer:
    """Answers each request (headers, and no body) with the same bytes."""

    def __init__(self, data: bytes, *, close: bool) -> None:
        self.data = data
        self.close = close
        self.origin = Origin(tls=False, host="127.0.0.1", port=0)
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.data)
                if self.close:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def peer(data: bytes = OK, *, close: bool = False) -> AsyncGenerator[Peer]:
    made = Peer(data, close=close)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.origin = made.origin._replace(port=server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        server.close()


@asynccontextmanager
async def pool(connections_max: int = 8, keepalive_s: float = 30.0) -> AsyncGenerator[Pool]:
    made = Pool(connections_max, keepalive_s)
    try:
        yield made
    finally:
        made.close()


async def ask(of: Pool, origin: Origin, body: bytes = b"") -> Connection:
    connection = await of.take(origin, 5.0)
    try:
        await connection.ask(ASK, body, asyncio.get_running_loop().time() + 5.0, 5.0)
    except BaseException:
        connection.close()
        raise
    return connection


async def whole(connection: Connection) -> bytes:
    try:
        data = b""
        while piece := await connection.read():
            data += piece
        return data
    finally:
        connection.close()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


async def trouble(data: bytes, *, close: bool = True) -> str:
    async with peer(data, close=close) as other, pool() as made:
        with pytest.raises(TransportError) as caught:
            await whole(await ask(made, other.origin))
    return caught.value.trouble


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (OK, b"hi"),
        (b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n" + OK, b"hi"),
        (
            b"HTTP/1.1 200 OK\r\nEmpty:\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\nT: 1\r\n\r\n",
            b"hi",
        ),
        (b"HTTP/1.1 204 No\r\n\r\n", b""),
    ],
)
async def test_an_answer_read_to_its_end_leaves_its_connection_for_the_next(data: bytes, body: bytes) -> None:
    async with peer(data) as other, pool() as made:
        for _ in range(3):
            assert await whole(await ask(made, other.origin)) == body
    assert other.connections == 1


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        OK + OK,
        OK + b"junk",
    ],
)
async def test_a_connection_that_says_more_or_ends_is_not_used_again(data: bytes) -> None:
    async with peer(data) as other, pool() as made:
        for _ in range(2):
            assert await whole(await ask(made, other.origin)) == b"hi"
    assert other.connections == 2


async def test_an_answer_to_nobody_is_not_taken_for_the_next_one() -> None:
    async with peer() as other, pool() as made:
        first = await ask(made, other.origin)
        await whole(first)
        other.writers[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await until(lambda: not first.open)
        assert await whole(await ask(made, other.origin)) == b"hi"
    assert other.connections == 2


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with peer(b"HTTP/1.1 200 OK\r\n\r\nhi", close=True) as other, pool() as made:
        assert await whole(await ask(made, other.origin)) == b"hi"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", "cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "cut"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "not_http"),
        (b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc", "not_http"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not_http"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "disconnected"),
    ],
)
async def test_a_broken_answer_is_told_apart(data: bytes, said: str) -> None:
    assert await trouble(data) == said


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "]
)
async def test_headers_and_trailers_are_bounded(start: bytes) -> None:
    assert await trouble(start + b"x" * (2 * UPSTREAM_HEAD_BYTES_MAX), close=False) == "not_http"


async def test_an_answer_that_nobody_reads_waits_in_the_network() -> None:
    size = 64 * UPSTREAM_READ_AHEAD_BYTES_MAX
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    async with peer(data) as other, pool() as made:
        connection = await ask(made, other.origin)
        transport = connection._transport  # pyright: ignore[reportPrivateUsage]
        assert transport is not None
        await until(lambda: not transport.is_reading())
        assert len(await connection.read()) < size
        assert len(await whole(connection)) > 0


async def test_an_answer_before_the_request_is_sent_ends_the_sending() -> None:
    read = asyncio.Event()
    refused = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refused)
        await read.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    origin = Origin(tls=False, host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    async with pool() as made:
        connection = await ask(made, origin, b"x" * (64 * 2**20))
        assert connection.status == 413
        assert await whole(connection) == b"no"
        assert not connection.open
    read.set()
    server.close()


async def test_idle_connections_end_and_are_not_used() -> None:
    async with peer() as other, pool(keepalive_s=0.01) as made:
        first = await ask(made, other.origin)
        await whole(first)
        await until(lambda: not first.open)
        assert await whole(await ask(made, other.origin)) == b"hi"
    assert other.connections == 2


async def test_an_idle_connection_makes_room_for_another_origin() -> None:
    async with peer() as one, peer() as two, pool(connections_max=1) as made:
        first = await ask(made, one.origin)
        await whole(first)
        assert await whole(await ask(made, two.origin)) == b"hi"
        assert not first.open


async def test_closing_the_pool_ends_calls() -> None:
    async with peer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh") as other, pool() as made:
        connection = await ask(made, other.origin)
        assert await connection.read() == b"h"
        made.close()
        with pytest.raises(TransportError):
            await connection.read()
        connection.close()


async def test_a_host_without_an_address_is_unreachable_each_time() -> None:
    async with pool() as made:
        for _ in range(2):
            with pytest.raises(TransportError) as caught:
                await made.take(Origin(tls=False, host="model.invalid", port=80), 5.0)
            assert caught.value.trouble == "unreachable"


async def test_a_peer_without_tls_is_unreachable() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    origin = Origin(tls=True, host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    async with pool() as made:
        with pytest.raises(TransportError) as caught:
            await made.take(origin, 30.0)
    assert caught.value.trouble == "unreachable"
    server.close()


async def test_a_peer_that_is_not_trusted_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def untrusting() -> ssl.SSLContext:
        raise ssl.SSLCertVerificationError("no authority")

    monkeypatch.setattr(http1, "_tls_context", untrusting)
    async with peer() as other, pool() as made:
        for _ in range(2):
            with pytest.raises(TransportError) as caught:
                await made.take(other.origin._replace(tls=True), 5.0)
            assert caught.value.trouble == "untrusted"


# -- routes -------------------------------------------------------------------------------------------


def route(base_url: str, api_key: str | None = None) -> Route:
    deployment = Deployment(
        name="d", model="m", cloud="openai-compatible", format="openai-chat", base_url=base_url,
        upstream_model="up", api_key=api_key,
    )  # fmt: skip
    return prepare(deployment, FORMATS["openai-chat"], Proxies())


@pytest.mark.parametrize(
    ("base_url", "origin", "host", "target"),
    [
        ("http://a.b/v1/", Origin(False, "a.b", 80), b"a.b", b"/v1/chat/completions"),
        ("HTTPS://A.b", Origin(True, "a.b", 443), b"a.b", b"/chat/completions"),
        ("https://a.b:444/x y", Origin(True, "a.b", 444), b"a.b:444", b"/x%20y/chat/completions"),
        ("http://[::1]:8000/é", Origin(False, "::1", 8000), b"[::1]:8000", b"/%C3%A9/chat/completions"),
        ("http://bü.de", Origin(False, "xn--b-eha.de", 80), b"xn--b-eha.de", b"/chat/completions"),
    ],
)  # fmt: skip
def test_a_base_url_becomes_an_origin_and_a_target(base_url: str, origin: Origin, host: bytes, target: bytes) -> None:
    made = route(base_url)
    assert made.origin == origin
    head = made.head("s/1/2", 7, stream=True)
    assert head.startswith(b"POST " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n")
    assert head.endswith(b"Accept: text/event-stream\r\nIdempotency-Key: s/1/2\r\nContent-Length: 7\r\n\r\n")


def test_a_login_in_the_url_is_sent_unless_there_is_a_key() -> None:
    assert b"\r\nAuthorization: Basic dTpwQA==\r\n" in route("http://u:p%40@a").whole.prefix
    assert b"Basic" not in route("http://u:p@a", api_key="sk").whole.prefix


@pytest.mark.parametrize("key", ["sk\r\nX: 1", "sk\n", "é", "a\0"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(TransportError) as caught:
        route("http://a", api_key=key)
    assert caught.value.trouble == "bad_url"
