"""The legal transitions of a turn. All of them are here; everything else raises.

The states:

- ``ready``: the next thing to do is a model call
- ``calling``: a model call was placed and has not ended
- ``answered``: the model has answered; what follows is decided
- ``stumbled``: the model call gave no answer
- ``acting``: tools are called, or it is decided whether they are
- ``waiting``: a timer runs before the next call, or until a deployment can take one

``None`` is no turn at all: before TurnRequested and after the turn's last event. The diagram in
ARCHITECTURE.md is made from this table (``python scripts/state_diagram.py``).
"""

from __future__ import annotations

from typing import Literal

from stateline.core import events as e
from stateline.core.errors import IllegalTransition

TurnState = Literal["ready", "calling", "answered", "acting", "stumbled", "waiting"]

_OPEN: tuple[TurnState, ...] = ("ready", "calling", "acting", "stumbled", "waiting")
_BETWEEN_CALLS: tuple[TurnState, ...] = ("ready", "answered", "acting", "stumbled", "waiting")

TRANSITIONS: dict[tuple[TurnState | None, type], TurnState | None] = {
    (None, e.TurnRequested): "ready",
    ("ready", e.ModelCallStarted): "calling",
    ("stumbled", e.ModelCallStarted): "calling",
    ("calling", e.ModelCallFinished): "answered",
    ("calling", e.ModelCallFailed): "stumbled",
    ("ready", e.ToolsListed): "ready",
    # A turn that begins with what a person has approved acts before it calls a model.
    **{(state, body): "acting" for state in ("ready", "answered", "acting") for body in e.EFFECTS_BEGUN},
    **{("acting", body): "acting" for body in e.EFFECTS_ENDED},
    ("acting", e.ModelCallStarted): "calling",
    ("acting", e.TimerSet): "waiting",
    ("acting", e.TurnCompleted): None,
    ("ready", e.TimerSet): "waiting",
    ("stumbled", e.TimerSet): "waiting",
    ("waiting", e.TimerFired): "ready",
    ("answered", e.TurnCompleted): None,
    # What comes from outside changes no state by itself; it is decided upon. Nothing comes between an
    # answer and the end that follows from it: they are one append.
    **{(state, e.TurnResumed): state for state in _OPEN},
    **{(state, e.CancelRequested): state for state in _OPEN},
    **{(state, e.DeadlinePassed): state for state in _OPEN},
    # A call must have ended before its turn does, so that its stream is closed in order.
    **{(state, end): None for state in _BETWEEN_CALLS for end in (e.TurnIncomplete, e.TurnFailed, e.TurnCancelled)},
}


def next_state(state: TurnState | None, event: type) -> TurnState | None:
    """The state after an event of this type.

    Raises:
        IllegalTransition: the table does not have it.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.__name__} cannot follow in state {state or 'no turn'}") from None
