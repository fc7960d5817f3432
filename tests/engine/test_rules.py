"""Contracts in the placement of calls, against an oracle that knows none of our code's ways."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import msgspec
from tests.engine.conftest import deployment
from tests.unit.contracts.build import clause, contract, loaded

from stateline.contracts import Contracts, Document, load, parse_at
from stateline.contracts.facts import micros
from stateline.contracts.placing import deployment_facts, placement_facts
from stateline.core.calls import ModelParams, ModelRequest
from stateline.core.errors import ModelError
from stateline.core.limits import RULING_SERIES_MAX, RULINGS_KEPT_MAX
from stateline.core.placing import CallFacts, Passed, Ruling, Said
from stateline.engine.health import Monitor
from stateline.engine.place import place, standings
from stateline.engine.rules import ContractRules
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment, Product

SEED = 20260318
CLOUDS = ("azure", "aws", "google", "openai")
VENDORS = ("openai", "anthropic")
DAYS = ("2026-01-01", "2026-03-18", "2026-04-27", "2026-07-01")
HOLDERS = ("microsoft", "openai", "amazon")
CALL = CallFacts("t", "anonymous", "stateful", "responses")
DENY_AWS = 'deployment.cloud == "aws"'


def bare_request() -> ModelRequest:
    return ModelRequest(params=ModelParams(model="m"), items=[], key="k")


def ms(day: str) -> int:
    return micros(parse_at(day)) // 1000


# -- the oracle --------------------------------------------------------------------------------------
# Facts, clauses and verdicts in plain Python: what a predicate means is said beside its text.


class Reading(NamedTuple):
    holder: str
    vendor: str
    clouds: tuple[str, ...]
    kind: str | None
    zone: str | None

    @property
    def text(self) -> str:
        clouds = ", ".join(f'"{cloud}"' for cloud in self.clouds)
        parts = [f'model.vendor == "{self.vendor}"', f"deployment.cloud in [{clouds}]"]
        parts += [f'workload.kind == "{self.kind}"'] if self.kind else []
        parts += [f'deployment.data_zone != "{self.zone}"'] if self.zone else []
        return " && ".join(parts)

    def says(self, place: Deployment, call: CallFacts) -> str:
        known = [place.vendor == self.vendor, place.cloud in self.clouds]
        known += [call.workload == self.kind] if self.kind else []
        if self.zone and place.data_zone is not None:
            known.append(place.data_zone != self.zone)
        if not all(known):
            return "allow"
        return "unknown" if self.zone and place.data_zone is None else "deny"


class Clause(NamedTuple):
    since: str
    until: str
    readings: tuple[Reading, ...]
    posture: str | None
    observed: bool

    def denies(self, place: Deployment, call: CallFacts, at_ms: int, posture: str) -> bool:
        if self.observed or not ms(self.since) <= at_ms < ms(self.until):
            return False
        said = [(one.holder, one.says(place, call)) for one in self.readings]
        outcomes = {outcome for _, outcome in said}
        if outcomes == {"allow"}:
            return False
        if "unknown" in outcomes or outcomes == {"deny"}:
            return True
        own = {outcome for holder, outcome in said if holder == (self.posture or posture)}
        return own != {"allow"}


def clauses(rng: random.Random) -> list[Clause]:
    made: list[Clause] = []
    for _ in range(rng.randint(1, 5)):
        since, until = sorted(rng.sample(range(len(DAYS)), 2))
        readings = tuple(
            Reading(
                rng.choice(HOLDERS),
                rng.choice(VENDORS),
                tuple(rng.sample(CLOUDS, rng.randint(1, 3))),
                rng.choice((None, "stateful", "stateless")),
                rng.choice((None, None, "eu")),
            )
            for _ in range(rng.randint(1, 3))
        )
        posture = rng.choice((None, None, "strict", *HOLDERS))
        made.append(Clause(DAYS[since], DAYS[until], readings, posture, rng.random() < 0.2))
    return made


def written(made: Sequence[Clause]) -> Contracts:
    """As the loader takes them; reading so much YAML would be most of the test."""
    documents: list[Document] = []
    for at, one in enumerate(made):
        readings = [
            {"id": f"r{row}", "held_by": [reading.holder], "deny": reading.text}
            for row, reading in enumerate(one.readings)
        ]
        term = {"from": date.fromisoformat(one.since), "until": date.fromisoformat(one.until)}
        clause_value = {"id": "x", "kind": "exclusivity", "effective": term, "readings": readings}
        value = {"contract": f"c{at}", "posture": one.posture, "clauses": [clause_value]}
        documents.append(Document(f"{at}.yaml", value | ({"mode": "observe"} if one.observed else {})))
    return load(documents)


def places(rng: random.Random) -> list[Deployment]:
    return [
        deployment(
            f"{'abcdefg'[at]}{at}",
            cloud=rng.choice(CLOUDS),
            vendor=rng.choice(VENDORS),
            data_zone=rng.choice((None, "eu", "us")),
            priority=rng.randint(1, 3),
            rpm=rng.choice((None, None, 1)),
        )
        for at in range(rng.randint(1, 6))
    ]


def test_no_call_ever_lands_on_a_deployment_that_the_oracle_denies() -> None:
    """1,000 random worlds; in each a call that is tried until nothing is left, across outages and boundary days."""
    rng = random.Random(SEED)
    seen: Counter[str] = Counter()
    for _ in range(1_000):
        found, made, posture = places(rng), clauses(rng), rng.choice(("strict", *HOLDERS))
        rules = ContractRules(written(made), found, posture=posture)
        now = [ms(rng.choice(DAYS)) - rng.choice((0, 1, 60_000))]
        monitor, catalogue = Monitor(lambda now=now: now[0]), Catalogue(found)
        call = CALL._replace(workload=rng.choice(("stateful", "stateless")))
        tried: list[str] = []
        for _ in range(len(found) * 3):
            judge = rules.judge(call)
            denied = {each.name for each in found if any(one.denies(each, call, now[0], posture) for one in made)}
            placed = place(catalogue, monitor, "m", affinity="s", request=bare_request, tried=tried, judge=judge)
            looked = standings(catalogue, monitor, "m", bare_request, tried, judge=judge)
            # Exactly those that the oracle denies are passed over for it, by whatever path they are looked at.
            assert {each.deployment for each in placed.refused} == denied
            assert {each.deployment for each in looked if each.why == "contract"} == denied
            if placed.deployment is None:
                seen["denied" if len(denied) == len(found) else "nowhere"] += 1
                tried.clear()
            else:
                assert placed.deployment.name not in denied
                assert placed.ruling is not None
                assert not placed.ruling.blocks
                seen["moved" if tried else "placed"] += 1
                seen["kept from one"] += bool(denied)
                tried.append(placed.deployment.name)
                if placed.permit is not None:
                    placed.permit.failed(ModelError("down", retryable=True))
            now[0] += rng.choice((0, 1, 30_000, 24 * 3_600_000 * 30))
    # A test that met none of these would show nothing.
    assert min(seen[key] for key in ("denied", "nowhere", "moved", "placed", "kept from one")) > 200, seen


# -- what a ruling says ------------------------------------------------------------------------------


def two_readings(head: str = "") -> Contracts:
    bare = f'{DENY_AWS} && workload.kind == "stateless"'
    rows = f"      - {{id: every, held_by: [microsoft], deny: '{DENY_AWS}'}}\n"
    rows += f"      - {{id: bare, held_by: [openai], deny: '{bare}'}}\n"
    return loaded(f"contract: c\n{head}clauses:\n  - id: x\n    kind: exclusivity\n    readings:\n{rows}")


AWS = deployment("aws", cloud="aws", vendor="openai")


def test_a_ruling_names_the_clause_its_readings_and_the_posture_that_decided() -> None:
    ruling = ContractRules(two_readings(), [AWS]).ruling(AWS, CALL, ms("2026-03-18"))
    said = (Said("every", "deny"), Said("bare", "allow"))
    assert ruling == Ruling(outcome="contested", resolved="deny", clause="c/x", readings=said)
    ruling = ContractRules(two_readings(), [AWS], posture="openai").ruling(AWS, CALL, ms("2026-03-18"))
    assert (ruling.resolved, ruling.blocks, ruling.posture, ruling.clause) == ("allow", False, "openai", "c/x")
    own = ContractRules(two_readings("posture: openai\n"), [AWS]).ruling(AWS, CALL, ms("2026-03-18"))
    assert (own.resolved, own.posture) == ("allow", "openai")
    free = deployment("azure", cloud="azure", vendor="openai")
    assert ContractRules(two_readings(), [free]).ruling(free, CALL, 0) == Ruling(outcome="allow")


def test_what_is_observed_is_recorded_and_blocks_nothing_and_an_enforced_clause_comes_first() -> None:
    rules = ContractRules(two_readings(), [AWS], mode="observe")
    ruling = rules.ruling(AWS, CALL, 0)
    assert (ruling.resolved, ruling.observed, ruling.blocks, ruling.clause) == ("deny", True, False, "c/x")
    enforced = ContractRules(two_readings("mode: enforce\n"), [AWS], mode="observe").ruling(AWS, CALL, 0)
    assert enforced.blocks
    both = loaded(
        contract(clause("soft", DENY_AWS), name="a", head="mode: observe\n"),
        contract(clause("hard", DENY_AWS), name="b"),
    )
    assert ContractRules(both, [AWS]).ruling(AWS, CALL, 0).clause == "b/hard"


def test_verdicts_are_kept_for_alike_calls_and_asked_anew_when_other_clauses_are_in_force() -> None:
    contracts = loaded(contract(clause("x", DENY_AWS, rest="effective: {from: 2026-01-01, until: 2026-02-01}")))
    rules = ContractRules(contracts, [AWS])
    first = rules.ruling(AWS, CALL, ms("2026-01-01"))
    assert first.blocks
    assert rules.ruling(AWS, CALL._replace(user="key_1"), ms("2026-02-01") - 1) is first
    assert not rules.ruling(AWS, CALL, ms("2026-01-01") - 1).blocks
    assert not rules.ruling(AWS, CALL, ms("2026-02-01")).blocks
    assert rules.ruling(AWS, CALL, ms("2026-01-15")) == first


def test_what_clauses_ask_of_a_call_parts_verdicts() -> None:
    denies = ('principal.tenant == "t"', 'principal.user == "key_1"', 'workload.interface == "chat"')
    for text, other in zip(denies, ({"tenant": "u"}, {"user": "key_1"}, {"interface": "chat"}), strict=True):
        rules = ContractRules(loaded(contract(clause("x", text))), [AWS])
        found = [rules.ruling(AWS, each, 0).blocks for each in (CALL, CALL._replace(**other), CALL)]
        assert found in ([True, False, True], [False, True, False]), text
    tiered = ContractRules(loaded(contract(clause("x", 'deployment.service_tier == "flex"'))), [AWS])
    assert tiered.ruling(AWS, CALL._replace(service_tier="flex"), 0).blocks
    flex = msgspec.structs.replace(AWS, service_tier="flex")
    its_own = ContractRules(loaded(contract(clause("x", 'deployment.service_tier == "flex"'))), [flex])
    assert its_own.ruling(flex, CALL._replace(service_tier="auto"), 0).blocks
    assert not tiered.ruling(AWS, CALL, 0).blocks


def test_a_clause_that_speaks_of_the_time_is_asked_each_time() -> None:
    text = 'deployment.cloud == "aws" && at < timestamp("2026-03-18T12:00:00Z")'
    rules = ContractRules(loaded(contract(clause("x", text))), [AWS])
    noon = ms("2026-03-18T12:00:00Z")
    assert [rules.ruling(AWS, CALL, at).blocks for at in (noon - 1, noon, noon - 1)] == [True, False, True]


def test_a_deployment_of_an_older_catalogue_is_judged_by_its_own_facts() -> None:
    rules = ContractRules(loaded(contract(clause("x", DENY_AWS))), [AWS])
    namesake = msgspec.structs.replace(AWS, cloud="azure")
    assert rules.ruling(AWS, CALL, 0).blocks
    assert not rules.ruling(namesake, CALL, 0).blocks


def test_kept_verdicts_have_their_bound() -> None:
    rules = ContractRules(loaded(contract(clause("x", 'principal.tenant == "t0"'))), [AWS])
    kept = rules._known[id(AWS)].rulings  # pyright: ignore[reportPrivateUsage]
    for at in range(RULINGS_KEPT_MAX + 1):
        assert rules.ruling(AWS, CALL._replace(tenant=f"t{at}"), 0).blocks is (at == 0)
        assert len(kept) <= RULINGS_KEPT_MAX
    assert len(kept) == 1


def test_verdicts_are_counted_by_outcome_clause_and_effect_within_a_bound_and_on_over_a_reload() -> None:
    rules = ContractRules(two_readings(), [AWS])
    judge = rules.judge(CALL)
    judge.count(rules.ruling(AWS, CALL, 0))
    again = ContractRules(two_readings(), [AWS], mode="observe", before=rules)
    again.judge(CALL).count(again.ruling(AWS, CALL, 0))
    again.count(Ruling(outcome="allow"))
    name = "placement_verdicts_total"
    assert dict(again.counters()) == {
        f'{name}{{outcome="contested",clause="c/x",effect="denied"}}': 1,
        f'{name}{{outcome="contested",clause="c/x",effect="observed"}}': 1,
        f'{name}{{outcome="allow",clause="",effect="allowed"}}': 1,
    }
    for at in range(RULING_SERIES_MAX + 5):
        again.count(Ruling(outcome="deny", resolved="deny", clause=f"c/{at}"))
    assert len(again.counters()) == RULING_SERIES_MAX + 1
    assert again.counters()[f'{name}{{outcome="deny",clause="other",effect="denied"}}'] == 8


def test_facts_are_what_the_configuration_says_and_what_is_not_known_is_left_out() -> None:
    product = Product(name="gpt-5", shipped_on=("azure",), declined_by=("google",))
    one = deployment(
        "d", cloud="azure", region="swedencentral", upstream_model="gpt-5-prod", vendor="openai", product=product
    )
    facts: dict[str, Any] = placement_facts(deployment_facts(one), one, CALL._replace(tenant="shop", user="key_1"))
    assert facts == {
        "model": {"name": "m", "vendor": "openai", "family": "gpt"},
        "deployment": {
            "name": "d",
            "cloud": "azure",
            "host": "azure",
            "region": "swedencentral",
            "service_tier": "default",
        },
        "product": {"name": "gpt-5", "shipped_on": ["azure"], "declined_by": ["google"]},
        "workload": {"channel": "direct", "kind": "stateful", "interface": "responses"},
        "principal": {"tenant": "shop", "agent": "", "user": "key_1"},
    }
    plain = deployment_facts(deployment("d"))
    assert plain["product"] == {}
    assert set(plain["model"]) == {"name"}


def test_the_only_deployment_of_a_model_is_judged_without_being_weighed() -> None:
    only, monitor = deployment("aws", cloud="aws"), Monitor(lambda: 0)
    judge = ContractRules(loaded(contract(clause("x", f'{DENY_AWS} && workload.kind == "stateless"'))), [only]).judge

    def never() -> ModelRequest:
        raise AssertionError("nobody has to look at the request")

    allowed = place(Catalogue([only]), monitor, "m", affinity="s", request=never, judge=judge(CALL))
    assert (allowed.deployment, allowed.ruling, allowed.passed) == (only, Ruling(outcome="allow"), ())
    assert standings(Catalogue([only]), monitor, "m", never, judge=judge(CALL)) == ()
    bare = judge(CALL._replace(workload="stateless"))
    denied = place(Catalogue([only]), monitor, "m", affinity="s", request=never, judge=bare)
    assert (denied.deployment, denied.passed) == (None, (Passed("aws", "contract"),))
    assert [each.why for each in standings(Catalogue([only]), monitor, "m", never, judge=bare)] == ["contract"]
    assert monitor.seen() == {}
