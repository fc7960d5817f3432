"""Choosing among a model's deployments, and the record of who was passed over and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from stateline.core.errors import BadRequest, NoDeployment

Why = Literal[
    "behind",
    "cannot_carry",
    "circuit_open",
    "failed",
    "max_concurrency",
    "rate_limited",
    "rpm",
    "tpm",
]
"""Why a deployment does not get a call. ``behind``: it would, but another goes first. ``failed``: it was tried
already in this round of tries. The others are what the deployment lacks, or has too much of, just now."""

_WORDS: dict[Why, str] = {
    "behind": "another goes first",
    "cannot_carry": "cannot carry this request",
    "circuit_open": "failed too often",
    "failed": "has just failed",
    "max_concurrency": "has as many calls as its max_concurrency",
    "rate_limited": "limits the rate",
    "rpm": "has had its rpm",
    "tpm": "has had its tpm",
}


class Passed(NamedTuple):
    """A candidate that did not get the call. ``until_ms`` is Unix time, None where no time is known."""

    deployment: str
    why: Why
    until_ms: int | None = None


class Standing(NamedTuple):
    """How a candidate stands at the moment: ``why`` is None where it takes the call."""

    deployment: str
    why: Why | None = None
    until_ms: int | None = None


class Choice(NamedTuple):
    """Which of the candidates gets the call.

    Attributes:
        at: its place among the candidates; None where the call goes nowhere now.
        passed: all the others, in their order.
        until_ms: where it goes nowhere, when the first of them takes calls again; None: no time is known.
    """

    at: int | None
    passed: tuple[Passed, ...]
    until_ms: int | None = None


def choose(standings: Sequence[Standing]) -> Choice:
    """The first candidate that takes the call; else the first that is merely full, where the call waits."""
    index = next((at for at, each in enumerate(standings) if each.why is None), None)
    if index is None:
        index = next((at for at, each in enumerate(standings) if each.why == "max_concurrency"), None)
    passed = tuple(
        Passed(each.deployment, each.why or "behind", each.until_ms) for at, each in enumerate(standings) if at != index
    )
    return Choice(index, passed, soonest_ms(passed) if index is None else None)


def soonest_ms(passed: Iterable[Passed]) -> int | None:
    """When the first of them takes calls again, in Unix time; None where no time is known of any."""
    return min((each.until_ms for each in passed if each.until_ms is not None), default=None)


def nowhere(model: str, passed: Sequence[Passed], now_ms: int) -> NoDeployment | BadRequest:
    """The error of a call that goes nowhere: the request's fault where no deployment can carry it.

    The codes: ``no_deployment`` (503, each deployment with its reason), ``unsupported_input`` (400).
    """
    if passed and all(each.why == "cannot_carry" for each in passed):
        message = f"the model {model!r} does not take what this request brings (images or tools); choose another model"
        return BadRequest(message, code="unsupported_input", param="input")
    reasons: list[str] = []
    for each in passed:
        left = "" if each.until_ms is None else f" (for {max(0, each.until_ms - now_ms) / 1000:.1f} s)"
        reasons.append(f"{each.deployment} {_WORDS[each.why]}{left}")
    until_ms = soonest_ms(passed)
    after_s = None if until_ms is None else max(0.0, (until_ms - now_ms) / 1000)
    message = f"no deployment of the model {model!r} can take this call now: {'; '.join(reasons)}"
    return NoDeployment(message, retry_after_s=after_s)
