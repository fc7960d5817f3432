"""`stateline models`: what may be asked for, where it would be answered, and what is known of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config

if TYPE_CHECKING:
    from stateline.config import Deployment
    from stateline.core.facts import ModelFacts

app = command_app()


@app.command()
def models(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the configured models, their deployments, and what is known of each.

    \b
    Examples:
      stateline models
      stateline models --json --config stateline.toml
    """
    from stateline.models.facts import facts_of

    deployments = load_config(config).deployments
    facts = {one.name: facts_of(one.upstream_model, one.model) for one in deployments}
    if as_json:
        import msgspec

        known: dict[str, ModelFacts] = {}
        for one in deployments:
            found = facts[one.name]
            if found is not None:
                known.setdefault(one.model, found)
        document = {"deployments": deployments, "facts": known}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    else:
        _print_table(deployments, facts)


def _print_table(deployments: Sequence[Deployment], facts: dict[str, ModelFacts | None]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    headings = (
        "MODEL",
        "DEPLOYMENT",
        "CLOUD",
        "FORMAT",
        "PRIORITY",
        "REGION",
        "TIER",
        "URL",
        "TAKES",
        "DOES",
        "TOKENS IN",
        "TOKENS OUT",
    )
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for one in sorted(deployments, key=lambda each: (each.model, each.priority, each.name)):
        where = (
            one.model,
            one.name,
            one.cloud,
            one.format,
            str(one.priority),
            one.region or "-",
            one.service_tier or "-",
            one.base_url or "-",
        )
        table.add_row(*where, *_known(facts[one.name]))
    # Into a pipe, lines are as long as they are: a cut URL would be of no use to a program.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def _known(facts: ModelFacts | None) -> tuple[str, str, str, str]:
    """What is known, a dash for what is not."""
    if facts is None:
        return ("-", "-", "-", "-")
    does = [name for name in ("tools", "reasoning") if getattr(facts, name)]
    limits = [f"{count:,}" if count is not None else "-" for count in (facts.input_tokens, facts.output_tokens)]
    return (" ".join(facts.input), " ".join(does) or "-", limits[0], limits[1])
