"""A verdict's whole trace in words: from facts to clause to reading to posture."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal

import msgspec

from stateline.contracts.evaluate import STRICT, Contracts, Gate, Placement
from stateline.contracts.facts import EPOCH, Facts, micros
from stateline.contracts.model import ClauseVerdict, Outcome, ReadingVerdict, Source, Verdict
from stateline.contracts.spans import Span

_DAY_US = 24 * 3600 * 1_000_000


class Spoken(msgspec.Struct, frozen=True, kw_only=True):
    """One reading: its predicate, the facts that it looks at, and what it says of them.

    Attributes:
        facts: each fact that the predicate names; None where it is not known.
    """

    id: str
    held_by: tuple[str, ...]
    predicate: str
    facts: dict[str, Any]
    outcome: Outcome
    why: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One clause with readings.

    Attributes:
        in_force: whether it holds at the instant; if not, nothing else is asked.
        why: how its readings came to its outcome, and the outcome to what is to be done.
        exceptions: what became of the exceptions to it.
    """

    id: str
    kind: str
    text: str
    source: tuple[Source, ...]
    in_force: bool
    when: str
    readings: tuple[Spoken, ...] = ()
    exceptions: tuple[str, ...] = ()
    outcome: Outcome | None = None
    resolved: Literal["allow", "deny"] | None = None
    why: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; `verdict` is what `check` prints."""

    verdict: Verdict
    facts: Facts
    clauses: tuple[Told, ...]
    why: str


def explain(contracts: Contracts, facts: Facts, at: datetime, posture: str = STRICT, *, given: str = "") -> Explanation:
    """The verdict of `Contracts.evaluate`, and how it came about; the arguments are the same."""
    verdict = contracts.evaluate(facts, at, posture, given=given)
    said = {one.id: one for one in verdict.clauses}
    about = {
        f"{contract.contract}/{clause.id}": clause for contract in contracts.contracts for clause in contract.clauses
    }
    placement = contracts.placement(facts, at)
    instant = micros(at)
    told: list[Told] = []
    for gate in contracts.gates:
        clause, span, one = about[gate.id], gate.span, said.get(gate.id)
        head = Told(
            id=gate.id,
            kind=clause.kind,
            text=clause.text,
            source=clause.source,
            in_force=one is not None,
            when=_when(span, instant),
        )
        told.append(head if one is None else _told(head, gate, one, placement, posture))
    placement.done()
    return Explanation(verdict=verdict, facts=facts, clauses=tuple(told), why=_whole(verdict))


def _told(head: Told, gate: Gate, one: ClauseVerdict, placement: Placement, posture: str) -> Told:
    instant = micros(placement.known["at"])
    predicates = {held.id: held.predicate for held in gate.readings}
    freed = gate.freed(placement, instant)
    spoken: list[Spoken] = []
    for reading in one.readings:
        predicate = predicates[reading.id]
        facts = {name: placement.known.get(name) for name in predicate.facts if name != "at"}
        raw: Outcome = placement.outcome(predicate)
        spoken.append(
            Spoken(
                id=reading.id,
                held_by=reading.held_by,
                predicate=predicate.text,
                facts=facts,
                outcome=reading.outcome,
                why=_reading(gate, reading, raw, facts, freed),
            )
        )
    return msgspec.structs.replace(
        head,
        readings=tuple(spoken),
        exceptions=tuple(_excepted(other, placement, instant) for other in gate.exceptions),
        outcome=one.outcome,
        resolved=one.resolved,
        why=_clause(one, one.posture or posture),
    )


def _reading(gate: Gate, reading: ReadingVerdict, raw: Outcome, facts: dict[str, Any], freed: frozenset[str]) -> str:
    if gate.exception:
        words: dict[str, str] = {
            "deny": "true: the exception applies to its holders",
            "allow": "false: it does not apply",
        }
        return words.get(raw, "it cannot be decided, so it changes nothing")
    if raw == "unknown" and reading.outcome == "unknown":
        missing = [name for name, value in facts.items() if value is None]
        return f"not known: {', '.join(missing)}" if missing else "its evaluation fails, or gives no boolean"
    if reading.outcome == "allow" and raw != "allow" and freed.issuperset(reading.held_by):
        return "it would not allow, but an exception of its holders applies"
    return "true: it forbids this placement" if raw == "deny" else "false: it does not forbid this placement"


def _excepted(gate: Gate, placement: Placement, instant: int) -> str:
    if not gate.span.since <= instant < gate.span.until:
        return f"{gate.id} is not in force: {_when(gate.span, instant)}"
    holders = [holder for one in gate.readings if placement.outcome(one.predicate) == "deny" for holder in one.held_by]
    return f"{gate.id} applies to {', '.join(holders)}" if holders else f"{gate.id} does not apply"


def _clause(one: ClauseVerdict, posture: str) -> str:
    if one.outcome != "contested":
        words = {
            "allow": "every reading allows",
            "deny": "every reading denies",
            "unknown": "a reading cannot be decided, and what is not known denies",
        }
        return f"{words[one.outcome]}, so {one.resolved}"
    if posture == STRICT:
        return "the readings differ, and the posture strict denies what is contested"
    held = [reading for reading in one.readings if posture in reading.held_by]
    if not held:
        return f"the readings differ, and the posture {posture} holds none of them, so deny"
    names = ", ".join(f"{reading.id} ({reading.outcome})" for reading in held)
    return f"the readings differ, and the posture {posture} takes its own: {names}, so {one.resolved}"


def _whole(verdict: Verdict) -> str:
    if not verdict.clauses:
        return "no clause with readings is in force, so allow"
    denied = [one.id for one in verdict.clauses if one.resolved == "deny"]
    if denied:
        return f"denied by {', '.join(denied)}"
    return "every clause in force resolves to allow"


def _when(span: Span, instant: int) -> str:
    if span.empty:
        return "never: it is superseded before it begins, or its event has not come"
    first, last = _day(span.since), _day(span.until)
    words = " ".join(part for part in (first and f"from {first}", last and f"until {last}") if part) or "always"
    if instant < span.since:
        return f"{words}; not begun"
    return f"{words}; ended" if instant >= span.until else words


def _day(instant: int) -> str | None:
    number = EPOCH.toordinal() + instant // _DAY_US
    return None if number in (date.min.toordinal(), date.max.toordinal()) else date.fromordinal(number).isoformat()
