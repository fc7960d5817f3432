"""What calls may cost and what they did: the prices and budgets of the configuration, asked at each call.

Nothing here is shared between nodes; what is shared are the balances that an append moves (``ports.Hold``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from stateline.core import events as e
from stateline.core.billing import Charge, Held, Reserved, Tariff, tier_of
from stateline.core.calls import ModelRequest, Usage
from stateline.core.limits import METER_PAYERS_MAX, OUTPUT_TOKENS_DEFAULT, OUTPUT_TOKENS_PAID_MIN
from stateline.core.placing import asked_tier
from stateline.core.tokens import most_tokens
from stateline.money.budgets import Budget, NoRate, Payer, balance_name, converted, covering, month_of
from stateline.money.meter import cost_of, output_affordable, worst_case
from stateline.ports import BudgetExceeded, Deployment, Hold

Unpriced = Literal["unbudgeted", "allow", "refuse"]
"""Which calls a deployment without a price takes: those that no hard budget covers, all, or none."""


class Quote(NamedTuple):
    """What a call reserves.

    Attributes:
        reserved: for the log; None where no price is known.
        holds: for the append that records it.
    """

    reserved: Reserved | None
    holds: tuple[Hold, ...] = ()


UNPRICED = Quote(None)


class Meter:
    """The prices and budgets in force.

    Args:
        tariffs: by deployment and service tier (``billing.tier_of``).
        budgets: those of all tenants.
        rates: what one unit of the first currency is in the second.
        before: the meter that this one replaces; calls under way are charged by its tariffs.
    """

    def __init__(
        self,
        tariffs: Mapping[str, Mapping[str, Tariff]],
        budgets: Sequence[Budget] = (),
        rates: Mapping[tuple[str, str], Decimal] | None = None,
        *,
        unpriced: Unpriced = "unbudgeted",
        before: Meter | None = None,
    ) -> None:
        self.budgets = tuple(budgets)
        self._tariffs = tariffs
        self.rates = rates or {}
        self.unpriced: Unpriced = unpriced
        self._by_id: dict[str, tuple[Tariff, Mapping[str, Tariff]]] = {} if before is None else dict(before._by_id)
        for tiers in tariffs.values():
            for tariff in tiers.values():
                self._by_id[tariff.id] = (tariff, tiers)
        self._covering: dict[Payer, Sequence[Budget]] = {}
        self._month = ("", 0, 0)
        self._charged: dict[tuple[str, bool], Decimal] = {} if before is None else before._charged

    @property
    def tariffs(self) -> list[Tariff]:
        """All that calls may be charged by from now on."""
        return [tariff for tiers in self._tariffs.values() for tariff in tiers.values()]

    def covering(self, payer: Payer) -> Sequence[Budget]:
        """The budgets that a call draws on."""
        found = self._covering.get(payer)
        if found is None:
            if len(self._covering) >= METER_PAYERS_MAX:
                self._covering.clear()
            found = self._covering[payer] = covering(self.budgets, payer)
        return found

    def tariff(self, deployment: str, service_tier: str | None) -> Tariff | None:
        """By what a call there is charged; None where no price is known."""
        tiers = self._tariffs.get(deployment)
        return None if tiers is None else tiers.get(tier_of(service_tier))

    def purse(self, payer: Payer, service_tier: str | None) -> Purse:
        """Who pays for a call; ``service_tier`` as its request names it."""
        return Purse(self, payer, asked_tier(service_tier))

    def month(self, at_ms: int) -> str:
        """``month_of``, which hardly ever changes."""
        name, since_ms, until_ms = self._month
        if not since_ms <= at_ms < until_ms:
            # Within one hour of UTC the month is one.
            since_ms = at_ms - at_ms % 3_600_000
            name = month_of(since_ms)
            self._month = (name, since_ms, since_ms + 3_600_000)
        return name

    def count(self, charge: Charge | None) -> None:
        """Count a recorded charge, for /metrics."""
        if charge is not None:
            key = (charge.currency, charge.estimated)
            self._charged[key] = self._charged.get(key, Decimal(0)) + charge.amount

    def counters(self) -> Mapping[str, float]:
        return {
            f'charged_total{{currency="{currency}",estimated="{str(estimated).lower()}"}}': float(amount)
            for (currency, estimated), amount in self._charged.items()
        }

    # -- what a call did ------------------------------------------------------------------------------

    def charged(self, reserved: Reserved | None, usage: Usage | None, service_tier: str | None) -> Charge | None:
        """What a call that was answered cost: by its usage, or, where that never came, all that it reserved.

        ``service_tier`` is the one that the provider says it served: a price of another tier is none of the call's.
        """
        if reserved is None:
            return None
        found = self._by_id.get(reserved.tariff)
        if found is None or usage is None:
            return whole(reserved)
        tariff, tiers = found
        if service_tier is not None and tier_of(service_tier) != tariff.price.service_tier:
            served = tiers.get(tier_of(service_tier))
            if served is None or served.price.currency != reserved.currency:
                return whole(reserved)
            tariff = served
        amount = cost_of(tariff.price, usage)
        return Charge(tariff=tariff.id, amount=amount, currency=tariff.price.currency)


def costs(reserved: Reserved | None) -> bool:
    """Whether a call may cost anything, as far as is known."""
    return reserved is not None and reserved.amount > 0


def whole(reserved: Reserved) -> Charge:
    """The charge of a call whose usage never came."""
    return Charge(tariff=reserved.tariff, amount=reserved.amount, currency=reserved.currency, estimated=True)


def nothing(reserved: Reserved) -> Charge:
    """The charge of a call of which nothing was sent, or that its provider refused."""
    return Charge(tariff=reserved.tariff, amount=Decimal(0), currency=reserved.currency)


def failed(reserved: Reserved | None, body: e.ModelCallFailed) -> e.ModelCallFailed:
    """The end of a failed or lost call with what it cost.

    What is known of its usage is what it had used when the provider last spoke, and may be less than it used.
    """
    if reserved is None:
        return body
    return msgspec.structs.replace(body, charge=nothing(reserved) if body.unbilled else whole(reserved))


def settling(reserved: Reserved | None, charge: Charge | None) -> list[Hold]:
    """How the budgets' balances move when a call has ended: what was set aside goes, what it cost is spent."""
    if reserved is None or charge is None:
        return []
    return [Hold(budget=each.budget, held=-each.amount, spent=charge.amount * each.rate) for each in reserved.held]


