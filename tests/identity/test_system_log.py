"""Records that every node may change: those of many writers at once are all kept."""

from __future__ import annotations

import asyncio
import os

from tests.postgres import new_database

from stateline.identity.keys import Keys
from stateline.stores.clock import SystemClock
from stateline.stores.postgres import open_postgres
from stateline.testing.postgres_server import PostgresServer

WRITERS, EACH = 4, 2


async def test_keys_that_are_made_at_once_on_several_nodes_are_all_made(postgres: PostgresServer) -> None:
    url, clock = await new_database(postgres), SystemClock()
    stores = [await open_postgres(url, clock=clock) for _ in range(WRITERS)]
    try:
        writers = [Keys(store, clock, os.urandom) for store in stores]
        made = await asyncio.gather(
            *(writer.create("shop", f"{at}-{n}") for at, writer in enumerate(writers) for n in range(EACH))
        )
        assert len(made) == WRITERS * EACH
        reader = Keys(stores[0], clock, os.urandom)
        assert len(await reader.list()) == WRITERS * EACH
    finally:
        for store in stores:
            await store.close()
