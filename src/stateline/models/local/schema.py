"""The part of JSON Schema that tool arguments use, checked and gently repaired.

A small model writes ``"5"`` where a tool wants ``5``. ``conform`` makes such a repair where the
schema leaves one reading only, and reports everything else. Keywords that it does not know are not
enforced: a call is never refused for a word we cannot read. ``pattern`` and ``format`` are among
them on purpose, because a pattern comes from outside and may take a regular expression engine
forever. References are followed inside the schema alone; nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Any, cast

from stateline.core.limits import LOCAL_JSON_DEPTH_MAX, LOCAL_SCHEMA_STEPS_MAX
from stateline.models.local.lenient import NotJson, read_value

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_Bounds = dict[str, Callable[[float, float], bool]]
_NUMBER_BOUNDS: _Bounds = {"minimum": lt, "maximum": gt, "exclusiveMinimum": le, "exclusiveMaximum": ge}
_TEXT_BOUNDS: _Bounds = {"minLength": lt, "maxLength": gt}
_ARRAY_BOUNDS: _Bounds = {"minItems": lt, "maxItems": gt}
_OBJECT_BOUNDS: _Bounds = {"minProperties": lt, "maxProperties": gt}
_WORDS = {"true": True, "false": False}


def conform(schema: Mapping[str, Any] | None, value: Any) -> tuple[Any, list[str]]:
    """``value`` with harmless repairs, and what still does not fit (empty: it is valid).

    A problem is one line: a JSON pointer into the value and what is wrong there.
    """
    if schema is None:
        return value, []
    return _Checker(schema).walk(schema, value, "", 0)


def rebase(schema: Any, pointer: str) -> Any:
    """A copy of ``schema`` whose local references hold after it is put at ``pointer``."""
    if isinstance(schema, dict):
        out: dict[str, Any] = {}
        for key, inner in cast("dict[str, Any]", schema).items():
            if key == "$ref" and isinstance(inner, str) and inner.startswith("#"):
                out[key] = "#" + pointer + inner[1:]
            else:
                out[key] = rebase(inner, pointer)
        return out
    if isinstance(schema, list):
        return [rebase(inner, pointer) for inner in cast("list[Any]", schema)]
    return schema


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def _same(a: Any, b: Any) -> bool:
    """JSON equality: 1 equals 1.0, and true does not equal 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _repaired(value: Any, kinds: Sequence[str]) -> Any:
    """``value`` as one of ``kinds``, where that loses nothing; else unchanged."""
    if isinstance(value, str):
        if "boolean" in kinds and value.lower() in _WORDS:
            return _WORDS[value.lower()]
        if any(kind in kinds for kind in ("integer", "number", "object", "array")):
            try:
                inner, end = read_value(value)
            except NotJson:
                return value
            if not value[end:].strip() and any(_is(inner, kind) for kind in kinds):
                return inner
        return value
    if "string" in kinds and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if "array" in kinds and isinstance(value, int | float | dict):
        return [value]
    return value