class Purse:
    """Who pays for one call, at one meter.

    Attributes:
        short: what budgets' balances were found to have left, less than a try of this call wanted.
    """

    __slots__ = ("_covering", "_meter", "_payer", "_tier", "short")

    def __init__(self, meter: Meter, payer: Payer, service_tier: str | None) -> None:
        self._meter = meter
        self._payer = payer
        self._tier = service_tier
        self._covering = meter.covering(payer) if meter.budgets else ()
        self.short: dict[str, Decimal] = {}

    def takes(self, deployment: Deployment) -> bool:
        """Whether the call may go to a deployment, as far as a price must be known."""
        meter = self._meter
        unpriced: Unpriced = meter.unpriced
        if unpriced == "allow" or self._tariff(deployment) is not None:
            return True
        return unpriced == "unbudgeted" and not any(each.mode == "hard" for each in self._covering)

    def _tariff(self, deployment: Deployment) -> Tariff | None:
        return self._meter.tariff(deployment.name, self._tier or deployment.service_tier)

    def quote(self, deployment: Deployment, request: Callable[[], ModelRequest], at_ms: int) -> Quote:
        """What the call reserves there.

        Where hard budgets cover it, it is held to the output that is reserved; where one has less left (``short``)
        than the whole would take, to less output.

        Raises:
            BudgetExceeded: a budget does not pay for its input and OUTPUT_TOKENS_PAID_MIN of output.
        """
        tariff = self._tariff(deployment)
        if tariff is None:
            return UNPRICED
        price = tariff.price
        if not self._covering and _free(tariff):
            return Quote(Reserved(tariff=tariff.id, amount=Decimal(0), currency=price.currency))
        asked = request()
        input_tokens = most_tokens(asked)
        limit = asked.params.max_output_tokens
        output_tokens = 0 if asked.embed is not None else _output_tokens(limit, deployment)
        least = min(OUTPUT_TOKENS_PAID_MIN, output_tokens)
        rates = self._rates(price.currency)
        month = self._meter.month(at_ms)
        for budget, rate in zip(self._covering, rates, strict=True):
            left = self.short.get(balance_name(budget, month))
            if left is not None and budget.mode == "hard":
                affordable = output_affordable(price, input_tokens, left / rate)
                if affordable < least:
                    raise too_little(budget, left)
                output_tokens = min(output_tokens, affordable)
        amount = worst_case(price, input_tokens, output_tokens)
        held: list[Held] = []
        holds: list[Hold] = []
        for budget, rate in zip(self._covering, rates, strict=True):
            name, part = balance_name(budget, month), amount * rate
            held.append(Held(name, part, rate))
            holds.append(Hold(budget=name, held=part, limit=budget.limit if budget.mode == "hard" else None))
        bound = any(each.mode == "hard" for each in self._covering) and asked.embed is None
        reserved = Reserved(
            tariff=tariff.id,
            amount=amount,
            currency=price.currency,
            held=tuple(held),
            output_tokens=output_tokens if bound and output_tokens != limit else None,
        )
        return Quote(reserved, tuple(holds))

    def _rates(self, currency: str) -> list[Decimal]:
        meter = self._meter
        try:
            return [converted(Decimal(1), currency, each.currency, meter.rates) for each in self._covering]
        except NoRate as missing:
            # The configuration is refused without it, so this is a defect.
            raise AssertionError(str(missing)) from missing

    def found_short(self, error: BudgetExceeded, tries: int, tries_max: int) -> None:
        """Remember what a budget has left. After the last try it counts as nothing."""
        self.short[error.budget] = error.left if tries < tries_max else Decimal(-1)


def too_little(budget: Budget, left: Decimal) -> BudgetExceeded:
    """The error of a call that a budget does not pay for."""
    error = BudgetExceeded(budget.name, left)
    error.message = (
        f"the budget {budget.name!r} of {budget.limit} {budget.currency} a month has "
        f"{max(left, Decimal(0)):f} left, which does not pay for this call; it begins anew with the next month"
    )
    error.args = (error.message,)
    return error


def _free(tariff: Tariff) -> bool:
    return not tariff.price.per_call and all(
        not (each.input or each.output or each.cache_write or each.cached or each.reasoning)
        for each in tariff.price.rates
    )


def _output_tokens(limit: int | None, deployment: Deployment) -> int:
    """The output that a call may take at most, or is held to."""
    if limit is not None:
        return limit
    most = None if deployment.facts is None else deployment.facts.output_tokens
    return OUTPUT_TOKENS_DEFAULT if most is None else most
