"""Two nodes on one PostgreSQL database, and what they are asked."""

from __future__ import annotations

from dataclasses import dataclass

from stateline.core.ids import SessionRef
from stateline.ports import Ownership, Store
from stateline.stores.postgres import PostgresStore
from stateline.testing.store_rig import ManualClock, texts

REF = SessionRef("t", "s")
OWN = Ownership(session=REF, owner="a", epoch=1, head=0)


@dataclass
class Two:
    """Two nodes on one database."""

    a: PostgresStore
    b: PostgresStore
    clock: ManualClock
    url: str

    async def started(self) -> None:
        """Both live, and `a` owns REF with one event."""
        await self.a.renew("a", 10)
        await self.b.renew("b", 10)
        await self.a.create(REF)
        assert await self.a.append(OWN, 0, texts(REF, 1, 1)) == 1


async def seqs(store: Store, ref: SessionRef = REF) -> list[int]:
    return [found.seq async for found in store.read(ref, chunks=True)]
