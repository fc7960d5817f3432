"""`python -m bench.soak`: many turns over many sessions; what grows, and what must not.

100,000 turns over 5,000 sessions through the engine and the real store, by a model that answers at
once. Reported: resident memory at each tenth, the time of an append in the first tenth and in the last
(with a bare fsync beside, since the disk drifts), and what the database takes of the disk for each
turn against its payload (the items that it brought and said, as the API shows them in JSON), before
and after pruning.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import msgspec

from bench import report
from bench.bounds import check
from bench.durable import fsync_floor
from bench.loop import run
from bench.proctree import resident_mb
from bench.stats import percentile
from stateline.core.calls import Finish, ModelDelta, ModelRequest, TextDelta, Usage
from stateline.core.events import Event, TurnRequest
from stateline.core.items import InputText, Message
from stateline.core.response import Response
from stateline.engine import Engine, Submission
from stateline.models.catalogue import Catalogue
from stateline.ports import Deployment, Hold, Ownership, Store
from stateline.stores.clock import SystemClock
from stateline.stores.sqlite import open_sqlite

PARTS = 10
ACTIVE = 10
"""Sessions that each worker has at a time."""
INPUT_BYTES = (500, 3_500)
OUTPUT_BYTES = (1_000, 7_000)
PIECE_BYTES = 500
WORDS = [f"word{number:03d}" for number in range(1000)]


class Speaker:
    """A ModelClient that says as many words as the last message asks for, keeping nothing."""

    async def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta], None]:
        left = int(request.key.rpartition("/")[0].rpartition("/")[2]) * 7919 % (OUTPUT_BYTES[1] - OUTPUT_BYTES[0])
        left += OUTPUT_BYTES[0]
        while left > 0:
            yield [TextDelta("x" * min(PIECE_BYTES, left))]
            left -= PIECE_BYTES
            await asyncio.sleep(0.001)
        yield [Finish(reason="stop", usage=Usage(input_tokens=1, output_tokens=1))]

    async def close(self) -> None:
        pass


class Timed:
    """A store whose appends are timed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.appends_ms: list[float] = []

    def append(
        self,
        own: Ownership,
        expected_seq: int,
        events: Sequence[Event],
        holds: Sequence[Hold] = (),
        *,
        release: bool = False,
        create: bool = False,
    ) -> Coroutine[Any, Any, int]:
        # The call itself queues, so it is made here and not when its result is awaited.
        result = self._store.append(own, expected_seq, events, holds, release=release, create=create)
        return self._timed(time.perf_counter(), result)

    async def _timed(self, began_s: float, result: Coroutine[Any, Any, int]) -> int:
        head = await result
        self.appends_ms.append((time.perf_counter() - began_s) * 1000)
        return head

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Lives:
    """A worker's sessions: ACTIVE of them live at a time, in turns at random, each for as many turns.

    So the work is the same in the last tenth as in the second, and what grows is ours.
    """

    def __init__(self, number: int, turns_a_session: int) -> None:
        self.random = Random(number)
        self._turns = turns_a_session
        self._sessions: list[tuple[str | None, int]] = [(None, 0)] * ACTIVE
        self._drawn = 0

    def draw(self) -> str | None:
        """The last response of the session that is next; None where it begins."""
        self._drawn = self.random.randrange(ACTIVE)
        return self._sessions[self._drawn][0]

    def lived(self, response_id: str) -> None:
        """It has made a turn; after its last one another takes its place."""
        turns = self._sessions[self._drawn][1] + 1
        self._sessions[self._drawn] = (None, 0) if turns >= self._turns else (response_id, turns)


