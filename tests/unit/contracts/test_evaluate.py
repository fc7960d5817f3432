"""What readings come to: within a clause, across clauses, and under a posture."""

from __future__ import annotations

import itertools

import cel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.contracts.build import EVERY, STATEFUL_ON_AWS, ask, clause, contract, loaded

from stateline.contracts import FactsError, check_facts, evaluate, parse_at
from stateline.contracts.facts import micros
from stateline.contracts.predicates import compile_predicate
from stateline.core.limits import VERDICTS_KEPT_MAX

UNKNOWN = 'model.family == "x"'


def readings(*rows: tuple[str, str]) -> str:
    """A clause `x` with a reading for each (holders, predicate)."""
    lines = [f"      - {{id: r{index}, held_by: [{held}], deny: '{deny}'}}" for index, (held, deny) in enumerate(rows)]
    return "  - id: x\n    kind: exclusivity\n    readings:\n" + "\n".join(lines) + "\n"


def exception(holders: str, allow: str, rest: str = "") -> str:
    return (
        f"  - id: e\n    kind: permission\n    exception_to: x\n{rest}    readings:\n"
        f"      - {{id: e, held_by: [{holders}], allow: '{allow}'}}\n"
    )


@pytest.mark.parametrize(
    ("denies", "posture", "outcome", "resolved"),
    [
        (("true", "true"), "strict", "deny", "deny"),
        (("true", "true"), "a", "deny", "deny"),
        (("false", "false"), "strict", "allow", "allow"),
        (("true", "false"), "strict", "contested", "deny"),
        (("true", "false"), "a", "contested", "deny"),
        (("true", "false"), "b", "contested", "allow"),
        (("true", "false"), "nobody", "contested", "deny"),
        (("false", UNKNOWN), "a", "unknown", "deny"),
        (("true", UNKNOWN), "a", "unknown", "deny"),
        ((UNKNOWN, UNKNOWN), "strict", "unknown", "deny"),
        (("1/0 == 1", "false"), "b", "unknown", "deny"),
        (("model.vendor", "model.vendor"), "strict", "unknown", "deny"),
    ],
)
def test_within_a_clause(denies: tuple[str, str], posture: str, outcome: str, resolved: str) -> None:
    verdict = ask(loaded(contract(readings(("a", denies[0]), ("b", denies[1])))), posture=posture)
    assert (verdict.outcome, verdict.resolved) == (outcome, resolved)
    assert (verdict.clauses[0].outcome, verdict.clauses[0].resolved) == (outcome, resolved)


def test_a_holder_of_several_readings_denies_if_any_does() -> None:
    contracts = loaded(contract(readings(("a", "true"), ("a, b", "false"))))
    assert (ask(contracts, posture="a").resolved, ask(contracts, posture="b").resolved) == ("deny", "allow")


@pytest.mark.parametrize(
    ("clauses", "outcome"),
    [
        ([readings(("a", "false"))], "allow"),
        ([clause("y", "false"), readings(("a", UNKNOWN))], "unknown"),
        ([clause("y", UNKNOWN), readings(("a", "true"), ("b", "false"))], "contested"),
        ([clause("y", "true"), clause("z", UNKNOWN), readings(("a", "true"), ("b", "false"))], "deny"),
    ],
)
def test_across_clauses_the_worst_is_the_outcome(clauses: list[str], outcome: str) -> None:
    assert ask(loaded(contract(*clauses))).outcome == outcome


def test_a_contested_clause_that_resolves_to_allow_leaves_others_their_say() -> None:
    contested = readings(("a", "true"), ("b", "false"))
    assert ask(loaded(contract(contested, clause("y", "false"))), posture="b").resolved == "allow"
    assert ask(loaded(contract(contested, clause("y", UNKNOWN))), posture="b").resolved == "deny"


def test_no_clause_is_an_answer() -> None:
    verdict = ask(loaded(contract("  - {id: x, kind: claim}\n")))
    assert (verdict.outcome, verdict.resolved, verdict.reason, verdict.clauses) == ("allow", "allow", "no_clause", ())


def test_a_contract_may_set_its_own_posture() -> None:
    contested = readings(("a", "true"), ("b", "false"))
    contracts = loaded(contract(contested, head="posture: b\n"), contract(contested, name="d"))
    verdict = ask(contracts)
    assert [(one.resolved, one.posture) for one in verdict.clauses] == [("allow", "b"), ("deny", None)]
    assert verdict.posture == "strict"


