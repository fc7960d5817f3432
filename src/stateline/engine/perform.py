"""Performing a model call: its deltas into a builder, its end into an event."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from stateline.core import events as e
from stateline.core.calls import FinishReason, ModelDelta, ModelRequest
from stateline.core.errors import BadRequest, ModelError
from stateline.core.items import ItemStatus
from stateline.core.limits import CHUNK_BYTES_MAX
from stateline.core.session import Session
from stateline.core.stream import StreamBuilder
from stateline.engine.failover import not_carried
from stateline.engine.health import Permit
from stateline.ports import Deployment, ModelClient

log = logging.getLogger("stateline.engine")

_CUT: dict[FinishReason, ItemStatus] = {
    "length": "incomplete",
    "content_filter": "incomplete",
    "cancelled": "incomplete",
    "max_output_bytes": "incomplete",
    "max_wall_time": "incomplete",
}
"""Finish reasons that leave the last item incomplete."""
_NO_ROOM = frozenset({503, 529})
"""Service Unavailable, and Anthropic's "overloaded"."""
_GAVE_UP = frozenset({408, 499})
"""Statuses of a request that was begun and not ended."""


class RunningCall:
    """A model call in flight.

    Its task feeds ``builder`` and calls ``changed`` after each batch and at the end; it never touches
    the log. ``failure`` is set when it ended without an answer.
    """

    def __init__(
        self,
        client: ModelClient,
        slot: AbstractAsyncContextManager[object],
        deployment: Deployment,
        request: ModelRequest,
        *,
        session: Session,
        changed: Callable[[], None],
        permit: Permit | None = None,
    ) -> None:
        turn = session.turn
        assert turn is not None
        assert turn.call is not None
        step = turn.call.step
        self.builder = StreamBuilder(
            session.ref.id, turn.number_in_session, step, turn.number, turn.output_index, hosting=turn.hosting
        )
        self.done = False
        self.failure: ModelError | None = None
        self.stream = request.stream
        self._told = False
        self._turn = turn
        self._step = step
        self._origin = deployment.origin
        self._stopped: FinishReason | None = None
        self._changed = changed
        self._permit = permit
        self._task = asyncio.get_running_loop().create_task(self._run(slot, client.call(deployment, request)))

    async def _run(self, slot: AbstractAsyncContextManager[object], batches: AsyncIterator[list[ModelDelta]]) -> None:
        builder, limit = self.builder, self._turn.limits.output_bytes_max
        # Whom to tell of the first delta; nobody once it was told.
        unheard = self._permit
        try:
            async with slot:
                if unheard is not None:
                    unheard.began()
                async for deltas in batches:
                    builder.feed(deltas)
                    if unheard is not None:
                        unheard.said()
                        unheard = None
                    if builder.output_bytes + builder.pending_chars > limit:
                        self._stopped = "max_output_bytes"
                        break
                    if (builder.pending and not self._told) or builder.pending_chars > CHUNK_BYTES_MAX:
                        # Once a chunk is enough: its writer looks by itself when the next is due.
                        self._told = True
                        self._changed()
            if builder.finish is None and self._stopped is None:
                raise ModelError("the model's answer ended without a finish", code="malformed_stream", retryable=True)
        except ModelError as error:
            self.failure = error
        except BadRequest as error:
            self.failure = not_carried(error)
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()
            if self._permit is not None:
                self._give_back(self._permit)
            self.done = True
            self._changed()

    def _give_back(self, permit: Permit) -> None:
        finish = self.builder.finish
        if self.failure is not None:
            permit.failed(self.failure)
        elif finish is not None:
            permit.end("good", used_tokens=finish.usage.total_tokens if finish.usage else None)
        else:
            permit.end("unknown")

    async def stop(self, reason: FinishReason | None = None) -> None:
        """End the call; what it said so far is kept, under ``reason``."""
        self._stopped = reason
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._permit is not None:
            # A task that was cancelled before its first step has given nothing back.
            self._permit.end("unknown")
        self.done = True

    def check(self) -> None:
        """Raise what the task died of, if that was no failure of the call but a defect."""
        if self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            if error is not None:
                raise error

    def chunk(self) -> e.Chunk | None:
        """What the model said since the last chunk, or None. JSON calls have no chunks."""
        if not self.stream or not self.builder.pending:
            return None
        self._told = False
        first, ops = self.builder.take()
        return e.Chunk(turn=self._turn.number_in_session, step=self._step, first=first, ops=ops)

    def ending(self) -> e.ModelCallFinished | e.ModelCallFailed:
        """The event that ends the call. Take the last chunk first."""
        builder = self.builder
        builder.take()
        if self.failure is not None:
            return self._failed(self.failure)
        finish = builder.finish
        reason = self._stopped or (finish.reason if finish else "stop")
        items, marks, number = builder.end(_CUT.get(reason, "completed"))
        return e.ModelCallFinished(
            turn=self._turn.number_in_session,
            step=self._step,
            finish_reason=reason,
            items=items,
            marks=marks,
            output_index=self._turn.output_index,
            next_number=number,
            usage=finish.usage if finish else None,
            sidecars=builder.item_sidecars(self._origin),
            upstream_id=finish.upstream_id if finish else None,
            upstream_model=finish.upstream_model if finish else None,
            service_tier=finish.service_tier if finish else None,
            calls=() if reason in _CUT else builder.calls(),
        )

    def _failed(self, error: ModelError) -> e.ModelCallFailed:
        items, marks, number = self.builder.end("incomplete")
        if not self.stream:
            # Nobody saw what a JSON call had opened.
            items, marks, number = (), (), self._turn.number
        return e.ModelCallFailed(
            turn=self._turn.number_in_session,
            step=self._step,
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            retry_after_ms=None if error.retry_after_s is None else int(error.retry_after_s * 1000),
            provider_status=error.provider_status,
            items=items,
            marks=marks,
            output_index=self._turn.output_index,
            next_number=number,
            usage=self.builder.finish.usage if self.builder.finish else error.usage,
            unbilled=unbilled(error) and not items,
        )


def unbilled(error: ModelError) -> bool:
    """Whether an attempt that failed so has used nothing: nothing was sent, or the provider refused to begin.

    What it answers with a status of the client's fault, or by saying that it has no room, it does not bill. After
    any other failure (a gateway's 502, a broken stream, silence) it may have worked, and does.
    """
    if not error.sent:
        return True
    status = error.provider_status
    refused = status is not None and (400 <= status < 500 or status in _NO_ROOM) and status not in _GAVE_UP
    return refused and error.usage is None
