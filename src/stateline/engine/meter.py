"""What calls may cost and what they did: the prices and budgets of the configuration, asked at each call.

Nothing here is shared between nodes; what is shared are the balances that an append moves (``ports.Hold``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from stateline.core import events as e
from stateline.core.billing import ONE, ZERO, Charge, Counted, Held, Price, Reserved, Tariff, tier_of
from stateline.core.calls import ModelRequest, Usage
from stateline.core.errors import RateLimited
from stateline.core.limits import METER_PAYERS_MAX, OUTPUT_TOKENS_DEFAULT, OUTPUT_TOKENS_PAID_MIN
from stateline.core.placing import Drew, Priced, asked_tier
from stateline.core.tokens import most_tokens
from stateline.engine.rates import counting, ended
from stateline.money.budgets import Budget, NoRate, Payer, balance_name, converted, covering, month_of
from stateline.money.effective import Effective
from stateline.money.meter import Exact, output_affordable
from stateline.money.rates import Count, RateLimit, counts, limiting, refusal
from stateline.ports import BudgetExceeded, Deployment, Hold

Unpriced = Literal["unbudgeted", "allow", "refuse"]
"""Which calls a deployment without a price takes: those that no hard budget covers, all, or none."""


class Covers:
    """The budgets that cover calls of one payer, currency and month. There is one of it for all of them.

    Attributes:
        budgets, limits: limits by budget, None where it only warns.
        held: the balances of the same budgets, for the log.
        bound: a limit is among them.
    """

    __slots__ = ("bound", "budgets", "held", "limits")

    def __init__(self, budgets: Sequence[Budget], held: Iterable[Held]) -> None:
        self.budgets = budgets
        self.held = tuple(held)
        self.limits = tuple(each.limit if each.mode == "hard" else None for each in budgets)
        self.bound = any(limit is not None for limit in self.limits)

    def holds(self, amount: Decimal) -> list[Hold]:
        """How their balances move where a call sets that aside, or many do together."""
        return [
            Hold(budget=each.budget, held=each.of(amount), limit=limit)
            for each, limit in zip(self.held, self.limits, strict=True)
        ]


NO_COVERS = Covers((), ())


class Quote(msgspec.Struct, frozen=True):
    """What a call reserves.

    Attributes:
        reserved: for the log; None where no price is known.
        covers: the budgets that set it aside.
        counted: for the log; what the call's end gives back to rate limits.
        counting: how it moves the balances of rate limits.
    """

    reserved: Reserved | None
    covers: Covers = NO_COVERS
    counted: tuple[Counted, ...] = ()
    counting: Sequence[Hold] = ()

    @property
    def holds(self) -> list[Hold]:
        """For the append that records it."""
        reserved = self.reserved
        return [*(() if reserved is None else self.covers.holds(reserved.amount)), *self.counting]


UNPRICED = Quote(None)


class Terms:
    """A tariff, and what each call at it needs of it. ``tiers``: those of its deployment, by service tier."""

    __slots__ = ("currency", "exact", "free", "id", "tariff", "tier", "tiers")

    def __init__(self, tariff: Tariff, tiers: Mapping[str, Terms]) -> None:
        self.tariff = tariff
        self.tiers = tiers
        self.id = tariff.id
        self.currency = tariff.price.currency
        self.tier = tariff.price.service_tier
        self.exact = Exact(tariff.price)
        self.free = _free(tariff)


def _terms(tiers: Mapping[str, Tariff]) -> Mapping[str, Terms]:
    found: dict[str, Terms] = {}
    for tier, tariff in tiers.items():
        found[tier] = Terms(tariff, found)
    return found


class _Account:
    """What is the same for all calls of one payer."""

    __slots__ = ("budgets", "covers", "hard", "limits", "month", "payer")

    def __init__(self, payer: Payer, budgets: Sequence[Budget], limits: tuple[RateLimit, ...]) -> None:
        self.payer = payer
        """But for its session, which may be any."""
        self.budgets = budgets
        self.limits = limits
        self.hard = any(each.mode == "hard" for each in budgets)
        self.month = ""
        self.covers: dict[str, Covers] = {}
        """By currency, in that month."""


class Meter:
    """The prices and budgets in force.

    Args:
        tariffs: by deployment and service tier (``billing.tier_of``).
        budgets: those of all tenants.
        rates: what one unit of the first currency is in the second.
        ranks: by deployment, what a million tokens cost in effect, where that decides among equal priorities.
        rate_limits: those of all tenants.
        before: the meter that this one replaces; calls under way are charged by its tariffs.
    """

    def __init__(
        self,
        tariffs: Mapping[str, Mapping[str, Tariff]],
        budgets: Sequence[Budget] = (),
        rates: Mapping[tuple[str, str], Decimal] | None = None,
        *,
        unpriced: Unpriced = "unbudgeted",
        ranks: Mapping[str, Effective] | None = None,
        rate_limits: Sequence[RateLimit] = (),
        before: Meter | None = None,
    ) -> None:
        self.budgets = tuple(budgets)
        self.rate_limits = tuple(rate_limits)
        self._tariffs = tariffs
        self.rates = rates or {}
        self.ranks = ranks or {}
        self.unpriced: Unpriced = unpriced
        self._terms = {name: _terms(tiers) for name, tiers in tariffs.items()}
        self._by_id: dict[str, Terms] = {} if before is None else dict(before._by_id)
        for tiers in self._terms.values():
            for terms in tiers.values():
                self._by_id[terms.id] = terms
        self._by_session = any(each.session is not None for each in self.budgets)
        self._accounts: dict[tuple[str, str, str, str, str], _Account] = {}
        self._month = ""
        self._hour = (0, 0)
        """Within which ``_month`` is the month."""
        self._charged: dict[tuple[str, bool], Decimal] = {} if before is None else before._charged

    def same_as(self, other: Meter) -> bool:
        """Whether calls are priced and placed by both alike."""
        return (self._tariffs, self.rates, self.ranks) == (other._tariffs, other.rates, other.ranks)

    @property
    def tariffs(self) -> list[Tariff]:
        """All that calls may be charged by from now on."""
        return [tariff for tiers in self._tariffs.values() for tariff in tiers.values()]

    def _account(self, payer: tuple[str, str, str, str, str]) -> _Account:
        """Of a payer, whose fields may come as a plain tuple."""
        if payer[3] and not self._by_session:
            # One answer does for all sessions.
            payer = (payer[0], payer[1], payer[2], "", payer[4])
        found = self._accounts.get(payer)
        if found is None:
            payer = Payer(*payer)
            if len(self._accounts) >= METER_PAYERS_MAX:
                self._accounts.clear()
            limits = limiting(self.rate_limits, payer)
            found = self._accounts[payer] = _Account(payer, covering(self.budgets, payer), limits)
        return found

    def limiting(self, payer: Payer) -> tuple[RateLimit, ...]:
        """The rate limits that a call is held to."""
        return self._account(payer).limits

    def covers(self, account: _Account, currency: str, at_ms: int) -> Covers:
        """The balances that a call at a price of that currency draws on."""
        since_ms, until_ms = self._hour
        if not since_ms <= at_ms < until_ms or account.month != self._month:
            month = self.month(at_ms)
            if account.month != month:
                account.month = month
                account.covers.clear()
        found = account.covers.get(currency)
        if found is None:
            found = Covers(account.budgets, [self._held(each, currency, account.month) for each in account.budgets])
            account.covers[currency] = found
        return found

    def _held(self, budget: Budget, currency: str, month: str) -> Held:
        try:
            rate = converted(ONE, currency, budget.currency, self.rates)
        except NoRate as missing:
            # The configuration is refused without it, so this is a defect.
            raise AssertionError(str(missing)) from missing
        return Held(balance_name(budget, month), rate)

    def terms(self, deployment: str, service_tier: str | None) -> Terms | None:
        """By what a call there is charged; None where no price is known."""
        tiers = self._terms.get(deployment)
        return None if tiers is None else tiers.get(tier_of(service_tier))

    def purse(self, payer: tuple[str, str, str, str, str], service_tier: str | None) -> Purse:
        """Who pays for a call: the fields of a ``Payer``; ``service_tier`` as its request names it."""
        account = self._accounts.get(payer) or self._account(payer)
        return Purse(self, account, None if service_tier is None else asked_tier(service_tier))

    def takes(self, deployment: Deployment, service_tier: str | None) -> bool:
        """Whether any call may go to a deployment, as far as a price must be known; else it depends on its payer."""
        tier = asked_tier(service_tier) or deployment.service_tier
        return self.unpriced == "allow" or self.terms(deployment.name, tier) is not None

    def month(self, at_ms: int) -> str:
        """``month_of``, which hardly ever changes."""
        since_ms, until_ms = self._hour
        if not since_ms <= at_ms < until_ms:
            # Within one hour of UTC the month is one.
            since_ms = at_ms - at_ms % 3_600_000
            self._month, self._hour = month_of(since_ms), (since_ms, since_ms + 3_600_000)
        return self._month

    def count(self, charge: Charge | None) -> None:
        """Count a recorded charge, for /metrics."""
        if charge is not None:
            key = (charge.currency, charge.estimated)
            before = self._charged.get(key)
            self._charged[key] = charge.amount if before is None else before + charge.amount

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
        terms = self._by_id.get(reserved.tariff)
        if terms is None or usage is None:
            return whole(reserved)
        if service_tier is not None and tier_of(service_tier) != terms.tier:
            served = terms.tiers.get(tier_of(service_tier))
            if served is None or served.currency != reserved.currency:
                return whole(reserved)
            terms = served
        return Charge(tariff=terms.id, amount=terms.exact.cost(usage), currency=terms.currency)


def costs(reserved: Reserved | None) -> bool:
    """Whether a call may cost anything, as far as is known."""
    return reserved is not None and bool(reserved.amount)


def whole(reserved: Reserved) -> Charge:
    """The charge of a call whose usage never came."""
    return Charge(tariff=reserved.tariff, amount=reserved.amount, currency=reserved.currency, estimated=True)


def nothing(reserved: Reserved) -> Charge:
    """The charge of a call of which nothing was sent, or that its provider refused."""
    return Charge(tariff=reserved.tariff, amount=ZERO, currency=reserved.currency)


def failed(reserved: Reserved | None, body: e.ModelCallFailed) -> e.ModelCallFailed:
    """The end of a failed or lost call with what it cost.

    What is known of its usage is what it had used when the provider last spoke, and may be less than it used.
    """
    if reserved is None:
        return body
    return msgspec.structs.replace(body, charge=nothing(reserved) if body.unbilled else whole(reserved))


def settling(
    reserved: Reserved | None, charge: Charge | None, counted: Sequence[Counted], usage: Usage | None, *, unsent: bool
) -> list[Hold]:
    """How balances move when a call has ended: what was set aside goes, what it cost is spent, and rates are corrected.

    Args:
        counted, usage, unsent: as in ``rates.ended``.
    """
    holds: list[Hold] = []
    if reserved is not None and charge is not None:
        holds = settled(reserved.held, reserved.amount, charge.amount)
    return holds + ended(counted, usage, unsent=unsent) if counted else holds


def settled(held: Iterable[Held], amount: Decimal, spent: Decimal) -> list[Hold]:
    """How budgets' balances move where a call that set ``amount`` aside has cost ``spent``, or many have together."""
    return [Hold(budget=each.budget, held=-each.of(amount), spent=each.of(spent)) for each in held]


