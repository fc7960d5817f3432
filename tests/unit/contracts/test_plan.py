"""Plans: where a portfolio goes, what it costs, and what stands in the way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from bench.brute import cheapest
from bench.portfolios import large, small
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.contracts.build import clause, contract, loaded

from stateline.contracts import ContractError, Contracts, Document
from stateline.contracts.drawdown import Drawdown, terms_of
from stateline.contracts.plan import Conflict, Plan, Solved, plan
from stateline.contracts.portfolio import Task, read, rounded
from stateline.contracts.program import Answer, Column, Program, Row, Unproved, prove
from stateline.contracts.rows import use_of
from stateline.contracts.scoping import PlanError, Scoped, scoped
from stateline.core.limits import PLAN_PLACEMENTS_MAX
from stateline.planner import Planner

pytest.importorskip("highspy", reason="plans need the extra planner")

F = Fraction
SOLVER = Planner()


def work(name: str = "w", kind: str = "batch", demand: Any = 10, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "demand": demand, **more}


def site(name: str, price: Any, cloud: str = "aws", **more: Any) -> dict[str, Any]:
    return {"name": name, "model": "m", "cloud": cloud, "vendor": "openai", "price": price, **more}


def task(workloads: Sequence[Any], sites: Sequence[Any], **more: Any) -> Task:
    value = {"since": date(2026, 1, 1), "quarters": 2, "workloads": workloads, "deployments": sites, **more}
    return read(Document("p.yaml", value))


def commitment(body: str, amount: int = 100, *, payee: str = "aws", unit: str = "USD", dates: str = "") -> str:
    when = dates or "from: 2026-01-01, until: 2026-07-01"
    return (
        f"  - id: {payee}\n    kind: commitment\n    payer: us\n    payee: {payee}\n    effective: {{{when}}}\n"
        f"    amount: {{exact: {amount}, unit: {unit}}}\n    commitment: {{accrues: use, {body}}}\n"
    )


def planned(one: Task, contracts: Contracts) -> Plan:
    found = plan(scoped(one, contracts), SOLVER)
    assert isinstance(found, Solved)
    return found.plan


def where(found: Plan) -> list[tuple[str, str, str, str]]:
    return [(one.workload, one.deployment, one.quarter, one.units) for one in found.placements]


NONE = loaded(contract("  - {id: x, kind: claim}\n"))
BOTH = [site("cheap", 2), site("dear", 3, "azure")]


# -- where work goes -----------------------------------------------------------------------------


def test_work_goes_where_it_is_cheapest_and_what_does_not_fit_there_goes_on() -> None:
    found = planned(task([work(demand=[10, 4])], [site("cheap", 2, capacity=6), BOTH[1]]), NONE)
    assert where(found) == [
        ("w", "cheap", "2026-01-01", "6"),
        ("w", "dear", "2026-01-01", "4"),
        ("w", "cheap", "2026-04-01", "4"),
    ]
    assert (found.total, found.list_price, found.gap, found.denied) == ("32", "32", 0.0, 0)


def test_stateful_work_stays_at_one_deployment() -> None:
    sites = [site("early", [1, 5]), site("late", [4, 1], "azure"), site("even", [2, 2], "google")]
    found = planned(task([work(kind="stateful")], sites), NONE)
    assert [one.deployment for one in found.placements] == ["even", "even"]
    assert found.total == "40"
    split = planned(task([work(kind="stateless")], sites), NONE)
    assert [one.deployment for one in split.placements] == ["early", "late"]


def test_work_needs_its_unit_model_and_accelerator() -> None:
    sites = [
        site("tokens", 1),
        site("wrong", 1, unit="hour", accelerator="tpu"),
        site("right", 9, unit="hour", accelerator="h100"),
    ]
    one = work(kind="training", unit="hour", accelerators=["h100", "trainium"])
    assert {each.deployment for each in planned(task([one], sites), NONE).placements} == {"right"}
    assert {each.deployment for each in planned(task([work(model="m")], sites), NONE).placements} == {"tokens"}
    found = plan(scoped(task([work(model="other"), work("idle", demand=0, model="other")], sites), NONE), SOLVER)
    assert isinstance(found, Conflict)
    assert (found.clauses, found.workloads) == ((), ("w",))


def test_what_a_clause_denies_on_any_day_of_a_quarter_is_not_used_in_it() -> None:
    deny = clause("no-aws", 'deployment.cloud == "aws"', rest="effective: {from: 2026-06-30}")
    found = planned(task([work()], BOTH), loaded(contract(deny)))
    assert [one.deployment for one in found.placements] == ["cheap", "dear"]
    assert found.denied == 1
    pinned = planned(task([work(kind="stateful")], BOTH), loaded(contract(deny)))
    assert [one.deployment for one in pinned.placements] == ["dear", "dear"]
    idle = planned(task([work(kind="stateful", demand=[10, 0])], BOTH), loaded(contract(deny)))
    assert [one.deployment for one in idle.placements] == ["cheap"]


def test_predicates_that_tell_time_are_asked_every_day() -> None:
    deny = clause("one-day", 'deployment.cloud == "aws" && at == timestamp("2026-02-14T00:00:00Z")')
    found = planned(task([work()], BOTH), loaded(contract(deny)))
    assert [one.deployment for one in found.placements] == ["dear", "cheap"]


def test_what_clauses_may_ask_of_a_workload() -> None:
    sites = [site("cheap", 2, product={"name": "p", "shipped_on": ["azure"]}), BOTH[1]]
    told = loaded(contract(clause("a", 'workload.interface == "chat" && deployment.cloud == "aws"')))
    assert planned(task([work(interface="responses")], sites), told).denied == 0
    assert planned(task([work(interface="chat")], sites), told).denied == 2
    # What is not known denies, as it does for a call.
    unknown = scoped(task([work()], [site("cheap", 2)]), loaded(contract(clause("a", 'workload.interface == "chat"'))))
    assert unknown.denied == {(0, 0, 0): {"c/a"}, (0, 0, 1): {"c/a"}}
    user = loaded(contract(clause("a", 'principal.user == "x"')))
    assert scoped(task([work()], [site("cheap", 2)]), user).denied
    watched = loaded(contract(clause("a", 'deployment.cloud == "aws"'), head="mode: observe\n"))
    assert planned(task([work()], BOTH), watched).denied == 0


def test_a_posture_resolves_what_is_contested() -> None:
    text = """  - id: x
    kind: exclusivity
    readings:
      - {id: wide, held_by: [them], deny: 'deployment.cloud == "aws"'}
      - {id: narrow, held_by: [us], deny: 'false'}
