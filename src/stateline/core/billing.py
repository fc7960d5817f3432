"""What a call is billed by, as it is recorded. Amounts are decimals, strings in JSON, never floats.

A *tariff* is a price as it was applied to one deployment. It is recorded once, and events name it by its id, so
that what a call cost can be computed again when the configuration has long moved on.
"""

from __future__ import annotations

from datetime import date
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow

import msgspec

from stateline.core.calls import Usage
from stateline.core.limits import AMOUNT_MAX, AMOUNT_PLACES_MAX

ZERO = Decimal(0)
ONE = Decimal(1)
EXACT = Context(prec=160, traps=[Inexact, InvalidOperation, Overflow])
"""Adds amounts, and converts them, without ever rounding one (``EXACT.add``)."""
DEFAULT_TIER = "default"
SERVICES = {
    "openai": "OpenAI API",
    "azure": "Azure AI Foundry",
    "anthropic": "Claude API",
    "aws": "Amazon Bedrock",
    "google": "Vertex AI",
}
"""What models are sold as, by cloud: FOCUS ServiceName."""
_DEFAULT_TIERS = frozenset({"", "auto", "default", "standard", "standard_only", "on_demand"})


def tier_of(service_tier: str | None) -> str:
    """A service tier by the name that prices have it under: clouds have several for the one that is not named."""
    return DEFAULT_TIER if service_tier is None or service_tier in _DEFAULT_TIERS else service_tier


def is_amount(value: Decimal) -> bool:
    """Whether it is one that can be computed with exactly: AMOUNT_MAX at most, of AMOUNT_PLACES_MAX places at most."""
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -AMOUNT_PLACES_MAX and 0 <= value <= AMOUNT_MAX


def plain(amount: Decimal) -> Decimal:
    """The same amount without trailing zeros or an exponent above zero, so that equal ones are written alike."""
    short = amount.normalize()
    exponent = short.as_tuple().exponent
    return short.quantize(Decimal(1)) if isinstance(exponent, int) and exponent > 0 else short


class Rates(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Prices of a million tokens each.

    Attributes:
        above: they hold for calls with more input tokens than this, and then for all tokens of the call.
        cached, cache_write: of input read from a cache and written to one; None: as ``input``.
        reasoning: None: as ``output``.
    """

    input: Decimal
    output: Decimal = ZERO
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    above: int = 0


class Price(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One row of a price book.

    Attributes:
        cloud, model: whose row it is; ``model`` as the cloud calls it.
        region: None: wherever no row names the region.
        service_tier: as ``tier_of`` gives it; a row is never another tier's.
        currency: ISO 4217.
        rates: by ``above``, ascending; the first has 0.
        per_call: what a call costs beside its tokens.
        since, until: the first day on which it holds, and the first on which it no longer does (UTC).
        source: whose word it is, for a person.
    """

    cloud: str
    model: str
    region: str | None = None
    service_tier: str = DEFAULT_TIER
    currency: str
    rates: tuple[Rates, ...]
    per_call: Decimal = ZERO
    since: date | None = None
    until: date | None = None
    source: str = ""


class Tariff(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A price as it was applied to one deployment, with what a bill says of that.

    Attributes:
        id: a digest of all the rest.
        model: as requests name it; ``upstream_model``: as the cloud does.
        host: whose infrastructure (FOCUS HostProviderName).
        price: its ``service_tier`` is the tier that was asked for, or that the cloud says it served.
    """

    id: str
    deployment: str
    model: str
    upstream_model: str
    cloud: str
    host: str
    price: Price
    vendor: str = ""
    region: str = ""
    billing_account: str = ""
    accelerator: str = ""
    channel: str = "direct"


class Held(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One budget that has set a call's amount aside, in its own currency (``of``).

    Attributes:
        budget: the balance's name.
        rate: what one unit of the tariff's currency is in the budget's.
    """

    budget: str
    rate: Decimal = ONE

    def of(self, amount: Decimal) -> Decimal:
        """An amount of the tariff's currency in the budget's, exactly: so sums may be converted as their parts are."""
        return amount if self.rate == ONE else EXACT.multiply(amount, self.rate)


class Reserved(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The most that a call may cost, set aside before it is sent.

    Attributes:
        tariff: by which it was computed.
        amount: in the tariff's currency.
        held: the budgets that cover the call. Each has set all of ``amount`` aside.
        output_tokens: the output limit that it can pay for, where the call is held to it; None: its own.
    """

    tariff: str
    amount: Decimal
    currency: str
    held: tuple[Held, ...] = ()
    output_tokens: int | None = None


class Counted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a call counts for in one balance of a rate limit, as far as its end moves that again.

    Attributes:
        budget: the balance's name.
        places: how many it takes while it runs; given back when it has ended.
        tokens: an estimate; what the call really used takes its place.
        until_ms: when the balance's window ends (Unix time); 0: it has none.
    """

    budget: str
    places: int = 0
    tokens: int = 0
    until_ms: int = 0


class Charge(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a call cost.

    Attributes:
        estimated: its usage never came, so it is the whole reservation, and may be too much.
    """

    tariff: str
    amount: Decimal
    currency: str
    estimated: bool = False


class Metered(msgspec.Struct, frozen=True, kw_only=True):
    """One call as a bill sees it, wherever it was recorded.

    Attributes:
        id: the effect's key, or the ledger's number of a stateless call.
        at_ms: when it ended (Unix time).
        charge: None where no price was known.
        status: ``ok``, or the stable code of its failure.
        unbilled: nothing of it was sent, or its provider refused it.
    """

    id: str
    at_ms: int
    tenant: str
    principal: str
    session: str
    model: str
    deployment: str
    interface: str
    workload: str
    charge: Charge | None
    usage: Usage | None = None
    status: str = "ok"
    unbilled: bool = False
