"""When a retention is over, whatever a store's rows look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stateline.core.events import ResponseDeleted, SessionCreated, SessionDeleted, TurnRequested
from stateline.core.limits import Retention
from stateline.core.session import FOLD_VERSION

TELLING = ("session_created", "session_deleted", "response_deleted", "turn_requested")
"""Tags of the events that say what became of a session."""
DELETING = ("session_deleted", "response_deleted")
TAG_BYTES_MAX = 40
"""Within so many bytes of a body its tag has begun."""
END = 1 << 62
"""A number above that of every session."""


class Cutoffs(NamedTuple):
    """Unix times in milliseconds: what happened at or before these is over. None: never."""

    chunks_ms: int
    deleted_ms: int
    idle_ms: int | None
    snapshots_ms: int


def cutoffs(keep: Retention, now_ms: int) -> Cutoffs:
    return Cutoffs(
        chunks_ms=now_ms - keep.chunks_s * 1000,
        deleted_ms=now_ms - keep.deleted_s * 1000,
        idle_ms=None if keep.idle_s is None else now_ms - keep.idle_s * 1000,
        snapshots_ms=now_ms - keep.snapshots_s * 1000,
    )


class Seen(NamedTuple):
    """A session and its head when it was looked at."""

    number: int
    head: int


def is_deleted(bodies: Sequence[object]) -> bool:
    """Whether a session was deleted: itself, or every response of a chain."""
    turns: set[str] = set()
    deleted: set[str] = set()
    kind = ""
    for body in bodies:
        match body:
            case SessionDeleted():
                return True
            case SessionCreated():
                kind = body.kind
            case TurnRequested():
                turns.add(body.response_id)
            case ResponseDeleted():
                deleted.add(body.response_id)
            case _:
                pass
    return kind == "chain" and bool(turns) and turns <= deleted


def fold_of(head: bytes) -> int:
    """The fold version in the beginning of a snapshot's body; what cannot be told is of this release."""
    _, found, rest = head.partition(b'"fold":')
    digits = rest[: len(rest) - len(rest.lstrip(b"0123456789"))]
    return int(digits) if found and digits else FOLD_VERSION
