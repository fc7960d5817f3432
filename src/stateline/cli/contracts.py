"""`stateline contracts`: what the contracts say about a placement."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config, print_json

if TYPE_CHECKING:
    from stateline.contracts import Facts, Verdict

app = command_app("Ask the contracts where a model call may be placed, and why.")

_COLOURS = {"allow": "green", "deny": "red", "contested": "yellow", "unknown": "magenta"}


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    """Ask the contracts where a model call may be placed, and why."""


ContractsOption = Annotated[Path, typer.Option("--contracts", help="The folder of contracts, YAML files.")]
AtOption = Annotated[str, typer.Option("--at", help="A date (its beginning, UTC), or an RFC 3339 time.")]
FactsOption = Annotated[str, typer.Option("--facts", help="The placement's facts, as a JSON object.")]
PostureOption = Annotated[
    str, typer.Option("--posture", help="How a contested clause resolves: strict, or a holder of readings.")
]

RatesOption = Annotated[
    list[str] | None,
    typer.Option("--rate", help="A rate of exchange, as USD/KRW=1450: one dollar costs 1450 won. May be repeated."),
]


@app.command()
def check(
    contracts: ContractsOption,
    at: AtOption,
    facts: FactsOption,
    posture: PostureOption = "strict",
    as_json: JsonOption = False,
) -> None:
    """Give the verdict on one placement, clause by clause. Any verdict is an answer: exit 0.

    \b
    Examples:
      stateline contracts check --contracts contracts/ --at 2026-03-18 \\
        --facts '{"model":{"vendor":"openai"},"deployment":{"cloud":"aws"},"workload":{"kind":"stateful"}}'
      stateline contracts check --contracts contracts/ --at 2026-03-18T12:00:00Z --posture microsoft --json \\
        --facts '{"model":{"vendor":"openai"},"deployment":{"cloud":"aws"},"workload":{"kind":"stateful"}}'
    """
    import msgspec

    from stateline.contract_files import load_folder
    from stateline.contracts import parse_at

    _check_posture(posture)
    instant = parse_at(at)
    known = _facts(facts)
    verdict = load_folder(contracts).evaluate(known, instant, posture, given=at)
    if as_json:
        sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
    else:
        _print_verdict(verdict)


@app.command()
def explain(
    contracts: ContractsOption,
    at: AtOption,
    facts: FactsOption,
    posture: PostureOption = "strict",
    as_json: JsonOption = False,
) -> None:
    """Say how a verdict comes about: facts, clauses, readings, posture; clauses not in force too.

    \b
    Example:
      stateline contracts explain --contracts contracts/ --at 2026-03-18 --posture amazon \\
        --facts '{"model":{"vendor":"openai"},"deployment":{"cloud":"aws"},"workload":{"kind":"stateful"}}'
    """
    from stateline.cli import _contracts_print
    from stateline.contract_files import load_folder
    from stateline.contracts import parse_at
    from stateline.contracts.explain import explain as explained

    _check_posture(posture)
    instant = parse_at(at)
    known = _facts(facts)
    explanation = explained(load_folder(contracts), known, instant, posture, given=at)
    if as_json:
        print_json(explanation)
    else:
        sys.stdout.write(_contracts_print.explanation(explanation))


@app.command()
def lint(
    contracts: ContractsOption,
    rates: RatesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what contracts contradict or leave open. Exit 1 if there is anything.

    \b
    Examples:
      stateline contracts lint --contracts contracts/
      stateline contracts lint --contracts contracts/ --rate USD/KRW=1450 --json
    """
    from stateline.contract_files import load_folder
    from stateline.contracts.lint import lint as linted
    from stateline.contracts.lint import parse_rate

    given = dict(parse_rate(text) for text in rates or ())
    found = linted(load_folder(contracts), given)
    if as_json:
        print_json({"findings": [one._asdict() for one in found]})
    else:
        for one in found:
            others = f" (with {', '.join(one.others)})" if one.others else ""
            sys.stdout.write(f"{one.place or '-'}: {one.rule}: {one.clause}{others}: {one.message}\n")
        sys.stdout.write(f"{len(found)} findings\n" if found else "nothing found\n")
    if found:
        raise typer.Exit(1)


