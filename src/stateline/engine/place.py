"""Where a model call goes: contracts, money, order, limits and health decide.

A model with one deployment that has no limits of its own pays nothing for all this: the call goes there. Where
there are contracts, every candidate gets its verdict first, at each placement anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from stateline.core.billing import Reserved
from stateline.core.calls import ModelRequest
from stateline.core.compaction import opened
from stateline.core.errors import BadRequest
from stateline.core.placing import (
    Passed,
    Priced,
    Refused,
    Ruling,
    Standing,
    Why,
    asked_tier,
    choose,
    order_of,
    responses_call,
)
from stateline.core.session import Session
from stateline.core.tokens import estimate_tokens, needs
from stateline.engine.health import Monitor, Permit
from stateline.engine.meter import Meter, Purse
from stateline.money.budgets import Payer
from stateline.ports import Deployment, Judge, Rules


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
        ruling: the verdict on it; None where there are no contracts.
        refused: those of the others that a contract keeps out.
        priced: what the candidates cost in effect, where that decides.
    """

    deployment: Deployment | None
    passed: tuple[Passed, ...] = ()
    until_ms: int | None = None
    permit: Permit | None = None
    ruling: Ruling | None = None
    refused: tuple[Refused, ...] = ()
    priced: tuple[Priced, ...] = ()


def place(
    catalogue: Catalogue,
    monitor: Monitor,
    model: str,
    *,
    affinity: str,
    request: Callable[[], ModelRequest],
    tried: Sequence[str] = (),
    judge: Judge | None = None,
    purse: Purse | None = None,
    dear: Sequence[str] = (),
) -> Placement:
    """The deployment for a call: the first in order that takes it.

    Lower priority goes first; of equal ones, where prices decide, the one that costs least in effect. Equal ones
    share by weight, and by ``affinity`` (a session's id), so that a session stays where its prompt is cached.
    ``tried`` are passed over, and whatever ``judge`` denies; so are ``dear`` ones, for which a budget has too little
    left, and those that ``purse`` does not take. ``request`` is asked for only where a deployment counts tokens or
    cannot take everything.

    Raises:
        BadRequest: ``model_not_found``.
    """
    candidates = catalogue.candidates(model)
    if not candidates:
        raise model_not_found(model, catalogue.names())
    if not weighed(candidates):
        return _only(candidates[0], monitor, judge, purse, dear)
    looked, ordered, tokens = _look(candidates, monitor, affinity, request, tried, judge=judge, purse=purse, dear=dear)
    choice = choose(looked)
    if judge is not None:
        for each in choice.refused:
            judge.count(each.ruling)
    if choice.at is None:
        return Placement(None, choice.passed, choice.until_ms, None, None, choice.refused)
    if judge is not None and choice.ruling is not None:
        judge.count(choice.ruling)
    chosen = ordered[choice.at]
    permit, priced = monitor.take(chosen, tokens), () if purse is None else purse.priced(ordered)
    return Placement(chosen, choice.passed, None, permit, choice.ruling, choice.refused, priced)


def _only(
    deployment: Deployment, monitor: Monitor, judge: Judge | None, purse: Purse | None, dear: Sequence[str]
) -> Placement:
    """The only deployment, whatever comes, unless a contract keeps calls from it, or money does."""
    name, ruling = deployment.name, None
    if judge is not None:
        ruling = judge.ruling(deployment, monitor.now_ms())
        judge.count(ruling)
        if ruling.blocks:
            return Placement(None, (Passed(name, "contract"),), refused=(Refused(name, ruling),))
    why = _unpaid(deployment, purse, dear)
    return Placement(deployment, ruling=ruling) if why is None else Placement(None, (Passed(name, why),))


def _unpaid(deployment: Deployment, purse: Purse | None, dear: Sequence[str]) -> Why | None:
    """Why money keeps a call from a deployment, if it does."""
    if deployment.name in dear:
        return "budget"
    return None if purse is None or purse.takes(deployment) else "unpriced"


def purse_of(meter: Meter | None, session: Session) -> Purse | None:
    """Who pays for the calls of a session's turn; None where there are neither prices nor budgets."""
    turn = session.turn
    if meter is None or turn is None:
        return None
    payer = Payer(session.ref.tenant, turn.principal, turn.model, session.ref.id, turn.agent_name)
    return meter.purse(payer, turn.request.service_tier)


