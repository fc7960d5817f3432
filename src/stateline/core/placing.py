"""Choosing among a model's deployments, and the record of who was passed over and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from stateline.core.errors import BadRequest, Forbidden, NoDeployment
from stateline.core.ids import digest
from stateline.core.limits import DENIAL_TEXT_CHARS_MAX, DENIALS_TOLD_MAX

Why = Literal[
    "behind",
    "budget",
    "cannot_carry",
    "circuit_open",
    "contract",
    "failed",
    "max_concurrency",
    "rate_limited",
    "rpm",
    "tpm",
    "unpriced",
]
"""Why a deployment does not get a call. ``behind``: it would, but another goes first. ``failed``: it was tried
already in this round of tries. ``contract``: a clause forbids it. ``budget``: a budget has too little left for it.
``unpriced``: no price of it is known, and it may not be called without. The others are what the deployment lacks,
or has too much of, just now."""

_WORDS: dict[Why, str] = {
    "behind": "another goes first",
    "budget": "costs more than a budget has left",
    "cannot_carry": "cannot carry this request",
    "circuit_open": "failed too often",
    "contract": "is denied by contract",
    "failed": "has just failed",
    "max_concurrency": "has as many calls as its max_concurrency",
    "rate_limited": "limits the rate",
    "rpm": "has had its rpm",
    "tpm": "has had its tpm",
    "unpriced": "has no known price",
}


Outcome = Literal["allow", "deny", "contested", "unknown"]


class Said(NamedTuple):
    """What one reading of a clause says."""

    reading: str
    outcome: Outcome


class Ruling(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A verdict, as far as it is recorded: what the contracts in force say of one placement.

    Attributes:
        outcome: the first present of deny, contested, unknown, allow over all clauses.
        resolved: what the posture makes of it.
        posture: by which the clause resolved; without a clause, the configured one.
        clause: ``contract/clause``, the one that decided; None where every clause allows.
        readings: what each reading of that clause says.
        observed: it is denied, and blocks nothing, since its contract is only observed.
    """

    outcome: Outcome
    resolved: Literal["allow", "deny"] = "allow"
    posture: str = "strict"
    clause: str | None = None
    readings: tuple[Said, ...] = ()
    observed: bool = False

    @property
    def blocks(self) -> bool:
        return self.resolved == "deny" and not self.observed


class Drew(NamedTuple):
    """A commitment that a deployment's use draws down: which part of the cost counts, and what that is worth."""

    commitment: str
    fraction: Decimal
    value: Decimal


class Priced(NamedTuple):
    """What a candidate costs in effect: its list price less what its use is worth to commitments.

    Both are of a million tokens, of which one in four is output, in US dollars.
    """

    deployment: str
    list_per_mtok: Decimal
    effective_per_mtok: Decimal
    draws: tuple[Drew, ...] = ()


class Refused(NamedTuple):
    """A candidate that was passed over because of a contract, and the verdict on it."""

    deployment: str
    ruling: Ruling


class CallFacts(NamedTuple):
    """What a clause may ask of a call, whatever its deployment.

    Attributes:
        user: whose key it was: a key's id, or ``anonymous``.
        workload: ``stateful`` where its input or output is kept in a session.
        interface: ``responses``, ``chat``, ``messages`` or ``embeddings``.
        service_tier: as the request names it; None, or ``auto``: the deployment's.
        agent: which of the operator's agents makes it; empty: none.
    """

    tenant: str
    user: str
    workload: Literal["stateless", "stateful"]
    interface: str
    service_tier: str | None = None
    agent: str = ""


def asked_tier(service_tier: str | None) -> str | None:
    """What a request asks for; ``auto`` leaves it to whoever set the deployment up, as with OpenAI's projects."""
    return None if service_tier == "auto" else service_tier


def responses_call(tenant: str, user: str, *, stateful: bool, service_tier: str | None, agent: str = "") -> CallFacts:
    """What clauses may ask of a call of a turn."""
    return CallFacts(tenant, user, "stateful" if stateful else "stateless", "responses", service_tier, agent)


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
    ruling: Ruling | None = None


class Choice(NamedTuple):
    """Which of the candidates gets the call.

    Attributes:
        at: its place among the candidates; None where the call goes nowhere now.
        passed: all the others, in their order.
        until_ms: where it goes nowhere, when the first of them takes calls again; None: no time is known.
        ruling: the verdict on the one that gets it; None where there are no contracts.
        refused: those whose ``why`` is ``contract``.
    """

    at: int | None
    passed: tuple[Passed, ...]
    until_ms: int | None = None
    ruling: Ruling | None = None
    refused: tuple[Refused, ...] = ()


