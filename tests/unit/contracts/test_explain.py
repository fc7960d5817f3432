"""A verdict's trace in words, and the schemas of the files."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml
from tests.unit.contracts.build import EVERY, STATEFUL_ON_AWS, clause, contract, loaded
from tests.unit.contracts.test_evaluate import UNKNOWN, exception, readings
from tests.unit.contracts.test_load import FULL

from stateline.contracts import Contracts, FactsError, parse_at
from stateline.contracts.explain import Explanation, explain
from stateline.contracts.schema import schema


def told(contracts: Contracts, posture: str = "strict", **facts: dict[str, Any]) -> Explanation:
    return explain(contracts, facts or STATEFUL_ON_AWS, parse_at("2026-03-18"), posture, given="2026-03-18")


def whys(explanation: Explanation) -> list[str]:
    return [reading.why for one in explanation.clauses for reading in one.readings]


@pytest.mark.parametrize(
    ("deny", "why"),
    [
        (EVERY, "true: it forbids this placement"),
        ('model.vendor == "x"', "false: it does not forbid this placement"),
        (UNKNOWN, "not known: model.family"),
        ("1/0 == 1", "its evaluation fails, or gives no boolean"),
    ],
)
def test_a_reading_says_why(deny: str, why: str) -> None:
    contracts = loaded(contract(clause("x", deny)))
    explanation = told(contracts)
    assert whys(explanation) == [why]
    assert explanation.verdict == contracts.evaluate(STATEFUL_ON_AWS, parse_at("2026-03-18"), given="2026-03-18")


def test_a_reading_shows_the_facts_that_it_looks_at() -> None:
    text = 'model.vendor == "x" || model.family == "y" || at > timestamp("2030-01-01T00:00:00Z")'
    assert told(loaded(contract(clause("x", text)))).clauses[0].readings[0].facts == {
        "model.vendor": "openai",
        "model.family": None,
    }


@pytest.mark.parametrize(
    ("denies", "posture", "why"),
    [
        (("true", "true"), "strict", "every reading denies, so deny"),
        (("false", "false"), "strict", "every reading allows, so allow"),
        (("true", UNKNOWN), "strict", "a reading cannot be decided, and what is not known denies, so deny"),
        (("true", "false"), "strict", "the readings differ, and the posture strict denies what is contested"),
        (("true", "false"), "b", "the readings differ, and the posture b takes its own: r1 (allow), so allow"),
        (("true", "false"), "q", "the readings differ, and the posture q holds none of them, so deny"),
    ],
)
def test_a_clause_says_why(denies: tuple[str, str], posture: str, why: str) -> None:
    explanation = told(loaded(contract(readings(("a", denies[0]), ("b", denies[1])))), posture)
    assert explanation.clauses[0].why == why
    allowed = explanation.verdict.resolved == "allow"
    assert explanation.why == ("every clause in force resolves to allow" if allowed else "denied by c/x")


def test_the_contracts_own_posture_is_the_one_that_is_told() -> None:
    contracts = loaded(contract(readings(("a", "true"), ("b", "false")), head="posture: b\n"))
    assert "posture b" in told(contracts).clauses[0].why


@pytest.mark.parametrize(
    ("allow", "rest", "said", "why"),
    [
        ("true", "", "c/e applies to o", "true: the exception applies to its holders"),
        ("false", "", "c/e does not apply", "false: it does not apply"),
        (UNKNOWN, "", "c/e does not apply", "it cannot be decided, so it changes nothing"),
    ],
)
def test_an_exception_says_what_became_of_it(allow: str, rest: str, said: str, why: str) -> None:
    explanation = told(loaded(contract(readings(("m", EVERY), ("o", EVERY)), exception("o", allow, rest))))
    assert explanation.clauses[0].exceptions == (said,)
    assert explanation.clauses[1].readings[0].why == why
    freed = whys(explanation)[1]
    assert ("an exception of its holders applies" in freed) == (allow == "true")


def test_clauses_that_are_not_in_force_say_when_they_are() -> None:
    contracts = loaded(
        contract(
            clause("over", "true", rest="effective: {until: 2026-03-18}"),
            clause("later", "true", rest="effective: {from: 2026-03-19, until: 2027-01-01}"),
            clause("never", "true", rest="effective: {from: {event: agi}}"),
            clause("x", "false"),
            exception("a", "true", "    effective: {until: 2020-01-01}\n"),
        )
    )
    assert [(one.in_force, one.when) for one in told(contracts).clauses] == [
        (False, "until 2026-03-18; ended"),
        (False, "from 2026-03-19 until 2027-01-01; not begun"),
        (False, "never: it is superseded before it begins, or its event has not come"),
        (True, "always"),
        (False, "until 2020-01-01; ended"),
    ]
    assert told(contracts).clauses[3].exceptions == ("c/e is not in force: until 2020-01-01; ended",)
    assert told(loaded(contract("  - {id: x, kind: claim}\n"))).why.startswith("no clause with readings")


# -- schemas -------------------------------------------------------------------------------------


def problems(text: str, name: str = "contract") -> list[str]:
    """What the schema says of a file as editors read it: days are strings to them."""
    value = yaml.load(text, Loader=yaml.BaseLoader)
    found = jsonschema.Draft202012Validator(schema(name)).iter_errors(value)  # pyright: ignore[reportUnknownMemberType]
    return [error.message for error in found]


@pytest.mark.parametrize("text", [FULL.replace("max: 3", 'max: "3"'), contract(clause("x", "true"))])
def test_the_schema_takes_what_the_loader_takes(text: str) -> None:
    loaded(text)
    assert problems(text) == []


@pytest.mark.parametrize(
    "text",
    [
        contract("  - {id: x}\n"),
        contract("  - {id: x, kind: odd}\n"),
        contract("  - {id: x, kind: claim, textt: y}\n"),
        contract("  - {id: x, kind: claim, effective: {form: 2026-01-01}}\n"),
        contract('  - {id: x, kind: claim, amount: {exact: "5"}}\n'),
        contract(clause("x", "true"), head="partys: [a]\n"),
        "[]",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text: str) -> None:
    from stateline.contracts import ContractError

    with pytest.raises(ContractError):
        loaded(text)
    assert problems(text) != []


def test_the_schema_of_determinations() -> None:
    assert problems("- {event: agi, on: 2026-03-18, by: panel, source: letter}", "determinations") == []
    assert problems("- {evnt: agi}", "determinations") != []
    with pytest.raises(FactsError, match="did you mean"):
        schema("contracts")
