"""``/v1/budgets``: what may be spent, what is, and what is set aside for calls under way."""

from __future__ import annotations

from typing import Literal

import msgspec

from stateline.api.call import Call
from stateline.api.service import Service
from stateline.engine.types import BudgetState


class BudgetObject(msgspec.Struct, frozen=True, kw_only=True):
    """One budget in the present month; amounts are decimals, in digits.

    Attributes:
        tenant, key, agent, session, model: what it covers, where it names it.
        month: a UTC calendar month, ``2026-11``.
        held: set aside for calls under way.
        left: neither spent nor held; below zero where ``mode`` is ``warn`` and more was spent.
    """

    name: str
    object: Literal["budget"] = "budget"
    tenant: str | None
    key: str | None
    agent: str | None
    session: str | None
    model: str | None
    mode: Literal["hard", "warn"]
    currency: str
    month: str
    limit: str
    spent: str
    held: str
    left: str


class BudgetList(msgspec.Struct, frozen=True, kw_only=True):
    """All of them; there are as many as the configuration names."""

    object: Literal["list"] = "list"
    data: tuple[BudgetObject, ...]


async def list_budgets(service: Service, call: Call) -> None:
    found = await service.engine.budgets(call.tenant, call.principal.id)
    await call.reply_json(BudgetList(data=tuple(map(_object, found))))


async def list_all(service: Service, call: Call) -> None:
    found = await service.engine.budgets(None)
    await call.reply_json(BudgetList(data=tuple(map(_object, found))))


def _object(state: BudgetState) -> BudgetObject:
    budget, balance = state.budget, state.balance
    return BudgetObject(
        name=budget.name,
        tenant=budget.tenant,
        key=budget.key,
        agent=budget.agent,
        session=budget.session,
        model=budget.model,
        mode=budget.mode,
        currency=budget.currency,
        month=state.month,
        limit=f"{budget.limit:f}",
        spent=f"{balance.spent:f}",
        held=f"{balance.held:f}",
        left=f"{budget.limit - balance.spent - balance.held:f}",
    )
