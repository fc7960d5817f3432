"""A stream as one JSON array, whose objects come as they are made.

That is Gemini's ``streamGenerateContent`` without ``alt=sse``, as a gateway asks for it that drops the query. An object
that stands alone, which is what a server that does not stream answers with, is a stream of one event.
"""

from __future__ import annotations

import re
from typing import Literal

from stateline.core.errors import ModelError
from stateline.core.limits import ANSWER_EVENT_BYTES_MAX
from stateline.models.formats.openai_shared import cut_stream, malformed

_SPACE = b" \t\r\n"
_STRUCTURE = re.compile(rb'["{}]')

_Place = Literal["start", "first", "value", "comma", "end"]
"""What comes next between objects: anything, a value or the end, a value, a comma or the end, nothing more."""


class ArraySplitter:
    """Cuts a byte stream into the objects of its array, whatever pieces it comes in.

    Only braces are counted, outside of strings: what stands between them is the business of who decodes the
    object. No byte is looked at twice, so one long object in small pieces costs no more than in one.
    """

    __slots__ = ("_depth", "_held", "_held_bytes", "_in_string", "_place", "_skip")

    def __init__(self) -> None:
        self._place: _Place = "start"
        self._depth = 0
        self._in_string = False
        self._skip: int = 0
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The objects that `data` completes, in order.

        Raises:
            ModelError: ``malformed_stream``, when it is no array of objects, or when an object is larger than
                ANSWER_EVENT_BYTES_MAX.
        """
        out: list[bytes] = []
        at = 0
        while at < len(data):
            if not self._depth:
                at = self._between(data, at)
                if not self._depth:
                    break
            end = self._inside(data, at)
            self._held.append(data[at:end])
            if self._depth:
                self._bound(end - at)
                break
            out.append(self._held[0] if len(self._held) == 1 else b"".join(self._held))
            self._held, self._held_bytes = [], 0
            at = end
        return out

    def eof(self) -> list[bytes]:
        """Nothing: an object ends with its brace.

        Raises:
            ModelError: ``answer_cut``, when the array has no end.
        """
        if self._place != "end" or self._depth:
            raise cut_stream()
        return []

    def _between(self, data: bytes, at: int) -> int:
        """Where the next object begins, or the end of `data`."""
        place = self._place
        while at < len(data):
            byte = data[at : at + 1]
            if byte in _SPACE:
                pass
            elif byte == b"{" and place in ("start", "first", "value"):
                self._place = "end" if place == "start" else "comma"
                self._depth = -1  # Its brace is counted with the others.
                return at
            elif byte == b"[" and place == "start":
                place = "first"
            elif byte == b"," and place == "comma":
                place = "value"
            elif byte == b"]" and place in ("first", "comma"):
                place = "end"
            else:
                raise malformed(f"{byte!r} where {_EXPECTED[place]} should be")
            at += 1
        self._place = place
        return at

    def _inside(self, data: bytes, at: int) -> int:
        """Behind the object's last brace, or the end of `data`."""
        depth, in_string, length = max(self._depth, 0), self._in_string, len(data)
        at += self._skip
        while at < length:
            if in_string:
                at, in_string = _string(data, at)
            elif found := _STRUCTURE.search(data, at):
                byte, at = found[0], found.end()
                if byte == b'"':
                    in_string = True
                else:
                    depth += 1 if byte == b"{" else -1
                    if not depth:
                        break
            else:
                at = length
        # What a backslash hides may be in the next piece.
        self._skip = max(at - length, 0)
        self._depth, self._in_string = depth, in_string
        return min(at, length)

    def _bound(self, more: int) -> None:
        self._held_bytes += more
        if self._held_bytes > ANSWER_EVENT_BYTES_MAX:
            raise ModelError(
                f"the provider sent an event of more than {ANSWER_EVENT_BYTES_MAX} bytes",
                code="malformed_stream",
                retryable=False,
            )


def _string(data: bytes, at: int) -> tuple[int, bool]:
    """Where the string that `at` is in ends, or `data` does, and whether it goes on there."""
    quote = -1
    while at < len(data):
        if quote < at:
            # A quote that was found behind a backslash is looked for again only once it is passed.
            quote = data.find(b'"', at)
            quote = len(data) if quote < 0 else quote
        hidden = data.find(b"\\", at, quote)
        if hidden < 0:
            return (quote + 1, False) if quote < len(data) else (quote, True)
        at = hidden + 2
    return at, True


_EXPECTED: dict[_Place, str] = {
    "start": "an array",
    "first": "an object or the array's end",
    "value": "an object",
    "comma": "a comma or the array's end",
    "end": "the answer's end",
}
