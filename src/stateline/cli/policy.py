"""`stateline policy`: whether the policies for tool calls hold together, and what they say of one call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config, print_json

if TYPE_CHECKING:
    from stateline.core.tools import PolicyRuling

app = command_app("Check the policies for tool calls, and ask them about one.")

_COLOURS = {"allow": "green", "approve": "yellow", "deny": "red"}


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    """Check the policies for tool calls, and ask them about one."""


@app.command()
def check(
    config: ConfigOption = None,
    facts: Annotated[
        str | None, typer.Option("--facts", help="One tool call, as a JSON object; see docs/policies.md.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Validate the policies, and say what they rule on one call. Any ruling is an answer: exit 0.

    Exit 1 if the policies do not validate; each thing that is wrong is a line.

    \b
    Examples:
      stateline policy check --config stateline.toml
      stateline policy check --facts '{"principal":"alice","server":"payments","tool":"refund",
        "arguments":{"amount_cents":300}}'
    """
    from stateline.core.errors import BadRequest
    from stateline.identity.policy import PolicyError, load_policy
    from stateline.identity.policy.asking import question

    settings = load_config(config).policy
    if settings is None:
        message = "the configuration has no [policy]; set its path to a folder of .cedar files"
        raise BadRequest(message, code="policy_missing")
    asked = None if facts is None else question(facts)
    try:
        policy = load_policy(Path(settings.path), mode=settings.mode)
    except PolicyError as error:
        if error.code != "policy_invalid":
            raise
        if as_json:
            print_json({"problems": [each._asdict() for each in error.problems]})
        else:
            sys.stdout.write("".join(f"{each}\n" for each in error.problems))
        raise typer.Exit(1) from None
    ruling = None if asked is None else policy.rule(asked)
    if as_json:
        print_json({"policies": policy.names, "version": policy.version, "mode": settings.mode, "ruling": ruling})
        return
    sys.stdout.write(f"{len(policy.names)} policies, version {policy.version}, {settings.mode}\n")
    if ruling is not None:
        _print_ruling(ruling)


def _print_ruling(ruling: PolicyRuling) -> None:
    typer.secho(ruling.outcome, fg=_COLOURS[ruling.outcome], nl=False)
    by = f" by {', '.join(ruling.policies)}" if ruling.policies else ""
    nothing = ": nothing permits it" if ruling.outcome == "deny" and not (ruling.policies or ruling.errors) else ""
    sys.stdout.write(f"{by}{nothing}\n")
    for error in ruling.errors:
        sys.stdout.write(f"  {error}\n")
