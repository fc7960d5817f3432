"""One group commit: the sessions' rows as its requests see them, and the statement that writes it.

Each request decides by conditions before it changes anything here, so one that fails leaves nothing.
What they change is written by one statement, which moves a session only where owner, epoch and head are
still what was decided on, and inserts all of a session's records or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from stateline.core.events import Chunk, Dedup, Snapshot
from stateline.core.ids import SessionRef
from stateline.ports import Duplicate, Hold
from stateline.stores.balances import Standing, moved, summed
from stateline.stores.postgres.clock import now_sql

RecordRow = tuple[int, int, int, int, int, int | None, bytes]
"""tenant, session, seq, at_ms, epoch, post, body."""


class Row:
    """A session's row. ``was`` is the owner, epoch and head that the database must still have.

    ``free``: it must have no owner's leavings and an empty inbox, too. ``newest`` is the last waiting post.
    """

    __slots__ = (
        "crashed",
        "due_ms",
        "epoch",
        "free",
        "head",
        "inbox",
        "new",
        "newest",
        "number",
        "owner",
        "parent",
        "post",
        "posted",
        "ref",
        "taken",
        "tenant",
        "touched",
        "wake_ms",
        "was",
    )

    def __init__(self, ref: SessionRef, tenant: int, number: int, head: int) -> None:
        self.ref = ref
        self.tenant = tenant
        self.number = number
        self.head = head
        self.owner: str | None = None
        self.epoch = 0
        self.crashed = False
        self.inbox = self.post = self.newest = 0
        self.due_ms: int | None = None
        self.wake_ms: int | None = None
        self.parent: tuple[int | None, int] = (None, 0)
        self.was: tuple[str | None, int, int] = (None, 0, head)
        self.free = False
        self.new = self.touched = False
        self.posted = self.taken = 0
        """Inbox rows that were added and removed."""


class Kept(NamedTuple):
    """What is remembered of a session between commits; the database may know better."""

    tenant: int
    number: int
    owner: str | None
    epoch: int
    head: int


class Batch:
    """What the requests of one commit come to.

    Args:
        locked: the rows were read and locked; else they are what is remembered.
    """

    def __init__(self, now_ms: int, *, locked: bool) -> None:
        self.now_ms = now_ms
        self.locked = locked
        self.rows: dict[SessionRef, Row | None] = {}
        self.tenants: dict[str, int] = {}
        self.numbers: deque[int] = deque()
        self.drafted: list[int] = []
        """Numbers that were taken from there."""
        self.waiting: set[tuple[int, int]] = set()
        """Inbox rows that are there, of those that were asked for: session, post."""
        self.taken_keys: dict[tuple[int, str], tuple[str, str]] = {}
        """Dedup keys in force, of those that were asked for."""
        self.events: list[RecordRow] = []
        self.chunks: list[RecordRow] = []
        self.snapshots: dict[int, RecordRow] = {}
        self.inbox: list[tuple[int, int, int, int, bytes | None, bytes]] = []
        self.consumed: list[tuple[int, int]] = []
        self.keys: dict[tuple[int, str], tuple[str, str, int, int, bool]] = {}
        self.blobs: dict[tuple[int, str], bytes] = {}
        self.refs: set[tuple[int, int, str]] = set()
        self.moves: list[tuple[int, int, Sequence[Hold]]] = []
        """What was held, by whom: the turn of the append, its session, its holds."""
        self._standings: dict[str, Standing] | None = None
        self._stored: frozenset[str] = frozenset()

    # -- what requests ask and do ------------------------------------------------------------------------

    def row(self, ref: SessionRef) -> Row | None:
        return self.rows.get(ref)

    def draft(self, ref: SessionRef, parent: Row | None = None, seq: int = 0) -> Row:
        """The row of a new session, or of a fork of ``parent`` at ``seq``, which ``add`` makes one."""
        number = self.numbers.popleft()
        self.drafted.append(number)
        row = Row(ref, self.tenants[ref.tenant], number, seq)
        row.new = row.touched = True
        if parent is not None:
            row.parent = (parent.number, seq)
        return row

    def add(self, row: Row) -> None:
        self.rows[row.ref] = row

    def adopt(self, row: Row, owner: str, epoch: int) -> None:
        row.owner, row.epoch, row.due_ms, row.wake_ms = owner, epoch, None, None
        row.free = not row.new

    def release(self, row: Row, wake_at_ms: int | None) -> None:
        row.owner, row.wake_ms = None, wake_at_ms
        row.due_ms = self.now_ms if row.inbox else None
        row.touched = True
        # Where the inbox was not looked into, the statement itself must find it empty.
        row.free = row.free or not (row.new or self.locked)

    def record(self, row: Row, record: RecordRow, kind: type) -> None:
        if kind is Chunk:
            self.chunks.append(record)
        elif kind is Snapshot:
            self.snapshots[row.number] = record  # Only the latest is kept.
        else:
            self.events.append(record)
        row.touched = True

    def post(self, row: Row, at_ms: int, dedup: bytes | None, body: bytes) -> None:
        """Put a row into the inbox; an unowned session becomes due."""
        row.inbox += 1
        row.post += 1
        row.posted += 1
        row.newest = row.post
        if row.owner is None and row.due_ms is None:
            row.due_ms = self.now_ms
        self.inbox.append((row.tenant, row.number, row.post, at_ms, dedup, body))
        self.waiting.add((row.number, row.post))
        row.touched = True

    def consume(self, row: Row, posts: Sequence[int]) -> None:
        for post in posts:
            place = (row.number, post)
            self.waiting.discard(place)
            before = len(self.inbox)
            if post > row.post - row.posted:
                # It came with this very commit.
                self.inbox = [entry for entry in self.inbox if (entry[1], entry[2]) != place]
            if len(self.inbox) == before:
                self.consumed.append(place)
        row.inbox -= len(posts)
        row.taken += len(posts)
        if posts and max(posts) == row.newest:
            row.newest = max((post for number, post in self.waiting if number == row.number), default=0)

    def check_keys(self, tenant: int, dedup: Sequence[Dedup]) -> None:
        """Raises Duplicate where a key is taken and not to be replaced, Unsure where that was not looked up."""
        for entry in dedup:
            if not self.locked and (not entry.replace or (tenant, entry.key) in self.keys):
                raise Unsure
            found = None if entry.replace else self.taken_keys.get((tenant, entry.key))
            if found is not None:
                raise Duplicate(*found)

    def write_keys(self, tenant: int, session: int, dedup: Sequence[Dedup]) -> None:
        for entry in dedup:
            place = (tenant, entry.key)
            # A key that this commit itself wrote first is its own to write over.
            replace = entry.replace or (place in self.keys and self.keys[place][4])
            self.keys[place] = (entry.ref, entry.digest, session, entry.ttl_s * 1000, replace)
            self.taken_keys[place] = (entry.ref, entry.digest)

    def keep_blobs(self, row: Row, blobs: dict[str, bytes]) -> None:
        for name, content in blobs.items():
            self.refs.add((row.tenant, row.number, name))
            self.blobs[row.tenant, name] = content

    def know_balances(self, found: Mapping[str, Standing]) -> None:
        """These balances were read and locked, and no other that is asked for is there."""
        self._standings = dict(found)
        self._stored = frozenset(found)

    def move_balances(self, row: Row, turn: int, holds: Sequence[Hold]) -> None:
        """Raises BudgetExceeded where a balance is known and has no room; else the statement finds out."""
        if self._standings is not None:
            self._standings |= moved(holds, self._standings.get)
        self.moves.append((turn, row.number, holds))

    def mark(self) -> tuple[int, int, int]:
        return len(self.events), len(self.chunks), len(self.moves)

    def undo(self, mark: tuple[int, int, int], ref: SessionRef) -> None:
        """Forget what a session's requests changed since the mark."""
        row = self.rows.pop(ref, None)
        if row is None:
            return
        del self.events[mark[0] :]
        del self.chunks[mark[1] :]
        del self.moves[mark[2] :]
        self.snapshots.pop(row.number, None)
        self.keys = {place: entry for place, entry in self.keys.items() if entry[2] != row.number}
        self.refs = {entry for entry in self.refs if entry[1] != row.number}

    # -- writing -----------------------------------------------------------------------------------------

    @property
    def touched(self) -> list[Row]:
        return [row for row in self.rows.values() if row is not None and row.touched]

    def statement(self, clock_ms: int | None, writer: str, number: int) -> tuple[str, list[object]]:
        """The statement and its values.

        Gives the sessions that it moved or made, and how many dedup keys it wrote.
        """
        touched = self.touched
        moved = [
            (r.number, *r.was, r.free, r.owner, r.epoch, r.head, r.posted - r.taken, r.posted, r.due_ms, r.wake_ms)
            for r in touched
            if not r.new
        ]
        made = [
            (r.number, r.tenant, r.ref.id, r.owner, r.epoch, r.head, r.inbox, r.post, r.due_ms, r.wake_ms, *r.parent)
            for r in touched
            if r.new
        ]
        keys = [(tenant, key, *entry) for (tenant, key), entry in sorted(self.keys.items())]
        rows: dict[str, Sequence[tuple[object, ...]]] = {
            "moved": moved,
            "made": made,
            "events": self.events,
            "chunks": self.chunks,
            "snapshots": list(self.snapshots.values()),
            "inbox": self.inbox,
            "consumed": self.consumed,
        }
        if self.moves:
            rows |= self._balance_rows()
        rows |= {
            "keys_put": [key[:-1] for key in keys if key[-1]],
            "keys_new": [key[:-1] for key in keys if not key[-1]],
            "refs": sorted(self.refs),
            "blobs": [(*place, content) for place, content in sorted(self.blobs.items())],
        }
        used = tuple(name for name, values in rows.items() if values)
        columns: list[object] = [column for name in used for column in map(list, zip(*rows[name], strict=True))]
        return statement_of(used), [clock_ms, writer, number, *columns]

    def _balance_rows(self) -> dict[str, Sequence[tuple[object, ...]]]:
        # As they were asked for, which sessions' turns are not when memory decides.
        in_turn = chain.from_iterable(holds for _, _, holds in sorted(self.moves, key=itemgetter(0)))
        sums = sorted(summed(in_turn).items())
        missing = set[str]() if self._standings is None else self._standings.keys() - self._stored
        return {
            "holders": sorted({(number,) for _, number, _ in self.moves}),
            "balances_new": [(name, s.held, s.spent, s.expires_ms) for name, s in sums if name in missing],
            "balances": [(name, *each) for name, each in sums if name not in missing],
        }


