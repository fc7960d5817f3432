"""The command line: one module a command, imported only when that command is asked for.

Every module in this folder whose name has no underscore in front is a command of that name. It
holds `app = command_app()` (see `_options`): with one command it is `stateline NAME`, with several
`stateline NAME SUB`. A module keeps its imports light and imports what is heavy in the function that needs it.

Exit codes: 0 done, 1 what was checked does not hold, 2 bad input, with one clear line.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stateline import __version__
from stateline.core.errors import StatelineError

EXIT_DOES_NOT_HOLD = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells expect it."""


class _Commands(TyperGroup):
    """The commands of this folder, found by name and loaded on use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"stateline {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction]
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A self-hosted, durable runtime for AI agents.

    Start with `stateline demo`, or `stateline serve` and any OpenAI client at http://127.0.0.1:8700/v1.
    """


def main() -> None:
    """The console script. An error that we know prints as one line; others keep their traceback."""
    try:
        app()
    except StatelineError as error:
        typer.secho(f"stateline: {error}", fg="red", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
