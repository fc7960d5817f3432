"""Recorded placements under another date, posture or set of contracts: what would have become of each.

What a deployment could take at the time is as it was recorded; what clauses may ask of it is as it is configured
now, where the record does not say that it was another one. What neither tells is said, and not guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

import msgspec

from stateline.contracts.evaluate import STRICT, Contracts
from stateline.contracts.facts import EPOCH
from stateline.contracts.model import Mode
from stateline.contracts.placing import Place, deployment_facts, observed_of, placement_facts, ruling_of
from stateline.core.placed import Placed
from stateline.core.placing import Passed, Ruling, order_of

Result = Literal["same", "contested", "moved", "denied", "waits", "allowed", "not_known"]
RESULTS: tuple[Result, ...] = ("same", "contested", "moved", "denied", "waits", "allowed", "not_known")
_FREE = ("behind", "contract")
"""Reasons that say nothing of what a deployment could take: another got the call, or a contract kept it out."""


class Candidate(Place, Protocol):
    """A configured deployment, with what the order of tries goes by."""

    @property
    def origin(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def weight(self) -> float: ...


class Replayed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What would have become of a placement.

    Attributes:
        id: the step's key, ``session/turn/step``.
        deployment: where it went; None where it went nowhere, and the turn waited.
        result: ``same``: as it was. ``contested``: the same, by the posture alone, which it was not then. ``moved``:
            to another deployment. ``denied``: everywhere. ``waits``: some deployment is allowed, and took no calls.
            ``allowed``: it went nowhere then, and goes now. ``not_known``: see ``missing``.
        to: where it goes, if that is elsewhere.
        about: the deployment that ``before`` and ``after`` are verdicts on.
        before: as it was recorded; None: there were no contracts.
        unproven: a contract kept ``to`` out then, so whether it could take the call was not looked at.
        missing: what the record and the configuration do not tell.
    """

    id: str
    tenant: str
    at_ms: int
    model: str
    deployment: str | None
    result: Result
    to: str | None = None
    about: str | None = None
    before: Ruling | None = None
    after: Ruling | None = None
    unproven: bool = False
    missing: str | None = None


class _Next(NamedTuple):
    """Where a call goes that does not go where it went: to a deployment, or why to none."""

    result: Literal["moved", "denied", "waits", "not_known"]
    to: Passed | None = None
    ruling: Ruling | None = None
    missing: str | None = None


