"""Many rows in one statement.

Each step of a statement gives up Python's lock and takes it back, which on a busy event loop costs two
switches between threads. So rows go by the dozen, in powers of two, that the texts are few and stay
prepared.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

ROWS_MAX = 64


def slices(rows: Sequence[Sequence[object]]) -> Iterator[Sequence[Sequence[object]]]:
    """The rows in order, in pieces whose lengths are powers of two up to ROWS_MAX."""
    at, left = 0, len(rows)
    while left:
        size = min(ROWS_MAX, 1 << (left.bit_length() - 1))
        yield rows[at : at + size]
        at += size
        left -= size


@lru_cache(maxsize=128)
def statement(template: str, width: int, count: int) -> str:
    """``template`` with ``{values}`` for ``count`` rows of ``width`` parameters."""
    row = f"({','.join('?' * width)})"
    return template.replace("{values}", f"VALUES {','.join([row] * count)}")


def execute(db: sqlite3.Connection, template: str, rows: Iterable[Sequence[object]]) -> int:
    """Run ``template``, whose ``{values}`` are the rows; how many rows of the database it changed."""
    changed = 0
    for piece in slices(list(rows)):
        text = statement(template, len(piece[0]), len(piece))
        changed += db.execute(text, list(chain.from_iterable(piece))).rowcount
    return changed
