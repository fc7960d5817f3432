"""Verdicts: every reading of every clause in force, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Literal, NamedTuple

import cel

from stateline.contracts.facts import FIELDS, Facts, micros
from stateline.contracts.model import ClauseVerdict, Contract, Outcome, ReadingVerdict, Verdict
from stateline.contracts.predicates import Predicate
from stateline.contracts.spans import Span
from stateline.core.limits import VERDICTS_KEPT_MAX

STRICT = "strict"
_RANK: tuple[Outcome, ...] = ("deny", "contested", "unknown", "allow")
_NONE: dict[str, Any] = {}
NO_GUARD = ("", "")
"""No fact has this name, so none is another."""


class Held(NamedTuple):
    """A reading, its holders and its compiled predicate."""

    id: str
    held_by: tuple[str, ...]
    predicate: Predicate


class Gate:
    """A clause with readings, ready to be asked.

    Attributes:
        id: `contract/clause`.
        span: when it holds.
        posture: its contract's own, or None.
        exception: whether it is an exception, which denies nothing by itself.
        exceptions: the exceptions to it.
        guard: a fact and a string, such that every reading allows wherever the fact is known and another.
        allows: the verdict then.
    """

    __slots__ = ("_known", "_words", "allows", "exception", "exceptions", "guard", "id", "posture", "readings", "span")

    def __init__(
        self,
        id: str,
        span: Span,
        readings: tuple[Held, ...],
        *,
        posture: str | None,
        exception: bool,
        exceptions: tuple[Gate, ...] = (),
    ) -> None:
        self.id = id
        self.span = span
        self.readings = readings
        self.posture = posture
        self.exception = exception
        self.exceptions = exceptions
        # What a clause says is nearly always one of a few things; each is made once.
        self._words: tuple[dict[Outcome, ReadingVerdict], ...] = tuple(
            {word: ReadingVerdict(one.id, one.held_by, word) for word in _RANK} for one in readings
        )
        self._known: dict[tuple[str, ...], ClauseVerdict] = {}
        self.allows = ClauseVerdict(id, "allow", "allow", tuple(each["allow"] for each in self._words), posture)
        guards = {one.predicate.guard for one in readings}
        self.guard: tuple[str, str] = (len(guards) == 1 and guards.pop()) or NO_GUARD

    def with_exceptions(self, exceptions: tuple[Gate, ...]) -> Gate:
        """The same clause, with the exceptions to it."""
        return Gate(
            self.id, self.span, self.readings, posture=self.posture, exception=self.exception, exceptions=exceptions
        )

    def ask(self, context: cel.Context, at: int, posture: str) -> ClauseVerdict:
        """What this clause says.

        Args:
            context: the facts, for the binding.
            at: microseconds since 1970.
            posture: `strict`, or a holder; the contract's own comes first.
        """
        outcomes: list[Outcome] = [_outcome(one.predicate, context) for one in self.readings]
        freed = self._freed(context, at) if self.exceptions else None
        if freed:
            return self._verdict(
                tuple(
                    part
                    for one, outcome in zip(self.readings, outcomes, strict=True)
                    for part in _parts(one, outcome, freed)
                ),
                posture,
            )
        posture = self.posture or posture
        key = (posture, *outcomes)
        verdict = self._known.get(key)
        if verdict is None:
            words = tuple(words[outcome] for words, outcome in zip(self._words, outcomes, strict=True))
            verdict = self._verdict(words, posture)
            if len(self._known) < VERDICTS_KEPT_MAX:
                self._known[key] = verdict
        return verdict

    def _verdict(self, readings: tuple[ReadingVerdict, ...], posture: str) -> ClauseVerdict:
        outcome = _within(readings)
        resolved = _resolve(outcome, readings, self.posture or posture)
        return ClauseVerdict(self.id, outcome, resolved, readings, self.posture)

    def _freed(self, context: cel.Context, at: int) -> frozenset[str]:
        """The holders of an exception that is in force and true."""
        return frozenset(
            holder
            for gate in self.exceptions
            if gate.span.since <= at < gate.span.until
            for one in gate.readings
            if _outcome(one.predicate, context) == "deny"  # True, whatever the key was called.
            for holder in one.held_by
        )


class Contracts:
    """All contracts of one installation, checked and compiled; they never change.

    Attributes:
        contracts: as they were written, in the order of their files.
        gates: the clauses with readings, by file, then position.
        spans: `contract/clause` -> when it holds, its successors considered.
        timed: whether any predicate speaks of `at`, so that verdicts change within a day.
        places: `contract/clause` -> `file:line`, as far as known.
        determined: event -> the day on which it happened.
    """

    def __init__(
        self,
        contracts: tuple[Contract, ...],
        gates: tuple[Gate, ...],
        spans: Mapping[str, Span],
        *,
        places: Mapping[str, str],
        determined: Mapping[str, date],
    ) -> None:
        self.contracts = contracts
        self.gates = gates
        self.spans = spans
        self.places = places
        self.determined = determined
        self.timed = any(one.predicate.timed for gate in gates for one in gate.readings)
        # Making a context registers CEL's whole library and costs as much as all else. A list's pop and
        # append are atomic, so two threads never hold the same one.
        self._contexts: list[cel.Context] = []

    def evaluate(self, facts: Facts, at: datetime, posture: str = STRICT, *, given: str = "") -> Verdict:
        """The verdict on one placement.

        Args:
            facts: as `check_facts` lets them pass; what is left out is unknown to the predicates.
            at: an instant with its time zone.
            posture: `strict`, or the holder whose readings resolve a contested clause.
            given: the instant as the verdict is to name it; default: RFC 3339.
        """
        instant = micros(at)
        context = self._contexts.pop() if self._contexts else cel.Context()
        for root in FIELDS:
            context.add_variable(root, facts.get(root, _NONE))
        context.add_variable("at", at)
        flat = {f"{root}.{field}": value for root, fields in facts.items() for field, value in fields.items()}
        found: list[ClauseVerdict] = []
        for gate in self.gates:
            if gate.span.since <= instant < gate.span.until:
                fact, text = gate.guard
                if gate.exception or flat.get(fact, text) != text:
                    found.append(gate.allows)
                else:
                    found.append(gate.ask(context, instant, posture))
        self._contexts.append(context)
        clauses = tuple(found)
        return Verdict(
            outcome=_across(clauses),
            resolved="deny" if any(clause.resolved == "deny" for clause in clauses) else "allow",
            posture=posture,
            at=given or at.isoformat(),
            clauses=clauses,
            reason=None if clauses else "no_clause",
        )


def evaluate(contracts: Contracts, facts: Facts, at: datetime, posture: str = STRICT) -> Verdict:
    """The verdict on one placement: see `Contracts.evaluate`."""
    return contracts.evaluate(facts, at, posture)


def _across(clauses: tuple[ClauseVerdict, ...]) -> Outcome:
    """The first present of deny, contested, unknown, allow."""
    found: set[Outcome] = {clause.outcome for clause in clauses}
    for word in _RANK[:-1]:
        if word in found:
            return word
    return "allow"


def _outcome(predicate: Predicate, context: cel.Context) -> Outcome:
    """Unknown if and only if the evaluation raises, or gives no boolean."""
    try:
        value = predicate.execute(context)
    except Exception:
        return "unknown"  # The binding raises errors of many types, and none of them may let a call pass.
    if value is True:
        return "deny"
    return "allow" if value is False else "unknown"


def _parts(one: Held, outcome: Outcome, freed: frozenset[str]) -> list[ReadingVerdict]:
    """A reading, parted where an exception frees some of its holders."""
    if outcome == "allow":
        return [ReadingVerdict(one.id, one.held_by, "allow")]
    kept = tuple(holder for holder in one.held_by if holder not in freed)
    let = tuple(holder for holder in one.held_by if holder in freed)
    parts: list[ReadingVerdict] = [ReadingVerdict(one.id, kept, outcome)] if kept else []
    return [*parts, ReadingVerdict(one.id, let, "allow")] if let else parts


def _within(readings: tuple[ReadingVerdict, ...]) -> Outcome:
    """All the same: that; otherwise any unknown: unknown; else contested."""
    found: set[Outcome] = {one.outcome for one in readings}
    if len(found) == 1:
        return found.pop()
    return "unknown" if "unknown" in found else "contested"


def _resolve(outcome: Outcome, readings: tuple[ReadingVerdict, ...], posture: str) -> Literal["allow", "deny"]:
    if outcome == "allow":
        return "allow"
    if outcome != "contested" or posture == STRICT:
        return "deny"
    held = {one.outcome for one in readings if posture in one.held_by}
    return "allow" if held == {"allow"} else "deny"
