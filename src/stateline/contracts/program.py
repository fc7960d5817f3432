"""Mixed-integer programs in exact fractions, and a proof of what a solver in floats says of one.

A solver answers with the values of the integers and a *basis*: which columns and rows lie at a bound. From these
alone the whole answer follows by fractions, and so does whether it is the best one with these integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol

At = Literal["basic", "lower", "upper"]
NOTHING = Fraction(0)


class Column(NamedTuple):
    """A quantity to be chosen, from 0 up to ``upper`` (None: without end); ``cost`` is of one of it."""

    cost: Fraction
    upper: Fraction | None = None
    integer: bool = False


class Row(NamedTuple):
    """A sum of columns between two bounds, one of which is given at least.

    Attributes:
        terms: column -> its factor.
    """

    terms: Mapping[int, Fraction]
    lower: Fraction | None = None
    upper: Fraction | None = None


class Program(NamedTuple):
    """Choose the columns such that the rows hold and the cost is least."""

    columns: Sequence[Column]
    rows: Sequence[Row]


class Answer(NamedTuple):
    """What a solver says.

    Attributes:
        integers: the values of the integer columns.
        columns, rows: the basis of the program in which these are fixed.
        gap: how far the cost may be from the least one at most, as a part of it; 0: it is the least.
    """

    integers: Mapping[int, int]
    columns: Sequence[At]
    rows: Sequence[At]
    gap: float


class Solver(Protocol):
    """The seam to a solver. A program always has a feasible answer or none; no cost falls without end."""

    def __call__(self, program: Program) -> Answer | None:
        """None: the rows cannot all hold."""
        ...


class Proved(NamedTuple):
    """The best answer with the integers as they are.

    Attributes:
        prices: of each row: by how much the cost grows where its bound grows by one.
    """

    values: tuple[Fraction, ...]
    prices: tuple[Fraction, ...]
    cost: Fraction


class Unproved(ValueError):
    """A basis that is none, breaks a bound, or is not the best: the solver's floats were too coarse."""


def prove(program: Program, answer: Answer) -> Proved:
    """The answer in fractions.

    Raises:
        Unproved: it does not hold.
    """
    columns, rows = program.columns, program.rows
    values = [NOTHING] * len(columns)
    free: list[int] = []
    for index, (column, at) in enumerate(zip(columns, answer.columns, strict=True)):
        if index in answer.integers:
            values[index] = Fraction(answer.integers[index])
        elif at == "basic":
            free.append(index)
        elif at == "upper":
            values[index] = _given(column.upper)
    tight = [index for index, at in enumerate(answer.rows) if at != "basic"]
    inside = frozenset(free)
    equations: list[dict[int, Fraction]] = []
    wanted: list[Fraction] = []
    for index in tight:
        row = rows[index]
        bound = _given(row.lower if answer.rows[index] == "lower" else row.upper)
        known = sum((factor * values[one] for one, factor in row.terms.items() if one not in inside), NOTHING)
        equations.append({one: factor for one, factor in row.terms.items() if one in inside})
        wanted.append(bound - known)
    for one, value in _solve(equations, wanted, free).items():
        values[one] = value
    _check_bounds(program, values)
    prices = _prices(program, free, tight)
    _check_best(program, answer, prices)
    cost = sum((column.cost * value for column, value in zip(columns, values, strict=True)), NOTHING)
    return Proved(tuple(values), tuple(prices), cost)


def _prices(program: Program, free: Sequence[int], tight: Sequence[int]) -> list[Fraction]:
    """What the tight rows cost, such that no basic column could be had for less or more."""
    place = {index: number for number, index in enumerate(free)}
    equations: list[dict[int, Fraction]] = [{} for _ in free]
    for index in tight:
        for one, factor in program.rows[index].terms.items():
            if one in place:
                equations[place[one]][index] = factor
    prices = [NOTHING] * len(program.rows)
    for index, price in _solve(equations, [program.columns[one].cost for one in free], tight).items():
        prices[index] = price
    return prices


def _check_bounds(program: Program, values: Sequence[Fraction]) -> None:
    for column, value in zip(program.columns, values, strict=True):
        if value < 0 or (column.upper is not None and value > column.upper):
            raise Unproved("a column is beyond its bound")
    for row in program.rows:
        total = sum((factor * values[one] for one, factor in row.terms.items()), NOTHING)
        if (row.lower is not None and total < row.lower) or (row.upper is not None and total > row.upper):
            raise Unproved("a row does not hold")


def _check_best(program: Program, answer: Answer, prices: Sequence[Fraction]) -> None:
    """No step away from a bound may lower the cost; fixed columns and equal bounds allow none."""
    for row, at, price in zip(program.rows, answer.rows, prices, strict=True):
        if row.lower != row.upper and ((at == "lower" and price < 0) or (at == "upper" and price > 0)):
            raise Unproved("a row's bound could be left for less")
    left = [column.cost for column in program.columns]
    for row, price in zip(program.rows, prices, strict=True):
        if price:
            for one, factor in row.terms.items():
                left[one] -= price * factor
    for index, (at, rest) in enumerate(zip(answer.columns, left, strict=True)):
        if index not in answer.integers and ((at == "lower" and rest < 0) or (at == "upper" and rest > 0)):
            raise Unproved("a column's bound could be left for less")


def _given(bound: Fraction | None) -> Fraction:
    if bound is None:
        raise Unproved("at a bound that it does not have")
    return bound


def _solve(
    equations: Sequence[Mapping[int, Fraction]], wanted: Sequence[Fraction], unknown: Sequence[int]
) -> dict[int, Fraction]:
    """The one solution of a square system, by elimination; the emptiest equation first, since most have one term."""
    if len(equations) != len(unknown):
        raise Unproved("a basis has as many columns as tight rows")
    rows = [dict(each) for each in equations]
    right = list(wanted)
    where: dict[int, set[int]] = {one: set() for one in unknown}
    for index, row in enumerate(rows):
        for one in row:
            where[one].add(index)
    todo = set(range(len(rows)))
    steps: list[tuple[int, int]] = []
    while todo:
        index = min(todo, key=lambda each: len(rows[each]))
        todo.remove(index)
        row = rows[index]
        if not row:
            raise Unproved("the equations of a basis depend on each other")
        pivot = min(row, key=lambda one: len(where[one]))
        steps.append((index, pivot))
        for other in where[pivot] & todo:
            times = rows[other][pivot] / row[pivot]
            right[other] -= times * right[index]
            for one, factor in row.items():
                rest = rows[other].get(one, NOTHING) - times * factor
                if rest:
                    rows[other][one] = rest
                    where[one].add(other)
                else:
                    del rows[other][one]
                    where[one].discard(other)
    found: dict[int, Fraction] = {}
    for index, pivot in reversed(steps):
        rest = right[index] - sum((f * found[one] for one, f in rows[index].items() if one != pivot), NOTHING)
        found[pivot] = rest / rows[index][pivot]
    return found
