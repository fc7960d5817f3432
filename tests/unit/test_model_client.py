"""The client against real servers on loopback, well-behaved and not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

import stateline.models.client as client_module
from stateline.core.calls import Finish, ModelDelta, ModelParams, ModelRequest, TextDelta, Usage
from stateline.core.errors import BadRequest, ModelError
from stateline.core.items import InputText, Message
from stateline.models import http1
from stateline.models.client import HttpModelClient, Timeouts
from stateline.ports import Deployment

Handler = Callable[[dict[str, str], bytes, asyncio.StreamWriter], Awaitable[None]]

CHUNK = b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'
END = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
WHOLE = b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'
DELTAS = [TextDelta("hi"), Finish(reason="stop")]


class Upstream:
    """A server that reads whole requests and lets the handler write whatever bytes it wants."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections = 0
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.hung_up = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while line := await reader.readline():
                headers: dict[str, str] = {}
                while (header := await reader.readline()).strip():
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((line.decode().split()[1], headers, body))
                await self.handler(headers, body, writer)
                await writer.drain()
                if writer.is_closing():
                    break
        except ConnectionError:
            pass
        finally:
            self.hung_up.set()
            writer.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncGenerator[Upstream, None]:
    upstream = Upstream(handler)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/"
    try:
        yield upstream
    finally:
        server.close()


@asynccontextmanager
async def client(timeouts: Timeouts | None = None) -> AsyncGenerator[HttpModelClient, None]:
    opened = HttpModelClient(timeouts)
    try:
        yield opened
    finally:
        await opened.close()


def deployment(url: str, **fields: Any) -> Deployment:
    defaults: dict[str, Any] = {
        "name": "d", "model": "m", "cloud": "openai-compatible", "format": "openai-chat",
        "base_url": url, "upstream_model": "up", "timeout_s": 30.0,
    }  # fmt: skip
    return Deployment(**defaults | fields)


def request(*, stream: bool = True, text: str = "hello", **params: Any) -> ModelRequest:
    item = Message(id="msg_1", role="user", content=(InputText(text=text),))
    return ModelRequest(params=ModelParams(model="m", **params), items=[item], key="s/1/2", stream=stream)


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + (b"0\r\n\r\n" if end else b"")


def replies(data: bytes, *, close: bool = False) -> Handler:
    async def handle(headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            writer.close()

    return handle


async def collect(opened: HttpModelClient, where: Deployment, asked: ModelRequest) -> list[ModelDelta]:
    return [delta async for batch in opened.call(where, asked) for delta in batch]


async def failure(handler: Handler, asked: ModelRequest, timeouts: Timeouts | None = None, **fields: Any) -> ModelError:
    async with serving(handler) as upstream, client(timeouts) as opened:
        with pytest.raises(ModelError) as caught:
            await collect(opened, deployment(upstream.url, **fields), asked)
    return caught.value


async def test_a_call_says_who_asks_for_what() -> None:
    async with serving(replies(answer(WHOLE))) as upstream, client() as opened:
        assert await collect(opened, deployment(upstream.url, api_key="sk-1"), request(stream=False)) == DELTAS
    path, headers, body = upstream.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer sk-1"
    assert headers["idempotency-key"] == "s/1/2"
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("stateline/")
    assert msgspec.json.decode(body) == {"model": "up", "messages": [{"role": "user", "content": "hello"}]}


async def test_without_a_key_nobody_is_named() -> None:
    async with serving(replies(answer(WHOLE))) as upstream, client() as opened:
        await collect(opened, deployment(upstream.url), request(stream=False))
    assert "authorization" not in upstream.requests[0][1]


@pytest.mark.parametrize("stream", [True, False])
async def test_connections_are_used_again(stream: bool) -> None:
    data = chunked(CHUNK, END) if stream else answer(WHOLE)
    async with serving(replies(data)) as upstream, client() as opened:
        for _ in range(3):
            assert await collect(opened, deployment(upstream.url), request(stream=stream)) == DELTAS
    assert upstream.connections == 1
    assert len(upstream.requests) == 3


async def test_a_late_end_of_the_body_does_not_cost_the_connection() -> None:
    async def handle(headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(CHUNK, END, end=False))
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    async with serving(handle) as upstream, client() as opened:
        for _ in range(2):
            assert await collect(opened, deployment(upstream.url), request()) == DELTAS
    assert upstream.connections == 1


async def test_an_answer_is_over_at_its_last_event_even_if_the_body_never_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "UPSTREAM_DRAIN_S", 0.01)
    async with serving(replies(chunked(CHUNK, END, end=False))) as upstream, client() as opened:
        assert await collect(opened, deployment(upstream.url), request()) == DELTAS
        await upstream.hung_up.wait()


