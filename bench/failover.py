"""`python -m bench.failover`: many streams over three upstreams, one of which breaks in its own way in each round.

The server and the upstreams are processes; the clients are the official SDK, which puts each answer together
from its stream. Each upstream speaks another wire format, and every attempt has words of its own, so nothing
can be put together from two of them unseen. In each round one upstream is killed, stopped (SIGSTOP), slow to
begin, out of its rate, or sends broken JSON in the middle.

Of each stream that moved: the delay that was added, from the moment at which the fault could be known (the
connection broke, or `stall_s` and `first_byte_s` were over) to the first word of the new attempt at the client.
A third of all streams move at one instant, and the client's SDK has its share in that; beside it stands what the
log says, from the recorded failure to the first durable words of the new attempt.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import aiohttp
import openai

from bench import report
from bench.bounds import check
from bench.failover_upstream import WORDS
from bench.stats import percentile

Fault = Literal["killed", "stalled", "slowed", "throttled", "malformed"]
FAULTS: tuple[Fault, ...] = ("killed", "stalled", "slowed", "throttled", "malformed")
NAMES = ("alder", "birch", "cedar")
FORMATS = ("openai-chat", "openai-responses", "anthropic-messages")
STALL_S = 2.0
FIRST_BYTE_S = 2.0
SPREAD_S = 1.0
"""Within this the streams begin, one after the other."""
_START_S_MAX = 60.0
_CLIENT_S = 120.0
"""The SDK gives a connection 5 s, which a busy machine may not keep; what is measured is not that."""
_ROOT = Path(__file__).resolve().parent.parent


# -- processes ---------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _ready(process: asyncio.subprocess.Process, url: str) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(_START_S_MAX):
        while True:
            assert process.returncode is None, f"{url} ended at its start"
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with http.get(url) as reply:
                    if reply.status == 200:
                        return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def _process(log: Path, *arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=out, stderr=out, cwd=_ROOT, env=os.environ
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _lay_out(folder: Path, port: int, ports: Sequence[int]) -> Path:
    """The configuration, in a folder made for it."""
    lines = [
        f'[server]\nport = {port}\nlog_level = "warning"\n',
        f'[store]\nurl = "sqlite:///{folder / "stateline.db"}"\n',
    ]
    for name, wire, at in zip(NAMES, FORMATS, ports, strict=True):
        cloud = "anthropic" if wire == "anthropic-messages" else "openai-compatible"
        lines.append(
            f'[[deployments]]\nname = "{name}"\nmodel = "tree"\ncloud = "{cloud}"\nformat = "{wire}"\n'
            f'base_url = "http://127.0.0.1:{at}/v1"\nauth = "none"\n'
            f"first_byte_s = {FIRST_BYTE_S}\nstall_s = {STALL_S}\n"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "stateline.toml"
    file.write_text("\n".join(lines))
    return file


# -- the streams -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Stream:
    """What one client saw. Times are the monotonic clock's, in seconds."""

    sent_s: float = 0.0
    first_s: dict[str, float] = field(default_factory=dict[str, float])
    last_s: dict[str, float] = field(default_factory=dict[str, float])
    said: dict[str, str] = field(default_factory=dict[str, str])
    kept: str = ""
    text: str = ""
    response_id: str = ""
    steps: int = 0
    deployment: str = ""


async def _read(client: openai.AsyncOpenAI, stream: Stream) -> None:
    stream.sent_s = time.monotonic()
    async with client.responses.stream(model="tree", input="Say something.") as events:
        async for event in events:
            if event.type == "response.output_text.delta":
                now_s = time.monotonic()
                stream.first_s.setdefault(event.item_id, now_s)
                stream.last_s[event.item_id] = now_s
                stream.said[event.item_id] = stream.said.get(event.item_id, "") + event.delta
        final = await events.get_final_response()
    assert final.status == "completed", final.error
    (item,) = final.output
    assert item.type == "message"
    assert item.status == "completed"
    stream.kept, stream.text, stream.response_id = item.id, final.output_text, final.id
    extension = cast("dict[str, Any]", (final.model_extra or {})["stateline"])
    stream.steps, stream.deployment = extension["steps"], extension["deployment"]


def judge(streams: Sequence[Stream], stored: Sequence[str]) -> None:
    """Every answer is one attempt's alone, whole, and as it was streamed and stored.

    Raises:
        AssertionError: one is not.
    """
    stems: set[str] = set()
    for stream, text in zip(streams, stored, strict=True):
        stem = stream.text.partition("w0 ")[0]
        assert stream.text == " ".join(f"{stem}w{at}" for at in range(WORDS)), stream.text
        assert stem.startswith(stream.deployment)
        assert stream.said[stream.kept] == stream.text == text
        stems.add(stem)
    assert len(stems) == len(streams), "two clients were given the same answer"


def added_ms(fault: Fault, stream: Stream, struck_s: float, delay_ms: float) -> float | None:
    """What was added to a stream that moved; None for one that did not."""
    if stream.steps < 2:
        return None
    heard_s = max((at for item, at in stream.last_s.items() if item != stream.kept), default=None)
    known_s = {
        "killed": struck_s if heard_s is not None else max(struck_s, stream.sent_s),
        "stalled": stream.sent_s + FIRST_BYTE_S if heard_s is None else heard_s + STALL_S,
        "slowed": stream.sent_s + FIRST_BYTE_S,
        "throttled": stream.sent_s,
        # The last good word may be lost, where it came in one piece with what is broken.
        "malformed": _broke_s(stream, delay_ms),
    }[fault]
    return max(0.0, stream.first_s[stream.kept] - known_s) * 1000


