"""What is looked up is found by its index, whatever the planner believes of tables without statistics."""

from __future__ import annotations

import asyncio

from tests.postgres import ask, new_database

from stateline.core.ids import SessionRef, session_id
from stateline.ports import Ownership, Store, Watch
from stateline.stores.postgres import open_postgres
from stateline.stores.postgres.connecting import Connection
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_rig import text

_SESSIONS = 1000
_LOOKED_UP = 50


def _ref(number: int) -> SessionRef:
    return SessionRef("default", session_id(0, number.to_bytes(9, "big")))


async def _work(store: Store, first: int, count: int) -> None:
    """Look each of so many sessions up in every way that there is: 4 times, and a claim."""
    refs = [_ref(number) for number in range(first, first + count)]
    await store.tail([Watch(session=ref, after=0) for ref in refs])
    await asyncio.gather(*(store.post(ref, text(ref, 0)) for ref in refs))
    for ref in refs:
        assert [event async for event in store.read(ref)] == []
    taken = await store.claim("b", count)
    assert [own.session for own in taken] == refs
    await asyncio.gather(
        *(store.append(own, 0, [text(own.session, 1, post=own.inbox[0].post)], release=True) for own in taken)
    )


async def test_a_look_up_reads_its_own_rows_alone_while_the_planner_knows_nothing(postgres: PostgresServer) -> None:
    url = await new_database(postgres)

    async def never_analyzed(db: Connection) -> None:
        await db.execute("ALTER TABLE stateline_sessions SET (autovacuum_enabled = off)")

    async def rows_read(db: Connection) -> int:
        return int(
            await db.fetchval(
                "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'stateline_sessions'"
                " AND schemaname = current_schema()"
            )
        )

    maker = await open_postgres(url)
    await ask(url, never_analyzed)
    worker = await open_postgres(url)
    await worker.renew("b", 60)
    await asyncio.gather(*(maker.create(_ref(number)) for number in range(2)))
    # Plans are made while there is next to nothing, and kept.
    await _work(worker, 0, 2)
    own = Ownership(session=_ref(2), owner="a", epoch=1, head=0)
    await asyncio.gather(*(maker.create(_ref(number)) for number in range(2, _SESSIONS)))
    assert await maker.append(own, 0, [text(own.session, 1)], release=True) == 1
    # A connection tells its counts at its end.
    await maker.close()
    before = await ask(url, rows_read)
    await _work(worker, 10, _LOOKED_UP)
    await worker.close()
    assert await ask(url, rows_read) - before < 40 * _LOOKED_UP
