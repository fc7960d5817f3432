"""Takes secrets out of what tools say: some repeat what they were told."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence

from stateline.core.limits_tools import SECRET_CHARS_SOUGHT_MIN
from stateline.core.secrets import Secret

Redact = Callable[[str], str]


def redactor(secrets: Sequence[str], told: Iterable[tuple[str, Secret]] = ()) -> Redact:
    """Takes what we know the caller by out of what a server says: some repeat the headers that they got.

    Args:
        told: secrets of the vault, by name; ``[secret NAME]`` takes their place, and that of their base64.
    """
    # A short value would tear holes into ordinary words, and proves little.
    instead = {each: "[redacted]" for each in secrets if len(each) >= 8}
    for name, secret in told:
        value = secret.reveal()
        if len(value) >= SECRET_CHARS_SOUGHT_MIN:
            encoded = b64encode(value.encode()).decode()
            instead |= dict.fromkeys((value, encoded.rstrip("="), encoded), f"[secret {name}]")
    for each in list(instead):
        instead.setdefault(json.dumps(each)[1:-1], instead[each])
        instead.setdefault(json.dumps(each, ensure_ascii=False)[1:-1], instead[each])
    known = sorted(instead, key=len, reverse=True)

    def redact(text: str) -> str:
        for each in known:
            text = text.replace(each, instead[each])
        return text

    return redact
