"""What several commands share: how a command looks, and the options they all take."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stateline.config import Config


def command_app(about: str | None = None) -> typer.Typer:
    """The `app` of a command's module: plain help, as the root has it.

    Args:
        about: what a module with several commands does; a single command says so itself.
    """
    return typer.Typer(add_completion=False, rich_markup_mode=None, help=about, no_args_is_help=about is not None)


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration file. Default: ./stateline.toml, if there is one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


def load_config(path: Path | None) -> Config:
    """The configuration in force, the environment's overrides included; raises ConfigError."""
    from stateline.config import load

    return load(path, os.environ)


def print_json(value: object) -> None:
    """Print a document for other programs."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
