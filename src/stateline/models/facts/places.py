"""What is known of clouds: which service tiers each takes, and where it sells models.

Data files with a source and a day for each fact. A cloud that is not here, or a format that it does not list, is not
known, and nothing is said of it.
"""

from __future__ import annotations

import tomllib
from datetime import date
from functools import cache
from pathlib import Path

import msgspec


class _Tiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    formats: tuple[str, ...]
    names: tuple[str, ...]
    source: str
    read: date


class _Regions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    names: tuple[str, ...]
    source: str
    read: date


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cloud, or one of two that a cloud's name stands for: ``project`` is Vertex, beside the Gemini API."""

    cloud: str
    project: bool = False
    tiers: tuple[_Tiers, ...] = ()
    regions: tuple[_Regions, ...] = ()


@cache
def places() -> tuple[Place, ...]:
    """All that is known.

    Raises:
        msgspec.ValidationError: a file is not of this shape.
    """
    files = sorted((Path(__file__).parent / "clouds").glob("*.toml"))
    return tuple(msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Place) for file in files)


def _place(cloud: str, base_url: str | None) -> Place | None:
    project = cloud == "google" and "/projects/" in (base_url or "")
    return next((each for each in places() if each.cloud == cloud and each.project == project), None)


def tiers_of(cloud: str, wire: str, base_url: str | None) -> tuple[str, ...]:
    """The service tiers that a cloud takes in a wire format; empty: not known."""
    place = _place(cloud, base_url)
    if place is None:
        return ()
    return next((each.names for each in place.tiers if wire in each.formats), ())


def knows_region(cloud: str, region: str, base_url: str | None) -> bool:
    """Whether a region is among those known of a cloud; of clouds whose regions are not known, every one is."""
    place = _place(cloud, base_url)
    if place is None or not place.regions:
        return True
    return any(region in each.names for each in place.regions)
