"""What calls cost, as rows of FOCUS 1.4's Cost and Usage (https://focus.finops.org).

The rows are this meter's own account of what a cloud will bill. They belong beside the cloud's export, never into it:
the cost of a call is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import msgspec

from stateline.core.billing import SERVICES, ZERO, Metered, Tariff
from stateline.core.errors import BadRequest
from stateline.core.limits import USAGE_GROUPS_MAX
from stateline.money.focus_columns import COST_AND_USAGE, OWN
from stateline.money.meter import lines_of, rates_for

_ONE = Decimal(1)
NO_ACCOUNT = "unknown"
"""The billing account of a deployment for which none is configured."""
RESERVED = "reserved"
"""The kind of a row that has the most that calls could cost, since what they used is not known."""
_DAY = timedelta(days=1)
_METERS = {
    "input": "Input Tokens",
    "cached_input": "Cached Input Tokens",
    "cache_write": "Cache Write Tokens",
    "output": "Output Tokens",
    "reasoning": "Reasoning Tokens",
    "call": "Calls",
    RESERVED: "Reserved Amount",
}
_COLUMNS = (*COST_AND_USAGE, *OWN)


class Applied(NamedTuple):
    """How one commitment applies to a row.

    Attributes:
        contract, commitment: their FOCUS ids.
        cost: what of the row's cost draws it down; None where it is drawn down by ``quantity`` of ``unit``.
        covered: what of the row's cost it pays, since it was bought before (prepaid, reserved).
        effective: what of the commitment's own price falls on that use.
    """

    contract: str
    commitment: str
    cost: Decimal | None
    quantity: Decimal | None = None
    unit: str | None = None
    covered: Decimal = ZERO
    effective: Decimal = ZERO


Apply = Callable[[Mapping[str, str]], Sequence[Applied]]
"""The commitments that apply to a row, asked with its columns."""


class Group(NamedTuple):
    """What is added up into one row.

    Attributes:
        day: UTC, of the end of the calls.
        kind: of token, as ``meter.lines_of`` has it; ``RESERVED`` where what calls used is not known.
        per_mtok: its price (of ``call``: of one call).
        above: the band of that price.
        reason: why what calls used is not known.
    """

    day: date
    tariff: str
    tenant: str
    principal: str
    workload: str
    kind: str
    per_mtok: Decimal
    above: int
    reason: str


class Sum(NamedTuple):
    """``quantity`` is tokens, or calls where the kind is ``call``; ``calls`` those that have a part in it."""

    quantity: int
    amount: Decimal
    calls: int


class Unpriced(NamedTuple):
    """Calls that no price is known for."""

    deployment: str
    model: str
    calls: int
    tokens: int


class Bill:
    """Adds up calls by day, tariff, who they were made for and kind of token.

    Args:
        most: groups; more are refused.

    Attributes:
        calls: all that were added.
    """

    def __init__(self, most: int = USAGE_GROUPS_MAX) -> None:
        self.calls = 0
        self._most = most
        self._groups: dict[Group, Sum] = {}
        self._unpriced: dict[tuple[date, str, str], tuple[int, int]] = {}
        self._tariffs: dict[str, Tariff] = {}

    def add(self, call: Metered, tariffs: Mapping[str, Tariff]) -> None:
        """One call; ``tariffs`` by id, and one of them is its own.

        Raises:
            BadRequest: ``usage_too_large``.
        """
        self.calls += 1
        charge = call.charge
        if charge is None:
            if not call.unbilled:
                where = (day_of(call.at_ms), call.deployment, call.model)
                calls, tokens = self._unpriced.get(where, (0, 0))
                used = 0 if call.usage is None else call.usage.total_tokens
                self._unpriced[where] = (calls + 1, tokens + used)
            return
        tariff = self._tariffs[charge.tariff] = tariffs[charge.tariff]
        day = day_of(call.at_ms)
        if call.usage is not None and not charge.estimated:
            lines = list(lines_of(tariff.price, call.usage))
            if sum((line.amount for line in lines), ZERO) == charge.amount:
                above = rates_for(tariff.price, call.usage.input_tokens).above
                for kind, count, per_mtok, amount in lines:
                    key = Group(day, tariff.id, call.tenant, call.principal, call.workload, kind, per_mtok, above, "")
                    self._put(key, count, amount)
                return
        if charge.amount:
            reason = reason_of(call)
            key = Group(day, tariff.id, call.tenant, call.principal, call.workload, RESERVED, _ONE, 0, reason)
            self._put(key, 0, charge.amount)

    def _put(self, key: Group, count: int, amount: Decimal) -> None:
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= self._most:
                message = f"there are more than {self._most} rows of usage; ask for fewer days with --from and --to"
                raise BadRequest(message, code="usage_too_large")
            self._groups[key] = Sum(count, amount, 1)
        else:
            self._groups[key] = Sum(found.quantity + count, found.amount + amount, found.calls + 1)

    def groups(self) -> Iterator[tuple[Group, Sum, Tariff]]:
        """All that was added up, by day."""
        for key in sorted(self._groups):
            yield key, self._groups[key], self._tariffs[key.tariff]

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def unpriced(self) -> list[Unpriced]:
        """What was used that no price is known for; it is in no row, since a row must have a cost."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for (_, *where), (calls, tokens) in sorted(self._unpriced.items()):
            deployment, model = where
            before = found.get((deployment, model), (0, 0))
            found[deployment, model] = (before[0] + calls, before[1] + tokens)
        return [Unpriced(*key, *value) for key, value in found.items()]

    @property
    def unpriced_days(self) -> dict[tuple[date, str], int]:
        """How many calls without a price there were, by day and model."""
        found: dict[tuple[date, str], int] = {}
        for (day, _, model), (calls, _) in self._unpriced.items():
            found[day, model] = found.get((day, model), 0) + calls
        return found

    def totals(self) -> dict[str, Decimal]:
        """What all calls cost, by currency."""
        found: dict[str, Decimal] = {}
        for _, each, tariff in self.groups():
            currency = tariff.price.currency
            found[currency] = found.get(currency, ZERO) + each.amount
        return found

    def rows(self, apply: Apply | None = None) -> Iterator[dict[str, str]]:
        """The rows, each with all columns of ``COST_AND_USAGE`` and ``OWN``; empty is null."""
        for key, each, tariff in self.groups():
            row = _row(key, each, tariff)
            if apply is not None:
                _cover(row, each.amount, apply(row))
            yield row


