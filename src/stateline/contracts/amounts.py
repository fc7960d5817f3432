"""Amounts: decimals with a unit and bounds, never floats."""

from __future__ import annotations

import re
from decimal import Decimal
from itertools import pairwise

from stateline.contracts.eligible import Applicability
from stateline.contracts.model import Amount, Commitment

_DECIMAL = re.compile(r"\d{1,30}(\.\d{1,18})?")

CURRENCIES = frozenset(
    """AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
    CLF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL
    HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL
    MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON
    RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH
    UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG""".split()  # noqa: SIM905 - as a list it is a page long
)
"""ISO 4217, the currencies in circulation."""
MEASURES = ("GW", "MW", "tokens/min", "%")


def decimal(value: str | int) -> Decimal:
    """A decimal as it is written: digits, and a fraction after a point.

    Raises:
        ValueError: anything else, signs and exponents included.
    """
    if not _DECIMAL.fullmatch(str(value)):
        raise ValueError(f'"{value}" is no amount; write digits, as "38000000000" or "0.27"')
    return Decimal(value)


def stated(amount: Amount) -> Decimal:
    """The value that sums take: the exact one, else about, else the least, else the greatest."""
    given = (amount.exact, amount.about, amount.min, amount.max)
    return decimal(next(one for one in given if one is not None))


def check_amount(amount: Amount) -> None:
    """Raises ValueError unless the unit is known and the bounds agree."""
    if amount.unit not in CURRENCIES and amount.unit not in MEASURES:
        raise ValueError(f'"{amount.unit}" is no ISO 4217 currency, and none of {", ".join(MEASURES)}')
    given = {
        name: decimal(value)
        for name in ("exact", "min", "max", "about")
        if (value := getattr(amount, name)) is not None
    }
    if not given:
        raise ValueError("an amount has exact, min, max or about")
    if "exact" in given and len(given) > 1:
        raise ValueError("an exact amount has no other bounds")
    ordered = [given[name] for name in ("min", "about", "max") if name in given]
    if ordered != sorted(ordered):
        raise ValueError("the bounds are out of order: min, about, max")


def check_commitment(commitment: Commitment) -> None:
    """Raises ValueError unless its decimals are such, its schedule goes forward, and its scope is FOCUS's."""
    decimal(commitment.shortfall_rate)
    Applicability(commitment.applicability)
    for instalment in commitment.schedule:
        decimal(instalment.amount)
    days = [instalment.until for instalment in commitment.schedule]
    if any(later <= earlier for earlier, later in pairwise(days)):
        raise ValueError("the days of a schedule go forward")
