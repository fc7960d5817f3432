"""Compaction over the stateless plane: a bare model call whose answer stands for the conversation."""

from __future__ import annotations

from contextlib import aclosing

import msgspec

from stateline.core.calls import Finish, ModelRequest, TextDelta, Usage
from stateline.core.compaction import compaction, split, to_be_summed_up
from stateline.core.errors import ModelError
from stateline.core.items import ModelItem
from stateline.engine.node import Node
from stateline.engine.relay import relay


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """``items`` are the input to go on with: a compaction, and calls that wait for their answers.

    ``created_at`` is in Unix seconds.
    """

    items: tuple[ModelItem, ...]
    usage: Usage
    created_at: int


async def compact(node: Node, tenant: str, principal: str, request: ModelRequest, traceparent: str = "") -> Compacted:
    """Let the request's model sum up the request's items.

    Raises:
        ModelError: as ``relay`` does; ``compaction_failed`` where the answer is no whole summary.
        NoDeployment, BadRequest: as ``relay`` does.
    """
    head, tail = split(request.items)
    if not head:
        return Compacted(items=tuple(tail), usage=Usage(), created_at=node.clock.now_ms() // 1000)
    asked = msgspec.structs.replace(request, items=to_be_summed_up(head), stream=False)
    said: list[str] = []
    finish: Finish | None = None
    async with aclosing(relay(node, tenant, principal, asked, "responses", traceparent=traceparent)) as batches:
        async for deltas in batches:
            for delta in deltas:
                if isinstance(delta, TextDelta):
                    said.append(delta.text)
                elif isinstance(delta, Finish):
                    finish = delta
    summary = "".join(said).strip()
    if finish is None or finish.reason != "stop" or not summary:
        why = "was empty" if finish is not None and finish.reason == "stop" else "was cut off"
        message = f"the model's summary {why}; try again, or compact with another model"
        raise ModelError(message, code="compaction_failed", retryable=False)
    item_id = f"cmp_{node.entropy(14).hex()}"
    return Compacted(
        items=(compaction(item_id, summary), *tail),
        usage=finish.usage or Usage(),
        created_at=node.clock.now_ms() // 1000,
    )
