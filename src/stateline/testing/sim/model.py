"""The simulated model: other words at every attempt, and every way in which a provider fails."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from random import Random

from stateline.core.calls import (
    CallDelta,
    CallStart,
    Finish,
    FinishReason,
    ModelDelta,
    ModelRequest,
    ReasoningDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import BadRequest, ModelError
from stateline.ports import Deployment
from stateline.testing.sim.audit import Audit
from stateline.testing.sim.loop import SimLoop

MODELS = ("steady", "chatty", "flaky", "tools")
"""What each does is in ``_plan``."""
GONE = "gone"
"""A model that some nodes no longer have."""
_WORDS = 24


class SimModel:
    """A ``stateline.ports.ModelClient``. Every call that goes out is told to the audit."""

    def __init__(self, loop: SimLoop, audit: Audit, random: Random) -> None:
        self.calls = 0
        self.calm = False
        self._loop = loop
        self._audit = audit
        self._random = random

    async def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta], None]:
        self._audit.dispatched(request.key)
        self.calls += 1
        random, serial = self._random, self.calls
        draw = random.random()
        await self._loop.pause(0.005 + draw * draw * 0.6)
        trouble = 0.0 if self.calm else {"flaky": 0.75, "tools": 0.15}.get(deployment.model, 0.05)
        if random.random() < trouble:
            await self._refuse(random.randrange(8), deployment)
        after = random.randrange(1, _WORDS) if random.random() < trouble else None
        said, most = 0, request.params.max_output_tokens
        for deltas in self._said(deployment.model, serial):
            if said == most:
                yield [Finish(reason="length", usage=Usage(input_tokens=9, output_tokens=said))]
                return
            if said == after:
                await self._break_off(random.randrange(3), deployment)
            if self.calm and type(deltas[0]) is TextDelta:
                # The run is over but for what began; nobody needs more words.
                continue
            yield deltas
            said += 1
            await self._loop.pause(0.02 + random.random() * 0.06)
        yield [Finish(reason=self._reason(deployment.model), usage=Usage(input_tokens=9, output_tokens=said))]

    def _said(self, model: str, serial: int) -> list[list[ModelDelta]]:
        """Words that name the call and their place, so that no two calls say the same."""
        random = self._random
        out: list[list[ModelDelta]] = []
        least, most = (4, 8) if model == "chatty" else (0, 3)
        words = random.randrange(least * _WORDS + 1, most * _WORDS)
        if random.random() < 0.2:
            out.append([SummaryDelta(f"s{serial} ")])
            out.extend([ReasoningDelta(f"r{serial}.{at} ")] for at in range(random.randrange(1, 6)))
        out.extend([TextDelta(f"c{serial}.{at} ")] for at in range(words))
        if model == "tools" and random.random() < 0.5:
            for index in range(random.randrange(1, 3)):
                out.append([CallStart(index, f"call_{serial}_{index}", "look"), CallDelta(index, "{")])
                out.append([CallDelta(index, '"a":1}')])
        return out

    def _reason(self, model: str) -> FinishReason:
        reasons: tuple[FinishReason, ...] = ("length", "content_filter")
        return self._random.choice(reasons) if not self.calm and self._random.random() < 0.06 else "stop"

    async def _refuse(self, kind: int, deployment: Deployment) -> None:
        """The ways of failing before a word was said."""
        if kind < 2:
            raise ModelError(
                "slow down",
                code="rate_limited",
                retryable=True,
                retry_after_s=self._random.random() * 20,
                provider_status=429,
            )
        if kind < 5:
            raise ModelError("no luck", retryable=True, provider_status=500 + kind)
        if kind == 5:
            raise ModelError("never", retryable=False, provider_status=400)
        if kind == 6:
            raise BadRequest("the format cannot carry this", code="unsupported", param="input")
        await self._break_off(0, deployment)

    async def _break_off(self, kind: int, deployment: Deployment) -> None:
        """The ways of failing in the middle of an answer."""
        if kind == 0:
            await self._loop.pause(deployment.timeout_s)
            raise ModelError("no byte came", code="upstream_timeout", retryable=True)
        if kind == 1:
            raise ModelError("the answer was cut", code="answer_cut", retryable=True)
        raise ModelError("broken JSON", code="malformed_stream", retryable=True)

    async def close(self) -> None:
        """There is nothing to release."""
