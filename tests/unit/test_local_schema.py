"""Checking and repairing tool arguments."""

from __future__ import annotations

from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.limits import LOCAL_JSON_DEPTH_MAX, LOCAL_SCHEMA_STEPS_MAX
from stateline.models.local.schema import conform, rebase

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 12) | st.floats(-3, 12) | st.sampled_from(["", "a", "5", "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
LEAVES = st.one_of(
    st.just(True),
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "number", "boolean", "null"])}),
    st.fixed_dictionaries({"enum": st.lists(st.sampled_from(["a", 5, None, True]), min_size=1, max_size=3)}),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(0, 3), "maximum": st.integers(3, 9)}),
    st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.integers(0, 2)}),
    st.fixed_dictionaries({"const": st.sampled_from(["a", 5, False])}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
                "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
                "additionalProperties": st.booleans(),
            }
        ),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.integers(0, 3)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
    ),
    max_leaves=5,
)


def valid(schema: Any, value: Any) -> bool:
    return next(iter(cast("Any", jsonschema.Draft202012Validator(schema)).iter_errors(value)), None) is None


@given(SCHEMAS, VALUES)
def test_what_is_accepted_is_valid_and_what_is_valid_stays_as_it_is(schema: Any, value: Any) -> None:
    """The jsonschema package is the oracle."""
    wrapped = {"type": "object", "properties": {"x": schema}}
    fixed, problems = conform(wrapped, {"x": value})
    if not problems:
        assert valid(wrapped, fixed)
    if valid(wrapped, {"x": value}):
        assert problems == []
        assert fixed == {"x": value}


@pytest.mark.parametrize(
    ("schema", "value", "fixed"),
    [
        ({"type": "integer"}, "5", 5),
        ({"type": "integer"}, 5.0, 5),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "boolean"}, "True", True),
        ({"type": "string"}, 5, "5"),
        ({"type": ["integer", "null"]}, "5", 5),
        ({"type": "array", "items": {"type": "integer"}}, 3, [3]),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a": "1"}', {"a": 1}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "7", 7),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, "7", 7),
        ({"$ref": "#/allOf/0", "allOf": [{"type": "integer"}]}, "7", 7),
    ],
)
def test_harmless_repairs(schema: Any, value: Any, fixed: Any) -> None:
    assert conform(schema, value) == (fixed, [])


@pytest.mark.parametrize(
    ("schema", "value", "where"),
    [
        ({"type": "integer"}, "five", "/: not of type integer"),
        ({"type": "integer"}, True, "/: not of type integer"),
        ({"required": ["a"]}, {}, "/a: missing"),
        ({"additionalProperties": False}, {"x": 1}, "/x: not a known property"),
        ({"properties": {"a": {"minimum": 3}}}, {"a": 2}, "/a: breaks minimum 3"),
        ({"exclusiveMaximum": 3}, 3, "/: breaks exclusiveMaximum 3"),
        ({"items": {"type": "string"}}, [None], "/0: not of type string"),
        ({"prefixItems": [{"const": 1}]}, [2], "/0: not 1"),
        ({"uniqueItems": True}, [1, 1.0], "/: elements repeat"),
        ({"not": {"type": "string"}}, "a", "/: is what must not be"),
        ({"oneOf": [{"const": 1}, {"const": 2}]}, 3, "/: fits no branch of oneOf"),
        (False, 1, "/: not allowed"),
    ],
)
def test_problems_say_where_and_what(schema: Any, value: Any, where: str) -> None:
    assert where in conform({"allOf": [schema]}, value)[1]


@pytest.mark.parametrize("ref", ["https://example.com/schema.json", "#/nowhere", "#/allOf/9", "#/allOf/x", "other"])
def test_a_reference_that_leads_nowhere_allows_anything_and_is_never_fetched(ref: str) -> None:
    assert conform({"allOf": [{"$ref": ref}]}, 1) == (1, [])


def test_a_schema_that_refers_to_itself_ends() -> None:
    assert conform({"$ref": "#"}, 1)[1]
    again = {"$ref": "#/$defs/a"}
    wide = {"$defs": {"a": {"anyOf": [again, again, again]}}, "$ref": "#/$defs/a"}
    assert conform(wide, 1)[1]
    assert LOCAL_SCHEMA_STEPS_MAX > LOCAL_JSON_DEPTH_MAX


def test_a_recursive_schema_fits_a_finite_value() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}}, "additionalProperties": False}
    assert conform(tree, {"left": {"left": {}}}) == ({"left": {"left": {}}}, [])


def test_references_hold_after_a_schema_moved() -> None:
    inner = {"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
    outer = {"properties": {"arguments": rebase(inner, "/properties/arguments")}}
    assert conform(outer, {"arguments": {"a": None}})[1] == ["/arguments/a: not of type integer"]


def test_no_schema_allows_anything() -> None:
    assert conform(None, {"a": 1}) == ({"a": 1}, [])
