"""Streams: every cursor, clients that hang up, retries that attach, silence."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Generator
from typing import Any

import openai
import pytest
from tests.api.conftest import MODEL, Answer, Served
from tests.api.http import Client, sse

from stateline.api.stream import KEEPALIVE, Heartbeat
from stateline.testing.scripted import ScriptedCall


@pytest.fixture
def http(server: Served) -> Generator[Client]:
    made = Client(server.port)
    yield made
    made.close()


def _events(raw: bytes) -> list[dict[str, Any]]:
    events = list(sse(raw))
    assert events.pop() == (None, "[DONE]")
    return [json.loads(data) for _, data in events]


def test_every_cursor_of_an_ended_response_gives_the_rest(server: Served, http: Client) -> None:
    server.script(Answer(reasoning="a thought", text="some words here", calls=(ScriptedCall(name="f"),)))
    body = {"model": MODEL, "input": "x", "stream": True, "tools": [{"type": "function", "name": "f"}]}
    whole = _events(http("POST", "/v1/responses", body).body)
    response_id = whole[0]["response"]["id"]
    path = f"/v1/responses/{response_id}?stream=true"
    assert _events(http("GET", path).body) == whole
    for cursor in range(len(whole)):
        assert _events(http("GET", f"{path}&starting_after={cursor}").body) == whole[cursor + 1 :]
    stored = http("GET", f"/v1/responses/{response_id}").json
    assert whole[-1]["response"] == stored


def test_a_cursor_beyond_the_end_is_refused(http: Client) -> None:
    whole = _events(http("POST", "/v1/responses", {"model": MODEL, "input": "x", "stream": True}).body)
    path = f"/v1/responses/{whole[0]['response']['id']}?stream=true&starting_after="
    assert http("GET", path + str(len(whole) - 1)).status == 200
    for cursor in (len(whole), 10**6):
        reply = http("GET", path + str(cursor))
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "invalid_cursor", "starting_after")


def test_a_durable_answer_does_not_invite_a_retry(http: Client) -> None:
    stored = http("POST", "/v1/responses", {"model": MODEL, "input": "x"})
    assert stored.headers["x-should-retry"] == "false"
    streamed = http("POST", "/v1/responses", {"model": MODEL, "input": "x", "stream": True})
    assert streamed.headers["x-should-retry"] == "false"
    volatile = http("POST", "/v1/responses", {"model": MODEL, "input": "x", "store": False})
    assert "x-should-retry" not in volatile.headers


def test_an_idempotency_key_attaches_to_the_first_turn(server: Served, http: Client) -> None:
    body = {"model": MODEL, "input": "pay it once"}
    key = {"idempotency-key": f"key-{time.time_ns()}"}
    first = http("POST", "/v1/responses", body, key).json
    again = http("POST", "/v1/responses", body, key).json
    assert again == first
    other = http("POST", "/v1/responses", {**body, "input": "pay twice"}, key)
    assert (other.status, other.error["code"]) == (400, "idempotency_key_reused")


def test_the_sdks_own_retry_attaches_to_the_first_turn(http: Client) -> None:
    body = {"model": MODEL, "input": f"refund {time.time_ns()}"}
    first = http("POST", "/v1/responses", body, {"x-stainless-retry-count": "0"}).json
    retried = http("POST", "/v1/responses", body, {"x-stainless-retry-count": "1"}).json
    meant_anew = http("POST", "/v1/responses", body, {"x-stainless-retry-count": "0"}).json
    assert retried["id"] == first["id"] != meant_anew["id"]


def _hang_up(server: Served, body: dict[str, Any], path: str = "/v1/responses") -> bytes:
    """Send a request, read the beginning of its answer, and go."""
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        connection.sendall(head.encode() + data)
        got = b""
        while b"delta" not in got:
            got += connection.recv(65536)
        return got


def _ends(server: Served, outcome: str) -> bool:
    """Whether the last request to the model ends so, within some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if server.scripted.requests[-1].outcome == outcome:
            return True
        time.sleep(0.01)
    return False


def test_a_client_that_hangs_up_does_not_stop_a_stored_turn(server: Served, client: openai.OpenAI) -> None:
    server.script(Answer(text="one two three four five", delay_ms=60))
    got = _hang_up(server, {"model": MODEL, "input": "x", "stream": True})
    line = next(line for line in got.decode().split("\n") if line.startswith("data: "))
    response_id = json.loads(line.removeprefix("data: "))["response"]["id"]
    events = list(client.responses.retrieve(response_id, stream=True))
    assert events[-1].type == "response.completed"
    assert client.responses.retrieve(response_id).output_text == "one two three four five"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": MODEL, "input": "x", "stream": True, "store": False}),
        ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}),
    ],
)
def test_a_client_that_hangs_up_stops_what_nobody_keeps(server: Served, path: str, body: dict[str, Any]) -> None:
    server.script(Answer(text="word " * 500, delay_ms=50))
    _hang_up(server, body, path)
    assert _ends(server, "closed")


class _Written:
    def __init__(self) -> None:
        self.status = 0
        self.writes: list[bytes] = []
        self.twice = asyncio.Event()

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status

    async def write(self, body: bytes, *, last: bool = False) -> None:
        self.writes.append(body)
        if len(self.writes) == 2:
            self.twice.set()


async def test_silence_is_broken_by_a_comment() -> None:
    call = _Written()
    beat = Heartbeat(call, silence_s=0.01)  # pyright: ignore[reportArgumentType]
    await call.twice.wait()
    beat.stop()
    assert set(call.writes) == {KEEPALIVE}
    assert call.status == 200


async def test_events_put_the_comment_off() -> None:
    call = _Written()
    beat = Heartbeat(call, silence_s=3600)  # pyright: ignore[reportArgumentType]
    beat.beat()
    await asyncio.sleep(0)
    beat.stop()
    assert call.writes == []
