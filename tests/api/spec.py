"""The published schemas, as validators of what the server sent."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

from jsonschema import Draft202012Validator

OPEN_RESPONSES = "open-responses-2026-04-24.json"
OPENAI = "openai-2.3.0-subset.json"


@cache
def _document(path: Path) -> dict[str, Any]:
    return _nullable(json.loads(path.read_text()))


def _nullable(value: Any) -> Any:
    """``nullable: true``, which OpenAI's description still uses, in the words of JSON Schema."""
    if isinstance(value, list):
        return [_nullable(each) for each in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    out = {name: _nullable(each) for name, each in cast(dict[str, Any], value).items()}
    if out.pop("nullable", False) is True:
        return {"anyOf": [out, {"type": "null"}]}
    return out


@cache
def validator(folder: Path, name: str, document: str = OPEN_RESPONSES) -> Draft202012Validator:
    """The validator of ``components/schemas/NAME``."""
    spec = _document(folder / "spec" / document)
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": spec["components"]})


@cache
def event_schemas(folder: Path) -> dict[str, str]:
    """Stream event types of Open Responses, and the names of their schemas."""
    schemas = _document(folder / "spec" / OPEN_RESPONSES)["components"]["schemas"]
    return {
        schema["properties"]["type"]["enum"][0]: name
        for name, schema in schemas.items()
        if name.endswith("StreamingEvent")
    }


def problems(validator: Any, value: object) -> list[str]:
    """What is wrong with ``value``, with the places."""
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in validator.iter_errors(value)
    ]
