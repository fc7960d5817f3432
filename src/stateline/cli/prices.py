"""`stateline prices`: what calls cost, by whose word, and what public catalogues say."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stateline.cli._options import ConfigOption, JsonOption, command_app, load_config, print_json

if TYPE_CHECKING:
    from datetime import date

app = command_app("Say what calls cost, and bring prices from public catalogues.")


class Catalogue(StrEnum):
    """The catalogues that can be brought."""

    litellm = "litellm"
    genai_prices = "genai-prices"


DayOption = Annotated[str | None, typer.Option("--on", help="The day, as 2026-11-26. Default: today (UTC).")]


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    """Say what calls cost, and bring prices from public catalogues."""


@app.command()
def show(
    model: Annotated[str | None, typer.Argument(help="Only deployments of this model, or of this name.")] = None,
    config: ConfigOption = None,
    on: DayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what each deployment is priced at, by service tier, with the source; unpriced ones are named.

    \b
    Examples:
      stateline prices show
      stateline prices show gpt-5 --on 2026-12-24
      stateline prices show --json --config stateline.toml
    """
    from stateline.cli import _prices_print
    from stateline.money.book import PriceError
    from stateline.pricing import priced
    from stateline.wiring import deployments

    day = _day(on)
    loaded = load_config(config)
    found = deployments(loaded, secrets=False)
    if model is not None:
        found = [each for each in found if model in (each.model, each.name)]
        if not found:
            raise PriceError(f"no deployment has the model or the name {model}; `stateline models` lists them")
    tariffs = priced(loaded, found, day)
    if as_json:
        print_json(_prices_print.shown_json(found, tariffs, day, loaded.prices.unpriced))
    else:
        sys.stdout.write(_prices_print.shown(found, tariffs, loaded.prices.unpriced))


@app.command(name="import")
def bring(
    file: Annotated[Path, typer.Argument(help="The catalogue, JSON.")],
    source: Annotated[Catalogue, typer.Option("--from", help="Whose it is.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write, in prices.path. Default: standard output.")
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="The day on which the catalogue was read. Default: today (UTC).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a file of prices out of a public catalogue. What it cannot express exactly is left out, and said.

    \b
    Catalogues (both under the MIT licence):
      litellm       model_prices_and_context_window.json of github.com/BerriAI/litellm
      genai-prices  prices/new_data/v2/data.json of github.com/pydantic/genai-prices

    \b
    Examples:
      stateline prices import --from litellm model_prices_and_context_window.json -o prices/litellm.json
      stateline prices import --from genai-prices data.json --json
    """
    from stateline.cli import _prices_print
    from stateline.price_files import encoded, load_catalogue, write

    found = load_catalogue(source.value, file, _day(on))
    if output is not None:
        write(output, found.prices)
    if as_json:
        print_json(
            {
                "prices": len(found.prices),
                "written": None if output is None else str(output),
                "skipped": [each._asdict() for each in found.skipped],
                "noted": [each._asdict() for each in found.noted],
            }
        )
        return
    if output is None:
        sys.stdout.write(encoded(found.prices).decode())
    sys.stderr.write(_prices_print.brought(found, output))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A file or folder of prices, a catalogue, or `shipped`.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    on: DayOption = None,
    every: Annotated[bool, typer.Option("--all", help="List what one of them alone has, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the prices that two places do not have alike on a day. Exit 1 if there are any.

    \b
    Examples:
      stateline prices compare shipped model_prices_and_context_window.json
      stateline prices compare prices/litellm.json prices/genai.json --all --json
    """
    from stateline.cli import _prices_print
    from stateline.money.comparing import by_key, differences
    from stateline.price_files import load_any

    day = _day(on)
    ones, others = load_any(first, day), load_any(second, day)
    found = differences(ones, others, day)
    both = len(by_key(ones, day).keys() & by_key(others, day).keys())
    listed = [each for each in found if every or each.found == "differ"]
    if as_json:
        print_json(_prices_print.compared_json(found, listed, both, day))
    else:
        sys.stdout.write(_prices_print.compared(found, listed, both))
    if any(each.found == "differ" for each in found):
        raise typer.Exit(1)


def _day(text: str | None) -> date:
    from datetime import UTC, date, datetime

    from stateline.money.book import PriceError

    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise PriceError(f"--on {text}: not a day, such as 2026-11-26") from None
