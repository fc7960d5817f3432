"""Server-sent events: whole events, one ASGI send a batch, a comment when it is silent for long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from stateline.api.call import Call, WhileConnected
from stateline.api.errors import ClientGone, Header, error_body, error_event, internal_error
from stateline.core.calls import ModelDelta
from stateline.core.errors import StatelineError
from stateline.core.limits import STREAM_KEEPALIVE_S
from stateline.core.response import StreamEvent

STREAM_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies of the nginx family hold back what they may buffer.
    (b"x-accel-buffering", b"no"),
)
DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keep-alive\n\n"

_encoder = msgspec.json.Encoder()
_log = logging.getLogger("stateline.api")


def encode_events(events: Sequence[StreamEvent], into: bytearray) -> None:
    """Append ``event: TYPE``, ``data: JSON`` and the empty line for each."""
    for event in events:
        into += b"event: "
        into += event.type.encode()
        into += b"\ndata: "
        _encoder.encode_into(event, into, -1)
        into += b"\n\n"


class Heartbeat:
    """Writes a comment whenever nothing was written for STREAM_KEEPALIVE_S.

    A timer, not a task: it costs nothing while events flow. ``beat`` is called after each write. Where the
    answer waits for its first event to know its status, silence begins it: proxies cut what says nothing.
    """

    __slots__ = ("_call", "_loop", "_silence_s", "_task", "_timer", "_written_at")

    def __init__(self, call: Call, silence_s: float = STREAM_KEEPALIVE_S) -> None:
        self._call = call
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._written_at = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(silence_s, self._check)

    def beat(self) -> None:
        self._written_at = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _check(self) -> None:
        due_at = self._written_at + self._silence_s
        if self._loop.time() >= due_at:
            self._task = self._loop.create_task(self._comment())
            self.beat()
            due_at = self._written_at + self._silence_s
        self._timer = self._loop.call_at(due_at, self._check)

    async def _comment(self) -> None:
        if not self._call.status:
            await self._call.start(200, list(STREAM_HEADERS))
        await self._call.write(KEEPALIVE)


async def gather(call: Call, deltas: AsyncIterator[list[ModelDelta]], add: Callable[[list[ModelDelta]], None]) -> None:
    """Take all of a bare call's deltas in.

    Raises:
        ClientGone: the client hung up, which ends the call.
    """
    async with WhileConnected(call) as connected:
        async for batch in deltas:
            add(batch)
    if connected.gone:
        raise ClientGone


async def send_relayed(
    call: Call,
    deltas: AsyncIterator[list[ModelDelta]],
    encode: Callable[[list[ModelDelta]], bytearray],
    *,
    end: bytes,
    failed: Callable[[bytes], bytes],
) -> None:
    """Stream a bare call: each batch as ``encode`` has it, then ``end``.

    The headers wait for the first delta or a long silence, so that a call that fails at once has its own
    status. A failure after them ends the stream with what ``failed`` makes of the dialect's error.

    Raises:
        ClientGone: the client hung up, which ends the call.
    """
    last = end
    beat = Heartbeat(call)
    async with WhileConnected(call) as connected:
        try:
            async for batch in deltas:
                if not call.status:
                    await call.start(200, list(STREAM_HEADERS))
                await call.write(encode(batch))
                beat.beat()
        except StatelineError as error:
            if not call.status:
                raise
            last = failed(error_body(error, call.shape))
        except Exception:
            if not call.status:
                raise
            _log.exception("stream failed: request %s", call.request_id)
            last = failed(error_body(internal_error(call.request_id), call.shape))
        finally:
            beat.stop()
    if connected.gone:
        raise ClientGone
    await call.write(last, last=True)


async def send_events(call: Call, batches: AsyncIterator[list[StreamEvent]], cursor: int = -1) -> None:
    """Stream a turn to its end, then ``[DONE]``; or until the client goes, which ends the iterator.

    The headers go with the first events, or after a long silence. An error before them is an answer of
    its own; after them it becomes the dialect's ``error`` event.
    """
    number = cursor
    last = bytearray()
    beat = Heartbeat(call)
    async with WhileConnected(call) as connected:
        try:
            async for events in batches:
                if events:
                    number = events[-1].sequence_number
                    out = bytearray()
                    encode_events(events, out)
                    if not call.status:
                        await call.start(200, list(STREAM_HEADERS))
                    await call.write(out)
                    beat.beat()
        except StatelineError as error:
            if not call.status:
                raise
            encode_events([error_event(error, call.dialect, number + 1)], last)
        except Exception:
            if not call.status:
                raise
            _log.exception("stream failed: request %s", call.request_id)
            encode_events([error_event(internal_error(call.request_id), call.dialect, number + 1)], last)
        finally:
            beat.stop()
    if connected.gone:
        return
    if not call.status:
        # Nothing came after the cursor: an empty stream is an answer, too.
        await call.start(200, list(STREAM_HEADERS))
    await call.write(last + DONE, last=True)
