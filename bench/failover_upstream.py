"""One upstream of ``bench.failover``, as a process: ``python -m bench.failover_upstream NAME MODE PORT DELAY_MS``.

A module of its own, since what a client imports would make it slow to start.
"""

from __future__ import annotations

import asyncio
import sys

from stateline.testing.scripted import Answer, Asked, Rule
from stateline.testing.upstream import ScriptedUpstream

WORDS = 20
"""Of each answer."""


def rule_of(name: str, mode: str, delay_ms: float) -> Rule:
    """Words that name the upstream and the request, said in the way of ``mode``."""

    def rule(asked: Asked, attempt: int) -> Answer:
        text = " ".join(f"{name}{asked.serial}w{at}" for at in range(WORDS))
        if mode == "throttled":
            return Answer(status=429, retry_after_s=30.0, error_code="rate_limit_exceeded")
        if mode == "slowed":
            return Answer(text=text, first_byte_ms=20_000)
        if mode == "malformed":
            return Answer(text=text, delay_ms=delay_ms, end="malformed", after=WORDS // 2)
        return Answer(text=text, delay_ms=delay_ms)

    return rule


async def serve(name: str, mode: str, port: int, delay_ms: float) -> None:
    async with ScriptedUpstream(rule_of(name, mode, delay_ms), port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
