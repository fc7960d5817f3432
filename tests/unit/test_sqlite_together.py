"""Many rows in one statement: in order, whole, and with few texts."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from stateline.stores.sqlite import together

PAIR = together.row_of(2)


@given(st.integers(0, 300))
def test_slices_are_the_rows_in_order_in_powers_of_two(count: int) -> None:
    rows = [(number,) for number in range(count)]
    pieces = list(together.slices(rows))
    assert [row for piece in pieces for row in piece] == rows
    assert all(len(piece) <= together.ROWS_MAX and len(piece).bit_count() == 1 for piece in pieces)


@given(st.lists(st.tuples(st.integers(-9, 9), st.text(max_size=3)), max_size=150))
def test_what_is_written_together_is_what_was_given_row_by_row(rows: list[tuple[int, str]]) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        assert together.execute(db, "INSERT INTO t {values}", PAIR, rows) == len(rows)
        assert db.execute("SELECT a, b FROM t ORDER BY rowid").fetchall() == rows


def test_a_change_says_how_many_rows_it_found() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        together.execute(db, "INSERT INTO t {values}", PAIR, [(number, "old") for number in range(10)])
        template = "UPDATE t SET b = v.column2 FROM ({values}) AS v WHERE t.a = v.column1"
        assert together.execute(db, template, PAIR, [(3, "new"), (7, "new"), (99, "new")]) == 2
        assert db.execute("SELECT a FROM t WHERE b = 'new'").fetchall() == [(3,), (7,)]


def test_nothing_is_written_as_null_and_bytes_as_they_are() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (a INTEGER, b BLOB) STRICT")
        rows = [(together.NOTHING, bytearray(b"\x00a")), (7, bytearray(b"b"))]
        together.execute(db, "INSERT INTO t {values}", f"({together.OR_NOTHING},?)", rows)
        assert db.execute("SELECT a, b FROM t ORDER BY rowid").fetchall() == [(None, b"\x00a"), (7, b"b")]