@pytest.mark.parametrize(
    ("predicate", "outcome"),
    [
        ('model.family == "x" && false', "allow"),
        ('false && model.family == "x"', "allow"),
        ('model.family == "x" || true', "deny"),
        ('true || model.family == "x"', "deny"),
        ('model.family == "x" && true', "unknown"),
        ('true && model.family == "x"', "unknown"),
        ('model.family == "x" || false', "unknown"),
        ('false || model.family == "x"', "unknown"),
        ('!(model.family == "x")', "unknown"),
        ('model.family in ["x"]', "unknown"),
        ('"x" in product.shipped_on', "unknown"),
        ('model.family == "x" ? true : false', "unknown"),
        ('principal.user != "x"', "unknown"),
    ],
)
def test_a_missing_fact_is_unknown_wherever_the_answer_hangs_on_it(predicate: str, outcome: str) -> None:
    assert ask(loaded(contract(clause("x", predicate)))).outcome == outcome


def test_facts_of_one_verdict_are_gone_in_the_next() -> None:
    contracts = loaded(contract(clause("x", 'model.family == "x"')))
    assert ask(contracts, model={"family": "x"}).outcome == "deny"
    assert ask(contracts, model={"vendor": "x"}).outcome == "unknown"


def test_days_begin_at_midnight_utc() -> None:
    contracts = loaded(contract(clause("x", "true", rest="effective: {from: 2026-01-01, until: 2026-04-27}")))
    for at, outcome in [
        ("2025-12-31T23:59:59.999999999Z", "allow"),
        ("2026-01-01", "deny"),
        ("2026-04-26T23:59:59.999999Z", "deny"),
        ("2026-04-27", "allow"),
        ("2026-04-27T00:00:00Z", "allow"),
        ("2026-04-27T01:59:59+02:00", "deny"),
        ("2026-04-26 19:00:00-05:00", "allow"),
    ]:
        verdict = ask(contracts, at)
        assert (at, verdict.outcome, verdict.at) == (at, outcome, at)


def test_a_predicate_sees_the_instant() -> None:
    contracts = loaded(contract(clause("x", 'at >= timestamp("2026-04-27T00:00:00Z")')))
    assert [ask(contracts, at).outcome for at in ("2026-04-26T23:59:59Z", "2026-04-27")] == ["allow", "deny"]
    assert evaluate(contracts, {}, parse_at("2026-04-27")).at == "2026-04-27T00:00:00+00:00"


# -- exceptions ----------------------------------------------------------------------------------


def test_an_exception_frees_its_holders_alone() -> None:
    contracts = loaded(contract(readings(("m", EVERY), ("o, a", EVERY)), exception("o", "true")))
    verdict = ask(contracts)
    assert verdict.outcome == "contested"
    assert [(one.id, one.held_by, one.outcome) for one in verdict.clauses[0].readings] == [
        ("r0", ("m",), "deny"),
        ("r1", ("a",), "deny"),
        ("r1", ("o",), "allow"),
    ]
    assert [ask(contracts, posture=holder).resolved for holder in ("m", "o", "a")] == ["deny", "allow", "deny"]
    assert (verdict.clauses[1].id, verdict.clauses[1].outcome) == ("c/e", "allow")


@pytest.mark.parametrize(
    ("deny", "allow", "rest", "outcome"),
    [
        ("true", "true", "", "allow"),
        (UNKNOWN, "true", "", "allow"),
        ("false", "true", "", "allow"),
        ("true", "false", "", "deny"),
        ("true", UNKNOWN, "", "deny"),
        ("false", UNKNOWN, "", "allow"),
        ("true", "true", "    effective: {until: 2026-03-18}\n", "deny"),
    ],
)
def test_an_exception_must_be_true_and_in_force(deny: str, allow: str, rest: str, outcome: str) -> None:
    assert ask(loaded(contract(readings(("a", deny)), exception("a", allow, rest)))).outcome == outcome


# -- facts and instants --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ([], "no object"),
        ({"modle": {}}, 'did you mean "model"'),
        ({"model": "x"}, "no object"),
        ({"model": {"vender": "x"}}, 'did you mean "vendor"'),
        ({"model": {"vendor": None}}, "is a string"),
        ({"product": {"shipped_on": "azure"}}, "list of strings"),
        ({"product": {"shipped_on": [1]}}, "list of strings"),
        ({"deployment": {"cloud": "asw"}}, 'did you mean "aws"'),
    ],
)
def test_facts_that_no_predicate_could_meet_are_refused(facts: object, word: str) -> None:
    with pytest.raises(FactsError, match=word):
        check_facts(facts)


def test_facts_of_the_list_pass() -> None:
    facts = {**STATEFUL_ON_AWS, "product": {"shipped_on": ["azure"]}}
    assert check_facts(facts) == facts


@pytest.mark.parametrize(
    "text", ["", "2026-3-18", "20260318", "2026-03-18T00:00:00", "2026-02-30", "2026-03-18T25:00:00Z", "yesterday"]
)
def test_an_instant_is_a_date_or_rfc_3339(text: str) -> None:
    with pytest.raises(FactsError):
        parse_at(text)


def test_an_instant_outside_the_calendar_is_refused() -> None:
    with pytest.raises(FactsError):
        parse_at("0001-01-01T00:00:00+10:00")


