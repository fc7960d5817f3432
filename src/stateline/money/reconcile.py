"""The meter against a cloud's own export: what differs by day, account and model, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Literal, NamedTuple

from stateline.core.billing import ZERO
from stateline.money.billed import Line, Names, Statement
from stateline.money.focus import RESERVED, Bill, plain

What = Literal[
    "missing_here", "missing_there", "unpriced_here", "estimated_here", "price_differs", "quantity_differs",
    "cost_differs", "other_currency", "rounding",
]  # fmt: skip
WHATS: tuple[What, ...] = (
    "missing_here", "missing_there", "unpriced_here", "estimated_here", "price_differs", "quantity_differs",
    "cost_differs", "other_currency", "rounding",
)  # fmt: skip
_RELATIVE = Decimal("1e-9")
"""What a cost that went through a binary float may be off by."""
_MILLION = Decimal(1_000_000)


class Side(NamedTuple):
    """What one side says. ``quantity`` is in tokens or calls; None where it is not told."""

    quantity: Decimal | None
    cost: Decimal


_Sides = tuple[Side | None, Side | None]
"""Here, and there."""


class Difference(NamedTuple):
    """One difference.

    Attributes:
        kind: of token; ``""``: of all.
        here, there: None where that side has nothing. Where currencies differ, costs are not compared.
        words: why, for a person.
    """

    what: What
    day: date
    account: str
    model: str
    kind: str
    currency: str
    here: Side | None
    there: Side | None
    words: str

    @property
    def agrees(self) -> bool:
        """Whether it is no more than the file's own rounding."""
        return self.what == "rounding"


class Counted(NamedTuple):
    """A line of the meter. ``low`` and ``high`` are the least and the highest price of a million (of one call)."""

    quantity: Decimal
    cost: Decimal
    low: Decimal
    high: Decimal


class _Cell:
    """What the meter has on one day in one account of one model, by currency."""

    def __init__(self) -> None:
        self.lines: dict[str, dict[str, Counted]] = {}
        self.reserved: dict[str, Decimal] = {}
        self.reserved_calls = 0
        self.reasons: set[str] = set()

    @property
    def currencies(self) -> set[str]:
        return {*self.lines, *self.reserved}

    def cost(self, currency: str) -> Decimal:
        lines = self.lines.get(currency, {})
        return sum((line.cost for line in lines.values()), self.reserved.get(currency, ZERO))


class Meter:
    """The meter's side: a bill by day, account, model, currency and kind of token.

    Args:
        names: by which accounts and models are known.
    """

    def __init__(self, bill: Bill, names: Names) -> None:
        self.cells: dict[tuple[date, str, str], _Cell] = {}
        self.unpriced = bill.unpriced_days
        for group, amount, tariff in bill.groups():
            account = tariff.billing_account
            cell = self.cells.setdefault((group.day, account, names.label(account, tariff.model)), _Cell())
            currency = tariff.price.currency
            if group.kind == RESERVED:
                cell.reserved[currency] = cell.reserved.get(currency, ZERO) + amount.amount
                cell.reserved_calls += amount.calls
                cell.reasons.add(group.reason)
                continue
            # Providers bill reasoning as output.
            kind = "output" if group.kind == "reasoning" else group.kind
            lines = cell.lines.setdefault(currency, {})
            added = Counted(Decimal(amount.quantity), amount.amount, group.per_mtok, group.per_mtok)
            lines[kind] = added if kind not in lines else _sum([lines[kind], added])


class Result(NamedTuple):
    """What a reconciliation comes to.

    Attributes:
        compared: days, accounts and models that were on either side.
        absent: accounts and models of the meter that the file has nothing of at all, so that they were not compared.
        costs: by currency, of what was compared: here and there.
    """

    compared: int
    differences: list[Difference]
    absent: list[tuple[str, str]]
    costs: dict[str, tuple[Decimal, Decimal]]

    @property
    def agrees(self) -> bool:
        return all(each.agrees for each in self.differences)


