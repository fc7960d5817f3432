"""What the project promises of its own figures."""

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
    Bound("worst format cpu_ms", 2.5, unit="ms"),
    Bound("contracts add cpu_ms", 0.05, unit="ms"),
    Bound("money adds cpu_ms", 0.10, unit="ms"),
    Bound("tool call cpu_ms", 0.3, unit="ms"),
    Bound("resume p99_ms", 100, unit="ms"),
    Bound("start_s", 1.5, unit="s"),
    Bound("resident_mb", 80, unit="MB"),
    Bound("install_mb", 120, unit="MB"),
    Bound("store/reference at 32", 0.7, at_least=True),
    Bound("store cpu_ms_per_turn at 32", 0.4, unit="ms"),
    Bound("engine/store at 32", 0.5, at_least=True),
    Bound("soak memory growth", 0.05),
    Bound("soak database/payload", 3.0),
    Bound("soak database/payload pruned", 1.5),
    Bound("soak append p99 last/first", 1.25),
    Bound("postgres store/postgres loop at 32", 0.7, at_least=True),
    Bound("postgres store cpu_ms_per_turn at 32", 0.5, unit="ms"),
    Bound("CPU a turn of two nodes/one", 1.1),
    Bound("deadlocks while renewed", 0),
    Bound("errors while renewed", 0),
    Bound("queries of 1000 readers/1", 1.2),
    Bound("undelivered to readers", 0),
    Bound("turns/s beside streams", 500, at_least=True),
    Bound("appends of one budget/none", 0.5, at_least=True),
    Bound("failover added p50_ms", 300, unit="ms"),
    Bound("failover worst added p50_ms", 300, unit="ms"),
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
