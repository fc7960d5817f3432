"""Paying for calls: a place that is paid for, and what a call's end in its session's log moves."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stateline.core import events as e
from stateline.core.calls import ModelRequest
from stateline.core.session import Session
from stateline.engine.meter import UNPRICED, Meter, Purse, Quote, failed, settling, whole
from stateline.engine.place import Placement
from stateline.ports import BudgetExceeded, Hold

ENDINGS: frozenset[type] = frozenset((e.ModelCallFinished, e.ModelCallFailed))


def paid(
    look: Callable[..., Placement], purse: Purse | None, request: Callable[[], ModelRequest], at_ms: int
) -> tuple[Placement, Quote]:
    """Where a call goes, and what it reserves there: the first place in order that takes it and is paid for.

    Args:
        look: ``place.place`` but for ``purse`` and ``dear``.

    Raises:
        BudgetExceeded: it is paid for nowhere.
        RateLimited: it was found to be above a rate limit.
        BadRequest: as ``look`` does.
    """
    if purse is not None and purse.limited is not None:
        raise purse.limited
    dear: list[str] = []
    short: BudgetExceeded | None = None
    while True:
        placement = look(purse=purse, dear=dear)
        deployment = placement.deployment
        if deployment is None and short is not None:
            raise short
        if deployment is None or purse is None:
            return placement, UNPRICED
        try:
            return placement, purse.quote(deployment, request, at_ms)
        except BudgetExceeded as error:
            short = error
            dear.append(deployment.name)
            if placement.permit is not None:
                placement.permit.end("unknown")


def closed(session: Session, body: e.Body, meter: Meter | None) -> e.Body:
    """The end of the session's call, with its charge where the call has reserved something."""
    turn = session.turn
    reserved = None if turn is None or turn.call is None else turn.call.reserved
    if reserved is None:
        return body
    if type(body) is e.ModelCallFailed:
        return failed(reserved, body)
    assert type(body) is e.ModelCallFinished
    # Without its prices, which the configuration has lost since, nothing is known but what was reserved.
    charge = whole(reserved) if meter is None else meter.charged(reserved, body.usage, body.service_tier)
    return msgspec.structs.replace(body, charge=charge)


def settlement(session: Session, body: e.Body) -> list[Hold]:
    """How balances move with the end of the session's call."""
    turn = session.turn
    if turn is None or turn.call is None:
        return []
    assert type(body) is e.ModelCallFinished or type(body) is e.ModelCallFailed
    call, unsent = turn.call, type(body) is e.ModelCallFailed and body.unbilled
    return settling(call.reserved, body.charge, call.counted, body.usage, unsent=unsent)
