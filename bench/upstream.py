"""A fake upstream: `/v1/chat/completions` and `/v1/responses`, JSON and streamed, and streams in the other formats.

A process of its own, so that its CPU is never counted as the server's. It is a bare asyncio
protocol over bodies built in advance: on a machine with two cores an upstream that computes would
be measured along with the server. A stream is written in groups of a few events, each group a
write of its own, as a provider's arrives.

`python -m bench.upstream --port 0` prints `{"port": N}` once it listens. `GET /stats` counts the
answers it gave as JSON and as streams, so that a row can say what its server asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
from typing import cast

from bench import upstream_bodies as bodies
from bench import upstream_vendors as vendors
from bench.loop import run

_ID = bodies.ID.encode()


def _chunked(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _json_answer(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


_SSE, _FRAMES = b"text/event-stream; charset=utf-8", b"application/vnd.amazon.eventstream"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"


class Answers:
    """Every answer, built once: whole JSON bodies, and streams as groups of writes."""

    def __init__(self, tokens: int, group: int) -> None:
        self.chat = _json_answer(bodies.chat_json(tokens))
        self.response = _json_answer(bodies.response_json(tokens))
        self.chat_stream = self._groups(bodies.chat_events(tokens, with_usage=False), group)
        self.chat_stream_usage = self._groups(bodies.chat_events(tokens, with_usage=True), group)
        self.response_stream = self._groups(bodies.response_events(tokens), group)
        self.chat_padded = self._groups(vendors.padded(bodies.chat_events(tokens, with_usage=True)), group)
        self.response_padded = self._groups(vendors.padded(bodies.response_events(tokens)), group)
        # By the end of the path; the query is what Google's streams are asked for with.
        self.others: dict[bytes, tuple[str, list[bytes]]] = {
            b"/messages": ("messages_stream", self._groups(vendors.messages_events(tokens), group)),
            b":streamgeneratecontent?alt=sse": ("gemini_stream", self._groups(vendors.gemini_events(tokens), group)),
            b"/converse-stream": ("converse_stream", self._groups(vendors.converse_frames(tokens), group, _FRAMES)),
            b"/invoke-with-response-stream": (
                "invoke_stream", self._groups(vendors.invoke_frames(tokens), group, _FRAMES),
            ),
        }  # fmt: skip
        model = {"id": bodies.MODEL, "object": "model", "created": 0, "owned_by": "bench"}
        self.models = _json_answer(json.dumps({"object": "list", "data": [model]}).encode())
        self.not_found = _json_answer(
            b'{"error":{"message":"no such path","type":"invalid_request_error"}}', "404 Not Found"
        )

    @staticmethod
    def _groups(events: list[bytes], size: int, kind: bytes = _SSE) -> list[bytes]:
        chunks = [_chunked(event) for event in events]
        groups = [b"".join(chunks[i : i + size]) for i in range(0, len(chunks), size)]
        groups[0] = _STREAM_HEAD % kind + groups[0]
        groups[-1] += b"0\r\n\r\n"
        return groups


class Upstream(asyncio.Protocol):
    """One connection: requests in turn, keep-alive, answered from the prepared bytes."""

    ids = itertools.count(1)
    counts: dict[str, int]

    def __init__(self, answers: Answers, gap_s: float, counts: dict[str, int]) -> None:
        self.answers = answers
        self.gap_s = gap_s
        self.counts = counts
        self.buffer = b""
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            target = head.split(b" ", 2)[1]
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(target, body)

    def answer(self, target: bytes, body: bytes) -> None:
        answers = self.answers
        streamed = b'"stream":true' in body or b'"stream": true' in body
        padded = b'"model":"padded"' in body
        if target.endswith(b"/chat/completions"):
            self.count("chat_stream" if streamed else "chat_json")
            if not streamed:
                self.write_whole(answers.chat)
            elif padded:
                self.write_groups(answers.chat_padded)
            elif b"include_usage" in body:
                self.write_groups(answers.chat_stream_usage)
            else:
                self.write_groups(answers.chat_stream)
        elif target.endswith(b"/responses"):
            self.count("response_stream" if streamed else "response_json")
            if streamed:
                self.write_groups(answers.response_padded if padded else answers.response_stream)
            else:
                self.write_whole(answers.response)
        elif target.endswith(b"/models"):
            self.write_whole(answers.models)
        elif target.endswith(b"/stats"):
            self.write_whole(_json_answer(json.dumps(self.counts).encode()))
        else:
            for end, (name, groups) in answers.others.items():
                if target.endswith(end):
                    self.count(name)
                    return self.write_groups(groups)
            self.write_whole(answers.not_found)
        return None

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def write_whole(self, answer: bytes) -> None:
        if self.transport is not None:
            self.transport.write(answer.replace(_ID, b"%017d" % next(self.ids)))

    def write_groups(self, groups: list[bytes]) -> None:
        self.write_group(groups, 0, b"%017d" % next(self.ids))

    def write_group(self, groups: list[bytes], index: int, answer_id: bytes) -> None:
        """Write one group, and the next on a later turn of the loop: each its own segment."""
        if self.transport is None:
            return
        self.transport.write(groups[index].replace(_ID, answer_id))
        if index + 1 == len(groups):
            return
        if self.gap_s > 0:
            self.loop.call_later(self.gap_s, self.write_group, groups, index + 1, answer_id)
        else:
            self.loop.call_soon(self.write_group, groups, index + 1, answer_id)


async def serve(port: int, tokens: int, group: int, gap_s: float) -> None:
    """Answer on 127.0.0.1 until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    answers = Answers(tokens, group)
    counts: dict[str, int] = {}
    server = await loop.create_server(lambda: Upstream(answers, gap_s, counts), "127.0.0.1", port, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--group", type=int, default=5, help="events a write")
    parser.add_argument("--gap-ms", type=float, default=0.0, help="pause between two writes")
    args = parser.parse_args()
    run(serve(args.port, args.tokens, args.group, args.gap_ms / 1000))


if __name__ == "__main__":
    main()
