"""Partitions of the chunks by time of writing: made before their time, dropped whole after it.

A partition's name ends in the number of its stretch of CHUNK_PART_S since 1970, so every node comes to
the same names without asking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from stateline.core.limits import CHUNK_PART_S, CHUNK_PARTS_AHEAD, PRUNE_ROWS_MAX
from stateline.stores.postgres import connecting, schema, walls
from stateline.stores.postgres.clock import now_sql
from stateline.stores.postgres.connecting import Connection

_WIDTH_MS = CHUNK_PART_S * 1000
_NAME = re.compile(r"stateline_chunks_p(\d+)")
AT_REST = "s.owner IS NULL AND s.due_ms IS NULL AND s.wake_ms IS NULL"
_HURRY = "SET LOCAL lock_timeout = 500; SET LOCAL enable_seqscan = on"
"""Dropping a partition makes everybody wait who wants the table, so it does not wait long itself."""


class Part(NamedTuple):
    name: str
    begins_ms: int

    @property
    def number(self) -> int:
        return self.begins_ms // _WIDTH_MS

    @property
    def ends_ms(self) -> int:
        return self.begins_ms + _WIDTH_MS


async def parts(db: Connection) -> list[Part]:
    """The partitions that there are, the oldest first."""
    names = await db.fetch(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = to_regclass('stateline_chunks')"
    )
    found = [(name, _NAME.fullmatch(name)) for (name,) in names]
    return sorted((Part(name, int(match[1]) * _WIDTH_MS) for name, match in found if match), key=lambda p: p.begins_ms)


async def ensure(db: Connection, now_ms: int | None) -> None:
    """Make the partitions of now and of the time to come."""
    now = int(await db.fetchval(f"SELECT {now_sql()}", now_ms))
    first = now // _WIDTH_MS
    wanted = range(first, first + 1 + CHUNK_PARTS_AHEAD)
    if {part.number for part in await parts(db)}.issuperset(wanted):
        return
    await db.execute("BEGIN")
    try:
        await db.execute(f"SELECT pg_advisory_xact_lock({schema.LOCK})")
        await make_missing(db, wanted)
        await db.execute("COMMIT")
    except BaseException:
        if not db.is_closed():
            await db.execute("ROLLBACK")
        raise


async def make_missing(db: Connection, numbers: Iterable[int]) -> None:
    """Make these partitions where they are not there, in the caller's transaction."""
    there = {part.number for part in await parts(db)}
    for number in numbers:
        if number not in there:
            await _make(db, number)


async def _make(db: Connection, number: int) -> None:
    name = f"stateline_chunks_p{number}"
    # Made beside and attached: that locks nobody out who reads or writes chunks.
    await db.execute(f"CREATE TABLE {name} (LIKE stateline_chunks INCLUDING DEFAULTS INCLUDING STORAGE)")
    await walls.wall_part(db, name)
    await db.execute(
        f"ALTER TABLE stateline_chunks ATTACH PARTITION {name}"
        f" FOR VALUES FROM ({number * _WIDTH_MS}) TO ({(number + 1) * _WIDTH_MS})"
    )


async def prune(db: Connection, before_ms: int, now_ms: int | None) -> int:
    """Delete what was written before ``before_ms`` of sessions that are at rest; how many chunks.

    Whole partitions go at once. Of one that ends later only a retention that is shorter than a
    partition deletes rows.
    """
    now = int(await db.fetchval(f"SELECT {now_sql()}", now_ms))
    pruned = 0
    for part in await parts(db):
        if part.begins_ms >= before_ms:
            break
        if part.ends_ms <= before_ms:
            pruned += await _drop(db, part)
        elif now - before_ms < _WIDTH_MS or before_ms > now:
            pruned += await _delete(db, part, before_ms)
    return pruned


async def count(db: Connection, before_ms: int, now_ms: int | None) -> int:
    """How many chunks ``prune`` would delete."""
    now = int(await db.fetchval(f"SELECT {now_sql()}", now_ms))
    found = 0
    for part in await parts(db):
        if part.ends_ms <= before_ms or (
            part.begins_ms < before_ms and (now - before_ms < _WIDTH_MS or before_ms > now)
        ):
            found += await db.fetchval(
                f"SELECT count(*) FROM {part.name} c LEFT JOIN stateline_sessions s ON s.n = c.session"
                f" WHERE c.written_ms < $1 AND (s.n IS NULL OR ({AT_REST}))",
                before_ms,
            )
    return found


async def _drop(db: Connection, part: Part) -> int:
    """Drop a partition, unless a turn that still runs has chunks in it: then the others' go."""
    await db.execute("BEGIN")
    try:
        await db.execute(_HURRY)
        await db.execute(f"SELECT pg_advisory_xact_lock({schema.LOCK})")
        in_use = await db.fetchval(
            f"SELECT EXISTS (SELECT 1 FROM {part.name} c JOIN stateline_sessions s ON s.n = c.session"
            f" WHERE NOT ({AT_REST}))"
        )
        count = 0
        if not in_use:
            count = int(await db.fetchval(f"SELECT count(*) FROM {part.name}"))
            await db.execute(f"DROP TABLE {part.name}")
        await db.execute("COMMIT")
    except Exception as error:
        if db.is_closed():
            raise
        await db.execute("ROLLBACK")
        if connecting.passes(error) or connecting.lacks_table(error):
            return 0  # Others use it, or were faster: the next time.
        raise
    return await _delete(db, part, part.ends_ms) if in_use else count


async def _delete(db: Connection, part: Part, before_ms: int) -> int:
    pruned = 0
    while True:
        tag = await db.execute(
            f"DELETE FROM {part.name} WHERE (session, seq, written_ms) IN"
            f" (SELECT c.session, c.seq, c.written_ms FROM {part.name} c JOIN stateline_sessions s ON s.n = c.session"
            f"  WHERE c.written_ms < $1 AND {AT_REST} LIMIT {PRUNE_ROWS_MAX})",
            before_ms,
        )
        deleted = int(tag.split()[-1])
        pruned += deleted
        if deleted < PRUNE_ROWS_MAX:
            return pruned
