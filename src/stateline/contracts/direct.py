"""The common subset of CEL by our own means: what most clauses say costs a tenth of a call of the binding.

Each part runs on the known facts (`model.vendor` -> its value, and `at`) and gives True, False, or None where
CEL's evaluation raises. `&&` is false where either side is, and `||` true, whatever becomes of the other side
(CEL, "Logical Operators"), so the order of a conjunction does not matter: its tests of single facts are gathered
and run in one loop. A property in the tests holds all of it against the binding.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

Run = Callable[[Mapping[str, Any]], "bool | None"]

_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Test(NamedTuple):
    """Whether a fact is one of some texts, or none of them."""

    fact: str
    texts: frozenset[str]
    wanted: bool


class Part(NamedTuple):
    """A boolean expression: `run` is the conjunction of its tests and of the others."""

    run: Run
    tests: tuple[Test, ...]
    others: tuple[Run, ...]


def _part(tests: tuple[Test, ...], others: tuple[Run, ...]) -> Part:
    def run(known: Mapping[str, Any]) -> bool | None:
        value: bool | None = True
        for fact, texts, wanted in tests:
            text = known.get(fact)
            if text is None:  # Facts are never None, so this is one that is not known.
                value = None
            elif (text in texts) is not wanted:
                return False
        for other in others:
            said = other(known)
            if said is False:
                return False
            if said is None:
                value = None
        return value

    return Part(others[0] if len(others) == 1 and not tests else run, tests, others)


def constant(value: bool) -> Part:
    """`true` or `false`."""
    return _part((), (lambda known: value,))


def among(fact: str, texts: frozenset[str], wanted: bool = True) -> Part:
    """`fact in ["text", …]`, or the opposite; an equality is one of a single text."""
    return _part((Test(fact, texts, wanted),), ())


def holds(fact: str, text: str) -> Part:
    """`"text" in fact`, of a fact that is a list."""

    def run(known: Mapping[str, Any]) -> bool | None:
        value = known.get(fact)
        return None if value is None else text in value

    return _part((), (run,))


def ordered(sign: str, moment: datetime) -> Part:
    """`at < timestamp("…")`, and the other comparisons."""
    compare = _ORDERS[sign]
    return _part((), (lambda known: compare(known["at"], moment),))


def negated(inner: Part) -> Part:
    """`!inner`."""
    if len(inner.tests) == 1 and not inner.others:
        fact, texts, wanted = inner.tests[0]
        return among(fact, texts, not wanted)

    def run(known: Mapping[str, Any]) -> bool | None:
        value = inner.run(known)
        return None if value is None else not value

    return _part((), (run,))


def both(left: Part | None, right: Part | None) -> Part | None:
    """`left && right`, where both are of the subset."""
    if left is None or right is None:
        return None
    return _part(left.tests + right.tests, left.others + right.others)


def either(left: Part | None, right: Part | None) -> Part | None:
    """`left || right`, where both are of the subset."""
    if left is None or right is None:
        return None

    def run(known: Mapping[str, Any]) -> bool | None:
        value = left.run(known)
        if value is True:
            return True
        other = right.run(known)
        return other if value is False or other is True else None

    return _part((), (run,))


class Masks:
    """Every distinct test of many conjunctions is a bit, so one look at each fact decides all of them.

    Attributes:
        of: the text of a predicate -> the bits of its tests.
    """

    __slots__ = ("_bits", "_facts", "of")

    def __init__(self, predicates: Mapping[str, tuple[Test, ...]]) -> None:
        """Takes the text of each predicate -> its tests."""
        self._bits: dict[Test, int] = {}
        self.of: dict[str, int] = {}
        for text, tests in predicates.items():
            mask = 0
            for test in tests:
                mask |= self._bits.setdefault(test, 1 << len(self._bits))
            self.of[text] = mask
        # fact -> the bits of all its tests; those that fail for a text that no test names; and for each that one does.
        self._facts: list[tuple[str, int, int, dict[str, int]]] = []
        for fact in dict.fromkeys(test.fact for test in self._bits):
            named = {test: bit for test, bit in self._bits.items() if test.fact == fact}
            texts = {text for test in named for text in test.texts}
            failing = {
                text: sum(bit for test, bit in named.items() if (text in test.texts) is not test.wanted)
                for text in texts
            }
            other = sum(bit for test, bit in named.items() if test.wanted)
            self._facts.append((fact, sum(named.values()), other, failing))

    def read(self, known: Mapping[str, Any]) -> tuple[int, int]:
        """The bits of the tests that fail, and of those whose fact is not known."""
        false = unknown = 0
        for fact, every, other, failing in self._facts:
            value = known.get(fact)
            if value is None:
                unknown |= every
            else:
                false |= failing.get(value, other)
        return false, unknown
