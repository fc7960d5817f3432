"""The load client: a bounded number of requests over keep-alive connections to loopback.

A process of its own, a bare asyncio protocol, so that it takes little of the two cores that the
server under test is on. Every answer is checked: status 200, all of its words, its right ending.

`python -m bench.load --port N --kind response-stream --concurrency 16` prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast

from bench.loop import run
from bench.stats import percentile

KINDS = ("chat-json", "chat-stream", "response-json", "response-stream")
_REQUESTS_MAX = 50_000
_HEAD_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: at most `requests` of them and for at most `duration_s`."""

    port: int
    kind: str
    model: str
    concurrency: int
    requests: int
    duration_s: float
    tokens: int = 100


@dataclass(slots=True)
class Outcome:
    """What came back; latencies in ms from the first byte sent to the last one read."""

    answered: int = 0
    failed: int = 0
    first_failure: str = ""
    wall_s: float = 0.0
    requests_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    first_byte_p50_ms: float = 0.0
    bytes_read: int = 0


def request_bytes(load: Load, number: int) -> bytes:
    """One request; its text differs each time so that nothing can be answered from a cache."""
    text = f"Say a hundred words, please. This is question {number}."
    body: dict[str, object] = {"model": load.model}
    if load.kind.startswith("chat"):
        path = "/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": text}]
    else:
        path = "/v1/responses"
        body["input"] = text
        body["store"] = True
    body["stream"] = load.kind.endswith("stream")
    payload = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{load.port}\r\naccept: */*\r\n"
        f"authorization: Bearer bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def check(load: Load, body: bytes) -> str:
    """Why a 200 is no right answer, or an empty string."""
    words = body.count(b" token") + body.count(b'"token')
    if words < load.tokens:
        return f"{words} words of {load.tokens}: {body[-200:]!r}"
    if load.kind == "chat-stream" and b'"stop"' not in body:
        return f"no finish reason: {body[-200:]!r}"
    if load.kind == "response-stream" and b"response.completed" not in body:
        return f"no response.completed: {body[-200:]!r}"
    if load.kind == "response-json" and b'"completed"' not in body:
        return f"not completed: {body[-200:]!r}"
    return ""


@dataclass
class Shared:
    """What the connections of one run have in common."""

    load: Load
    deadline: float
    sent: int = 0
    outcome: Outcome = field(default_factory=Outcome)
    latencies_ms: list[float] = field(default_factory=list[float])
    first_bytes_ms: list[float] = field(default_factory=list[float])

    def next_request(self) -> bytes | None:
        if self.sent >= self.load.requests or time.perf_counter() >= self.deadline:
            return None
        self.sent += 1
        return request_bytes(self.load, self.sent)

    def fail(self, why: str) -> None:
        self.outcome.failed += 1
        self.outcome.first_failure = self.outcome.first_failure or why[:500]


class Connection(asyncio.Protocol):
    """One keep-alive connection that sends the next request once it has read the whole answer."""

    def __init__(self, shared: Shared, done: asyncio.Future[None]) -> None:
        self.shared = shared
        self.done = done
        self.transport: asyncio.Transport | None = None
        self.parts: list[bytes] = []
        self.started = 0.0
        self.first_byte = 0.0
        self.head = b""
        self.missing = 0  # Bytes still to come of a body with a known length; -1: chunked.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        request = self.shared.next_request()
        assert self.transport is not None
        if request is None:
            self.finish()
            return
        self.parts, self.head, self.first_byte = [], b"", 0.0
        self.started = time.perf_counter()
        self.transport.write(request)

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        if self.transport is not None:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if not self.first_byte:
            self.first_byte = time.perf_counter()
        self.shared.outcome.bytes_read += len(data)
        if not self.head:
            data = b"".join([*self.parts, data])
            end = data.find(b"\r\n\r\n")
            if end < 0 or len(data) > _HEAD_MAX_BYTES + end:
                self.parts = [data]
                return
            self.head, body = data[: end + 4], data[end + 4 :]
            self.parts = [body]
            self.missing = self.length_of(self.head) - len(body)
            if self.length_of(self.head) < 0:
                self.missing = -1
        else:
            self.parts.append(data)
            if self.missing > 0:
                self.missing -= len(data)
        if self.missing == 0 or (self.missing < 0 and self.ended()):
            self.answered()

    @staticmethod
    def length_of(head: bytes) -> int:
        lowered = head.lower()
        at = lowered.find(b"\r\ncontent-length:")
        return int(lowered[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else -1

    def ended(self) -> bool:
        tail = self.parts[-1]
        if len(tail) < 7 and len(self.parts) > 1:
            tail = self.parts[-2] + tail
        return tail.endswith(b"\r\n0\r\n\r\n")

    def answered(self) -> None:
        now = time.perf_counter()
        shared = self.shared
        body = b"".join(self.parts)
        if b" 200 " not in self.head[:16]:
            shared.fail(f"{self.head[:60]!r} {body[:300]!r}")
        elif why := check(shared.load, body):
            shared.fail(why)
        else:
            shared.outcome.answered += 1
            shared.latencies_ms.append((now - self.started) * 1000)
            shared.first_bytes_ms.append((self.first_byte - self.started) * 1000)
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.done.done():
            self.shared.fail(f"the connection was closed: {exc}")
            self.done.set_result(None)


async def drive(load: Load) -> Outcome:
    """Run the load to its bound and give the figures; a stuck answer ends it after 60 s more."""
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    shared = Shared(load, start + load.duration_s)
    ends: list[asyncio.Future[None]] = []
    for _ in range(load.concurrency):
        end: asyncio.Future[None] = loop.create_future()
        ends.append(end)
        await loop.create_connection(lambda end=end: Connection(shared, end), "127.0.0.1", load.port)
    _, pending = await asyncio.wait(ends, timeout=load.duration_s + 60)
    outcome = shared.outcome
    for _ in pending:
        shared.fail("no whole answer within 60 s of the end")
    outcome.wall_s = time.perf_counter() - start
    if shared.latencies_ms:
        outcome.requests_per_s = outcome.answered / outcome.wall_s
        outcome.p50_ms = percentile(shared.latencies_ms, 0.5)
        outcome.p99_ms = percentile(shared.latencies_ms, 0.99)
        outcome.first_byte_p50_ms = percentile(shared.first_bytes_ms, 0.5)
    return outcome


def run_process(load: Load) -> Outcome:
    """Run the load in a process of its own; RuntimeError with its words where that fails."""
    argv = [sys.executable, "-m", "bench.load"]
    for name, value in asdict(load).items():
        argv += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=load.duration_s + 90, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the load client failed: {done.stderr[-500:]}")
    return Outcome(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--duration-s", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=100)
    load = Load(**vars(parser.parse_args()))
    if not 1 <= load.requests <= _REQUESTS_MAX:
        parser.error(f"--requests must be within 1..{_REQUESTS_MAX}")
    print(json.dumps(asdict(run(drive(load)))))


if __name__ == "__main__":
    main()