class Unsure(Exception):
    """What is remembered does not tell; the rows must be read."""


_RECORDS = "int[], bigint[], bigint[], bigint[], bigint[], bigint[], bytea[]"
_RECORD_NAMES = "tenant, session, seq, at_ms, epoch, post, body"
# Not pulled up into a join, whose order the planner would guess without knowing how many there are.
_DONE = "(w.session IN (SELECT n FROM done)) IS TRUE"
_KEYS_INTO = (
    "INSERT INTO stateline_dedup (tenant, key, ref, digest, session, expires_ms)"
    f" SELECT w.tenant, w.key, w.ref, w.digest, w.session, w.ttl + {now_sql()} FROM {{w}} WHERE {_DONE}{{after}}"
    " ON CONFLICT (tenant, key) DO UPDATE SET ref = excluded.ref, digest = excluded.digest,"
    " session = excluded.session, expires_ms = excluded.expires_ms"
)
_KEY_NAMES = "(tenant, key, ref, digest, session, ttl)"
_KEY_TYPES = "int[], text[], text[], text[], bigint[], bigint[]"

_PARTS: dict[str, tuple[str, str, str]] = {
    # The rows are locked in the order of their numbers; then each is moved only where it is as decided.
    "moved": (
        "bigint[], text[], bigint[], bigint[], bool[], text[], bigint[], bigint[], bigint[], bigint[],"
        " bigint[], bigint[]",
        "(n, was_owner, was_epoch, was_head, free, owner, epoch, head, waiting, posted, due, wake)",
        "locked AS MATERIALIZED (SELECT w.* FROM {w} JOIN stateline_sessions s ON s.n = w.n"
        " ORDER BY w.n FOR UPDATE OF s), "
        "moved AS (UPDATE stateline_sessions s SET owner = l.owner, epoch = l.epoch, head = l.head,"
        " inbox = s.inbox + l.waiting, post = s.post + l.posted, due_ms = l.due, wake_ms = l.wake"
        " FROM locked l WHERE s.n = l.n AND s.owner IS NOT DISTINCT FROM l.was_owner AND s.epoch = l.was_epoch"
        " AND s.head = l.was_head AND (NOT l.free OR (s.inbox = 0 AND NOT s.crashed)) RETURNING s.n)",
    ),
    "made": (
        "bigint[], int[], text[], text[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[],"
        " bigint[], bigint[]",
        "(n, tenant, id, owner, epoch, head, inbox, post, due, wake, parent, parent_seq)",
        "made AS (INSERT INTO stateline_sessions (n, tenant, id, owner, epoch, head, inbox, post, due_ms, wake_ms,"
        f" parent, parent_seq, created_ms) SELECT w.*, {now_sql()} FROM {{w}}"
        " ON CONFLICT (tenant, id) DO NOTHING RETURNING n)",
    ),
    "events": (
        _RECORDS,
        f"({_RECORD_NAMES})",
        f"events AS (INSERT INTO stateline_events ({_RECORD_NAMES}) SELECT w.* FROM {{w}} WHERE {_DONE})",
    ),
    "chunks": (
        _RECORDS,
        f"({_RECORD_NAMES})",
        f"chunks AS (INSERT INTO stateline_chunks ({_RECORD_NAMES}, written_ms)"
        f" SELECT w.*, {now_sql()} FROM {{w}} WHERE {_DONE})",
    ),
    "snapshots": (
        _RECORDS,
        f"({_RECORD_NAMES})",
        f"snapshots AS (INSERT INTO stateline_snapshots ({_RECORD_NAMES}) SELECT w.* FROM {{w}} WHERE {_DONE}"
        " ON CONFLICT (session) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, epoch = excluded.epoch,"
        " post = excluded.post, body = excluded.body)",
    ),
    "inbox": (
        "int[], bigint[], bigint[], bigint[], bytea[], bytea[]",
        "(tenant, session, post, at_ms, dedup, body)",
        "inbox AS (INSERT INTO stateline_inbox (tenant, session, post, at_ms, dedup, body)"
        f" SELECT w.* FROM {{w}} WHERE {_DONE})",
    ),
    "consumed": (
        "bigint[], bigint[]",
        "(session, post)",
        "consumed AS (DELETE FROM stateline_inbox i USING {w}"
        f" WHERE i.session = w.session AND i.post = w.post AND {_DONE})",
    ),
    "keys_put": (_KEY_TYPES, _KEY_NAMES, f"keys_put AS ({_KEYS_INTO} RETURNING 1)"),
    "keys_new": (
        _KEY_TYPES,
        _KEY_NAMES,
        f"keys_new AS ({_KEYS_INTO} WHERE stateline_dedup.expires_ms <= {now_sql()} RETURNING 1)",
    ),
    "refs": (
        "int[], bigint[], text[]",
        "(tenant, session, name)",
        f"refs AS (INSERT INTO stateline_blob_refs (tenant, session, name) SELECT w.* FROM {{w}} WHERE {_DONE}{{after}}"
        " ON CONFLICT DO NOTHING RETURNING tenant, name)",
    ),
    "blobs": (
        "int[], text[], bytea[]",
        "(tenant, name, content)",
        "blobs AS (INSERT INTO stateline_blobs AS b (tenant, name, content, refs)"
        " SELECT w.tenant, w.name, w.content, r.refs FROM {w}"
        " JOIN (SELECT tenant, name, count(*) AS refs FROM refs GROUP BY tenant, name) r USING (tenant, name)"
        " ORDER BY w.tenant, w.name"
        " ON CONFLICT (tenant, name) DO UPDATE SET refs = b.refs + excluded.refs)",
    ),
    "holders": ("bigint[]", "(n)", "holders AS MATERIALIZED (SELECT w.n FROM {w})"),
    "balances_new": (
        "text[], numeric[], numeric[], bigint[]",
        "(name, held, spent, expires)",
        "balances_new AS (INSERT INTO stateline_balances (name, held, spent, expires_ms) SELECT w.* FROM {w}"
        " WHERE {ready} ORDER BY w.name ON CONFLICT (name) DO NOTHING RETURNING 1)",
    ),
    # Each is moved only where all holds of the batch have room in it.
    "balances": (
        "text[], numeric[], numeric[], numeric[], bigint[]",
        "(name, held, spent, room, expires)",
        "wanted AS MATERIALIZED (SELECT w.* FROM {w} JOIN stateline_balances b ON b.name = w.name"
        " WHERE {ready} ORDER BY w.name FOR UPDATE OF b), "
        "balances AS (UPDATE stateline_balances b SET held = b.held + w.held, spent = b.spent + w.spent,"
        " expires_ms = CASE WHEN w.expires IS NULL OR b.expires_ms < w.expires THEN w.expires ELSE b.expires_ms END"
        " FROM wanted w WHERE b.name = w.name AND (w.room IS NULL OR b.held + b.spent <= w.room) RETURNING 1)",
    ),
}
"""Each part: the types of its columns, their names, and what it does with ``{w}``, its rows."""

