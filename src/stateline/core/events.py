"""The event vocabulary: what happened, never what should happen.

Each body's tag ends in its version (``turn_requested/1``). A body of an older version is not in the
union, so it takes the slow path through ``UPCASTS`` when it is read; the current ones pay nothing.
A new type ships readable one release before it is written, with a higher ``READER_VERSION``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from stateline.core.billing import Charge, Counted, Reserved, Tariff
from stateline.core.calls import FinishReason, ModelParams, Usage
from stateline.core.carrying import Dropped
from stateline.core.ids import SessionRef
from stateline.core.items import InputContent, Item, McpListTools, ModelItem, Sidecar
from stateline.core.limits import TOOL_OUTPUT_SHOWN_BYTES, TurnLimits
from stateline.core.links import Anchor, Record
from stateline.core.ops import ItemMarks, Op
from stateline.core.placing import Passed, Priced, Refused, Ruling
from stateline.core.stateless import StatelessCallEnded, StatelessCallStarted
from stateline.core.tools import Agent, Answer, Asked, EffectClass, McpTool, PlannedCall, PolicyRuling, ServerTools

READER_VERSION = 1
"""What this release can read. A session whose ``min_reader`` is higher is left to newer nodes."""


class _Body(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", omit_defaults=True):
    pass


# -- the session ----------------------------------------------------------------------------------


class SessionCreated(_Body, tag="session_created/1", frozen=True, gc=False, kw_only=True):
    """First event of every session. ``parent`` is set on a fork: its response and sequence number."""

    kind: Literal["chain", "conversation", "system"]
    metadata: dict[str, str] = {}
    parent: tuple[str, int] | None = None


class SessionUpdated(_Body, tag="session_updated/1", frozen=True, gc=False, kw_only=True):
    metadata: dict[str, str]


class SessionDeleted(_Body, tag="session_deleted/1", frozen=True, gc=False, kw_only=True):
    """Hidden from the API; forks keep their shared prefix."""


class ItemsAdded(_Body, tag="items_added/1", frozen=True, gc=False, kw_only=True):
    """Items put into a conversation from outside a turn."""

    items: tuple[Item, ...]


class ItemDeleted(_Body, tag="item_deleted/1", frozen=True, gc=False, kw_only=True):
    item_id: str


class ResponseDeleted(_Body, tag="response_deleted/1", frozen=True, gc=False, kw_only=True):
    """The response is hidden; what it said stays in the context of its descendants."""

    response_id: str


class SessionQuarantined(_Body, tag="session_quarantined/1", frozen=True, gc=False, kw_only=True):
    """The worker crashed too often on this session; it takes no more turns."""

    crashes: int


# -- the turn -----------------------------------------------------------------------------------------


class TurnRequest(ModelParams, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """All that a request set, as the response object shows it again."""

    store: bool = True
    background: bool = False
    stream: bool = False
    previous_response_id: str | None = None
    in_conversation: bool = False
    metadata: dict[str, str] = {}  # noqa: RUF012 - a msgspec field, copied for each value
    max_tool_calls: int | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    servers: tuple[McpTool, ...] = ()


class TurnRequested(_Body, tag="turn_requested/1", frozen=True, gc=False, kw_only=True):
    """A turn begins. ``turn`` counts from 1 in the session, a fork's prefix included.

    ``from_session``: what it goes on from is kept in a session, though it is not itself. ``agent``: as it is
    configured now. ``answers``: to what earlier turns asked a person. ``traceparent``: of the caller's trace (W3C).
    ``user``: the person behind the principal; empty where none is known.
    ``shown_bytes``: what its model is shown of one tool's output of text.
    """

    response_id: str
    turn: int
    request: TurnRequest
    input: tuple[Item, ...]
    limits: TurnLimits = TurnLimits()
    principal: str = ""
    user: str = ""
    sidecars: dict[str, Sidecar] = {}
    from_session: bool = False
    agent: Agent | None = None
    answers: tuple[Answer, ...] = ()
    traceparent: str = ""
    shown_bytes: int = TOOL_OUTPUT_SHOWN_BYTES

    @property
    def model(self) -> str:
        """The model that its calls go to, as requests name it."""
        return self.request.model if self.agent is None else self.agent.model

    @property
    def agent_name(self) -> str:
        """Empty where no agent does it."""
        return "" if self.agent is None else self.agent.name

    @property
    def stateful(self) -> bool:
        """Whether it is of a session's workload (DESIGN §7, Workload): an agent's always is."""
        return self.request.store or self.from_session or self.agent is not None


class InputRejected(_Body, tag="input_rejected/1", frozen=True, gc=False, kw_only=True):
    """A posted input that could not enter; the poster reads its code here."""

    response_id: str
    code: str
    message: str


class TurnResumed(_Body, tag="turn_resumed/1", frozen=True, gc=False, kw_only=True):
    """A new owner took over a running turn.

    ``clean``: its last owner handed it back. ``progress``: something of the answer became durable
    since the last take-over, so the work on this session is not what kills its workers.
    """

    owner: str
    clean: bool = False
    progress: bool = False


class CancelRequested(_Body, tag="cancel_requested/1", frozen=True, gc=False, kw_only=True):
    response_id: str


class TurnCompleted(_Body, tag="turn_completed/1", frozen=True, gc=False, kw_only=True):
    response_id: str


class TurnIncomplete(_Body, tag="turn_incomplete/1", frozen=True, gc=False, kw_only=True):
    """Ended by a limit or a filter, which ``reason`` names (docs/limits.md)."""

    response_id: str
    reason: str


class TurnFailed(_Body, tag="turn_failed/1", frozen=True, gc=False, kw_only=True):
    response_id: str
    code: str
    message: str


class TurnCancelled(_Body, tag="turn_cancelled/1", frozen=True, gc=False, kw_only=True):
    response_id: str


# -- the steps ------------------------------------------------------------------------------------------


class ModelCallStarted(_Body, tag="model_call_started/1", frozen=True, gc=False, kw_only=True):
    """A model call was placed; the call goes out once this is durable.

    ``passed`` names the model's other deployments, in the order in which they were looked at, and why each
    did not get the call. A model with one deployment has none. ``verdict`` is what the contracts say of the
    deployment, where there are contracts, and ``refused`` what they say of those that they keep out.
    ``dropped`` names what of the context the call does not get, because its format or origin cannot take it.
    ``reserved`` is the most that it may cost, where a price is known. ``priced`` is what candidates cost in effect,
    where that decides. ``counted`` is what its end gives back to rate limits, or corrects there.
    """

    turn: int
    step: int
    deployment: str
    origin: str
    model: str
    stream: bool = True
    passed: tuple[Passed, ...] = ()
    verdict: Ruling | None = None
    refused: tuple[Refused, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    reserved: Reserved | None = None
    priced: tuple[Priced, ...] = ()
    counted: tuple[Counted, ...] = ()


class Chunk(_Body, tag="chunk/1", frozen=True, gc=False, kw_only=True):
    """A piece of a model's answer. ``first`` is the sequence number of its first stream event.

    Chunks lie in a table of their own and are pruned after a retention time.
    """

    turn: int
    step: int
    first: int
    ops: tuple[Op, ...]


class ModelCallFinished(_Body, tag="model_call_finished/1", frozen=True, gc=False, kw_only=True):
    """The model's answer. ``marks`` numbers the structural stream events of ``items``.

    ``output_index`` is the first item's; ``next_number`` is the sequence number after the last. ``charge`` is what
    it cost, where a price is known. ``calls`` are those of tools that the runtime calls itself.
    """

    turn: int
    step: int
    finish_reason: FinishReason
    items: tuple[ModelItem, ...] = ()
    marks: tuple[ItemMarks, ...] = ()
    output_index: int = 0
    next_number: int = 0
    usage: Usage | None = None
    sidecars: dict[str, Sidecar] = {}
    upstream_id: str | None = None
    upstream_model: str | None = None
    service_tier: str | None = None
    charge: Charge | None = None
    calls: tuple[PlannedCall, ...] = ()


class ModelCallFailed(_Body, tag="model_call_failed/1", frozen=True, gc=False, kw_only=True):
    """A call that gave no answer, or was lost with its worker (code ``worker_lost``).

    Items that it had opened are closed as incomplete and are no part of the final output. ``elsewhere``:
    another deployment takes the call at once. ``usage`` is what is known of what the attempt used. ``unbilled``:
    nothing was sent, or the provider refused it, so that it has used nothing.
    """

    turn: int
    step: int
    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    provider_status: int | None = None
    items: tuple[ModelItem, ...] = ()
    marks: tuple[ItemMarks, ...] = ()
    output_index: int = 0
    next_number: int = 0
    elsewhere: bool = False
    usage: Usage | None = None
    unbilled: bool = False
    charge: Charge | None = None


class TimerSet(_Body, tag="timer_set/1", frozen=True, gc=False, kw_only=True):
    """The turn waits. ``due_ms`` is Unix time.

    ``passed`` is set where it waits for a deployment: none of the model's took the call, for these reasons.
    ``refused`` has the verdicts on those of them that a contract keeps out.
    """

    turn: int
    step: int
    due_ms: int
    passed: tuple[Passed, ...] = ()
    refused: tuple[Refused, ...] = ()


class TimerFired(_Body, tag="timer_fired/1", frozen=True, gc=False, kw_only=True):
    turn: int
    step: int


class DeadlinePassed(_Body, tag="deadline_passed/1", frozen=True, gc=False, kw_only=True):
    """The turn's wall time is over; appended once, by the owner."""

    turn: int