class Replay:
    """Holds recorded placements against contracts.

    Args:
        contracts: those to ask; a draft as well as those in force.
        places: the configured deployments.
        at: the instant at which all placements are judged; None: each at its own.
        posture: as ``Contracts.evaluate`` takes it.
        mode: of contracts that set none.
    """

    def __init__(
        self,
        contracts: Contracts,
        places: Iterable[Candidate],
        *,
        at: datetime | None = None,
        posture: str = STRICT,
        mode: Mode = "enforce",
    ) -> None:
        self._contracts = contracts
        self._at = at
        self._posture = posture
        self._observed = observed_of(contracts, mode)
        self._places = {each.name: (each, deployment_facts(each)) for each in places}

    def of(self, placed: Placed) -> Replayed:
        """What would have become of one placement. Each is looked at by itself, as if those before it had not moved."""
        if placed.deployment is None:
            return self._of_waiting(placed)
        missing = self._missing(placed, placed.deployment, placed.origin)
        if missing is not None:
            return _row(placed, "not_known", missing=missing)
        ruling = self._ruling(placed, placed.deployment)
        if not ruling.blocks:
            return self._of_allowed(placed, placed.deployment, ruling)
        found = self._elsewhere(placed)
        return _row(
            placed,
            found.result,
            to=None if found.to is None else found.to.deployment,
            about=placed.deployment,
            before=placed.verdict,
            after=ruling,
            unproven=found.to is not None and found.to.why == "contract",
            missing=found.missing,
        )

    def _of_allowed(self, placed: Placed, deployment: str, ruling: Ruling) -> Replayed:
        """It may stay, unless one that a contract kept out then, and no more, comes before it."""
        first = self._first(placed, deployment)
        if first is not None:
            return _to(placed, first, first.result)
        was_contested = placed.verdict is not None and placed.verdict.outcome == "contested"
        result: Result = "contested" if ruling.outcome == "contested" and not was_contested else "same"
        return _row(placed, result, about=deployment, before=placed.verdict, after=ruling)

    def _of_waiting(self, placed: Placed) -> Replayed:
        """It went nowhere, so all that took no calls still do not; those that were kept out may be let in."""
        found = self._elsewhere(placed)
        result: Result = "allowed" if found.to is not None else "same" if found.result == "waits" else found.result
        return _to(placed, found, result)

    def _elsewhere(self, placed: Placed) -> _Next:
        """The first of the others, in the order in which they were looked at, that is allowed and took calls.

        Where none did, the call waits at the first that was merely full.
        """
        full: _Next | None = None
        missing: str | None = None
        waits = False
        for each in placed.passed:
            lacking = self._missing(placed, each.deployment)
            if lacking is not None:
                if each.why in _FREE:
                    return _Next("not_known", missing=lacking)
                missing = missing or lacking
                continue
            ruling = self._ruling(placed, each.deployment)
            if ruling.blocks:
                continue
            if each.why in _FREE:
                return _Next("moved", each, ruling)
            waits = True
            if each.why == "max_concurrency" and full is None:
                full = _Next("moved", each, ruling)
        if missing is not None and (full is not None or not waits):
            return _Next("not_known", missing=missing)
        return full or _Next("waits" if waits else "denied")

    def _first(self, placed: Placed, deployment: str) -> _Next | None:
        """The first before the chosen one that contracts let in now and did not then, or what is missing to tell."""
        for each in placed.passed:
            if each.why == "behind":
                return None  # Whatever is looked at after the chosen one comes behind it.
            if each.why != "contract":
                continue
            missing = self._missing(placed, each.deployment)
            if missing is not None:
                return _Next("not_known", missing=missing)
            ruling = self._ruling(placed, each.deployment)
            if ruling.blocks:
                continue
            missing = self._disorder(placed)
            if missing is not None:
                return _Next("not_known", missing=missing)
            if self._order(placed, each.deployment) < self._order(placed, deployment):
                return _Next("moved", each, ruling)
        return None

    def _disorder(self, placed: Placed) -> str | None:
        """That the deployments were tried in another order than their priorities and weights give now."""
        names = [each.deployment for each in placed.passed if each.deployment in self._places]
        if names == sorted(names, key=lambda name: self._order(placed, name)):
            return None
        return "priorities or weights were others then"

    def _order(self, placed: Placed, name: str) -> tuple[int, float]:
        place, _ = self._places[name]
        return order_of(name, place.priority, place.weight, placed.affinity)

    def _missing(self, placed: Placed, name: str, origin: str | None = None) -> str | None:
        """What keeps the facts of a deployment from being those that it had."""
        found = self._places.get(name)
        if found is None:
            return f"{name} is not configured"
        place, _ = found
        if place.model != placed.model:
            return f"{name} is configured for another model"
        if origin is not None and place.origin != origin:
            return f"{name} was {origin}, and is {place.origin}"
        return None

    def _ruling(self, placed: Placed, name: str) -> Ruling:
        place, known = self._places[name]
        at = self._at or EPOCH + timedelta(milliseconds=placed.at_ms)
        facts = placement_facts(known, place, placed.call)
        return ruling_of(self._contracts.evaluate(facts, at, self._posture), self._observed)


class Tally:
    """What replayed placements come to, in numbers.

    Attributes:
        results: how many of each.
        clauses: how often each clause was what denied, or contested.
        moves: (from, to) -> how many.
        missing: what was not known -> how many.
        observed: how many are denied, and go on, since their contracts are only observed.
        unproven: how many go where a contract kept calls out, so that nobody looked whether it could take them.
    """

    def __init__(self) -> None:
        self.results: Counter[Result] = Counter()
        self.clauses: Counter[str] = Counter()
        self.moves: Counter[tuple[str, str]] = Counter()
        self.missing: Counter[str] = Counter()
        self.observed = 0
        self.unproven = 0

    def add(self, one: Replayed) -> None:
        """Count one."""
        self.results[one.result] += 1
        self.unproven += one.unproven
        if one.missing is not None:
            self.missing[one.missing] += 1
        if one.deployment is not None and one.to is not None:
            self.moves[one.deployment, one.to] += 1
        after = one.after
        if after is not None:
            self.observed += after.observed
            if after.clause is not None and (after.blocks or one.result == "contested"):
                self.clauses[after.clause] += 1


def _to(placed: Placed, found: _Next, result: Result) -> Replayed:
    """A placement that goes where it was not allowed to go, with the verdicts on that; or that goes nowhere."""
    if found.to is None:
        return _row(placed, result, missing=found.missing)
    to = found.to.deployment
    before = next((each.ruling for each in placed.refused if each.deployment == to), None)
    return _row(placed, result, to=to, about=to, before=before, after=found.ruling, unproven=True)


def _row(
    placed: Placed,
    result: Result,
    *,
    to: str | None = None,
    about: str | None = None,
    before: Ruling | None = None,
    after: Ruling | None = None,
    unproven: bool = False,
    missing: str | None = None,
) -> Replayed:
    return Replayed(
        id=placed.id,
        tenant=placed.session.tenant,
        at_ms=placed.at_ms,
        model=placed.model,
        deployment=placed.deployment,
        result=result,
        to=to,
        about=about,
        before=before,
        after=after,
        unproven=unproven,
        missing=missing,
    )
