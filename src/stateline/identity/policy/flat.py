"""Policies as they are evaluated: their context without its inner records.

Cedar reads a request's JSON once for each level that a value is nested in, which is a third of what an answer costs.
So ``context.arguments.amount`` is evaluated as ``context["arguments.amount"]``. It is the syntax tree that is changed,
in the two places that name an attribute; what is validated, told and digested is the text as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from stateline.identity.policy.mentions import Path, path_of

ROOTS: tuple[Path, ...] = (("history", "sum"), ("arguments",), ("history",))
"""The records whose attributes become the context's own; the innermost first."""


def joined(root: Path, name: str) -> str:
    """The context's own name for an attribute. No two have one: no root's name is another's with a name behind it."""
    return ".".join((*root, name))


def flattened(trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Policies, in their order, none of which reads one of these records as a whole, as Cedar's JSON has a set."""
    return {
        "staticPolicies": {f"policy{at}": _policy(tree) for at, tree in enumerate(trees)},
        "templates": {},
        "templateLinks": [],
    }


def _policy(tree: dict[str, Any]) -> dict[str, Any]:
    conditions = [{**each, "body": _changed(each["body"])} for each in tree["conditions"]]
    return {**tree, "conditions": conditions}


def _changed(node: Any) -> Any:
    if isinstance(node, list):
        return [_changed(each) for each in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    known = cast("dict[str, Any]", node)
    if "Value" in known:
        return known
    for kind in (".", "has"):
        path = path_of(known[kind]["left"]) if kind in known else None
        if path in ROOTS:
            return {kind: {"left": {"Var": "context"}, "attr": joined(path, known[kind]["attr"])}}
    return {name: _changed(inner) for name, inner in known.items()}