def reconcile(meter: Meter, statement: Statement, tolerance: Decimal = ZERO) -> Result:
    """Compare both sides.

    Args:
        tolerance: by how much the cost of a line may differ beside the file's own rounding.
    """
    there: dict[tuple[date, str, str], dict[str, dict[str, Line]]] = {}
    for key, line in statement.lines.items():
        cell = there.setdefault((key.day, key.account, key.model), {})
        cell.setdefault(key.currency, {})[key.kind] = line
    unnamed = {model for _, account, model in there if not account}
    absent: set[tuple[str, str]] = set()
    costs: dict[str, tuple[Decimal, Decimal]] = {}
    found: list[Difference] = []
    compared = 0
    for where in sorted({*meter.cells, *there}):
        _, account, model = where
        here = meter.cells.get(where)
        billed = there.get(where, {})
        if not billed and (account not in statement.accounts if account else model not in unnamed):
            absent.add((account, model))
            continue
        compared += 1
        compare = _Compare(where, here or _Cell(), billed, statement, tolerance)
        found += compare.all(meter.unpriced.get((where[0], model), 0))
        for currency, (mine, theirs) in compare.costs().items():
            before = costs.get(currency, (ZERO, ZERO))
            costs[currency] = (before[0] + mine, before[1] + theirs)
    return Result(compared, found, sorted(absent), costs)


