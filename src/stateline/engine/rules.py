"""The contracts in force, asked at each placement.

What a deployment is to the clauses is made once, and a verdict is kept for as long as the same clauses are in
force: calls that are alike in all that any clause asks have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from stateline.contracts import Contracts
from stateline.contracts.facts import EPOCH
from stateline.contracts.model import Mode
from stateline.contracts.placing import deployment_facts, observed_of, placement_facts, ruling_of
from stateline.core.limits import RULING_SERIES_MAX, RULINGS_KEPT_MAX
from stateline.core.placing import CallFacts, Ruling
from stateline.ports import Deployment, Judge

_Key = tuple[str, str, str | None, str, str, str]


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
        self._observed = observed_of(contracts, mode)
        self._texts = {
            f"{one.contract}/{clause.id}": clause.text for one in contracts.contracts for clause in one.clauses
        }
        asked = {fact for gate in contracts.gates for one in gate.readings for fact in one.predicate.facts}
        self._by_tenant = "principal.tenant" in asked
        self._by_user = "principal.user" in asked
        self._by_agent = "principal.agent" in asked
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
            call.agent if self._by_agent else "",
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
        return ruling_of(self.contracts.evaluate(facts, at, self.posture), self._observed)

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
