"""Who can read back what a model gave beside its items: sidecars go to their own origin alone.

A wire format and a cloud say it, but on Bedrock, where one format serves the models of many makers: a
signature of Claude's means nothing to Nova, and is refused by it. There the model's family is part of it.
"""

from __future__ import annotations

_FAMILIES: tuple[tuple[str, str], ...] = (
    ("claude", "claude"),
    ("anthropic", "claude"),
    ("gpt-oss", "gpt-oss"),
    ("openai", "gpt"),
    ("gpt-", "gpt"),
    ("nova", "nova"),
    ("kimi", "kimi"),
)
"""What a model's names have in them, and the family that it means; the first that is found decides."""


def family(*names: str) -> str:
    """The family that the first of a model's names to say one says (an ARN may say none); else ``other``."""
    for name in names:
        said = name.lower()
        for part, found in _FAMILIES:
            if part in said:
                return found
    return "other"


def origin(wire_format: str, cloud: str, *names: str) -> str:
    """``format/cloud``, and the family of the model named where a format is shared by several."""
    if wire_format != "bedrock-converse":
        return f"{wire_format}/{cloud}"
    return f"{wire_format}/{cloud}/{family(*names)}"
