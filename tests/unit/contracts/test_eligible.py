"""FOCUS's ContractCommitmentApplicability: what of a row counts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.contracts.build import contract, loaded

from stateline.contracts import ContractError
from stateline.contracts.eligible import Applicability, Fractions, party, seller

ALL = Fractions(Decimal(1), Decimal(1))
NONE = Fractions(Decimal(0), Decimal(0))


def rule(dimension: str, operator: str, *values: str, **more: Any) -> dict[str, Any]:
    return {"Dimension": dimension, "Operator": operator, "Values": list(values), **more}


def within(*rules: dict[str, Any], by: str = "And", **more: Any) -> Applicability:
    return Applicability({"InclusionOperator": by, "Inclusions": list(rules), **more})


def test_an_empty_scope_is_everything_and_a_complex_one_is_nothing() -> None:
    assert Applicability({}).of({}) == ALL
    found = Applicability({"IsComplexScope": True})
    assert found.complex
    assert found.of({"RegionId": "x"}) == NONE


def test_the_specifications_own_example() -> None:
    """All but databases of one account."""
    scope = Applicability(
        {
            "IsGlobalScope": True,
            "ExclusionOperator": "And",
            "Exclusions": [
                rule("BillingAccountId", "In", "123456789012"),
                rule("ServiceCategory", "In", "Database"),
            ],
        }
    )
    assert scope.of({"BillingAccountId": "123456789012", "ServiceCategory": "database"}) == NONE
    assert scope.of({"BillingAccountId": "123456789012", "ServiceCategory": "AI and Machine Learning"}) == ALL
    assert scope.of({"BillingAccountId": "7", "ServiceCategory": "Database"}) == ALL
    assert scope.dimensions == ("BillingAccountId", "ServiceCategory")


@pytest.mark.parametrize(
    ("operator", "values", "held", "not_held"),
    [
        ("In", ("EU", "us"), ("eu", "US"), ("e", None)),
        ("In", ("*",), ("x", None), ()),
        ("NotIn", ("eu",), ("us", None), ("EU",)),
        ("StartsWith", ("eu-", "us-"), ("EU-west", "us-"), ("neu-", None)),
        ("NotStartsWith", ("eu-",), ("us-", None), ("EU-west",)),
        ("Contains", ("west", "east"), ("us-West-2",), ("north", None)),
        ("Contains", ("*",), ("x", None), ()),
        ("NotContains", ("west",), ("north", None), ("us-west-2",)),
        ("EndsWith", ("-1", "-2"), ("us-west-2",), ("us-west-3", None)),
        ("Exists", ("*",), ("x",), (None, "")),
        ("DoesNotExist", ("*",), (None, ""), ("x",)),
    ],
)
def test_operators(
    operator: str, values: tuple[str, ...], held: tuple[str | None, ...], not_held: tuple[str | None, ...]
) -> None:
    scope = within(rule("RegionId", operator, *values))
    assert [scope.of({"RegionId": value}) for value in held] == [ALL] * len(held)
    assert [scope.of({"RegionId": value}) for value in not_held] == [NONE] * len(not_held)


def test_a_matching_rules_own_part_goes_before_the_top_one() -> None:
    quarter, half = {"Cost": 0.25}, {"Cost": "0.5", "Usage": 0}
    rules = (
        rule("A", "In", "x", Applicability=quarter),
        rule("B", "In", "x", Applicability=half),
        rule("C", "In", "x"),
    )
    any_of = within(*rules, by="Or", Applicability={"Cost": 0.75})
    assert any_of.of({"A": "x"}) == (Decimal("0.25"), Decimal(1))
    assert any_of.of({"A": "x", "B": "x"}) == (Decimal("0.5"), Decimal(1))
    assert any_of.of({"C": "x"}) == (Decimal("0.75"), Decimal(1))
    assert any_of.of({}) == NONE
    both = within(*rules)
    assert both.of({"A": "x", "B": "x", "C": "x"}) == (Decimal("0.25"), Decimal(0))
    assert both.of({"A": "x", "B": "x"}) == NONE


def test_exclusions_are_any_of_them_by_default() -> None:
    scope = within(rule("A", "Exists", "*"), Exclusions=[rule("B", "In", "x"), rule("C", "In", "x")])
    assert scope.of({"A": "1", "C": "x"}) == NONE
    assert scope.of({"A": "1", "B": "y"}) == ALL


GOOD = rule("A", "In", "x")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"Inclusion": []}, 'has no "Inclusion"'),
        ({"IsGlobalScope": "yes"}, "IsGlobalScope is true or false"),
        ({"IsGlobalScope": True, "IsComplexScope": True}, "not both"),
        ({"IsGlobalScope": True, "Inclusions": [GOOD]}, "has no Inclusions"),
        ({"IsComplexScope": True, "InclusionOperator": "And"}, "has no Inclusions"),
        ({"Inclusions": [GOOD]}, "InclusionOperator"),
        ({"InclusionOperator": "And", "Inclusions": []}, "has Inclusions"),
        ({"InclusionOperator": "Xor", "Inclusions": [GOOD]}, "is And, or Or"),
        ({"InclusionOperator": "And", "Inclusions": "all"}, "a list of rules"),
        ({"InclusionOperator": "And", "Inclusions": ["x"]}, "is a table"),
        ({"InclusionOperator": "And", "Inclusions": [rule("", "In", "x")]}, "has a Dimension"),
        ({"InclusionOperator": "And", "Inclusions": [rule("A", "Like", "x")]}, '"Like" is no Operator'),
        ({"InclusionOperator": "And", "Inclusions": [rule("A", "In")]}, "has Values"),
        ({"InclusionOperator": "And", "Inclusions": [rule("A", "In", "*", "x")]}, "stands alone"),
        ({"InclusionOperator": "And", "Inclusions": [rule("A", "Exists", "x")]}, "the Values of Exists"),
        ({"InclusionOperator": "And", "Inclusions": [rule("A", "NotIn", "*")]}, "no value of NotIn"),
        ({"IsGlobalScope": True, "Applicability": {"Cost": 1.5}}, "no fraction"),
        ({"IsGlobalScope": True, "Applicability": {"Cost": "much"}}, "no fraction"),
        ({"IsGlobalScope": True, "Applicability": {"Cost": True}}, "no fraction"),
    ],
)
def test_what_focus_refuses_is_refused(value: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Applicability(value)


def test_a_contract_with_such_a_scope_is_not_loaded() -> None:
    text = "  - {id: x, kind: commitment, commitment: {model: minimum, applicability: {Inclusion: []}}}\n"
    with pytest.raises(ContractError, match=r'clauses\[0\].commitment: an applicability has no "Inclusion"'):
        loaded(contract(text))


def test_sellers_by_all_of_their_names() -> None:
    assert party("Amazon Web Services, Inc.") == party("amazon") == "aws"
    assert party("oracle") == "oracle"
    assert seller({"InvoiceIssuerName": "Microsoft", "ServiceProviderName": "Anthropic"}) == "azure"
    assert seller({"InvoiceIssuerName": "", "ServiceProviderName": "GCP"}) == "google"
    assert seller({"HostProviderName": "aws"}) == "aws"
    assert seller({}) is None


@given(st.dictionaries(st.sampled_from("ABC"), st.sampled_from(("x", "X", "y", "")), max_size=3), st.booleans())
def test_not_in_a_set_is_the_opposite_of_in_it(row: dict[str, str], both: bool) -> None:
    by = "And" if both else "Or"
    inside = within(rule("A", "In", "x"), rule("B", "In", "x"), by=by)
    outside = within(rule("A", "NotIn", "x"), rule("B", "NotIn", "x"), by="Or" if both else "And")
    assert {inside.of(row), outside.of(row)} == {ALL, NONE}
