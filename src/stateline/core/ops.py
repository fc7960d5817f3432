"""How a model's answer is cut into stream events: operations, their numbers, and the marks left of them.

A chunk holds operations. Each stands for a fixed number of stream events, so a chunk needs to record
only its first number. When chunks are pruned, ``ItemMarks`` still tells the number of every structural event.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stateline.core.items import ModelItem, UrlCitation

PartKind = Literal["text", "refusal", "reasoning", "summary", "arguments"]


class _Op(msgspec.Struct, frozen=True, gc=False, array_like=True):
    pass


class AddItem(_Op, frozen=True, gc=False, array_like=True, tag="item"):
    """``response.output_item.added``; ``item`` is still empty."""

    index: int
    item: ModelItem


class AddPart(_Op, frozen=True, gc=False, array_like=True, tag="part"):
    """``content_part.added`` or ``reasoning_summary_part.added``; nothing for arguments."""

    index: int
    part: int
    kind: PartKind


class Delta(_Op, frozen=True, gc=False, array_like=True, tag="delta"):
    index: int
    part: int
    kind: PartKind
    text: str
    logprobs: list[dict[str, Any]] | None = None


class AddAnnotation(_Op, frozen=True, gc=False, array_like=True, tag="note"):
    index: int
    part: int
    number: int
    annotation: UrlCitation


class EndPart(_Op, frozen=True, gc=False, array_like=True, tag="end"):
    """The kind's ``done`` event, then ``content_part.done`` where there was an ``added``.

    Its text is the sum of the deltas before it, so it is not written twice.
    """

    index: int
    part: int
    kind: PartKind


class EndItem(_Op, frozen=True, gc=False, array_like=True, tag="done"):
    """``response.output_item.done``."""

    index: int
    encrypted: str | None = None


Op = AddItem | AddPart | Delta | AddAnnotation | EndPart | EndItem


class PartMarks(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Numbers of one part's events: ``added``, its last ``delta`` (-1: none), annotations, ``done``."""

    kind: PartKind
    added: int
    delta: int
    notes: tuple[int, ...]
    done: int


class ItemMarks(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Numbers of one item's events."""

    added: int
    parts: tuple[PartMarks, ...]
    done: int
