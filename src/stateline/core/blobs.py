"""Large inline content of a stored body: where it is, what stands in its place, and how it comes back.

Images and files come inside JSON as ``data:`` URLs or base64. In a stored body each large one is
replaced by a reference, ``stateline-blob:`` and a name that is derived from the content with the
tenant's own key: the same content is kept once a tenant, and nobody can tell from a name whether
another tenant has it.

A body with references is marked, so that no other is ever searched, and nobody can send a reference.
All this works on the encoded body. The text searched for, a key with its quotes, cannot occur inside
a JSON string, where quotes are escaped; so what is found is always a value, in whatever event.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from stateline.core.limits import BLOB_BYTES_MIN

REFERENCE = b"stateline-blob:"
MARK = b"&"
"""What a stored body with references begins with; JSON objects do not."""
NAME_CHARS = 64
_KEYS = (b'"image_url":"', b'"file_data":"', b'"video_url":"')


def tenant_key(secret: bytes, tenant: str) -> bytes:
    """The key under which a tenant's content is named, from the installation's secret."""
    return hmac.digest(secret, tenant.encode(), "sha256")


def blob_name(key: bytes, content: bytes) -> str:
    """The name of ``content``: 64 hexadecimal characters."""
    return hmac.digest(key, content, "sha256").hex()


def may_hold(raw: bytes) -> bool:
    """Whether an encoded body needs ``split``; almost always False."""
    return len(raw) >= BLOB_BYTES_MIN


def split(raw: bytes, keep: Callable[[bytes], str]) -> bytes:
    """The body with each large value handed to ``keep``, which returns its name.

    In a body that is split, a value that looks like a reference goes out whatever its size, so that
    every reference in a marked body is one of ours.
    """
    values = _values(raw)
    if all(end - start < BLOB_BYTES_MIN for start, end in values):
        return raw
    out = [MARK]
    done = 0
    for start, end in values:
        if end - start >= BLOB_BYTES_MIN or raw.startswith(REFERENCE, start, end):
            out += (raw[done:start], REFERENCE, keep(raw[start:end]).encode())
            done = end
    return b"".join((*out, raw[done:]))


def references(raw: bytes) -> list[str]:
    """The names that a stored body refers to, in order."""
    return [raw[start + len(REFERENCE) : end].decode() for start, end in _references(raw)]


def join(raw: bytes, load: Callable[[str], bytes]) -> bytes:
    """The body as it was before ``split``; ``load`` gives back the content of a name."""
    if not raw.startswith(MARK):
        return raw
    out: list[bytes] = []
    done = len(MARK)
    for start, end in _references(raw):
        out += (raw[done:start], load(raw[start + len(REFERENCE) : end].decode()))
        done = end
    return b"".join((*out, raw[done:]))


def _references(raw: bytes) -> list[tuple[int, int]]:
    if not raw.startswith(MARK):
        return []
    return [(start, end) for start, end in _values(raw) if raw.startswith(REFERENCE, start, end)]


def _values(raw: bytes) -> list[tuple[int, int]]:
    """Where the values of our keys lie, without their quotes, in order."""
    found: list[tuple[int, int]] = []
    for key in _KEYS:
        at = raw.find(key)
        while at >= 0:
            start = at + len(key)
            end = _string_end(raw, start)
            found.append((start, end))
            at = raw.find(key, end)
    return sorted(found)


def _string_end(raw: bytes, start: int) -> int:
    """Where the string that begins at ``start`` has its closing quote."""
    end = raw.index(b'"', start)
    while (end - len(raw[start:end].rstrip(b"\\")) - start) % 2:
        end = raw.index(b'"', end + 1)
    return end
