"""Names of requests, and of answers that are not kept."""

from __future__ import annotations

import os
import re

from stateline.core.ids import Entropy
from stateline.core.limits import REQUEST_ID_CHARS_MAX

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,%d}" % REQUEST_ID_CHARS_MAX)

_entropy = Entropy(os.urandom)


def new_name(prefix: str, count: int) -> str:
    """``prefix`` and ``count`` random bytes in hexadecimal."""
    return prefix + _entropy(count).hex()


def request_id(sent: bytes | None) -> str:
    """The client's own ``x-request-id`` where it is fit for a log, else a new one."""
    if sent is not None and _SANE_ID.fullmatch(sent):
        return sent.decode("ascii")
    return new_name("req_", 12)
