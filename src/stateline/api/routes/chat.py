"""``/v1/chat/completions``: the stateless plane, of which nothing is kept; and agents, which are stored turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from time import time

from stateline.api.agent_turns import Told, agent_deltas, is_agent
from stateline.api.auth import require_agent
from stateline.api.call import Call
from stateline.api.chat.encode import ChatAnswer, ChatChunks
from stateline.api.chat.parse import ParsedChat, parse_chat
from stateline.api.names import new_name
from stateline.api.rates import show_rates
from stateline.api.service import Service
from stateline.api.stream import DONE, gather, send_relayed
from stateline.core.calls import ModelDelta


async def create(service: Service, call: Call) -> None:
    """One bare model call, which ends when the client hangs up; or a turn of an agent."""
    body, told = await call.body(), Told()
    parsed = parse_chat(body)
    request = parsed.request
    require_agent(call.principal, request.params.model)
    show_rates(service, call, request.params.model)
    if is_agent(request.params.model):
        deltas = agent_deltas(service, call, request, body, told, one_text=True)
    else:
        deltas = service.engine.relay(call.tenant, call.principal.id, request, traceparent=call.traceparent())
    async with aclosing(deltas):
        if request.stream:
            await _stream(call, parsed, deltas, told)
        else:
            await _whole(call, parsed, deltas, told)


async def _whole(call: Call, parsed: ParsedChat, deltas: AsyncIterator[list[ModelDelta]], told: Told) -> None:
    answer = ChatAnswer(told)
    await gather(call, deltas, answer.add)
    await call.reply_json(answer.completion(_completion_id(), int(time()), parsed.request.params.model))


async def _stream(call: Call, parsed: ParsedChat, deltas: AsyncIterator[list[ModelDelta]], told: Told) -> None:
    model = parsed.request.params.model
    chunks = ChatChunks(_completion_id(), int(time()), model, include_usage=parsed.include_usage, told=told)
    await send_relayed(call, deltas, chunks.encode, end=DONE, failed=lambda error: b"data: %b\n\n" % error)


def _completion_id() -> str:
    return new_name("chatcmpl-", 14)
