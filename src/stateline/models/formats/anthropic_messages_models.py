"""What the Messages format has to know of a model to write its request: three facts, by its name.

Source: https://platform.claude.com/docs/en/about-claude/models/overview and
https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking (read 2026-11). A name that says
no version, another vendor's included, is taken for a current model.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

MIN_BUDGET = 1024
"""The fewest tokens of thinking that may be asked for."""

BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 24_576}
"""Tokens of thinking by effort, for models that take a budget. The format has no words for it."""

EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "max"}
"""The format's efforts: it has none below ``low``, and on some models ``max`` right above ``high``."""

_VERSION = re.compile(r"claude-(?:(\d)-(\d)(?:-[a-z]+)?|[a-z]+-(\d)(?:-(\d{1,2}))?|(\d)-[a-z]+)(?![\d])")


class Facts(NamedTuple):
    """
    Attributes:
        output_tokens: asked for where the request sets no limit; the format requires one.
        adaptive: whether it takes an effort and decides by itself how long to think.
        xhigh: whether it knows the effort ``xhigh``.
    """

    output_tokens: int = 32_000
    adaptive: bool = True
    xhigh: bool = True


@lru_cache(maxsize=256)
def facts_of(model: str) -> Facts:
    """By the name that the cloud has for the model."""
    found = _VERSION.search(model)
    if found is None:
        return Facts()
    major = int(found[1] or found[3] or found[5])
    minor = int(found[2] or found[4] or 0)
    version = (major, minor)
    output_tokens = 4096 if version < (3, 5) else 8192 if version < (3, 7) else 32_000
    return Facts(output_tokens, adaptive=version >= (4, 6), xhigh=version >= (4, 7))
