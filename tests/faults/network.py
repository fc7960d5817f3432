"""What stands between: a load balancer for the clients, and a wire to PostgreSQL that can lose answers."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from random import Random

_PIECE_BYTES = 64 * 1024
_CONNECT_S = 2.0


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE_BYTES):
        writer.write(data)
        await writer.drain()


async def _both(one: Awaitable[None], other: Awaitable[None]) -> None:
    """Until either direction ends, as a connection does when one side leaves."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _cut(writer: asyncio.StreamWriter) -> None:
    """End at once: the other side gets a reset, not an end."""
    writer.transport.abort()


class Balancer:
    """Sends each new connection to any node that accepts one."""

    def __init__(self, ports: Sequence[int], seed: int) -> None:
        self._ports = list(ports)
        self._random = Random(seed)
        self.served = dict.fromkeys(ports, 0)
        """Connections that each node got."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for port in self._random.sample(self._ports, len(self._ports)):
                try:
                    async with asyncio.timeout(_CONNECT_S):
                        back, there = await asyncio.open_connection("127.0.0.1", port)
                except (OSError, TimeoutError):
                    continue
                self.served[port] += 1
                try:
                    await _both(_copy(reader, there), _copy(back, writer))
                finally:
                    _close(there)
                return
        finally:
            _close(writer)


def _close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


_COMMITS = (b"COMMIT", b"stateline_writers SET number")
"""What a message to the server holds when its answer tells that something was committed."""


class Wire:
    """Every node's way to PostgreSQL, message by message.

    ``swallow`` answers to commits are lost, one after the other: the server is asked and answers, the
    node hears nothing, and its connection is reset. ``hold`` lets nothing through in either direction.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.swallow = 0
        self.swallowed = 0
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        count = len(self._writers) // 2
        for writer in list(self._writers):
            _cut(writer)
        return count

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            _cut(writer)
            return
        pair = {writer, there}
        self._writers |= pair
        talk = _Talk(self)
        try:
            await _both(talk.asks(reader, there), talk.answers(back, writer))
        finally:
            self._writers -= pair
            for each in pair:
                if talk.lost:
                    _cut(each)
                else:
                    _close(each)

    async def passing(self) -> None:
        await self._open.wait()


class _Talk:
    """One connection: which statements commit, and whether the next answer is to be lost."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._committing: set[bytes] = set()
        self._in_transaction = False
        self._losing = False
        self.lost = False

    async def asks(self, reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            # The first message has no type.
            length = await reader.readexactly(4)
            there.write(length + await reader.readexactly(struct.unpack("!I", length)[0] - 4))
            while True:
                kind, body = await _message(reader)
                await self._wire.passing()
                if self._commits(kind, body) and self._wire.swallow > 0:
                    self._wire.swallow -= 1
                    self._losing = True
                there.write(kind + struct.pack("!I", len(body) + 4) + body)
                await there.drain()

    def _commits(self, kind: bytes, body: bytes) -> bool:
        if kind == b"Q":
            return body.startswith(b"COMMIT")
        if kind == b"P":
            name, _, query = body.partition(b"\0")
            if any(words in query for words in _COMMITS):
                self._committing.add(name)
        elif kind == b"B":
            # Inside a transaction it is the COMMIT that commits.
            return body.split(b"\0", 2)[1] in self._committing and not self._in_transaction
        return False

    async def answers(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                kind, body = await _message(back)
                await self._wire.passing()
                if kind == b"Z":
                    self._in_transaction = body != b"I"
                if self._losing:
                    if kind == b"Z":
                        self.lost = True
                        self._wire.swallowed += 1
                        return
                    continue
                writer.write(kind + struct.pack("!I", len(body) + 4) + body)
                await writer.drain()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler) -> AsyncGenerator[int]:
    """Serve on a free port of 127.0.0.1, which is given; connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.CancelledError):
            # Whoever was connected finds out by the reset.
            _cut(writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