@dataclass
class Soak:
    """One run: how much of it, and what was seen at each tenth."""

    turns: int
    sessions: int
    concurrency: int
    payload_bytes: int = 0
    done: int = 0
    resident_mb: list[float] = field(default_factory=list[float])
    append_p99_ms: list[float] = field(default_factory=list[float])
    fsync_p99_ms: list[float] = field(default_factory=list[float])

    async def worker(self, engine: Engine, lives: Lives, stop_at: int) -> None:
        """Turns of this worker's sessions, until all workers have made `stop_at`."""
        while self.done < stop_at:
            self.done += 1
            response = await self.turn(engine, lives.random, lives.draw())
            lives.lived(response.id)

    async def turn(self, engine: Engine, random: Random, previous: str | None) -> Response:
        text = " ".join(random.choices(WORDS, k=random.randint(*INPUT_BYTES) // 8))
        item = Message(id="", role="user", content=(InputText(text=text),))
        request = TurnRequest(model="m", stream=True, previous_response_id=previous)
        accepted = await engine.submit(
            Submission(tenant="default", principal="soak", request=request, input=(item,), digest=f"{self.done}")
        )
        response = await engine.wait(accepted, "open-responses")
        assert response.status == "completed", response.error
        self.payload_bytes += len(msgspec.json.encode([item, *response.output]))
        return response


async def soak(this: Soak, folder: Path) -> None:
    """Run it all over a new SQLite database in `folder`."""
    store = await open_sqlite(folder / "stateline.db")
    timed = Timed(store)
    place = Deployment(name="d", model="m", cloud="openai", format="openai-chat", base_url="", upstream_model="m")
    engine = Engine(
        store=cast(Store, timed),
        client=Speaker(),
        catalogue=Catalogue([place]),
        clock=SystemClock(),
        entropy=os.urandom,
    )
    await engine.start()
    try:
        workers = [Lives(number, this.turns // this.sessions) for number in range(this.concurrency)]
        for part in range(1, PARTS + 1):
            stop_at = this.turns * part // PARTS
            timed.appends_ms.clear()
            await asyncio.gather(*(this.worker(engine, lives, stop_at) for lives in workers))
            gc.collect()
            this.resident_mb.append(round(resident_mb(os.getpid()), 1))
            this.append_p99_ms.append(round(percentile(timed.appends_ms, 0.99), 2))
            this.fsync_p99_ms.append(round(percentile(fsync_floor(folder), 0.99), 2))
            print(
                f"{part * 100 // PARTS:3d}%  {this.done} turns, {this.resident_mb[-1]} MB resident, append p99"
                f" {this.append_p99_ms[-1]} ms, fsync p99 {this.fsync_p99_ms[-1]} ms",
                file=sys.stderr,
                flush=True,
            )
    finally:
        await engine.stop(grace_s=1.0)
        await store.close()


async def pruned(path: Path) -> int:
    """Prune every chunk; how many."""
    store = await open_sqlite(path)
    try:
        return await store.prune_chunks(time.time_ns() // 1_000_000 + 1000)
    finally:
        await store.close()


def database_bytes(path: Path, *, vacuum: bool = False) -> int:
    """The size of the database once its journal is in it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if vacuum:
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=5_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json", type=Path, default=report.RESULTS / "soak.json")
    options = parser.parse_args()
    this = Soak(options.turns, options.sessions, options.concurrency)
    with tempfile.TemporaryDirectory(dir=".", prefix="soak-") as name:
        folder = Path(name)
        path = folder / "stateline.db"
        began_s = time.perf_counter()
        run(soak(this, folder))
        seconds = time.perf_counter() - began_s
        before = database_bytes(path)
        chunks = asyncio.run(pruned(path))
        after = database_bytes(path, vacuum=True)
    fifth = this.resident_mb[PARTS // 5 - 1]
    figures = {
        "soak memory growth": round(this.resident_mb[-1] / fifth - 1, 4),
        "soak database/payload": round(before / this.payload_bytes, 3),
        "soak database/payload pruned": round(after / this.payload_bytes, 3),
        "soak append p99 last/first": round(this.append_p99_ms[-1] / this.append_p99_ms[0], 3),
    }
    report.checks([found for name, value in figures.items() if (found := check(name, value)) is not None])
    report.write(
        options.json,
        {
            "turns": this.turns,
            "sessions": this.sessions,
            "concurrency": this.concurrency,
            "seconds": round(seconds, 1),
            "payload_bytes_a_turn": round(this.payload_bytes / this.turns),
            "database_bytes_a_turn": round(before / this.turns),
            "database_bytes_a_turn_pruned": round(after / this.turns),
            "chunks_pruned": chunks,
            "resident_mb": this.resident_mb,
            "append_p99_ms": this.append_p99_ms,
            "fsync_p99_ms": this.fsync_p99_ms,
            **figures,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
