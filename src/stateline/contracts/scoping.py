"""What contracts say of a portfolio: what they deny, cap and count, quarter by quarter."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple, cast

from stateline.contracts.amounts import decimal
from stateline.contracts.drawdown import Terms, Undrawn, steps_of, terms_of
from stateline.contracts.eligible import Columns, party, place_columns
from stateline.contracts.errors import FactsError
from stateline.contracts.evaluate import Contracts
from stateline.contracts.facts import EPOCH, Facts, micros, nearest
from stateline.contracts.intervals import months_on
from stateline.contracts.placing import deployment_facts, observed_of, placement_facts
from stateline.contracts.portfolio import MTOK, Site, Task, Workload
from stateline.contracts.report import doubt
from stateline.contracts.spans import day_of
from stateline.core.placing import CallFacts

Cell = tuple[int, int, int]
"""Workload, deployment, quarter; numbers in the portfolio's order."""

_DAY = timedelta(days=1)
_NO_MODEL: Columns = {"ServiceCategory": None, "ServiceName": None, "ServiceSubcategory": None}


class PlanError(FactsError):
    """A portfolio and contracts that no plan can be made of."""

    code = "plan_invalid"


class Window(NamedTuple):
    """An interval of a commitment, as far as it is planned.

    Attributes:
        interval: its first day and the first day after it: ``2026-01-01/2027-01-01``.
        minimum: a shortfall is charged at ``rate``; else it is paid already, and use of it is billed at 0.
        promised: what is still to be met or used up, in the portfolio's currency.
        rolls: whether what is too much (unused) goes on into the next interval.
        carries: whether that one is planned too; the plan sees no worth in what goes on beyond its end.
        parts: deployment -> the part of its use that counts.
        shares: quarter -> the part of its use that accrues within.
    """

    id: str
    interval: str
    minimum: bool
    promised: Fraction
    rate: Fraction
    rolls: bool
    carries: bool
    parts: tuple[Fraction, ...]
    shares: tuple[Fraction, ...]


class Cap(NamedTuple):
    """What a payee's deployments may take of a unit, by all of its capacity clauses together.

    Attributes:
        clauses: quarter -> those in force.
        limits: quarter -> units; None: none is in force.
    """

    deployments: frozenset[int]
    clauses: tuple[frozenset[str], ...]
    limits: tuple[Fraction | None, ...]


class Scoped(NamedTuple):
    """A task under contracts.

    Attributes:
        denied: cell -> the clauses that deny it, of those cells that fit.
        skipped: commitments and capacity clauses that could not be counted, and why.
    """

    task: Task
    denied: Mapping[Cell, frozenset[str]]
    windows: tuple[Window, ...]
    caps: tuple[Cap, ...]
    skipped: tuple[Undrawn, ...]


def scoped(task: Task, contracts: Contracts) -> Scoped:
    """A task under contracts.

    Raises:
        PlanError: ``plan_invalid``: a commitment in another currency without a rate, two that count the same use
            of which one is paid already, or ``drawn`` of none that there is.
    """
    terms, skipped = terms_of(contracts, task.portfolio.payer)
    windows: list[Window] = []
    for each in terms:
        if each.commitment.model == "option":
            skipped.append(Undrawn(each.id, "an option promises nothing, so it moves no workload"))
        else:
            windows += _windows(task, each, skipped)
    _check_apart(task, windows)
    names = {each.id for each in (*terms, *skipped)}
    for name in task.drawn:
        if name not in names:
            raise PlanError(f'drawn: "{name}" is no commitment of the payer{nearest(name, names) if names else ""}')
    caps = _caps(task, contracts, skipped)
    return Scoped(task, _denied(task, contracts), tuple(windows), tuple(caps), tuple(skipped))


# -- what is denied ------------------------------------------------------------------------------


def _denied(task: Task, contracts: Contracts) -> dict[Cell, frozenset[str]]:
    portfolio = task.portfolio
    observed = observed_of(contracts, "enforce")
    known = [deployment_facts(site) for site in portfolio.deployments]
    instants = [_instants(contracts, *each) for each in zip(task.days, task.days[1:], strict=False)]
    asked: dict[tuple[str, str | None, str, int, int], frozenset[str]] = {}
    found: dict[Cell, frozenset[str]] = {}
    for work, workload in enumerate(portfolio.workloads):
        for place in task.fits[work]:
            facts = _facts(workload, portfolio.deployments[place], known[place])
            for quarter, times in enumerate(instants):
                key = (workload.kind, workload.interface, workload.tenant, place, quarter)
                if key not in asked:
                    verdicts = [contracts.evaluate(facts, at, portfolio.posture) for at in times]
                    asked[key] = frozenset(
                        clause.id
                        for verdict in verdicts
                        for clause in verdict.clauses
                        if clause.resolved == "deny" and clause.id.partition("/")[0] not in observed
                    )
                if asked[key]:
                    found[work, place, quarter] = asked[key]
    return found


def _instants(contracts: Contracts, since: date, until: date) -> list[datetime]:
    """When to ask: as the quarter begins, and whenever a clause begins or ends; daily where predicates tell time."""
    begin, end = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (since, until))
    found: list[datetime] = []
    while begin < end:
        found.append(begin)
        changes = contracts.steady(micros(begin))[1]
        later = end if changes >= micros(end) else EPOCH + timedelta(microseconds=changes)
        begin = min(later, begin + _DAY) if contracts.timed else later
    return found


