"""`stateline doctor`: what is wrong with this installation, and what to do."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config, print_json

app = command_app()


@app.command()
def doctor(
    probe: Annotated[
        bool, typer.Option("--probe", help="Ask each deployment for its models, and each MCP server for its tools.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration, secrets, tools, disk, database, clock and port; exit 1 if anything fails.

    It changes nothing, may run beside a server, and prints no secret. With --probe it starts MCP servers that are
    programs, to ask them.

    \b
    Examples:
      stateline doctor
      stateline doctor --probe --config /etc/stateline/stateline.toml
      stateline doctor --json
    """
    from stateline.ops.doctor import Report, examine
    from stateline.ops.findings import Finding

    findings: list[Finding] = []
    for finding in examine(lambda: load_config(config), probe=probe):
        findings.append(finding)
        if not as_json:
            todo = f"; {finding.todo}" if finding.todo else ""
            colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.state]
            typer.secho(f"{finding.state:4} ", fg=colour, nl=False)
            sys.stdout.write(f"{finding.check}: {finding.message}{todo}\n")
    healthy = all(finding.state != "fail" for finding in findings)
    if as_json:
        print_json(Report(healthy=healthy, findings=tuple(findings)))
    if not healthy:
        raise typer.Exit(1)
