"""Where the calls of a log went: what was decided of each, with what clauses may ask of it."""

from __future__ import annotations

from typing import NamedTuple

from stateline.core import events as e
from stateline.core.ids import SessionRef, effect_key
from stateline.core.placing import CallFacts, Passed, Refused, Ruling, responses_call

TAGS = ("turn_requested", "model_call_started", "timer_set")
"""Of the events that `Placements` looks at; a reading may leave out all others."""


class Placed(NamedTuple):
    """One placement of a step.

    Attributes:
        at_ms: when it was decided, in Unix time.
        call: what clauses may ask of it.
        affinity: what the choice among equal deployments went by.
        deployment: None where the call went nowhere, and the turn waited.
        origin: of what the deployment made (``core.origin``); None where it went nowhere.
        verdict: on the deployment; None where there were no contracts.
        passed: the other candidates in their order, and why each did not get the call.
        refused: the verdicts on those that a contract kept out.
    """

    session: SessionRef
    turn: int
    step: int
    response_id: str
    at_ms: int
    model: str
    call: CallFacts
    affinity: str
    deployment: str | None
    origin: str | None
    verdict: Ruling | None
    passed: tuple[Passed, ...]
    refused: tuple[Refused, ...]

    @property
    def id(self) -> str:
        """The step's key, ``session/turn/step``."""
        return effect_key(self.session.id, self.turn, self.step)


class Placements:
    """Follows logs, one session after the other: of each, events in order from the beginning of a turn."""

    __slots__ = ("_session", "_turn")

    def __init__(self) -> None:
        self._session: SessionRef | None = None
        self._turn: e.TurnRequested | None = None

    def see(self, event: e.Event) -> Placed | None:
        """The placement that an event records, if it records one."""
        body = event.body
        if type(body) is e.TurnRequested:
            self._session, self._turn = event.session, body
            return None
        if type(body) is e.ModelCallStarted:
            return self._placed(event, body, body)
        if type(body) is e.TimerSet and body.passed:
            return self._placed(event, body, None)
        return None

    def _placed(
        self, event: e.Event, body: e.ModelCallStarted | e.TimerSet, started: e.ModelCallStarted | None
    ) -> Placed | None:
        turn, ref = self._turn, event.session
        if turn is None or self._session != ref:
            return None  # The log was cut before it: nothing is known of the call.
        request = turn.request
        return Placed(
            session=ref,
            turn=body.turn,
            step=body.step,
            response_id=turn.response_id,
            at_ms=event.at_ms,
            model=turn.model,
            call=responses_call(
                ref.tenant,
                turn.principal,
                stateful=turn.stateful,
                service_tier=request.service_tier,
                agent=turn.agent_name,
            ),
            affinity=request.prompt_cache_key or ref.id,
            deployment=None if started is None else started.deployment,
            origin=None if started is None else started.origin,
            verdict=None if started is None else started.verdict,
            passed=body.passed,
            refused=body.refused,
        )