@app.command()
def report(
    *,
    contracts: ContractsOption,
    at: AtOption,
    usage: Annotated[
        list[Path] | None,
        typer.Option("--usage", help="Use, as FOCUS Cost and Usage rows (CSV). May be repeated."),
    ] = None,
    payer: Annotated[
        str | None, typer.Option("--payer", help="Whose use it is, as clauses name the payer. Default: everyone's.")
    ] = None,
    rates: RatesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what holds on a day and what ends when, who owes whom, what comes back, and how far commitments are drawn.

    \b
    Examples:
      stateline contracts report --contracts contracts/ --at 2026-03-18
      stateline contracts report --contracts contracts/ --at 2026-03-18 --usage aws.csv --usage azure.csv --payer acme
    """
    from stateline.cli import _burndown, _contracts_print
    from stateline.contract_files import load_folder
    from stateline.contracts import parse_at
    from stateline.contracts.report import report as reported

    instant = parse_at(at)
    loaded = load_folder(contracts)
    found = reported(loaded, instant, given=at)
    burned = _burndown.burned(loaded, instant.date(), usage, payer, rates or []) if usage else None
    if as_json:
        print_json(found if burned is None else _burndown.together(found, burned))
    else:
        sys.stdout.write(_contracts_print.report(found))
        if burned is not None:
            sys.stdout.write(_burndown.told(burned))


@app.command()
def plan(
    portfolio: Annotated[Path, typer.Argument(help="Workloads, deployments and quarters, as YAML or JSON.")],
    *,
    contracts: ContractsOption,
    values: Annotated[
        Path | None,
        typer.Option("--values", help="Write the marginal values of commitments there, for placement by them."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", min=1, help="Seconds for the solver; the best plan so far counts then.")
    ] = 600,
    as_json: JsonOption = False,
) -> None:
    """Place workloads over quarters at the least cost that contracts allow, shortfalls of commitments priced.

    Exit 1 where no plan is possible: the clauses that conflict are named. The solver is an extra: stateline[planner].

    \b
    Examples:
      stateline contracts plan examples/planning/portfolio.yaml --contracts examples/planning/contracts
      stateline contracts plan portfolio.yaml --contracts contracts/ --values values.json --json > plan.json
    """
    from stateline.cli import _plan

    if not _plan.run(portfolio, contracts, values, time_limit, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def replay(
    *,
    config: ConfigOption = None,
    contracts: Annotated[
        Path | None,
        typer.Option("--contracts", help="Another folder of contracts, such as a draft. Default: contracts.path."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Judge all at this date or RFC 3339 time. Default: each at its own.")
    ] = None,
    posture: Annotated[
        str | None, typer.Option("--posture", help="Another posture: strict, or a holder. Default: contracts.posture.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Only what was placed at or after this time.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Only what was placed before this time.")] = None,
    every: Annotated[bool, typer.Option("--all", help="List what stays as it was, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what would have become of the calls that were placed, under other contracts, on another date or posture.

    It reads the configured store, also while a server runs on it, and changes nothing. Any result is an answer: exit 0.

    \b
    Examples:
      stateline contracts replay --at 2027-01-01
      stateline contracts replay --posture microsoft --since 2026-11-01
      stateline contracts replay --contracts draft/ --json > replay.json
    """
    from stateline.cli import _replay

    if posture is not None:
        _check_posture(posture)
    asked = _replay.Asked(contracts, at, posture, since, until)
    _replay.run(load_config(config), asked, every=every, as_json=as_json)


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="contract, or determinations.")] = "contract",
) -> None:
    """Print the JSON Schema of a contract file, or of determinations.yaml, for editors.

    \b
    Example:
      stateline contracts schema > contract.schema.json
    """
    from stateline.contracts.schema import schema as made

    print_json(made(name))


def _check_posture(posture: str) -> None:
    from stateline.contracts import FactsError

    if not posture:
        raise FactsError("--posture is strict, or a holder of readings")


def _facts(text: str) -> Facts:
    import json

    from stateline.contracts import FactsError, check_facts

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise FactsError("--facts: a name is written twice")
        return table

    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise FactsError(f"--facts is not valid JSON: {error}") from None
    return check_facts(value)


def _print_verdict(verdict: Verdict) -> None:
    _print_line("", verdict.outcome, verdict.resolved, f"at {verdict.at}, posture {verdict.posture}")
    if not verdict.clauses:
        sys.stdout.write("  no clause with readings is in force\n")
    for clause in verdict.clauses:
        by = f" (posture {clause.posture}, its contract's own)" if clause.posture else ""
        _print_line("  ", clause.outcome, clause.resolved, f"{clause.id}{by}")
        for reading in clause.readings:
            _print_line("    ", reading.outcome, reading.outcome, f"{reading.id}, held by {', '.join(reading.held_by)}")


def _print_line(indent: str, outcome: str, resolved: str, rest: str) -> None:
    typer.secho(f"{indent}{outcome}", fg=_COLOURS[outcome], nl=False)
    sys.stdout.write(f", so {resolved}: {rest}\n" if resolved != outcome else f": {rest}\n")
