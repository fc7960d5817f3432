"""What goes wrong, when, and what of it was seen: drawn from the seed, and aimed where chance is thin.

A fault strikes one commit. Each run also has a target, a pair of a turn's transition and a kind of
fault, which strikes the first commits that carry the transition; so a series of seeds covers the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal, get_args

from stateline.core import events as e
from stateline.core.events import Chunk, Event
from stateline.core.transitions import TRANSITIONS, TurnState

Fault = Literal[
    "refused",
    "unknown_lost",
    "unknown_done",
    "delivered_twice",
    "slow",
    "crash_before",
    "crash_after",
    "stolen",
    "stall_before",
    "stall_after",
    "renew_lost",
    "wake_late",
    "wake_twice",
]
"""What may happen to a commit.

- ``refused``: the store cannot take it, and says so
- ``unknown_lost``, ``unknown_done``: the connection is cut; it was not, or was, committed
- ``delivered_twice``: the request reaches the store again after it was answered
- ``slow``: it takes seconds
- ``crash_before``, ``crash_after``: its node dies; it was not, or was, committed
- ``stolen``: another owner took the session just before
- ``stall_before``, ``stall_after``: its node stands still for longer than its lease, then goes on as a zombie
- ``renew_lost``: its node works on, but its renewals do not arrive until its lease is over
- ``wake_late``: those who follow the log are not woken by it
- ``wake_twice``: they are told again what they were told already
"""

FAULTS: tuple[Fault, ...] = get_args(Fault)
ANY_COMMIT: tuple[Fault, ...] = (
    "refused",
    "unknown_lost",
    "unknown_done",
    "slow",
    "crash_before",
    "crash_after",
    "stall_before",
    "stall_after",
)
"""Faults of commits that append nothing: claims, renewals, posts, releases."""

Transition = tuple[TurnState | None, type]
OF_TOOLS = e.EFFECTS | {e.ToolsListed}
"""What no turn of this world comes to: it has no tools."""
TABLE: tuple[Transition, ...] = tuple(
    (state, kind) for state, kind in TRANSITIONS if state != "acting" and kind not in OF_TOOLS
)
PLACES: dict[Transition, int] = {transition: at for at, transition in enumerate(TABLE)}
PAIRS = len(TABLE) * len(FAULTS)
COVERING_SEEDS = 2_000
"""A series of so many must have struck every pair of a transition and a fault; it aims at each four times."""
TARGET_HITS_MAX = 2
"""Commits that a run's target strikes."""


CALM_EVERY = 16
"""One seed in so many has no faults, so that a fault cannot excuse what should never be."""


def is_calm(seed: int) -> bool:
    return seed % CALM_EVERY == CALM_EVERY - 1


def target_of(seed: int) -> tuple[int, Fault]:
    """The pair that a seed aims at: the place of its transition, and the fault. A calm one has no use for it."""
    place, fault = divmod((seed - seed // CALM_EVERY) % PAIRS, len(FAULTS))
    return place, FAULTS[fault]


def transitions(state: TurnState | None, events: Sequence[Event]) -> tuple[tuple[int, ...], TurnState | None]:
    """Places in ``TABLE`` of the transitions that ``events`` make from ``state``, and the state after them."""
    places: tuple[int, ...] = ()
    for event in events:
        kind = type(event.body)
        if kind is Chunk:
            continue
        place = PLACES.get((state, kind))
        if place is not None:
            places += (place,)
            state = TRANSITIONS[state, kind]
    return places, state


class Faults:
    """The faults of one run.

    Attributes:
        rate: the share of commits that chance strikes; 0 in a calm run.
        hits: how often each pair was struck, by place in the table and fault.
        struck: how often each fault struck anything.
    """

    def __init__(self, seed: int, random: Random, rate: float) -> None:
        self.rate = rate
        self.random = random
        self.target = target_of(seed)
        self.hits: dict[tuple[int, Fault], int] = {}
        self.struck: dict[Fault, int] = {}
        self._left = TARGET_HITS_MAX if rate else 0

    def drawn(self, places: tuple[int, ...], appends: bool) -> Fault | None:
        """The fault that is to meet a commit now, if any; ``note`` it when it does."""
        if self._left and self.target[0] in places:
            return self.target[1]
        if self.rate and self.random.random() < self.rate:
            # Most commits are chunks; those that move a turn are struck more often.
            if appends and not places and self.random.random() < 0.5:
                return None
            return self.random.choice(FAULTS if appends else ANY_COMMIT)
        return None

    def note(self, fault: Fault, places: tuple[int, ...]) -> None:
        """A commit was struck."""
        self.struck[fault] = self.struck.get(fault, 0) + 1
        for place in places:
            self.hits[place, fault] = self.hits.get((place, fault), 0) + 1
        if self._left and fault == self.target[1] and self.target[0] in places:
            self._left -= 1

    @property
    def target_struck(self) -> bool:
        return self.target in self.hits

    def stop(self) -> None:
        """No more of them."""
        self.rate = 0.0
        self._left = 0
