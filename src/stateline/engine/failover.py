"""What becomes of a call that failed, or that no deployment takes: elsewhere at once, later, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from stateline.core import events as e
from stateline.core.calls import ModelRequest
from stateline.core.errors import BadRequest, ModelError
from stateline.core.limits import NO_DEPLOYMENT_WAIT_MS_MAX
from stateline.core.placing import Passed, Standing, nowhere, refused_of, soonest_ms
from stateline.core.session import Session, Turn
from stateline.engine.health import Monitor, movable
from stateline.engine.meter import Purse
from stateline.engine.place import Catalogue, Placement, standings
from stateline.ports import Judge


def not_carried(error: BadRequest) -> ModelError:
    """A request that a deployment's format cannot carry, as a failed call: nothing was sent."""
    failure = ModelError(error.message, code=error.code, retryable=False, status=error.status, sent=False)
    failure.param = error.param
    return failure


class Look(NamedTuple):
    """What a look at a model's deployments goes by."""

    catalogue: Catalogue
    monitor: Monitor
    request: Callable[[], ModelRequest]
    judge: Judge | None = None
    purse: Purse | None = None

    def at(self, model: str, tried: Sequence[str] = ()) -> Sequence[Standing]:
        """How they stand now, those that were tried passed over."""
        return standings(self.catalogue, self.monitor, model, self.request, tried, judge=self.judge, purse=self.purse)


def told(look: Look, session: Session, *, failure: ModelError, ending: e.ModelCallFailed) -> e.ModelCallFailed:
    """The end of a failed call, with what the model's other deployments make of it.

    It says so where one of them takes the call at once. Else the turn waits no longer than until the first of
    them does, and not at all where no try of this round may go better the next time.
    """
    turn = session.turn
    assert turn is not None
    assert turn.call is not None
    model = turn.model
    if len(look.catalogue.candidates(model)) < 2 or not movable(failure):
        return ending
    if any(each.why is None for each in look.at(model, (*turn.tried, turn.call.deployment))):
        return msgspec.structs.replace(ending, elsewhere=True)
    untils = [0 if each.why is None else each.until_ms for each in look.at(model)]
    soonest = min((each for each in untils if each is not None), default=None)
    after_ms = None if soonest is None else max(0, soonest - look.monitor.now_ms())
    return msgspec.structs.replace(ending, retryable=ending.retryable or turn.hopeful, retry_after_ms=after_ms)


def unplaced(turn: Turn, step: int, placement: Placement, now_ms: int, judge: Judge | None = None) -> e.Body:
    """What a turn does whose call goes nowhere now: it waits until a deployment takes it, where one will in time."""
    # Where all that took it have failed in this round, none says when; the round begins again at once.
    until_ms = now_ms if any(each.why == "failed" for each in placement.passed) else placement.until_ms
    if until_ms is None or until_ms >= turn.deadline_ms:
        text_of = str if judge is None else judge.text_of
        error = nowhere(turn.model, placement.passed, now_ms, placement.refused, text_of)
        return e.TurnFailed(response_id=turn.response_id, code=error.code, message=error.message)
    if step >= turn.limits.steps_max:
        # The timer would be the last step, with no call left to follow it.
        return e.TurnIncomplete(response_id=turn.response_id, reason="max_steps")
    turn_number, passed, refused = turn.number_in_session, placement.passed, placement.refused
    return e.TimerSet(turn=turn_number, step=step, due_ms=until_ms, passed=passed, refused=refused)


def check_room(
    catalogue: Catalogue,
    monitor: Monitor,
    request: ModelRequest,
    *,
    patient: bool,
    judge: Judge | None = None,
    purse: Purse | None = None,
) -> None:
    """Refuse at the door what would only wait: nobody should hold a connection for that.

    ``patient`` requests (in the background) are refused only where no waiting helps.

    Raises:
        NoDeployment: every deployment is out, for longer than NO_DEPLOYMENT_WAIT_MS_MAX.
        BadRequest: none can carry the request, or contracts deny it to all.
    """
    now_ms = monitor.now_ms()
    passed: list[Passed] = []
    looked = standings(catalogue, monitor, request.params.model, lambda: request, judge=judge, purse=purse)
    for each in looked:
        if each.why is None or each.why == "max_concurrency":
            return
        passed.append(Passed(each.deployment, each.why, each.until_ms))
    if not passed:
        return
    until_ms = soonest_ms(passed)
    if until_ms is None or not (patient or until_ms - now_ms <= NO_DEPLOYMENT_WAIT_MS_MAX):
        if judge is None:
            raise nowhere(request.params.model, passed, now_ms)
        refused = refused_of(looked)
        for each in refused:
            judge.count(each.ruling)
        raise nowhere(request.params.model, passed, now_ms, refused, judge.text_of)
