"""The embedded store: one SQLite file, one process."""

from __future__ import annotations

from stateline.stores.sqlite.store import SqliteStore, open_sqlite

__all__ = ["SqliteStore", "open_sqlite"]
