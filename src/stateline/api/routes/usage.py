"""``/v1/usage``: what the tenant's calls used and cost, by day and model."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Literal

import msgspec

from stateline.api.call import Call
from stateline.api.query import FIRST_DAY, LAST_DAY, Query, day_ms
from stateline.api.service import Service
from stateline.core.response import CostField
from stateline.engine.usage import UsageKey, UsageSum


class UsageObject(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one day (UTC), model and workload, as far as this page has looked.

    Attributes:
        unpriced: how many of ``calls`` no price is known for.
        cached_tokens, cache_write_tokens: parts of ``input_tokens``; ``reasoning_tokens``: of ``output_tokens``.
        cost: one entry a currency.
    """

    object: Literal["usage"] = "usage"
    day: date
    model: str
    workload: str
    calls: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost: tuple[CostField, ...]


class UsageList(msgspec.Struct, frozen=True, kw_only=True):
    """What some of the tenant's sessions come to; the pages of a list add up.

    ``last_id`` goes into ``after`` for the next page, and may be there though this one is empty.
    """

    object: Literal["list"] = "list"
    data: tuple[UsageObject, ...]
    last_id: str | None
    has_more: bool


async def list_usage(service: Service, call: Call) -> None:
    query = Query(call.query)
    since, until = query.day("from") or FIRST_DAY, query.day("to") or LAST_DAY
    page = query.page()
    span = (day_ms(since), day_ms(until + timedelta(days=1)))
    found = await service.engine.usage(call.tenant, span, page.after)
    data = tuple(_object(key, each) for key, each in found.rows)
    await call.reply_json(UsageList(data=data, last_id=found.cursor, has_more=found.cursor is not None))


def _object(key: UsageKey, each: UsageSum) -> UsageObject:
    used = each.usage
    return UsageObject(
        day=key.day,
        model=key.model,
        workload=key.workload,
        calls=each.calls,
        unpriced=each.unpriced,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cached_tokens=used.cached_tokens,
        cache_write_tokens=used.cache_write_tokens,
        reasoning_tokens=used.reasoning_tokens,
        cost=tuple(
            CostField(amount=f"{amount:f}", currency=currency, estimated=estimated)
            for currency, (amount, estimated) in sorted(each.costs.items())
        ),
    )
