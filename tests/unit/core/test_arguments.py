"""One form for arguments that read alike, another for all others, and none for what tools read in different ways."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.arguments import ArgumentsError, canonical_arguments, read_arguments
from stateline.core.limits import ARGUMENT_DEPTH_MAX

TEXTS = st.text(max_size=6) | st.text(alphabet='"\\/\n\x7f\u2028é\u0301e😀', max_size=6)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def canonical(value: object, **options: Any) -> bytes | str:
    """The form, or the code."""
    try:
        return canonical_arguments(json.dumps(value, **options))
    except ArgumentsError as error:
        return error.code


def exact(value: Any) -> object:
    """What the strictest of readers tells apart."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return ("object", tuple(sorted((name, exact(inner)) for name, inner in table.items())))
    if isinstance(value, list):
        return ("list", tuple(exact(each) for each in cast("list[Any]", value)))
    if isinstance(value, Decimal):
        return ("number", value.is_signed(), value)
    return (type(value).__name__, value)


@given(OBJECTS)
def test_white_space_escapes_and_order_are_no_difference(value: dict[str, Any]) -> None:
    form = canonical(value)
    turned = dict(reversed(value.items()))
    assert canonical(turned, indent=3, ensure_ascii=True) == form
    assert canonical(turned, ensure_ascii=False, separators=(" ,\r\n", "\t: ")) == form


@given(OBJECTS, OBJECTS)
def test_equal_bytes_are_equal_arguments_and_no_others(left: dict[str, Any], right: dict[str, Any]) -> None:
    forms = canonical(left), canonical(right)
    if all(isinstance(each, bytes) for each in forms):
        read = [exact(json.loads(json.dumps(each), parse_float=Decimal)) for each in (left, right)]
        assert (forms[0] == forms[1]) == (read[0] == read[1])


@given(OBJECTS)
def test_a_form_is_json_with_the_same_values_and_its_own_form(value: dict[str, Any]) -> None:
    form = canonical(value)
    if isinstance(form, bytes):
        assert json.loads(form) == value
        assert canonical_arguments(form.decode()) == form
        assert read_arguments(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("alike", "other"),
    [
        (["1.0", "1.00", "1e0", "1E+0", "10e-1", "0.1e1", "100.0e-0002", f"1e{'0' * 5000}"], "1"),
        (["1.5", "15e-1", "0.00015E4"], "1.50000000000000000001"),
        (["0.0", "0e5", "0.000e-99999999999999"], "-0.0"),
        (["0"], "-0"),
        (["9007199254740993"], "9007199254740992"),
        (["123e2", "12300.0"], "12300"),
        (["-2.5", "-25e-1"], "2.5"),
        (['"a"', '"\\u0061"'], '"A"'),
        (['"\\u00e9"', '"é"'], '"e\u0301"'),
        (['"\\ud83d\\ude00"', '"😀"'], '"😁"'),
        (['"\\/"', '"/"'], '"\\\\/"'),
        (["null"], "false"),
        (["[]", "[ ]"], "{}"),
        (["true"], "1"),
        (['{"a":1,"b":[]}', '{"b":[],"a":1}'], '{"a":1}'),
        (["[1,2]"], "[2,1]"),
        (['"1"'], "1"),
        (['"1e0"'], "1e0"),
    ],
)
def test_forms_that_read_alike(alike: list[str], other: str) -> None:
    forms = {canonical_arguments(f'{{"v":{each}}}') for each in alike}
    assert len(forms) == 1
    assert canonical_arguments(f'{{"v":{other}}}') not in forms


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "arguments_invalid"),
        ("[]", "arguments_invalid"),
        ("1", "arguments_invalid"),
        ('{"a":1,}', "arguments_invalid"),
        ('{"a":01}', "arguments_invalid"),
        ("{'a':1}", "arguments_invalid"),
        ('{"a":"\n"}', "arguments_invalid"),
        ('{"a":1} {}', "arguments_invalid"),
        ('{"a":"\\ud800"}', "arguments_invalid"),
        ('{"\\udc00":1}', "arguments_invalid"),
        ('\ufeff{"a":1}', "arguments_invalid"),
        ('{"a":NaN}', "arguments_number"),
        ('{"a":-Infinity}', "arguments_number"),
        ('{"a":1e400}', "arguments_number"),
        ('{"a":-1e400}', "arguments_number"),
        ('{"a":1e-400}', "arguments_number"),
        ('{"a":1,"a":1}', "arguments_ambiguous"),
        ('{"b":[{"a":1,"\\u0061":2}]}', "arguments_ambiguous"),
        ('{"\u00e9":1,"e\u0301":1}', "arguments_ambiguous"),
    ],
)
def test_what_tools_would_read_in_different_ways_is_refused(text: str, code: str) -> None:
    for read in (canonical_arguments, read_arguments):
        with pytest.raises(ArgumentsError) as caught:
            read(text)
        assert caught.value.code == code


def test_nesting_has_its_bound() -> None:
    deep = ARGUMENT_DEPTH_MAX - 2
    canonical_arguments('{"a":' + "[" * deep + "1" + "]" * deep + "}")
    for levels in (deep + 1, 100_000):
        with pytest.raises(ArgumentsError, match="nested more than"):
            canonical_arguments('{"a":' + "[" * levels + "1" + "]" * levels + "}")


def test_a_whole_number_of_any_length_has_a_form_and_is_not_read() -> None:
    text = '{"a":' + "9" * 5_000 + "}"
    assert canonical_arguments(text) == text.encode()
    with pytest.raises(ArgumentsError) as caught:
        read_arguments(text)
    assert caught.value.code == "arguments_number"
