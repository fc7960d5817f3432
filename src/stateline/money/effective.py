"""What a call costs in effect: its price, less what its use is worth to commitments (docs/commitments.md).

A plan says what one more unit of money drawn by a commitment saves: nothing where it is met anyway, up to the
shortfall rate where it is not, one where a prepaid or reserved amount would lapse. These *marginal values* are
stamped with the time at which they were made, and count for 24 hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, NamedTuple

import msgspec

from stateline.core.errors import StatelineError
from stateline.core.limits import MARGINAL_VALUES_FRESH_S

ZERO, ONE = Decimal(0), Decimal(1)
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)


class ValuesError(StatelineError):
    """Marginal values that cannot be used."""

    code = "values_invalid"
    status = 400
    blame = "operator"


class Interval(NamedTuple):
    """Of a commitment: its value from a day on, before another one."""

    since: date
    until: date
    value: Decimal


class Values(NamedTuple):
    """The marginal values of a plan: commitment -> its intervals, by their days."""

    made_at: datetime
    intervals: Mapping[str, tuple[Interval, ...]]

    def fresh(self, now: datetime) -> bool:
        """Whether they are younger than MARGINAL_VALUES_FRESH_S; what comes from the future is not."""
        return timedelta(0) <= now - self.made_at < timedelta(seconds=MARGINAL_VALUES_FRESH_S)

    def of(self, commitment: str, day: date) -> Decimal | None:
        """What a unit of money drawn on a day is worth; None: the plan says nothing of that day."""
        for each in self.intervals.get(commitment, ()):
            if each.since <= day < each.until:
                return each.value
        return None


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    made_at: str
    values: dict[str, dict[str, str]]


def encode(made_at: datetime, values: Mapping[str, Mapping[str, str]]) -> bytes:
    """The file of marginal values, as JSON.

    Args:
        values: commitment -> interval, as ``2026-01-01/2027-01-01`` -> decimal.
    """
    written = _Written(made_at=made_at.isoformat(), values={name: dict(each) for name, each in values.items()})
    return msgspec.json.format(msgspec.json.encode(written), indent=2) + b"\n"


def decode(data: bytes) -> Values:
    """Marginal values from their file.

    Raises:
        ValuesError: ``values_invalid``: it is no such file, or a value is none from 0 on.
    """
    try:
        written = msgspec.json.decode(data, type=_Written)
        made_at = datetime.fromisoformat(written.made_at).astimezone(UTC)
        found = {name: tuple(sorted(_interval(*one) for one in each.items())) for name, each in written.values.items()}
    except (msgspec.MsgspecError, ValueError, ArithmeticError) as error:
        message = f"this is no file of marginal values ({error}); make one with: stateline contracts plan --values FILE"
        raise ValuesError(message) from None
    return Values(made_at, found)


def schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    return msgspec.json.schema(_Written)


def _interval(text: str, value: str) -> Interval:
    since, _, until = text.partition("/")
    worth = Decimal(value)
    if not (worth.is_finite() and worth >= 0):
        raise ValueError(f"{value} is no value")
    return Interval(date.fromisoformat(since), date.fromisoformat(until), worth)


class Draw(NamedTuple):
    """A commitment that a deployment's use draws down.

    Attributes:
        commitment: the clause, as ``contract/clause``.
        fraction: which part of the cost counts.
        value: of a unit of money that counts.
        paid: it is prepaid or reserved: use of it is not billed.
    """

    commitment: str
    fraction: Decimal
    value: Decimal
    paid: bool = False


class Effective(NamedTuple):
    """A price in effect.

    Attributes:
        list_price: the price before.
        amount: after; never below 0.
        draws: the commitments that made it less, those that did most first.
        free: it draws on what is paid already and would lapse: such a deployment goes first, whatever the prices.
    """

    list_price: Decimal
    amount: Decimal
    draws: tuple[Draw, ...]
    free: bool

    @property
    def order(self) -> tuple[bool, Decimal, Decimal]:
        """By which the cheapest goes first: what is free, then by effective price, then by list."""
        return not self.free, self.amount, self.list_price


def effective(list_price: Decimal, draws: Sequence[Draw]) -> Effective:
    """A price less what its use is worth: ``price * (1 - sum of fraction * value)``.

    Args:
        list_price: of a call, the worst or the expected one; in any currency, since values are parts of it.
    """
    worth = sorted((each for each in draws if each.fraction and each.value), key=_weight, reverse=True)
    share = sum(map(_weight, worth), ZERO)
    amount = _EXACT.multiply(list_price, max(ZERO, _EXACT.subtract(ONE, share)))
    free = any(each.paid and _weight(each) >= ONE for each in worth)
    return Effective(list_price, amount, tuple(worth), free)


def _weight(draw: Draw) -> Decimal:
    return _EXACT.multiply(draw.fraction, draw.value)
