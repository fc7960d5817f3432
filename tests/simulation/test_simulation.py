"""The simulator over a few seeds; `make sim` runs thousands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from stateline.core.events import Chunk
from stateline.core.ids import SessionRef
from stateline.core.transitions import TRANSITIONS
from stateline.ports import Balance, BudgetExceeded, Hold
from stateline.testing import InvariantBroken, simulate
from stateline.testing.sim import STEPS, database
from stateline.testing.sim.faults import COVERING_SEEDS, FAULTS, OF_TOOLS, PAIRS, TABLE, is_calm, target_of
from stateline.testing.sim.money import has_money
from stateline.testing.sim.mutants import MUTANTS, planted
from stateline.testing.sim.series import Totals, verdict

CALM = 15
STORMY = (5, 10)
TAKEN = 1483
"""A submission takes a session that its own node is claiming, and a post that the claim had found."""


PAID = (31, 18)
"""Runs with prices and budgets, a calm one first."""


@pytest.mark.parametrize("seed", [CALM, *STORMY, 42, TAKEN, *PAID])
def test_every_invariant_holds(seed: int) -> None:
    report = simulate(seed)
    assert report.steps >= STEPS
    assert report.turns
    assert report.calls >= report.turns // 2
    assert bool(report.struck) != is_calm(seed)
    assert report.aimed
    # A budget pays for some calls, and then for none.
    assert has_money(seed) == (seed in PAID) == (report.refused > 0)


def test_a_seed_replays_exactly_in_another_process_with_another_hash_seed() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", "from stateline.testing import simulate; print(simulate(10, steps=1_500))"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert said[0].strip() == str(simulate(10, steps=1_500))
    assert simulate(11, steps=1_500).digest not in said[0]


def test_a_store_without_a_fence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def anybody(*_: object) -> bool:
        return False

    monkeypatch.setattr(database.Database, "_check_writer", anybody)
    with pytest.raises(InvariantBroken, match=r"python -m stateline\.testing\.sim --seed 10"):
        simulate(10)


def test_a_refused_append_that_moves_a_balance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = database.Database._hold  # pyright: ignore[reportPrivateUsage]

    def leaky(self: database.Database, ref: SessionRef, holds: Sequence[Hold]) -> None:
        try:
            hold(self, ref, holds)
        except BudgetExceeded:
            held, spent = self.balances.get(holds[0].budget, Balance())
            self.balances[holds[0].budget] = Balance(held + holds[0].held, spent)
            raise

    monkeypatch.setattr(database.Database, "_hold", leaky)
    with pytest.raises(InvariantBroken, match="a balance is what calls cost"):
        simulate(PAID[0])


def test_a_reader_that_misses_a_chunk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail that leaves out every hundredth chunk."""
    since = database.Database.since
    count = 0

    def leaky(self: database.Database, watched: object) -> list[object]:
        nonlocal count
        out: list[object] = []
        for record in since(self, watched):  # pyright: ignore[reportArgumentType]
            if isinstance(getattr(getattr(record, "event", record), "body", None), Chunk):
                count += 1
                if count % 100 == 0:
                    continue
            out.append(record)
        return out

    monkeypatch.setattr(database.Database, "since", leaky)
    with pytest.raises(InvariantBroken, match=r"all readers see the same|sequence numbers"):
        simulate(CALM)


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_what_a_mutant_patches_is_there_exactly_once(mutant: str, tmp_path: Path) -> None:
    planted(mutant, tmp_path / "stateline")


def test_a_round_of_seeds_aims_at_every_pair() -> None:
    stormy = [seed for seed in range(PAIRS * 16 // 15 + 1) if not is_calm(seed)]
    assert {target_of(seed) for seed in stormy} == {(place, fault) for place in range(len(TABLE)) for fault in FAULTS}
    left_out = set(TRANSITIONS) - set(TABLE)
    assert left_out == {each for each in TRANSITIONS if each[0] == "acting" or each[1] in OF_TOOLS}


@pytest.mark.parametrize(
    ("seeds", "missing", "failed", "code"),
    [
        (COVERING_SEEDS, [], {}, 0),
        (COVERING_SEEDS - 1, ["ready + TurnFailed x slow"], {}, 0),
        (COVERING_SEEDS, ["ready + TurnFailed x slow"], {}, 1),
        (1, [], {"7": ["contiguous log"]}, 1),
    ],
)
def test_a_long_series_fails_when_a_pair_was_left_out(
    seeds: int, missing: list[str], failed: dict[str, list[str]], code: int
) -> None:
    assert verdict(Totals(seeds=seeds, missing=missing, failed=failed)) == code


def test_a_long_series_aims_at_every_pair_more_than_once() -> None:
    aims = Counter(target_of(seed) for seed in range(COVERING_SEEDS) if not is_calm(seed))
    assert len(aims) == PAIRS
    assert min(aims.values()) >= 4
