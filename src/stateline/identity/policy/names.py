"""How entities are named. A policy that names one in another way would never speak of it, and nobody would know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

KEY = re.compile(r"key_[0-9a-z]{16}", re.ASCII)
"""The id of an API key (``identity.keys``)."""
_OF_TENANT = frozenset({"User", "Key", "Agent"})


def principal_of(tenant: str, principal: str) -> dict[str, str]:
    """The entity that a principal's id stands for: a Key where it has the form of a key's id, else a User."""
    return {"type": "Key" if KEY.fullmatch(principal) else "User", "id": f"{tenant}/{principal}"}


def misnamed(policy: object) -> Iterator[str]:
    """What is wrong with the names of a policy's entities; those of a type that there is not are the validator's."""
    for entity in _entities(policy):
        kind, name = str(entity["type"]), str(entity["id"])
        first, slash, rest = name.partition("/")
        complete = bool(first and rest)
        if kind in _OF_TENANT and not complete:
            yield f'{kind}::"{name}" is nobody: write {kind}::"TENANT/NAME"'
        elif kind == "Tool" and not complete:
            yield f'Tool::"{name}" is no tool: write Tool::"SERVER/NAME"'
        elif kind in {"Tenant", "Server"} and (slash or not name):
            yield f'{kind}::"{name}" is none: its name has no slash'
        elif kind in {"User", "Key"} and principal_of(first, rest)["type"] != kind:
            other = "a Key is named by its id, TENANT/key_…" if kind == "Key" else 'that is a key: write Key::"…"'
            yield f'{kind}::"{name}" is nobody: {other}'


def _entities(node: object) -> Iterator[dict[str, Any]]:
    """The entities of a syntax tree, in scopes and in conditions."""
    if isinstance(node, list):
        for each in cast("list[object]", node):
            yield from _entities(each)
    elif isinstance(node, dict):
        for name, inner in cast("dict[str, Any]", node).items():
            if name == "__entity" or (name in {"entity", "entities"} and _is_entity(inner)):
                yield inner
            else:
                yield from _entities(inner)


def _is_entity(node: object) -> bool:
    return isinstance(node, dict) and set(cast("dict[str, Any]", node)) == {"type", "id"}
