"""Commitments, as rows of FOCUS 1.4's Contract Commitment (https://focus.finops.org).

A clause says the amount, the days and the interval. What else the dataset must have stands in its ``focus``, by the
columns' names; that also goes before what the clause says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

import msgspec

from stateline.core.errors import BadRequest
from stateline.money.focus import plain, start_of
from stateline.money.focus_columns import CHOICES, CONTRACT_COMMITMENT, FRACTIONS, NULLABLE, NUMBERS, TIMES

_INTERVALS = {"monthly": "Monthly", "quarterly": "Quarterly", "annual": "Annual", "full": "Full Period"}
_UPFRONT = {"No Upfront": "0", "All Upfront": "1"}


class Promised(NamedTuple):
    """A commitment as its clause states it.

    Attributes:
        amount: None where none is stated.
        currency: whether ``unit`` is an ISO 4217 currency.
        since, until: the first day on which it holds, and the first on which it no longer does.
        interval: ``monthly``, ``quarterly``, ``annual`` or ``full``.
        scheduled: whether instalments of their own take its place.
        applicability: FOCUS ContractCommitmentApplicability; empty: all that the payee bills.
        focus: columns by their names.
    """

    contract: str
    clause: str
    text: str
    payee: str
    amount: Decimal | None
    unit: str
    currency: bool
    since: date | None
    until: date | None
    interval: str
    scheduled: bool
    applicability: Mapping[str, Any]
    focus: Mapping[str, Any]

    @property
    def id(self) -> str:
        return f"{self.contract}/{self.clause}"


def commitment_rows(promises: Iterable[Promised], at: date) -> Iterator[dict[str, str]]:
    """A row a commitment, with all columns; empty is null.

    Args:
        at: the day whose lifecycle status is shown.

    Raises:
        BadRequest: ``focus_column_missing``, ``focus_column_invalid``: a commitment lacks a column, or has one that
            the specification does not know, or a value that it does not allow. The message names both.
    """
    for one in promises:
        yield _row(one, at)


def _row(one: Promised, at: date) -> dict[str, str]:
    found = _derived(one, at)
    for name, value in one.focus.items():
        if name not in CONTRACT_COMMITMENT:
            near = get_close_matches(name, CONTRACT_COMMITMENT, 1)
            hint = f"; do you mean {near[0]}?" if near else ""
            raise _invalid(one, name, f"FOCUS 1.4 has no such column{hint}")
        found[name] = _text(one, name, value)
    if not found.get("ContractCommitmentPaymentUpfrontPercentage"):
        paid = found.get("ContractCommitmentPaymentModel", "")
        found["ContractCommitmentPaymentUpfrontPercentage"] = _UPFRONT.get(paid, "")
    missing = [name for name in CONTRACT_COMMITMENT if not found.get(name) and name not in NULLABLE]
    if missing:
        message = f"commitment {one.id} has no {', '.join(missing)}; its clause names them under commitment.focus"
        raise BadRequest(message, code="focus_column_missing", param=missing[0])
    _agree(one, found)
    return {name: found.get(name, "") for name in CONTRACT_COMMITMENT}


def _derived(one: Promised, at: date) -> dict[str, str]:
    """What the clause itself says."""
    amount = "" if one.amount is None else plain(one.amount)
    since = "" if one.since is None else start_of(one.since)
    until = "" if one.until is None else start_of(one.until)
    found = {
        "ContractCommitmentApplicability": _json(one.applicability or {"IsGlobalScope": True}),
        "ContractCommitmentCategory": "Spend" if one.currency else "Usage",
        "ContractCommitmentDescription": one.text,
        "ContractCommitmentDurationType": _length(one.since, one.until),
        "ContractCommitmentFulfillmentInterval": "Custom" if one.scheduled else _INTERVALS[one.interval],
        "ContractCommitmentId": one.id,
        "ContractCommitmentLifecycleStatus": _status(one, at),
        "ContractCommitmentPeriodStart": since,
        "ContractCommitmentPeriodEnd": until,
        "ContractId": one.contract,
        "ContractPeriodStart": since,
        "ContractPeriodEnd": until,
        "InvoiceIssuerName": one.payee,
        "ServiceProviderName": one.payee,
    }
    if one.currency:
        found["BillingCurrency"] = found["PricingCurrency"] = one.unit
        found["ContractCommitmentCost"] = found["PricingCurrencyContractCommitmentCost"] = amount
    else:
        found["ContractCommitmentQuantity"] = amount
        found["ContractCommitmentUnit"] = one.unit if amount else ""
    return found


def _status(one: Promised, at: date) -> str:
    if one.since is not None and at < one.since:
        return "Pending"
    return "Expired" if one.until is not None and one.until <= at else "Active"


def _length(since: date | None, until: date | None) -> str:
    """A period as FOCUS writes it: whole years, else whole months, else days."""
    if since is None or until is None or until <= since:
        return ""
    if since.day == until.day:
        months = (until.year - since.year) * 12 + until.month - since.month
        return _many(months, "Month") if months % 12 else _many(months // 12, "Year")
    return _many((until - since).days, "Day")


def _many(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _text(one: Promised, name: str, value: Any) -> str:
    """A value of ``focus`` as it stands in the CSV."""
    if value is None:
        return ""
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise _invalid(one, name, f"{value!r} is none of {', '.join(CHOICES[name])}")
        return value
    if name in TIMES:
        return _time(one, name, value)
    if name in NUMBERS or name in FRACTIONS:
        return _decimal(one, name, value)
    if name == "ContractCommitmentApplicability":
        if not isinstance(value, dict):
            raise _invalid(one, name, "it is a table of inclusions and exclusions")
        return _json(cast("dict[str, Any]", value))
    if not isinstance(value, str):
        raise _invalid(one, name, f"{value!r} is no text")
    return value


def _time(one: Promised, name: str, value: Any) -> str:
    """Days begin at 00:00 UTC; instants are in UTC."""
    try:
        if isinstance(value, date) and not isinstance(value, datetime):
            return start_of(value)
        text = value.isoformat() if isinstance(value, datetime) else str(value)
        if len(text) == len("2026-01-01"):
            return start_of(date.fromisoformat(text))
        at = datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(one, name, f'"{value}" is no date, and no time such as 2026-01-01T00:00:00Z') from None
    if at.utcoffset():
        raise _invalid(one, name, f"{value} is not in UTC")
    return at.replace(tzinfo=None).isoformat() + "Z"


def _decimal(one: Promised, name: str, value: Any) -> str:
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or (name in FRACTIONS and not 0 <= found <= 1):
        raise _invalid(one, name, f'"{value}" is no {"number from 0 to 1" if name in FRACTIONS else "number"}')
    return plain(found)


def _agree(one: Promised, found: Mapping[str, str]) -> None:
    """What the specification asks of two columns together."""
    paid, share = found["ContractCommitmentPaymentModel"], found["ContractCommitmentPaymentUpfrontPercentage"]
    expected = _UPFRONT.get(paid)
    if (share != expected) if expected is not None else share in _UPFRONT.values():
        raise _invalid(one, "ContractCommitmentPaymentUpfrontPercentage", f"{share} does not go with {paid}")
    for first, last in (
        ("ContractCommitmentCreated", "ContractCommitmentLastUpdated"),
        ("ContractCommitmentPeriodStart", "ContractCommitmentPeriodEnd"),
        ("ContractPeriodStart", "ContractPeriodEnd"),
    ):
        if found[last] < found[first]:
            raise _invalid(one, last, f"{found[last]} is before {first}")


def _invalid(one: Promised, name: str, why: str) -> BadRequest:
    return BadRequest(f"commitment {one.id}, {name}: {why}", code="focus_column_invalid", param=name)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
