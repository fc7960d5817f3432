"""Where a turn's model call goes, as it is recorded with what asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

from stateline.core import events as e
from stateline.core.errors import BadRequest, ModelError, RateLimited
from stateline.core.session import Session
from stateline.core.turn import CallModel, dropped, model_request
from stateline.engine.failover import Look, told, unplaced
from stateline.engine.health import Monitor
from stateline.engine.meter import Meter, Purse
from stateline.engine.paying import paid
from stateline.engine.place import Catalogue, Placement, judge_of, place, purse_of
from stateline.engine.rates import unpaid
from stateline.ports import BudgetExceeded, Clock, Hold, Rules


class Placing(Protocol):
    """What a placement needs of its node."""

    catalogue: Catalogue
    clock: Clock
    monitor: Monitor
    rules: Rules | None
    meter: Meter | None


class Placed(NamedTuple):
    """What records where a call goes, or why it goes nowhere; then there is no ``placement``."""

    body: e.Body
    placement: Placement | None = None
    holds: Sequence[Hold] = ()


def placed(
    home: Placing, session: Session, effect: CallModel, purse: Purse | None, begun: tuple[Catalogue, bool]
) -> Placed:
    """The event that records where the call goes, or why it goes nowhere.

    Args:
        begun: the catalogue that the turn began with, and whether it has begun: is in the log.

    Raises:
        BudgetExceeded, RateLimited: of the very first append.
    """
    turn = session.turn
    assert turn is not None
    catalogue = home.catalogue
    if not catalogue.candidates(turn.model):
        # The configuration has lost the model since; a turn that began with it ends with it.
        catalogue = begun[0]
    judge = judge_of(home.rules, session)
    request = partial(model_request, session, effect, stream=True)
    look = partial(
        place,
        catalogue,
        home.monitor,
        turn.model,
        affinity=turn.request.prompt_cache_key or session.ref.id,
        request=request,
        tried=turn.tried,
        judge=judge,
    )
    try:
        placement, quote = paid(look, purse, request, home.clock.now_ms())
    except (BadRequest, BudgetExceeded, RateLimited) as error:
        if not begun[1] and not isinstance(error, BadRequest):
            raise
        return Placed(unpaid(turn, effect.step, error, home.clock.now_ms()))
    deployment = placement.deployment
    if deployment is None:
        return Placed(unplaced(turn, effect.step, placement, home.clock.now_ms(), judge))
    body = e.ModelCallStarted(
        turn=effect.turn,
        step=effect.step,
        deployment=deployment.name,
        origin=deployment.origin,
        model=turn.model,
        stream=turn.request.stream or turn.request.background,
        passed=placement.passed,
        verdict=placement.ruling,
        refused=placement.refused,
        dropped=dropped(session, deployment.origin),
        reserved=quote.reserved,
        priced=placement.priced,
        counted=quote.counted,
    )
    return Placed(body, placement, quote.holds)


def told_of(
    home: Placing, session: Session, failure: ModelError | None, ending: e.ModelCallFinished | e.ModelCallFailed
) -> e.Body:
    """The end of a call, and, where it failed, whether another deployment takes it at once."""
    if failure is None or type(ending) is not e.ModelCallFailed:
        return ending
    request = partial(model_request, session, CallModel(turn=ending.turn, step=ending.step, key=""), stream=True)
    judge, purse = judge_of(home.rules, session), purse_of(home.meter, session)
    look = Look(home.catalogue, home.monitor, request, judge, purse)
    return told(look, session, failure=failure, ending=ending)
