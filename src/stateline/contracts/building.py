"""A portfolio under contracts as a program: columns for placements, shortfalls and what is covered or carried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from fractions import Fraction
from typing import NamedTuple

from stateline.contracts.portfolio import Task
from stateline.contracts.program import NOTHING, Column, Program, Row
from stateline.contracts.scoping import Cell, Scoped, Window

ONE = Fraction(1)


class Slot(NamedTuple):
    """A column's choice: all of this work at this deployment.

    Attributes:
        works: a pinned workload, for all of its quarters; or all those of a quarter that may be split and may go to
            the same deployments, since it is all one which of them goes where.
        units: (quarter, units) of them together.
    """

    works: tuple[int, ...]
    place: int
    units: tuple[tuple[int, Fraction], ...]


class Built(NamedTuple):
    """A program, and what its columns and rows stand for.

    Attributes:
        slots: column -> what of it being one would place.
        counted: window -> the row whose price says what a unit of money drawn is worth, and the row's scale.
    """

    program: Program
    slots: Mapping[int, Slot]
    counted: Mapping[int, tuple[int, Fraction]]


def build(scoped: Scoped, lifted: Set[str] = frozenset()) -> Built:
    """The program of a task.

    Args:
        lifted: clauses that are taken not to be there.

    Every column of a placement is a part of a demand, and rows and costs of commitments are in parts
    of what is promised, so that a solver in floats meets numbers near one.
    """
    columns: list[Column] = []
    rows: list[Row] = []
    slots = _slots(scoped, lifted, columns, rows)
    _capacities(scoped, lifted, slots, rows)
    counted: dict[int, tuple[int, Fraction]] = {}
    carried: tuple[int, Fraction] | None = None
    for number, window in enumerate(scoped.windows):
        if number and scoped.windows[number - 1].id != window.id:
            carried = None
        spend = _spend(scoped, window, slots)
        carried = (_promise if window.minimum else _prepaid)(window, spend, carried, columns, rows)
        counted[number] = (len(rows) - 1, _scale(window))
    return Built(Program(columns, rows), slots, counted)


def _slots(scoped: Scoped, lifted: Set[str], columns: list[Column], rows: list[Row]) -> dict[int, Slot]:
    task, found = scoped.task, dict[int, Slot]()
    together: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for work, workload in enumerate(task.portfolio.workloads):
        busy = [quarter for quarter, units in enumerate(task.demand[work]) if units]
        allowed = [
            frozenset(place for place in task.fits[work] if not _denied(scoped, (work, place, quarter), lifted))
            for quarter in busy
        ]
        if workload.kind != "stateful":
            for quarter, places in zip(busy, allowed, strict=True):
                together.setdefault((quarter, tuple(sorted(places))), []).append(work)
        elif busy:
            units = tuple((quarter, task.demand[work][quarter]) for quarter in busy)
            everywhere = [place for place in task.fits[work] if all(place in places for places in allowed)]
            pinned = [Slot((work,), place, units) for place in everywhere]
            _choice(task, pinned, found, columns, rows)
    for (quarter, places), works in together.items():
        whole = sum((task.demand[work][quarter] for work in works), NOTHING)
        slots = [Slot(tuple(works), place, ((quarter, whole),)) for place in places]
        _choice(task, slots, found, columns, rows)
    return found


def _denied(scoped: Scoped, cell: Cell, lifted: Set[str]) -> bool:
    return cell in scoped.denied and not scoped.denied[cell] <= lifted


def _choice(task: Task, slots: list[Slot], found: dict[int, Slot], columns: list[Column], rows: list[Row]) -> None:
    """Columns of which all together are one: whole ones where the work is pinned."""
    here: dict[int, Fraction] = {}
    for slot in slots:
        pinned = task.portfolio.workloads[slot.works[0]].kind == "stateful"
        cost = sum((units * task.price[slot.place][quarter] for quarter, units in slot.units), NOTHING)
        here[len(columns)] = ONE
        found[len(columns)] = slot
        columns.append(Column(cost, ONE if pinned else None, pinned))
    rows.append(Row(here, ONE, ONE))


def _capacities(scoped: Scoped, lifted: Set[str], slots: Mapping[int, Slot], rows: list[Row]) -> None:
    task = scoped.task
    by_place: dict[tuple[int, int], dict[int, Fraction]] = {}
    for column, slot in slots.items():
        for quarter, units in slot.units:
            by_place.setdefault((slot.place, quarter), {})[column] = units
    for (place, quarter), taken in by_place.items():
        _bounded(taken, task.capacity[place][quarter], rows)
    for cap in scoped.caps:
        for quarter, limit in enumerate(cap.limits):
            if not cap.clauses[quarter] & lifted:
                taken = {
                    column: units
                    for place in cap.deployments
                    for column, units in by_place.get((place, quarter), {}).items()
                }
                _bounded(taken, limit, rows)


def _bounded(taken: Mapping[int, Fraction], limit: Fraction | None, rows: list[Row]) -> None:
    if limit is not None and taken:
        scale = limit or ONE
        rows.append(Row({column: units / scale for column, units in taken.items()}, upper=limit / scale))


def _spend(scoped: Scoped, window: Window, slots: Mapping[int, Slot]) -> dict[int, Fraction]:
    """Column -> what it draws in a window, in parts of what is promised."""
    price, found = scoped.task.price, dict[int, Fraction]()
    for column, slot in slots.items():
        part = window.parts[slot.place]
        if part:
            drawn = sum((units * price[slot.place][q] * window.shares[q] for q, units in slot.units), NOTHING)
            if drawn:
                found[column] = drawn * part / _scale(window)
    return found


def _scale(window: Window) -> Fraction:
    return max(abs(window.promised), ONE)


def _promise(
    window: Window,
    spend: dict[int, Fraction],
    carried: tuple[int, Fraction] | None,
    columns: list[Column],
    rows: list[Row],
) -> tuple[int, Fraction] | None:
    """What is drawn, what came over and what is short are no less than what is promised and what goes on."""
    scale = _scale(window)
    terms = dict(spend)
    terms[len(columns)] = ONE
    columns.append(Column(window.rate * scale))
    if carried is not None:
        terms[carried[0]] = carried[1] / scale
    on = _carry(window, columns)
    if on is not None:
        terms[on[0]] = -ONE
    rows.append(Row(terms, lower=window.promised / scale))
    return on


def _prepaid(
    window: Window,
    spend: dict[int, Fraction],
    carried: tuple[int, Fraction] | None,
    columns: list[Column],
    rows: list[Row],
) -> tuple[int, Fraction] | None:
    """What is covered is no more than what is there, nor than what is used; each unit of it is one less to pay."""
    scale = _scale(window)
    covered = len(columns)
    columns.append(Column(-scale))
    room = {covered: ONE}
    if carried is not None:
        room[carried[0]] = -carried[1] / scale
    on = _carry(window, columns)
    if on is not None:
        room[on[0]] = ONE
    rows.append(Row(room, upper=window.promised / scale))
    rows.append(Row({covered: ONE, **{column: -part for column, part in spend.items()}}, upper=NOTHING))
    return on


def _carry(window: Window, columns: list[Column]) -> tuple[int, Fraction] | None:
    if not window.carries:
        return None
    columns.append(Column(NOTHING))
    return len(columns) - 1, _scale(window)


def placed_by(scoped: Scoped, slots: Mapping[int, Slot], values: Sequence[Fraction]) -> dict[Cell, Fraction]:
    """The units of each workload that the columns' values come to.

    Workloads that go together are put one after the other onto what was chosen for all of them.
    """
    demand = scoped.task.demand
    found: dict[Cell, Fraction] = {}
    waiting: dict[tuple[int, tuple[int, ...]], list[tuple[int, Fraction]]] = {}
    for column, slot in slots.items():
        if not values[column]:
            continue
        for quarter, units in slot.units:
            if len(slot.works) == 1:
                found[slot.works[0], slot.place, quarter] = units * values[column]
            else:
                waiting.setdefault((quarter, slot.works), []).append((slot.place, units * values[column]))
    for (quarter, works), room in waiting.items():
        places = iter(room)
        place, left = next(places)
        for work in works:
            rest = demand[work][quarter]
            while rest > left:
                if left:
                    found[work, place, quarter] = left
                rest -= left
                place, left = next(places)
            found[work, place, quarter] = rest
            left -= rest
    return found
