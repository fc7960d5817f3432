"""Server-sent events, as far as model providers use them: `data` lines, one or more an event.

Event names, ids, retry hints and comments are skipped: every provider repeats in the data what the
name says. Lines end with LF or CRLF; a lone CR, which the standard also allows, no provider sends.
"""

from __future__ import annotations

from typing import Protocol

from stateline.core.calls import ModelDelta, Usage
from stateline.core.errors import ModelError
from stateline.core.limits import ANSWER_EVENT_BYTES_MAX
from stateline.models.formats.openai_shared import cut_stream

# A byte is looked for by its number: Python tries each needle as one first, which costs an error where it is none.
_CR, _LF = b"\r\n"


class Splitter(Protocol):
    """Cuts a byte stream into events, whatever pieces it comes in."""

    def feed(self, data: bytes) -> list[bytes]: ...

    def eof(self) -> list[bytes]: ...


class EventSplitter:
    """Cuts a byte stream into the data of its events, whatever pieces it comes in."""

    __slots__ = ("_data", "_held", "_held_bytes")

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that `data` completes, in order.

        Raises:
            ModelError: ``malformed_stream``, when one event is larger than ANSWER_EVENT_BYTES_MAX.
        """
        if not self._held and not self._data:
            whole = _whole_events(data)
            if whole is not None:
                return whole
        if _LF not in data:
            # Held as it came: joining a long line anew at each piece would take quadratic time.
            if data:
                self._held.append(data)
                self._bound(len(data))
            return []
        if self._held:
            self._held.append(data)
            data = b"".join(self._held)
        if _CR in data:
            data = data.replace(b"\r\n", b"\n")
        lines = data.split(b"\n")
        tail = lines.pop()
        self._held = [tail] if tail else []
        events: list[bytes] = []
        pending = self._data
        for line in lines:
            if line[:6] == b"data: ":
                pending.append(line[6:])
            elif not line:
                if pending:
                    events.append(pending[0] if len(pending) == 1 else b"\n".join(pending))
                    pending.clear()
            elif line.startswith(b"data:"):
                pending.append(line[5:])
        self._held_bytes = 0
        if tail or pending:
            self._bound(len(tail) + sum(map(len, pending)))
        return events

    def eof(self) -> list[bytes]:
        """The event that was not ended by an empty line, which some servers leave out."""
        return self.feed(b"\n\n") if self._held or self._data else []

    def _bound(self, more: int) -> None:
        self._held_bytes += more
        if self._held_bytes > ANSWER_EVENT_BYTES_MAX:
            raise ModelError(
                f"the provider sent an event of more than {ANSWER_EVENT_BYTES_MAX} bytes",
                code="malformed_stream",
                retryable=False,
            )


def _whole_events(data: bytes) -> list[bytes] | None:
    """The data of events of one line each, named or not, which is what most reads of most streams bring.

    None where there is anything else, even if it says nothing. No step is taken for each event: an event is a
    token, and a read may bring hundreds.
    """
    gap = b"\r\n\r\n" if data[-4:] == b"\r\n\r\n" else b"\n\n"
    if data[-2:] != gap[-2:]:
        return None
    if data[:6] == b"data: ":
        events = data[6 : -len(gap)].split(gap + b"data: ")
        said = b"".join(events)
        return None if _LF in said or _CR in said else events
    if data[:6] != b"event:" or _CR in data:
        return None
    lines = data[:-1].split(b"\n")
    names, said, gaps = lines[::3], lines[1::3], lines[2::3]
    if any(gaps) or len(gaps) != len(names) or _marked(names, b"event:") is None:
        return None
    return _marked(said, b"data: ")


def _marked(lines: list[bytes], mark: bytes) -> list[bytes] | None:
    """What stands behind the mark that all lines begin with; None where one does not."""
    first, *found = (b"\n" + b"\n".join(lines)).split(b"\n" + mark)
    return None if first or len(found) != len(lines) else found


class SseDecoder:
    """What the stream decoders of the formats over server-sent events share: how they are fed, and how they end.

    Attributes:
        done: whether the Finish was given; what comes after it is ignored.
    """

    __slots__ = ("_events", "done")

    def __init__(self) -> None:
        self._events: Splitter = EventSplitter()
        self.done = False

    @property
    def used(self) -> Usage | None:
        """What the answer has said so far of what it used; for an answer that breaks off, all that is known."""
        return None

    def feed(self, data: bytes) -> list[ModelDelta]:
        """The deltas of the events that ``data`` completes.

        Raises:
            ModelError: ``malformed_stream``, ``unsupported_output``, or what an error event inside
                the stream says.
        """
        return self.decode(self._events.feed(data))

    def eof(self) -> list[ModelDelta]:
        """The deltas still due when the body has ended.

        Raises:
            ModelError: ``answer_cut``, when the stream has no end.
        """
        out = self.decode(self._events.eof())
        if not self.done:
            self.end(out)
        return out

    def decode(self, events: list[bytes]) -> list[ModelDelta]:
        """The deltas of whole events, also for a cloud that frames them in its own way."""
        raise NotImplementedError

    def end(self, out: list[ModelDelta]) -> None:
        """The body has ended before the stream said so."""
        raise cut_stream()
