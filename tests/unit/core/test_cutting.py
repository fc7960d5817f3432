"""A long text of a tool's: cut for the model, and read on piece by piece."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stateline.core.cutting import byte_count, cut, matches, piece_end
from stateline.core.limits import ITEM_ID_CHARS_MAX
from stateline.core.limits_tools import OUTPUT_EXCERPT_CHARS, OUTPUT_SEARCH_CHARS_MAX, TOOL_OUTPUT_SHOWN_BYTES_MIN

LEAST = TOOL_OUTPUT_SHOWN_BYTES_MIN
NOTE = re.compile(
    r"\[Cut: (\d+) bytes, (\d+) characters in all\. Characters (\d+) to (\d+) are left out here\. "
    r"r reads them: handle (\S+), offset (\d+)\.\]"
)
LINES = st.lists(st.text(max_size=300), max_size=8).map("\n".join)


def repeated(text: str, times: int) -> str:
    return text * times


LONG = st.builds(repeated, st.text(alphabet="a\né漢🎉\x00\r", min_size=1, max_size=60), st.integers(20, 200))
TEXTS = LINES | LONG
MOST = st.integers(LEAST, 3 * LEAST)
HANDLES = st.sampled_from(["mcp_1", "é" * ITEM_ID_CHARS_MAX, "🎉" * ITEM_ID_CHARS_MAX])


@given(TEXTS, HANDLES, MOST)
@example("x" * (LEAST + 1), "mcp_1", LEAST)
@example("🎉" * LEAST, "🎉" * ITEM_ID_CHARS_MAX, LEAST)
def test_what_is_shown_fits_and_is_a_beginning_and_an_end(text: str, handle: str, most: int) -> None:
    if byte_count(text) <= most:
        return
    shown = cut(text, handle, "r", most)
    assert len(shown.encode()) <= most
    assert cut(text, handle, "r", most) == shown
    found = NOTE.search(shown)
    assert found is not None
    size, chars, start, end, named, offset = found.groups()
    assert (int(size), int(chars), named, offset) == (len(text.encode()), len(text), handle, start)
    head, tail = text[: int(start)], text[int(end) :]
    assert shown in (f"{head}{found[0]}\n{tail}", f"{head}\n{found[0]}\n{tail}")
    assert found.start() == 0 or shown[found.start() - 1] == "\n", "it stands on a line of its own"
    assert int(start) < int(end)


def test_a_cut_falls_between_lines_where_one_is_near() -> None:
    text = "".join(f"line {at}\n" for at in range(1000))
    head, _, tail = cut(text, "mcp_1", "r", LEAST).partition("[Cut: ")
    assert head.endswith("\n")
    assert re.fullmatch(r"[^\n]*\]\n(line \d+\n)+", tail)
    # The greatest part of what fits is the beginning.
    assert len(head) > 4 * len(tail.partition("]\n")[2])


@given(TEXTS, st.integers(4, 400), st.integers(1, 500))
def test_reading_on_gives_all_of_it_exactly(text: str, room: int, limit: int) -> None:
    at, pieces = 0, list[str]()
    while at < len(text):
        end = piece_end(text, at, at + limit, room)
        assert at < end <= at + limit
        pieces.append(text[at:end])
        assert byte_count(pieces[-1]) <= room
        at = end
    assert "".join(pieces) == text


def test_a_piece_ends_with_a_line_where_one_ends_in_its_last_quarter() -> None:
    assert piece_end("aaaaaaaa\nbbbb", 0, 99, 10) == 9
    assert piece_end("aa\nbbbbbbbbbbbbbb", 0, 99, 10) == 10
    assert piece_end("aaaaaaaa\nbbbb", 0, 10, 99) == 10, "what was asked for is given"


@settings(max_examples=200)
@given(
    TEXTS, st.text(alphabet="a\né漢🎉", min_size=1, max_size=6), st.integers(0, 40), st.integers(LEAST - 120, 2 * LEAST)
)
@example("🎉" * 3000, "🎉" * OUTPUT_SEARCH_CHARS_MAX, 0, LEAST - 120)
def test_a_search_shows_every_match_in_steps_that_fit(text: str, wanted: str, offset: int, room: int) -> None:
    places = {at.start() for at in re.finditer(f"(?={re.escape(wanted)})", text) if at.start() >= offset}
    seen: set[int] = set()
    after: int | None = offset
    while after is not None:
        found, then = matches(text, wanted, after, room)
        assert sum(byte_count(each) + 1 for each in found) <= room
        for each in found:
            start, _, excerpt = each.partition(": ")
            at = int(start)
            assert text[at : at + len(excerpt)] == excerpt
            assert wanted in excerpt
            seen.update(place for place in places if at <= place and place + len(wanted) <= at + len(excerpt))
        assert then is None or found, "each step shows one at least"
        after = then
    # Those that overlap with one that is shown begin in it.
    assert all(place in seen or any(0 < place - each < len(wanted) for each in seen) for place in places)


def test_a_match_is_shown_with_its_line() -> None:
    assert matches("one\ntwo here\nthree", "here", 0, 900) == (["4: two here"], None)
    assert matches("here here\nhere", "here", 0, 900) == (["0: here here", "10: here"], None)
    long = "x" * 1000 + "here" + "y" * 1000
    (shown,), _ = matches(long, "here", 0, 1 << 20)
    assert (
        shown == f"{1000 - OUTPUT_EXCERPT_CHARS}: " + "x" * OUTPUT_EXCERPT_CHARS + "here" + "y" * OUTPUT_EXCERPT_CHARS
    )


@pytest.mark.parametrize("wanted", ["a" * OUTPUT_SEARCH_CHARS_MAX, "a" * (OUTPUT_SEARCH_CHARS_MAX - 1) + "b"])
def test_a_search_in_one_long_line_is_quick(wanted: str) -> None:
    found, after = matches("a" * (8 << 20), wanted, 0, 32 * 1024)
    assert (bool(found), after is None) == (wanted.endswith("a"), wanted.endswith("b"))
