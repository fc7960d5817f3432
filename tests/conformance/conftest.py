"""What the tests of several nodes share."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.conformance.nodes import Two
from tests.postgres import new_database

from stateline.stores.postgres import open_postgres
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.store_rig import ManualClock


@pytest.fixture
async def two(postgres: PostgresServer) -> AsyncGenerator[Two]:
    url, clock = await new_database(postgres), ManualClock()
    a, b = await open_postgres(url, clock=clock), await open_postgres(url, clock=clock)
    try:
        yield Two(a, b, clock, url)
    finally:
        await a.close()
        await b.close()
