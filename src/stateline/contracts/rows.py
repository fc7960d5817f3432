"""Rows of FOCUS's Cost and Usage (1.0 to 1.4), as text, into use."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation

from stateline.contracts.drawdown import Use
from stateline.contracts.intervals import months_on
from stateline.core.errors import BadRequest

NEEDED = ("BilledCost", "BillingCurrency", "ChargePeriodStart")


class UsageError(BadRequest):
    """Use that cannot be read."""

    code = "usage_invalid"


def use_of(row: Mapping[str, str | None]) -> Use:
    """A row's use.

    Where BillingPeriodEnd is null, the bill closes on the first of the month after the charge; where
    ContractedCost is, it is what was billed.

    Raises:
        UsageError: a column is missing that must not be, or has no such value.
    """
    for name in NEEDED:
        if not row.get(name):
            raise UsageError(f"a row has no {name}; usage is read as FOCUS Cost and Usage rows")
    day = _day(row, "ChargePeriodStart")
    billed = _day(row, "BillingPeriodEnd") if row.get("BillingPeriodEnd") else months_on(day.replace(day=1), 1)
    cost = _amount(row, "BilledCost")
    value = _amount(row, "ContractedCost") if row.get("ContractedCost") else cost
    return Use(day, billed, cost, value, (row["BillingCurrency"] or "").upper(), row)


def _day(row: Mapping[str, str | None], name: str) -> date:
    text = row[name] or ""
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise UsageError(f'"{text}" is no {name}; write 2026-03-18T00:00:00Z') from None


def _amount(row: Mapping[str, str | None], name: str) -> Decimal:
    text = row[name] or ""
    try:
        found = Decimal(text)
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite():
        raise UsageError(f'"{text}" is no {name}; write digits, as 12.50')
    return found
