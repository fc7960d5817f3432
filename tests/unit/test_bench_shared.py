"""The bench of nodes over one PostgreSQL: its reference is fenced, and every row runs, at a tiny size."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from bench.shared.processes import NodeFailed, node
from bench.shared.reference_loop import Moved, ReferenceLoop, reference_loop
from bench.shared.rows import ROWS, SMOKE, Database, Found, holds
from tests.postgres import new_database

from stateline.stores.postgres.connecting import connect, place_of
from stateline.testing.postgres_server import PostgresServer


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Database:
    return Database(postgres)


def _row(database: Database, name: str) -> Found:
    found = ROWS[name](database, SMOKE)
    assert found.rows
    assert found.kept
    return found


@pytest.mark.parametrize("at_once", [False, True])
async def test_the_reference_keeps_what_it_acknowledged_and_refuses_what_has_moved(
    postgres: PostgresServer, at_once: bool
) -> None:
    url = await new_database(postgres)
    async with reference_loop(url, at_once=at_once) as turn:
        await asyncio.gather(turn(0, 0), turn(1, 0))
        db = await connect(place_of(url))
        loop = ReferenceLoop(db, at_once=at_once)
        # The second one of a session waits for the next commit; the third is not where it thinks.
        await asyncio.gather(loop.append(0, 7, b"a"), loop.append(0, 8, b"b"))
        with pytest.raises(Moved):
            await loop.append(1, 3, b"c")
        assert (loop.commits, loop.records) == (3, 2)
        await loop.close()
        heads = await db.fetch("SELECT n, head FROM loop_sessions WHERE n < 2 ORDER BY n")
        counts = await db.fetch("SELECT session, count(*) FROM loop_events GROUP BY session ORDER BY session")
        await db.close()
    assert [tuple(row) for row in heads] == [tuple(row) for row in counts] == [(0, 9), (1, 7)]


def test_the_store_is_compared_with_the_loop(database: Database) -> None:
    promises = _row(database, "loop").promises
    assert promises["postgres store/postgres loop at 4"] > 0
    assert promises["postgres store cpu_ms_per_turn at 4"] > 0


def test_two_nodes_are_compared_with_one(database: Database) -> None:
    assert _row(database, "nodes").promises["CPU a turn of two nodes/one"] > 0


def test_sessions_are_worked_on_while_their_nodes_renew(database: Database) -> None:
    found = _row(database, "renewed")
    assert found.promises == {"deadlocks while renewed": 0, "errors while renewed": 0}
    done = {row[0] for row in found.rows if row[1]}
    assert {"appends", "claims", "posts", "releases", "renewals"} <= done


def test_readers_get_every_event(database: Database) -> None:
    found = _row(database, "readers")
    assert found.promises["undelivered to readers"] == 0
    assert [row[0] for row in found.rows] == [1, 10]


def test_turns_go_on_beside_streams(database: Database) -> None:
    found = _row(database, "streams")
    (cell,) = cast("list[dict[str, float]]", found.kept["cells"])
    assert (cell["errors"], cell["unanswered"]) == (0, 0)
    assert cell["stream_events"] > 0
    assert cell["turn_p99_ms"] > 0


def test_callers_on_two_nodes_move_one_budget_by_what_they_settled(database: Database) -> None:
    found = _row(database, "budget")
    assert found.promises["appends of one budget/none"] > 0
    assert found.kept["spent"] == found.kept["settled"] != "0"


@pytest.mark.parametrize(
    ("reached", "errors", "unanswered", "held"),
    [(99.0, 0, 0, True), (90.0, 0, 0, False), (100.0, 1, 0, False), (100.0, 0, 1, False)],
)
def test_a_rate_is_held_when_what_was_asked_was_answered_in_time(
    reached: float, errors: int, unanswered: int, held: bool
) -> None:
    cell = {"asked_per_s": 100.0, "reached_per_s": reached, "errors": errors, "unanswered": unanswered}
    assert holds(cell) is held


def test_a_node_that_cannot_start_is_no_silent_zero() -> None:
    with pytest.raises(NodeFailed), node("turning", url="postgresql:///?host=/nowhere"):
        pass