class _Compare:
    """One day, account and model."""

    def __init__(
        self,
        where: tuple[date, str, str],
        here: _Cell,
        there: Mapping[str, Mapping[str, Line]],
        statement: Statement,
        tolerance: Decimal,
    ) -> None:
        self._where = where
        self._here = here
        self._there = there
        self._statement = statement
        self._tolerance = tolerance

    def costs(self) -> dict[str, tuple[Decimal, Decimal]]:
        """By currency, here and there."""
        theirs = {
            currency: sum((line.cost for line in lines.values()), ZERO) for currency, lines in self._there.items()
        }
        names = sorted({*theirs, *self._here.currencies})
        return {name: (self._here.cost(name), theirs.get(name, ZERO)) for name in names}

    def all(self, unpriced: int) -> Iterator[Difference]:
        here, there = self._here, self._there
        if not there:
            for currency in sorted(here.currencies):
                yield self._nothing_there(currency)
        elif not here.currencies:
            for currency, lines in sorted(there.items()):
                side = _side(lines.values())
                if unpriced:
                    words = f"{unpriced} calls were made here, and no price is known for them"
                    yield self._found("unpriced_here", "", currency, (None, side), words)
                else:
                    yield self._found("missing_here", "", currency, (None, side), "the meter has no such calls")
        elif set(there) != here.currencies:
            yield from self._other_currency()
        else:
            for currency, lines in sorted(there.items()):
                yield from self._lines(currency, here.lines.get(currency, {}), lines)

    def _nothing_there(self, currency: str) -> Difference:
        here = self._here
        lines = here.lines.get(currency, {})
        side = Side(sum((line.quantity for line in lines.values()), ZERO), here.cost(currency))
        if lines:
            return self._found("missing_there", "", currency, (side, None), "the cloud bills nothing of it")
        words = f"{self._reserved(currency)}; the cloud bills nothing of it"
        return self._found("estimated_here", "", currency, (side._replace(quantity=None), None), words)

    def _other_currency(self) -> Iterator[Difference]:
        """Costs do not compare; tokens do, where all of them were metered."""
        lines = [line for each in self._here.lines.values() for line in each.values()]
        mine, theirs = "+".join(sorted(self._here.currencies)), "+".join(sorted(self._there))
        total = _total(line for each in self._there.values() for line in each.values())
        here, there = Side(sum((line.quantity for line in lines), ZERO), ZERO), Side(total.quantity, ZERO)
        both = f"{mine}/{theirs}"
        yield self._found("other_currency", "", both, (here, there), f"{mine} here, {theirs} there")
        if total.quantity is not None and not self._here.reserved_calls:
            by = total.quantity - sum((line.quantity for line in lines), ZERO)
            if abs(by) > self._statement.slack(total):
                words = f"{plain(abs(by))} {'more' if by > 0 else 'fewer'} there"
                yield self._found("quantity_differs", "", both, (here, there), words)

    def _lines(self, currency: str, here: Mapping[str, Counted], there: Mapping[str, Line]) -> Iterator[Difference]:
        """Both sides have something in this currency."""
        told = all(kind and line.quantity is not None for kind, line in there.items())
        if not told:
            here = {"": _sum(here.values())} if here else {}
            there = {"": _total(there.values())}
        found: list[Difference] = []
        more: list[Difference] = []
        for kind in sorted({*here, *there}):
            mine, theirs = here.get(kind), there.get(kind)
            if mine is None:
                assert theirs is not None, "one side has it"
                more.append(self._only_there(kind, currency, theirs))
            elif theirs is None:
                words = "the cloud bills nothing of this kind"
                found.append(self._found("missing_there", kind, currency, (Side(*mine[:2]), None), words))
            else:
                each = list(self._line(kind, currency, mine, theirs))
                grown = [one.what for one in each] == ["quantity_differs"] and _beyond(each[0]) > 0
                (more if grown else found).extend(each)
        reserved = self._here.reserved.get(currency, ZERO)
        if reserved:
            more = self._explained(currency, reserved, more)
        yield from sorted([*found, *more], key=lambda one: one.kind)

    def _explained(self, currency: str, reserved: Decimal, more: list[Difference]) -> list[Difference]:
        """Calls whose usage never came explain what the cloud bills beyond what was metered, up to what they hold."""
        beyond = sum((_beyond(one) for one in more), ZERO)
        if abs(beyond - reserved) <= self._slack(len(more), reserved):
            return []
        fits = beyond <= reserved
        extra = beyond if fits else ZERO
        words = f"{self._reserved(currency)}; {plain(extra)} of it is billed there"
        estimated = self._found("estimated_here", "", currency, (Side(None, reserved), Side(None, extra)), words)
        return [estimated] if fits else [estimated, *more]

    def _only_there(self, kind: str, currency: str, line: Line) -> Difference:
        words = "the meter has nothing of this kind"
        return self._found("missing_here", kind, currency, (None, Side(*line[:2])), words)

    def _line(self, kind: str, currency: str, here: Counted, there: Line) -> Iterator[Difference]:
        mine, theirs = Side(*here[:2]), Side(*there[:2])
        off = there.cost - here.cost
        slack = self._slack(there.rows, max(abs(here.cost), abs(there.cost)))
        if there.quantity is None:
            if abs(off) > slack:
                words = "the unit of what was used there is not known"
                yield self._found("cost_differs", kind, currency, (mine, theirs), words)
            elif off:
                yield self._found("rounding", kind, currency, (mine, theirs), f"{plain(off)} within the file's digits")
            return
        by = there.quantity - here.quantity
        used = self._statement.slack(there)
        if abs(by) > used:
            words = f"{plain(abs(by))} {'more' if by > 0 else 'fewer'} there"
            yield self._found("quantity_differs", kind, currency, (mine, theirs), words)
            scale = 1 if kind == "call" else _MILLION
            low, high = (there.quantity * price / scale for price in (here.low, here.high))
            if low - slack <= there.cost <= high + slack:
                return
        elif abs(off) <= slack + used * here.high / _MILLION:
            if off or by:
                yield self._found("rounding", kind, currency, (mine, theirs), f"{plain(off)} within the file's digits")
            return
        words = f"{_price(kind, here.cost, here.quantity)} here, {_price(kind, there.cost, there.quantity)} there"
        yield self._found("price_differs", kind, currency, (mine, theirs), words)

    def _slack(self, rows: int, cost: Decimal) -> Decimal:
        """What a sum of rounded rows may be off by."""
        return rows * self._statement.step / 2 + cost * _RELATIVE + self._tolerance

    def _reserved(self, currency: str) -> str:
        calls, reasons = self._here.reserved_calls, ", ".join(sorted(self._here.reasons))
        most = plain(self._here.reserved.get(currency, ZERO))
        return f"{calls} calls whose usage is not known ({reasons}) cost {most} at most"

    def _found(self, what: What, kind: str, currency: str, sides: _Sides, words: str) -> Difference:
        return Difference(what, *self._where, kind, currency, *sides, words)


def _sum(lines: Iterable[Counted]) -> Counted:
    found = list(lines)
    return Counted(
        sum((line.quantity for line in found), ZERO),
        sum((line.cost for line in found), ZERO),
        min(line.low for line in found),
        max(line.high for line in found),
    )


def _total(lines: Iterable[Line]) -> Line:
    found = list(lines)
    known = all(line.quantity is not None for line in found)
    quantity = sum((line.quantity or ZERO for line in found), ZERO)
    return Line(
        quantity if known else None,
        sum((line.cost for line in found), ZERO),
        sum(line.rows for line in found),
        sum((line.units for line in found), ZERO),
    )


def _side(lines: Iterable[Line]) -> Side:
    total = _total(lines)
    return Side(total.quantity, total.cost)


def _beyond(one: Difference) -> Decimal:
    """What the cloud bills beyond what was metered."""
    return (one.there.cost if one.there else ZERO) - (one.here.cost if one.here else ZERO)


def _price(kind: str, cost: Decimal, quantity: Decimal) -> str:
    if not quantity:
        return plain(cost)
    scale = 1 if kind == "call" else _MILLION
    return plain((cost / quantity * scale).quantize(Decimal("1e-9")))
