"""``/v1/placements``: where the tenant's stored calls went, and what the contracts said of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from stateline.api.call import Call
from stateline.api.query import Query
from stateline.api.service import Service
from stateline.core.response import PassedField, VerdictField, passed_fields, verdict_field
from stateline.engine import Placed


class PlacementObject(msgspec.Struct, frozen=True, kw_only=True):
    """One decision about where a call of a turn goes.

    Attributes:
        id: ``session/turn/step``.
        at_ms: when it was decided, in Unix milliseconds: the instant of its verdicts.
        deployment: null where the call went nowhere, and the turn waited.
        verdict: null where there were no contracts.
        passed: the other candidates, and why each did not get the call.
    """

    id: str
    object: Literal["placement"] = "placement"
    response_id: str
    at_ms: int
    model: str
    deployment: str | None
    verdict: VerdictField | None
    passed: tuple[PassedField, ...]


class PlacementList(msgspec.Struct, frozen=True, kw_only=True):
    """A page; ``last_id`` goes into ``after`` for the next one, and may be there though this one is empty."""

    object: Literal["list"] = "list"
    data: tuple[PlacementObject, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


async def list_placements(service: Service, call: Call) -> None:
    query = Query(call.query)
    page = query.page()
    found = await service.engine.placements(
        call.tenant, session=query.name("session"), after=page.after, limit=page.limit
    )
    data = tuple(_object(each) for each in found.placed)
    last = found.cursor or (data[-1].id if data else None)
    first = data[0].id if data else None
    await call.reply_json(PlacementList(data=data, first_id=first, last_id=last, has_more=found.cursor is not None))


def _object(placed: Placed) -> PlacementObject:
    return PlacementObject(
        id=placed.id,
        response_id=placed.response_id,
        at_ms=placed.at_ms,
        model=placed.model,
        deployment=placed.deployment,
        verdict=verdict_field(placed.verdict),
        passed=passed_fields(placed.passed, placed.refused),
    )
