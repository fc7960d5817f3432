"""The stateless plane: one bare model call, with retries until something was said."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from stateline.core.calls import ModelDelta, ModelRequest
from stateline.core.errors import ModelError
from stateline.core.ids import nonce
from stateline.core.limits import RELAY_RETRIES_MAX, RETRY_AFTER_RELAY_MS_MAX
from stateline.core.turn import backoff_ms
from stateline.engine.node import Node
from stateline.engine.place import fitted, place


async def relay(
    node: Node, tenant: str, principal: str, request: ModelRequest
) -> AsyncGenerator[list[ModelDelta], None]:
    """Deltas of a call. Once a delta was given, an error ends it: text is never spliced.

    Raises:
        ModelError: after the last try.
        BadRequest: unknown model, or what the deployment's format cannot carry.
    """
    if not request.key:
        request = msgspec.structs.replace(request, key=f"{tenant}/{nonce(node.entropy(5))}")
    catalogue = node.catalogue
    for failures in range(RELAY_RETRIES_MAX + 1):
        deployment = place(catalogue, request.params.model, request.key, failures)
        said = False
        try:
            async with node.slots.of(deployment):
                async for deltas in node.client.call(deployment, fitted(request, deployment)):
                    said = True
                    yield deltas
            return
        except ModelError as error:
            if said or not error.retryable or failures == RELAY_RETRIES_MAX:
                raise
            wait_ms = backoff_ms(failures + 1, request.key, int((error.retry_after_s or 0) * 1000))
            if wait_ms > RETRY_AFTER_RELAY_MS_MAX:
                # Longer than a caller should be kept waiting: it is told how long, and decides.
                raise
            await node.clock.sleep(wait_ms / 1000)
