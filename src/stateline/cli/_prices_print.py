"""How `stateline prices` prints what it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from stateline.core.billing import Price, Rates, Tariff
from stateline.money.comparing import Difference
from stateline.money.importing import Imported
from stateline.ports import Deployment

Tariffs = Mapping[str, Mapping[str, Tariff]]

_SAID = {
    "unbudgeted": "takes calls that no hard budget covers",
    "allow": "takes all calls, and budgets do not count them",
    "refuse": "takes no call",
}
_SHOWN_MAX = 12
"""Reasons that are printed of each kind; `--json` has all."""


def shown(found: Sequence[Deployment], tariffs: Tariffs, unpriced: str) -> str:
    """What each deployment is priced at, for a person."""
    lines: list[str] = []
    for each in found:
        place = f" in {each.region}" if each.region else ""
        lines.append(f"{each.name}: {each.model} on {each.cloud}{place}")
        tiers = tariffs[each.name]
        if not tiers:
            lines.append(f"  unpriced: it {_SAID[unpriced]} (prices.unpriced)")
        for tier, tariff in sorted(tiers.items(), key=lambda item: (item[0] != "default", item[0])):
            lines.append(f"  {tier}: {_amounts(tariff.price)}")
            lines.append(f"    {_word(tariff.price)}")
    return "".join(f"{line}\n" for line in lines)


def shown_json(found: Sequence[Deployment], tariffs: Tariffs, on: date, unpriced: str) -> dict[str, Any]:
    """The same for other programs."""
    return {
        "on": on,
        "unit": "a million tokens",
        "unpriced": unpriced,
        "deployments": [
            {
                "name": each.name,
                "model": each.model,
                "cloud": each.cloud,
                "region": each.region,
                "data_zone": each.data_zone,
                "priced": bool(tariffs[each.name]),
                "tiers": {
                    tier: {"tariff": tariff.id, **msgspec.to_builtins(tariff.price, builtin_types=(date,))}
                    for tier, tariff in tariffs[each.name].items()
                },
            }
            for each in found
        ],
    }


def _amounts(price: Price) -> str:
    bands = "; ".join(_band(each) for each in price.rates)
    call = f"; {price.per_call} a call" if price.per_call else ""
    return f"{price.currency} {bands}{call}, a million tokens"


def _band(rates: Rates) -> str:
    parts = [f"{rates.input} in", f"{rates.output} out"]
    for name, amount in (("cached", rates.cached), ("cache write", rates.cache_write), ("reasoning", rates.reasoning)):
        if amount is not None:
            parts.append(f"{amount} {name}")
    return (f"above {rates.above} input tokens " if rates.above else "") + ", ".join(parts)


def _word(price: Price) -> str:
    span = (f", from {price.since}" if price.since else "") + (f", until {price.until}" if price.until else "")
    where = f" at {price.region}" if price.region else ""
    return f"{price.model}{where}{span}: {price.source or 'no source'}"


def brought(found: Imported, output: Path | None) -> str:
    """What came of a catalogue, for a person."""
    where = "" if output is None else f" in {output}"
    lines = [f"{len(found.prices)} prices{where}"]
    for what, remarks in (("left out", found.skipped), ("brought in part", found.noted)):
        if remarks:
            lines.append(f"{what} ({len(remarks)}):")
            lines += [f"  {why}: {names}" for why, names in _reasons(remarks)]
    return "".join(f"{line}\n" for line in lines)


def _reasons(remarks: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The most frequent reasons, each with some of the names."""
    counts = Counter(why for _, why in remarks)
    for why, count in counts.most_common(_SHOWN_MAX):
        names = [name for name, reason in remarks if reason == why][:3]
        yield why, ", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")
    rest = len(counts) - _SHOWN_MAX
    if rest > 0:
        yield f"{rest} more reasons", "--json lists all"


def compared(found: Sequence[Difference], listed: Sequence[Difference], both: int) -> str:
    """Differences, for a person."""
    lines: list[str] = []
    for each in listed:
        region = f" in {each.region}" if each.region else ""
        tier = "" if each.service_tier == "default" else f", tier {each.service_tier}"
        name = f"{each.model} on {each.cloud}{region}{tier}"
        if each.found != "differ":
            lines.append(f"{name}: only in the {each.found}")
            continue
        amounts = "; ".join(
            f"{what}{f' above {above}' if above else ''} {one} and {other}" for what, above, one, other in each.amounts
        )
        lines.append(f"{name}: {amounts or 'another currency'}")
    counts = Counter(each.found for each in found)
    differ = counts["differ"]
    lines.append(
        f"{both} in both, of which {differ} differ; {counts['first']} in the first alone, "
        f"{counts['second']} in the second alone"
    )
    return "".join(f"{line}\n" for line in lines)


def compared_json(found: Sequence[Difference], listed: Sequence[Difference], both: int, on: date) -> dict[str, Any]:
    """Differences, for other programs."""
    counts = Counter(each.found for each in found)
    return {
        "on": on,
        "both": both,
        "differ": counts["differ"],
        "first_alone": counts["first"],
        "second_alone": counts["second"],
        "differences": [
            {**each._asdict(), "amounts": [amount._asdict() for amount in each.amounts]} for each in listed
        ],
    }
