"""`stateline usage`: what calls cost, for the tools that read clouds' bills."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config

app = command_app("Export what calls cost, and compare it with a cloud's own export.")

FromOption = Annotated[str | None, typer.Option("--from", help="The first day, UTC, as 2026-11-01. Default: all.")]
ToOption = Annotated[str | None, typer.Option("--to", help="The last day, UTC. Default: all.")]


class Dataset(Enum):
    """The datasets of FOCUS 1.4 that can be exported."""

    USAGE = "cost-and-usage"
    COMMITMENTS = "contract-commitment"


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    """Export what calls cost, and compare it with a cloud's own export."""


@app.command()
def export(
    *,
    config: ConfigOption = None,
    since: FromOption = None,
    until: ToOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file. Default: standard output.")] = None,
    dataset: Annotated[Dataset, typer.Option("--dataset", help="Which rows.")] = Dataset.USAGE,
    contracts: Annotated[
        Path | None,
        typer.Option("--contracts", help="The folder of contracts, for commitments. Default: contracts.path."),
    ] = None,
    payer: Annotated[str | None, typer.Option("--payer", help="Only commitments that this party pays.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON; the rows go to --output.")] = False,
) -> None:
    """Write FOCUS 1.4 rows as CSV: what calls cost, or the commitments of the contracts.

    The costs are this meter's own, marked as estimates. Load them beside the cloud's export, never into it.
    It reads the configured store, also while a server runs on it, and changes nothing.

    \b
    Examples:
      stateline usage export --from 2026-11-01 --to 2026-11-30 -o usage.csv
      stateline usage export --dataset contract-commitment --contracts contracts/ -o commitments.csv
      stateline usage export -o usage.csv --json
    """
    from stateline.cli import _usage_export
    from stateline.cli._usage import parse_day
    from stateline.core.errors import BadRequest

    if as_json and output is None:
        raise BadRequest("--json tells of the rows in a file; name it with --output", code="invalid_value")
    asked = _usage_export.Asked(
        None if since is None else parse_day(since, "--from"),
        None if until is None else parse_day(until, "--to"),
        output,
        contracts,
        payer,
    )
    exported = _usage_export.export_usage if dataset is Dataset.USAGE else _usage_export.export_commitments
    exported(load_config(config), asked, as_json=as_json)


class CostColumn(Enum):
    """Which of FOCUS's costs is compared."""

    CONTRACTED = "contracted"
    BILLED = "billed"
    EFFECTIVE = "effective"
    LIST = "list"


@app.command()
def reconcile(
    *,
    file: Annotated[Path, typer.Argument(help="The cloud's FOCUS export, 1.0 to 1.4: CSV, or gzipped CSV.")],
    config: ConfigOption = None,
    since: FromOption = None,
    until: ToOption = None,
    cost: Annotated[
        CostColumn | None,
        typer.Option("--cost", help="Which cost. Default: the contracted one, which commitments do not change."),
    ] = None,
    tolerance: Annotated[
        str, typer.Option("--tolerance", help="By how much a line may differ beside the file's own rounding.")
    ] = "0",
    as_json: JsonOption = False,
) -> None:
    """Compare the meter with a cloud's FOCUS export by day, account and model, and explain what differs.

    Only the days of the file are compared, and the accounts that it names. Exit 1 if there is a difference.

    \b
    Examples:
      stateline usage reconcile azure-focus-2026-11.csv
      stateline usage reconcile aws-focus.csv.gz --from 2026-11-01 --to 2026-11-30 --json
    """
    from decimal import Decimal, InvalidOperation

    from stateline.cli import _reconcile
    from stateline.cli._usage import parse_day
    from stateline.core.errors import BadRequest

    try:
        most = Decimal(tolerance)
    except InvalidOperation:
        most = Decimal("NaN")
    if not (most.is_finite() and most >= 0):
        raise BadRequest(f'--tolerance: "{tolerance}" is no amount, such as 0.01', code="invalid_value")
    asked = _reconcile.Asked(
        file,
        None if since is None else parse_day(since, "--from"),
        None if until is None else parse_day(until, "--to"),
        None if cost is None else cost.value,
        most,
    )
    if not _reconcile.run(load_config(config), asked, as_json=as_json):
        raise typer.Exit(1)
