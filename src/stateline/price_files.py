"""Reads and writes files of prices: TOML and JSON, public catalogues, and the book that comes with Stateline."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from stateline.core.billing import ZERO, Price, Rates
from stateline.core.limits import PRICE_FILE_BYTES_MAX, PRICE_ROWS_MAX
from stateline.money.book import PriceBook, PriceError
from stateline.money.importing import Catalogue, Imported
from stateline.money.rows import document_of, prices_of

SHIPPED = "shipped"
"""In place of a file: the book that comes with Stateline."""
Kind = Literal["litellm", "genai-prices"]

_ENDINGS = (".toml", ".json")


# -- files of one's own ----------------------------------------------------------------------------


def load_folder(folder: Path) -> PriceBook:
    """The prices of a folder and of those in it, by file name; names that begin with a dot are left out.

    Raises:
        PriceError: the folder or a file cannot be read, or says what is refused.
    """
    if not folder.is_dir():
        raise PriceError(f"{folder}: no such folder; prices.path names one", code="prices_unreadable")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _ENDINGS and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    rows: list[Price] = []
    for path in files:
        rows += load_file(path)
        _bounded(rows, folder)
    return PriceBook(rows)


def load_file(path: Path) -> list[Price]:
    """The prices of one file.

    Raises:
        PriceError: it cannot be read, or says what is refused.
    """
    return prices_of(read(path), str(path))


def load_any(place: str, on: date) -> list[Price]:
    """The prices of a file, of a folder of files, of a public catalogue, or of the shipped book (``shipped``).

    Args:
        on: the day on which a catalogue counts as read.

    Raises:
        PriceError: as the others.
    """
    if place == SHIPPED:
        return shipped()
    path = Path(place)
    if path.is_dir():
        return load_folder(path).all()
    document = read(path)
    if isinstance(document, list):
        return imported("genai-prices", cast("object", document), str(path), on).prices
    if isinstance(document, dict) and not isinstance(cast("dict[str, Any]", document).get("prices"), list):
        return imported("litellm", cast("object", document), str(path), on).prices
    return prices_of(cast("object", document), str(path))


def load_catalogue(kind: Kind, path: Path, on: date) -> Imported:
    """What comes of a public catalogue that was read on a day.

    Raises:
        PriceError: it cannot be read, or is no such catalogue.
    """
    return imported(kind, read(path), str(path), on)


def imported(kind: Kind, document: object, file: str, on: date) -> Imported:
    """What comes of a public catalogue's JSON."""
    # Who imports nothing need not wait for the importers.
    from stateline.money.importing_genai import from_genai_prices
    from stateline.money.importing_litellm import from_litellm

    try:
        if kind == "litellm":
            found = from_litellm(document, Catalogue("LiteLLM", on))
        else:
            found = from_genai_prices(document, Catalogue("genai-prices", on))
    except PriceError as error:
        raise PriceError(f"{file}: {error.message}") from None
    except RecursionError:
        raise PriceError(f"{file}: nested too deeply") from None
    _bounded(found.prices, Path(file))
    return found