class Snapshot(_Body, tag="snapshot/1", frozen=True, gc=False, kw_only=True):
    """The fold up to here, so that reading need not begin at the first event.

    ``state`` is the Session of fold version ``fold``; another version discards it.
    """

    fold: int
    state: msgspec.Raw


# -- tools ------------------------------------------------------------------------------------------------


class ToolsListed(_Body, tag="tools_listed/1", frozen=True, gc=False, kw_only=True):
    """What the turn's servers offer; before its first model call.

    ``items`` are those that the client is shown: of servers that its request names. ``number`` is the sequence number
    of their first stream event, ``output_index`` the first one's.
    """

    turn: int
    servers: tuple[ServerTools, ...]
    items: tuple[McpListTools, ...] = ()
    number: int = 0
    output_index: int = 0


class _Effect(_Body, frozen=True, gc=False, kw_only=True):
    """Of one tool call. ``number`` is the sequence number of its first stream event."""

    turn: int
    step: int
    number: int = 0


class EffectDispatched(_Effect, tag="effect_dispatched/1", frozen=True, gc=False, kw_only=True):
    """A call is about to be sent: its key is ``session/turn/step``. Sent only once this is durable.

    ``approval`` names the request that a person has approved; ``again``: a person wants it made though an earlier one
    may have taken effect. ``policy`` is what it was allowed by.
    """

    call: PlannedCall
    effect: EffectClass
    output_index: int = 0
    policy: PolicyRuling | None = None
    approval: str | None = None
    again: bool = False


