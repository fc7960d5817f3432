"""What the project promised of its own figures (the bounds of the issue that asked for them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """`figure` must be at most, or at least, `limit`."""

    figure: str
    limit: float
    at_least: bool = False
    unit: str = ""

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def words(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}".rstrip()


BOUNDS = (
    Bound("chat-json cpu_ms", 0.6, unit="ms"),
    Bound("response-json cpu_ms", 1.0, unit="ms"),
    Bound("response-stream cpu_ms", 2.0, unit="ms"),
    Bound("start_s", 1.5, unit="s"),
    Bound("resident_mb", 80, unit="MB"),
    Bound("install_mb", 120, unit="MB"),
    Bound("store/reference at 32", 0.7, at_least=True),
    Bound("store cpu_ms_per_turn at 32", 0.4, unit="ms"),
    Bound("engine/store at 32", 0.5, at_least=True),
)
_BY_FIGURE: Mapping[str, Bound] = {bound.figure: bound for bound in BOUNDS}


@dataclass(frozen=True, slots=True)
class Check:
    """One promised figure beside what was measured."""

    figure: str
    value: float
    bound: str
    held: bool


def check(figure: str, value: float) -> Check | None:
    """Compare a measured figure with its bound; None where nothing was promised of it."""
    bound = _BY_FIGURE.get(figure)
    if bound is None:
        return None
    return Check(figure, value, bound.words(), bound.holds(value))
