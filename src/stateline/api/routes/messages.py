"""``/v1/messages``, for clients of Anthropic's API: the stateless plane, of which nothing is kept; and agents."""

from __future__ import annotations

from contextlib import aclosing

import msgspec

from stateline.api.agent_turns import Told, agent_deltas, is_agent
from stateline.api.auth import require_agent
from stateline.api.call import Call
from stateline.api.messages.encode import STOP, MessageAnswer, MessageEvents, error_bytes
from stateline.api.messages.parse import parse_count_tokens, parse_message
from stateline.api.names import new_name
from stateline.api.rates import show_rates
from stateline.api.service import Service
from stateline.api.stream import gather, send_relayed


class MessageTokens(msgspec.Struct, frozen=True):
    input_tokens: int


async def create(service: Service, call: Call) -> None:
    """One bare model call, which ends when the client hangs up; or a turn of an agent."""
    body, told = await call.body(), Told()
    request = parse_message(body)
    message_id, model = new_name("msg_", 14), request.params.model
    require_agent(call.principal, model)
    show_rates(service, call, model)
    if is_agent(model):
        deltas = agent_deltas(service, call, request, body, told, one_text=False)
    else:
        deltas = service.engine.relay(
            call.tenant, call.principal.id, request, "messages", traceparent=call.traceparent()
        )
    async with aclosing(deltas):
        if request.stream:
            events = MessageEvents(message_id, model, told)
            await send_relayed(call, deltas, events.encode, end=STOP, failed=error_bytes)
            return
        answer = MessageAnswer(told)
        await gather(call, deltas, answer.add)
        await call.reply_json(answer.message(message_id, model))


async def count_tokens(service: Service, call: Call) -> None:
    """An estimate of what ``create`` would send for the same body."""
    request = parse_count_tokens(await call.body())
    await call.reply_json(MessageTokens(service.engine.input_tokens(request)))
