"""Random calls priced by each imported catalogue, against a computation of its own from the raw data.

    scripts/uv run --locked --extra local --with genai-prices==0.2.3 python -m bench.prices FOLDER

FOLDER keeps LiteLLM's JSON, which is downloaded once. Writes bench/results/prices.json: of each catalogue how many
calls agree to the last digit, which disagree, and which are unpriced on both sides or on one; and where the two
catalogues differ.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

from bench.price_catalogues import GENAI_PRICES, LITELLM, genai_prices, litellm_file, read_json
from bench.price_oracles import (
    PLACES,
    TIERS,
    Case,
    Mix,
    any_mix,
    genai_cost,
    genai_models,
    litellm_cost,
    litellm_models,
)
from stateline.core.calls import Usage
from stateline.money.book import PriceBook
from stateline.money.comparing import differences
from stateline.money.importing import Catalogue
from stateline.money.importing_genai import from_genai_prices
from stateline.money.importing_litellm import from_litellm
from stateline.money.meter import cost_of
from stateline.money.tariffs import tariffs
from stateline.ports import Deployment

RESULTS = Path(__file__).resolve().parent / "results" / "prices.json"
Cost = Callable[[Case], Fraction | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--on", type=date.fromisoformat, default=date(2026, 11, 26))
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    raw = read_json(litellm_file(asked.folder))
    litellm = from_litellm(raw, Catalogue("LiteLLM", asked.on))
    genai = from_genai_prices(genai_prices(), Catalogue("genai-prices", asked.on))
    pairs = [(each._asdict(), each.found) for each in differences(litellm.prices, genai.prices, asked.on)]
    differ = [entry for entry, found in pairs if found == "differ"]
    result: dict[str, Any] = {
        "on": str(asked.on),
        "seed": asked.seed,
        "litellm": {
            "version": LITELLM,
            "rows": len(litellm.prices),
            "skipped": len(litellm.skipped),
            **judged(
                cases(litellm_models(raw), asked.cases, asked.seed),
                PriceBook(litellm.prices),
                lambda case: litellm_cost(raw, case),
                asked.on,
            ),
        },
        "genai_prices": {
            "version": GENAI_PRICES,
            "rows": len(genai.prices),
            "skipped": len(genai.skipped),
            **judged(
                cases(list(genai_models()), asked.cases, asked.seed),
                PriceBook(genai.prices),
                lambda case: genai_cost(case, asked.on),
                asked.on,
            ),
        },
        "azure_gpt_5_5": _trap(PriceBook(litellm.prices), asked.on),
        "cross_check": {
            "both": len(differ) + _alike(litellm.prices, genai.prices, asked.on),
            "differ": len(differ),
            "litellm_alone": sum(found == "first" for _, found in pairs),
            "genai_prices_alone": sum(found == "second" for _, found in pairs),
            "differences": [
                {
                    **{key: each[key] for key in ("cloud", "model", "region", "service_tier")},
                    "amounts": [
                        f"{what} above {above}: {one} / {other}" for what, above, one, other in each["amounts"]
                    ],
                }
                for each in differ
            ],
        },
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name in ("litellm", "genai_prices"):
        found = result[name]
        counts = {key: found[key] if isinstance(found[key], int) else len(found[key]) for key in list(found)[3:]}
        print(name, counts, file=sys.stderr)
    print("cross-check", len(differ), "of", result["cross_check"]["both"], "differ", file=sys.stderr)


def cases(models: Sequence[tuple[str, str]], count: int, seed: int) -> list[Case]:
    """Random calls: every cloud as often as every other, whatever the number of its models."""
    chance = random.Random(seed)
    by_cloud = {cloud: [model for home, model in models if home == cloud] for cloud in PLACES}
    out: list[Case] = []
    for index in range(count):
        cloud = tuple(PLACES)[index % len(PLACES)]
        tier = chance.choice(("default", *TIERS))
        place = chance.choice((PLACES[cloud][0], *PLACES[cloud]))
        out.append(Case(cloud, chance.choice(by_cloud[cloud]), place, tier, any_mix(chance)))
    return out


def judged(found: Iterable[Case], book: PriceBook, cost: Cost, on: date) -> dict[str, Any]:
    """How calls are priced by the book, beside what they cost by the catalogue's own data."""
    agree = total = 0
    both: set[str] = set()
    disagree: list[dict[str, Any]] = []
    unpriced: list[dict[str, Any]] = []
    for case in found:
        total += 1
        ours, theirs = priced(case, book, on), cost(case)
        listed = {**case._asdict(), "mix": list(case.mix), "ours": _text(ours), "theirs": _text(theirs)}
        if ours == theirs:
            agree += ours is not None
            if ours is None:
                both.add(" ".join((case.cloud, case.model, case.place or "anywhere", case.tier)))
        elif ours is None:
            unpriced.append(listed)
        else:
            disagree.append(listed)
    return {
        "cases": total,
        "agree": agree,
        "disagree": disagree,
        "unpriced_here_alone": unpriced,
        "unpriced_by_both": sorted(both),
    }


def priced(case: Case, book: PriceBook, on: date) -> Fraction | None:
    """What the meter says of a call at a deployment as a configuration has it; None: unpriced."""
    tariff = tariffs([deployment(case)], [book], on)["d"].get(case.tier)
    if tariff is None:
        return None
    mix = case.mix
    usage = Usage(
        input_tokens=mix.input,
        cached_tokens=mix.cached,
        cache_write_tokens=mix.cache_write,
        output_tokens=mix.output,
        reasoning_tokens=mix.reasoning,
    )
    return Fraction(cost_of(tariff.price, usage))


def deployment(case: Case) -> Deployment:
    vertex, _, location = case.place.partition("/")
    zone = case.place if case.cloud in ("azure", "openai", "anthropic") and case.place != "global" else None
    region = location if vertex == "vertex" else case.place if case.cloud == "aws" else None
    return Deployment(
        name="d",
        model=case.model,
        cloud=case.cloud,
        format="",
        base_url="https://x/v1/projects/p" if vertex == "vertex" else "https://x/v1",
        upstream_model=case.model,
        region=region or None,
        data_zone=zone or None,
    )


def _trap(book: PriceBook, on: date) -> dict[str, list[str | None]]:
    """A call at Azure by tier and zone: here, and as genai-prices answers, which knows neither there."""
    package: Any = importlib.import_module("genai_prices")
    mix = Mix(25_500, 0, 0, 4_250, 0)
    out: dict[str, list[str | None]] = {}
    for place, tier in (("global", "default"), ("global", "priority"), ("global", "batch"), ("eu", "default")):
        usage = package.Usage(input_tokens=mix.input, output_tokens=mix.output)
        context = {"service_tier": tier, "region": place}
        theirs = package.calc_price(usage, "gpt-5.5", provider_id="azure", price_context=context).total_price
        ours = priced(Case("azure", "gpt-5.5", place, tier, mix), book, on)
        out[f"{place} {tier}"] = [_text(ours), str(theirs)]
    return out


def _alike(first: Iterable[Any], second: Iterable[Any], on: date) -> int:
    from stateline.money.comparing import by_key

    ones, others = by_key(first, on), by_key(second, on)
    alone = {each[:4] for each in differences(ones.values(), others.values(), on) if each.found == "differ"}
    return len((ones.keys() & others.keys()) - alone)


def _text(cost: Fraction | None) -> str | None:
    return None if cost is None else str(float(cost))


if __name__ == "__main__":
    main()
