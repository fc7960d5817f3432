"""What a source's own words say of amounts, ends and rates of exchange.

"up to $5B", "to 2032", "$50B = 7.25 trillion won", "1,450 won per dollar". Only forms that say one thing are
read; whatever else a quote holds is left alone.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal, NamedTuple

from stateline.contracts.amounts import CURRENCIES

Bound = Literal["exact", "min", "max", "about"]

_SCALES = {
    "": 0, "k": 3, "thousand": 3, "m": 6, "mn": 6, "million": 6, "b": 9, "bn": 9, "billion": 9, "t": 12, "tn": 12,
    "trillion": 12,
}  # fmt: skip
_SIGNS = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₩": "KRW", "₹": "INR"}
_WORDS = {
    "dollar": "USD", "dollars": "USD", "euro": "EUR", "euros": "EUR", "won": "KRW", "yen": "JPY", "pounds": "GBP",
    "yuan": "CNY", "rupees": "INR", "gw": "GW", "gigawatt": "GW", "gigawatts": "GW", "mw": "MW", "megawatts": "MW",
    "%": "%", "percent": "%", "per cent": "%", "tokens/min": "tokens/min",
    **{code.lower(): code for code in CURRENCIES},
}  # fmt: skip
_BOUNDS: dict[str, Bound] = {
    **dict.fromkeys((">", "≥", "at least", "more than", "over", "not less than", "no less than"), "min"),
    **dict.fromkeys(("<", "≤", "up to", "at most", "not more than", "no more than"), "max"),
    **dict.fromkeys(("~", "≈", "about", "around", "some", "roughly", "nearly", "almost"), "about"),
}


def _either(words: dict[str, str] | dict[str, Bound] | dict[str, int]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word)


_AMOUNT = re.compile(
    rf"(?<![\w.,])(?:(?P<bound>{_either(_BOUNDS)})\s*)?(?:(?P<sign>[{re.escape(''.join(_SIGNS))}])\s?"
    rf"|(?P<code>{'|'.join(sorted(CURRENCIES))})\s)?(?P<digits>\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d{{1,30}}(?:\.\d{{1,18}})?)"
    rf"(?:\s?(?P<scale>{_either(_SCALES)})(?![\w/]))?(?:\s?(?P<word>{_either(_WORDS)})(?![\w/]))?",
    re.IGNORECASE,
)
_END = re.compile(r"\b(?:until|through|to)\s+(?:the end of\s+)?((?:19|20)\d\d(?:-\d\d-\d\d)?(?![\d,])|[A-Z][A-Za-z-]+)")
_RATE = re.compile(rf"(?P<amount>.+)\s+(?:per|to the|a)\s+(?P<word>{_either(_WORDS)})\b", re.IGNORECASE)


class Quoted(NamedTuple):
    """An amount as a source words it.

    Attributes:
        bound: whether it is the amount, the least, the most, or near it.
        value: scaled: "$5B" is 5000000000.
        unit: as `Amount.unit` has them.
    """

    bound: Bound
    value: Decimal
    unit: str

    def __str__(self) -> str:
        words = {"exact": "", "min": "at least ", "max": "up to ", "about": "about "}
        return f"{words[self.bound]}{plain(self.value)} {self.unit}"


def plain(value: Decimal) -> str:
    """Digits without an exponent or trailing zeros: `5430000000`, `6`, `0.19`."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def amounts(quote: str) -> list[Quoted]:
    """The amounts with a unit that a quote names, in its order."""
    found: list[Quoted] = []
    for match in _AMOUNT.finditer(quote):
        sign, code, word = match["sign"], match["code"], match["word"]
        unit = _SIGNS[sign] if sign else code.upper() if code else _WORDS[word.lower()] if word else None
        if unit is not None:
            scale = _SCALES[(match["scale"] or "").lower()]
            bound = _BOUNDS[match["bound"].lower()] if match["bound"] else "exact"
            found.append(Quoted(bound, Decimal(match["digits"].replace(",", "")).scaleb(scale), unit))
    return found


def end(quote: str) -> str | None:
    """The year, day or event until which a quote lets something last."""
    match = _END.search(quote)
    return match[1] if match else None


def conversion(quote: str) -> tuple[Quoted, Quoted] | None:
    """An amount and the same in another currency, as "$50B = 7.25 trillion won" or "$50B (7.25 trillion won)"."""
    found = [one for one in amounts(quote) if one.unit in CURRENCIES]
    if len(found) != 2 or found[0].unit == found[1].unit or not re.search(r"[=≈(]", quote) or not found[0].value:
        return None
    return found[0], found[1]


def rate(quote: str) -> tuple[str, str, Decimal] | None:
    """A stated rate: "1,450 won per dollar" is ("USD", "KRW", 1450), what one of the first costs in the second."""
    match = _RATE.fullmatch(quote.strip())
    if not match:
        return None
    base = _WORDS[match["word"].lower()]
    found = [one for one in amounts(match["amount"]) if one.unit in CURRENCIES]
    if len(found) != 1 or base not in CURRENCIES or found[0].unit == base or not found[0].value:
        return None
    return base, found[0].unit, found[0].value
