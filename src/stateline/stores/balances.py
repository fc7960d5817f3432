"""How holds move balances: the same sums and the same refusals, wherever the rows lie.

Sums are exact: ``billing.EXACT`` has digits for all that ``check`` lets in, and rounds nothing silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import NamedTuple

from stateline.core.billing import EXACT
from stateline.core.errors import BadRequest
from stateline.core.limits import AMOUNT_DIGITS_MAX, HOLDS_MAX
from stateline.ports import Balance, BudgetExceeded, Hold

_LEAST = Decimal(1).scaleb(-AMOUNT_DIGITS_MAX)
_DIGITS = Context(prec=2 * AMOUNT_DIGITS_MAX, traps=[Inexact, InvalidOperation])
"""Holds AMOUNT_DIGITS_MAX digits on either side of the point; what has more to the right would be rounded."""
_LIMITS_MAX = 1_000
_limits: dict[int, Decimal] = {}
"""Limits that add up, by their ids: those of budgets come with every call again."""


class Standing(NamedTuple):
    """A balance's row. ``expires_ms`` is the latest that its holds named; None: one of them named none."""

    held: Decimal
    spent: Decimal
    expires_ms: int | None

    @property
    def balance(self) -> Balance:
        return Balance(self.held, self.spent)


def check(holds: Sequence[Hold]) -> None:
    """What one append brings can be added up.

    Raises:
        BadRequest: ``hold_invalid``: too many holds, or an amount that is no number of AMOUNT_DIGITS_MAX digits
            on either side of its point.
    """
    if len(holds) > HOLDS_MAX:
        raise BadRequest(f"{len(holds)} holds in one append, {HOLDS_MAX} at most", code="hold_invalid")
    for hold in holds:
        held, spent, limit = hold.held, hold.spent, hold.limit
        if held:
            _check(hold, held)
        if spent:
            _check(hold, spent)
        if limit is not None and _limits.get(id(limit)) is not limit:
            _check(hold, limit)
            if len(_limits) >= _LIMITS_MAX:
                _limits.clear()
            _limits[id(limit)] = limit


def _check(hold: Hold, amount: Decimal) -> None:
    try:
        if _DIGITS.quantize(amount, _LEAST).is_finite():
            return
    except (Inexact, InvalidOperation):
        pass
    raise BadRequest(f"a hold of the budget {hold.budget} has {amount}, which is no amount", code="hold_invalid")


def plus(one: Decimal, other: Decimal) -> Decimal:
    """Their exact sum."""
    return EXACT.add(one, other)


def minus(one: Decimal, other: Decimal) -> Decimal:
    """Their exact difference."""
    return EXACT.subtract(one, other)


def later(one: int | None, other: int | None) -> int | None:
    """The later of two times; None is after all others."""
    return None if one is None or other is None else max(one, other)


def moved(holds: Sequence[Hold], find: Callable[[str], Standing | None]) -> dict[str, Standing]:
    """The balances as the holds of one append leave them, one after the other.

    Args:
        find: the balance before them; None: there is none yet.

    Raises:
        BudgetExceeded: one does not fit; ``left`` is what its budget has without this append.
    """
    out: dict[str, Standing] = {}
    add = EXACT.add
    for hold in holds:
        name, held, spent = hold.budget, hold.held, hold.spent
        was = out.get(name) or find(name)
        if was is None:
            expires_ms = hold.expires_ms
        else:
            held = add(was.held, held) if held else was.held
            spent = add(was.spent, spent) if spent else was.spent
            expires_ms = was.expires_ms if hold.expires_ms == was.expires_ms else later(was.expires_ms, hold.expires_ms)
        if hold.limit is not None and (add(held, spent) if held else spent) > hold.limit:
            raise refused(hold, find(name))
        out[name] = Standing(held, spent, expires_ms)
    return out


def refused(hold: Hold, before: Standing | None) -> BudgetExceeded:
    """What a hold above its limit is told, where the balance without its append is ``before``."""
    assert hold.limit is not None
    left = hold.limit if before is None else minus(hold.limit, plus(before.held, before.spent))
    return BudgetExceeded(hold.budget, left)


class Sum(NamedTuple):
    """What many holds of one balance come to.

    All of them fit, one after the other, where it stands at ``room`` or less; None: wherever.
    """

    held: Decimal
    spent: Decimal
    room: Decimal | None
    expires_ms: int | None


def summed(holds: Iterable[Hold]) -> dict[str, Sum]:
    """Holds in their order, a sum for each balance."""
    out: dict[str, Sum] = {}
    add = EXACT.add
    for hold in holds:
        before = out.get(hold.budget)
        if before is None:
            held, spent, room, expires_ms = hold.held, hold.spent, None, hold.expires_ms
        else:
            held, spent, room, expires_ms = before
            if hold.held:
                held = add(held, hold.held)
            if hold.spent:
                spent = add(spent, hold.spent)
            if expires_ms is not None:
                expires_ms = later(expires_ms, hold.expires_ms)
        if hold.limit is not None:
            mine = minus(hold.limit, add(held, spent) if spent else held)
            if room is None or mine < room:
                room = mine
        out[hold.budget] = Sum(held, spent, room, expires_ms)
    return out
