"""``/v1/chat/completions``: the stateless plane. Nothing of it is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from time import time

from stateline.api.call import Call, WhileConnected
from stateline.api.chat.encode import ChatAnswer, ChatChunks
from stateline.api.chat.parse import ParsedChat, parse_chat
from stateline.api.errors import ClientGone, error_body, internal_error
from stateline.api.service import Service
from stateline.api.stream import DONE, STREAM_HEADERS, Heartbeat
from stateline.core.calls import ModelDelta
from stateline.core.errors import StatelineError

_log = logging.getLogger("stateline.api")


async def create(service: Service, call: Call) -> None:
    """One bare model call; it ends when the client hangs up."""
    parsed = parse_chat(await call.body())
    request = parsed.request
    deltas = service.engine.relay(call.tenant, call.principal.id, request)
    async with aclosing(deltas):
        if request.stream:
            await _stream(call, parsed, deltas)
        else:
            await _whole(call, parsed, deltas)


async def _whole(call: Call, parsed: ParsedChat, deltas: AsyncIterator[list[ModelDelta]]) -> None:
    answer = ChatAnswer()
    async with WhileConnected(call) as connected:
        async for batch in deltas:
            answer.add(batch)
    if connected.gone:
        raise ClientGone
    model = parsed.request.params.model
    await call.reply_json(answer.completion(_completion_id(), int(time()), model))


async def _stream(call: Call, parsed: ParsedChat, deltas: AsyncIterator[list[ModelDelta]]) -> None:
    """The headers wait for the first delta or a long silence, so that a call that fails at once has its own status."""
    model = parsed.request.params.model
    chunks = ChatChunks(_completion_id(), int(time()), model, include_usage=parsed.include_usage)
    last = DONE
    beat = Heartbeat(call)
    async with WhileConnected(call) as connected:
        try:
            async for batch in deltas:
                if not call.status:
                    await call.start(200, list(STREAM_HEADERS))
                await call.write(chunks.encode(batch))
                beat.beat()
        except StatelineError as error:
            if not call.status:
                raise
            last = b"data: " + error_body(error, "openai") + b"\n\n"
        except Exception:
            if not call.status:
                raise
            _log.exception("stream failed: request %s", call.request_id)
            last = b"data: " + error_body(internal_error(call.request_id), "openai") + b"\n\n"
        finally:
            beat.stop()
    if connected.gone:
        raise ClientGone
    await call.write(last, last=True)


def _completion_id() -> str:
    return "chatcmpl-" + os.urandom(14).hex()
