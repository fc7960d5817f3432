"""Sessions as the engine leaves them, made over a store directly; and all that a database holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from stateline.core import events as e
from stateline.core.ids import SessionRef, response_id
from stateline.core.items import InputText, Message
from stateline.ports import Hold, Ownership, Store
from stateline.testing.store_checks.log import chunk

DAY_MS = 24 * 3600 * 1000
TABLES = ("sessions", "events", "chunks", "snapshots", "inbox", "dedup", "blob_refs", "balances")


class Writing:
    """Writes a session's events at a time of the test's choosing, and gives the session back."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.heads: dict[SessionRef, int] = {}
        self.epochs: dict[SessionRef, int] = {}

    async def create(self, name: str, parent: SessionRef | None = None, tenant: str = "t") -> SessionRef:
        ref = SessionRef(tenant, name)
        at = None if parent is None else (parent, self.heads[parent])
        await self.store.create(ref, at)
        self.heads[ref] = 0 if parent is None else self.heads[parent]
        self.epochs[ref] = 0
        return ref

    async def append(
        self, ref: SessionRef, at_ms: int, *bodies: e.Body, release: bool = True, holds: Sequence[Hold] = ()
    ) -> None:
        head, epoch = self.heads[ref], self.epochs[ref] + 1
        own = Ownership(session=ref, owner="a", epoch=epoch, head=head)
        events = [
            e.Event(session=ref, seq=head + 1 + at, at_ms=at_ms, body=body, dedup=_dedup(ref, head) if not at else ())
            for at, body in enumerate(bodies)
        ]
        self.heads[ref] = await self.store.append(own, head, events, holds, release=release)
        self.epochs[ref] = epoch

    async def turn(self, ref: SessionRef, at_ms: int, said: str = "hello", *, release: bool = True) -> str:
        """A turn with its chunks; its response id."""
        made = response_id(ref.id.rjust(24, "0"), "00000000", self.heads[ref])
        kind: tuple[e.Body, ...] = () if self.epochs[ref] else (e.SessionCreated(kind="chain"),)
        turn = e.TurnRequested(response_id=made, turn=1, request=e.TurnRequest(model="m"), input=(words(said),))
        end = e.TurnCompleted(response_id=made)
        await self.append(ref, at_ms, *kind, turn, chunk(2, said), chunk(3, said), end, release=release)
        return made


def _dedup(ref: SessionRef, head: int) -> tuple[e.Dedup, ...]:
    return (e.Dedup(key=f"{ref.id}/{head}", ref="r", digest="d", ttl_s=10 * 365 * 24 * 3600),)


def words(said: str) -> Message:
    return Message(id="msg_1", role="user", content=(InputText(text=said),))


def dump(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables that hold sessions, with the sessions by their names."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        names = dict(db.execute("SELECT n, id FROM sessions"))
        found: dict[str, list[tuple[object, ...]]] = {}
        for table in TABLES:
            cursor = db.execute(f"SELECT * FROM {table}")
            columns = [column[0] for column in cursor.description]
            at = next(columns.index(name) for name in ("session", "n", "name") if name in columns)
            found[table] = sorted((str(names.get(row[at])), *row) for row in cursor)
        return found


def without(before: dict[str, list[tuple[object, ...]]], *names: str) -> dict[str, list[tuple[object, ...]]]:
    """A dump in which these sessions never were."""
    return {table: [row for row in rows if row[0] not in names] for table, rows in before.items()}


def on_disk(folder: Path) -> bytes:
    """Every byte of every file."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
