"""Arguments as a model wrote them: what becomes of each kind of value, and that none becomes more than data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.policy.build import call, loaded, refused

from stateline.core import limits
from stateline.core.tools import History
from stateline.identity.policy import CedarPolicy

ESCAPES: list[dict[str, Any]] = [
    {"__entity": {"type": "User", "id": "acme/root"}},
    {"__entity": {"type": "User", "id": "acme/root"}, "more": 1},
    {"__extn": {"fn": "ip", "arg": "127.0.0.1"}},
    {"__extn": {"fn": "decimal", "arg": "0.0"}},
    {"__expr": 'User::"acme/root"'},
    json.loads('{"\\u005f_entity": {"type": "User", "id": "acme/root"}}'),
    {"__entity__": 1},
]
READ = "permit(principal, action, resource) when"


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> CedarPolicy:
    """Permits whatever says nothing odd in `text`; reads `whole` as it stands."""
    return loaded(
        tmp_path_factory.mktemp("reading"),
        f"""
        {READ} {{ context.arguments has text && context.arguments.text == "yes" }};
        {READ} {{ context.arguments has whole && context.arguments.whole == context.arguments.whole }};
        {READ} {{ context.arguments has who && principal == context.arguments.who }};
        """.replace("principal == context.arguments.who", 'context.arguments.who == "root"'),
    )


def decides(folder: Path, condition: str, arguments: dict[str, Any], schema: str | None = None) -> str:
    """The outcome, or the error."""
    policy = loaded(
        folder, f'permit(principal, action, resource == Tool::"payments/refund") when {{ {condition} }};', schema
    )
    ruling = policy.rule(call(arguments=arguments))
    return ruling.errors[0] if ruling.errors else ruling.outcome


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("depth", range(3))
def test_what_cedar_would_take_for_an_entity_or_extension_is_refused(
    reading: CedarPolicy, escape: dict[str, Any], depth: int
) -> None:
    value: Any = escape
    for _ in range(depth):
        value = {"in": [value]}
    ruling = reading.rule(call(arguments={"whole": value}))
    assert ruling.outcome == "deny"
    assert ruling.errors[0].startswith("policy_argument: arguments.whole")


@pytest.mark.parametrize("escape", ESCAPES)
def test_arguments_that_are_an_escape_themselves_stay_data(tmp_path: Path, escape: dict[str, Any]) -> None:
    schema = '@tool("payments/refund") type Refund = { a: Long };'
    assert decides(tmp_path, 'context.arguments == {"a": 1}', {"a": 1}, schema) == "allow"
    assert decides(tmp_path, 'context.arguments == {"a": 1}', {"a": 1, "b": 1}, schema) == "deny"
    assert decides(tmp_path, 'context.arguments == {"a": 1}', escape, schema).startswith("policy_argument: ")


def test_an_escape_in_an_argument_that_no_policy_reads_is_nobodys_business(reading: CedarPolicy) -> None:
    ruling = reading.rule(call(arguments={"text": "yes", "other": ESCAPES[0]}))
    assert (ruling.outcome, ruling.errors) == ("allow", ())


def test_an_object_in_the_form_of_an_entity_is_no_entity(tmp_path: Path) -> None:
    who = {"type": "User", "id": "acme/alice"}
    assert decides(tmp_path, 'context.arguments.who.id == "acme/alice"', {"who": who}) == "allow"
    assert refused(tmp_path, "permit(principal, action, resource) when { context.arguments.who is User };")


names = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="\"\\/'`;:{}()\n\r\0 é\u202e\U0001f600", max_size=30),
    st.sampled_from(
        ['x" || true || "', 'alice"}, action, resource); permit(principal, action, resource); //', "\u0000"]
    ),
)


@given(tool=names, principal=names, agent=names, written=st.tuples(names | st.just("yes"), names))
def test_no_name_or_text_is_ever_read_as_policy(
    reading: CedarPolicy, tool: str, principal: str, agent: str, written: tuple[str, str]
) -> None:
    text, key = written
    asked = call(tool=tool, principal=principal, agent=agent, arguments={"text": text, key: {"x": text}})
    ruling = reading.rule(asked)
    if text == "yes" and key not in {"text", "whole", "who"} and (principal or agent):
        assert ruling.outcome == "allow"
    elif key not in {"text", "whole", "who"}:
        assert ruling.outcome == "deny"


@given(tool=names, principal=names)
def test_a_name_is_that_name_alone(tmp_path_factory: pytest.TempPathFactory, tool: str, principal: str) -> None:
    policy = loaded(
        tmp_path_factory.mktemp("names"),
        'permit(principal == User::"acme/alice", action, resource == Tool::"payments/refund");',
    )
    expected = "allow" if (tool, principal) == ("refund", "alice") else "deny"
    assert policy.rule(call(tool=tool, principal=principal)).outcome == expected


@pytest.mark.parametrize(
    ("value", "condition", "found"),
    [
        (1.5, 'context.arguments.v.lessThan(decimal("1.6"))', "allow"),
        (2, 'context.arguments.v.lessThan(decimal("1.6"))', "deny"),
        ("1.5", 'context.arguments.v.lessThan(decimal("1.6"))', "allow"),
        ("a", 'context.arguments.v.lessThan(decimal("1.6"))', "policy_failed: a.cedar:1: type error"),
        (0.1234, 'context.arguments.v == decimal("0.1234")', "allow"),
        (-1e-4, 'context.arguments.v == decimal("-0.0001")', "allow"),
        (1e3, 'context.arguments.v == decimal("1000.0")', "allow"),
        (-0.0, 'context.arguments.v == decimal("0.0")', "allow"),
        (0.12345, 'context.arguments.v == decimal("0.1234")', "policy_argument: arguments.v has more than 4 places"),
        (1e300, 'context.arguments.v == decimal("0.1234")', "policy_argument: arguments.v has more than 4 places"),
        (2**100, 'context.arguments.v == decimal("0.1234")', "policy_argument: arguments.v has more than 4 places"),
        (float("inf"), "context.arguments.v == 5", "policy_argument: arguments.v is not a finite number"),
        (float("nan"), "context.arguments.v == 5", "policy_argument: arguments.v is not a finite number"),
        (5.0, "context.arguments.v == 5", "deny"),
        (5.0, "context.arguments.v <= 5", "policy_failed: a.cedar:1: type error"),
        (-(2**63), "context.arguments.v < 5", "allow"),
        (-(2**63) - 1, "context.arguments.v < 5", "policy_argument: arguments.v is a whole number"),
        (True, "context.arguments.v", "allow"),
        (False, "!context.arguments.v", "allow"),
        ("a b", 'context.arguments.v like "a*"', "allow"),
        (["a", "b", "a"], 'context.arguments.v == ["b", "a"]', "allow"),
        (["a"], 'context.arguments.v.contains("a")', "allow"),
        ([1], "context.arguments.v.containsAny([1, 2])", "allow"),
        (["a"], "context.arguments.v.isEmpty()", "deny"),
        ("b", '["a", "b"].contains(context.arguments.v)', "allow"),
        ([None], 'context.arguments.v.contains("a")', "policy_argument: arguments.v[0] has no place"),
        ({"a": {"b": 1}, "n": None}, "context.arguments.v.a.b == 1 && !(context.arguments.v has n)", "allow"),
        ("2026-01-01", 'context.arguments.v < datetime("2026-02-01")', "allow"),
        ("2026-13-01", 'context.arguments.v < datetime("2026-02-01")', "policy_request: "),
        ("soon", 'context.arguments.v < datetime("2026-02-01")', "policy_failed: "),
        ("10.1.2.3", 'context.arguments.v.isInRange(ip("10.0.0.0/8"))', "allow"),
        ("11.1.2.3", 'context.arguments.v.isInRange(ip("10.0.0.0/8"))', "deny"),
        ("1h30m", 'context.arguments.v < duration("2h")', "allow"),
        (b"x", "context.arguments.v == 5", "policy_argument: arguments.v has no place"),
    ],
)
def test_each_value_is_read_as_the_policy_reads_it_or_denied(
    tmp_path: Path, value: Any, condition: str, found: str
) -> None:
    assert decides(tmp_path, condition, {"v": value}).startswith(found)


SCHEMA = """
@tool("payments/refund")
type Refund = { amount: decimal, to: Address, tags?: Set<String>, count?: Long, urgent?: Bool, on?: datetime };
type Address = { city: String, "zip code"?: String };
"""
GOOD: dict[str, Any] = {"amount": 1, "to": {"city": "Ulm"}}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, "allow"),
        ({"amount": "1.00", "tags": ["a"], "count": 1, "urgent": True, "on": "2026-01-01T00:00:00Z"}, "allow"),
        ({"undeclared": 5}, "allow"),
        ({"amount": True}, "policy_argument: arguments.amount is not a decimal"),
        ({"amount": "1"}, "policy_argument: arguments.amount is not a decimal"),
        ({"to": "Ulm"}, "policy_argument: arguments.to is not a record"),
        ({"to": {"city": 5}}, "policy_argument: arguments.to.city is not a String"),
        ({"to": {}}, "policy_failed: a.cedar:1: "),
        ({"tags": "a"}, "policy_argument: arguments.tags is not a Set"),
        ({"tags": ["a", 1]}, "policy_argument: arguments.tags[1] is not a String"),
        ({"count": 1.0}, "policy_argument: arguments.count is not a Long"),
        ({"count": True}, "policy_argument: arguments.count is not a Long"),
        ({"urgent": "yes"}, "policy_argument: arguments.urgent is not a Bool"),
        ({"on": "tomorrow"}, "policy_argument: arguments.on is not a datetime"),
    ],
)
def test_a_declared_argument_is_of_its_type_or_denied(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    condition = """
    context.arguments.amount.greaterThan(decimal("0.0")) && context.arguments.to.city == "Ulm" &&
    !(context.arguments has tags && context.arguments.tags.contains("x")) &&
    !(context.arguments has count && context.arguments.count > 9) &&
    !(context.arguments has urgent && !context.arguments.urgent) &&
    !(context.arguments has on && context.arguments.on > datetime("2027-01-01"))
    """
    assert decides(tmp_path, condition, {**GOOD, **changes}, SCHEMA).startswith(found)


def test_what_is_nested_without_end_is_denied(tmp_path: Path) -> None:
    value: Any = "deep"
    for depth in range(limits.POLICY_ARGUMENT_DEPTH_MAX + 100):
        value = [value] if depth % 2 else {"a": value}
    assert decides(tmp_path, 'context.arguments.v == "a"', {"v": value}).endswith("is nested more than 32 deep")


def test_a_question_is_no_larger_than_its_bound(tmp_path: Path) -> None:
    text = "x" * (limits.POLICY_CONTEXT_BYTES_MAX + 1)
    assert decides(tmp_path, 'context.arguments.v != "a"', {"v": text}).endswith("is more than 262144 bytes")
    assert decides(tmp_path, 'context.arguments.v != "a"', {"v": "a b", "other": text}) == "allow"


def test_names_of_sums_are_data_as_well(tmp_path: Path) -> None:
    policy = loaded(
        tmp_path, "permit(principal, action, resource) when { context.history.sum == context.history.sum };"
    )
    sums = {"payments/refund": {"__entity": 5}}
    assert policy.rule(call()).outcome == "allow"
    ruling = policy.rule(call(history=History(sums=sums)))
    assert ruling.errors == ("policy_argument: history.sum has a name that begins with __: __entity",)