def _broke_s(stream: Stream, delay_ms: float) -> float:
    """When the upstream sent what is no JSON: after half of its words, by its own pace."""
    begun_s = min((at for item, at in stream.first_s.items() if item != stream.kept), default=stream.sent_s)
    heard_s = max((at for item, at in stream.last_s.items() if item != stream.kept), default=stream.sent_s)
    return max(heard_s, begun_s + (WORDS // 2 - 1) * delay_ms / 1000)


def logged_ms(database: Path) -> list[float]:
    """From each failure in the log to the first words after it, both as they were written."""
    failed: dict[object, tuple[int, int]] = {}
    first: dict[object, int] = {}
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        for session, seq, at_ms, body in db.execute("SELECT session, seq, at_ms, body FROM events ORDER BY seq"):
            if b"model_call_failed" in bytes(body)[:40]:
                failed.setdefault(session, (seq, at_ms))
        for session, seq, at_ms in db.execute("SELECT session, seq, at_ms FROM chunks ORDER BY seq"):
            if session in failed and seq > failed[session][0]:
                first.setdefault(session, at_ms)
    return [first[session] - at_ms for session, (_, at_ms) in failed.items() if session in first]


# -- a round ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Round:
    """One fault. Times in milliseconds."""

    fault: Fault
    streams: int
    moved: int
    added_p50_ms: float
    added_p99_ms: float
    logged_p50_ms: float
    begun_p50_ms: float
    added: list[float]


async def round_of(fault: Fault, streams: int, folder: Path, *, delay_ms: float = 100.0) -> Round:
    """Start everything, strike one upstream while the streams run, and judge what came of them."""
    struck = FAULTS.index(fault) % len(NAMES)
    ports, port = [free_port() for _ in NAMES], free_port()
    config = _lay_out(folder, port, ports)
    async with contextlib.AsyncExitStack() as stack:
        upstreams: list[asyncio.subprocess.Process] = []
        for at, name in enumerate(NAMES):
            mode = fault if at == struck else "well"
            arguments = ("-m", "bench.failover_upstream", name, mode, str(ports[at]), str(delay_ms))
            upstreams.append(await stack.enter_async_context(_process(folder / f"{name}.log", *arguments)))
        serving = ("-c", "from stateline.cli import main; main()", "serve", "--config", str(config))
        server = await stack.enter_async_context(_process(folder / "server.log", *serving))
        for upstream, at in zip(upstreams, ports, strict=True):
            await _ready(upstream, f"http://127.0.0.1:{at}/v1/models")
        await _ready(server, f"http://127.0.0.1:{port}/readyz")
        client = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=0, timeout=_CLIENT_S
        )
        seen = [Stream() for _ in range(streams)]
        async with client:
            struck_s = await _strike(fault, client, seen, upstreams[struck], ports[struck])
            stored = [(await client.responses.retrieve(each.response_id)).output_text for each in seen]
    judge(seen, stored)
    added = [ms for each in seen if (ms := added_ms(fault, each, struck_s, delay_ms)) is not None]
    begun = [(min(each.first_s.values()) - each.sent_s) * 1000 for each in seen if each.steps == 1]
    return Round(
        fault=fault,
        streams=streams,
        moved=len(added),
        added_p50_ms=round(percentile(added, 0.5), 1),
        added_p99_ms=round(percentile(added, 0.99), 1),
        logged_p50_ms=round(percentile(logged_ms(folder / "stateline.db"), 0.5), 1),
        begun_p50_ms=round(percentile(begun, 0.5), 1),
        added=added,
    )


async def _strike(
    fault: Fault,
    client: openai.AsyncOpenAI,
    streams: Sequence[Stream],
    upstream: asyncio.subprocess.Process,
    port: int,
) -> float:
    """Run the streams, and break one upstream once all have begun; returns when it was broken."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        async with asyncio.TaskGroup() as group:
            for each in streams:
                group.create_task(_read(client, each))
                await asyncio.sleep(SPREAD_S / len(streams))
            await asyncio.sleep(0.2)
            if fault == "stalled":
                upstream.send_signal(signal.SIGSTOP)
            if fault != "killed":
                return time.monotonic()
            broken = asyncio.get_running_loop().run_in_executor(None, _until_broken, connection)
            upstream.kill()
            return await broken


def _until_broken(connection: socket.socket) -> float:
    """When a connection to a process that dies was closed: the system takes its memory first."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    return time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--json", type=Path, default=report.RESULTS / "failover.json")
    parser.add_argument("--delay-ms", type=float, default=300.0, help="between two words of an answer")
    options = parser.parse_args()
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="failover-") as name:
        for fault in FAULTS:
            folder = Path(name) / fault
            rounds.append(asyncio.run(round_of(fault, options.streams, folder, delay_ms=options.delay_ms)))
    report.table(
        f"Failover of {options.streams} streams (ms; added: beyond the time at which the fault could be known)",
        ("fault", "moved", "added p50", "added p99", "in the log p50", "first word p50 of the others"),
        [(r.fault, r.moved, r.added_p50_ms, r.added_p99_ms, r.logged_p50_ms, r.begun_p50_ms) for r in rounds],
    )
    p50_ms = round(percentile([ms for each in rounds for ms in each.added], 0.5), 1)
    worst_ms = max(each.added_p50_ms for each in rounds)
    found = [check("failover added p50_ms", p50_ms), check("failover worst added p50_ms", worst_ms)]
    report.checks([each for each in found if each is not None])
    shown = [{name: value for name, value in asdict(each).items() if name != "added"} for each in rounds]
    figures = {"failover added p50_ms": p50_ms, "failover worst added p50_ms": worst_ms}
    timeouts = {"stall_s": STALL_S, "first_byte_s": FIRST_BYTE_S}
    report.write(options.json, {"streams": options.streams, **timeouts, "rounds": shown, **figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
