"""Many events decoded at once: one call for a read's, so that a stream costs by its reads, not by its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

_T = TypeVar("_T")

BROKEN = (msgspec.DecodeError, UnicodeDecodeError)
"""What a decoder raises of bytes that are not what it reads."""


def decoded(events: list[bytes], many: Callable[[bytes], list[_T]], one: Callable[[bytes], _T]) -> Iterable[_T]:
    """What the events say, in order.

    Where any cannot be read with the others they are read one by one, and only as they are asked for: what comes
    before a broken one counts, and what comes behind a stream's end does not.

    Args:
        events: JSON objects.
        many: decodes an array of them.
        one: decodes one; it may raise what it likes.
    """
    try:
        found = many(b"[%b]" % b",".join(events))
    except BROKEN:
        return map(one, events)
    # Objects that are cut at a comma make an array as well, and so do two in one event, but not of as many.
    return found if len(found) == len(events) else map(one, events)