class EffectCommitted(_Effect, tag="effect_committed/1", frozen=True, gc=False, kw_only=True):
    """The tool has answered. ``failed``: it says that it did not do it. ``read_back``: it proved an earlier run."""

    id: str
    output: str | tuple[InputContent, ...] = ""
    failed: bool = False
    read_back: bool = False


class EffectFailed(_Effect, tag="effect_failed/1", frozen=True, gc=False, kw_only=True):
    """The call has no effect and no answer: nothing was sent, or the tool is one that may be called again."""

    id: str
    code: str
    message: str


class EffectUnknown(_Effect, tag="effect_unknown/1", frozen=True, gc=False, kw_only=True):
    """Whether the call took effect is not known; it is not made again before a person has said so."""

    id: str
    code: str
    message: str


class EffectRefused(_Effect, tag="effect_refused/1", frozen=True, gc=False, kw_only=True):
    """The call is not made; the model is told why."""

    call: PlannedCall
    code: str
    message: str
    output_index: int = 0
    policy: PolicyRuling | None = None


class ApprovalRequested(_Effect, tag="approval_requested/1", frozen=True, gc=False, kw_only=True):
    """A person is asked about the call. ``id`` is the request's."""

    id: str
    call: PlannedCall
    asked: Asked
    output_index: int = 0
    policy: PolicyRuling | None = None


# -- money ------------------------------------------------------------------------------------------------


class TariffRecorded(_Body, tag="tariff_recorded/1", frozen=True, gc=False, kw_only=True):
    """A price as it is applied from now on; recorded before the first event that names it."""

    tariff: Tariff


class StatelessCalls(_Body, tag="stateless_calls/1", frozen=True, gc=False, kw_only=True):
    """Calls that are kept in no session: those that one append lets begin, and then those that have ended.

    They are one event, because a row for each would cost more than all else that is done for it.
    """

    started: tuple[StatelessCallStarted, ...] = ()
    ended: tuple[StatelessCallEnded, ...] = ()


# -- identity ---------------------------------------------------------------------------------------------


class KeyCreated(_Body, tag="key_created/1", frozen=True, gc=False, kw_only=True):
    """An API key of a tenant; ``hash`` is all that is kept of the key itself.

    Attributes:
        scopes: of ``core.principals.SCOPES``; none: those of a key that was made without saying.
        user, agent: whom the key speaks for, and the one agent that it may use; empty: nobody, any.
    """

    key_id: str
    tenant: str
    name: str
    hash: str
    expires_at_ms: int | None = None
    scopes: tuple[str, ...] = ()
    user: str = ""
    agent: str = ""


class KeyRevoked(_Body, tag="key_revoked/1", frozen=True, gc=False, kw_only=True):
    key_id: str