def _facts(workload: Workload, site: Site, known: Facts) -> Facts:
    call = CallFacts(workload.tenant, "", cast("Any", workload.kind), workload.interface or "")
    facts = placement_facts(known, site, call)
    if workload.interface is None:
        del facts["workload"]["interface"]
    del facts["principal"]["user"]  # Nobody can tell who will ask.
    return facts


# -- what is capped ------------------------------------------------------------------------------


def _caps(task: Task, contracts: Contracts, skipped: list[Undrawn]) -> list[Cap]:
    payer, quarters = task.portfolio.payer, len(task.days) - 1
    groups: dict[tuple[str, str], list[dict[str, Fraction]]] = {}
    for contract in contracts.contracts:
        for clause in contract.clauses:
            amount = clause.amount
            if (
                clause.kind != "capacity"
                or amount is None
                or not clause.payee
                or (payer or clause.payer) != clause.payer
            ):
                continue
            limit = amount.exact if amount.exact is not None else amount.max
            if limit is None:
                continue
            name = f"{contract.contract}/{clause.id}"
            if why := doubt(clause):
                skipped.append(Undrawn(name, why))
                continue
            span = contracts.spans[name]
            since, until = day_of(span.since), day_of(span.until)
            group = groups.setdefault((party(clause.payee), amount.unit), [{} for _ in range(quarters)])
            for quarter in range(quarters):
                if not span.empty and since < task.days[quarter + 1] and task.days[quarter] < until:
                    group[quarter][name] = Fraction(decimal(limit))
    found: list[Cap] = []
    for (payee, unit), by_quarter in groups.items():
        sites = frozenset(
            index
            for index, site in enumerate(task.portfolio.deployments)
            if party(site.cloud) == payee and site.unit == unit
        )
        if sites and any(by_quarter):
            limits = tuple(sum(each.values(), Fraction(0)) if each else None for each in by_quarter)
            found.append(Cap(sites, tuple(frozenset(each) for each in by_quarter), limits))
    return found


# -- what counts ---------------------------------------------------------------------------------


def _columns(site: Site) -> dict[str, str | None]:
    """Only what is sold by the token is known to be a model; of an hour of an accelerator nobody says what it is."""
    more = site.focus if site.unit == MTOK else {**_NO_MODEL, **site.focus}
    return place_columns(
        name=site.name,
        cloud=site.cloud,
        host=site.host,
        region=site.region,
        account=site.billing_account,
        more=more,
    )


def _windows(task: Task, terms: Terms, skipped: list[Undrawn]) -> list[Window]:
    portfolio = task.portfolio
    first, last = task.days[0], task.days[-1]
    parts = tuple(Fraction(terms.counted(_columns(site))) for site in portfolio.deployments)
    if not any(parts):
        skipped.append(Undrawn(terms.id, "no deployment of the portfolio draws it down"))
        return []
    rate = Fraction(1)
    if terms.unit != portfolio.currency:
        given = task.rates.get((terms.unit, portfolio.currency))
        if given is None:
            message = (
                f"{terms.id} is in {terms.unit}; give its rate, as rates: {{{terms.unit}/{portfolio.currency}: …}}"
            )
            raise PlanError(message)
        rate = given
    found: list[Window] = []
    for number, part in enumerate(terms.parts):
        if part.until is None:
            skipped.append(Undrawn(terms.id, "it has no end, so no plan can miss it"))
            continue
        drawn = task.drawn.get(terms.id, Fraction(0)) if part.since < first else Fraction(0)
        begin = part.since if part.since >= first or terms.id in task.drawn else first
        end = min(part.until, last)
        if max(begin, first) >= end:
            continue
        # Of what is not planned an even pace is taken.
        whole, planned = steps_of(terms, part.since, part.until), steps_of(terms, begin, end)
        promised = Fraction(terms.amounts[number]) * rate * (Fraction(planned, whole) if whole else 1) - drawn
        rolls = terms.commitment.rollover and number + 1 < len(terms.parts)
        since = max(terms.parts[0].since, first)
        found.append(
            Window(
                id=terms.id,
                interval=f"{part.since}/{part.until}",
                minimum=terms.minimum,
                promised=promised if terms.minimum else max(promised, Fraction(0)),
                rate=Fraction(terms.rate),
                rolls=rolls,
                carries=rolls and part.until < last,
                parts=parts,
                shares=tuple(
                    _share(terms, since, each, (begin, end)) for each in zip(task.days, task.days[1:], strict=False)
                ),
            )
        )
    return found


def _share(terms: Terms, since: date, quarter: tuple[date, date], window: tuple[date, date]) -> Fraction:
    """What part of a quarter's use accrues in a window, spread over its days; use before ``since`` never does."""
    begin, end = quarter
    days = (end - begin).days
    if terms.commitment.accrues == "use":
        return Fraction(max(0, (min(end, window[1]) - max(begin, since, window[0])).days), days)
    counted, month = 0, begin
    while month < end:
        closes = months_on(month.replace(day=1), 1)
        stops = min(closes, end)
        if window[0] <= closes < window[1]:
            counted += max(0, (stops - max(month, since)).days)
        month = stops
    return Fraction(counted, days)


def _check_apart(task: Task, windows: list[Window]) -> None:
    paid = {one.id: one for one in windows if not one.minimum}
    every = {one.id: one for one in windows}
    for name, one in paid.items():
        for other_name, other in every.items():
            for index, site in enumerate(task.portfolio.deployments):
                if other_name != name and one.parts[index] and other.parts[index]:
                    message = (
                        f"{name} and {other_name} both count the use of {site.name}, and which of them pays for it"
                    )
                    raise PlanError(f"{message} is not said; narrow the scope (applicability) of one")
