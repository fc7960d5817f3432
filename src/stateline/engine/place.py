"""Where a model call goes. Contracts, prices and health plug in here; for now priority decides."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from stateline.core.calls import ModelRequest
from stateline.core.errors import BadRequest
from stateline.core.ids import digest
from stateline.ports import Deployment


class Catalogue(Protocol):
    """The deployments of each model, best first."""

    def candidates(self, model: str) -> Sequence[Deployment]: ...

    def names(self) -> Sequence[str]: ...


def place(catalogue: Catalogue, model: str, affinity: str, failures: int) -> Deployment:
    """The deployment for a call: the first in order, and after each failure the next in turn.

    Lower priority goes first. Equal ones share by weight, and by ``affinity`` (a session's id), so that
    a session stays where its prompt is cached.

    Raises:
        BadRequest: ``model_not_found``.
    """
    candidates = catalogue.candidates(model)
    if not candidates:
        raise model_not_found(model, catalogue.names())
    if len(candidates) == 1:
        return candidates[0]
    ordered = sorted(candidates, key=lambda each: (each.priority, -_score(each, affinity)))
    return ordered[failures % len(ordered)]


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