def judge_of(rules: Rules | None, session: Session) -> Judge | None:
    """Who judges the calls of a session's turn; None where there are no contracts."""
    turn = session.turn
    if rules is None or turn is None:
        return None
    call = responses_call(
        session.ref.tenant,
        turn.principal,
        stateful=turn.stateful,
        service_tier=turn.request.service_tier,
        agent=turn.agent_name,
    )
    return rules.judge(call)


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
    *,
    judge: Judge | None = None,
    purse: Purse | None = None,
) -> Sequence[Standing]:
    """How each deployment of a model stands now; none of one whose only deployment takes whatever comes."""
    candidates = catalogue.candidates(model)
    if not candidates:
        return ()
    if not weighed(candidates):
        ruling = None if judge is None else judge.ruling(candidates[0], monitor.now_ms())
        if ruling is not None and ruling.blocks:
            return (Standing(candidates[0].name, "contract", None, ruling),)
        why = _unpaid(candidates[0], purse, ())
        return () if why is None else (Standing(candidates[0].name, why),)
    return _look(candidates, monitor, "", request, tried, judge=judge, purse=purse)[0]


def _look(
    candidates: Sequence[Deployment],
    monitor: Monitor,
    affinity: str,
    request: Callable[[], ModelRequest],
    tried: Sequence[str],
    *,
    judge: Judge | None,
    purse: Purse | None = None,
    dear: Sequence[str] = (),
) -> tuple[list[Standing], Sequence[Deployment], int]:
    """How they stand, in the order in which they are tried; and the tokens that the call may take."""
    ordered = candidates
    if len(candidates) > 1:
        ordered = sorted(candidates, key=lambda each: order_of(each.name, each.priority, each.weight, affinity))
        if purse is not None and purse.by_price:
            # It keeps the order of what costs the same.
            ordered.sort(key=lambda each: (each.priority, purse.rank(each)))
    asked: ModelRequest | None = None
    tokens, wanted, now_ms = 0, frozenset[str](), monitor.now_ms()
    if any(each.tpm is not None or each.lacks for each in ordered):
        asked = request()
        wanted = needs(asked)
        if any(each.tpm is not None for each in ordered):
            tokens = estimate_tokens(asked) + (asked.params.max_output_tokens or 0)
    looked: list[Standing] = []
    for each in ordered:
        ruling = None if judge is None else judge.ruling(each, now_ms)
        if ruling is not None and ruling.blocks:
            # Before all else: where every deployment is denied, that is the answer.
            looked.append(Standing(each.name, "contract", None, ruling))
        elif each.lacks & wanted:
            looked.append(Standing(each.name, "cannot_carry"))
        elif (unpaid := _unpaid(each, purse, dear)) is not None:
            looked.append(Standing(each.name, unpaid))
        elif each.name in tried:
            looked.append(Standing(each.name, "failed"))
        else:
            standing = monitor.of(each).standing(each, now_ms, tokens)
            looked.append(standing if ruling is None else standing._replace(ruling=ruling))
    return looked, ordered, tokens


def model_not_found(model: str, known: Sequence[str]) -> BadRequest:
    names = ", ".join(sorted(known)[:20]) or "none yet: configure [[deployments]]"
    message = f"the model {model!r} is not served here; models: {names}"
    return BadRequest(message, code="model_not_found", param="model", status=404)


def fitted(request: ModelRequest, deployment: Deployment, reserved: Reserved | None = None) -> ModelRequest:
    """The request as this deployment is to get it, held to the output that is ``reserved``."""
    items = opened(request.items)
    if items is not request.items:
        request = msgspec.structs.replace(request, items=items)
    if deployment.service_tier is not None and asked_tier(request.params.service_tier) is None:
        params = msgspec.structs.replace(request.params, service_tier=deployment.service_tier)
        request = msgspec.structs.replace(request, params=params)
    if reserved is None or reserved.output_tokens is None:
        return request
    params = msgspec.structs.replace(request.params, max_output_tokens=reserved.output_tokens)
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