def read(path: Path) -> object:
    """A file of TOML or JSON as plain values, its fractions as they are written.

    Raises:
        PriceError: it cannot be read, or is not whole.
    """
    try:
        with path.open("rb") as file:
            data = file.read(PRICE_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise PriceError(f"{path}: cannot be read: {error.strerror}", code="prices_unreadable") from None
    if len(data) > PRICE_FILE_BYTES_MAX:
        raise PriceError(f"{path}: larger than {PRICE_FILE_BYTES_MAX} bytes", code="prices_unreadable")
    try:
        text = data.decode("utf-8-sig")
        if path.suffix == ".toml":
            return tomllib.loads(text, parse_float=Decimal)
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError:
        raise PriceError(f"{path}: nested too deeply") from None
    except (ValueError, ArithmeticError) as error:
        what = "TOML" if path.suffix == ".toml" else "JSON"
        said = " ".join(str(error).split()) or type(error).__name__
        raise PriceError(f"{path}: not valid {what}, as a file is that came in part: {said}") from None


def write(path: Path, prices: Sequence[Price]) -> None:
    """Write prices as JSON, a row a line; the file is replaced as a whole, or stays as it was.

    Raises:
        PriceError: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(encoded(prices))
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise PriceError(f"{path}: cannot be written: {error.strerror}", code="prices_unreadable") from None


def encoded(prices: Sequence[Price]) -> bytes:
    """A file of prices, as JSON with a row a line."""
    rows = b",\n".join(map(msgspec.json.encode, document_of(prices).prices))
    return b'{"prices": [\n' + rows + b"\n]}\n"


def _bounded(rows: Sequence[Price], place: Path) -> None:
    if len(rows) > PRICE_ROWS_MAX:
        raise PriceError(f"{place}: more than {PRICE_ROWS_MAX} prices", code="prices_unreadable")


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no number")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key "{twice}" is written twice')
    return table


# -- the book that comes with Stateline ------------------------------------------------------------


class _Line(msgspec.Struct, frozen=True, array_like=True):
    """A row without what all rows of its place share; ``rates`` are ``above`` and the five amounts."""

    region: str | None
    service_tier: str
    since: date | None
    until: date | None
    per_call: Decimal
    source: int
    rates: list[tuple[int, Decimal, Decimal, Decimal | None, Decimal | None, Decimal | None]]


class _Shipped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows by cloud and model; each is decoded when it is asked for, since few of them are."""

    licence: str
    sources: list[str]
    rows: dict[str, dict[str, msgspec.Raw]]


_LINES = msgspec.json.Decoder(list[_Line])


def shipped(wanted: Iterable[tuple[str, str]] | None = None) -> list[Price]:
    """Rows of the shipped book.

    Args:
        wanted: clouds and models; None: all.
    """
    data = resources.files("stateline").joinpath("price_data", "shipped.json").read_bytes()
    book = msgspec.json.decode(data, type=_Shipped)
    if wanted is None:
        wanted = [(cloud, model) for cloud, models in book.rows.items() for model in models]
    out: list[Price] = []
    for cloud, model in dict.fromkeys(wanted):
        lines = book.rows.get(cloud, {}).get(model)
        for line in () if lines is None else _LINES.decode(lines):
            out.append(
                Price(
                    cloud=cloud,
                    model=model,
                    region=line.region,
                    service_tier=line.service_tier,
                    currency="USD",
                    rates=tuple(
                        Rates(
                            above=above, input=first, output=second, cached=cached, cache_write=write, reasoning=think
                        )
                        for above, first, second, cached, write, think in line.rates
                    ),
                    per_call=line.per_call,
                    since=line.since,
                    until=line.until,
                    source=book.sources[line.source],
                )
            )
    return out


def encoded_book(prices: Iterable[Price], licence: str) -> bytes:
    """A book as `shipped` reads it, a model a line; ``scripts/shipped_prices.py`` writes it."""
    sources: dict[str, int] = {}
    rows: dict[str, dict[str, list[_Line]]] = {}
    for price in prices:
        assert price.currency == "USD"
        line = _Line(
            price.region,
            price.service_tier,
            price.since,
            price.until,
            price.per_call or ZERO,
            sources.setdefault(price.source, len(sources)),
            [
                (each.above, each.input, each.output, each.cached, each.cache_write, each.reasoning)
                for each in price.rates
            ],
        )
        rows.setdefault(price.cloud, {}).setdefault(price.model, []).append(line)
    encode = msgspec.json.encode
    clouds = [
        encode(cloud)
        + b": {\n"
        + b",\n".join(encode(model) + b": " + encode(lines) for model, lines in models.items())
        + b"\n}"
        for cloud, models in rows.items()
    ]
    head = b'{"licence": ' + encode(licence) + b',\n"sources": [\n' + b",\n".join(map(encode, sources)) + b"\n],\n"
    return head + b'"rows": {\n' + b",\n".join(clouds) + b"\n}}\n"
