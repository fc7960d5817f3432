"""The common subset by our own means agrees with the binding, errors included."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stateline.contracts.direct import Masks
from stateline.contracts.facts import FIELDS
from stateline.contracts.predicates import compile_predicate
from stateline.core.limits import FACT_VALUES_KEPT_MAX

_TEXTS = st.sampled_from(["x", "y", "", "xy"])
_PARTS = st.sampled_from(["", "x", "y", "xy", "yx"])
_FACTS = st.sampled_from(["model.vendor", "model.family", "deployment.region"])
_LISTS = st.sampled_from(["product.shipped_on", "product.declined_by"])
_SIGNS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
_DAYS = ["2026-04-26T23:59:59.999999Z", "2026-04-27T00:00:00Z", "2026-04-27T00:00:00.000001Z"]
_MOMENTS = st.sampled_from([*_DAYS, "2026-02-30T00:00:00Z"])

_ATOMS = st.one_of(
    st.sampled_from(["true", "false"]),
    st.tuples(_FACTS, st.sampled_from(["==", "!="]), _TEXTS).map(lambda each: '{} {} "{}"'.format(*each)),
    st.tuples(_TEXTS, st.sampled_from(["==", "!="]), _FACTS).map(lambda each: '"{}" {} {}'.format(*each)),
    st.tuples(_FACTS, st.lists(_TEXTS, min_size=1, max_size=3)).map(
        lambda each: f"{each[0]} in [{', '.join(map(repr, each[1]))}]"
    ),
    st.tuples(_FACTS, st.sampled_from(["startsWith", "endsWith", "contains"]), _PARTS).map(
        lambda each: '{}.{}("{}")'.format(*each)
    ),
    st.tuples(_TEXTS, _LISTS).map(lambda each: '"{}" in {}'.format(*each)),
    st.tuples(_SIGNS, _MOMENTS).map(lambda each: 'at {} timestamp("{}")'.format(*each)),
    st.tuples(_MOMENTS, _SIGNS).map(lambda each: 'timestamp("{}") {} at'.format(*each)),
)
_PREDICATES = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        inner.map(lambda one: f"!({one})"),
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda each: "({}) {} ({})".format(*each)),
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda each: "{} {} {}".format(*each)),
    ),
    max_leaves=8,
)
_KNOWN = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("model.vendor", "model.family", "deployment.region"), _TEXTS),
        **dict.fromkeys(("product.shipped_on", "product.declined_by"), st.lists(_TEXTS, max_size=2)),
    },
)


def by_the_binding(text: str, known: dict[str, Any], at: datetime) -> bool | None:
    facts: dict[str, dict[str, Any]] = {root: {} for root in FIELDS}
    for name, value in known.items():
        root, field = name.split(".")
        facts[root][field] = value
    try:
        value = cel.evaluate(text, {**facts, "at": at})
    except Exception:
        return None
    return value if isinstance(value, bool) else None


@settings(max_examples=400, deadline=None)
@given(_PREDICATES, _KNOWN, st.sampled_from(_DAYS))
def test_our_own_evaluation_is_the_bindings(text: str, known: dict[str, Any], day: str) -> None:
    at = datetime.fromisoformat(day).astimezone(UTC)
    predicate = compile_predicate(text)
    assert (predicate.run is None) == ("02-30" in text)
    if predicate.run is not None:
        assert predicate.run({**known, "at": at}) is by_the_binding(text, known, at)


_TESTS = st.one_of(
    st.tuples(_FACTS, st.sampled_from(["==", "!="]), _TEXTS).map(lambda each: '{} {} "{}"'.format(*each)),
    st.tuples(_FACTS, st.lists(_TEXTS, min_size=1, max_size=2)).map(lambda each: f"!({each[0]} in {each[1]!r})"),
    st.tuples(_FACTS, st.sampled_from(["startsWith", "endsWith", "contains"]), _PARTS).map(
        lambda each: '!{}.{}("{}")'.format(*each)
    ),
)


@settings(deadline=None)
@given(st.lists(st.lists(_TESTS, min_size=1, max_size=4), min_size=1, max_size=6), _KNOWN)
def test_one_look_at_each_fact_decides_all_conjunctions(rows: list[list[str]], known: dict[str, Any]) -> None:
    predicates = [compile_predicate(" && ".join(row)) for row in rows]
    masks = Masks({one.text: one.tests for one in predicates})
    false, unknown = masks.read(known)
    for one in predicates:
        mask = masks.of[one.text]
        found = False if mask & false else None if mask & unknown else True
        assert found is by_the_binding(one.text, known, datetime(2026, 1, 1, tzinfo=UTC))


def test_what_is_kept_of_values_is_bounded() -> None:
    one = compile_predicate('deployment.region.startsWith("r1") && model.vendor == "x"')
    masks = Masks({one.text: one.tests})
    for number in range(FACT_VALUES_KEPT_MAX + 10):
        false, _ = masks.read({"deployment.region": f"r{number}", "model.vendor": "x"})
        assert (false == 0) is str(number).startswith("1")
        assert masks.values_kept <= FACT_VALUES_KEPT_MAX + 1
    assert masks.values_kept == 11


@pytest.mark.parametrize(
    "text",
    [
        "true == false",
        "!!true",
        '"a" == "a"',
        '"a" in ["a"]',
        "model.vendor == model.family",
        'model.vendor < "x"',
        "model.vendor in product.shipped_on",
        "model.vendor in [model.family]",
        '"x" in product.shipped_on.filter(c, c != "y")',
        'product.shipped_on.exists(c, c == "x")',
        "model.vendor in product.shipped_on.map(c, c)",
        "at == at",
        'at < timestamp("2026-04-27T02:00:00+02:00")',
        'at < timestamp("2026-04-27T00:00:00.5Z")',
        "at < timestamp(model.vendor)",
        'at < timestamp("2026-" + "04-27T00:00:00Z")',
        'timestamp("2026-04-27T00:00:00Z") < timestamp("2026-04-28T00:00:00Z")',
        "true && model.vendor == model.family",
        "model.vendor == model.family && true",
        "model.vendor == model.family || true",
        "true ? true : false",
        'model.vendor[0] == "x"',
        "1 == 1",
    ],
)
def test_whatever_else_is_the_bindings(text: str) -> None:
    assert compile_predicate(text).run is None


def test_the_facts_of_a_predicate_are_named() -> None:
    text = 'model.vendor == "x" && at > timestamp("2026-01-01T00:00:00Z") && "a" in product.shipped_on'
    assert compile_predicate(text).facts == ("model.vendor", "at", "product.shipped_on")
