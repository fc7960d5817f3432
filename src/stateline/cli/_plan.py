"""`stateline contracts plan`: files in, a plan or a conflict out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from stateline.cli._options import print_json
from stateline.cli._progress import progress_bar
from stateline.contract_files import load_folder, read_document
from stateline.contracts.plan import Conflict, Plan, plan
from stateline.contracts.portfolio import read
from stateline.contracts.program import Unproved
from stateline.contracts.scoping import scoped
from stateline.core.errors import BadRequest, StatelineError
from stateline.money.effective import encode
from stateline.planner import Planner

_SHOWN = 40


def run(portfolio: Path, contracts: Path, values: Path | None, time_limit_s: float, *, as_json: bool) -> bool:
    """Plan, and print; whether there is a plan.

    Raises:
        StatelineError: a file or the solver cannot be used.
    """
    solver = Planner(time_limit_s)
    here = scoped(read(read_document(portfolio)), load_folder(contracts))
    if sys.stderr.isatty():
        size = (
            f"{len(here.task.demand)} workloads, {len(here.task.price)} deployments, {len(here.task.days) - 1} quarters"
        )
        sys.stderr.write(f"Planning {size} …\n")
    with progress_bar("Looking for the conflict", "clauses") as progress:
        try:
            found = plan(here, solver, progress)
        except Unproved as error:
            message = f"the solver's answer does not hold in exact arithmetic ({error}); please report the portfolio"
            raise StatelineError(message, code="plan_unsolved") from None
    if isinstance(found, Conflict):
        if as_json:
            print_json(found)
        else:
            sys.stdout.write(_told_conflict(found))
        return False
    if values is not None:
        _write(values, found.plan)
    if as_json:
        print_json(found.plan)
    else:
        sys.stdout.write(_told(found.plan))
    return True


def _write(path: Path, made: Plan) -> None:
    """A file that is there whole or not at all, since servers read it."""
    by_commitment: dict[str, dict[str, str]] = {}
    for one in made.commitments:
        by_commitment.setdefault(one.commitment, {})[one.interval] = one.value
    draft = path.with_name(path.name + ".draft")
    try:
        draft.write_bytes(encode(datetime.now(UTC).replace(microsecond=0), by_commitment))
        os.replace(draft, path)
    except OSError as error:
        raise BadRequest(f"{path} cannot be written: {error.strerror}", code="values_unwritable") from None


def _told_conflict(one: Conflict) -> str:
    lines = [f"No plan is possible: {one.why}."]
    lines += [f"  {each}" for each in (*one.clauses, *one.workloads)]
    return "\n".join([*lines, ""])


def _told(one: Plan) -> str:
    rows = [
        (each.quarter, each.workload, each.deployment, f"{_digits(each.units)} {each.unit}", _digits(each.list_price))
        for each in one.placements[:_SHOWN]
    ]
    lines = _table(("quarter", "workload", "deployment", "units", "list price"), rows)
    if len(one.placements) > _SHOWN:
        lines.append(f"... and {len(one.placements) - _SHOWN} more; --json has all of them")
    commitments = [
        (
            each.commitment,
            each.interval,
            *map(_digits, (each.promised, each.drawn, each.charge, each.covered)),
            each.value,
        )
        for each in one.commitments
    ]
    if commitments:
        titles = ("commitment", "interval", "promised", "drawn", "charge", "covered", "value")
        lines += ["", *_table(titles, commitments)]
    lines += [f"{each.id}: not counted: {each.why}" for each in one.skipped]
    parts = [f"{_digits(one.list_price)} by list"]
    parts += [f"{_digits(one.covered)} of it paid already"] if one.covered != "0" else []
    parts += [f"{_digits(one.charges)} for shortfalls"] if one.charges != "0" else []
    best = "no plan is cheaper" if not one.gap else f"a better one may be {one.gap:.2%} cheaper at most"
    lines += ["", f"{_digits(one.total)} {one.currency} in all: {', '.join(parts)}; {best}"]
    lines.append(f"{one.denied} placements are denied by contract, and none of them is used")
    return "\n".join([*lines, ""])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (titles, *rows)
    ]


def _digits(text: str) -> str:
    value = Decimal(text)
    return f"{value:,f}" if value == value.to_integral() else f"{value:,.2f}"
