"""How explanations and reports of contracts read in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stateline.contracts.explain import Explanation, Told
    from stateline.contracts.report import Report, Sum


def explanation(one: Explanation) -> str:
    """The trace, from facts to clauses to the verdict."""
    lines = [f"At {one.verdict.at}, posture {one.verdict.posture}."]
    known = [f"  {root}.{field} is {value}" for root, fields in one.facts.items() for field, value in fields.items()]
    lines += ["The facts:", *(known or ["  none is known"])]
    for clause in one.clauses:
        lines += ["", *_clause(clause)]
    verdict = one.verdict
    so = "" if verdict.outcome == verdict.resolved else f", so {verdict.resolved}"
    return "\n".join([*lines, "", f"Verdict: {verdict.outcome}{so}: {one.why}.", ""])


def _clause(one: Told) -> Iterator[str]:
    yield f"{one.id} ({one.kind}): {one.text}".rstrip(": ")
    if not one.in_force:
        yield f"  not in force: {one.when}"
        return
    yield f"  in force: {one.when}"
    for source in one.source:
        quote = f', "{source.quote}"' if source.quote else ""
        yield f"  source: {source.document}{quote} ({source.status})"
    for reading in one.readings:
        yield f"  reading {reading.id}, held by {', '.join(reading.held_by)}: {reading.outcome}"
        yield f"    {' '.join(reading.predicate.split())}"
        for name, value in reading.facts.items():
            yield f"      {name} is {'not known' if value is None else value}"
        yield f"    {reading.why}"
    yield from (f"  exception: {text}" for text in one.exceptions)
    yield f"  comes to {one.outcome}: {one.why}"


def report(one: Report) -> str:
    """The report, part by part."""
    parts = {
        "In force": [
            f"{row.id} ({row.kind}), {row.since or 'always'} to {row.until or 'no end'}" for row in one.in_force
        ],
        "Ending": [f"{row.until}: {row.id}" for row in one.ending],
        "Commitments": [
            f"{row.id}: {row.payer} to {row.payee}, {_sum(row.amount)}"
            + (f", {row.years} years, {_digits(row.per_year)} a year" if row.years and row.per_year else "")
            + (f", {_percent(row.of_backlog)} of the payee's stated backlog" if row.of_backlog else "")
            for row in one.commitments
        ],
        "In all, by payer": [
            f"{row.payer}: {_sum(row.amount)}"
            + (f", {_percent(row.of_claimed)} of the {_digits(row.claimed)} that are claimed" if row.of_claimed else "")
            for row in one.payers
        ],
        "Concentration": [
            f"{row.payer} to {row.payee}: {_sum(row.amount)}, {_percent(row.share)}" for row in one.concentration
        ],
        "Backlog, by payee": [f"{row.payee}: {_sum(row.amount)}, {_percent(row.share)}" for row in one.backlog],
        "Money that comes back": [
            f"{', '.join(row.investors)} into {row.receiver}: {_sum(row.invested)}; it buys for {_sum(row.purchases)}: "
            f"{row.returns} times" + (f" ({row.scope})" if row.scope else "")
            for row in one.circles
        ],
        "Stakes": [
            f"{row.holder} has {row.percent} % of {row.company}, at {_digits(row.valuation)} {row.unit} worth "
            f"{_digits(row.value)}; invested {_digits(row.invested)}, gain {_digits(row.gain)}"
            for row in one.stakes
        ],
        "Not counted": [f"{row.id}: {row.why}" for row in one.left_out],
    }
    lines = [f"At {one.at}"]
    for title, rows in parts.items():
        lines += ["", title, *(f"  {row}" for row in rows or ["nothing"])]
    return "\n".join([*lines, ""])


def _sum(one: Sum) -> str:
    between = f"{_digits(one.least)} to {_digits(one.most) if one.most else 'any'}"
    exact = one.least == one.most
    return f"{_digits(one.stated)} {one.unit}" + ("" if exact else f" ({between})")


def _digits(text: str | None) -> str:
    from decimal import Decimal

    return f"{Decimal(text or 0):,f}"


def _percent(share: str | None) -> str:
    from decimal import Decimal

    return f"{Decimal(share or 0) * 100:.1f} %"
