"""JSON as small models write it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.limits import LOCAL_JSON_DEPTH_MAX
from stateline.models.local.lenient import NotJson, read_value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_strict_json_reads_as_itself(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read_value(text) == (value, len(text))


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4), st.data())
def test_a_cut_object_reads_as_its_beginning_and_never_raises_anything_else(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = data.draw(st.integers(1, len(text) - 1))
    try:
        read, end = read_value(text[:cut])
    except NotJson:
        return
    assert isinstance(read, dict)
    assert end <= cut


@given(st.text(max_size=200))
def test_any_text_gives_a_value_or_not_json(text: str) -> None:
    try:
        _, end = read_value(text)
    except NotJson:
        return
    assert 0 < end <= len(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 'it\"s', 'b': True}", {"a": 'it"s', "b": True}),
        ("{a: 1, b-c: null,}", {"a": 1, "b-c": None}),
        ("[1, 2,, 3,]", [1, 2, 3]),
        ('{"a": "line\nline"}', {"a": "line\nline"}),
        ('{"a": [1, {"b": 2', {"a": [1, {"b": 2}]}),
        ('{"a": "cut he', {"a": "cut he"}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, "b":', {"a": 1}),
        ('{"a": None, // why not\n "b": False /* no */}', {"a": None, "b": False}),
        ('"\\u00e9\\ud83d\\ude00"', "é😀"),
        ('"\\ud83d"', "\ufffd"),
        ("-1.5e3", -1500.0),
    ],
)
def test_what_models_write_is_understood(text: str, value: Any) -> None:
    assert read_value(text)[0] == value


@pytest.mark.parametrize(
    "text", ["", "  ", "hello", "12 monkeys".replace(" ", ""), "{1}", '{"a" 1}', "1e999", "9" * 5000]
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(NotJson):
        read_value(text)


def test_nesting_is_bounded() -> None:
    deepest = "[" * (LOCAL_JSON_DEPTH_MAX + 1)
    read_value(deepest)
    with pytest.raises(NotJson):
        read_value(deepest + "[")


def test_a_value_ends_where_it_ends() -> None:
    text = '{"a": 1}\n{"b": 2} and more'
    first, at = read_value(text)
    second, end = read_value(text, at)
    assert (first, second) == ({"a": 1}, {"b": 2})
    assert text[end:] == " and more"
