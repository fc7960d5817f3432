"""Many rows in one statement.

Each step of a statement gives up Python's lock and takes it back, which on a busy event loop costs two
switches between threads. So rows go by the dozen, in powers of two, that the texts are few and stay
prepared.

For None and for bytes Python's sqlite3 looks for an adapter each time, which costs more than to write the
row; for a number, a text or a bytearray it does not. So whoever writes much gives NOTHING for None, where
``OR_NOTHING`` takes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

ROWS_MAX = 64
NOTHING = -1
OR_NOTHING = f"nullif(?,{NOTHING})"


def slices(rows: Sequence[Sequence[object]]) -> Iterator[Sequence[Sequence[object]]]:
    """The rows in order, in pieces whose lengths are powers of two up to ROWS_MAX."""
    at, left = 0, len(rows)
    while left:
        size = min(ROWS_MAX, 1 << (left.bit_length() - 1))
        yield rows[at : at + size]
        at += size
        left -= size


def row_of(width: int) -> str:
    """A row of so many parameters."""
    return f"({','.join('?' * width)})"


@lru_cache(maxsize=128)
def statement(template: str, row: str, count: int) -> str:
    """``template`` with ``{values}`` for ``count`` rows like ``row``."""
    return template.replace("{values}", f"VALUES {','.join([row] * count)}")


def execute(db: sqlite3.Connection, template: str, row: str, rows: Iterable[Sequence[object]]) -> int:
    """Run ``template``, whose ``{values}`` are the rows, each like ``row``; how many rows of the database changed."""
    changed = 0
    for piece in slices(list(rows)):
        text = statement(template, row, len(piece))
        changed += db.execute(text, list(chain.from_iterable(piece))).rowcount
    return changed
