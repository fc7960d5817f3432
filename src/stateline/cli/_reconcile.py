"""`stateline usage reconcile`: a cloud's export read row by row, compared with the meter, and shown."""

from __future__ import annotations

import asyncio
import csv
import gzip
import sys
import zlib
from collections.abc import Sequence
from contextlib import aclosing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import typer

from stateline.cli._progress import progress_bar
from stateline.cli._usage import Usage, between
from stateline.config import Config
from stateline.core.errors import BadRequest
from stateline.core.limits import RECONCILE_FIELD_CHARS_MAX, RECONCILE_LINE_BYTES_MAX, RECONCILE_ROWS_SHOWN_MAX
from stateline.money.billed import READ, Cost, Names, Statement
from stateline.money.focus import Bill, plain
from stateline.money.reconcile import WHATS, Difference, Meter, Result, Side, reconcile
from stateline.ports import Progress

_PROGRESS_ROWS = 10_000
_MEANS = {
    "missing_here": "the cloud bills what the meter does not have",
    "missing_there": "the cloud does not bill what the meter has",
    "unpriced_here": "no price is known here for what the cloud bills",
    "estimated_here": "calls whose usage is not known, at the most that they could cost",
    "price_differs": "as many tokens, at another price",
    "quantity_differs": "more or fewer tokens",
    "cost_differs": "another cost, and the file's unit is not known",
    "other_currency": "billed in another currency",
    "rounding": "no more than the file's own digits, so both agree",
}


class Asked(NamedTuple):
    """The options, as they were given."""

    file: Path
    since: date | None
    until: date | None
    cost: Cost | None
    tolerance: Decimal


def run(config: Config, asked: Asked, *, as_json: bool) -> bool:
    """Compare, and print; whether both sides agree.

    Raises:
        StatelineError: the file or the store cannot be read.
    """
    if not asked.file.is_file():
        raise BadRequest(f"{asked.file}: no such file", code="input_unreadable")
    usage = Usage(config, between(asked.since, asked.until))
    asyncio.run(usage.read_tariffs())
    names = Names(usage.tariffs.values())
    with progress_bar("Reading the export") as progress:
        statement = read(asked, names, progress)
    bill = Bill()
    if statement.days is not None:
        # Of the meter, no other days than the file's.
        usage.look_at(between(*statement.days))
        with progress_bar("Reading the meter", "sessions") as progress:
            asyncio.run(_add(usage, bill, progress))
    result = reconcile(Meter(bill, names), statement, asked.tolerance)
    summary = _summary(asked, statement, result, usage)
    if as_json:
        rows = [_json(one) for one in result.differences]
        sys.stdout.write(msgspec.json.encode({**summary, "differences": rows}).decode() + "\n")
    else:
        _print(summary, result)
    return result.agrees


async def _add(usage: Usage, bill: Bill, progress: Progress | None) -> None:
    async with aclosing(usage.calls(progress)) as calls:
        async for call in calls:
            bill.add(call, usage.tariffs)


# -- the file --------------------------------------------------------------------------------------------


