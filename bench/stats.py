"""The few statistics that the tables use, kept apart so that they can be tested."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], q: float) -> float:
    """The q-quantile (0 ≤ q ≤ 1) by linear interpolation between the closest ranks.

    Raises ValueError for an empty sequence or a q outside 0..1.
    """
    if not values:
        raise ValueError("percentile of no values")
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q must be within 0..1, not {q}")
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    return percentile(values, 0.5)


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over rounds of numerator / denominator, taken round by round.

    A shared disk drifts by a factor of ten within an hour, so only figures of the same round may
    be divided by each other. Raises ValueError where the rounds do not pair up.
    """
    if len(numerators) != len(denominators):
        raise ValueError("each round needs both figures")
    return median([a / b for a, b in zip(numerators, denominators, strict=True)])
