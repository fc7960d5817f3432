"""The tables, and the numbered steps that lead to them. Steps are never edited, only added.

All names begin with ``stateline_`` and lie where the connection's search_path leads, ``public`` unless
it says otherwise. Everything is keyed by tenant. ``n`` and ``session`` are numbers that stand for a
session's name and are never used twice; locks are taken in their order. Bodies are JSON, with large
content moved out (``core/blobs.py``).

A step runs while older nodes serve: it adds, and what it adds has a default.
"""

from __future__ import annotations

from stateline.stores import retention
from stateline.stores.postgres import walls


def tagged(tags: tuple[str, ...]) -> str:
    """The condition that an event has one of these tags, which an index may have for its own."""
    head = f"substring(body FROM 1 FOR {retention.TAG_BYTES_MAX})"
    return "(" + " OR ".join(f"position('\"{tag}/'::bytea IN {head}) > 0" for tag in tags) + ")"


DELETING = tagged(retention.DELETING)
TELLING = tagged(retention.TELLING)
_RECORDS = """
    tenant integer NOT NULL,
    session bigint NOT NULL,
    seq bigint NOT NULL,
    at_ms bigint NOT NULL,
    epoch bigint NOT NULL,
    post bigint,
    body bytea NOT NULL
"""

_FIRST = f"""
CREATE TABLE stateline_meta (name text PRIMARY KEY, value bytea NOT NULL);
CREATE TABLE stateline_tenants (
    n integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);
CREATE SEQUENCE stateline_session_numbers;

-- due_ms: since when an unowned session wants an owner; wake_ms: when it will want one, for a timer.
-- Both are NULL while it is owned or has nothing to do.
-- inbox counts the waiting posts, post numbers the last one, crashed is left by a dead owner.
-- Each append moves the head; there is room in the page for the row's next version.
CREATE TABLE stateline_sessions (
    n bigint PRIMARY KEY,
    tenant integer NOT NULL REFERENCES stateline_tenants,
    id text NOT NULL,
    owner text,
    epoch bigint NOT NULL DEFAULT 0,
    head bigint NOT NULL,
    due_ms bigint,
    wake_ms bigint,
    crashed boolean NOT NULL DEFAULT false,
    inbox bigint NOT NULL DEFAULT 0,
    post bigint NOT NULL DEFAULT 0,
    parent bigint,
    parent_seq bigint NOT NULL DEFAULT 0,
    min_reader integer NOT NULL DEFAULT 1,
    created_ms bigint NOT NULL,
    UNIQUE (tenant, id)
) WITH (fillfactor = 70);
CREATE INDEX stateline_sessions_due ON stateline_sessions (tenant, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX stateline_sessions_wake ON stateline_sessions (wake_ms) WHERE wake_ms IS NOT NULL;
CREATE INDEX stateline_sessions_owned ON stateline_sessions (owner) WHERE owner IS NOT NULL;
CREATE INDEX stateline_sessions_forks ON stateline_sessions (parent) WHERE parent IS NOT NULL;

CREATE TABLE stateline_events ({_RECORDS}, PRIMARY KEY (session, seq));
CREATE TABLE stateline_snapshots ({_RECORDS}, PRIMARY KEY (session));

-- In parts by the time of writing (chunks.py), so that what is old is dropped whole.
CREATE TABLE stateline_chunks ({_RECORDS},
    written_ms bigint NOT NULL,
    PRIMARY KEY (session, seq, written_ms)
) PARTITION BY RANGE (written_ms);

CREATE TABLE stateline_inbox (
    tenant integer NOT NULL,
    session bigint NOT NULL,
    post bigint NOT NULL,
    at_ms bigint NOT NULL,
    dedup bytea,
    body bytea NOT NULL,
    PRIMARY KEY (session, post)
);

CREATE TABLE stateline_dedup (
    tenant integer NOT NULL,
    key text NOT NULL,
    ref text NOT NULL,
    digest text NOT NULL,
    session bigint NOT NULL,
    expires_ms bigint NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX stateline_dedup_expiry ON stateline_dedup (expires_ms);
CREATE INDEX stateline_dedup_by_session ON stateline_dedup (session);

CREATE TABLE stateline_nodes (owner text PRIMARY KEY, expires_ms bigint NOT NULL) WITH (fillfactor = 50);

-- refs counts the rows of blob_refs: a row's own count is seen right by whoever waited for its lock.
CREATE TABLE stateline_blobs (
    tenant integer NOT NULL,
    name text NOT NULL,
    refs bigint NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (tenant, name)
);
ALTER TABLE stateline_blobs ALTER COLUMN content SET STORAGE EXTERNAL;
CREATE TABLE stateline_blob_refs (
    tenant integer NOT NULL,
    session bigint NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (session, name)
);

-- The last commit of each writer, written with it: what proves it when its answer was lost.
-- done are the sessions that it moved; void says that it never happened, and never will.
CREATE TABLE stateline_writers (
    writer text PRIMARY KEY,
    number bigint NOT NULL,
    done bigint[],
    void boolean NOT NULL,
    at_ms bigint NOT NULL
) WITH (fillfactor = 50);
"""