"""
    assert planned(task([work()], BOTH), loaded(contract(text))).denied == 2
    assert planned(task([work()], BOTH, posture="us"), loaded(contract(text))).denied == 0


def capacity(name: str, amount: str, dates: str = "from: 2020-01-01", payee: str = "payee: amazon") -> str:
    return (
        f"  - id: {name}\n    kind: capacity\n    payer: us\n    {payee}\n    effective: {{{dates}}}\n"
        f"    amount: {{{amount}, unit: GW}}\n"
    )


def test_capacity_clauses_bound_what_a_payees_deployments_take_together() -> None:
    sites = [site("a", 1, unit="GW"), site("b", 2, unit="GW"), site("c", 9, "azure", unit="GW"), site("d", 1)]
    terms = [
        capacity("one", "max: 3"),
        capacity("two", "exact: 2", "from: 2026-04-01"),
        capacity("least", "min: 1"),
        capacity("gone", "max: 1", "from: 2026-07-01"),
        capacity("nobody", "max: 1", payee="text: x"),
        capacity("elsewhere", "max: 1", payee="payee: oracle"),
        capacity("talks", "max: 1", payee="payee: aws\n    source: [{document: x, status: in-talks}]"),
    ]
    found = planned(task([work(unit="GW")], sites), loaded(contract(*terms)))
    assert where(found) == [
        ("w", "a", "2026-01-01", "3"),
        ("w", "c", "2026-01-01", "7"),
        ("w", "a", "2026-04-01", "5"),
        ("w", "c", "2026-04-01", "5"),
    ]
    assert [(one.id, one.why) for one in found.skipped] == [("c/talks", "no source has it as signed, but as in-talks")]
    others = planned(task([work(unit="GW")], sites, payer="them"), loaded(contract(*terms)))
    assert {one.deployment for one in others.placements} == {"a"}


# -- commitments ---------------------------------------------------------------------------------


def test_work_moves_to_a_minimum_as_far_as_its_shortfall_costs_more() -> None:
    sites = [site("cheap", 2, "azure"), site("dear", 3)]
    body = "model: minimum, interval: quarterly"
    found = planned(task([work(demand=20)], sites), loaded(contract(commitment(body, 48))))
    assert where(found)[:2] == [("w", "cheap", "2026-01-01", "12"), ("w", "dear", "2026-01-01", "8")]
    assert (found.total, found.charges) == ("96", "0")
    first = found.commitments[0]
    assert (first.commitment, first.interval, first.promised) == ("c/aws", "2026-01-01/2026-04-01", "24")
    assert (first.drawn, first.shortfall, first.value) == ("24", "0", "0.333333")
    short = planned(task([work(demand=20)], sites), loaded(contract(commitment(f"{body}, shortfall_rate: '0.3'", 48))))
    assert [one.deployment for one in short.placements] == ["cheap", "cheap"]
    assert (short.charges, short.commitments[0].charge, short.commitments[0].value) == ("14.4", "7.2", "0.3")


def test_a_minimum_that_cannot_be_met_makes_use_free_at_the_margin() -> None:
    found = planned(task([work(demand=1)], BOTH), loaded(contract(commitment("model: minimum", 10000))))
    assert found.commitments[0].value == "1"


def test_a_minimum_that_is_met_anyway_is_worth_nothing_and_its_surplus_may_go_on() -> None:
    body = "model: minimum, interval: quarterly"
    one = task([work(demand=[30, 1])], [site("cheap", 2)])
    apart = planned(one, loaded(contract(commitment(body, 60))))
    assert [(row.value, row.shortfall) for row in apart.commitments] == [("0", "0"), ("1", "28")]
    together = planned(one, loaded(contract(commitment(f"{body}, rollover: true", 60))))
    assert [(row.value, row.shortfall) for row in together.commitments] == [("0", "0"), ("0", "0")]


@pytest.mark.parametrize("model", ["prepaid", "reserved"])
def test_what_is_paid_already_is_used_first(model: str) -> None:
    sites = [site("cheap", 2, "azure"), site("paid", 3)]
    body = f"model: {model}, interval: quarterly"
    found = planned(task([work(demand=[20, 4])], sites), loaded(contract(commitment(body, 48))))
    assert where(found) == [
        ("w", "cheap", "2026-01-01", "12"),
        ("w", "paid", "2026-01-01", "8"),
        ("w", "paid", "2026-04-01", "4"),
    ]
    assert (found.list_price, found.covered, found.total) == ("60", "36", "24")
    assert [(row.covered, row.shortfall) for row in found.commitments] == [("24", "0"), ("12", "12")]
    # In the first quarter it is used up: another unit of use there saves a third. In the second it lapses.
    assert [row.value for row in found.commitments] == ["0.333333", "1"]
    rolled = planned(task([work(demand=[4, 20])], sites), loaded(contract(commitment(f"{body}, rollover: true", 48))))
    assert [row.covered for row in rolled.commitments] == ["12", "36"]


def test_scopes_know_what_models_are_sold_as_and_what_a_deployment_says_of_its_own() -> None:
    scope = "InclusionOperator: And, Inclusions: [{Dimension: ServiceName, Operator: In, Values: [Amazon Bedrock]}]"
    contracts = loaded(contract(commitment(f"model: minimum, applicability: {{{scope}}}")))
    sites = [
        site("model", 1),
        site("hours", 1, unit="hour"),
        site("named", 1, unit="hour", focus={"ServiceName": "Amazon Bedrock"}),
        site("other", 1, focus={"ServiceName": "Amazon EC2"}),
    ]
    (window,) = scoped(task([work()], sites), contracts).windows
    assert window.parts == (1, 0, 1, 0)


def test_what_was_drawn_before_the_plan_counts_where_it_is_given() -> None:
    text = commitment("model: minimum", 365, dates="from: 2025-07-01, until: 2026-07-01")
    plain = planned(task([work()], [BOTH[0]]), loaded(contract(text)))
    assert plain.commitments[0].promised == "181"  # The days that are planned, at an even pace.
    given = planned(task([work()], [BOTH[0]], drawn={"c/aws": "300"}), loaded(contract(text)))
    assert given.commitments[0].promised == "65"
    more = planned(task([work()], [BOTH[0]], drawn={"c/aws": "400"}), loaded(contract(text)))
    assert (more.commitments[0].promised, more.charges) == ("0", "0")


def test_by_invoice_use_counts_in_the_interval_in_which_its_bill_closes() -> None:
    text = commitment("model: minimum, interval: quarterly", 600).replace("accrues: use", "accrues: invoice")
    found = scoped(task([work(demand=90)], [site("a", 1)], since=date(2026, 1, 11), quarters=1), loaded(contract(text)))
    (first, second) = found.windows
    assert first.shares == (F(21 + 28, 90),)  # January and February; March closes in April.
    assert second.shares == (F(31, 90),)
    assert first.interval == "2026-01-01/2026-04-01"


def test_what_is_drawn_of_no_commitment_is_refused() -> None:
    with pytest.raises(PlanError, match=r'"c/awz" is no commitment of the payer; did you mean "c/aws"'):
        scoped(task([work()], BOTH, drawn={"c/awz": "1"}), loaded(contract(commitment("model: minimum"))))


def test_other_currencies_need_a_rate() -> None:
    text = loaded(contract(commitment("model: minimum", 100, unit="EUR")))
    found = planned(task([work()], BOTH, rates={"EUR/USD": "1.5"}), text)
    assert found.commitments[0].promised == "150"
    with pytest.raises(PlanError, match=r"c/aws is in EUR; give its rate, as rates: \{EUR/USD"):
        scoped(task([work()], BOTH), text)


def test_two_commitments_may_count_the_same_use_only_if_neither_is_paid_already() -> None:
    first, second = commitment("model: minimum", 60), commitment("model: prepaid", 60, payee="amazon")
    with pytest.raises(PlanError, match="both count the use of cheap"):
        scoped(task([work()], BOTH), loaded(contract(first, second)))
    both = loaded(contract(first, commitment("model: minimum", 90, payee="amazon")))
    assert [row.value for row in planned(task([work()], [BOTH[0]]), both).commitments] == ["1", "1"]


def test_what_the_plan_does_not_count_is_said() -> None:
    contracts = loaded(
        contract(
            commitment("model: option"),
            commitment("model: minimum", payee="oracle"),
            commitment("model: minimum", payee="azure", dates="from: 2026-01-01"),
            commitment("model: minimum", payee="google", dates="from: 2027-01-01, until: 2028-01-01"),
            "  - {id: x, kind: commitment, payer: us}\n",
        )
    )
    found = planned(task([work()], [*BOTH, site("g", 9, "google")]), contracts)
    assert {one.id for one in found.skipped} == {"c/aws", "c/oracle", "c/azure", "c/x"}
    assert found.commitments == ()


# -- no plan -------------------------------------------------------------------------------------


def test_an_infeasible_plan_names_the_clauses_that_conflict_and_no_others() -> None:
    contracts = loaded(
        contract(
            clause("no-aws", 'deployment.cloud == "aws" && workload.kind == "stateful"'),
            clause("no-azure", 'deployment.cloud == "azure"'),
            clause("not-in-force", 'deployment.cloud == "azure"', rest="effective: {from: 2030-01-01}"),
            clause("no-batch", 'workload.kind == "batch" && deployment.cloud == "azure"'),
            clause("elsewhere", 'deployment.cloud == "google"'),
        )
    )
    told: list[tuple[int, int]] = []
    found = plan(
        scoped(task([work(kind="stateful"), work("b")], BOTH), contracts),
        SOLVER,
        lambda done, total: told.append((done, total)),
    )
    assert isinstance(found, Conflict)
    assert found.clauses == ("c/no-aws", "c/no-azure")
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_capacity_clause_can_be_what_conflicts() -> None:
    sites = [site("a", 1, unit="GW"), site("b", 1, "azure", unit="GW", capacity=5)]
    contracts = loaded(contract(capacity("cap", "max: 3"), clause("free", 'deployment.cloud == "google"')))
    found = plan(scoped(task([work(unit="GW")], sites), contracts), SOLVER)
    assert isinstance(found, Conflict)
    assert found.clauses == ("c/cap",)


def test_deployments_that_are_too_small_are_no_clauses_fault() -> None:
    deny = loaded(contract(clause("no-azure", 'deployment.cloud == "azure"')))
    sites = [site("a", 1, capacity=3), site("b", 1, "azure", capacity=0)]
    found = plan(scoped(task([work()], sites), deny), SOLVER)
    assert isinstance(found, Conflict)
    assert found.clauses == ()
    assert "capacities do not suffice" in found.why


# -- against others ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_plans_cost_what_brute_force_finds_exactly(first: int) -> None:
    for seed in range(first, first + 20):
        here = scoped(*small(seed))
        found = plan(here, SOLVER)
        cost = None if isinstance(found, Conflict) else found.costs.total
        assert cost == cheapest(here), seed


def test_random_portfolios_meet_everything_that_they_are_for() -> None:
    """Or brute force would compare nothing: denials, capacities, carries, prepaid amounts, conflicts."""
    seen = [scoped(*small(seed)) for seed in range(200)]
    assert sum(bool(one.denied) for one in seen) > 25
    assert sum(bool(one.caps) for one in seen) > 10
    assert sum(any(window.carries for window in one.windows) for one in seen) > 12
    assert sum(any(not window.minimum for window in one.windows) for one in seen) > 40
    assert sum(cheapest(one) is None for one in seen) > 5


@settings(max_examples=40)
@given(st.integers(10_000, 20_000))
def test_nothing_denied_is_used_and_all_work_is_placed(seed: int) -> None:
    here = scoped(*small(seed))
    found = plan(here, SOLVER)
    if isinstance(found, Conflict):
        return
    assert not here.denied.keys() & found.placed.keys()
    for index, demand in enumerate(here.task.demand):
        for quarter, units in enumerate(demand):
            assert sum(v for (w, _, q), v in found.placed.items() if (w, q) == (index, quarter)) == units
    pins = {(w, d) for w, d, _ in found.placed if here.task.portfolio.workloads[w].kind == "stateful"}
    assert len({w for w, _ in pins}) == len(pins)


def test_shortfalls_of_a_plan_are_those_that_drawing_down_its_use_finds() -> None:
    """The use of each quarter, day by day, as FOCUS rows through ``Drawdown``."""
    checked = 0
    for seed in range(60):
        problem, contracts = small(seed)
        here = scoped(problem, contracts)
        found = plan(here, SOLVER)
        if isinstance(found, Conflict):
            continue
        drawdown = Drawdown(terms_of(contracts, "us")[0])
        for row in _rows(here, found):
            drawdown.add(use_of(row))
        result = drawdown.result(date(2030, 1, 1))
        for window, held in zip(here.windows, found.costs.windows, strict=True):
            begin, end = window.interval.split("/")
            if date.fromisoformat(end) > problem.days[-1]:
                continue
            (interval,) = [one for one in result[window.id] if one.since == date.fromisoformat(begin)]
            assert interval.result is not None
            assert abs(Fraction(interval.result.shortfall) - held.shortfall) < F(1, 10**9), (seed, window)
            assert abs(Fraction(interval.result.charge) - held.charge) < F(1, 10**9), (seed, window)
            assert abs(Fraction(interval.drawn) - held.drawn) < F(1, 10**9), (seed, window)
            checked += 1
    assert checked > 40


def _rows(here: Scoped, found: Solved) -> Any:
    one = here.task
    for (_, place, quarter), units in found.placed.items():
        begin, end = one.days[quarter], one.days[quarter + 1]
        days = (end - begin).days
        cost = units * one.price[place][quarter] / days
        at = one.portfolio.deployments[place]
        for number in range(days):
            yield {
                "ChargePeriodStart": (begin + timedelta(days=number)).isoformat(),
                "BilledCost": str(Decimal(cost.numerator) / Decimal(cost.denominator)),
                "BillingCurrency": "USD",
                "ServiceProviderName": at.cloud,
                "RegionId": at.region,
            }


def test_a_value_is_what_a_commitment_saves_where_it_is_drawn_further() -> None:
    """The cost is convex in what is promised, so a step either way never beats the value; pins would break that."""
    checked = 0
    for seed in range(120):
        here = scoped(*small(seed))
        found = plan(here, SOLVER)
        pinned = any(one.kind == "stateful" for one in here.task.portfolio.workloads)
        if pinned or isinstance(found, Conflict):
            continue
        for number, (window, told) in enumerate(zip(here.windows, found.plan.commitments, strict=True)):
            for step in (F(-3), F(5)) if window.minimum else ():
                windows = list(here.windows)
                windows[number] = window._replace(promised=window.promised + step)
                moved = plan(here._replace(windows=tuple(windows)), SOLVER)
                assert isinstance(moved, Solved)
                assert moved.costs.total >= found.costs.total + F(told.value) * step - F(1, 10**5), (seed, window)
                checked += told.value != "0"
    assert checked > 20


def test_a_large_plan_is_proved_the_cheapest() -> None:
    found = plan(scoped(*large(1)), SOLVER)
    assert isinstance(found, Solved)
    assert found.plan.gap == 0
    assert {one.commitment for one in found.plan.commitments} == {
        "c/aws-commitment",
        "c/azure-commitment",
        "c/google-commitment",
    }


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quarters": 0}, "a quarter, a workload and a deployment"),
        ({"workloads": []}, "a quarter, a workload and a deployment"),
        ({"quarters": PLAN_PLACEMENTS_MAX + 1}, "are the most"),
        ({"currency": "money"}, "no ISO 4217 currency"),
        ({"workloads": [work(), work()]}, r'workloads\[1\].name: "w" is written twice'),
        ({"deployments": [site("a", 1), site("a", 1)]}, r'deployments\[1\].name: "a" is written twice'),
        ({"workloads": [work(demand=[1, 2, 3])]}, "3 amounts for 2 quarters"),
        ({"workloads": [work(demand=[1, "-2"])]}, r'workloads\[0\].demand\[1\]: "-2" is no amount'),
        ({"deployments": [site("a", "free")]}, r'deployments\[0\].price: "free" is no amount'),
        ({"rates": {"EUR": "1"}}, "rates.EUR: write the currencies as EUR/USD"),
        ({"drawn": {"c/x": "some"}}, "drawn.c/x"),
        ({"workload": []}, 'unknown key "workload"; did you mean "workloads"'),
    ],
)
def test_a_portfolio_that_cannot_be_planned_says_where(change: dict[str, Any], words: str) -> None:
    value = {"since": date(2026, 1, 1), "quarters": 2, "workloads": [work()], "deployments": BOTH}
    with pytest.raises(ContractError, match=words):
        read(Document("p.yaml", {**value, **change}))


def test_fractions_are_told_in_decimals() -> None:
    assert [rounded(one) for one in (F(1, 3), F(5), F(1, 2), F(10**12))] == ["0.333333", "5", "0.5", "1000000000000"]


# -- proofs --------------------------------------------------------------------------------------

# The least of 2x + 3y where x + y >= 4 and x <= 3: x = 3, y = 1.
TWO = Program([Column(F(2), F(3)), Column(F(3))], [Row({0: F(1), 1: F(1)}, lower=F(4))])


def test_an_answer_is_proved_with_its_prices() -> None:
    found = prove(TWO, Answer({}, ["upper", "basic"], ["lower"], 0.0))
    assert (found.values, found.prices, found.cost) == ((3, 1), (3,), 9)
    assert prove(TWO, Answer({0: 2}, ["basic", "basic"], ["lower"], 0.0)).cost == 10


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer({}, ["lower", "basic"], ["lower"], 0.0), "a column's bound could be left"),
        (Answer({}, ["basic", "lower"], ["lower"], 0.0), "beyond its bound"),
        (Answer({}, ["lower", "lower"], ["basic"], 0.0), "a row does not hold"),
        (Answer({}, ["basic", "basic"], ["lower"], 0.0), "as many columns as tight rows"),
        (Answer({}, ["upper", "upper"], ["basic"], 0.0), "at a bound that it does not have"),
        (Answer({}, ["upper", "basic"], ["upper"], 0.0), "at a bound that it does not have"),
    ],
)
def test_an_answer_that_does_not_hold_is_refused(answer: Answer, words: str) -> None:
    with pytest.raises(Unproved, match=words):
        prove(TWO, answer)


def test_a_row_that_is_held_back_for_nothing_is_refused() -> None:
    """The least of -x where x <= 5 and x >= 1: not at the lower bound."""
    program = Program([Column(F(-1))], [Row({0: F(1)}, lower=F(1), upper=F(5))])
    assert prove(program, Answer({}, ["basic"], ["upper"], 0.0)).prices == (-1,)
    with pytest.raises(Unproved, match="a row's bound"):
        prove(program, Answer({}, ["basic"], ["lower"], 0.0))


def test_equations_that_depend_on_each_other_are_no_basis() -> None:
    row = Row({0: F(1), 1: F(1)}, lower=F(4), upper=F(4))
    with pytest.raises(Unproved, match="depend on each other"):
        prove(
            Program([Column(F(1)), Column(F(1))], [row, row]), Answer({}, ("basic", "basic"), ("lower", "lower"), 0.0)
        )


def test_equations_that_hang_together_are_solved() -> None:
    """x + y = 3, x - y = 1, x + y + z = 6."""
    rows = [
        Row({0: F(1), 1: F(1)}, F(3), F(3)),
        Row({0: F(1), 1: F(-1)}, F(1), F(1)),
        Row({0: F(1), 1: F(1), 2: F(1)}, F(6), F(6)),
    ]
    program = Program([Column(F(1))] * 3, rows)
    found = prove(program, Answer({}, ("basic", "basic", "basic"), ("lower", "upper", "lower"), 0.0))
    assert found.values == (2, 1, 3)
