"""One group commit as its requests see it: the sessions' rows, and what is written at the end.

Each request decides by conditions before it writes, so one that fails has written nothing and needs
no savepoint. This is the only connection that writes, so the rows of the sessions in use are kept in
memory and decide there. A change of owner is written at the end of the batch, under the condition that
the file agrees; an append of the owner writes its events alone, whose index takes no number twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain

from stateline.core.events import Chunk, Dedup, Snapshot
from stateline.core.ids import SessionRef
from stateline.core.limits import EXPIRED_ROWS_MAX
from stateline.ports import Duplicate
from stateline.stores.balances import Standing
from stateline.stores.sqlite import together
from stateline.stores.sqlite.schema import HEAD
from stateline.stores.sqlite.together import NOTHING, OR_NOTHING

_ROWS_MAX = 4_096
_BALANCES_MAX = 4_096

# A statement that fails gives up the whole transaction here. OR FAIL says so to SQLite, which else keeps
# each page that a statement of many rows touches a second time, to undo that statement alone: a third of
# all that was written.
_COLUMNS = "(tenant, session, seq, at_ms, epoch, post, body) {values}"
_INSERT_EVENT = f"INSERT OR FAIL INTO events {_COLUMNS}"
_INSERT_CHUNK = f"INSERT OR FAIL INTO chunks {_COLUMNS}"
_PUT_SNAPSHOT = f"INSERT OR REPLACE INTO snapshots {_COLUMNS}"
_RECORD = f"(?,?,?,?,?,{OR_NOTHING},?)"
_PUT_DEDUP = "INSERT OR REPLACE INTO dedup {values}"
_PUT_BALANCES = "INSERT OR REPLACE INTO balances {values}"
_BALANCE = f"(?,?,?,{OR_NOTHING})"
_INSERT_SESSIONS = (
    "INSERT OR FAIL INTO sessions (n, tenant, id, owner, epoch, head, due_ms, wake_ms, parent, parent_seq, created_ms)"
    " {values}"
)
_SESSION = f"(?,?,?,{OR_NOTHING},?,?,{OR_NOTHING},{OR_NOTHING},{OR_NOTHING},?,?)"
_CHANGE_OWNERS = (
    "UPDATE sessions SET owner = v.column1, epoch = v.column2, due_ms = v.column3, wake_ms = v.column4,"
    " head = v.column5 FROM ({values}) AS v"
    " WHERE sessions.n = v.column6 AND sessions.owner IS v.column7 AND sessions.epoch = v.column8"
)
_CHANGE = f"({OR_NOTHING},?,{OR_NOTHING},{OR_NOTHING},?,?,{OR_NOTHING},?)"
_FIND_SESSIONS = (
    "WITH wanted (tenant, id) AS ({values})"
    f" SELECT t.name, sessions.id, t.n, sessions.n, CASE WHEN owner IS NULL THEN head ELSE {HEAD} END, owner,"
    " epoch, crashed, inbox, due_ms, wake_ms FROM wanted CROSS JOIN tenants t ON t.name = wanted.tenant"
    " CROSS JOIN sessions ON sessions.tenant = t.n AND sessions.id = wanted.id"
)

EventRow = tuple[int, int, int, int, int, int, bytearray]
"""tenant, session, seq, at_ms, epoch, post or NOTHING, body."""
DedupRow = tuple[int, str, str, str, int, int]
"""tenant, key, ref, digest, session, expires_ms."""


_REF = together.row_of(2)
_DEDUP = together.row_of(6)


def _bound(value: int | str | None) -> int | str:
    return NOTHING if value is None else value


class Row:
    """A session's row.

    ``stored`` is False until it was inserted. ``stored_owner`` is the file's owner and epoch, while
    they differ from these.
    """

    __slots__ = (
        "crashed",
        "due_ms",
        "epoch",
        "head",
        "inbox",
        "number",
        "owner",
        "parent",
        "ref",
        "stored",
        "stored_owner",
        "tenant",
        "wake_ms",
    )

    def __init__(self, ref: SessionRef, tenant: int, number: int, head: int) -> None:
        self.ref = ref
        self.tenant = tenant
        self.number = number
        self.head = head
        self.stored = False
        self.stored_owner: tuple[str | None, int] | None = None
        self.due_ms: int | None = None
        self.wake_ms: int | None = None
        self.owner: str | None = None
        self.epoch = 0
        self.crashed = 0
        self.inbox = 0
        self.parent: tuple[int | None, int] = (None, 0)


class Transaction:
    """State of the batch that is being written. Used on the writer thread alone."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.now_ms = 0
        self.events: list[EventRow] = []
        self.chunks: list[EventRow] = []
        self.snapshots: list[EventRow] = []
        self.dedup: dict[tuple[int, str], DedupRow] = {}
        """By tenant and key."""
        self.tables: dict[type, list[EventRow]] = {Chunk: self.chunks, Snapshot: self.snapshots}
        """Where events of these types go; all others are in ``events``."""
        self.tenant_served = 0
        """The tenant that was last given an owner for a session."""
        self._rows: dict[SessionRef, Row] = {}
        self._absent: set[SessionRef] = set()
        """Sessions that there are not, as this batch has found."""
        self._new: list[Row] = []
        self._passed: dict[int, Row] = {}
        self._tenants: dict[str, int] = {}
        self._balances: dict[str, Standing] = {}
        """As they are in the file, but for those that this batch moved."""
        self._moved: set[str] = set()
        used = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'sessions'").fetchone()
        self._last_number: int = used[0] if used else 0

    def begin(self, now_ms: int) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        if len(self._rows) > _ROWS_MAX:
            self._rows.clear()
        if len(self._balances) > _BALANCES_MAX:
            self._balances.clear()
        self._absent.clear()
        self.now_ms = now_ms
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.flush()
        self.db.execute("COMMIT")

    def rollback(self) -> None:
        """Forget everything since ``begin``; SQLite may have done its part already."""
        for collected in (self.events, self.chunks, self.snapshots, self._new):
            collected.clear()
        for known in (self._rows, self._passed, self._tenants, self.dedup, self._balances, self._moved):
            known.clear()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    # -- what is written at the end --------------------------------------------------------------

    def flush(self) -> None:
        """Write what was collected."""
        self.flush_sessions()
        for statement, rows in (
            (_INSERT_EVENT, self.events),
            (_INSERT_CHUNK, self.chunks),
            (_PUT_SNAPSHOT, self.snapshots),
        ):
            if rows:
                together.execute(self.db, statement, _RECORD, rows)
                rows.clear()
        if self.dedup:
            together.execute(self.db, _PUT_DEDUP, _DEDUP, self.dedup.values())
            self.dedup.clear()
        if self._moved:
            self._flush_balances()

    def _flush_balances(self) -> None:
        rows: list[tuple[int | str, ...]] = []
        for name in sorted(self._moved):
            held, spent, expires_ms = self._balances[name]
            rows.append((name, str(held), str(spent), _bound(expires_ms)))
        together.execute(self.db, _PUT_BALANCES, _BALANCE, rows)
        self._moved.clear()

    def flush_sessions(self) -> None:
        """Write the sessions' rows, before a statement that looks at them."""
        if self._new:
            together.execute(
                self.db,
                _INSERT_SESSIONS,
                _SESSION,
                [
                    (
                        r.number,
                        r.tenant,
                        r.ref.id,
                        _bound(r.owner),
                        r.epoch,
                        r.head,
                        _bound(r.due_ms),
                        _bound(r.wake_ms),
                        _bound(r.parent[0]),
                        r.parent[1],
                        self.now_ms,
                    )
                    for r in self._new
                ],
            )
            for row in self._new:
                row.stored = True
            self._new.clear()
        if self._passed:
            rows: list[tuple[int | str, ...]] = []
            for r in self._passed.values():
                assert r.stored_owner is not None
                owner, epoch = r.stored_owner
                now = (_bound(r.owner), r.epoch, _bound(r.due_ms), _bound(r.wake_ms), r.head, r.number)
                rows.append((*now, _bound(owner), epoch))
            if together.execute(self.db, _CHANGE_OWNERS, _CHANGE, rows) != len(rows):
                raise AssertionError("a session's row is not what the writer knows")
            for row in self._passed.values():
                row.stored_owner = None
            self._passed.clear()

    # -- sessions ----------------------------------------------------------------------------------

    def tenant(self, name: str) -> int:
        """The tenant's number; a new one is given where there is none."""
        number = self._tenants.get(name)
        if number is None:
            self.db.execute("INSERT OR IGNORE INTO tenants (name) VALUES (?)", (name,))
            number = int(self.db.execute("SELECT n FROM tenants WHERE name = ?", (name,)).fetchone()[0])
            self._tenants[name] = number
        return number

    def tenant_name(self, number: int) -> str:
        return str(self.db.execute("SELECT name FROM tenants WHERE n = ?", (number,)).fetchone()[0])

    def row(self, ref: SessionRef) -> Row | None:
        """The session's row, or None where there is no such session."""
        row = self._rows.get(ref)
        if row is None and ref not in self._absent:
            self.expect([ref])
            row = self._rows.get(ref)
        return row

    def known(self, ref: SessionRef) -> bool:
        """Whether there is the session, as far as memory tells; the index of ids knows for sure."""
        return ref in self._rows

    def expect(self, refs: Iterable[SessionRef]) -> None:
        """Look up the rows of sessions that are to be asked for, all at once."""
        known = self._rows
        wanted = [ref for ref in dict.fromkeys(refs) if ref not in known]
        if not wanted:
            return
        self._absent.update(wanted)
        for piece in together.slices(wanted):
            statement = together.statement(_FIND_SESSIONS, _REF, len(piece))
            for name, id_, *found in self.db.execute(statement, list(chain.from_iterable(piece))).fetchall():
                ref = SessionRef(name, id_)
                row = self._rows[ref] = Row(ref, *found[:3])
                row.owner, row.epoch, row.crashed, row.inbox, row.due_ms, row.wake_ms = found[3:]
                row.stored = True
                self._absent.discard(ref)

    def draft(self, ref: SessionRef, parent: Row | None = None, seq: int = 0) -> Row:
        """The row of a new session, or of a fork of ``parent`` at ``seq``, which ``add`` makes one."""
        self._last_number += 1
        row = Row(ref, self.tenant(ref.tenant), self._last_number, seq)
        if parent is not None:
            row.parent = (parent.number, seq)
        return row

    def add(self, row: Row) -> None:
        self._rows[row.ref] = row
        self._absent.discard(row.ref)
        self._new.append(row)

    def adopt(self, row: Row, owner: str, epoch: int) -> None:
        """Give an unowned session its owner."""
        self._own(row, owner, epoch, None, None)

    def release(self, row: Row, wake_at_ms: int | None) -> None:
        """Take a session from its owner; what waits in its inbox makes it due."""
        self._own(row, None, row.epoch, self.now_ms if row.inbox else None, wake_at_ms)

    def _own(self, row: Row, owner: str | None, epoch: int, due_ms: int | None, wake_ms: int | None) -> None:
        if row.stored:
            self._passed[row.number] = row
            row.stored_owner = row.stored_owner or (row.owner, row.epoch)
        row.owner, row.epoch, row.due_ms, row.wake_ms = owner, epoch, due_ms, wake_ms

    def forget(self, ref: SessionRef) -> None:
        self._rows.pop(ref, None)

    def forget_all(self) -> None:
        """Sessions were changed by a statement over many of them."""
        self._rows.clear()

    # -- dedup keys --------------------------------------------------------------------------------

    def check_dedup(self, tenant: int, dedup: Sequence[Dedup]) -> None:
        """Raises Duplicate where a key is taken and not to be replaced."""
        for entry in dedup:
            if entry.replace:
                continue
            if (row := self.dedup.get((tenant, entry.key))) is not None:
                raise Duplicate(row[2], row[3])
            row = self.db.execute(
                "SELECT ref, digest FROM dedup WHERE tenant = ? AND key = ? AND expires_ms > ?",
                (tenant, entry.key, self.now_ms),
            ).fetchone()
            if row is not None:
                raise Duplicate(row[0], row[1])

    def write_dedup(self, tenant: int, session: int, dedup: Sequence[Dedup]) -> None:
        for e in dedup:
            expires_ms = self.now_ms + e.ttl_s * 1000
            self.dedup[tenant, e.key] = (tenant, e.key, e.ref, e.digest, session, expires_ms)

    # -- balances ----------------------------------------------------------------------------------

    def balance(self, name: str) -> Standing | None:
        """What a balance stands at with what this batch did; None where there is none."""
        found = self._balances.get(name)
        if found is None:
            row = self.db.execute("SELECT held, spent, expires_ms FROM balances WHERE name = ?", (name,)).fetchone()
            if row is not None:
                found = self._balances[name] = Standing(Decimal(row[0]), Decimal(row[1]), row[2])
        return found

    def balances_moved(self, moved: Mapping[str, Standing]) -> None:
        """Have these written at the end."""
        self._balances |= moved
        self._moved |= moved.keys()

    # -- what is over ------------------------------------------------------------------------------

    def clear_expired(self) -> bool:
        """Delete some expired dedup keys and balances; True if there may be more."""
        if self._moved:
            self._flush_balances()
        gone = self.db.execute(
            "DELETE FROM balances WHERE name IN (SELECT name FROM balances WHERE expires_ms <= ? LIMIT ?)"
            " RETURNING name",
            (self.now_ms, EXPIRED_ROWS_MAX),
        ).fetchall()
        for (name,) in gone:
            self._balances.pop(name, None)
        cursor = self.db.execute(
            "DELETE FROM dedup WHERE (tenant, key) IN (SELECT tenant, key FROM dedup WHERE expires_ms <= ? LIMIT ?)",
            (self.now_ms, EXPIRED_ROWS_MAX),
        )
        return max(cursor.rowcount, len(gone)) >= EXPIRED_ROWS_MAX
