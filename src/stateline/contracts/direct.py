"""The common subset of CEL by our own means: what most clauses say costs a tenth of a call of the binding.

Each part is a function from the known facts (`model.vendor` -> its value, and `at`) to True, False, or None where
CEL's evaluation raises. `&&` is false where either side is, and `||` true, whatever becomes of the other side
(CEL, "Logical Operators"); a property in the tests holds all of it against the binding.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Run = Callable[[Mapping[str, Any]], "bool | None"]

_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def constant(value: bool) -> Run:
    """`true` or `false`."""
    return lambda known: value


def equals(fact: str, text: str) -> Run:
    """`fact == "text"`. Facts are never None, so None stands for one that is not known."""

    def run(known: Mapping[str, Any]) -> bool | None:
        value = known.get(fact)
        return None if value is None else value == text

    return run


def among(fact: str, texts: frozenset[str]) -> Run:
    """`fact in ["text", …]`."""

    def run(known: Mapping[str, Any]) -> bool | None:
        value = known.get(fact)
        return None if value is None else value in texts

    return run


def holds(fact: str, text: str) -> Run:
    """`"text" in fact`, of a fact that is a list."""

    def run(known: Mapping[str, Any]) -> bool | None:
        value = known.get(fact)
        return None if value is None else text in value

    return run


def ordered(sign: str, moment: datetime) -> Run:
    """`at < timestamp("…")`, and the other comparisons."""
    compare = _ORDERS[sign]
    return lambda known: compare(known["at"], moment)


def negated(inner: Run) -> Run:
    """`!inner`."""

    def run(known: Mapping[str, Any]) -> bool | None:
        value = inner(known)
        return None if value is None else not value

    return run


def both(left: Run | None, right: Run | None) -> Run | None:
    """`left && right`, where both are of the subset."""
    if left is None or right is None:
        return None

    def run(known: Mapping[str, Any]) -> bool | None:
        value = left(known)
        if value is False:
            return False
        other = right(known)
        return other if value is True or other is False else None

    return run


def either(left: Run | None, right: Run | None) -> Run | None:
    """`left || right`, where both are of the subset."""
    if left is None or right is None:
        return None

    def run(known: Mapping[str, Any]) -> bool | None:
        value = left(known)
        if value is True:
            return True
        other = right(known)
        return other if value is False or other is True else None

    return run
