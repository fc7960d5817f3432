"""What goes into the engine and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from stateline.core.acting import Pending
from stateline.core.errors import RateKind
from stateline.core.events import TurnRequest
from stateline.core.ids import SessionRef
from stateline.core.items import Item, Sidecar
from stateline.money.budgets import Budget
from stateline.ports import Balance


class Answerer(NamedTuple):
    """Who answers what waits for a person.

    Attributes:
        user: the person behind the principal; empty where none is known.
        may_approve: may let go what a policy wants a person to approve.
    """

    principal: str = ""
    user: str = ""
    may_approve: bool = False


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One request for a turn.

    Attributes:
        principal: who asks, for dedup and audit: a key's id, or ``anonymous``.
        input: validated items; ``id`` is empty where the client gave none.
        conversation: the session's id, when ``request.in_conversation``.
        digest: of the request's body, which tells a retry from another request.
        idempotency_key: the client's own key, or None.
        retry: the client says that it sent this before.
        sidecars: what providers need back with items of ``input``.
        from_session: it goes on from a kept session, without being kept itself.
        secrets: what servers that the request names are to be told: headers, by the server's label. Kept nowhere.
        asked_elsewhere: calls that wait for a person in other sessions, and that ``input`` answers; by id.
        traceparent: the caller's trace, as W3C writes it.
        user: the person behind the principal; empty where none is known.
        answerer: whose answers are among ``input``.
    """

    tenant: str
    principal: str
    request: TurnRequest
    input: tuple[Item, ...]
    conversation: str | None = None
    digest: str = ""
    idempotency_key: str | None = None
    retry: bool = False
    sidecars: dict[str, Sidecar] = {}
    from_session: bool = False
    secrets: Mapping[str, Mapping[str, str]] = {}
    user: str = ""
    answerer: Answerer = Answerer()
    traceparent: str = ""
    asked_elsewhere: Mapping[str, Pending] = {}


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that is in the log. ``attached``: a retry, which follows the first turn.

    ``volatile``: it lives in memory only (``store: false``).
    """

    session: SessionRef
    response_id: str
    attached: bool = False
    volatile: bool = False


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """``created_at`` is in Unix seconds."""

    id: str
    created_at: int
    metadata: dict[str, str]


class RateState(NamedTuple):
    """What a rate limit leaves a key now; ``reset_s``: seconds until its window ends, 0 where it has none."""

    kind: RateKind
    limit: int
    left: int
    reset_s: int


class BudgetState(NamedTuple):
    """A budget, and what it stands at in a month (``2026-11``, UTC)."""

    budget: Budget
    month: str
    balance: Balance
