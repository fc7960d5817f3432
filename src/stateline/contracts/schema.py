"""JSON Schemas of the files, for editors: made from the types that the loader reads them into."""

from __future__ import annotations

from typing import Any

import msgspec

from stateline.contracts.errors import FactsError
from stateline.contracts.facts import nearest
from stateline.contracts.model import Contract, Determination

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_FILES: dict[str, tuple[Any, str]] = {
    "contract": (Contract, "A Stateline contract"),
    "determinations": (tuple[Determination, ...] | None, "Stateline's determinations: events that have happened"),
}


def schema(name: str = "contract") -> dict[str, Any]:
    """The JSON Schema (2020-12) of a contract file, or of `determinations.yaml`.

    Raises:
        FactsError: another name.
    """
    if name not in _FILES:
        raise FactsError(f'there is no schema "{name}"{nearest(name, _FILES)}')
    type_, title = _FILES[name]
    return {"$schema": _DIALECT, "title": title, **msgspec.json.schema(type_)}
