"""Verdicts: every reading of every clause in force, and what they come to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, NamedTuple

import cel

from stateline.contracts.direct import Masks
from stateline.contracts.facts import FIELDS, Facts, micros
from stateline.contracts.model import ClauseVerdict, Contract, Outcome, ReadingVerdict, Verdict
from stateline.contracts.predicates import Predicate
from stateline.contracts.spans import Span
from stateline.core.limits import VERDICTS_KEPT_MAX

STRICT = "strict"
_RANK: tuple[Outcome, ...] = ("deny", "contested", "unknown", "allow")
_NONE: dict[str, Any] = {}
_FOREVER = 1 << 62
NO_GUARD = ("", "")
"""No fact has this name, so none is another."""


class Held(NamedTuple):
    """A reading, its holders and its compiled predicate."""

    id: str
    held_by: tuple[str, ...]
    predicate: Predicate


class Placement:
    """One placement's facts, and what each predicate says of them, asked once.

    Attributes:
        known: `root.field` -> its value, and `at`.
        memo: the text of a predicate -> what it came to.
        shapes: the texts of a clause's predicates -> what they came to; many clauses read alike.
    """

    __slots__ = ("_contexts", "_false", "_held", "_masks", "_unknown", "facts", "known", "memo", "shapes")

    def __init__(self, facts: Facts, at: datetime, contexts: list[cel.Context], masks: Masks) -> None:
        self.facts = facts
        self.known: dict[str, Any] = {
            f"{root}.{field}": value for root, fields in facts.items() for field, value in fields.items()
        }
        self.known["at"] = at
        self.memo: dict[str, Outcome] = {}
        self.shapes: dict[str, tuple[Outcome, ...]] = {}
        self._contexts = contexts
        self._masks = masks.of
        self._false, self._unknown = masks.read(self.known)
        self._held: cel.Context | None = None

    def masked(self, masks: tuple[int, ...]) -> tuple[Outcome, ...]:
        """What predicates come to that are conjunctions of tests: any that fails decides, then any not known."""
        false, unknown = self._false, self._unknown
        found: list[Outcome] = ["allow" if mask & false else "unknown" if mask & unknown else "deny" for mask in masks]
        return tuple(found)

    def outcome(self, predicate: Predicate) -> Outcome:
        """Unknown if and only if the evaluation raises, or gives no boolean."""
        mask = self._masks.get(predicate.text)
        if mask is not None:
            return self.masked((mask,))[0]
        if predicate.run is not None:
            value: object = predicate.run(self.known)
        else:
            try:
                value = predicate.execute(self._context())
            except Exception:
                value = None  # The binding raises errors of many types, and none of them may let a call pass.
        outcome: Outcome = "deny" if value is True else "allow" if value is False else "unknown"
        self.memo[predicate.text] = outcome
        return outcome

    def _context(self) -> cel.Context:
        """The facts for the binding, made where one is needed at all."""
        if self._held is None:
            self._held = self._contexts.pop() if self._contexts else cel.Context()
            for root in FIELDS:
                self._held.add_variable(root, self.facts.get(root, _NONE))
            self._held.add_variable("at", self.known["at"])
        return self._held

    def done(self) -> None:
        """Give the context back."""
        if self._held is not None:
            self._contexts.append(self._held)


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
        masks: the bits of its predicates, where all are conjunctions of tests (`direct.Masks`).
    """

    __slots__ = (
        "_asked",
        "_known",
        "_texts",
        "_words",
        "allows",
        "exception",
        "exceptions",
        "guard",
        "id",
        "masks",
        "posture",
        "readings",
        "span",
    )

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
        self._texts = "\0".join(one.predicate.text for one in readings)
        self.masks: tuple[int, ...] = ()
        self._asked = tuple((one.predicate.text, one.predicate) for one in readings)
        # What a clause says is nearly always one of a few things; each is made once.
        self._words: tuple[dict[Outcome, ReadingVerdict], ...] = tuple(
            {word: ReadingVerdict(one.id, one.held_by, word) for word in _RANK} for one in readings
        )
        self._known: dict[tuple[str, tuple[Outcome, ...]], ClauseVerdict] = {}
        self.allows = ClauseVerdict(id, "allow", "allow", tuple(each["allow"] for each in self._words), posture)
        guards = {one.predicate.guard for one in readings}
        self.guard: tuple[str, str] = (len(guards) == 1 and guards.pop()) or NO_GUARD

    def with_exceptions(self, exceptions: tuple[Gate, ...]) -> Gate:
        """The same clause, with the exceptions to it."""
        return Gate(
            self.id, self.span, self.readings, posture=self.posture, exception=self.exception, exceptions=exceptions
        )

    def ask(self, placement: Placement, at: int, posture: str) -> ClauseVerdict:
        """What this clause says.

        Args:
            placement: the facts.
            at: microseconds since 1970.
            posture: `strict`, or a holder; the contract's own comes first.
        """
        outcomes = placement.masked(self.masks) if self.masks else self._outcomes(placement)
        freed = self.freed(placement, at) if self.exceptions else None
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
        key = (posture, outcomes)
        verdict = self._known.get(key)
        if verdict is None:
            words = tuple(words[outcome] for words, outcome in zip(self._words, outcomes, strict=True))
            verdict = self._verdict(words, posture)
            if len(self._known) < VERDICTS_KEPT_MAX:
                self._known[key] = verdict
        return verdict

    def _outcomes(self, placement: Placement) -> tuple[Outcome, ...]:
        """What each reading says, exceptions aside; noted, since many clauses read alike."""
        outcomes = placement.shapes.get(self._texts)
        if outcomes is not None:
            return outcomes
        memo = placement.memo
        found: list[Outcome] = [memo.get(text) or placement.outcome(predicate) for text, predicate in self._asked]
        outcomes = tuple(found)
        placement.shapes[self._texts] = outcomes
        return outcomes

    def _verdict(self, readings: tuple[ReadingVerdict, ...], posture: str) -> ClauseVerdict:
        outcome = _within(readings)
        resolved = _resolve(outcome, readings, self.posture or posture)
        return ClauseVerdict(self.id, outcome, resolved, readings, self.posture)

    def freed(self, placement: Placement, at: int) -> frozenset[str]:
        """The holders of an exception that is in force and true."""
        return frozenset(
            holder
            for gate in self.exceptions
            if gate.span.since <= at < gate.span.until
            for one in gate.readings
            if placement.outcome(one.predicate) == "deny"  # True, whatever the key was called.
            for holder in one.held_by
        )


