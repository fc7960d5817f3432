"""Logs that an owner of another kind left: it wrote one event at a time, and died between any two.

Every one is legal by the table of transitions. This release writes what follows from an event in the
same append, so it never leaves a turn at rest in ``ready`` or ``stumbled``; it must take one up all the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from stateline.core import events as e
from stateline.core import ids
from stateline.core.errors import StatelineError
from stateline.core.ids import SessionRef
from stateline.core.items import InputText, Message
from stateline.core.limits import LEASE_TTL_S
from stateline.ports import Ownership
from stateline.testing.sim.faults import TABLE
from stateline.testing.sim.loop import Host
from stateline.testing.sim.store import SimStore
from stateline.testing.sim.world import World

Word = str | tuple[str, ...]
_BEGIN: tuple[Word, ...] = ("created", "requested")
_CALL: tuple[Word, ...] = (*_BEGIN, "started")
_FAIL: tuple[Word, ...] = (*_CALL, "failed")
_WAIT: tuple[Word, ...] = (*_FAIL, "timer")

SCRIPTS: tuple[tuple[Word, ...], ...] = (
    (*_BEGIN, "resumed"),
    (*_BEGIN, "cancel"),
    (*_BEGIN, "overdue"),
    (*_BEGIN, "resumed", "resumed", "resumed"),
    (*_BEGIN, "cancel", "cancelled"),
    (*_BEGIN, "overdue", "incomplete"),
    (*_BEGIN, "turn_failed"),
    (*_CALL, "resumed", "cancel", "overdue"),
    (*_CALL, "resumed", "resumed", "resumed"),
    (*_CALL, ("finished", "completed")),
    (*_CALL, ("finished", "turn_failed")),
    (*_CALL, ("finished", "incomplete")),
    (*_CALL, "cancel", ("finished", "cancelled")),
    (*_FAIL, "resumed", "started"),
    (*_FAIL, "cancel"),
    (*_FAIL, "overdue"),
    (*_FAIL, "resumed", "resumed", "resumed"),
    (*_FAIL, "cancel", "cancelled"),
    (*_FAIL, "incomplete"),
    (*_FAIL, "turn_failed"),
    (*_WAIT, "resumed"),
    (*_WAIT, "cancel"),
    (*_WAIT, "overdue"),
    (*_WAIT, "fired"),
    (*_WAIT, "fired", "started"),
    (*_WAIT, "resumed", "resumed", "resumed"),
    (*_WAIT, "cancel", "cancelled"),
    (*_WAIT, "overdue", "incomplete"),
    (*_WAIT, "turn_failed"),
)
"""What is appended one after the other; words in one tuple are one append."""

_TYPES: dict[str, type] = {
    "requested": e.TurnRequested,
    "resumed": e.TurnResumed,
    "cancel": e.CancelRequested,
    "overdue": e.DeadlinePassed,
    "started": e.ModelCallStarted,
    "finished": e.ModelCallFinished,
    "failed": e.ModelCallFailed,
    "timer": e.TimerSet,
    "fired": e.TimerFired,
    "completed": e.TurnCompleted,
    "incomplete": e.TurnIncomplete,
    "turn_failed": e.TurnFailed,
    "cancelled": e.TurnCancelled,
}


class Scribe:
    """Writes one script into one session, as a node of its own."""

    def __init__(self, world: World, number: int, script: Sequence[Word]) -> None:
        self._world = world
        self._script = script
        self._random: Random = world.random
        self.host = Host(f"scribe{number}")
        world.hosts.append(self.host)
        self._store = SimStore(world, world.database, world.audit, world.faults, self.host)
        self._owner = f"scribe{number}"
        self._ref = SessionRef(f"tenant{number % 2}", ids.session_id(world.clock.now_ms(), world.random.randbytes(9)))
        self._response_id = ids.response_id(self._ref.id, ids.nonce(world.random.randbytes(5)), 0)
        self._step = 0
        world.audit.joined(self._owner, self.host)

    async def write(self) -> None:
        """Append the script, then die; a refusal ends it sooner."""
        try:
            await self._store.renew(self._owner, LEASE_TTL_S)
            await self._store.create(self._ref)
            own = Ownership(session=self._ref, owner=self._owner, epoch=1, head=0)
            head = 0
            for words in self._script:
                for_one = (words,) if isinstance(words, str) else words
                events = [self._event(word, head + at) for at, word in enumerate(for_one, 1)]
                head = await self._store.append(own, head, events)
                await self._world.loop.pause(self._random.random() * 0.3)
        except StatelineError:
            pass
        self._world.crash(self.host)

    def _event(self, word: str, seq: int) -> e.Event:
        return e.Event(session=self._ref, seq=seq, at_ms=self._world.clock.now_ms(), body=self._body(word), epoch=1)

    def _body(self, word: str) -> e.Body:
        response_id = self._response_id
        if word in ("started", "timer"):
            self._step += 1
        match word:
            case "created":
                return e.SessionCreated(kind="chain")
            case "requested":
                item = Message(id=f"in{self._owner}", role="user", content=(InputText(text=self._owner),))
                return e.TurnRequested(
                    response_id=response_id,
                    turn=1,
                    request=e.TurnRequest(model="steady"),
                    input=(item,),
                    limits=self._world.limits,
                )
            case "resumed":
                return e.TurnResumed(owner=self._owner)
            case "cancel":
                return e.CancelRequested(response_id=response_id)
            case "overdue":
                return e.DeadlinePassed(turn=1)
            case "started":
                return e.ModelCallStarted(turn=1, step=self._step, deployment="steady-0", origin="o", model="steady")
            case "finished":
                return e.ModelCallFinished(turn=1, step=self._step, finish_reason="stop", next_number=2)
            case "failed":
                return e.ModelCallFailed(
                    turn=1, step=self._step, code="upstream_error", message="", retryable=True, next_number=2
                )
            case "timer":
                return e.TimerSet(turn=1, step=self._step, due_ms=self._world.clock.now_ms() + 2_000)
            case "fired":
                return e.TimerFired(turn=1, step=self._step)
            case "completed":
                return e.TurnCompleted(response_id=response_id)
            case "incomplete":
                return e.TurnIncomplete(response_id=response_id, reason="max_steps")
            case "turn_failed":
                return e.TurnFailed(response_id=response_id, code="gone", message="")
            case _:
                return e.TurnCancelled(response_id=response_id)


def scripts_for(world: World) -> list[Sequence[Word]]:
    """Those that lead to the run's target."""
    state, kind = TABLE[world.faults.target[0]]
    chosen: list[Sequence[Word]] = []
    for script in SCRIPTS:
        words = [word for words in script for word in ((words,) if isinstance(words, str) else words)]
        at = _state_before(words, kind)
        if at is not None and state in at:
            chosen.append(script)
    return chosen[:5]


def _state_before(words: Sequence[str], kind: type) -> set[str | None] | None:
    """The states in which a script has an event of ``kind``."""
    from stateline.core.transitions import TRANSITIONS

    states: set[str | None] = set()
    state = None
    for word in words:
        found = _TYPES.get(word)
        if found is None:
            continue
        if found is kind:
            states.add(state)
        state = TRANSITIONS[state, found]
    return states or None
