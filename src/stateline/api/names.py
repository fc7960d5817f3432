"""Names of requests, and of answers that are not kept."""

from __future__ import annotations

import os

from stateline.core.ids import Entropy

_entropy = Entropy(os.urandom)


def new_name(prefix: str, count: int) -> str:
    """``prefix`` and ``count`` random bytes in hexadecimal."""
    return prefix + _entropy(count).hex()
