"""Makes the price book that comes with Stateline, out of LiteLLM's catalogue and the data of genai-prices.

    scripts/uv run --locked --extra local --with genai-prices==0.2.3 python scripts/shipped_prices.py FOLDER

FOLDER keeps LiteLLM's JSON, which is downloaded once. Of a row that one catalogue alone has, its word is taken. Of one
that both have alike, too, and both are named. Of one that they have otherwise, the dearer is taken, since a budget must
not be passed, and its source says that the other disagrees.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path

import msgspec
from bench.price_catalogues import GENAI_PRICES, LITELLM, genai_prices, litellm_file, read_json

from stateline.core.billing import Price
from stateline.money.book import PriceBook, holds
from stateline.money.comparing import by_key, differences
from stateline.money.importing import Catalogue, sorted_rows
from stateline.money.importing_genai import from_genai_prices
from stateline.money.importing_litellm import from_litellm
from stateline.money.meter import worst_case
from stateline.price_files import encoded_book

TARGET = Path(__file__).resolve().parent.parent / "src" / "stateline" / "price_data" / "shipped.json"
LICENCE = (
    "Facts out of two catalogues under the MIT licence: LiteLLM (https://github.com/BerriAI/litellm, Copyright (c) "
    "2023 Berri AI) and genai-prices (https://github.com/pydantic/genai-prices, Copyright (c) Pydantic Services Inc.)."
)
_LONG = 2_000_000
"""Input tokens that reach every band."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--on", type=date.fromisoformat, required=True, help="the day on which the catalogues were read"
    )
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    litellm = from_litellm(read_json(litellm_file(asked.folder)), Catalogue(f"LiteLLM {LITELLM}", asked.on))
    genai = from_genai_prices(genai_prices(), Catalogue(f"genai-prices {GENAI_PRICES}", asked.on))
    rows = sorted_rows(merged(litellm.prices, genai.prices, asked.on))
    PriceBook(rows)
    TARGET.write_bytes(encoded_book(rows, LICENCE))
    print(f"{len(rows)} rows, {TARGET.stat().st_size} bytes")


def merged(first: Iterable[Price], second: Iterable[Price], on: date) -> list[Price]:
    """One book of two: what is over on the day is left out."""
    ones = [row for row in first if row.until is None or row.until > on]
    others = [row for row in second if row.until is None or row.until > on]
    held = by_key(ones, on), by_key(others, on)
    unlike = {each[:4] for each in differences(ones, others, on) if each.found == "differ"}
    out: list[Price] = []
    for key in sorted({*map(_key, ones), *map(_key, others)}):
        mine, theirs = held[0].get(key), held[1].get(key)
        if mine is None or theirs is None:
            out += [row for row in (*ones, *others) if _key(row) == key]
            continue
        # Of equal ones that of genai-prices, which has days.
        base, beside = (mine, theirs) if _worst(mine) > _worst(theirs) else (theirs, mine)
        word = "says less" if key in unlike else "agrees"
        label = beside.source.partition(",")[0]
        out.append(msgspec.structs.replace(base, source=f"{base.source}; {label} {word}"))
        # What begins later is of the catalogue that has dates.
        out += [row for row in (ones if base is mine else others) if _key(row) == key and not holds(row, on)]
    return out


def _key(row: Price) -> tuple[str, str, str, str]:
    return (row.cloud, row.model, row.region or "", row.service_tier)


def _worst(row: Price) -> Decimal:
    return worst_case(row, _LONG, _LONG)


if __name__ == "__main__":
    main()
