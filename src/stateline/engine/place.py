"""Where a model call goes. Contracts and prices plug in here; for now order, limits and health decide.

A model with one deployment that has no limits of its own pays nothing for all this: the call goes there.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from stateline.core.calls import ModelRequest
from stateline.core.errors import BadRequest
from stateline.core.ids import digest
from stateline.core.placing import Passed, Standing, choose
from stateline.core.tokens import estimate_tokens, needs
from stateline.engine.health import Monitor, Permit
from stateline.ports import Deployment


class Catalogue(Protocol):
    """The deployments of each model, best first."""

    def candidates(self, model: str) -> Sequence[Deployment]: ...

    def names(self) -> Sequence[str]: ...


class Placement(NamedTuple):
    """Where a call goes.

    Attributes:
        deployment: None where it goes nowhere now.
        passed: the others, and why; with no deployment, all of them.
        until_ms: with no deployment, when the first of them takes calls again (Unix time).
        permit: its place there, to be ended; None where nobody counts.
    """

    deployment: Deployment | None
    passed: tuple[Passed, ...] = ()
    until_ms: int | None = None
    permit: Permit | None = None


def place(
    catalogue: Catalogue,
    monitor: Monitor,
    model: str,
    *,
    affinity: str,
    request: Callable[[], ModelRequest],
    tried: Sequence[str] = (),
) -> Placement:
    """The deployment for a call: the first in order that takes it.

    Lower priority goes first. Equal ones share by weight, and by ``affinity`` (a session's id), so that
    a session stays where its prompt is cached. ``tried`` are passed over. ``request`` is asked for only where
    a deployment counts tokens or cannot take everything.

    Raises:
        BadRequest: ``model_not_found``.
    """
    candidates = catalogue.candidates(model)
    if not candidates:
        raise model_not_found(model, catalogue.names())
    if not weighed(candidates):
        return Placement(candidates[0])
    looked, ordered, tokens = _look(candidates, monitor, affinity, request, tried)
    choice = choose(looked)
    if choice.at is None:
        return Placement(None, choice.passed, choice.until_ms)
    chosen = ordered[choice.at]
    return Placement(chosen, choice.passed, None, monitor.take(chosen, tokens))


def weighed(candidates: Sequence[Deployment]) -> bool:
    """Whether there is anything to weigh: else calls go to the only one there is, whatever comes."""
    first = candidates[0]
    return len(candidates) > 1 or first.rpm is not None or first.tpm is not None or bool(first.lacks)


def standings(
    catalogue: Catalogue,
    monitor: Monitor,
    model: str,
    request: Callable[[], ModelRequest],
    tried: Sequence[str] = (),
) -> Sequence[Standing]:
    """How each deployment of a model stands now; none of one whose only deployment takes whatever comes."""
    candidates = catalogue.candidates(model)
    if not candidates or not weighed(candidates):
        return ()
    return _look(candidates, monitor, "", request, tried)[0]


def _look(
    candidates: Sequence[Deployment],
    monitor: Monitor,
    affinity: str,
    request: Callable[[], ModelRequest],
    tried: Sequence[str],
) -> tuple[list[Standing], Sequence[Deployment], int]:
    """How they stand, in the order in which they are tried; and the tokens that the call may take."""
    ordered = candidates
    if len(candidates) > 1:
        ordered = sorted(candidates, key=lambda each: (each.priority, -_score(each, affinity)))
    asked: ModelRequest | None = None
    tokens, wanted, now_ms = 0, frozenset[str](), monitor.now_ms()
    if any(each.tpm is not None or each.lacks for each in ordered):
        asked = request()
        wanted = needs(asked)
        if any(each.tpm is not None for each in ordered):
            tokens = estimate_tokens(asked) + (asked.params.max_output_tokens or 0)
    looked: list[Standing] = []
    for each in ordered:
        if each.lacks & wanted:
            looked.append(Standing(each.name, "cannot_carry"))
        elif each.name in tried:
            looked.append(Standing(each.name, "failed"))
        else:
            looked.append(monitor.of(each).standing(each, now_ms, tokens))
    return looked, ordered, tokens


def model_not_found(model: str, known: Sequence[str]) -> BadRequest:
    names = ", ".join(sorted(known)[:20]) or "none yet: configure [[deployments]]"
    message = f"the model {model!r} is not served here; models: {names}"
    return BadRequest(message, code="model_not_found", param="model", status=404)


def _score(deployment: Deployment, affinity: str) -> float:
    """Weighted rendezvous hashing: the highest score wins as often as its weight's share."""
    hashed = int(digest(affinity.encode(), deployment.name.encode()), 16)
    unit = (hashed + 1) / ((1 << 128) + 1)
    return -deployment.weight / math.log(unit)


def fitted(request: ModelRequest, deployment: Deployment) -> ModelRequest:
    """The request as this deployment is to get it."""
    if deployment.service_tier is None or request.params.service_tier is not None:
        return request
    params = msgspec.structs.replace(request.params, service_tier=deployment.service_tier)
    return msgspec.structs.replace(request, params=params)


class Slots:
    """How many calls each deployment may have in flight; the others wait their turn."""

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[int, asyncio.Semaphore]] = {}

    def of(self, deployment: Deployment) -> AbstractAsyncContextManager[object]:
        """Hold one of the deployment's places. After a change of their number, calls under way do not count."""
        places = deployment.max_concurrency
        if places is None:
            return contextlib.nullcontext()
        known = self._by_name.get(deployment.name)
        if known is None or known[0] != places:
            known = self._by_name[deployment.name] = (places, asyncio.Semaphore(places))
        return known[1]
