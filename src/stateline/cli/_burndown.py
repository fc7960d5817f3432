"""`stateline contracts report --usage`: FOCUS rows from files, drawn down, and shown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from stateline.cli._progress import progress_bar
from stateline.contracts import Contracts
from stateline.contracts.burndown import Burndown, Burned, Commitment, burndown
from stateline.contracts.drawdown import Drawdown, terms_of
from stateline.contracts.lint import parse_rate
from stateline.contracts.report import Report
from stateline.contracts.rows import NEEDED, UsageError, use_of
from stateline.ports import Progress

_SHOWN_OVER = 4
_EVERY_ROWS = 1000


def burned(contracts: Contracts, at: date, files: Sequence[Path], payer: str | None, rates: Sequence[str]) -> Burndown:
    """The commitments of a payer on a day, drawn down by the use in files.

    Raises:
        UsageError: a file cannot be read, or a row is none; with the file and line.
    """
    terms, left = terms_of(contracts, payer)
    drawdown = Drawdown(terms, dict(map(parse_rate, rates)))
    for path in files:
        with progress_bar(f"Reading {path.name}") as progress:
            for number, row in _rows(path, progress):
                try:
                    drawdown.add(use_of(row))
                except UsageError as error:
                    raise UsageError(f"{path}:{number}: {error}") from None
    return burndown(drawdown, left, at)


def _rows(path: Path, progress: Progress | None) -> Iterator[tuple[int, dict[str, str | None]]]:
    try:
        with path.open("rb") as binary:
            size = path.stat().st_size
            reader = csv.DictReader(io.TextIOWrapper(binary, encoding="utf-8-sig", newline=""))
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(f"{path} has no column {missing[0]}; usage is read as FOCUS Cost and Usage rows")
            for count, row in enumerate(reader):
                yield reader.line_num, row
                if progress is not None and not count % _EVERY_ROWS:
                    progress(binary.tell(), size)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV in UTF-8: {error}") from None


def together(report: Report, burned: Burndown) -> dict[str, Any]:
    """The report with what is drawn, as one document."""
    return {**msgspec.to_builtins(report), "drawdown": burned}


def told(one: Burndown) -> str:
    """For a terminal: of each commitment its last intervals that are over, the running one and the next."""
    lines = ["", f"Drawn down, by {one.rows} rows of use before {one.at}; forecasts go on in a straight line"]
    for commitment in one.commitments:
        lines.append(f"  {commitment.id} ({commitment.model}, by {commitment.accrues}), in {commitment.unit}")
        lines += [f"    {line}" for line in _intervals(commitment)]
        for currency, rows in commitment.unconverted.items():
            rate = f"--rate {currency}/{commitment.unit}=…"
            lines.append(f"    {rows} rows in {currency} count nothing, since there is no rate; give {rate}")
    lines += [f"  {each.id}: not drawn down: {each.why}" for each in one.not_drawn]
    if not one.commitments and not one.not_drawn:
        lines.append("  no commitment")
    return "\n".join([*lines, ""])


def _intervals(one: Commitment) -> Iterator[str]:
    over = [each for each in one.intervals if each.status == "over"]
    rest = [each for each in one.intervals if each.status != "over"]
    ahead = [each for each in rest if each.status == "ahead"]
    if len(over) > _SHOWN_OVER:
        yield f"… {len(over) - _SHOWN_OVER} earlier; --json has all of them"
    for each in [*over[-_SHOWN_OVER:], *(each for each in rest if each not in ahead[1:])]:
        yield _interval(each)
    if len(ahead) > 1:
        yield f"… {len(ahead) - 1} later"


def _interval(one: Burned) -> str:
    parts = [f"{_digits(one.drawn)} of {_digits(one.promised)}"]
    if one.carried_in != "0":
        parts.append(f"{_digits(one.carried_in)} carried in")
    if one.pace is not None and one.status == "running":
        parts.append(f"pace {one.pace}")
    if one.forecast is not None:
        parts.append(f"forecast {_digits(one.forecast)}")
    if one.shortfall is not None:
        parts.append(f"shortfall {_digits(one.shortfall)}, charged {_digits(one.charge)}")
    if one.expected_shortfall is not None:
        parts.append(f"expected shortfall {_digits(one.expected_shortfall)}, charged {_digits(one.expected_charge)}")
    if one.over is not None:
        parts.append(f"{_digits(one.over)} beyond it")
    return f"{one.since} to {one.until or 'no end'}, {one.status}: {'; '.join(parts)}"


def _digits(text: str | None) -> str:
    return f"{Decimal(text or 0):,f}"
