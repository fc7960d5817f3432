"""Time: the database's own, unless a clock was handed in."""

from __future__ import annotations


def now_sql(parameter: str = "$1") -> str:
    """An expression that is ``parameter`` (Unix ms), or the database's clock where that is NULL."""
    return f"coalesce({parameter}::bigint, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
