"""What the calls of many logs cost: those of turns, and those that are kept in no session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stateline.core import events as e
from stateline.core.billing import Metered, Tariff
from stateline.core.ids import SessionRef, effect_key
from stateline.core.placing import responses_call

TARIFF_TAGS = ("tariff_recorded",)
TAGS = (
    "turn_requested",
    "model_call_started",
    "model_call_finished",
    "model_call_failed",
    "stateless_calls",
    *TARIFF_TAGS,
)
"""Of the events that `Calls` looks at; a reading may leave out all others."""


class _Step(NamedTuple):
    """A call of a turn that is under way."""

    turn: e.TurnRequested
    started: e.ModelCallStarted


class Calls:
    """Follows logs, one session after the other: of each, events in order from the beginning of a turn.

    Attributes:
        tariffs: those seen, by id. One is recorded before the first event that names it, but in a session of its
            own, which may be read later.
    """

    def __init__(self) -> None:
        self.tariffs: dict[str, Tariff] = {}
        self._session: SessionRef | None = None
        self._turn: e.TurnRequested | None = None
        self._steps: dict[str, _Step] = {}
        self._stateless: dict[str, e.StatelessCallStarted] = {}

    @property
    def under_way(self) -> int:
        """Calls that have begun and not ended, as far as was read."""
        return len(self._steps) + len(self._stateless)

    def see(self, event: e.Event) -> Sequence[Metered]:
        """The calls that an event ends."""
        body = event.body
        if type(body) is e.TurnRequested:
            self._session, self._turn = event.session, body
        elif type(body) is e.ModelCallStarted:
            if self._turn is not None and self._session == event.session:
                self._steps[effect_key(event.session.id, body.turn, body.step)] = _Step(self._turn, body)
            # Else the log was cut before it: nothing is known of the call.
        elif type(body) is e.ModelCallFinished or type(body) is e.ModelCallFailed:
            found = self._ended(event, body)
            return () if found is None else (found,)
        elif type(body) is e.StatelessCalls:
            for started in body.started:
                self._stateless[started.id] = started
            return [found for ended in body.ended if (found := self._stateless_ended(event, ended)) is not None]
        elif type(body) is e.TariffRecorded:
            self.tariffs[body.tariff.id] = body.tariff
        return ()

    def _ended(self, event: e.Event, body: e.ModelCallFinished | e.ModelCallFailed) -> Metered | None:
        ref = event.session
        key = effect_key(ref.id, body.turn, body.step)
        step = self._steps.pop(key, None)
        if step is None:
            return None
        turn, started = step
        request = turn.request
        call = responses_call(
            ref.tenant,
            turn.principal,
            stateful=turn.stateful,
            service_tier=request.service_tier,
            agent=turn.agent_name,
        )
        failed = body if type(body) is e.ModelCallFailed else None
        return Metered(
            id=key,
            at_ms=event.at_ms,
            tenant=ref.tenant,
            principal=turn.principal,
            session=ref.id,
            model=turn.model,
            deployment=started.deployment,
            interface=call.interface,
            workload=call.workload,
            charge=body.charge,
            usage=body.usage,
            status="ok" if failed is None else failed.code,
            unbilled=failed is not None and failed.unbilled,
        )

    def _stateless_ended(self, event: e.Event, body: e.StatelessCallEnded) -> Metered | None:
        started = self._stateless.pop(body.id, None)
        if started is None:
            return None
        return Metered(
            id=body.id,
            at_ms=event.at_ms,
            tenant=started.tenant,
            principal=started.principal,
            session="",
            model=started.model,
            deployment=started.deployment,
            interface=started.interface,
            workload="stateless",
            charge=body.charge,
            usage=body.usage,
            status="ok" if body.code is None else body.code,
        )
