"""Values that follow a JSON schema, drawn from a seeded source: the same seed, the same value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, cast

DEPTH_MAX = 32
"""Schemas that refer to themselves end here: optional properties are left out, arrays stay empty."""

_WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "harbor")
_FORMATS = {
    "date": "2026-04-{:02d}",
    "date-time": "2026-04-{:02d}T12:00:00Z",
    "time": "{:02d}:00:00Z",
    "email": "user{:02d}@example.com",
    "uri": "https://example.com/{:02d}",
    "uuid": "00000000-0000-4000-8000-0000000000{:02d}",
}


def value_for(schema: Mapping[str, Any], seed: int) -> Any:
    """A value that validates against ``schema``.

    Knows type, enum, const, properties, required, items, bounds of numbers, strings and arrays,
    anyOf, oneOf, allOf of objects, local ``$ref``, and the common formats; not ``pattern``.
    """
    return _Draw(schema, Random(seed)).value(schema, 0)  # noqa: S311 - test data, no secret


def _first_type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        names = [str(name) for name in cast("list[Any]", kind)]
        return next((name for name in names if name != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


class _Draw:
    def __init__(self, root: Mapping[str, Any], random: Random) -> None:
        self.root = root
        self.random = random

    def value(self, schema: Mapping[str, Any], depth: int) -> Any:
        if "$ref" in schema:
            return self.value(self.resolve(str(schema["$ref"])), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.random.choice(cast("Sequence[Any]", schema["enum"]))
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            # The last option is most often null, which is how a schema that nests ends.
            chosen = options[-1] if depth > DEPTH_MAX else self.random.choice(options)
            return self.value(chosen, depth + 1)
        if "allOf" in schema:
            merged: dict[str, Any] = {}
            for part in cast("Sequence[Mapping[str, Any]]", schema["allOf"]):
                merged |= cast("dict[str, Any]", self.value(part, depth + 1))
            return merged
        return self.plain(schema, _first_type(schema), depth)

    def resolve(self, ref: str) -> Mapping[str, Any]:
        found: Any = self.root
        for name in ref.removeprefix("#").strip("/").split("/"):
            if name:
                found = found[name.replace("~1", "/").replace("~0", "~")]
        return cast("Mapping[str, Any]", found)

    def plain(self, schema: Mapping[str, Any], kind: str, depth: int) -> Any:
        match kind:
            case "object":
                return self.fields(schema, depth)
            case "array":
                return self.elements(schema, depth)
            case "integer":
                low, high = self.bounds(schema)
                step = int(schema.get("multipleOf", 1))
                return self.random.randint(-(-low // step), high // step) * step
            case "number":
                low, high = self.bounds(schema)
                return self.random.randint(low, high)
            case "boolean":
                return self.random.random() < 0.5
            case "null":
                return None
            case _:
                return self.string(schema)

    def fields(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = cast("Mapping[str, Mapping[str, Any]]", schema.get("properties", {}))
        required = cast("Sequence[str]", schema.get("required", ()))
        names = required if depth > DEPTH_MAX else properties
        return {name: self.value(properties.get(name, {}), depth + 1) for name in names}

    def elements(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", least + 2))
        count = least if depth > DEPTH_MAX else self.random.randint(least, most)
        item = cast("Mapping[str, Any]", schema.get("items", {}))
        return [self.value(item, depth + 1) for _ in range(count)]

    def bounds(self, schema: Mapping[str, Any]) -> tuple[int, int]:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if low is None:
            low = 0 if high is None else int(high) - 100
        least = int(low) + ("exclusiveMinimum" in schema)
        most = least + 100 if high is None else int(high) - ("exclusiveMaximum" in schema)
        return least, most

    def string(self, schema: Mapping[str, Any]) -> str:
        form = _FORMATS.get(str(schema.get("format")))
        if form is not None:
            return form.format(self.random.randint(1, 23))
        text = self.random.choice(_WORDS)
        least = int(schema.get("minLength", 0))
        most = int(schema.get("maxLength", max(least, len(text))))
        while len(text) < least:
            text += self.random.choice(_WORDS)
        return text[:most]