class SecretStored(_Body, tag="secret_stored/1", frozen=True, gc=False, kw_only=True):
    """A tool's credential, sealed; the latest of a tenant and name counts.

    Attributes:
        key_id: of the master key that ``wrapped`` opens with.
        wrapped: the data key, under the master key.
        sealed: the value, under the data key.
        written_at_ms: when the value was set; a new wrapping leaves it.
    """

    tenant: str
    name: str
    key_id: str
    wrapped: bytes
    sealed: bytes
    written_at_ms: int


class SecretRemoved(_Body, tag="secret_removed/1", frozen=True, gc=False, kw_only=True):
    tenant: str
    name: str


# -- the audit --------------------------------------------------------------------------------------------


class AuditSalted(_Body, tag="audit_salted/1", frozen=True, gc=False, kw_only=True):
    """The salt of a session's audit records; kept apart, so that it can be destroyed with the session."""

    tenant: str
    session: str
    salt: bytes


class AuditKept(_Body, tag="audit_kept/1", frozen=True, gc=False, kw_only=True):
    """A session's chain was signed. ``records``: where the session is erased, those since the last such event."""

    tenant: str
    session: str
    anchor: Anchor
    records: tuple[Record, ...] = ()
    erased: bool = False


Body = (
    SessionCreated
    | SessionUpdated
    | SessionDeleted
    | ItemsAdded
    | ItemDeleted
    | ResponseDeleted
    | SessionQuarantined
    | TurnRequested
    | InputRejected
    | TurnResumed
    | CancelRequested
    | TurnCompleted
    | TurnIncomplete
    | TurnFailed
    | TurnCancelled
    | ModelCallStarted
    | Chunk
    | ModelCallFinished
    | ModelCallFailed
    | TimerSet
    | TimerFired
    | DeadlinePassed
    | Snapshot
    | ToolsListed
    | EffectDispatched
    | EffectCommitted
    | EffectFailed
    | EffectUnknown
    | EffectRefused
    | ApprovalRequested
    | TariffRecorded
    | StatelessCalls
    | KeyCreated
    | KeyRevoked
    | SecretStored
    | SecretRemoved
    | AuditSalted
    | AuditKept
)

TERMINAL = (TurnCompleted, TurnIncomplete, TurnFailed, TurnCancelled)
EFFECTS_BEGUN = (EffectDispatched, EffectRefused, ApprovalRequested)
EFFECTS_ENDED = (EffectCommitted, EffectFailed, EffectUnknown)
EFFECTS: frozenset[type] = frozenset((*EFFECTS_BEGUN, *EFFECTS_ENDED))
"""What becomes of one tool call."""


class Dedup(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A key under which a retry finds the first turn; it is written with the event.

    ``ref`` is the response id; ``digest`` tells whether the retry brings the same body. With
    ``replace`` an older entry is overwritten, without it the append is refused as a duplicate.
    """

    key: str
    ref: str
    digest: str
    ttl_s: int
    replace: bool = False


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One record of a session's log.

    ``seq`` counts from 1 without a gap, chunks and snapshots included. ``at_ms`` is Unix time.
    ``epoch`` is the ownership under which it was written (0 until stored). ``post`` names the inbox
    row that this event consumes. ``dedup`` is written beside it and is no part of the log.
    """

    session: SessionRef
    seq: int
    at_ms: int
    body: Body
    epoch: int = 0
    post: int | None = None
    dedup: tuple[Dedup, ...] = ()


Upcast = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTS: dict[str, Upcast] = {}
"""From an old tag to a function that makes the next version's dict, its new tag included."""


class _Tagged(msgspec.Struct):
    """All that is known of a body of an unknown version."""

    type: str


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Body] = msgspec.json.Decoder(Body)


def encode_body(body: Body) -> bytes:
    """The stored form: JSON."""
    return _encoder.encode(body)


def decode_body(raw: bytes) -> Body:
    """Read a stored body of any version that was ever released.

    Raises:
        msgspec.ValidationError: unknown type or version, or a shape that no version had.
    """
    try:
        return _decoder.decode(raw)
    except msgspec.ValidationError:
        if msgspec.json.decode(raw, type=_Tagged).type not in UPCASTS:
            raise
    return upcast(msgspec.json.decode(raw))


def upcast(old: dict[str, Any], upcasts: dict[str, Upcast] = UPCASTS) -> Body:
    """Carry an old body up, version by version, to the current one.

    Raises:
        msgspec.ValidationError: the last version that the steps reach is not a current one.
    """
    for _ in range(len(upcasts)):
        step = upcasts.get(old["type"])
        if step is None:
            break
        old = step(old)
    # By way of JSON, since a snapshot keeps its state as raw JSON.
    return _decoder.decode(_encoder.encode(old))