def order_of(name: str, priority: int, weight: float, affinity: str) -> tuple[int, float]:
    """What a model's deployments are sorted by: the priority; among equal ones a hash of what is to stay together.

    By weighted rendezvous hashing the highest score wins as often as its weight's share.

    Args:
        affinity: such as a session's id.
    """
    hashed = int(digest(affinity.encode(), name.encode()), 16)
    unit = (hashed + 1) / ((1 << 128) + 1)
    return priority, weight / math.log(unit)


def choose(standings: Sequence[Standing]) -> Choice:
    """The first candidate that takes the call; else the first that is merely full, where the call waits."""
    index = next((at for at, each in enumerate(standings) if each.why is None), None)
    if index is None:
        index = next((at for at, each in enumerate(standings) if each.why == "max_concurrency"), None)
    passed = tuple(
        Passed(each.deployment, each.why or "behind", each.until_ms) for at, each in enumerate(standings) if at != index
    )
    refused = refused_of(standings)
    if index is None:
        return Choice(None, passed, soonest_ms(passed), None, refused)
    return Choice(index, passed, None, standings[index].ruling, refused)


def refused_of(standings: Iterable[Standing]) -> tuple[Refused, ...]:
    """Those of the candidates that a contract keeps out."""
    return tuple(
        Refused(each.deployment, each.ruling)
        for each in standings
        if each.why == "contract" and each.ruling is not None
    )


def soonest_ms(passed: Iterable[Passed]) -> int | None:
    """When the first of them takes calls again, in Unix time; None where no time is known of any."""
    return min((each.until_ms for each in passed if each.until_ms is not None), default=None)


def nowhere(
    model: str,
    passed: Sequence[Passed],
    now_ms: int,
    refused: Sequence[Refused] = (),
    text_of: Callable[[str], str] = str,
) -> NoDeployment | BadRequest:
    """The error of a call that goes nowhere: the request's fault where no deployment can carry it.

    The codes: ``no_deployment`` (503, each deployment with its reason), ``unsupported_input`` (400), and
    ``contract_denied`` (403) where every deployment is denied.

    Args:
        refused: the verdicts on those that a contract keeps out.
        text_of: a clause's words, by its id.
    """
    if passed and len(refused) == len(passed):
        return _denied(model, refused, text_of)
    clauses = {each.deployment: f" ({each.ruling.clause})" for each in refused}
    if passed and all(each.why == "cannot_carry" for each in passed):
        message = f"the model {model!r} does not take what this request brings (images or tools); choose another model"
        return BadRequest(message, code="unsupported_input", param="input")
    reasons: list[str] = []
    for each in passed:
        left = "" if each.until_ms is None else f" (for {max(0, each.until_ms - now_ms) / 1000:.1f} s)"
        left = clauses.get(each.deployment, left)
        reasons.append(f"{each.deployment} {_WORDS[each.why]}{left}")
    until_ms = soonest_ms(passed)
    after_s = None if until_ms is None else max(0.0, (until_ms - now_ms) / 1000)
    message = f"no deployment of the model {model!r} can take this call now: {'; '.join(reasons)}"
    return NoDeployment(message, retry_after_s=after_s)


def _denied(model: str, refused: Sequence[Refused], text_of: Callable[[str], str]) -> Forbidden:
    """Each clause once, with its words and the deployments that it keeps out."""
    kept_out: dict[tuple[str, str], list[str]] = {}
    for each in refused:
        ruling = each.ruling
        how = "" if ruling.outcome == "deny" else f"; {ruling.outcome}, by the posture {ruling.posture} a denial"
        kept_out.setdefault((ruling.clause or "", how), []).append(each.deployment)
    told: list[str] = []
    for (clause, how), deployments in list(kept_out.items())[:DENIALS_TOLD_MAX]:
        text = " ".join(text_of(clause).split())[:DENIAL_TEXT_CHARS_MAX]
        told.append(f"{', '.join(deployments[:DENIALS_TOLD_MAX])} by {clause} ({text}{how})")
    message = f"contracts deny this call to every deployment of the model {model!r}: {'; '.join(told)}"
    return Forbidden(message, code="contract_denied", param="model")
