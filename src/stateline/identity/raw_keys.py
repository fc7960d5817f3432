"""Keys of 32 bytes as operators write them: base64, one a line."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable

_KEY_BYTES = 32


def new_key(entropy: Callable[[int], bytes]) -> str:
    """A key to be written down; ``entropy(n)`` gives n random bytes, fit for secrets."""
    return b64encode(entropy(_KEY_BYTES)).decode()


def raw_key(text: str) -> bytes | None:
    """The key that is written so; None where it is none."""
    try:
        raw = b64decode(text, validate=True)
    except (NotBase64, ValueError):
        return None
    return raw if len(raw) == _KEY_BYTES else None
