"""Amazon's event streams (``application/vnd.amazon.eventstream``): from bytes to messages.

A message is a prelude (its own length, the length of its headers, a checksum of the two), headers, a
payload, and a checksum of everything before it; numbers are big-endian, checksums CRC-32. Source: the
Smithy specification, "Amazon Event Stream specification".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct, error
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

from stateline.core.errors import ModelError
from stateline.core.limits import ANSWER_EVENT_BYTES_MAX, EVENT_HEADERS_KEPT_MAX, EVENT_PRELUDES_KEPT_MAX

HeaderValue = bool | int | bytes | str

_PRELUDE = Struct(">III")
_CHECKSUM = Struct(">I")
_LENGTH = Struct(">H")
_NUMBERS = {2: Struct(">b"), 3: Struct(">h"), 4: Struct(">i"), 5: Struct(">q"), 8: Struct(">q")}
"""By the type of a header's value: a byte, 2, 4 and 8 bytes, and Unix milliseconds."""
_BYTES, _TEXT, _UUID = 6, 7, 9
_OVERHEAD = _PRELUDE.size + _CHECKSUM.size


class Headers(NamedTuple):
    """The headers of a message.

    Attributes:
        kind: ``event``, ``exception`` or ``error`` (the header ``:message-type``).
        name: of the event, the exception or the error code; empty where it has none.
        values: all of them.
    """

    kind: str
    name: str
    values: Mapping[str, HeaderValue]


Message = tuple[Headers, bytes]
"""The headers, and the payload as it came. A stream is made of many, so it is no class of its own."""

_NAMES = {"event": ":event-type", "exception": ":exception-type", "error": ":error-code"}


class MessageSplitter:
    """Cuts a byte stream into messages, whatever pieces it comes in."""

    __slots__ = ("_held", "_needed")

    def __init__(self) -> None:
        self._held = bytearray()
        self._needed = _PRELUDE.size

    @property
    def partial(self) -> bool:
        """Whether a message has begun and is not complete."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes, in order.

        Raises:
            ModelError: ``malformed_stream``: a checksum does not fit, a length cannot be, or one message
                is larger than ANSWER_EVENT_BYTES_MAX.
        """
        if self._held:
            # Nothing is looked at again before all of the message is there.
            self._held += data
            if len(self._held) < self._needed:
                return []
            data = bytes(self._held)
        messages: list[Message] = []
        last = _CHECKSUM.unpack_from
        at, end = 0, len(data)
        needed = _PRELUDE.size
        while end - at >= _PRELUDE.size:
            begin = at + _PRELUDE.size
            needed, headers_bytes, checksum = prelude_of(data[at:begin])
            if end - at < needed:
                break
            stop = at + needed - 4
            # The checksum of the whole goes on from that of its first eight bytes.
            if (crc32(data[at + 8 : stop], checksum),) != last(data, stop):
                raise _malformed("the checksum of a message does not fit")
            at = begin + headers_bytes
            messages.append((headers_of(data[begin:at]), data[at:stop]))
            at = stop + 4
            needed = _PRELUDE.size
        self._needed = needed
        if at < end or self._held:
            self._held = bytearray(data[at:])
        return messages


@lru_cache(maxsize=EVENT_PRELUDES_KEPT_MAX)
def prelude_of(data: bytes) -> tuple[int, int, int]:
    """The length of a message, that of its headers, and the checksum of the two. Most messages are as long as others.

    Raises:
        ModelError: ``malformed_stream``.
    """
    needed, headers_bytes, checksum = _PRELUDE.unpack(data)
    if crc32(data[:8]) != checksum:
        raise _malformed("the checksum of a prelude does not fit")
    if not _OVERHEAD + headers_bytes <= needed <= ANSWER_EVENT_BYTES_MAX:
        raise _malformed(f"a message of {needed} bytes, {headers_bytes} of them headers")
    return needed, headers_bytes, checksum


@lru_cache(maxsize=EVENT_HEADERS_KEPT_MAX)
def headers_of(data: bytes) -> Headers:
    """The headers of a message. There are few sets of them, which all streams repeat.

    Raises:
        ModelError: ``malformed_stream``.
    """
    values = read_headers(data)
    kind = str(values.get(":message-type", "event"))
    return Headers(kind, str(values.get(_NAMES.get(kind, ""), "")), MappingProxyType(values))


def read_headers(data: bytes) -> dict[str, HeaderValue]:
    """The headers of a message by name; a UUID as its 16 bytes, a time in Unix milliseconds.

    Raises:
        ModelError: ``malformed_stream``.
    """
    headers: dict[str, HeaderValue] = {}
    at = 0
    try:
        while at < len(data):
            begin = at + 1
            at = begin + data[at]
            name = data[begin:at].decode()
            kind = data[at]
            value, at = _read_value(data, kind, at + 1)
            if name in headers:
                raise _malformed(f"the header {name[:100]!r} twice")
            headers[name] = value
    except (IndexError, UnicodeDecodeError, error) as problem:
        raise _malformed(f"its headers cannot be read: {problem}") from None
    if at != len(data):
        raise _malformed("its headers are cut")
    return headers


def _read_value(data: bytes, kind: int, at: int) -> tuple[HeaderValue, int]:
    if kind in (_BYTES, _TEXT):
        begin = at + _LENGTH.size
        end = begin + _LENGTH.unpack_from(data, at)[0]
        value = data[begin:end]
        return (value.decode() if kind == _TEXT else value), end
    if kind in (0, 1):
        return kind == 0, at
    if kind == _UUID:
        return data[at : at + 16], at + 16
    number = _NUMBERS.get(kind)
    if number is None:
        raise _malformed(f"a header of type {kind}, which does not exist")
    return number.unpack_from(data, at)[0], at + number.size


def _malformed(what: str) -> ModelError:
    return ModelError(f"the provider's event stream is malformed: {what}", code="malformed_stream", retryable=True)
