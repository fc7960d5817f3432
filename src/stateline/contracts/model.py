"""Contracts as they are written: DESIGN §9's format, as types. Values alone; `load` adds what spans several."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

import msgspec

Kind = Literal[
    "exclusivity", "first_refusal", "ship_first", "residency", "commitment", "capacity", "price", "ip_licence",
    "verification", "distribution", "permission", "restriction", "equity", "funding", "revenue_share", "dispute",
    "claim",
]  # fmt: skip
Status = Literal["signed", "in-talks", "disputed", "ended", "forecast"]
Mode = Literal["enforce", "observe"]
Outcome = Literal["allow", "deny", "contested", "unknown"]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown keys are errors: a misspelt one would silently not hold."""


class EventDate(_Strict, frozen=True, kw_only=True):
    """A date that an event sets, once somebody has determined it."""

    event: str


class Effective(_Strict, frozen=True, kw_only=True, rename={"since": "from"}):
    """When a clause holds.

    Attributes:
        since: `from`, the first day on which it holds; None: it always has.
        until: the first day on which it no longer does; None: no end.
    """

    since: date | EventDate | None = None
    until: date | EventDate | None = None


class Source(_Strict, frozen=True, kw_only=True):
    """Where a clause is known from, and how sure it is."""

    document: str
    status: Status
    quote: str = ""


class Reading(_Strict, frozen=True, kw_only=True):
    """One interpretation of a clause, and the parties that hold it.

    Attributes:
        deny: CEL: true where the clause forbids the placement.
        allow: CEL, in an exception alone: true where these holders' reading of the base clause allows.
    """

    id: str
    held_by: tuple[str, ...]
    deny: str | None = None
    allow: str | None = None


class Amount(_Strict, frozen=True, kw_only=True):
    """An amount with its bounds; decimals as strings. `about` may stand beside `min` and `max`.

    Attributes:
        unit: an ISO 4217 currency, or GW, MW, tokens/min, %.
    """

    unit: str
    exact: str | int | None = None
    min: str | int | None = None
    max: str | int | None = None
    about: str | int | None = None


class Instalment(_Strict, frozen=True, kw_only=True):
    """What is promised up to a day."""

    until: date
    amount: str | int


class Commitment(_Strict, frozen=True, kw_only=True):
    """How a commitment is drawn down (docs/contracts.md says what each key means)."""

    model: Literal["minimum", "prepaid", "reserved", "option"]
    interval: Literal["monthly", "quarterly", "annual", "full"] = "full"
    schedule: tuple[Instalment, ...] = ()
    rollover: bool = False
    shortfall_rate: str | int = "1.0"
    accrues: Literal["use", "invoice"] = "invoice"
    applicability: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    focus: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class Clause(_Strict, frozen=True, kw_only=True):
    """One clause. Without readings it never gates a call; it is reported."""

    id: str
    kind: Kind
    text: str = ""
    effective: Effective = Effective()
    source: tuple[Source, ...] = ()
    readings: tuple[Reading, ...] = ()
    supersedes: tuple[str, ...] = ()
    exception_to: str | None = None
    parties: tuple[str, ...] = ()
    payer: str | None = None
    payee: str | None = None
    amount: Amount | None = None
    commitment: Commitment | None = None


class Contract(_Strict, frozen=True, kw_only=True):
    """One file.

    Attributes:
        posture: how its contested clauses resolve; None: as the configuration says.
        mode: `observe` never blocks; None: as the configuration says.
    """

    contract: str
    parties: tuple[str, ...] = ()
    posture: str | None = None
    mode: Mode | None = None
    clauses: tuple[Clause, ...] = ()


class Determination(_Strict, frozen=True, kw_only=True):
    """That an event has happened: on which day, who says so, and where."""

    event: str
    on: date
    by: str
    source: Any = None


class ReadingVerdict(msgspec.Struct, frozen=True):
    """What one reading says; its holders may be fewer than the reading's, where an exception parts them."""

    id: str
    held_by: tuple[str, ...]
    outcome: Outcome


class ClauseVerdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one clause says.

    Attributes:
        id: `contract/clause`.
        posture: by which it resolved, where its contract sets its own.
    """

    id: str
    outcome: Outcome
    resolved: Literal["allow", "deny"]
    readings: tuple[ReadingVerdict, ...]
    posture: str | None = None


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a placement is allowed, with all that decided.

    Attributes:
        outcome: the first present of deny, contested, unknown, allow.
        resolved: what is to be done.
        at: the instant as it was given.
        reason: `no_clause` where no clause with readings is in force.
    """

    outcome: Outcome
    resolved: Literal["allow", "deny"]
    posture: str
    at: str
    clauses: tuple[ClauseVerdict, ...]
    reason: str | None = None