async def test_deltas_come_in_the_batches_of_the_network() -> None:
    go_on = asyncio.Event()

    async def handle(headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(CHUNK + CHUNK, end=False))
        await go_on.wait()
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(END), END))

    batches: list[list[ModelDelta]] = []
    async with serving(handle) as upstream, client() as opened:
        async for batch in opened.call(deployment(upstream.url), request()):
            batches.append(batch)
            go_on.set()
    assert batches == [[TextDelta("hi"), TextDelta("hi")], [Finish(reason="stop")]]


async def test_closing_the_iterator_ends_the_call() -> None:
    async with serving(replies(chunked(CHUNK, end=False))) as upstream, client() as opened:
        call = opened.call(deployment(upstream.url), request())
        assert await anext(call) == [TextDelta("hi")]
        await call.aclose()
        await upstream.hung_up.wait()


async def test_cancelling_the_caller_ends_the_call() -> None:
    asked = asyncio.Event()

    async def handle(headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()

    async with serving(handle) as upstream, client() as opened:
        task = asyncio.create_task(collect(opened, deployment(upstream.url), request()))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.hung_up.wait()


async def test_a_server_that_does_not_do_as_asked_is_understood() -> None:
    async with serving(replies(answer(WHOLE))) as upstream, client() as opened:
        assert await collect(opened, deployment(upstream.url), request(stream=True)) == DELTAS
    async with serving(replies(chunked(CHUNK, END))) as upstream, client() as opened:
        assert await collect(opened, deployment(upstream.url), request(stream=False)) == DELTAS
    plain = answer(CHUNK + END, "200 OK", "text/plain")
    async with serving(replies(plain)) as upstream, client() as opened:
        assert await collect(opened, deployment(upstream.url), request(stream=True)) == DELTAS


async def test_a_large_request_arrives_whole() -> None:
    text = "x" * (3 * 2**20)
    async with serving(replies(answer(WHOLE))) as upstream, client() as opened:
        assert await collect(opened, deployment(upstream.url), request(stream=False, text=text)) == DELTAS
    assert msgspec.json.decode(upstream.requests[0][2])["messages"][0]["content"] == text


async def test_what_the_format_cannot_carry_is_never_sent() -> None:
    async with serving(replies(answer(WHOLE))) as upstream, client() as opened:
        with pytest.raises(BadRequest) as caught:
            await collect(opened, deployment(upstream.url, format="openai-responses"), request(seed=1))
    assert caught.value.param == "seed"
    assert upstream.connections == 0


@pytest.mark.parametrize(
    ("data", "code", "retryable", "after"),
    [
        (answer(b"{}", "429 X", "application/json", "Retry-After: 7"), "rate_limited", True, 7.0),
        (answer(b"{}", "429 X", "application/json", "retry-after-ms: 70"), "rate_limited", True, 0.07),
        (answer(b"oops", "500 X", "text/plain"), "upstream_error", True, None),
        (answer(b"", "503 X", "text/plain", "Retry-After: 1"), "upstream_overloaded", True, 1.0),
        (answer(b"", "302 X", "text/plain", "Location: http://127.0.0.1:9/"), "upstream_error", False, None),
        (answer(b'{"error": {"code": "invalid_api_key"}}', "401 X"), "upstream_auth_failed", False, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_status_is_translated(
    data: bytes, code: str, retryable: bool, after: float | None, stream: bool
) -> None:
    error = await failure(replies(data), request(stream=stream))
    assert (error.code, error.retryable, error.retry_after_s) == (code, retryable, after)
    assert error.sent


async def test_an_error_whose_body_is_cut_keeps_its_status() -> None:
    data = b"HTTP/1.1 429 X\r\nContent-Length: 99\r\n\r\nslow"
    error = await failure(replies(data, close=True), request())
    assert (error.code, error.provider_message) == ("rate_limited", "slow")


async def test_of_a_long_error_only_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ERROR_BODY_BYTES_MAX", 4)
    error = await failure(replies(answer(b"abcdefgh", "500 X")), request())
    assert error.provider_message == "abcd"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (chunked(CHUNK, end=False), "answer_cut"),
        (chunked(CHUNK), "answer_cut"),
        (chunked(CHUNK, b"data: {oops\n\n"), "malformed_stream"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nContent-Type: application/json\r\n\r\n{", "answer_cut"),
        (answer(b"{oops"), "malformed_response"),
        (b"HTTP/1.1 200 OK\r\nContent-", "upstream_disconnected"),
        (b"", "upstream_disconnected"),
        (b"hello\r\n\r\n", "malformed_response"),
    ],
)
async def test_a_broken_answer_may_be_tried_again(data: bytes, code: str) -> None:
    error = await failure(replies(data, close=True), request())
    assert (error.code, error.retryable, error.sent) == (code, True, True)


STARTED = (
    b'event: message_start\ndata: {"type": "message_start", "message": {"id": "m", "type": "message", '
    b'"role": "assistant", "model": "c", "content": [], "usage": {"input_tokens": 7, "output_tokens": 1}}}\n\n'
)


@pytest.mark.parametrize("end", [True, False])
async def test_what_an_answer_said_of_its_usage_before_it_broke_off_is_kept(end: bool) -> None:
    data = chunked(STARTED, end=end)
    error = await failure(replies(data, close=True), request(), cloud="anthropic", format="anthropic-messages")
    assert (error.code, error.usage) == ("answer_cut", Usage(input_tokens=7, output_tokens=1))
    assert (await failure(replies(chunked(CHUNK), close=True), request())).usage is None


@pytest.mark.parametrize("data", [chunked(CHUNK, CHUNK, END), answer(WHOLE)])
async def test_an_answer_past_the_bound_is_cut_off(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_BYTES_MAX", 60)
    error = await failure(replies(data), request())
    assert (error.code, error.retryable) == ("answer_too_large", False)


@pytest.mark.parametrize(
    ("data", "stream", "timeouts", "fields"),
    [
        (b"", True, Timeouts(first_byte_s=0.05), {}),
        (b"HTTP/1.1 200 OK\r\nContent-", True, Timeouts(first_byte_s=0.05), {}),
        (chunked(end=False), True, Timeouts(stall_s=0.05), {}),
        (chunked(CHUNK, end=False), True, Timeouts(stall_s=0.05), {}),
        (chunked(CHUNK, end=False), True, Timeouts(), {"timeout_s": 0.1}),
        (b"", False, Timeouts(first_byte_s=0.01, stall_s=0.01), {"timeout_s": 0.1}),
    ],
)
async def test_silence_ends_a_call(data: bytes, stream: bool, timeouts: Timeouts, fields: dict[str, float]) -> None:
    error = await failure(replies(data), request(stream=stream), timeouts, **fields)
    assert (error.code, error.status, error.retryable, error.sent) == ("upstream_timeout", 504, True, True)


async def test_a_reader_that_is_busy_elsewhere_is_no_silence() -> None:
    async def handle(headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(CHUNK, end=False))
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(END), END))

    seen: list[ModelDelta] = []
    async with serving(handle) as upstream, client(Timeouts(stall_s=0.1)) as opened:
        async for batch in opened.call(deployment(upstream.url), request()):
            seen += batch
            await asyncio.sleep(0.25)
    assert seen == DELTAS


async def test_a_server_that_is_not_there_got_nothing() -> None:
    async with serving(replies(b"")) as upstream:
        url = upstream.url
    async with client() as opened:
        with pytest.raises(ModelError) as caught:
            await collect(opened, deployment(url), request())
    assert (caught.value.code, caught.value.retryable, caught.value.sent) == ("upstream_unreachable", True, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "no url"},
        {"base_url": "http://"},
        {"base_url": "http://[::1"},
        {"base_url": "ftp://x/v1"},
        {"format": "x"},
        {"cloud": "x"},
    ],
)
async def test_a_deployment_that_cannot_work_is_the_operators_fault(fields: dict[str, str]) -> None:
    async with client() as opened:
        with pytest.raises(ModelError) as caught:
            await collect(opened, deployment("http://127.0.0.1:9/v1", **fields), request())
    error = caught.value
    assert (error.code, error.retryable, error.sent, error.blame) == (
        "upstream_misconfigured", False, False, "operator",
    )  # fmt: skip


async def test_waiting_for_a_free_connection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "UPSTREAM_CONNECTIONS_MAX", 1)
    async with serving(replies(chunked(CHUNK, end=False))) as upstream, client(Timeouts(connect_s=0.05)) as opened:
        holder = opened.call(deployment(upstream.url), request())
        await anext(holder)
        with pytest.raises(ModelError) as caught:
            await collect(opened, deployment(upstream.url), request())
        await holder.aclose()
    assert (caught.value.code, caught.value.sent) == ("upstream_timeout", False)