_PROOF = (
    "proof AS (UPDATE stateline_writers SET number = $3, void = false, done = ARRAY(SELECT n FROM done),"
    f" at_ms = {now_sql()} WHERE writer = $2 AND number = $3 - 1 RETURNING 1)"
)


_BEFORE_BALANCES = ("events", "chunks", "snapshots", "inbox", "consumed")
_ALL_HOLD = "NOT EXISTS (SELECT 1 FROM holders h WHERE (h.n IN (SELECT n FROM done)) IS NOT TRUE)"


def _returning(does: str) -> str:
    return does if "RETURNING" in does else f"{does[:-1]} RETURNING 1)"


@cache
def statement_of(used: tuple[str, ...]) -> str:
    """One statement over those parts; $1 is the clock, $2 the writer, $3 the commit's number.

    Balances are locked after sessions, and before keys and contents, which other nodes may be writing too: as they
    are where they were locked before the statement. They are moved only where all sessions that hold of them are;
    else the statement fails. What takes time and waits for nobody is done before.
    """
    parts: list[str] = []
    given = 3
    holding = "holders" in used
    ready = _ALL_HOLD + "".join(
        f" AND (SELECT count(*) FROM {name}) >= 0" for name in _BEFORE_BALANCES if holding and name in used
    )
    after = "".join(f" AND (SELECT count(*) FROM {name}) >= 0" for name in used if name.startswith("balances"))
    moving: list[str] = []
    for name in used:
        types, names, does = _PARTS[name]
        arrays: list[str] = []
        for kind in types.split(","):
            given += 1
            arrays.append(f"${given}::{kind.strip()}")
        if holding and name in _BEFORE_BALANCES:
            does = _returning(does)
        if name.startswith("balances"):
            moving.append(f"(SELECT count(*) FROM {name}) = cardinality({arrays[0]})")
        parts.append(does.format(w=f"unnest({', '.join(arrays)}) AS w {names}", ready=ready, after=after))
        if name == "made" or (name == "moved" and "made" not in used):
            done = " UNION ALL ".join(f"SELECT n FROM {part}" for part in ("moved", "made") if part in used)
            parts.append(f"done AS MATERIALIZED ({done})")
    written = " + ".join(f"(SELECT count(*) FROM {part})" for part in ("keys_put", "keys_new") if part in used)
    # A writer whose number is not the next one must change nothing: dividing by zero ends it all. So does the root
    # of a negative number, where a balance has no room.
    room = f", sqrt(CASE WHEN {' AND '.join(moving)} THEN 1 ELSE -1 END)" if moving else ""
    return (
        f"WITH {', '.join(parts)}, {_PROOF}"
        f" SELECT ARRAY(SELECT n FROM done), {written or '0'}, 1 / (SELECT count(*) FROM proof){room}"
    )
