"""`stateline models`: what may be asked for, and where it would be answered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config

if TYPE_CHECKING:
    from stateline.config import Deployment

app = command_app()


@app.command()
def models(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the configured models and their deployments.

    \b
    Examples:
      stateline models
      stateline models --json --config stateline.toml
    """
    deployments = load_config(config).deployments
    if as_json:
        import msgspec

        document = {"deployments": deployments}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    else:
        _print_table(deployments)


def _print_table(deployments: Sequence[Deployment]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("MODEL", "DEPLOYMENT", "CLOUD", "FORMAT", "PRIORITY", "URL"):
        table.add_column(heading, no_wrap=True)
    for one in sorted(deployments, key=lambda each: (each.model, each.priority, each.name)):
        table.add_row(one.model, one.name, one.cloud, one.format, str(one.priority), one.base_url or "-")
    # Into a pipe, lines are as long as they are: a cut URL would be of no use to a program.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)
