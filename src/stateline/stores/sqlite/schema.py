"""The tables, and the numbered steps that lead to them. Steps are never edited, only added.

Everything is keyed by tenant. ``tenant`` and ``session`` are small integers that stand for the names:
a name in every row and index would cost more than the rest of the key. Session numbers are never used
twice. Events are rows in the order of their commits, so that a commit writes few pages; an index finds
a session's. Bodies are JSON, with large content moved out (``core/blobs.py``).
"""

from __future__ import annotations

import secrets
import sqlite3

APPLICATION_ID = 0x53744C6E
"""``StLn``, at byte 68 of the file: what `file` and we ourselves know it by."""
PAGE_BYTES = 4096
"""Larger pages leave more unused behind events of some KB, and make a single commit dearer."""

_RECORDS = """
    n INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    post INTEGER,
    body BLOB NOT NULL
"""

_FIRST = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tenants (n INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

-- due_ms: since when an unowned session wants an owner; wake_ms: when it will want one, for a timer.
-- Both are NULL while it is owned or has nothing to do.
-- head is exact while nobody owns the session, and a lower bound while somebody does (HEAD below).
-- inbox counts the waiting posts, post numbers the last one, crashed is left by a dead owner.
CREATE TABLE sessions (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL REFERENCES tenants,
    id TEXT NOT NULL,
    owner TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    head INTEGER NOT NULL,
    due_ms INTEGER,
    wake_ms INTEGER,
    crashed INTEGER NOT NULL DEFAULT 0,
    inbox INTEGER NOT NULL DEFAULT 0,
    post INTEGER NOT NULL DEFAULT 0,
    parent INTEGER,
    parent_seq INTEGER NOT NULL DEFAULT 0,
    min_reader INTEGER NOT NULL DEFAULT 1,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX sessions_by_id ON sessions (tenant, id);
CREATE INDEX sessions_due ON sessions (tenant, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX sessions_wake ON sessions (wake_ms) WHERE wake_ms IS NOT NULL;
CREATE INDEX sessions_owned ON sessions (owner) WHERE owner IS NOT NULL;
CREATE INDEX sessions_forks ON sessions (parent) WHERE parent IS NOT NULL;

CREATE TABLE events ({_RECORDS}) STRICT;
CREATE UNIQUE INDEX events_by_seq ON events (tenant, session, seq);
CREATE TABLE chunks ({_RECORDS}) STRICT;
CREATE UNIQUE INDEX chunks_by_seq ON chunks (tenant, session, seq);
CREATE TABLE snapshots ({_RECORDS}) STRICT;
CREATE UNIQUE INDEX snapshots_latest ON snapshots (tenant, session);

CREATE TABLE inbox (
    n INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL,
    post INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    dedup BLOB,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX inbox_by_post ON inbox (tenant, session, post);

CREATE TABLE dedup (
    tenant INTEGER NOT NULL,
    key TEXT NOT NULL,
    ref TEXT NOT NULL,
    digest TEXT NOT NULL,
    session INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX dedup_expiry ON dedup (expires_ms);
CREATE INDEX dedup_by_session ON dedup (tenant, session);

CREATE TABLE nodes (owner TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE blob_refs (
    tenant INTEGER NOT NULL,
    session INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (tenant, session, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_refs_by_name ON blob_refs (name);
"""

_SECOND = """
-- Sessions of which something was deleted over the API, and when: where the retention looks.
CREATE TABLE deletions (
    session INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
INSERT INTO deletions SELECT session, tenant, max(at_ms) FROM events
    WHERE instr(substr(body, 1, 40), CAST('"session_deleted/' AS BLOB))
    OR instr(substr(body, 1, 40), CAST('"response_deleted/' AS BLOB)) GROUP BY session;

-- Sessions that are gone, and whose rows go some at a time.
CREATE TABLE erasing (session INTEGER PRIMARY KEY, tenant INTEGER NOT NULL) STRICT;
"""

_THIRD = """
-- What budgets stand at: amounts are decimals as text, exact. A balance may be forgotten from expires_ms on.
CREATE TABLE balances (
    name TEXT PRIMARY KEY,
    held TEXT NOT NULL,
    spent TEXT NOT NULL,
    expires_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX balances_expiry ON balances (expires_ms) WHERE expires_ms IS NOT NULL;
"""

_NEWEST = "ifnull((SELECT max(seq) FROM {} WHERE tenant = sessions.tenant AND session = sessions.n), 0)"
HEAD = f"max(head, {', '.join(map(_NEWEST.format, ('events', 'chunks', 'snapshots')))})"
"""A session's head, whoever owns it.

The owner's appends do not write the row: it would be the dearest part of a small append. The writer
has the head in memory, whatever opens the file later finds it by the index, and the row has it again
once the session is given back.
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _SECOND, _THIRD)
"""Step ``i`` leads from version ``i`` to ``i + 1``."""
VERSION = len(MIGRATIONS)


def migrate(db: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Carry the schema forward, each step whole or not at all."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(migrations[version:], version + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(script):
                db.execute(statement)
            if number == 1:
                db.execute("INSERT INTO meta VALUES ('secret', ?)", (secrets.token_bytes(32),))
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def statements(script: str) -> list[str]:
    """The script's statements. (``executescript`` would commit before the first.)"""
    out: list[str] = []
    rest = ""
    for line in script.splitlines(keepends=True):
        rest += line
        if sqlite3.complete_statement(rest):
            out.append(rest.strip())
            rest = ""
    return out
