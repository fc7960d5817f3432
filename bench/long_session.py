"""`python -m bench.long_session`: what a turn of a long session reads, against an early one.

Turn 10 and turn 10,001 of one chain get equal model input: the client compacts every 97 turns, the
last time at the same distance before both. Each turn is measured on a fresh copy of the database, in
a process that has just started (cold), and as the next turn of one that did two of the chain (warm).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from stateline.core.events import TurnRequest
from stateline.core.items import Compaction, InputText, Item, Message
from stateline.engine import Engine, Submission
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment
from stateline.stores.clock import SystemClock
from stateline.stores.sqlite import open_sqlite
from stateline.testing import Answer, ScriptedModel

EARLY_TURN = 10
PERIOD = 97
"""10,001 - 10 is a multiple of it, so both turns lie equally far behind a compaction."""
COMPACTED_AT = 5
TEXT = "What was said in this turn, in about as many words as people use. " * 30
BOUND = 1.2


@asynccontextmanager
async def engine_over(folder: Path) -> AsyncGenerator[Engine]:
    """An engine with a scripted model over the database in `folder`."""
    store = await open_sqlite(folder / "stateline.db")
    place = Deployment(name="d", model="m", cloud="openai", format="openai-chat", base_url="", upstream_model="m")
    engine = Engine(
        store=store,
        client=ScriptedModel(Answer(text=TEXT)),
        catalogue=Catalogue([place]),
        clock=SystemClock(),
        entropy=os.urandom,
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(grace_s=1.0)
        await store.close()


async def one_turn(engine: Engine, turn: int, after: str | None) -> str:
    """Do the `turn`-th turn of the chain that `after` ends; its response id."""
    said: list[Item] = [Message(id="", role="user", content=(InputText(text=f"{turn}: {TEXT}"),))]
    if turn % PERIOD == COMPACTED_AT:
        said.insert(0, Compaction(id="", encrypted_content=TEXT))
    request = TurnRequest(model="m", previous_response_id=after)
    accepted = await engine.submit(Submission(tenant="default", principal="bench", request=request, input=tuple(said)))
    response = await engine.wait(accepted, "open-responses")
    assert response.status == "completed", response.error
    return accepted.response_id


async def build(folder: Path, late_turn: int) -> dict[int, str]:
    """The chain up to the turn before each measured one, a copy of the database at each."""
    measured = (EARLY_TURN, late_turn)
    last: str | None = None
    before: dict[int, str] = {}
    done = 0
    began_s = time.perf_counter()
    for stop in measured:
        async with engine_over(folder / "live") as engine:
            while done < stop - 1:
                done += 1
                last = await one_turn(engine, done, last)
                if sys.stderr.isatty() and done % 100 == 0:
                    print(f"\r{done} of {late_turn} turns", end="", file=sys.stderr)
        assert last is not None
        before[stop] = last
        shutil.copytree(folder / "live", folder / f"turn-{stop}")
    print(f"{late_turn} turns in {time.perf_counter() - began_s:.0f} s", file=sys.stderr)
    return before


def read_bytes() -> int:
    """What this process has read from files so far, from the page cache or not."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


async def measure(folder: Path, turn: int, after: str, *, warm: bool) -> tuple[int, float]:
    """Bytes read and CPU milliseconds of one turn."""
    copy = Path(tempfile.mkdtemp(dir=folder))
    shutil.copytree(folder / f"turn-{turn}", copy, dirs_exist_ok=True)
    async with engine_over(copy) as engine:
        # Everything that a first request would load into the process, so that the turn alone counts.
        other = await one_turn(engine, 1, None)
        await one_turn(engine, 2, other)
        # The first turns of a chain in a process also touch pages of the database for the first time.
        for _ in range(2 if warm else 0):
            after = await one_turn(engine, turn, after)
            turn += 1
        bytes_before, cpu_before_s = read_bytes(), time.process_time()
        await one_turn(engine, turn, after)
        cpu_ms = (time.process_time() - cpu_before_s) * 1000
        return read_bytes() - bytes_before, cpu_ms


def medians(
    folder: Path, before: dict[int, str], *, warm: bool, repeats: int
) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """The medians of each measured turn, and of the late one's ratios to the early one.

    They are measured in turns, so that a machine that slows down meanwhile slows both.
    """
    runs: dict[int, list[tuple[int, float]]] = {turn: [] for turn in before}
    for at in range(repeats):
        for turn in sorted(before, reverse=at % 2 == 1):
            runs[turn].append(asyncio.run(measure(folder, turn, before[turn], warm=warm)))
    found = {
        turn: {
            "read_kb": round(statistics.median(each[0] for each in of) / 1000, 1),
            "cpu_ms": round(statistics.median(each[1] for each in of), 3),
        }
        for turn, of in runs.items()
    }
    early, late = (runs[turn] for turn in sorted(before))
    pairs = list(zip(early, late, strict=True))
    return found, {
        "read_kb": statistics.median(after[0] / max(first[0], 1) for first, after in pairs),
        "cpu_ms": statistics.median(after[1] / first[1] for first, after in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turn", type=int, default=10_001, help="the late turn (10 + a multiple of 97)")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", type=Path, default=Path("bench/results/long_session.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        (folder / "live").mkdir()
        before = asyncio.run(build(folder, options.turn))
        results: dict[str, dict[str, float]] = {}
        for state in ("cold", "warm"):
            found, ratios = medians(folder, before, warm=state == "warm", repeats=options.repeats)
            for turn, medium in found.items():
                results[f"{state} turn {turn}"] = medium
                print(f"{state} turn {turn}: {medium['read_kb']} kB read, {medium['cpu_ms']} ms of CPU")
            results[f"{state} ratio"] = {what: round(ratio, 3) for what, ratio in ratios.items()}
            for what, ratio in ratios.items():
                verdict = "hold" if ratio <= BOUND else "MISS"
                print(f"{state} {what}: {ratio:.2f} times turn {EARLY_TURN} (bound {BOUND}: {verdict})")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