_NONE: Mapping[str, Decimal] = {}


class Purse:
    """Who pays for one call, at one meter.

    Attributes:
        short: what budgets' balances were found to have left, less than a try of this call wanted.
        limited: the rate limit that this call has reached.
    """

    # Most calls set none of these.
    short: Mapping[str, Decimal] = _NONE
    limited: RateLimited | None = None
    _deployment: Deployment | None = None
    _terms: Terms | None = None
    """Of that deployment."""
    _counts: Sequence[Count] = ()
    _wanted: Mapping[str, Decimal] = _NONE
    _at_ms = 0

    def __init__(self, meter: Meter, account: _Account, service_tier: str | None) -> None:
        self._meter = meter
        self._account = account
        self._tier = service_tier

    @property
    def by_price(self) -> bool:
        """Whether prices decide where the call goes."""
        return bool(self._meter.ranks)

    def rank(self, deployment: Deployment) -> tuple[bool, Decimal, Decimal]:
        """By which the cheapest goes first; what has no price comes last."""
        found = self._meter.ranks.get(deployment.name)
        return _LAST if found is None else found.order

    def priced(self, deployments: Sequence[Deployment]) -> tuple[Priced, ...]:
        """What they cost in effect, for the record."""
        ranks = self._meter.ranks
        if not ranks:
            return ()
        return tuple(_priced(each.name, found) for each in deployments if (found := ranks.get(each.name)) is not None)

    def takes(self, deployment: Deployment) -> bool:
        """Whether the call may go to a deployment, as far as a price must be known."""
        unpriced: Unpriced = self._meter.unpriced
        if unpriced == "allow" or self._terms_at(deployment) is not None:
            return True
        return unpriced == "unbudgeted" and not self._account.hard

    def _terms_at(self, deployment: Deployment) -> Terms | None:
        # It is asked for twice: whether the call may go there, and then what it reserves.
        if self._deployment is not deployment:
            self._deployment = deployment
            self._terms = self._meter.terms(deployment.name, self._tier or deployment.service_tier)
        return self._terms

    def quote(self, deployment: Deployment, request: Callable[[], ModelRequest], at_ms: int) -> Quote:
        """What the call reserves there, and what it counts for.

        Raises:
            BudgetExceeded: a budget does not pay for it.
        """
        limits = self._account.limits
        if not limits:
            return self._reserve(deployment, request, at_ms)
        quote = self._reserve(deployment, request, at_ms)
        self._at_ms = at_ms
        self._counts = counts(limits, self._account.payer, at_ms)
        counted, holds = counting(self._counts, request)
        self._wanted = {hold.budget: hold.spent or hold.held for hold in holds}
        return Quote(quote.reserved, quote.covers, counted, holds)

    def _reserve(self, deployment: Deployment, request: Callable[[], ModelRequest], at_ms: int) -> Quote:
        """What the call reserves there.

        Where hard budgets cover it, it is held to the output that is reserved; where one has less left (``short``)
        than the whole would take, to less output.

        Raises:
            BudgetExceeded: a budget does not pay for its input and OUTPUT_TOKENS_PAID_MIN of output.
        """
        terms = self._terms_at(deployment)
        if terms is None:
            return UNPRICED
        account = self._account
        covers = self._meter.covers(account, terms.currency, at_ms) if account.budgets else NO_COVERS
        if covers is NO_COVERS and terms.free:
            return Quote(Reserved(tariff=terms.id, amount=ZERO, currency=terms.currency))
        asked = request()
        input_tokens = most_tokens(asked)
        limit = asked.params.max_output_tokens
        output_tokens = 0 if asked.embed is not None else _output_tokens(limit, deployment)
        if self.short:
            output_tokens = self._affordable(covers, terms.tariff.price, input_tokens, output_tokens)
        amount = terms.exact.worst(input_tokens, output_tokens)
        reserved = Reserved(
            tariff=terms.id,
            amount=amount,
            currency=terms.currency,
            held=covers.held,
            output_tokens=output_tokens if covers.bound and asked.embed is None and output_tokens != limit else None,
        )
        return Quote(reserved, covers)

    def _affordable(self, covers: Covers, price: Price, input_tokens: int, output_tokens: int) -> int:
        """How much of the output the budgets still pay for.

        Raises:
            BudgetExceeded: less than OUTPUT_TOKENS_PAID_MIN, and than the call asks for.
        """
        least = min(OUTPUT_TOKENS_PAID_MIN, output_tokens)
        for budget, held, most in zip(covers.budgets, covers.held, covers.limits, strict=True):
            left = self.short.get(held.budget)
            if left is not None and most is not None:
                affordable = output_affordable(price, input_tokens, left / held.rate)
                if affordable < least:
                    raise too_little(budget, left)
                output_tokens = min(output_tokens, affordable)
        return output_tokens

    def found_short(self, error: BudgetExceeded, tries: int, tries_max: int) -> None:
        """Remember what a budget has left, or that a rate limit is reached. After the last try it counts as nothing."""
        count = next((each for each in self._counts if each.balance == error.budget), None)
        if count is not None:
            self.limited = refusal(count, error.left, int(self._wanted[count.balance]), self._at_ms)
            return
        self.short = {**self.short, error.budget: error.left if tries < tries_max else Decimal(-1)}


_LAST = (True, Decimal("Infinity"), ZERO)


def _priced(name: str, found: Effective) -> Priced:
    draws = tuple(Drew(each.commitment, each.fraction, each.value) for each in found.draws)
    return Priced(name, found.list_price, found.amount, draws)


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
