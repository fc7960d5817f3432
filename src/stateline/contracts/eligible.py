"""Which use draws a commitment down: FOCUS 1.4's ContractCommitmentApplicability, and whose bill a row is on.

Source: FOCUS 1.4, dataset Contract Commitment, column ContractCommitmentApplicability ("Processing Workflow").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, cast

from stateline.core.billing import SERVICES

Columns = Mapping[str, str | None]
"""A row of FOCUS's Cost and Usage, as far as it is known; an empty string is null."""

ONE, ZERO = Decimal(1), Decimal(0)
_NO_COLUMNS: Columns = {}

_TOP = frozenset(
    ("IsGlobalScope", "IsComplexScope", "Applicability", "InclusionOperator", "Inclusions", "ExclusionOperator")
) | {"Exclusions"}
_RULE = frozenset(("Dimension", "Operator", "Values", "Applicability"))
_ANY = "*"

_ISSUERS = ("InvoiceIssuerName", "ServiceProviderName", "ProviderName", "HostProviderName")
_PARTIES: Mapping[str, str] = {
    "amazon": "aws", "amazon web services": "aws", "amazon web services, inc.": "aws", "amazon web services inc": "aws",
    "microsoft": "azure", "microsoft azure": "azure", "microsoft corporation": "azure",
    "google cloud": "google", "google cloud platform": "google", "gcp": "google", "google llc": "google",
}  # fmt: skip
"""Names of one seller, as contracts, configurations and the clouds' own exports have them."""


class Fractions(NamedTuple):
    """The part of a row that counts: of its cost, and of its quantity. Both from 0 to 1."""

    cost: Decimal
    usage: Decimal


_NONE, _ALL = Fractions(ZERO, ZERO), Fractions(ONE, ONE)


class _Rule(NamedTuple):
    dimension: str
    test: Callable[[str | None, tuple[str, ...]], bool]
    words: tuple[str, ...]
    part: Fractions | None

    def holds(self, columns: Columns) -> bool:
        found = columns.get(self.dimension)
        return self.test(found.lower() if found else None, self.words)


class Applicability:
    """A scope, checked and ready to be asked.

    Attributes:
        complex: FOCUS's own word for a scope that it cannot say; nobody can tell then what counts.
        dimensions: the columns that it asks of, in order: rows that agree in these are treated alike.
    """

    def __init__(self, value: Mapping[str, Any]) -> None:
        """Raises ValueError where FOCUS refuses the object. An empty one is everything."""
        _known(value, _TOP, "an applicability")
        self._global = _flag(value, "IsGlobalScope")
        self.complex = _flag(value, "IsComplexScope")
        self._top = _part(value.get("Applicability")) or _ALL
        rules = value.get("Inclusions")
        if self._global and self.complex:
            raise ValueError("IsGlobalScope and IsComplexScope are not both true")
        if self._global or self.complex:
            if rules or value.get("InclusionOperator"):
                raise ValueError("a global or complex scope has no Inclusions, and no InclusionOperator")
        elif value and (not rules or "InclusionOperator" not in value):
            raise ValueError("an applicability has Inclusions and their InclusionOperator, or IsGlobalScope: true")
        self._all_of = _operator(value, "InclusionOperator", "And")
        self._not_all_of = _operator(value, "ExclusionOperator", "Or")
        self._inclusions = _rules(rules, "Inclusions")
        self._exclusions = _rules(value.get("Exclusions"), "Exclusions")
        asked = [each.dimension for each in (*self._inclusions, *self._exclusions)]
        self.dimensions = tuple(dict.fromkeys(asked))

    def of(self, columns: Columns) -> Fractions:
        """What of a row counts; nothing of it where the scope is complex.

        Where several inclusions match that have parts of their own, the greatest counts under ``Or``, as FOCUS
        has it. It says nothing of ``And``: there the smallest counts, so that nothing is drawn that may not be.
        """
        if self.complex:
            return _NONE
        found = [each.holds(columns) for each in self._inclusions]
        if found and not (all(found) if self._all_of else any(found)):
            return _NONE
        out = [each.holds(columns) for each in self._exclusions]
        if out and (all(out) if self._not_all_of else any(out)):
            return _NONE
        parts = [each.part for each, held in zip(self._inclusions, found, strict=True) if held and each.part]
        if not parts:
            return self._top
        pick = min if self._all_of else max
        return Fractions(pick(each.cost for each in parts), pick(each.usage for each in parts))


def seller(columns: Columns) -> str | None:
    """Whose bill a row is on: its invoice's issuer, else who sells the service, else whose infrastructure it is."""
    return next((party(name) for column in _ISSUERS if (name := columns.get(column))), None)