_PARTS = st.sampled_from(
    [
        "true",
        "false",
        "1/0 == 1",
        *(f'{fact} == "{value}"' for fact in ("model.vendor", "model.family") for value in ("x", "y")),
        '"x" == model.vendor',
        'model.vendor != "x"',
        '(model.vendor == "x" ? true : false)',
        '"x" in [model.vendor]',
    ]
)
_PREDICATES = st.recursive(
    _PARTS,
    lambda inner: st.one_of(
        inner.map(lambda one: f"!({one})"),
        st.tuples(inner, st.sampled_from(["&&", "||", "=="]), inner).map(lambda each: "({}) {} ({})".format(*each)),
    ),
    max_leaves=6,
)


@given(_PREDICATES, st.dictionaries(st.sampled_from(["vendor", "family"]), st.sampled_from(["x", "y"])))
def test_the_short_way_past_a_guard_changes_no_verdict(predicate: str, model: dict[str, str]) -> None:
    try:
        value: object = cel.evaluate(predicate, {"model": model})
    except Exception:
        value = None
    expected = {True: "deny", False: "allow"}.get(value, "unknown") if isinstance(value, bool) else "unknown"
    text = predicate.replace("'", "''")
    assert ask(loaded(contract(clause("x", text))), model=model).outcome == expected


def test_predicates_beyond_the_common_subset_share_one_context() -> None:
    contracts = loaded(
        contract(
            clause("x", 'model.vendor.matches("^o")'), clause("y", "size(model.vendor) == 6"), clause("z", UNKNOWN)
        )
    )
    for _ in range(2):
        assert [one.outcome for one in ask(contracts).clauses] == ["deny", "deny", "unknown"]


def test_guards_are_found() -> None:
    guards = [
        compile_predicate(text).guard
        for text in (
            'true && ("x" == model.vendor && 1/0 == 1)',
            '!(model.vendor == "x")',
            "model.vendor == model.name",
        )
    ]
    assert guards == [("model.vendor", "x"), None, None]


def test_verdicts_are_kept_up_to_a_bound() -> None:
    contracts = loaded(contract(readings(("a", "true"), ("b", "false"))))
    for number in range(VERDICTS_KEPT_MAX + 5):
        assert ask(contracts, posture=f"p{number}").resolved == "deny"
    assert ask(contracts, posture="b").resolved == "allow"


# -- properties and cost -------------------------------------------------------------------------

_WORDS = {"true": "deny", "false": "allow", UNKNOWN: "unknown"}


@given(
    st.lists(st.lists(st.sampled_from(list(_WORDS)), min_size=1, max_size=4), min_size=1, max_size=4),
    st.sampled_from(["strict", "h0", "h1", "h3"]),
)
def test_any_set_of_readings_comes_to_what_the_rules_say(sets: list[list[str]], posture: str) -> None:
    texts = [
        contract(readings(*((f"h{n}", deny) for n, deny in enumerate(rows))), name=f"c{k}")
        for k, rows in enumerate(sets)
    ]
    verdict = ask(loaded(*texts), posture=posture)
    outcomes: list[str] = []
    denied = False
    for rows in sets:
        words = [_WORDS[deny] for deny in rows]
        one = words[0] if len(set(words)) == 1 else "unknown" if "unknown" in words else "contested"
        held = {f"h{n}": word for n, word in enumerate(words)}.get(posture, "deny")
        denied |= one in ("deny", "unknown") or (one == "contested" and held == "deny")
        outcomes.append(one)
    assert [one.outcome for one in verdict.clauses] == outcomes
    assert verdict.outcome == min(outcomes, key=["deny", "contested", "unknown", "allow"].index)
    assert verdict.resolved == ("deny" if denied else "allow")


def test_what_is_in_force_is_steady_between_two_days() -> None:
    contracts = loaded(
        contract(
            clause("early", EVERY, rest="effective: {from: 2026-01-01, until: 2026-02-01}"),
            clause("late", EVERY, rest="effective: {from: 2026-03-01}"),
        )
    )
    days = [micros(parse_at(day)) for day in ("2026-01-01", "2026-02-01", "2026-03-01")]
    for since, until in itertools.pairwise(days):
        assert contracts.steady(since) == contracts.steady(until - 1) == (since, until)
    before, after = contracts.steady(days[0] - 1), contracts.steady(days[-1])
    assert before[1] == days[0]
    assert after[0] == days[-1]
    assert before[0] < days[0] < days[-1] < after[1]
    always = loaded(contract(clause("always", EVERY))).steady(days[0])
    assert always[0] < days[0] < days[-1] < always[1]


def test_contracts_are_the_same_by_what_they_say() -> None:
    one, determined = contract(clause("x", EVERY)), "- {event: e, on: 2026-01-01, by: b}"
    assert loaded(one).same_as(loaded("# a comment\n" + one))
    assert not loaded(one).same_as(loaded(contract(clause("y", EVERY))))
    assert not loaded(one).same_as(loaded(one, determinations=determined))