class _Checker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.steps = 0

    def walk(self, schema: Any, value: Any, at: str, depth: int) -> tuple[Any, list[str]]:
        self.steps += 1
        if depth > LOCAL_JSON_DEPTH_MAX or self.steps > LOCAL_SCHEMA_STEPS_MAX:
            return value, [f"{at or '/'}: the schema nests too deep to check"]
        if isinstance(schema, bool):
            return value, [] if schema else [f"{at or '/'}: not allowed"]
        if not isinstance(schema, Mapping):
            return value, []
        rules = cast("Mapping[str, Any]", schema)
        problems: list[str] = []
        if isinstance(ref := rules.get("$ref"), str):
            value, problems = self.walk(self._resolve(ref), value, at, depth + 1)
        value = self._typed(rules, value, at, problems)
        value = self._combined(rules, value, at, depth, problems)
        self._valued(rules, value, at, problems)
        if isinstance(value, dict):
            value = self._members(rules, cast("dict[str, Any]", value), at, depth, problems)
        elif isinstance(value, list):
            value = self._elements(rules, cast("list[Any]", value), at, depth, problems)
        return value, problems

    def _resolve(self, ref: str) -> Any:
        """What a local reference names; an empty schema for any other."""
        node: Any = self.root
        if not ref.startswith("#"):
            return {}
        for token in ref[1:].split("/")[1:]:
            key = token.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict):
                node = cast("dict[str, Any]", node).get(key, {})
            elif isinstance(node, list) and key.isdecimal() and len(key) < 9:
                branch = cast("list[Any]", node)
                node = branch[int(key)] if int(key) < len(branch) else {}
            else:
                return {}
        return node

    def _typed(self, rules: Mapping[str, Any], value: Any, at: str, problems: list[str]) -> Any:
        wanted = rules.get("type")
        kinds = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(kinds, list) or not kinds:
            return value
        names = [str(kind) for kind in cast("list[Any]", kinds)]
        if any(_is(value, kind) for kind in names):
            if isinstance(value, float) and "number" not in names:
                return int(value)
            return value
        better = _repaired(value, names)
        if not any(_is(better, kind) for kind in names):
            problems.append(f"{at or '/'}: not of type {' or '.join(names)}")
            return value
        return better

    def _combined(self, rules: Mapping[str, Any], value: Any, at: str, depth: int, problems: list[str]) -> Any:
        for branch in _list(rules.get("allOf")):
            value, found = self.walk(branch, value, at, depth + 1)
            problems += found
        for word in ("anyOf", "oneOf"):
            # Of a oneOf, the first branch that fits is taken: two that fit are the tool's matter.
            if branches := _list(rules.get(word)):
                tried = [self.walk(branch, value, at, depth + 1) for branch in branches]
                fits = [inner for inner, found in tried if not found]
                if not fits:
                    problems.append(f"{at or '/'}: fits no branch of {word}")
                elif not any(_same(inner, value) for inner in fits):
                    value = fits[0]
        if "not" in rules and not self.walk(rules["not"], value, at, depth + 1)[1]:
            problems.append(f"{at or '/'}: is what must not be")
        return value

    def _valued(self, rules: Mapping[str, Any], value: Any, at: str, problems: list[str]) -> None:
        options = _list(rules.get("enum"))
        if options and not any(_same(value, option) for option in options):
            problems.append(f"{at or '/'}: not one of {options}")
        if "const" in rules and not _same(value, rules["const"]):
            problems.append(f"{at or '/'}: not {rules['const']!r}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            problems += _bounds(rules, _NUMBER_BOUNDS, value, at)
        if isinstance(value, str):
            problems += _bounds(rules, _TEXT_BOUNDS, len(value), at)

    def _members(
        self,
        rules: Mapping[str, Any],
        value: dict[str, Any],
        at: str,
        depth: int,
        problems: list[str],
    ) -> dict[str, Any]:
        properties = cast("dict[str, Any]", known) if isinstance(known := rules.get("properties"), dict) else {}
        others = rules.get("additionalProperties", True)
        patterned = "patternProperties" in rules
        out: dict[str, Any] = {}
        for key, inner in value.items():
            if key in properties:
                rule: Any = properties[key]
            elif patterned:
                rule = True
            elif others is False:
                problems.append(f"{at}/{key}: not a known property")
                rule = True
            else:
                rule = others
            out[key], found = self.walk(rule, inner, f"{at}/{key}", depth + 1)
            problems += found
        problems += [
            f"{at}/{key}: missing" for key in _list(rules.get("required")) if isinstance(key, str) and key not in value
        ]
        problems += _bounds(rules, _OBJECT_BOUNDS, len(value), at)
        return out

    def _elements(
        self,
        rules: Mapping[str, Any],
        value: list[Any],
        at: str,
        depth: int,
        problems: list[str],
    ) -> list[Any]:
        first = _list(rules.get("prefixItems"))
        rest = rules.get("items", True)
        out: list[Any] = []
        for index, inner in enumerate(value):
            rule = first[index] if index < len(first) else rest
            fixed, found = self.walk(rule, inner, f"{at}/{index}", depth + 1)
            out.append(fixed)
            problems += found
        problems += _bounds(rules, _ARRAY_BOUNDS, len(value), at)
        if rules.get("uniqueItems") is True and any(_same(a, b) for index, a in enumerate(out) for b in out[:index]):
            problems.append(f"{at or '/'}: elements repeat")
        return out


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _bounds(rules: Mapping[str, Any], bounds: _Bounds, measure: float, at: str) -> list[str]:
    """The bounds in ``rules`` that ``measure`` breaks."""
    out: list[str] = []
    for word, broken in bounds.items():
        bound = rules.get(word)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and broken(measure, bound):
            out.append(f"{at or '/'}: breaks {word} {bound}")
    return out
