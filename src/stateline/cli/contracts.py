"""`stateline contracts`: what the contracts say about a placement."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stateline.cli._options import JsonOption, command_app

if TYPE_CHECKING:
    from stateline.contracts import Facts, Verdict

app = command_app("Ask the contracts where a model call may be placed, and why.")

_COLOURS = {"allow": "green", "deny": "red", "contested": "yellow", "unknown": "magenta"}


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    """Ask the contracts where a model call may be placed, and why."""


@app.command()
def check(
    contracts: Annotated[Path, typer.Option("--contracts", help="The folder of contracts, YAML files.")],
    at: Annotated[str, typer.Option("--at", help="A date (its beginning, UTC), or an RFC 3339 time.")],
    facts: Annotated[str, typer.Option("--facts", help="The placement's facts, as a JSON object.")],
    posture: Annotated[
        str, typer.Option("--posture", help="How a contested clause resolves: strict, or a holder of readings.")
    ] = "strict",
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
    from stateline.contracts import FactsError, parse_at

    if not posture:
        raise FactsError("--posture is strict, or a holder of readings")
    instant = parse_at(at)
    known = _facts(facts)
    verdict = load_folder(contracts).evaluate(known, instant, posture, given=at)
    if as_json:
        sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
    else:
        _print_verdict(verdict)


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
