"""From parsed documents to contracts that can be evaluated: everything is checked here, or nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import msgspec

from stateline.contracts.amounts import check_amount, check_commitment
from stateline.contracts.errors import ContractError, PredicateError
from stateline.contracts.evaluate import Contracts, Gate, Held
from stateline.contracts.facts import nearest
from stateline.contracts.model import Clause, Contract, Determination, Reading
from stateline.contracts.predicates import Predicate, compile_predicate
from stateline.contracts.spans import Span, Terms, bounds, spans_of

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")


class Document(NamedTuple):
    """A parsed file.

    Attributes:
        file: as errors name it.
        value: what it says: dicts, lists, strings, numbers, dates.
        lines: key path, as `clauses[0].kind`, -> line, counted from 1; may be empty.
    """

    file: str
    value: object
    lines: Mapping[str, int] = {}

    def refuse(self, key: str, message: str, code: str | None = None) -> NoReturn:
        """Raise for a key; the line is that of the nearest enclosing key that has one."""
        path = key
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        raise ContractError(message, file=self.file, line=self.lines.get(path), key=key, code=code)


class _Placed(NamedTuple):
    """A clause and where it stands."""

    name: str
    clause: Clause
    contract: Contract
    document: Document
    key: str


def load(documents: Sequence[Document], determinations: Document | None = None) -> Contracts:
    """Contracts, in the order of their documents.

    Raises:
        ContractError: with the place. Nothing of the set can be used then.
    """
    contracts: list[Contract] = []
    placed: dict[str, _Placed] = {}
    files: dict[str, str] = {}
    for document in documents:
        contract = convert(document, document.value, Contract)
        _check_names(document, contract)
        if contract.contract in files:
            document.refuse("contract", f'"{contract.contract}" is the contract of {files[contract.contract]} already')
        files[contract.contract] = document.file
        contracts.append(contract)
        for index, clause in enumerate(contract.clauses):
            one = _Placed(f"{contract.contract}/{clause.id}", clause, contract, document, f"clauses[{index}]")
            if one.name in placed:
                document.refuse(f"{one.key}.id", f'"{clause.id}" is a clause of this contract already')
            _check_clause(one)
            placed[one.name] = one
    days = _determined(determinations)
    spans = _spans(placed, days)
    places = {name: f"{one.document.file}:{one.document.lines.get(one.key, 1)}" for name, one in placed.items()}
    return Contracts(tuple(contracts), _gates(placed, spans), spans, places=places, determined=days)


# -- shapes --------------------------------------------------------------------------------------


def convert(document: Document, value: object, type_: type[T]) -> T:
    """What a document says, as a type; raises ContractError with the place."""
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        key = path.removesuffix("`").lstrip(".")
        if found := _UNKNOWN_FIELD.fullmatch(what):
            name = found[1]
            known = _fields(type_, key)
            document.refuse(f"{key}.{name}".lstrip("."), f'unknown key "{name}"{nearest(name, known)}')
        what = what.replace("`object`", "a table").replace("`array`", "a list").replace("`str`", "a string")
        what = what.replace("Object missing required field", "missing key")
        document.refuse(key, what[:1].lower() + what[1:])


def _fields(type_: Any, key: str) -> list[str]:
    """The keys that the table at `key` may have."""
    at: Any = msgspec.inspect.type_info(type_)
    for name in re.findall(r"[A-Za-z_]+|\[", key):
        at = at.item_type if name == "[" else next(f.type for f in at.fields if f.encode_name == name)
        at = next((one for one in getattr(at, "types", ()) if hasattr(one, "fields")), at)
    return [field.encode_name for field in at.fields]


def _check_names(document: Document, contract: Contract) -> None:
    named = {"contract": contract.contract}
    if contract.posture is not None:
        named["posture"] = contract.posture
    for index, clause in enumerate(contract.clauses):
        named[f"clauses[{index}].id"] = clause.id
        for place, reading in enumerate(clause.readings):
            named[f"clauses[{index}].readings[{place}].id"] = reading.id
            for number, holder in enumerate(reading.held_by):
                named[f"clauses[{index}].readings[{place}].held_by[{number}]"] = holder
    for key, name in named.items():
        if not _NAME.fullmatch(name):
            document.refuse(key, f'"{name}" is no name: letters, digits, ".", "_" and "-", 128 at most')


def _check_clause(one: _Placed) -> None:
    clause, refuse = one.clause, one.document.refuse
    since, until = clause.effective.since, clause.effective.until
    if isinstance(since, date) and isinstance(until, date) and until <= since:
        refuse(f"{one.key}.effective.until", f"it ends on {until}, and begins on {since}: it would never hold")
    if clause.amount:
        _valid(one, "amount", lambda: check_amount(cast("Any", clause.amount)))
    if clause.commitment:
        if clause.kind != "commitment":
            refuse(f"{one.key}.commitment", f'a clause of kind "{clause.kind}" has no commitment')
        _valid(one, "commitment", lambda: check_commitment(cast("Any", clause.commitment)))
    seen: set[str] = set()
    for index, reading in enumerate(clause.readings):
        key = f"{one.key}.readings[{index}]"
        if reading.id in seen:
            refuse(f"{key}.id", f'"{reading.id}" is a reading of this clause already')
        seen.add(reading.id)
        if not reading.held_by or len(set(reading.held_by)) < len(reading.held_by):
            refuse(f"{key}.held_by", "a reading is held by one party at least, each named once")
        wanted, other = ("allow", "deny") if clause.exception_to else ("deny", "allow")
        if getattr(reading, wanted) is None or getattr(reading, other) is not None:
            what = "an exception's reading" if clause.exception_to else "a reading"
            refuse(key, f"{what} has the key {wanted}, and no {other}")
    if clause.exception_to and not clause.readings:
        refuse(f"{one.key}.exception_to", "an exception has readings, whose allow says where it holds")


def _valid(one: _Placed, key: str, check: Any) -> None:
    try:
        check()
    except ValueError as error:
        one.document.refuse(f"{one.key}.{key}", str(error))


# -- what spans several clauses ------------------------------------------------------------------


def _refer(one: _Placed, key: str, name: str, placed: Mapping[str, _Placed]) -> str:
    """The full name of a clause that another one names: of its own contract unless it says `contract/clause`."""
    full = name if "/" in name else f"{one.contract.contract}/{name}"
    if full not in placed or full == one.name:
        others = [other for other in placed if other != one.name]
        one.document.refuse(f"{one.key}.{key}", f'there is no other clause "{full}"{nearest(full, others)}')
    return full


def _determined(document: Document | None) -> dict[str, date]:
    if document is None or document.value is None:
        return {}
    days: dict[str, date] = {}
    for index, one in enumerate(convert(document, document.value, tuple[Determination, ...])):
        if days.setdefault(one.event, one.on) != one.on:
            document.refuse(f"[{index}].on", f'"{one.event}" is determined already, on {days[one.event]}')
    return days


def _spans(placed: Mapping[str, _Placed], days: Mapping[str, date]) -> dict[str, Span]:
    terms: dict[str, Terms] = {}
    for name, one in placed.items():
        old = tuple(
            _refer(one, f"supersedes[{index}]", other, placed) for index, other in enumerate(one.clause.supersedes)
        )
        since, until = bounds(one.clause.effective, days)
        terms[name] = Terms(since, until, old)
    spans, circle = spans_of(terms)
    if circle is not None:
        one = placed[circle]
        one.document.refuse(f"{one.key}.supersedes", f'"{circle}" supersedes itself, by way of others')
    return spans


def _gates(placed: Mapping[str, _Placed], spans: Mapping[str, Span]) -> tuple[Gate, ...]:
    compiled: dict[str, Predicate] = {}
    exceptions: dict[str, list[Gate]] = {}
    gates: list[Gate] = []
    for name, one in placed.items():
        readings = tuple(
            _held(one, f"{one.key}.readings[{index}]", reading, compiled)
            for index, reading in enumerate(one.clause.readings)
        )
        base = one.clause.exception_to
        gate = Gate(name, spans[name], readings, posture=one.contract.posture, exception=base is not None)
        if base is not None:
            full = _refer(one, "exception_to", base, placed)
            if placed[full].clause.exception_to is not None:
                one.document.refuse(f"{one.key}.exception_to", f'"{full}" is an exception itself')
            exceptions.setdefault(full, []).append(gate)
        if readings:
            gates.append(gate)
    return tuple(gate.with_exceptions(tuple(exceptions.get(gate.id, ()))) for gate in gates)


def _held(one: _Placed, key: str, reading: Reading, compiled: dict[str, Predicate]) -> Held:
    name = "allow" if reading.deny is None else "deny"
    text: str = getattr(reading, name)
    try:
        if text not in compiled:
            compiled[text] = compile_predicate(text)
    except PredicateError as error:
        one.document.refuse(f"{key}.{name}", str(error), "contract_predicate")
    return Held(reading.id, reading.held_by, compiled[text])