def party(name: str) -> str:
    """A seller by the one name that all of its names stand for: clouds as deployments name them."""
    low = name.strip().lower()
    return _PARTIES.get(low, low)


def place_columns(
    *, name: str, cloud: str, host: str | None, region: str | None, account: str | None, more: Columns = _NO_COLUMNS
) -> dict[str, str | None]:
    """The FOCUS columns that the use of a model's deployment has, as far as they are known before it is used.

    Args:
        more: others, or others of these, as the cloud's own export has them.
    """
    return {
        "ChargeCategory": "Usage",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": SERVICES.get(cloud, cloud),
        "ServiceSubcategory": "Generative AI",
        "ResourceId": name,
        "ResourceName": name,
        "InvoiceIssuerName": cloud,
        "ServiceProviderName": cloud,
        "HostProviderName": host or cloud,
        "RegionId": region,
        "RegionName": region,
        "BillingAccountId": account,
        **more,
    }


# -- reading the object --------------------------------------------------------------------------


def _known(value: object, names: frozenset[str], what: str) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is a table")
    for name in cast("Mapping[str, Any]", value):
        if name not in names:
            raise ValueError(f'{what} has no "{name}"; FOCUS has {", ".join(sorted(names))}')


def _flag(value: Mapping[str, Any], name: str) -> bool:
    found = value.get(name) or False
    if not isinstance(found, bool):
        raise ValueError(f"{name} is true or false")
    return found


def _operator(value: Mapping[str, Any], name: str, default: str) -> bool:
    """Whether all must hold, not any."""
    found = value.get(name, default)
    if found not in ("And", "Or"):
        raise ValueError(f"{name} is And, or Or")
    return found == "And"


def _part(value: object) -> Fractions | None:
    if value is None:
        return None
    _known(value, frozenset(("Cost", "Usage")), "Applicability")
    table = cast("Mapping[str, Any]", value)
    return Fractions(_fraction(table.get("Cost", ONE)), _fraction(table.get("Usage", ONE)))


def _fraction(value: object) -> Decimal:
    """YAML has no decimals: what was written as 0.25 comes as a float, whose shortest digits are what was written."""
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        found = Decimal("NaN")
    if isinstance(value, bool) or not (found.is_finite() and 0 <= found <= 1):
        raise ValueError(f'"{value}" is no fraction from 0 to 1')
    return found


def _rules(value: object, name: str) -> tuple[_Rule, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"{name} is a list of rules")
    return tuple(_rule(each, name) for each in cast("list[object]", value))


def _rule(value: object, name: str) -> _Rule:
    _known(value, _RULE, f"a rule of {name}")
    table = cast("Mapping[str, Any]", value)
    dimension, operator, values = (table.get(key) for key in ("Dimension", "Operator", "Values"))
    if not isinstance(dimension, str) or not dimension:
        raise ValueError(f"a rule of {name} has a Dimension, a FOCUS column")
    if not isinstance(operator, str) or operator not in _TESTS:
        raise ValueError(f'"{operator}" is no Operator; FOCUS has {", ".join(_TESTS)}')
    if not isinstance(values, list) or not values:
        raise ValueError(f"a rule of {name} has Values, a list")
    words = tuple(str(each).lower() for each in cast("list[object]", values))
    if _ANY in words and len(words) > 1:
        raise ValueError('"*" stands alone in Values')
    if operator in ("Exists", "DoesNotExist"):
        if words != (_ANY,):
            raise ValueError(f'the Values of {operator} are ["*"]')
    elif _ANY in words and operator not in ("In", "Contains"):
        raise ValueError(f'"*" is no value of {operator}')
    return _Rule(dimension, _TESTS[operator], words, _part(table.get("Applicability")))


def _in(found: str | None, words: tuple[str, ...]) -> bool:
    return words == (_ANY,) or found in words


def _contains(found: str | None, words: tuple[str, ...]) -> bool:
    return words == (_ANY,) or (found is not None and any(word in found for word in words))


def _starts(found: str | None, words: tuple[str, ...]) -> bool:
    return found is not None and found.startswith(words)


_TESTS: Mapping[str, Callable[[str | None, tuple[str, ...]], bool]] = {
    "In": _in,
    "NotIn": lambda found, words: found not in words,
    "StartsWith": _starts,
    "NotStartsWith": lambda found, words: not _starts(found, words),
    "Contains": _contains,
    "NotContains": lambda found, words: not _contains(found, words),
    "EndsWith": lambda found, words: found is not None and found.endswith(words),
    "Exists": lambda found, _: found is not None,
    "DoesNotExist": lambda found, _: found is None,
}
