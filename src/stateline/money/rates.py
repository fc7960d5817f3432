"""Rate limits: which of them cover a call, and the balances in which requests, tokens and places are counted."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

import msgspec

from stateline.core.errors import RateKind, RateLimited
from stateline.core.limits import RATE_WAIT_MS_MAX, RATE_WINDOW_MS
from stateline.money.budgets import Payer


class RateLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What each API key may do that it covers; each is counted by itself.

    It covers a call that agrees with all that it names of tenant, key (an API key's id) and model.

    Attributes:
        name: its own; the balances' names begin with it.
        requests_per_minute, tokens_per_minute: in each minute of UTC; None: as many as there come.
        max_concurrency: calls of models at one time; None: as many as there come.
    """

    name: str
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None


class Count(NamedTuple):
    """One balance that a call counts in.

    Attributes:
        balance: its name.
        rule: the rate limit's name.
        until_ms: when its window ends (Unix time); 0: it has none.
    """

    balance: str
    rule: str
    kind: RateKind
    limit: int
    until_ms: int


def covers(limit: RateLimit, payer: Payer) -> bool:
    return (
        (limit.tenant is None or limit.tenant == payer.tenant)
        and (limit.key is None or limit.key == payer.key)
        and (limit.model is None or limit.model == payer.model)
    )


def limiting(limits: Iterable[RateLimit], payer: Payer) -> tuple[RateLimit, ...]:
    """Those that hold for a call, in their order."""
    return tuple(each for each in limits if covers(each, payer))


def window_end_ms(at_ms: int) -> int:
    """When the window of an instant ends (Unix time)."""
    return at_ms - at_ms % RATE_WINDOW_MS + RATE_WINDOW_MS


def counts(limits: Iterable[RateLimit], payer: Payer, at_ms: int) -> list[Count]:
    """The balances that a call counts in which is made at an instant (Unix time)."""
    minute, until_ms = at_ms // RATE_WINDOW_MS, window_end_ms(at_ms)
    found: list[Count] = []
    for each in limits:
        at = f"rate/{each.name}/{payer.tenant}/{payer.key}"
        if each.requests_per_minute is not None:
            name = f"{at}/requests/{minute}"
            found.append(Count(name, each.name, "requests", each.requests_per_minute, until_ms))
        if each.tokens_per_minute is not None:
            found.append(Count(f"{at}/tokens/{minute}", each.name, "tokens", each.tokens_per_minute, until_ms))
        if each.max_concurrency is not None:
            found.append(Count(f"{at}/concurrency", each.name, "concurrency", each.max_concurrency, 0))
    return found


def refusal(count: Count, left: Decimal, wanted: int, at_ms: int) -> RateLimited:
    """The error of a call that wants more of a balance than is left of it.

    One that wants more than a whole window has can never be made, and is told so.
    """
    rest, until_ms = max(0, int(left)), count.until_ms or at_ms + 1_000
    if count.kind == "tokens" and wanted > count.limit:
        message = (
            f"this request counts {wanted} tokens, input by estimate and max_output_tokens together, and the rate "
            f"limit {count.rule!r} is {count.limit} a minute; make it smaller"
        )
        return RateLimited(message, kind="tokens", limit=count.limit, left=rest, until_ms=None, at_ms=at_ms)
    if count.kind == "concurrency":
        message = f"the rate limit {count.rule!r} is {count.limit} calls at one time; try again when one has ended"
    else:
        message = (
            f"the rate limit {count.rule!r} is {count.limit} {count.kind} a minute, and this call wants {wanted} "
            f"where {rest} are left; try again when the minute is over"
        )
    return RateLimited(message, kind=count.kind, limit=count.limit, left=rest, until_ms=until_ms, at_ms=at_ms)


def again_ms(error: RateLimited, step: int, at_ms: int) -> int | None:
    """When a running turn looks again (Unix time); None: never.

    Nobody says when a place is free, so the later the turn's step, the longer it waits for one.
    """
    if error.until_ms is None or error.kind != "concurrency":
        return error.until_ms
    return at_ms + min(step * 1_000, RATE_WAIT_MS_MAX)
