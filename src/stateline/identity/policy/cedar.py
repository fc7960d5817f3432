"""The binding, with types: the only module that imports it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import cedarpy
import msgspec
from cedarpy import Entities, PolicySet, Schema

__all__ = [
    "Answer",
    "Entities",
    "PolicySet",
    "ask",
    "entities",
    "from_json",
    "parse",
    "parse_schema",
    "to_json",
    "validate",
]

_FOR_POLICY = "for policy `policy0`, "


class Answer(NamedTuple):
    """What Cedar says to one request; ``policies`` are ids by position."""

    allowed: bool
    policies: Sequence[str]
    errors: Sequence[str]


def parse(text: str) -> PolicySet:
    """Raises ValueError where the text is no policies."""
    return PolicySet.from_str(text)


def from_json(policies: dict[str, Any]) -> PolicySet:
    """Policies out of values; raises ValueError."""
    return PolicySet.from_json_str(msgspec.json.encode(policies).decode())


def parse_schema(text: str) -> Schema:
    """Raises ValueError where the text is no schema."""
    return Schema.from_str(text)


def entities(values: list[dict[str, Any]]) -> Entities:
    """Entities, in Cedar's JSON; raises ValueError."""
    return Entities.from_json_str(msgspec.json.encode(values).decode())  # pyright: ignore[reportUnknownMemberType]


def to_json(text: str) -> dict[str, Any]:
    """Policies as values; raises ValueError, or RecursionError where they are nested too deep."""
    return cast("dict[str, Any]", json.loads(cedarpy.policies_to_json_str(text)))


def validate(policy: str, schema: Schema) -> list[str]:
    """What the validator has against one policy."""
    result = cedarpy.validate_policies(policy, schema)  # pyright: ignore[reportUnknownMemberType]
    if result.validation_passed:
        return []
    # The binding has no order of its own; a name that is unknown is why the scope fits nothing.
    return sorted((each.error.removeprefix(_FOR_POLICY) for each in result.errors), key=_order) or [
        "it does not validate"
    ]


def _order(message: str) -> tuple[bool, str]:
    return message.startswith("unable to find an applicable action"), message


def ask(requests: list[dict[str, Any]], policies: PolicySet, entities: Entities) -> list[Answer]:
    """Evaluate; ``context`` of each request is JSON text."""
    out: list[Answer] = []
    for result in cedarpy.is_authorized_batch(requests, policies, entities):  # pyright: ignore[reportUnknownMemberType]
        said = result.diagnostics
        out.append(Answer(result.allowed and not said.errors, said.reasons, said.errors))
    return out