def reason_of(call: Metered) -> str:
    """Why a charge is not that of what a call used."""
    if call.status != "ok":
        return call.status
    return "no_usage" if call.usage is None else "settled_otherwise"


def day_of(at_ms: int) -> date:
    """The UTC day of an instant (Unix time)."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()


def plain(amount: Decimal) -> str:
    """A decimal as FOCUS's NumericFormat has it, without an exponent or zeros that say nothing."""
    text = f"{amount:f}"
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


def start_of(day: date) -> str:
    """The first instant of a UTC day, as FOCUS's DateTimeFormat has it."""
    return f"{day.isoformat()}T00:00:00Z"


def _row(key: Group, each: Sum, tariff: Tariff) -> dict[str, str]:
    price = tariff.price
    month = key.day.replace(day=1)
    cost = plain(each.amount)
    row = dict.fromkeys(_COLUMNS, "")
    row.update(
        BilledCost=cost,
        BillingAccountId=tariff.billing_account or NO_ACCOUNT,
        BillingAccountType="Billing Account",
        BillingCurrency=price.currency,
        BillingPeriodStart=start_of(month),
        BillingPeriodEnd=start_of((month + 31 * _DAY).replace(day=1)),
        ChargeCategory="Usage",
        ChargeFrequency="Usage-Based",
        ChargePeriodStart=start_of(key.day),
        ChargePeriodEnd=start_of(key.day + _DAY),
        ContractedCost=cost,
        EffectiveCost=cost,
        HostProviderName=tariff.host,
        InvoiceIssuerName=tariff.cloud,
        ListCost=cost,
        PricingCurrency=price.currency,
        PricingCurrencyEffectiveCost=cost,
        RegionId=tariff.region,
        RegionName=tariff.region,
        ResourceId=tariff.deployment,
        ResourceName=tariff.deployment,
        ResourceType="Model Deployment",
        ServiceCategory="AI and Machine Learning",
        ServiceName=SERVICES.get(tariff.cloud, tariff.cloud),
        ServiceProviderName=tariff.cloud,
        ServiceSubcategory="Generative AI",
        SkuId=f"{tariff.cloud}/{tariff.upstream_model}/{price.service_tier}",
        Tags=_json(
            {
                "stateline/tenant": key.tenant,
                "stateline/key": key.principal,
                "stateline/workload": key.workload,
            }
        ),
        x_stateline_estimate="true",
        x_stateline_reason=key.reason,
        x_stateline_model=tariff.model,
        x_stateline_calls=str(each.calls),
    )
    row.update(_priced(key, each, tariff))
    return row


