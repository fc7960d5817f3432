"""The shared store: one PostgreSQL database, any number of processes."""

from __future__ import annotations

from stateline.stores.postgres.store import PostgresStore, open_postgres

__all__ = ["PostgresStore", "open_postgres"]
