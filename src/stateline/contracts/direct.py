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

from stateline.core.limits import FACT_VALUES_KEPT_MAX

Run = Callable[[Mapping[str, Any]], "bool | None"]

_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

METHODS: Mapping[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith, "endsWith": str.endswith, "contains": str.__contains__,
}  # fmt: skip


class Test(NamedTuple):
    """Whether a fact is one of some texts (or, by one of `METHODS`, like one of them), or none."""

    fact: str
    texts: frozenset[str]
    wanted: bool
    method: str = ""

    def passes(self, value: str) -> bool:
        """Whether it holds of a value of its fact."""
        if not self.method:
            return (value in self.texts) is self.wanted
        compare = METHODS[self.method]
        return any(compare(value, text) for text in self.texts) is self.wanted


class Part(NamedTuple):
    """A boolean expression: `run` is the conjunction of its tests and of the others."""

    run: Run
    tests: tuple[Test, ...]
    others: tuple[Run, ...]


def _part(tests: tuple[Test, ...], others: tuple[Run, ...]) -> Part:
    def run(known: Mapping[str, Any]) -> bool | None:
        value: bool | None = True
        for test in tests:
            text = known.get(test.fact)
            if text is None:  # Facts are never None, so this is one that is not known.
                value = None
            elif not test.passes(text):
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


def like(fact: str, method: str, text: str) -> Part:
    """`fact.startsWith("text")`, and the others of `METHODS`."""
    return _part((Test(fact, frozenset((text,)), True, method),), ())


def ordered(sign: str, moment: datetime) -> Part:
    """`at < timestamp("…")`, and the other comparisons."""
    compare = _ORDERS[sign]
    return _part((), (lambda known: compare(known["at"], moment),))


def negated(inner: Part) -> Part:
    """`!inner`."""
    if len(inner.tests) == 1 and not inner.others:
        test = inner.tests[0]
        return _part((test._replace(wanted=not test.wanted),), ())

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
        # fact -> the bits of all its tests, those tests, and of each value that was seen the bits of those that fail.
        self._facts: list[tuple[str, int, dict[Test, int], dict[str, int]]] = []
        for fact in dict.fromkeys(test.fact for test in self._bits):
            named = {test: bit for test, bit in self._bits.items() if test.fact == fact}
            self._facts.append((fact, sum(named.values()), named, {}))

    def read(self, known: Mapping[str, Any]) -> tuple[int, int]:
        """The bits of the tests that fail, and of those whose fact is not known."""
        false = unknown = 0
        for fact, every, named, seen in self._facts:
            value = known.get(fact)
            if value is None:
                unknown |= every
                continue
            failing = seen.get(value)
            if failing is None:
                failing = sum(bit for test, bit in named.items() if not test.passes(value))
                if len(seen) >= FACT_VALUES_KEPT_MAX:
                    seen.clear()
                seen[value] = failing
            false |= failing
        return false, unknown

    @property
    def values_kept(self) -> int:
        """Of how many values of facts it is kept what the tests say of them."""
        return sum(len(seen) for _, _, _, seen in self._facts)