class _Window:
    """The gates that hold together, found by what they are about.

    Attributes:
        allows: their verdicts where all of them allow, by file, then position.
    """

    __slots__ = ("_always", "_guarded", "allows")

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.allows = [gate.allows for gate in gates]
        self._always: list[tuple[int, Gate]] = []
        self._guarded: dict[str, dict[str, list[tuple[int, Gate]]]] = {}
        for index, gate in enumerate(gates):
            if gate.exception:
                continue
            fact, text = gate.guard
            if gate.guard is NO_GUARD:
                self._always.append((index, gate))
            else:
                self._guarded.setdefault(fact, {}).setdefault(text, []).append((index, gate))

    def asked(self, known: Mapping[str, Any]) -> list[tuple[int, Gate]]:
        """Those that may not allow, with their positions."""
        found = self._always.copy()
        for fact, texts in self._guarded.items():
            value = known.get(fact)
            if value is None:
                for gates in texts.values():
                    found += gates
            else:
                found += texts.get(value, ())
        return found


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
        predicates = {one.predicate.text: one.predicate.tests for gate in gates for one in gate.readings}
        self._masks = Masks({text: tests for text, tests in predicates.items() if tests})
        for gate in gates:
            masks = tuple(self._masks.of.get(one.predicate.text, 0) for one in gate.readings)
            gate.masks = masks if all(masks) else ()
        self._days = sorted({day for gate in gates for day in gate.span})
        self._windows: list[_Window | None] = [None] * (len(self._days) + 1)

    def evaluate(self, facts: Facts, at: datetime, posture: str = STRICT, *, given: str = "") -> Verdict:
        """The verdict on one placement.

        Args:
            facts: as `check_facts` lets them pass; what is left out is unknown to the predicates.
            at: an instant with its time zone.
            posture: `strict`, or the holder whose readings resolve a contested clause.
            given: the instant as the verdict is to name it; default: RFC 3339.
        """
        instant = micros(at)
        placement = self.placement(facts, at)
        window = self._window(instant)
        clauses = window.allows.copy()
        outcomes: set[Outcome] = {"allow"}
        resolved: Literal["allow", "deny"] = "allow"
        for index, gate in window.asked(placement.known):
            verdict = gate.ask(placement, instant, posture)
            clauses[index] = verdict
            outcomes.add(verdict.outcome)
            if verdict.resolved == "deny":
                resolved = "deny"
        placement.done()
        return Verdict(
            outcome=next(word for word in _RANK if word in outcomes),
            resolved=resolved,
            posture=posture,
            at=given or at.isoformat(),
            clauses=tuple(clauses),
            reason=None if clauses else "no_clause",
        )

    def same_as(self, other: Contracts) -> bool:
        """Whether both say the same, wherever it is written."""
        return self.contracts == other.contracts and self.determined == other.determined

    def placement(self, facts: Facts, at: datetime) -> Placement:
        """A placement to ask predicates of; `done` gives back what it took."""
        return Placement(facts, at, self._contexts, self._masks)

    def steady(self, instant: int) -> tuple[int, int]:
        """From when until when (exclusive) the same clauses are in force as at ``instant``; microseconds since 1970."""
        number = bisect_right(self._days, instant)
        since = self._days[number - 1] if number else -_FOREVER
        return since, self._days[number] if number < len(self._days) else _FOREVER

    def _window(self, instant: int) -> _Window:
        """The clauses between two days on which something begins or ends; made when first asked for."""
        number = bisect_right(self._days, instant)
        window = self._windows[number]
        if window is None:
            window = _Window([gate for gate in self.gates if gate.span.since <= instant < gate.span.until])
            self._windows[number] = window
        return window


def evaluate(contracts: Contracts, facts: Facts, at: datetime, posture: str = STRICT) -> Verdict:
    """The verdict on one placement: see `Contracts.evaluate`."""
    return contracts.evaluate(facts, at, posture)


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
