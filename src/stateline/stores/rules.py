"""What every store decides alike, wherever its rows lie."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from stateline.core.blobs import may_hold
from stateline.core.errors import BadRequest, StoreUnavailable
from stateline.core.events import Dedup, Event, encode_body
from stateline.core.ids import SessionRef
from stateline.core.limits import APPEND_EVENTS_MAX, BLOB_BYTES_MIN, DEDUP_TTL_S, EVENT_BYTES_MAX, INBOX_UNREADABLE_S
from stateline.ports import Fenced, HeadMoved, Ownership, SessionExists, SessionMissing

log = logging.getLogger("stateline.stores")

_dedup_codec = msgspec.json.Decoder(tuple[Dedup, ...])


class SessionRow(Protocol):
    """What is asked of a session's row."""

    @property
    def owner(self) -> str | None: ...
    @property
    def epoch(self) -> int: ...
    @property
    def head(self) -> int: ...
    @property
    def inbox(self) -> int: ...
    @property
    def crashed(self) -> int: ...


def is_unreadable(error: BaseException) -> bool:
    """Whether a stored body could not be read though the store could: it is damaged, or nobody of ours wrote it."""
    if isinstance(error, StoreUnavailable):
        return error.code == "blob_lost"
    return isinstance(error, msgspec.MsgspecError | ValueError)


def log_unreadable(session: SessionRef, error: BaseException) -> None:
    """Its inbox is what keeps a session from being claimed; no other may wait for that."""
    log.error(
        "session %s of tenant %s is left alone for %g s, for what waits in its inbox cannot be read: %s",
        session.id,
        session.tenant,
        INBOX_UNREADABLE_S,
        error,
    )


class Encoded(NamedTuple):
    """Stored bodies, their bytes, and whether content may go out of them."""

    bodies: list[bytes]
    size: int
    large: bool


def encode(events: Sequence[Event]) -> Encoded:
    """The stored form of what one request brings.

    Raises:
        BadRequest: too many events, or one that is too large.
    """
    if len(events) > APPEND_EVENTS_MAX:
        raise BadRequest(f"{len(events)} events in one append, {APPEND_EVENTS_MAX} at most", code="append_too_large")
    if len(events) == 1:  # What most requests bring.
        raw = encode_body(events[0].body)
        bodies, size = [raw], len(raw)
    else:
        bodies = [encode_body(event.body) for event in events]
        size = sum(map(len, bodies))
    if size < BLOB_BYTES_MIN:
        return Encoded(bodies, size, False)  # None of them is large.
    for raw in bodies:
        if len(raw) > EVENT_BYTES_MAX:
            raise BadRequest(f"an event of {len(raw)} bytes, {EVENT_BYTES_MAX} at most", code="event_too_large")
    return Encoded(bodies, size, any(map(may_hold, bodies)))


def missing(session: SessionRef) -> SessionMissing:
    return SessionMissing(f"no session {session.id}")


def exists(session: SessionRef) -> SessionExists:
    return SessionExists(f"session {session.id} exists already")


def adopts(row: SessionRow, own: Ownership, expected: int) -> bool:
    """Whether an append takes the session; False where it is the owner's.

    Raises:
        Fenced: owner or epoch do not match.
        HeadMoved: the head is elsewhere, or an adoption found inbox rows.
    """
    session = own.session
    if row.owner == own.owner and row.epoch == own.epoch:
        adopting = False
    elif row.owner is None and not row.crashed and row.epoch + 1 == own.epoch:
        adopting = True
    else:
        raise Fenced(f"session {session.id} has another owner")
    if row.head != expected:
        raise HeadMoved(f"session {session.id} is at {row.head}, not at {expected}")
    if adopting and row.inbox:
        raise HeadMoved(f"the inbox of session {session.id} is not empty")
    return adopting


def named(events: Sequence[Event]) -> tuple[list[int], list[Dedup]]:
    """The inbox rows that events consume, each once, and the dedup keys that they bring."""
    posts: list[int] = []
    dedup: list[Dedup] = []
    for event in events:
        if event.post is not None and event.post not in posts:
            posts.append(event.post)
        if event.dedup:
            dedup += event.dedup
    return posts, dedup


def post_key(number: int, key: str, event: Event) -> Dedup:
    """A post's key: it counts within its session, so it is written with the session's own number."""
    ref = str(getattr(event.body, "response_id", ""))
    return Dedup(key=f"post/{number}/{key}", ref=ref, digest="", ttl_s=DEDUP_TTL_S)


def read_dedup(raw: bytes | None) -> tuple[Dedup, ...]:
    return _dedup_codec.decode(raw) if raw else ()


def written_dedup(event: Event) -> bytes | None:
    """The keys that a posted event brings, as its inbox row has them."""
    return msgspec.json.encode(event.dedup) if event.dedup else None
