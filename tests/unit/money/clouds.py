"""A cloud's own export of what was metered, and differences planted in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from tests.unit.money.usage import DAY

from stateline.core.billing import Metered, Tariff
from stateline.money.billed import Names, Statement
from stateline.money.focus import Bill, plain
from stateline.money.reconcile import Meter, Result, reconcile

Row = dict[str, str]
REAL_ACCOUNT = "aws-77"
"""What the cloud calls the account that the meter has no name of."""
COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")


def billed(bill: Bill) -> list[Row]:
    """What the cloud would write of these calls: its own account, no columns of the meter, no estimates."""
    found: list[Row] = []
    for row in bill.rows():
        if row["x_stateline_reason"]:
            continue
        own = {name: value for name, value in row.items() if not name.startswith("x_")}
        if own["BillingAccountId"] == "unknown":
            own["BillingAccountId"] = REAL_ACCOUNT
        found.append(own)
    return found


def kind_of(row: Row) -> str:
    """As the comparison has it: reasoning is billed as output."""
    kind = json.loads(row["SkuPriceDetails"])["x_TokenType"]
    return "output" if kind == "reasoning" else kind


def cell_of(row: Row) -> tuple[str, str, str]:
    account = "" if row["BillingAccountId"] == REAL_ACCOUNT else row["BillingAccountId"]
    return row["ChargePeriodStart"][:10], account, json.loads(row["SkuPriceDetails"])["x_ModelId"]


def scaled(row: Row, by: int) -> None:
    """At another price."""
    for column in COSTS:
        row[column] = plain(Decimal(row[column]) * by)


def more(row: Row, count: int) -> None:
    """With so many more tokens, or calls, at the same price."""
    scale = 1 if kind_of(row) == "call" else 1_000_000
    cost = Decimal(row["ContractedUnitPrice"]) * count / scale
    row["ConsumedQuantity"] = str(int(row["ConsumedQuantity"]) + count)
    row["PricingQuantity"] = plain(Decimal(row["ConsumedQuantity"]) / scale)
    for column in COSTS:
        row[column] = plain(Decimal(row[column]) + cost)


def unheard(model: str, day: int, account: str, cost: str = "3.25") -> Row:
    """A row of a model that the meter may never have heard of."""
    start, end = ((DAY + timedelta(days=day + more)).isoformat() + "T00:00:00Z" for more in (0, 1))
    return {
        "BillingAccountId": account, "BillingCurrency": "USD", "ChargeCategory": "Usage", "ChargePeriodStart": start,
        "ChargePeriodEnd": end, "ContractedCost": cost, "EffectiveCost": cost, "BilledCost": cost,
        "ConsumedQuantity": "1000", "ConsumedUnit": "Tokens", "ServiceCategory": "AI and Machine Learning",
        "SkuPriceDetails": json.dumps({"x_ModelId": model, "x_TokenType": "output"}),
    }  # fmt: skip


def compared(
    bill: Bill, tariffs: Mapping[str, Tariff], rows: list[Row], tolerance: Decimal = Decimal(0), **options: Any
) -> Result:
    names = Names(tariffs.values())
    columns = list(dict.fromkeys(name for row in rows for name in row)) or list(unheard("m", 0, "a"))
    statement = Statement(columns, names, **options)
    for row in rows:
        statement.add({name: row.get(name, "") for name in columns})
    return reconcile(Meter(bill, names), statement, tolerance)


def told(result: Result) -> list[tuple[str, str, str, str, str]]:
    """What differs, without the amounts."""
    return sorted((one.what, one.day.isoformat(), one.account, one.model, one.kind) for one in result.differences)


def bill_of(calls: list[Metered], tariffs: Mapping[str, Tariff]) -> Bill:
    found = Bill()
    for each in calls:
        found.add(each, tariffs)
    return found


def lines_of(rows: list[Row]) -> dict[tuple[str, str, str], dict[str, list[Row]]]:
    """Rows by day, account and model, and by kind of token."""
    found: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(cell_of(row), {}).setdefault(kind_of(row), []).append(row)
    return found
