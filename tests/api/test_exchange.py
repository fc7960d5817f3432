"""HTTP as it comes over the wire: pieces, pipelines, HEAD, old clients, connections that idle."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from tests.api.conftest import Served

from stateline.api.call import Call, WhileConnected
from stateline.api.exchange import server_config

Message = dict[str, Any]
App = Callable[
    [Message, Callable[[], Coroutine[Any, Any, Message]], Callable[[Message], Coroutine[Any, Any, None]]], Any
]


@contextmanager
def wire(server: Served) -> Generator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        yield sock


def answer(sock: socket.socket, *, head: bool = False) -> tuple[bytes, bytes]:
    """Head and body of the next answer that has a content-length."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(1)
        assert more, data
        data += more
    length = 0 if head else int(data.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += sock.recv(length - len(body))
    return data, body


def post(body: bytes, *more: bytes, path: bytes = b"/v1/responses") -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % path
    return head + b"".join(line + b"\r\n" for line in more) + b"content-length: %d\r\n\r\n" % len(body) + body


SAY = json.dumps({"model": "scripted", "input": "hello"}).encode()


def test_pipelined_requests_are_answered_in_order(server: Served) -> None:
    bodies = [json.dumps({"model": "scripted", "input": f"number {n}"}).encode() for n in range(5)]
    with wire(server) as sock:
        sock.sendall(b"".join(map(post, bodies)))
        for n in range(5):
            head, body = answer(sock)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert f"You said: number {n}" in body.decode()


def test_a_request_may_come_byte_by_byte(server: Served) -> None:
    with wire(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(SAY):
            sock.sendall(bytes([byte]))
        assert b"You said: hello" in answer(sock)[1]


def test_a_body_may_come_in_chunks(server: Served) -> None:
    head = b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with wire(server) as sock:
        sock.sendall(head)
        for at in range(0, len(SAY), 7):
            piece = SAY[at : at + 7]
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")
        assert b"You said: hello" in answer(sock)[1]


def test_a_client_that_asks_first_is_told_to_go_on(server: Served) -> None:
    request = post(SAY, b"expect: 100-continue")
    with wire(server) as sock:
        sock.sendall(request.removesuffix(SAY))
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(SAY)
        assert b"You said: hello" in answer(sock)[1]


def test_an_old_client_and_one_that_says_so_find_their_connection_closed(server: Served) -> None:
    for request in (
        b"GET /healthz HTTP/1.0\r\nhost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ):
        with wire(server) as sock:
            sock.sendall(request)
            head, _ = answer(sock)
            assert b"connection: close\r\n" in head
            assert sock.recv(1) == b""


def test_escaped_and_absolute_paths_find_their_route(server: Served) -> None:
    for path in (b"/v1/m%6fdels", b"http://x/v1/models", b"/v1/models?x=%41#y"):
        with wire(server) as sock:
            sock.sendall(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path)
            head, body = answer(sock)
            assert head.startswith(b"HTTP/1.1 200 "), (path, head, body)
            assert b'"scripted"' in body


def test_what_is_not_http_is_refused_and_cut(server: Served) -> None:
    with wire(server) as sock:
        sock.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert answer(sock)[0].startswith(b"HTTP/1.1 400 ")
        assert sock.recv(1) == b""


# -- an application of the test's own ---------------------------------------------------------------------


async def serve(app: App, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **options: Any) -> Any:
    """Run ``app`` as Stateline is run, and ``talk`` over one connection to it."""
    sock = socket.create_server(("127.0.0.1", 0))
    config = server_config(_as_starlette(app), lifespan="off", **options)
    running = uvicorn.Server(config)
    task = asyncio.ensure_future(running.serve([sock]))
    while not running.started:  # noqa: ASYNC110 uvicorn has no other way to tell.
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*sock.getsockname()[:2])
    try:
        async with asyncio.timeout(20):
            return await talk(reader, writer)
    finally:
        writer.close()
        running.should_exit = True
        await task


def _as_starlette(app: App) -> Starlette:
    class Bare(Starlette):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

    return Bare()


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(GET)
            assert (await reader.readuntil(b"ok")).endswith(b"\r\n\r\nok")
        assert await reader.read() == b""

    await serve(app, talk, timeout_keep_alive=1)


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\rb"])
async def test_a_line_break_in_a_header_never_reaches_the_client(value: bytes, caplog: Any) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-name", value)]})

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(GET)
        return await reader.read()

    said = await serve(app, talk)
    assert said.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in said
    assert "line break" in caplog.text


async def test_a_head_request_gets_the_head_alone() -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return await reader.read()

    said = await serve(app, talk)
    assert said.endswith(b"content-length: 5\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize("body", [b"too long for it", b"x"])
async def test_an_answer_of_another_length_than_it_said_is_cut(body: bytes, caplog: Any) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": body})

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(GET)
        return await reader.read()

    said = await serve(app, talk)
    assert said.endswith(b"content-length: 5\r\n\r\n")
    assert "content-length" in caplog.text


async def test_an_application_that_ends_too_soon_or_says_too_much_is_reported(caplog: Any) -> None:
    async def ends(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async def goes_on(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all"})
        await send({"type": "http.response.body", "body": b"more"})

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(GET)
        return await reader.read()

    assert (await serve(ends, talk)).endswith(b"4\r\nhalf\r\n")
    assert "without a whole answer" in caplog.text
    assert (await serve(goes_on, talk)).endswith(b"3\r\nall\r\n0\r\n\r\n")
    assert "has ended already" in caplog.text


async def test_the_application_hears_that_its_client_has_gone() -> None:
    heard: list[str] = []
    done = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])
        heard.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        done.set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        await asyncio.sleep(0.1)
        writer.close()
        await done.wait()

    await serve(app, talk)
    assert heard == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("ours", [True, False], ids=["our server", "any ASGI server"])
async def test_a_block_ends_quietly_when_the_client_hangs_up_and_not_before(ours: bool) -> None:
    ends: list[bool] = []
    inside, done = asyncio.Event(), asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        async def theirs() -> Message:
            message: Message = await receive()
            return message

        call = Call(scope, receive if ours else theirs, send, "r", {})
        await call.body()
        async with WhileConnected(call) as connected:
            await asyncio.sleep(0.05)
        ends.append(connected.gone)
        async with WhileConnected(call) as connected:
            inside.set()
            await asyncio.sleep(20)
        ends.append(connected.gone)
        # It has gone before the block: that ends one as well.
        async with WhileConnected(call) as connected:
            await asyncio.sleep(20)
        ends.append(connected.gone)
        await asyncio.sleep(0)
        done.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GET)
        await inside.wait()
        writer.close()
        await done.wait()

    await serve(app, talk)
    assert ends == [False, True, True]
