"""What the engine needs from outside, as protocols.

An adapter implements one of these and imports nothing of the engine. Two stores, one conformance suite
(``stateline.testing.exercise_store``): whatever passes it can hold sessions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import msgspec

from stateline.core.billing import ZERO, Price
from stateline.core.calls import ModelDelta, ModelRequest
from stateline.core.errors import Blame, StatelineError
from stateline.core.events import Event
from stateline.core.facts import ModelFacts
from stateline.core.ids import SessionRef
from stateline.core.limits import Retention
from stateline.core.origin import origin
from stateline.core.placing import CallFacts, Ruling
from stateline.core.session import Session
from stateline.core.tools import McpTool, PolicyRequest, PolicyRuling, Tool, ToolCall, ToolResult

# -- the store ---------------------------------------------------------------------------------


class Posted(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An inbox row: an event that waits for its session's owner. Its ``seq`` is 0.

    ``post`` grows with every row of the session.
    """

    session: SessionRef
    post: int
    event: Event


class Ownership(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The right to append to a session.

    ``owner`` is a random id per process start. ``inbox`` is what waited at the claim. ``crashed`` says
    that the session was taken from an owner that never released it.
    """

    session: SessionRef
    owner: str
    epoch: int
    head: int
    inbox: tuple[Posted, ...] = ()
    crashed: bool = False


NO_EVENTS = 2**62
"""As ``Watch.after``: its owner knows its events already."""
EVERY_POST = 2**62
"""As ``seen`` of a release: the session is given back whatever waits for it."""
DUE_NOW_MS = 1
"""A time that is past by whatever clock: a session with it waits for nobody's."""


class Watch(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a node wants to see of one session: events after ``after``; inbox rows after ``post``.

    ``post`` is None where the node does not own the session, ``after`` NO_EVENTS where it does.
    """

    session: SessionRef
    after: int
    post: int | None = None


class Hold(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How an append moves a shared balance, in its own transaction: money of a budget, or whatever is counted.

    Attributes:
        budget: the balance's name; one that is not known stands at zero.
        held: what is set aside (or, below zero, given back).
        spent: what is used up.
        limit: the append is refused where ``spent + held`` of the balance would be above it afterwards; None:
            never. Those of one append count one after the other.
        expires_ms: Unix time from which on the balance may be forgotten; None: never.

    Amounts have AMOUNT_DIGITS_MAX digits at most on either side of the point, so that they add up exactly; others
    are a BadRequest.
    """

    budget: str
    held: Decimal = ZERO
    spent: Decimal = ZERO
    limit: Decimal | None = None
    expires_ms: int | None = None


class Balance(NamedTuple):
    """What a balance stands at."""

    held: Decimal = ZERO
    spent: Decimal = ZERO


class BudgetExceeded(StatelineError):
    """A hold that its limit does not allow. Nothing was written.

    Attributes:
        budget: the balance's name.
        left: how much of its limit is neither spent nor held.
    """

    code = "insufficient_quota"
    status = 429
    blame: Blame = "client"

    def __init__(self, budget: str, left: Decimal) -> None:
        super().__init__(f"the budget {budget} has {max(left, Decimal(0))} left")
        self.budget = budget
        self.left = left


class SessionExists(StatelineError):
    """``create`` of an id that is there already."""

    code = "session_exists"
    status = 409


class SessionMissing(StatelineError):
    """No such session for this tenant."""

    code = "not_found"
    status = 404


class Fenced(StatelineError):
    """Another owner has the session now; whatever this one does with it is void."""

    code = "fenced"


class HeadMoved(StatelineError):
    """The session's head is not where the caller thought, or its inbox is not empty on an adoption."""

    code = "head_moved"


class Duplicate(StatelineError):
    """A dedup key that exists already. Nothing was written.

    Attributes:
        ref: what the first event named (its response id).
        digest: the first request's body digest.
    """

    code = "duplicate"
    status = 409

    def __init__(self, ref: str, digest: str) -> None:
        super().__init__(f"already there: {ref}")
        self.ref = ref
        self.digest = digest


class InboxFull(StatelineError):
    """Too many inputs wait for this session."""

    code = "inbox_full"
    status = 429


class Store(Protocol):
    """An append log of sessions with one writer each.

    What returns is durable, unless said otherwise. Every method may raise StoreUnavailable.
    """

    def create(self, session: SessionRef, parent: tuple[SessionRef, int] | None = None) -> Coroutine[Any, Any, None]:
        """Make an empty session (head 0, epoch 0), or a fork.

        A fork shares its parent's events up to ``parent[1]`` by reference: its head starts there, and
        ``read`` gives the shared prefix first.

        Raises:
            SessionExists: the id is taken.
            SessionMissing: no such parent, or it is shorter than that.
        """
        ...

    def append(
        self,
        own: Ownership,
        expected_seq: int,
        events: Sequence[Event],
        holds: Sequence[Hold] = (),
        *,
        create: bool = False,
        release: bool = False,
    ) -> Coroutine[Any, Any, int]:
        """Append all events or none, and return the new head. Durable on return.

        Events are numbered from ``expected_seq + 1``. Inbox rows that they name in ``post`` are deleted,
        and their dedup keys written, in the same transaction. Many sessions share one commit; each gets
        its own outcome. ``own.epoch`` one above the row's, with no owner and an empty inbox, adopts the
        session in the same statement, so that a first append needs no claim. With ``release`` the
        session is given back in the same transaction, so that a last append needs no release. With
        ``create`` the session is made with them, where they are not refused.

        Calls that are made before control returns to the event loop keep their order.

        Raises:
            SessionExists: with ``create``, the id is taken.
            Fenced: owner or epoch do not match.
            HeadMoved: the head is elsewhere, or an adoption or a release found (other) inbox rows.
            Duplicate: a dedup key without ``replace`` exists.
            SessionMissing: it was erased, or never created.
            BudgetExceeded: a hold is above its limit. Whatever else would be refused is found before.
        """
        ...

    async def balances(self, names: Sequence[str]) -> dict[str, Balance]:
        """What is committed of these balances; one that is not known is left out."""
        ...

    def read(
        self,
        session: SessionRef,
        after: int = 0,
        *,
        until: int | None = None,
        chunks: bool = False,
        snapshot: bool = False,
    ) -> AsyncIterator[Event]:
        """Events after ``after`` (up to ``until``) in order, a fork's prefix first.

        Without ``chunks``, Chunk events are left out. With ``snapshot``, the reading begins at the
        latest Snapshot if there is one (it comes first); without it, Snapshot events are left out.

        Raises:
            SessionMissing: no such session.
        """
        ...

    async def tail(self, watched: Sequence[Watch], wait_s: float = 0.0) -> list[Event | Posted]:
        """What is new for all watched sessions, in one query; per session in order.

        Chunks are included, snapshots are not. Waits up to ``wait_s`` for the first; may return empty
        before. The caller may cancel it at any time.
        """
        ...

    def post(self, session: SessionRef, event: Event, dedup_key: str | None = None) -> Coroutine[Any, Any, None]:
        """Put an input into the session's inbox and make the session due. Durable on return.

        Raises:
            Duplicate: ``dedup_key`` was posted to this session within its time to live.
            SessionMissing: no such session.
            InboxFull: INBOX_POSTS_MAX rows wait already.
        """
        ...

    async def find_duplicate(self, tenant: str, dedup_key: str) -> Duplicate | None:
        """The first event that was appended under a dedup key, while the key lives.

        A client's retry must find its first turn before any check that the first turn itself makes
        fail (a conversation that is locked by it).
        """
        ...

    async def sessions(self, tenant: str, before: str | None, limit: int) -> list[str]:
        """Up to ``limit`` ids of a tenant's sessions, the highest first, below ``before`` where it is given.

        Ids begin with the time, so the newest come first. A tenant that is not known has none.
        """
        ...

    async def claim(self, node: str, limit: int) -> list[Ownership]:
        """Take up to ``limit`` sessions that are due (inbox, timer, or a dead owner) and unowned, fair over tenants.

        A node that asks is alive, whether or not it renewed in time: none of its own are taken from it.
        What raises has claimed nothing: a store that does not know whether its commit was made finds out,
        and gives back what it took, since the node would never work on what it does not know it owns.
        """
        ...

    def renew(self, node: str, ttl_s: float) -> Coroutine[Any, Any, int]:
        """Say that this node is alive for another ``ttl_s``: one row, whatever it owns.

        Returns how many others are alive, as far as their own rows tell.
        """
        ...

    def on_due(self, call: Callable[[], None]) -> None:
        """Have ``call`` called when another process has made a session due, where the store can tell.

        It only makes a claim sooner; whoever owns sessions claims every so often all the same.
        """
        ...

    def release(self, own: Ownership, seen: int, wake_at_ms: int | None = None) -> Coroutine[Any, Any, bool]:
        """Give the session back; it becomes due at ``wake_at_ms`` (None: when something is posted).

        Returns False, and keeps it owned, if an inbox row after ``seen`` exists.

        Raises:
            Fenced: it is no longer ours.
        """
        ...

    async def erase(self, session: SessionRef) -> None:
        """Destroy the session's content for good, and its forks'. An unknown one is no error."""
        ...

    async def close(self) -> None:
        """Finish what is queued, release the file or the connections."""
        ...


# -- keeping a store -----------------------------------------------------------------------------


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What a retention took away, or would: chunks of ended turns, whole sessions, snapshots.

    ``erased`` names the sessions, so that nobody keeps them in memory.
    """

    chunks: int = 0
    sessions: int = 0
    snapshots: int = 0
    erased: tuple[SessionRef, ...] = ()


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was made or verified. ``files`` counts the large contents beside the database."""

    path: str
    bytes: int
    files: int
    sessions: int
    created_at: int
    schema_version: int


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is there, for a person: ``bytes`` includes the journal and large content."""

    kind: str
    version: str
    schema_version: int
    sessions: int
    bytes: int


Progress = Callable[[int, int], None]
"""Told ``(done, total)`` in bytes, from whatever thread works."""


class LogPage(NamedTuple):
    """A piece of many logs: one session after the other, each event once.

    Attributes:
        events: those of the tags that were asked for; a fork's shared prefix is with its parent alone.
        sessions: how many have been looked through so far.
        newer: how many of them only a newer release can read; they have no events here.
    """

    events: list[Event]
    sessions: int
    newer: int


class Witness(Protocol):
    """Who must see sessions before a retention erases them. What it raises ends the walk."""

    async def keep(self, refs: Sequence[SessionRef]) -> None:
        """These are about to be erased, all together where nothing happens in them meanwhile."""
        ...

    async def forget(self, refs: Sequence[SessionRef]) -> None:
        """These are erased."""
        ...


class Maintenance(Protocol):
    """What an operator asks of a store. No part of ``Store``: the engine never needs it."""

    async def prune(self, keep: Retention, *, dry_run: bool = False, witness: Witness | None = None) -> Pruned:
        """Take away what is no longer to be kept, in bounded batches; with ``dry_run`` only count it."""
        ...

    async def backup(self, target: str, *, force: bool = False, progress: Progress | None = None) -> Backup:
        """Write a consistent copy of everything to the path ``target``, while the store is used.

        Raises:
            StoreUnavailable: ``backup_exists``, ``backup_failed``, ``blob_lost``.
        """
        ...

    async def status(self) -> StoreStatus: ...

    def stop(self) -> None:
        """End what takes long: the server stops."""
        ...


class KeptStore(Store, Protocol):
    """A store with somebody to keep it, as a server has it."""

    @property
    def maintenance(self) -> Maintenance: ...


# -- models ----------------------------------------------------------------------------------------


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a product that a deployment serves; clauses that ship it first ask."""

    name: str
    shipped_on: tuple[str, ...] = ()
    declined_by: tuple[str, ...] = ()


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One place where a model runs (DESIGN: ``[[deployments]]``), as adapters need it."""

    name: str
    model: str
    cloud: str
    format: str
    base_url: str
    upstream_model: str
    api_key: str | None = None
    priority: int = 1
    weight: float = 1.0
    timeout_s: float = 600.0
    max_concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    """Requests and tokens a minute that calls of this node may take."""
    first_byte_s: float | None = None
    stall_s: float | None = None
    """Silence before and inside a streamed answer after which it counts as broken; None: the client's own."""
    lacks: frozenset[str] = frozenset()
    """What its model is known not to take: ``images``, ``tools``."""
    facts: ModelFacts | None = None
    service_tier: str | None = None
    """Asked for where the request names none."""
    region: str | None = None
    api_version: str | None = None
    auth: str | None = None
    """How calls say who makes them, where no key does: ``none``, or the cloud's own way (``sigv4``, ``adc``)."""
    vendor: str | None = None
    """Who made the model. This and what follows is for contracts alone."""
    host: str | None = None
    data_zone: str | None = None
    accelerator: str | None = None
    channel: str = "direct"
    product: Product | None = None
    billing_account: str | None = None
    """Which of the cloud's accounts pays, as its bills call it."""
    price: Price | None = None
    """Its own, in the tier that it asks for; None: as price books have it."""

    @property
    def origin(self) -> str:
        """Who can read back what it made, as `core.origin` says."""
        return origin(self.format, self.cloud, self.upstream_model, self.model)


class ModelClient(Protocol):
    """Speaks to one or more deployments."""

    def call(self, deployment: Deployment, request: ModelRequest) -> AsyncIterator[list[ModelDelta]]:
        """Send the request and give its answer's deltas, in the batches in which they arrive.

        The last delta is a Finish. With ``request.stream`` False there may be one batch only.
        Closing the iterator ends the call.

        Raises:
            ModelError: translated from whatever went wrong, before or after output began.
            BadRequest: the format cannot carry the request; names the field. Nothing was sent.
        """
        ...

    async def close(self) -> None: ...


# -- contracts -------------------------------------------------------------------------------------


class Judge(Protocol):
    """The contracts, asked about the placements of one call."""

    def ruling(self, deployment: Deployment, at_ms: int) -> Ruling:
        """The verdict on placing the call there at that instant (Unix time)."""
        ...

    def count(self, ruling: Ruling) -> None:
        """Count a verdict that decided something."""
        ...

    def text_of(self, clause: str) -> str:
        """A clause's own words."""
        ...


class Rules(Protocol):
    """The contracts in force."""

    def judge(self, call: CallFacts) -> Judge: ...

    def counters(self) -> Mapping[str, int]:
        """Verdicts given so far, by the name and labels of their series in /metrics."""
        ...


# -- tools -----------------------------------------------------------------------------------------


class ToolHost(Protocol):
    """One source of tools: an MCP server, the sandbox, functions of the operator's own."""

    @property
    def label(self) -> str:
        """By which requests, policies and records name it."""
        ...

    async def tools(self) -> Sequence[Tool]:
        """What it offers now.

        Raises:
            ToolError: it cannot be asked.
        """
        ...

    async def call(self, call: ToolCall) -> ToolResult:
        """Run one call. Cancelling ends the waiting; what the tool has begun it may go on with.

        Raises:
            ToolError: there is no answer; ``sent`` says whether the tool may have begun.
        """
        ...

    async def look_up(self, call: ToolCall) -> ToolResult | None:
        """The answer of an earlier run under the same key, where the host can prove that it was made.

        None proves nothing: neither that it was made nor that it was not.
        """
        ...

    async def close(self) -> None: ...


class Hosts(Protocol):
    """The tool hosts of a node."""

    def own(self, label: str, tenant: str) -> ToolHost | None:
        """The operator's host of this label, as a tenant calls it."""
        ...

    def tell(self, response_id: str, headers: Mapping[str, Mapping[str, str]]) -> None:
        """Remember for a turn what servers that its request names are to be told, by their labels; in memory alone."""
        ...

    def named(self, tenant: str, response_id: str, server: McpTool) -> ToolHost:
        """The server that a turn's request has named by its URL.

        Raises:
            ToolError: it may not be asked, or its headers were told to another node, or to one that has ended.
        """
        ...

    def data_zone(self, label: str) -> str:
        """Where the operator's host of this label keeps what it is told; empty where that is not known."""
        ...


class Policy(Protocol):
    """What tool calls may do."""

    def rule(self, request: PolicyRequest) -> PolicyRuling: ...


class Observe(Protocol):
    """Told of what a session has recorded; it must return at once, and raises nothing."""

    def __call__(self, before: Session, events: Sequence[Event]) -> None: ...


class Clock(Protocol):
    """Time as an argument's source, so that a simulation can set it."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    async def sleep(self, seconds: float) -> None: ...