def read(asked: Asked, names: Names, progress: Progress | None) -> Statement:
    """A cloud's export, as CSV or gzipped CSV.

    Raises:
        BadRequest: with the file and line: ``input_unreadable``, ``focus_columns_missing``, ``focus_row_invalid``,
            ``focus_file_too_large``.
    """
    path = asked.file
    csv.field_size_limit(RECONCILE_FIELD_CHARS_MAX)
    lines: _Lines | None = None
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            lines = _Lines(gzip.GzipFile(fileobj=raw) if packed else raw)
            reader = csv.reader(lines, strict=True)
            header = next(reader, list[str]())
            statement = Statement(header, names, span=(asked.since, asked.until), cost=asked.cost)
            wanted = [(at, name) for at, name in enumerate(header) if name in READ]
            for count, values in enumerate(reader):
                if len(values) != len(header):
                    if not values:
                        continue
                    message = f"{len(values)} fields, where the header has {len(header)}"
                    raise BadRequest(message, code="focus_row_invalid")
                statement.add({name: values[at] for at, name in wanted})
                if progress is not None and count % _PROGRESS_ROWS == 0:
                    progress(min(raw.tell(), size), size)
            return statement
    except BadRequest as error:
        raise BadRequest(f"{_place(path, lines)}: {error.message}", code=error.code, param=error.param) from error
    except (csv.Error, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise BadRequest(f"{_place(path, lines)}: it is no CSV: {why}", code="input_unreadable") from error


class _Lines:
    """The lines of a file as text, counted, and none of them without end."""

    def __init__(self, source: BinaryIO | gzip.GzipFile) -> None:
        self.number = 0
        self._source = source

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.number += 1
        line = self._source.readline(RECONCILE_LINE_BYTES_MAX + 1)
        if not line:
            self.number -= 1
            raise StopIteration
        if len(line) > RECONCILE_LINE_BYTES_MAX:
            raise csv.Error(f"a line has more than {RECONCILE_LINE_BYTES_MAX} bytes")
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8")


def _place(path: Path, lines: _Lines | None) -> str:
    return f"{path}:{max(1, lines.number)}" if lines is not None else str(path)


# -- what is shown ---------------------------------------------------------------------------------------


def _summary(asked: Asked, statement: Statement, result: Result, usage: Usage) -> dict[str, Any]:
    days = statement.days
    counts = {what: sum(one.what == what for one in result.differences) for what in WHATS}
    return {
        "object": "usage.reconcile",
        "agrees": result.agrees,
        "file": str(asked.file),
        "from": None if days is None else days[0].isoformat(),
        "to": None if days is None else days[1].isoformat(),
        "cost_column": statement.cost,
        "compared": result.compared,
        "counts": {what: count for what, count in counts.items() if count},
        "costs": {
            currency: {"here": plain(here), "there": plain(there)}
            for currency, (here, there) in sorted(result.costs.items())
        },
        "not_in_the_file": [{"account": account, "model": model} for account, model in result.absent],
        "not_compared": [
            {"why": why, "currency": currency, "rows": rows, "cost": plain(cost)}
            for (why, currency), (rows, cost) in sorted(statement.others.items())
        ],
        "under_way": usage.under_way,
    }


def _json(one: Difference) -> dict[str, Any]:
    return {
        "what": one.what,
        "day": one.day.isoformat(),
        "account": one.account,
        "model": one.model,
        "token_type": one.kind or None,
        "currency": one.currency,
        "here": _side_json(one.here),
        "there": _side_json(one.there),
        "why": one.words,
    }


def _side_json(side: Side | None) -> dict[str, str | None] | None:
    if side is None:
        return None
    return {"quantity": None if side.quantity is None else plain(side.quantity), "cost": plain(side.cost)}


def _print(summary: dict[str, Any], result: Result) -> None:
    shown = result.differences[:RECONCILE_ROWS_SHOWN_MAX]
    if shown:
        titles = ("day", "account", "model", "tokens", "difference", "here", "there", "why")
        lines = [_cells(one) for one in shown]
        widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
        for cells in (titles, *lines):
            sys.stdout.write(_line(cells, widths))
        if len(result.differences) > len(shown):
            sys.stdout.write(f"... and {len(result.differences) - len(shown)} more; --json has all of them\n")
        sys.stdout.write("\n")
    span = f"{summary['from']} to {summary['to']}" if summary["from"] else "no day"
    sys.stdout.write(f"{summary['file']}: {span}, {summary['compared']} days of a model compared by ")
    sys.stdout.write(f"{summary['cost_column']}\n")
    for currency, costs in summary["costs"].items():
        sys.stdout.write(f"  {costs['here']} {currency} here, {costs['there']} there\n")
    for what, count in summary["counts"].items():
        sys.stdout.write(f"  {count:>6}  {what}: {_MEANS[what]}\n")
    for one in summary["not_in_the_file"]:
        account = one["account"] or "an account that is not configured"
        sys.stdout.write(f"not in the file, so not compared: {one['model']} in {account}\n")
    for one in summary["not_compared"]:
        sys.stdout.write(f"not compared: {one['rows']} rows of {one['why']}, {one['cost']} {one['currency']}\n")
    if summary["under_way"]:
        sys.stdout.write(f"{summary['under_way']} calls had not ended, and were left out\n")
    typer.secho("both agree" if result.agrees else "they differ", fg="green" if result.agrees else "red")


def _cells(one: Difference) -> tuple[str, ...]:
    here, there = _side_text(one.here, one.currency), _side_text(one.there, one.currency)
    return (
        one.day.isoformat(), one.account or "-", one.model, one.kind or "all", one.what, here, there, one.words,
    )  # fmt: skip


def _side_text(side: Side | None, currency: str) -> str:
    if side is None:
        return "-"
    cost = "" if "/" in currency else f"{plain(side.cost)} {currency}"
    return cost if side.quantity is None else f"{plain(side.quantity)} {cost}".rstrip()


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"
