"""Identifiers. All are derived from values that come in as arguments; none is drawn here.

A session id is 24 characters of Crockford's base 32 (48 bits of time, 72 of randomness), so ids sort
by age. A response id carries its session and the sequence number after which its turn begins, so that
finding a response needs no index; an item id names the turn and step that made it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from stateline.core.limits import ENTROPY_BYTES

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
"""Two characters for every ten bits: several times faster than base64.b32encode, which is Python too."""
_VALUES = {c: i for i, c in enumerate(ALPHABET)}
SYSTEM_TENANT = "system"
"""Whose sessions are the runtime's own; no caller is this tenant."""
SESSION_CHARS = 24
NONCE_CHARS = 8
_RESPONSE = re.compile(rf"resp_([{ALPHABET}]{{{SESSION_CHARS}}})([{ALPHABET}]{{{NONCE_CHARS}}})([{ALPHABET}]{{1,12}})")
_CONVERSATION = re.compile(rf"conv_([{ALPHABET}]{{{SESSION_CHARS}}})")
_ITEM = re.compile(rf"[a-z]+_([{ALPHABET}]{{{SESSION_CHARS}}})t[0-9]+s[0-9]+i[0-9]+")


class Entropy:
    """Random bytes by the piece, from a source that is asked for many pieces at once.

    An id takes a few bytes, and to ask the system for them costs as much as to make the id. For ids alone:
    what is secret is drawn by itself. Used from one thread.
    """

    __slots__ = ("_at", "_bytes", "_source")

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self._bytes = b""
        self._at = 0

    def __call__(self, count: int) -> bytes:
        at, end = self._at, self._at + count
        if end > len(self._bytes):
            at, end = 0, count
            self._bytes = self._source(max(count, ENTROPY_BYTES))
        self._at = end
        return self._bytes[at:end]


class SessionRef(NamedTuple):
    """A session as every row and look-up names it: by tenant and id."""

    tenant: str
    id: str


class ResponseRef(NamedTuple):
    """What a response id says: its session, and a sequence number at or before its turn's first event."""

    session: str
    nonce: str
    after: int


def base32(value: int, width: int = 1) -> str:
    """``value`` (>= 0) in Crockford's base 32, zero-padded to ``width`` characters."""
    out: list[str] = []
    while value or len(out) < width:
        value, digit = divmod(value, 32)
        out.append(ALPHABET[digit])
    return "".join(reversed(out))


def unbase32(text: str) -> int:
    value = 0
    for char in text:
        value = value * 32 + _VALUES[char]
    return value


_SESSION_SHIFTS = tuple(range(5 * SESSION_CHARS - 10, -1, -10))
_NONCE_SHIFTS = tuple(range(5 * NONCE_CHARS - 10, -1, -10))


def _pairs(value: int, shifts: tuple[int, ...]) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in shifts])


def session_id(at_ms: int, entropy: bytes) -> str:
    """A new session id from the time (Unix ms) and at least 9 random bytes."""
    return _pairs((at_ms << 72) + int.from_bytes(entropy[:9], "big"), _SESSION_SHIFTS)


def may_be_session(text: str) -> bool:
    """Whether a session may have this id. Other text reaches no store: PostgreSQL refuses a zero byte as a failure."""
    return text.isascii() and text.isalnum()


def nonce(entropy: bytes) -> str:
    """A response's nonce from at least 5 random bytes."""
    return _pairs(int.from_bytes(entropy[:5], "big"), _NONCE_SHIFTS)


def response_id(session: str, nonce: str, after: int) -> str:
    """The id of a response whose turn begins after sequence number ``after`` of ``session``."""
    return f"resp_{session}{nonce}{base32(after)}"


def parse_response_id(text: str) -> ResponseRef | None:
    match = _RESPONSE.fullmatch(text)
    return ResponseRef(match[1], match[2], unbase32(match[3])) if match else None


def conversation_id(session: str) -> str:
    return f"conv_{session}"


def parse_conversation_id(text: str) -> str | None:
    match = _CONVERSATION.fullmatch(text)
    return match[1] if match else None


def item_id(prefix: str, session: str, turn: int, step: int, index: int) -> str:
    """An item's id; input items have step 0. ``prefix`` is the field's own (msg, fc, rs, …)."""
    return f"{prefix}_{session}t{turn}s{step}i{index}"


def item_session(text: str) -> str | None:
    """The session that made an item, or None when the id is not one of ours."""
    match = _ITEM.fullmatch(text)
    return match[1] if match else None


def effect_key(session: str, turn: int, step: int) -> str:
    """The key of an effect: the same on every node and after every crash."""
    return f"{session}/{turn}/{step}"


def digest(*parts: bytes) -> str:
    """A collision-resistant name of ``parts`` (32 hex characters); their boundaries count."""
    hasher = blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.hexdigest()
