"""`stateline usage export`: FOCUS rows as CSV, to a file or to where the output goes."""

from __future__ import annotations

import asyncio
import csv
import os
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from stateline.cli._options import print_json
from stateline.cli._progress import progress_bar
from stateline.cli._usage import Usage, between
from stateline.config import Config
from stateline.contract_files import load_folder
from stateline.contracts import Contracts
from stateline.contracts.amounts import CURRENCIES, decimal
from stateline.contracts.covering import Covering
from stateline.contracts.drawdown import Undrawn, terms_of
from stateline.contracts.facts import EPOCH
from stateline.contracts.model import Clause
from stateline.contracts.rows import use_of
from stateline.core.errors import BadRequest
from stateline.money.budgets import rates_on
from stateline.money.focus import Applied, Apply, Bill, plain
from stateline.money.focus_columns import CONTRACT_COMMITMENT, COST_AND_USAGE, OWN, VERSION
from stateline.money.focus_commitments import Promised, commitment_rows
from stateline.ports import Progress
from stateline.pricing import currency_rates


class Asked(NamedTuple):
    """The options, as they were given."""

    since: date | None
    until: date | None
    output: Path | None
    contracts: Path | None
    payer: str | None


def export_usage(config: Config, asked: Asked, *, as_json: bool) -> None:
    """Write what calls cost.

    Raises:
        StatelineError: the store or the contracts cannot be read, or the file cannot be written.
    """
    since = asked.since
    span = between(since, asked.until)
    covering, undrawn = _covering(config, asked)
    first = since if since is None or covering is None else covering.since(since)
    usage, bill, before = Usage(config, between(first, asked.until)), Bill(), Bill()

    async def read(progress: Progress | None) -> None:
        async with aclosing(usage.calls(progress)) as calls:
            async for call in calls:
                (bill if call.at_ms >= span[0] else before).add(call, usage.tariffs)

    with progress_bar("Reading", "sessions") as progress:
        asyncio.run(read(progress))
    apply = None if covering is None else _apply(covering)
    for _ in before.rows(apply):
        pass  # What was used before tells what is left of a commitment.
    _write(asked.output, (*COST_AND_USAGE, *OWN), bill.rows(apply))
    summary = {
        "object": "usage.export",
        "dataset": "cost-and-usage",
        "focus_version": VERSION,
        "from": None if since is None else since.isoformat(),
        "to": None if asked.until is None else asked.until.isoformat(),
        "file": None if asked.output is None else str(asked.output),
        "rows": len(bill),
        "calls": bill.calls,
        "costs": {currency: plain(amount) for currency, amount in sorted(bill.totals().items())},
        "unpriced": [one._asdict() for one in bill.unpriced],
        "not_applied": [one._asdict() for one in undrawn],
        "under_way": usage.under_way,
        "sessions": usage.sessions,
        "sessions_of_newer_releases": usage.newer,
    }
    _tell(summary, _lines(bill, usage, undrawn), as_json=as_json)


def _lines(bill: Bill, usage: Usage, undrawn: Sequence[Undrawn]) -> list[str]:
    costs = ", ".join(f"{plain(amount)} {name}" for name, amount in sorted(bill.totals().items()))
    found = [f"{bill.calls} calls in {len(bill)} rows: {costs or 'nothing'}"]
    found += [
        f"no price is known for {one.calls} calls at {one.deployment} ({one.tokens} tokens); they are in no row"
        for one in bill.unpriced
    ]
    found += [f"commitment {one.id} is in no row: {one.why}" for one in undrawn]
    if usage.under_way:
        found.append(f"{usage.under_way} calls had not ended; they are in no row")
    if usage.newer:
        found.append(f"{usage.newer} sessions are of a newer release, and were left out")
    return found


def _covering(config: Config, asked: Asked) -> tuple[Covering | None, list[Undrawn]]:
    """The commitments that use draws down, where there are contracts."""
    folder = _folder(config, asked.contracts)
    if folder is None:
        return None, []
    terms, undrawn = terms_of(load_folder(folder), asked.payer)
    rates = rates_on(currency_rates(config), asked.until or datetime.now(UTC).date())
    return (Covering(terms, rates) if terms else None), undrawn


def _apply(covering: Covering) -> Apply:
    def apply(row: Mapping[str, str]) -> list[Applied]:
        return [
            Applied(one.id.partition("/")[0], one.id, one.cost, covered=one.covered, effective=one.covered)
            for one in covering.of(use_of(row))
        ]

    return apply


def _folder(config: Config, contracts: Path | None) -> Path | None:
    return contracts or (None if config.contracts is None else Path(config.contracts.path))


def export_commitments(config: Config, asked: Asked, *, as_json: bool) -> None:
    """Write the commitments of the contracts.

    Raises:
        StatelineError: the contracts cannot be read, a commitment lacks a column, or the file cannot be written.
    """
    folder = _folder(config, asked.contracts)
    if folder is None:
        message = "there are no contracts to export; --contracts, or contracts.path, names a folder"
        raise BadRequest(message, code="contracts_missing")
    found = promises(load_folder(folder), asked.payer)
    rows = list(commitment_rows(found, asked.until or datetime.now(UTC).date()))
    _write(asked.output, CONTRACT_COMMITMENT, rows)
    summary = {
        "object": "usage.export",
        "dataset": "contract-commitment",
        "focus_version": VERSION,
        "file": None if asked.output is None else str(asked.output),
        "rows": len(rows),
    }
    _tell(summary, [f"{len(rows)} commitments"], as_json=as_json)


def promises(contracts: Contracts, payer: str | None) -> list[Promised]:
    """The commitments of a payer (None: of all), by file and position."""
    found: list[Promised] = []
    for contract in contracts.contracts:
        for clause in contract.clauses:
            terms = clause.commitment
            if terms is None or (payer is not None and clause.payer != payer):
                continue
            since, until = map(_day, contracts.spans[f"{contract.contract}/{clause.id}"])
            unit = "" if clause.amount is None else clause.amount.unit
            found.append(
                Promised(
                    contract=contract.contract,
                    clause=clause.id,
                    text=clause.text,
                    payee=clause.payee or "",
                    amount=_amount(clause),
                    unit=unit,
                    currency=unit in CURRENCIES,
                    since=since,
                    until=until,
                    interval=terms.interval,
                    scheduled=bool(terms.schedule),
                    applicability=terms.applicability,
                    focus=terms.focus,
                )
            )
    return found


def _amount(clause: Clause) -> Any:
    """What is promised at least; of an option, what it goes up to. An amount that is only about so much is none."""
    amount, terms = clause.amount, clause.commitment
    if amount is None or terms is None:
        return None
    stated = amount.exact or (amount.max if terms.model == "option" else amount.min)
    return None if stated is None else decimal(stated)


def _day(micros: int) -> date | None:
    """None at the ends of time, which mean that nothing is stated."""
    day = (EPOCH + timedelta(microseconds=micros)).date()
    return None if day in (date.min, date.max) else day


def _tell(summary: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json(summary)
    else:
        for line in lines:
            sys.stderr.write(f"{line}\n")


def _write(output: Path | None, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    with _opened(output) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _opened(output: Path | None) -> Generator[TextIO]:
    """Where rows go. A file takes its name when it is whole: half an export is never taken for one."""
    if output is None:
        yield sys.stdout
        return
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise BadRequest(f"{output} cannot be written: {error.strerror}", code="output_unwritable") from error
    finally:
        part.unlink(missing_ok=True)