def _priced(key: Group, each: Sum, tariff: Tariff) -> dict[str, str]:
    """Quantity and price. Of a reservation the money itself is the quantity, one unit of which costs one."""
    unit_price = plain(key.per_mtok)
    details: dict[str, str | int] = {
        "x_ModelDeveloper": tariff.vendor,
        "x_ModelId": tariff.upstream_model,
        "x_TokenType": key.kind,
        "x_ServiceTier": tariff.price.service_tier,
        "x_Accelerator": tariff.accelerator,
        "x_InputTokensAbove": key.above,
    }
    if key.kind == RESERVED:
        words = f"the most that calls could cost, whose usage is not known ({key.reason})"
        consumed, quantity, unit = (str(each.calls), "Requests"), each.amount, tariff.price.currency
    elif key.kind == "call":
        words = "calls"
        consumed, quantity, unit = (str(each.quantity), "Requests"), Decimal(each.quantity), "Requests"
    else:
        words = _METERS[key.kind].lower()
        consumed, quantity, unit = (str(each.quantity), "Tokens"), Decimal(each.quantity) / 1_000_000, "1000000 Tokens"
    return {
        "ChargeDescription": f"{tariff.model} on {tariff.cloud}: {words}",
        "ConsumedQuantity": consumed[0],
        "ConsumedUnit": consumed[1],
        "ContractedUnitPrice": unit_price,
        "ListUnitPrice": unit_price,
        "PricingCategory": "Other" if key.kind == RESERVED else "Standard",
        "PricingCurrencyContractedUnitPrice": unit_price,
        "PricingCurrencyListUnitPrice": unit_price,
        "PricingQuantity": plain(quantity),
        "PricingUnit": unit,
        "SkuMeter": _METERS[key.kind],
        "SkuPriceDetails": _json({name: value for name, value in details.items() if value}),
        "SkuPriceId": f"{tariff.id}/{key.kind}/{key.above}",
    }


def _cover(row: dict[str, str], amount: Decimal, applied: Sequence[Applied]) -> None:
    """Say in a row which commitments it draws down, and what of it they have paid."""
    if not applied:
        return
    covered = sum((each.covered for each in applied), ZERO)
    effective = plain(amount - covered + sum((each.effective for each in applied), ZERO))
    row["ContractApplied"] = _json({"Elements": [_element(each) for each in applied]})
    if covered:
        row["BilledCost"] = plain(amount - covered)
        row["EffectiveCost"] = row["PricingCurrencyEffectiveCost"] = effective
        row["PricingCategory"] = "Committed"


def _element(one: Applied) -> dict[str, object]:
    """Numbers are written as numbers: the schema of the column takes no strings."""
    found: dict[str, object] = {"ContractId": one.contract, "ContractCommitmentId": one.commitment}
    if one.cost is not None:
        found["ContractCommitmentAppliedCost"] = _number(one.cost)
    else:
        assert one.quantity is not None, "a commitment is drawn down by cost or by quantity"
        found["ContractCommitmentAppliedQuantity"] = _number(one.quantity)
        found["ContractCommitmentAppliedUnit"] = one.unit
    return found


def _number(value: Decimal) -> msgspec.Raw:
    return msgspec.Raw(plain(value).encode())


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
