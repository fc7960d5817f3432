"""The facts that a predicate may speak of. The list is closed: a misspelt fact never reaches an evaluation."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from stateline.contracts.errors import FactsError

CLOUDS = ("openai", "azure", "anthropic", "aws", "google", "openai-compatible", "local")
WORKLOADS = ("stateless", "stateful", "training", "batch")

FIELDS: Mapping[str, Mapping[str, str]] = {
    "model": dict.fromkeys(("name", "vendor", "family"), "string"),
    "deployment": dict.fromkeys(
        ("name", "cloud", "host", "region", "data_zone", "accelerator", "service_tier"), "string"
    ),
    "product": {"name": "string", "shipped_on": "list", "declined_by": "list"},
    "workload": dict.fromkeys(("kind", "interface", "channel"), "string"),
    "principal": dict.fromkeys(("tenant", "agent", "user"), "string"),
}
"""Root -> field -> `string`, or `list` (of strings). `at`, a timestamp, stands beside the roots."""

MEMBERS: Mapping[str, tuple[str, ...]] = {"deployment.cloud": CLOUDS, "workload.kind": WORKLOADS}
"""Enumerated facts, and all values that they can have."""

Facts = dict[str, dict[str, Any]]

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` where some known name is near, else the list of them."""
    names = list(known)
    found = difflib.get_close_matches(name.lower(), names, n=1)
    return f'; did you mean "{found[0]}"?' if found else f"; it may be {', '.join(names)}"


def check_facts(value: object) -> Facts:
    """Facts from outside: known roots and fields, values of their types. Whatever is left out is unknown.

    Raises:
        FactsError: another shape, an unknown name, or a value that the fact cannot have.
    """
    if not isinstance(value, dict):
        raise FactsError('the facts are no object; write them as {"model": {"vendor": "openai"}}')
    facts = cast("Facts", value)
    for root, fields in facts.items():
        if root not in FIELDS:
            raise FactsError(f'the facts have no "{root}"{nearest(root, FIELDS)}')
        if not isinstance(fields, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise FactsError(f'the fact "{root}" is no object')
        for field, fact in fields.items():
            if field not in FIELDS[root]:
                raise FactsError(f'"{root}" has no fact "{field}"{nearest(field, FIELDS[root])}')
            _check_value(f"{root}.{field}", fact, FIELDS[root][field])
    return facts


def _check_value(name: str, value: object, kind: str) -> None:
    if kind == "list":
        if not isinstance(value, list) or not all(isinstance(one, str) for one in cast("list[object]", value)):
            raise FactsError(f"{name} is a list of strings")
    elif not isinstance(value, str):
        raise FactsError(f"{name} is a string; leave it out where it is not known")
    elif value not in MEMBERS.get(name, (value,)):
        raise FactsError(f'{name} cannot be "{value}"{nearest(value, MEMBERS[name])}')


def parse_at(text: str) -> datetime:
    """The instant of a date (its beginning, UTC) or of an RFC 3339 time, cut to microseconds.

    Raises:
        FactsError: neither, or without an offset.
    """
    if _DATE.fullmatch(text):
        given = f"{text}T00:00:00+00:00"
    elif found := _INSTANT.fullmatch(text):
        day, clock, fraction, zone = found.groups()
        micros = f".{fraction[1:7]:0<6}" if fraction else ""
        given = f"{day}T{clock}{micros}{'+00:00' if zone in 'Zz' else zone}"
    else:
        raise FactsError(f'"{text}" is no date and no RFC 3339 time; write 2026-03-18 or 2026-03-18T12:00:00Z')
    try:
        return datetime.fromisoformat(given).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FactsError(f'"{text}" is no time: {error}') from None


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - EPOCH) // timedelta(microseconds=1)
