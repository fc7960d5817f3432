"""Events that differ from one before them in a text alone, which nearly all of a stream's are.

A decoder that has read such an event in full shows it here. What stands before and after its text is then
enough to know the next ones by: between the same bytes, another string makes the same event with another
text. Their texts are decoded together, so that a stream costs by its reads, not by its tokens.
"""

from __future__ import annotations

from itertools import islice

import msgspec

_texts = msgspec.json.Decoder(list[str])
_TRIES = 4
"""Events of which nothing could be learned before no more are looked at."""


class Alike:
    """What stands around the text of a decoder's events.

    Args:
        key: the text's field and its colon, as JSON has them.

    Attributes:
        known: whether an event was learned from.
    """

    __slots__ = ("_after", "_before", "_key", "_tries", "known")

    def __init__(self, key: bytes) -> None:
        self.known = False
        self._key = key
        self._before = self._after = b""
        self._tries = _TRIES

    def learn(self, event: bytes, text: str) -> None:
        """Learn from an event that says ``text`` and nothing else, so that only the text is lost with it."""
        if not self._tries:
            return
        at = event.find(self._key) + len(self._key)
        at += event[at : at + 1] == b" "
        literal = msgspec.json.encode(text)
        if event.count(self._key) == 1 and event.startswith(literal, at):
            self._before, self._after = event[: at + 1], event[at + len(literal) - 1 :]
            self.known = True
        else:
            self._tries -= 1

    def forget(self) -> None:
        """The texts that come belong to something else."""
        self.known = False

    def take(self, events: list[bytes], at: int) -> tuple[int, str]:
        """How many of the events from ``at`` on are alike, and what they say, one after the other."""
        before, after = self._before, self._after
        start, end = len(before), -len(after)
        least = start - end
        found: list[bytes] = []
        for event in islice(events, at, None):
            # Slices, since a call of startswith takes longer than to compare what it looks at.
            if event[:start] != before or event[end:] != after or len(event) < least:
                break
            text = event[start:end]
            if text[-1:] == b"\\":
                break  # The quote behind it may be part of the text.
            found.append(text)
        if not found:
            return 0, ""
        # Each text stands between two quotes that end strings. With a quote more in any of them there would
        # be more strings than texts, or no array of strings.
        try:
            texts = _texts.decode(b'["%b"]' % b'","'.join(found))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0, ""
        return (len(found), "".join(texts)) if len(texts) == len(found) else (0, "")
