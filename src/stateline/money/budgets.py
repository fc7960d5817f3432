"""Budgets: which of them cover a call, and the balance that each keeps in a month."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What may be spent in each UTC calendar month, in ``currency``.

    It covers a call that agrees with all that it names of tenant, key (an API key's id), agent, session and model.

    Attributes:
        name: its own; the balance's name begins with it.
        mode: ``hard`` refuses what would pass the limit; ``warn`` counts, and says so.
    """

    name: str
    limit: Decimal
    currency: str = "USD"
    tenant: str | None = None
    key: str | None = None
    agent: str | None = None
    session: str | None = None
    model: str | None = None
    mode: Literal["hard", "warn"] = "hard"


class Payer(NamedTuple):
    """Who a call is made for, as budgets tell calls apart. ``session`` is empty where it is kept in none."""

    tenant: str
    key: str
    model: str
    session: str = ""
    agent: str = ""


def covers(budget: Budget, payer: Payer) -> bool:
    return (
        (budget.tenant is None or budget.tenant == payer.tenant)
        and (budget.key is None or budget.key == payer.key)
        and (budget.model is None or budget.model == payer.model)
        and (budget.session is None or budget.session == payer.session)
        and (budget.agent is None or budget.agent == payer.agent)
    )


def covering(budgets: Iterable[Budget], payer: Payer) -> list[Budget]:
    """Those that a call draws on, in their order."""
    return [budget for budget in budgets if covers(budget, payer)]


def month_of(at_ms: int) -> str:
    """The UTC calendar month of an instant (Unix time): ``2026-11``."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m")


def balance_name(budget: Budget, month: str) -> str:
    """The balance of a budget in a month. It ends with the month, so names sort by budget."""
    return f"budget/{budget.name}/{month}"


class Rate(NamedTuple):
    """What one unit of ``have`` is in ``want``, from a day on until a later rate of the two."""

    have: str
    want: str
    rate: Decimal
    on: date


def rates_on(rates: Iterable[Rate], day: date) -> dict[tuple[str, str], Decimal]:
    """The rates that hold on a day: of each pair of currencies the latest that has begun."""
    begun = sorted((each for each in rates if each.on <= day), key=lambda each: each.on)
    return {(each.have, each.want): each.rate for each in begun}


class NoRate(Exception):
    """No rate between two currencies is configured."""

    def __init__(self, have: str, want: str) -> None:
        super().__init__(f"no rate from {have} to {want}")
        self.have = have
        self.want = want


def converted(amount: Decimal, have: str, want: str, rates: Mapping[tuple[str, str], Decimal]) -> Decimal:
    """``amount`` in another currency, by a configured rate: what one unit of the first is in the second.

    Raises:
        NoRate: there is none; nothing is guessed, not even the inverse of the other way.
    """
    if have == want:
        return amount
    rate = rates.get((have, want))
    if rate is None:
        raise NoRate(have, want)
    return amount * rate
