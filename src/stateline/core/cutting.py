"""A tool's long text: what a model is shown of it, and how the rest is read.

All of it depends on the text and a few numbers alone, so that a context that is built again is the same, byte for
byte, and prompt caches hold. Sizes are UTF-8 bytes; offsets count characters (Unicode code points), which no offset
can cut in two. Texts are Unicode: no lone surrogates.
"""

from __future__ import annotations

from stateline.core.limits_tools import OUTPUT_EXCERPT_CHARS

_TAIL_SHARE = 8
"""An eighth of what is shown is the end: errors and sums stand there."""


def byte_count(text: str) -> int:
    """UTF-8 bytes of the text."""
    return len(text) if text.isascii() else len(text.encode())


def cut(text: str, handle: str, reader: str, most: int) -> str:
    """The beginning and the end of a text that has more than ``most`` bytes, and between them what is left out.

    Args:
        handle: by which the tool ``reader`` finds the whole; at most ITEM_ID_CHARS_MAX characters.
        most: bytes of what comes back; TOOL_OUTPUT_SHOWN_BYTES_MIN at least.
    """
    size, chars = byte_count(text), len(text)
    # Its numbers are nowhere longer than those of the whole.
    longest = _note(size, chars, (chars, chars), handle, reader)
    room = max(most - byte_count(longest) - 2, 0)
    tail_room = room // _TAIL_SHARE
    end = piece_end(text, 0, chars, room - tail_room)
    start = _tail_start(text, tail_room)
    between = "" if text[:end].endswith("\n") else "\n"
    return f"{text[:end]}{between}{_note(size, chars, (end, start), handle, reader)}\n{text[start:]}"


def _note(size: int, chars: int, left_out: tuple[int, int], handle: str, reader: str) -> str:
    start, end = left_out
    return (
        f"[Cut: {size} bytes, {chars} characters in all. Characters {start} to {end} are left out here. "
        f"{reader} reads them: handle {handle}, offset {start}.]"
    )


def piece_end(text: str, start: int, stop: int, room: int) -> int:
    """Where a piece from ``start`` on ends that has ``room`` bytes at most, and goes no further than ``stop``.

    It ends with a line where one ends in its last quarter, and never inside a character. With room for one character
    (4 bytes) it is never empty before ``stop``.
    """
    stop = min(stop, len(text))
    piece = text[start : min(start + room, stop)].encode()[:room].decode(errors="ignore")
    end = start + len(piece)
    if end == stop:
        return end
    line = text.rfind("\n", start, end) + 1
    return line if line > start + (end - start) * 3 // 4 else end


def _tail_start(text: str, room: int) -> int:
    """Where the end of the text begins that has ``room`` bytes at most: with a line, where one begins in its half."""
    data = text[max(len(text) - room, 0) :].encode()
    start = len(text) - len(data[max(len(data) - room, 0) :].decode(errors="ignore"))
    line = text.find("\n", start) + 1
    return line if 0 < line <= start + (len(text) - start) // 2 else start


def matches(text: str, wanted: str, offset: int, room: int) -> tuple[list[str], int | None]:
    """The places from ``offset`` on that have ``wanted`` in them, as far as they fit into ``room`` bytes.

    Each is a line with its offset before it, or as much of the line as stands around the match. The second value is
    where to search on; None: there are no further ones.
    """
    # A line may be as long as the text, and small room is still to have one in it.
    around = min(OUTPUT_EXCERPT_CHARS, room // 32)
    found: list[str] = []
    after, at = offset, text.find(wanted, offset)
    while at >= 0:
        least = max(at - around, after)
        start = min(max(text.rfind("\n", least, at) + 1, least), at)
        most = min(at + len(wanted) + around, len(text))
        line = text.find("\n", at + len(wanted), most)
        after = most if line < 0 else line
        shown = f"{start}: {text[start:after]}"
        room -= byte_count(shown) + 1
        if room < 0:
            return found, at
        found.append(shown)
        # One that goes on behind what is shown is shown anew.
        at = text.find(wanted, max(at + len(wanted), after - len(wanted) + 1))
    return found, None
