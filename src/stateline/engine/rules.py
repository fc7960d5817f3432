"""The contracts in force, asked at each placement.

What a deployment is to the clauses is made once, and a verdict is kept for as long as the same clauses are in
force: calls that are alike in all that any clause asks have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from stateline.contracts import Contracts, Verdict
from stateline.contracts.facts import EPOCH, Facts
from stateline.contracts.model import ClauseVerdict, Mode
from stateline.core.limits import RULING_SERIES_MAX, RULINGS_KEPT_MAX
from stateline.core.origin import family
from stateline.core.placing import Ruling, Said
from stateline.ports import CallFacts, Deployment, Judge

_RANK = ("deny", "contested", "unknown", "allow")
DEFAULT_TIER = "default"
"""What a call has that names no service tier, at a deployment that names none."""

_Key = tuple[str, str, str | None, str, str]


class _Known:
    """One deployment: its facts, and the verdicts on it that were given lately."""

    __slots__ = ("deployment", "facts", "rulings")

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.facts = deployment_facts(deployment)
        self.rulings: dict[_Key, Ruling] = {}


class ContractRules:
    """Implements ``ports.Rules``.

    Args:
        contracts: checked and compiled.
        deployments: those whose verdicts are kept; others are asked anew each time.
        posture: the configuration's; a contract's own comes first.
        mode: of contracts that set none.
        before: the rules that these replace; counting goes on from theirs.
    """

    def __init__(
        self,
        contracts: Contracts,
        deployments: Iterable[Deployment],
        *,
        posture: str = "strict",
        mode: Mode = "enforce",
        before: ContractRules | None = None,
    ) -> None:
        self.contracts = contracts
        self.posture = posture
        self._observed = frozenset(one.contract for one in contracts.contracts if (one.mode or mode) == "observe")
        self._texts = {
            f"{one.contract}/{clause.id}": clause.text for one in contracts.contracts for clause in one.clauses
        }
        asked = {fact for gate in contracts.gates for one in gate.readings for fact in one.predicate.facts}
        self._by_tenant = "principal.tenant" in asked
        self._by_user = "principal.user" in asked
        # By identity: an older catalogue may have a deployment of the same name and other facts.
        self._known = {id(each): _Known(each) for each in deployments}
        self._since_us = self._until_us = 0
        self._counts: dict[tuple[str, str, str], int] = {} if before is None else before._counts

    def judge(self, call: CallFacts) -> Judge:
        return _Judge(self, call)

    def ruling(self, deployment: Deployment, call: CallFacts, at_ms: int) -> Ruling:
        """The verdict on a placement, as it is recorded."""
        known = self._known.get(id(deployment))
        if known is None or self.contracts.timed:
            return self._evaluate(known or _Known(deployment), call, at_ms)
        if not self._since_us <= at_ms * 1000 < self._until_us:
            self._since_us, self._until_us = self.contracts.steady(at_ms * 1000)
            for each in self._known.values():
                each.rulings.clear()
        key: _Key = (
            call.workload,
            call.interface,
            call.service_tier,
            call.tenant if self._by_tenant else "",
            call.user if self._by_user else "",
        )
        ruling = known.rulings.get(key)
        if ruling is None:
            if len(known.rulings) >= RULINGS_KEPT_MAX:
                known.rulings.clear()
            ruling = known.rulings[key] = self._evaluate(known, call, at_ms)
        return ruling

    def _evaluate(self, known: _Known, call: CallFacts, at_ms: int) -> Ruling:
        facts = placement_facts(known.facts, known.deployment, call)
        at = EPOCH + timedelta(milliseconds=at_ms)
        return self._ruling(self.contracts.evaluate(facts, at, self.posture))

    def _ruling(self, verdict: Verdict) -> Ruling:
        denying = [clause for clause in verdict.clauses if clause.resolved == "deny"]
        blocking = [clause for clause in denying if clause.id.partition("/")[0] not in self._observed]
        speaking = [clause for clause in verdict.clauses if clause.outcome != "allow"]
        decided: ClauseVerdict | None = min(
            blocking or denying or speaking, key=lambda clause: _RANK.index(clause.outcome), default=None
        )
        if decided is None:
            return Ruling(outcome=verdict.outcome, resolved=verdict.resolved, posture=verdict.posture)
        return Ruling(
            outcome=verdict.outcome,
            resolved=verdict.resolved,
            posture=decided.posture or verdict.posture,
            clause=decided.id,
            readings=tuple(Said(one.id, one.outcome) for one in decided.readings),
            observed=bool(denying) and not blocking,
        )

    def text_of(self, clause: str) -> str:
        """A clause's own words; empty where it has none."""
        return self._texts.get(clause, "")

    def count(self, ruling: Ruling) -> None:
        effect = "denied" if ruling.blocks else "observed" if ruling.observed else "allowed"
        key = (ruling.outcome, ruling.clause or "", effect)
        if key not in self._counts and len(self._counts) >= RULING_SERIES_MAX:
            key = (ruling.outcome, "other", effect)
        self._counts[key] = self._counts.get(key, 0) + 1

    def counters(self) -> Mapping[str, int]:
        return {
            f'placement_verdicts_total{{outcome="{outcome}",clause="{clause}",effect="{effect}"}}': count
            for (outcome, clause, effect), count in self._counts.items()
        }


class _Judge:
    """Implements ``ports.Judge``."""

    __slots__ = ("_call", "_rules")

    def __init__(self, rules: ContractRules, call: CallFacts) -> None:
        self._rules = rules
        self._call = call

    def ruling(self, deployment: Deployment, at_ms: int) -> Ruling:
        return self._rules.ruling(deployment, self._call, at_ms)

    def count(self, ruling: Ruling) -> None:
        self._rules.count(ruling)

    def text_of(self, clause: str) -> str:
        return self._rules.text_of(clause)


def deployment_facts(deployment: Deployment) -> Facts:
    """What clauses may ask of a deployment; what is not known is left out."""
    name = family(deployment.upstream_model, deployment.model)
    facts: dict[str, dict[str, Any]] = {
        "model": {"name": deployment.model, "vendor": deployment.vendor, "family": None if name == "other" else name},
        "deployment": {
            "name": deployment.name,
            "cloud": deployment.cloud,
            "host": deployment.host or deployment.cloud,
            "region": deployment.region,
            "data_zone": deployment.data_zone,
            "accelerator": deployment.accelerator,
        },
        "product": {},
        "workload": {"channel": deployment.channel},
    }
    product = deployment.product
    if product is not None:
        facts["product"] = {
            "name": product.name,
            "shipped_on": list(product.shipped_on),
            "declined_by": list(product.declined_by),
        }
    return {root: {name: value for name, value in each.items() if value is not None} for root, each in facts.items()}


def placement_facts(known: Facts, deployment: Deployment, call: CallFacts) -> Facts:
    """A deployment's facts and a call's together. No agent makes a call as yet, so its name is known to be none."""
    tier = call.service_tier or deployment.service_tier or DEFAULT_TIER
    return {
        "model": known["model"],
        "deployment": {**known["deployment"], "service_tier": tier},
        "product": known["product"],
        "workload": {**known["workload"], "kind": call.workload, "interface": call.interface},
        "principal": {"tenant": call.tenant, "agent": "", "user": call.user},
    }
