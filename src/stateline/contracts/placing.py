"""A placement as clauses see it: the facts of a deployment and of a call, and what is recorded of a verdict.

The server asks here when it places a call, and a replay of what was placed asks here too.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Protocol

from stateline.contracts.evaluate import Contracts
from stateline.contracts.facts import Facts
from stateline.contracts.model import ClauseVerdict, Mode, Verdict
from stateline.core.origin import family
from stateline.core.placing import CallFacts, Ruling, Said, asked_tier

_RANK = ("deny", "contested", "unknown", "allow")
DEFAULT_TIER = "default"
"""What a call has that names no service tier, at a deployment that names none."""


class Made(Protocol):
    """A product, as clauses that ship it first see it."""

    @property
    def name(self) -> str: ...
    @property
    def shipped_on(self) -> tuple[str, ...]: ...
    @property
    def declined_by(self) -> tuple[str, ...]: ...


class Place(Protocol):
    """What clauses may ask of a deployment, by the names of its keys; ``ports.Deployment`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def upstream_model(self) -> str: ...
    @property
    def vendor(self) -> str | None: ...
    @property
    def cloud(self) -> str: ...
    @property
    def host(self) -> str | None: ...
    @property
    def region(self) -> str | None: ...
    @property
    def data_zone(self) -> str | None: ...
    @property
    def accelerator(self) -> str | None: ...
    @property
    def service_tier(self) -> str | None: ...
    @property
    def channel(self) -> str: ...
    @property
    def product(self) -> Made | None: ...


def deployment_facts(deployment: Place) -> Facts:
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


def placement_facts(known: Facts, deployment: Place, call: CallFacts) -> Facts:
    """A deployment's facts and a call's together."""
    tier = asked_tier(call.service_tier) or deployment.service_tier or DEFAULT_TIER
    return {
        "model": known["model"],
        "deployment": {**known["deployment"], "service_tier": tier},
        "product": known["product"],
        "workload": {**known["workload"], "kind": call.workload, "interface": call.interface},
        "principal": {"tenant": call.tenant, "agent": call.agent, "user": call.user},
    }


def observed_of(contracts: Contracts, mode: Mode) -> frozenset[str]:
    """The contracts that block nothing; ``mode`` is that of contracts that set none."""
    return frozenset(one.contract for one in contracts.contracts if (one.mode or mode) == "observe")


def ruling_of(verdict: Verdict, observed: Set[str]) -> Ruling:
    """A verdict as it is recorded: with the clause that decided, one that blocks before one that is only observed."""
    denying = [clause for clause in verdict.clauses if clause.resolved == "deny"]
    blocking = [clause for clause in denying if clause.id.partition("/")[0] not in observed]
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
