"""What must hold at every moment of a run, checked where it happens and by rules of its own.

The audit never asks the database or the engine whether a change is right: it keeps its own few facts
of each session and compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

from stateline.core import events as e
from stateline.core.billing import Charge, Reserved
from stateline.core.ids import SessionRef, effect_key
from stateline.core.transitions import TRANSITIONS, TurnState
from stateline.ports import Balance, Hold, Ownership
from stateline.testing.sim.faults import transitions
from stateline.testing.sim.loop import Host, SimLoop

_TURN_EVENTS = frozenset(kind for _, kind in TRANSITIONS)
STEPS_MAX = 40_000
"""A run of the usual length that takes more goes round in circles."""
EXCUSED_S = 45.0
"""After a fault of its own, a node may lose its lease for as long."""


class InvariantBroken(AssertionError):
    """A run did what no run may do.

    Attributes:
        seed: replays it.
        findings: what was broken, first things first.
    """

    def __init__(self, seed: int, findings: Sequence[str]) -> None:
        super().__init__(
            f"seed {seed}: " + "; ".join(findings[:3]) + f"\n  replay: python -m stateline.testing.sim --seed {seed}"
        )
        self.seed = seed
        self.findings = tuple(findings)


class Facts:
    """What the audit knows of one session."""

    __slots__ = ("cancelling", "epoch", "head", "owner", "response_id", "state")

    def __init__(self, head: int) -> None:
        self.head = head
        self.epoch = 0
        self.owner = ""
        self.state: TurnState | None = None
        self.response_id = ""
        self.cancelling = False


class Audit:
    """Steps are counted and changes judged.

    Attributes:
        steps: appends attempted and effects dispatched.
        findings: what was broken; the first one ends the run.
        turns: the session of each response whose turn began.
        ended: how each turn ended.
    """

    def __init__(self, loop: SimLoop) -> None:
        self.steps = 0
        self.findings: list[str] = []
        self.turns: dict[str, SessionRef] = {}
        self.ended: dict[str, type] = {}
        self.waiting: dict[tuple[SessionRef, int], e.Event] = {}
        self.gone: set[SessionRef] = set()
        self._loop = loop
        self._facts: dict[SessionRef, Facts] = {}
        self._consumed: set[tuple[SessionRef, int]] = set()
        self._placed: set[str] = set()
        self._dispatched: set[str] = set()
        self._reserved: dict[str, Reserved] = {}
        """What calls that have not ended have set aside, by their effects' keys."""
        self._totals: Counter[str] = Counter()
        self._limits: dict[str, Decimal] = {}
        self._charged: Counter[str] = Counter()
        self._fired: set[tuple[SessionRef, int, int]] = set()
        self._hosts: dict[str, Host] = {}
        self._excused: dict[Host, float] = {}

    def broken(self, rule: str, detail: str) -> None:
        self.findings.append(f"{rule}: {detail}")
        self._loop.halted = True

    # -- the log --------------------------------------------------------------------------------------

    def attempted(self, ref: SessionRef, events: Sequence[e.Event]) -> tuple[int, ...]:
        """An append was sent; the places of its transitions in the table."""
        self.steps += 1
        if self.steps > STEPS_MAX:
            self.broken("the run ends", f"{self.steps} steps, and no end")
        if len(events) == 1 and type(events[0].body) is e.Chunk:
            return ()
        facts = self._facts.get(ref)
        return transitions(facts.state if facts is not None else None, events)[0]

    def appending(self, ref: SessionRef, own: Ownership, head: int, events: Sequence[e.Event]) -> None:
        """The database is about to take ``events`` in, on a log that it says ends at ``head``."""
        facts = self._facts.get(ref)
        if facts is None:
            facts = self._facts[ref] = Facts(head)
        if own.epoch < facts.epoch or (own.epoch == facts.epoch and own.owner != facts.owner):
            self.broken("one writer per epoch", f"{own.owner} wrote epoch {own.epoch} after {facts.epoch} of {ref.id}")
        facts.epoch, facts.owner = own.epoch, own.owner
        for event in events:
            facts.head += 1
            if event.seq != facts.head:
                self.broken("contiguous log", f"event {event.seq} of {ref.id} where {facts.head} was next")
                return
            kind = type(event.body)
            if kind is not e.Chunk:
                self._event(facts, ref, event, kind)

    def _event(self, facts: Facts, ref: SessionRef, event: e.Event, kind: type) -> None:
        body = event.body
        if event.post is not None:
            if (ref, event.post) in self._consumed:
                self.broken("an input enters once", f"post {event.post} of {ref.id}")
            self._consumed.add((ref, event.post))
            self.waiting.pop((ref, event.post), None)
        if isinstance(body, e.TurnRequested):
            if body.response_id in self.turns:
                self.broken("one turn per response", body.response_id)
            self.turns[body.response_id] = ref
            facts.response_id, facts.cancelling = body.response_id, False
        elif isinstance(body, e.ModelCallStarted):
            key = effect_key(ref.id, body.turn, body.step)
            self._placed.add(key)
            if body.reserved is not None:
                self._reserved[key] = body.reserved
        elif isinstance(body, e.ModelCallFinished | e.ModelCallFailed):
            self._charge(effect_key(ref.id, body.turn, body.step), body.charge)
        elif isinstance(body, e.CancelRequested):
            facts.cancelling = True
        elif isinstance(body, e.TimerFired):
            timer = (ref, body.turn, body.step)
            if timer in self._fired:
                self.broken("a timer fires once", f"turn {body.turn} step {body.step} of {ref.id}")
            self._fired.add(timer)
        if (facts.state, kind) in TRANSITIONS:
            facts.state = TRANSITIONS[facts.state, kind]
        elif kind in _TURN_EVENTS:
            self.broken("legal transitions", f"{kind.__name__} in {facts.state} of {ref.id}")
        if isinstance(body, e.TERMINAL):
            if self.ended.setdefault(body.response_id, kind) is not kind or body.response_id != facts.response_id:
                self.broken("one end per turn", body.response_id)
            if facts.cancelling and kind is not e.TurnCancelled:
                self.broken("a cancel has an effect", f"{body.response_id} ended as {kind.__name__}")

    def erased(self, ref: SessionRef) -> None:
        self.gone.add(ref)
        for key in [key for key in self.waiting if key[0] == ref]:
            del self.waiting[key]

    def posted(self, ref: SessionRef, post: int, event: e.Event) -> None:
        self.waiting[ref, post] = event

    # -- money --------------------------------------------------------------------------------------------

    def held(self, ref: SessionRef, holds: Sequence[Hold]) -> None:
        """An append of ``ref`` moves balances. Not even what is settled may bring one above its limit."""
        for hold in holds:
            if hold.limit is not None:
                self._limits[hold.budget] = hold.limit
            self._totals[hold.budget] += hold.held + hold.spent  # pyright: ignore[reportArgumentType]
        for name in {hold.budget for hold in holds}:
            limit = self._limits.get(name)
            if limit is not None and self._totals[name] > limit:
                self.broken("no budget is overdrawn", f"{name} at {self._totals[name]} of {limit} by {ref.id}")

    def _charge(self, key: str, charge: Charge | None) -> None:
        """A call has ended; one that reserved nothing costs nothing."""
        reserved = self._reserved.pop(key, None)
        if reserved is None:
            if charge is not None:
                self.broken("what is charged was reserved", key)
            return
        if charge is None or not 0 <= charge.amount <= reserved.amount:
            self.broken("a call costs no more than it reserved", f"{key}: {charge} of {reserved.amount}")
            return
        for each in reserved.held:
            self._charged[each.budget] += charge.amount * each.rate  # pyright: ignore[reportArgumentType]

    def settled(self, balances: Mapping[str, Balance]) -> None:
        """At rest: nothing is held, and what is spent is what calls were charged."""
        if self._reserved:
            self.broken("every reservation is settled", f"{sorted(self._reserved)[:3]}")
        for name, (held, spent) in balances.items():
            if held or spent != self._charged[name]:
                self.broken(
                    "a balance is what calls cost", f"{name}: {held} held, {spent} of {self._charged[name]} spent"
                )

    # -- effects ------------------------------------------------------------------------------------------

    # A tool effect would be judged here as well, when the server runs tools: one that is unsafe must
    # never be dispatched again, under whatever step, unless its read-back proved that it was not done.

    def dispatched(self, key: str) -> None:
        """A model call went out."""
        self.steps += 1
        if key in self._dispatched:
            self.broken("a call goes out once", f"{key} was sent again")
        self._dispatched.add(key)
        if key not in self._placed:
            self.broken("record before effect", f"{key} was sent before its start was durable")

    # -- nodes ---------------------------------------------------------------------------------------------

    def joined(self, owner: str, host: Host) -> None:
        self._hosts[owner] = host

    def excuse(self, host: Host, for_s: float = EXCUSED_S) -> None:
        """A fault struck the node: its lease may run out."""
        self._excused[host] = max(self._excused.get(host, 0.0), self._loop.now_s + for_s)

    def lapsed(self, owner: str) -> None:
        """Sessions are being taken from ``owner`` as from a dead node."""
        host = self._hosts.get(owner)
        if host is not None and host.alive and not host.stalled and self._excused.get(host, 0.0) < self._loop.now_s:
            self.broken("a working node keeps its lease", f"{host.name} lost it with no fault")

    def died(self, what: str, error: BaseException) -> None:
        """A worker or a loop of a node ended with an error that no fault explains."""
        self.broken("no worker dies of a defect", f"{what}: {type(error).__name__}: {error}")
