"""What a tenant's calls cost, by day and model: a view of the logs of its sessions and of the nodes' books."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import NamedTuple

from stateline.core.billing import ZERO, Metered
from stateline.core.calls import Usage
from stateline.core.errors import BadRequest
from stateline.core.ids import SYSTEM_TENANT, SessionRef
from stateline.core.limits import USAGE_BOOKS_MAX, USAGE_SESSIONS_MAX
from stateline.core.metered import Calls
from stateline.ports import SessionMissing, Store

_BOOK = "-"
"""Before the session of a cursor that lies in a node's book."""
_NOTHING = Usage()


class UsageKey(NamedTuple):
    day: date
    model: str
    workload: str


class UsageSum(NamedTuple):
    """Calls added up. ``costs`` by currency, with whether some of it is estimated; ``unpriced`` calls have none."""

    calls: int
    unpriced: int
    usage: Usage
    costs: dict[str, tuple[Decimal, bool]]


class UsagePage(NamedTuple):
    """What so many sessions come to. ``cursor`` is where the next page begins; None where there is none."""

    rows: list[tuple[UsageKey, UsageSum]]
    cursor: str | None


async def usage(store: Store, tenant: str, span: tuple[int, int], after: str | None) -> UsagePage:
    """A page: up to USAGE_SESSIONS_MAX of the tenant's sessions, the newest first, or USAGE_BOOKS_MAX books.

    Args:
        span: calls that ended from the first of these times on, and before the second (Unix ms).
        after: the ``cursor`` of the page before.

    Raises:
        BadRequest: ``invalid_cursor``.
    """
    in_books = after is not None and after.startswith(_BOOK)
    before = None if after is None else after.removeprefix(_BOOK)
    if before and not (before.isascii() and before.isalnum()):
        raise BadRequest("Invalid 'after': no such item in this list.", code="invalid_cursor", param="after")
    found: dict[UsageKey, UsageSum] = {}
    whose = SYSTEM_TENANT if in_books else tenant
    most = USAGE_BOOKS_MAX if in_books else USAGE_SESSIONS_MAX
    names = await store.sessions(whose, before or None, most)
    for name in names:
        await _add(store, SessionRef(whose, name), tenant, span, found)
    rows = sorted(found.items(), key=lambda row: row[0], reverse=True)
    if len(names) == most:
        return UsagePage(rows, (_BOOK if in_books else "") + names[-1])
    # Behind the sessions come the books of what is kept in none.
    return UsagePage(rows, None if in_books else _BOOK)


async def _add(
    store: Store, ref: SessionRef, tenant: str, span: tuple[int, int], found: dict[UsageKey, UsageSum]
) -> None:
    calls = Calls()
    try:
        async for event in store.read(ref):
            if event.session != ref:
                # A fork's prefix counts where it was made.
                continue
            for call in calls.see(event):
                if call.tenant == tenant and span[0] <= call.at_ms < span[1]:
                    _count(call, found)
    except SessionMissing:
        return  # It was erased meanwhile.


def _count(call: Metered, found: dict[UsageKey, UsageSum]) -> None:
    key = UsageKey(datetime.fromtimestamp(call.at_ms / 1000, UTC).date(), call.model, call.workload)
    before = found.get(key, UsageSum(0, 0, _NOTHING, {}))
    costs, charge = before.costs, call.charge
    if charge is not None:
        amount, estimated = costs.get(charge.currency, (ZERO, False))
        costs = {**costs, charge.currency: (amount + charge.amount, estimated or charge.estimated)}
    found[key] = UsageSum(
        before.calls + 1,
        before.unpriced + (charge is None and not call.unbilled),
        before.usage + (call.usage or _NOTHING),
        costs,
    )