# Of which sessions something was deleted over the API, and when: where the retention looks.
_SECOND = f"""
CREATE INDEX stateline_events_deleting ON stateline_events (session, at_ms) WHERE {DELETING};
"""

# What budgets stand at. A budget's row is moved by many nodes at once, so its page has room for its next versions;
# an index on anything but the name would have to be moved as well. It may be forgotten from expires_ms on.
_THIRD = """
CREATE TABLE stateline_balances (
    name text PRIMARY KEY,
    held numeric NOT NULL,
    spent numeric NOT NULL,
    expires_ms bigint
) WITH (fillfactor = 10);
"""

# Row-level security behind the column of the tenant (walls.py). Nodes of the release before do not say for whom
# they work, so the owner is left out of it until none of them lives; scoped says that a node does say so. The
# parts of the chunks are walled one by one: which there are, no step knows.
_FOURTH = f"""
ALTER TABLE stateline_nodes ADD COLUMN scoped boolean NOT NULL DEFAULT false;

-- Roles that read one tenant's rows and write none. The operator's own; no node looks at it.
CREATE TABLE stateline_readers (
    role name PRIMARY KEY,
    tenant integer NOT NULL REFERENCES stateline_tenants
);
CREATE FUNCTION stateline_read_tenant() RETURNS integer LANGUAGE sql STABLE
    RETURN (SELECT r.tenant FROM stateline_readers r WHERE r.role = current_user);
{walls.policy("stateline_tenants", "n")}
{walls.policy("stateline_sessions", "tenant")}
{walls.policy("stateline_events", "tenant")}
{walls.policy("stateline_snapshots", "tenant")}
{walls.policy("stateline_chunks", "tenant")}
{walls.policy("stateline_inbox", "tenant")}
{walls.policy("stateline_dedup", "tenant")}
{walls.policy("stateline_blobs", "tenant")}
{walls.policy("stateline_blob_refs", "tenant")}
{walls.shared_policy("stateline_meta")}
{walls.shared_policy("stateline_balances")}
{walls.shared_policy("stateline_readers")}
CREATE POLICY stateline_own ON stateline_readers FOR SELECT USING (role = current_user);
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _SECOND, _THIRD, _FOURTH)
"""Step ``i`` leads from version ``i`` to ``i + 1``."""
VERSION = len(MIGRATIONS)

TABLES = (
    "meta",
    "tenants",
    "sessions",
    "events",
    "snapshots",
    "chunks",
    "inbox",
    "dedup",
    "nodes",
    "blobs",
    "balances",
    "readers",
)
"""Looked into at the start, without their prefix."""

LOCK = walls.LOCK
