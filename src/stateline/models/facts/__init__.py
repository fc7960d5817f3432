"""Facts of well-known models: data files, one a maker, each with its source and the day it was read.

They are looked up by any name that a model has, also as clouds write it: Bedrock's
``us.anthropic.claude-sonnet-4-5-20250929-v1:0`` is ``claude-sonnet-4-5``. A model that is not here has no facts,
and nothing is refused for it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path

import msgspec

from stateline.core.facts import ModelFacts

# https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html: a profile's name is that of
# its geography before the model's own, which is the maker's before a version.
_GEOGRAPHY = re.compile(r"^(?:us|us-gov|eu|apac|jp|au|ca|global)\.")
_MAKER = re.compile(r"^(?:anthropic|openai|google)[./]")
_REVISION = re.compile(r"(?:-v\d+)?(?::\d+)?$|@\d{8}$")


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    vendor: str
    source: str
    read: date
    models: list[ModelFacts]


def load(folder: Path) -> Iterator[ModelFacts]:
    """The models of each file of a folder.

    Raises:
        msgspec.ValidationError: a file is not of this shape.
    """
    for path in sorted(folder.glob("*.toml")):
        file = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
        for model in file.models:
            yield msgspec.structs.replace(model, vendor=file.vendor, source=file.source, read=file.read.isoformat())


@cache
def _by_name() -> dict[str, ModelFacts]:
    out: dict[str, ModelFacts] = {}
    for model in load(Path(__file__).parent):
        for name in (model.name, *model.aliases):
            assert name not in out, f"two models are called {name}"
            out[name] = model
    return out


def facts_of(*names: str) -> ModelFacts | None:
    """The facts of the first of these names that is known, as it is or as a cloud writes it."""
    known = _by_name()
    for name in names:
        bare = _MAKER.sub("", _GEOGRAPHY.sub("", name))
        for each in (name, _GEOGRAPHY.sub("", name), bare, _REVISION.sub("", bare)):
            if each in known:
                return known[each]
    return None