async def test_the_environments_proxy_is_asked_unless_it_is_bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(replies(answer(WHOLE))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with client() as opened:
            where = deployment("http://model.invalid/v1")
            assert await collect(opened, where, request(stream=False)) == DELTAS
            with pytest.raises(ModelError):
                await collect(opened, deployment("http://127.0.0.1:9/v1"), request())
    assert [path for path, _, _ in proxy.requests] == ["http://model.invalid/v1/chat/completions"]


async def test_an_encoding_that_was_not_asked_for_is_refused() -> None:
    data = answer(b"\x1f\x8b", "200 OK", "application/json", "Content-Encoding: gzip")
    error = await failure(replies(data), request(stream=False))
    assert (error.code, error.retryable) == ("malformed_response", True)


async def test_prepared_routes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "UPSTREAM_ROUTES_MAX", 1)
    async with serving(replies(answer(WHOLE))) as upstream, client() as opened:
        for name in ("a", "b", "a"):
            assert await collect(opened, deployment(upstream.url, name=name), request(stream=False)) == DELTAS
    assert upstream.connections == 1


@pytest.mark.parametrize(("data", "code"), [
    (b"", "upstream_disconnected"),
    (b"hello\r\n\r\n", "malformed_response"),
    (chunked(CHUNK, end=False), "answer_cut"),
    (answer(b"", "503 X", "text/plain"), "upstream_overloaded"),
])  # fmt: skip
async def test_what_goes_wrong_through_a_proxy_is_translated_alike(
    data: bytes, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(replies(data, close=True)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client() as opened:
            with pytest.raises(ModelError) as caught:
                await collect(opened, deployment("http://model.invalid/v1"), request())
    assert (caught.value.code, caught.value.retryable, caught.value.sent) == (code, True, True)


async def test_openai_needs_no_url() -> None:
    cloud = client_module.CLOUDS["openai"]
    assert cloud.url(deployment("", cloud="openai"), "/responses") == "https://api.openai.com/v1/responses"


async def test_warming_loads_what_tls_needs_once_and_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[ssl.SSLContext] = []

    def load() -> ssl.SSLContext:
        loaded.append(ssl.create_default_context())
        return loaded[-1]

    monkeypatch.setattr(http1, "_tls_context", load)
    async with client() as opened:
        opened.warm([deployment("http://["), deployment("", cloud="local"), deployment("http://127.0.0.1:9")])
        assert loaded == []
        where = deployment("https://127.0.0.1:9")
        opened.warm([where, where])
        with pytest.raises(ModelError):
            await collect(opened, where, request())
    assert len(loaded) == 1


async def test_a_client_that_was_never_used_closes() -> None:
    await HttpModelClient().close()
