"""How rate limits' balances move: with a call's reservation, and again when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

from stateline.core import events as e
from stateline.core.billing import ONE, Counted
from stateline.core.calls import ModelRequest, Usage
from stateline.core.errors import BadRequest, RateLimited, StatelineError
from stateline.core.limits import RATE_WINDOW_MS
from stateline.core.session import Turn
from stateline.core.tokens import estimate_tokens
from stateline.money.rates import Count, again_ms
from stateline.ports import BudgetExceeded, Hold


def tokens_of(request: ModelRequest) -> int:
    """What a request counts for before it is answered: its input by estimate, and the output that it allows."""
    return estimate_tokens(request) + (request.params.max_output_tokens or 0)


def counting(counts: Iterable[Count], request: Callable[[], ModelRequest]) -> tuple[tuple[Counted, ...], list[Hold]]:
    """What a call counts for, for the log, and how balances move with it. ``request``: where tokens are counted."""
    counted: list[Counted] = []
    holds: list[Hold] = []
    tokens: int | None = None
    for name, _, kind, most, until_ms in counts:
        limit, expires_ms = Decimal(most), until_ms + RATE_WINDOW_MS
        if kind == "requests":
            holds.append(Hold(budget=name, spent=ONE, limit=limit, expires_ms=expires_ms))
        elif kind == "tokens":
            tokens = tokens_of(request()) if tokens is None else tokens
            holds.append(Hold(budget=name, spent=Decimal(tokens), limit=limit, expires_ms=expires_ms))
            counted.append(Counted(name, tokens=tokens, until_ms=until_ms))
        else:
            holds.append(Hold(budget=name, held=ONE, limit=limit))
            counted.append(Counted(name, places=1))
    return tuple(counted), holds


def ended(counted: Iterable[Counted], usage: Usage | None, *, unsent: bool) -> list[Hold]:
    """How balances move when a call has ended.

    Its places are given back. Its estimate is corrected by its usage, or to nothing where nothing of it was sent; where
    no usage came, the estimate stays.
    """
    holds: list[Hold] = []
    for each in counted:
        if each.places:
            holds.append(Hold(budget=each.budget, held=Decimal(-each.places)))
        elif usage is not None or unsent:
            more = Decimal((0 if usage is None else usage.total_tokens) - each.tokens)
            holds.append(Hold(budget=each.budget, spent=more, expires_ms=each.until_ms + RATE_WINDOW_MS))
    return holds


def may_fail(holds: Iterable[Hold]) -> bool:
    """Whether one of them may be refused, so that the call has to wait until it is not."""
    return any(hold.limit is not None and (hold.spent or hold.held) for hold in holds)


def unpaid(turn: Turn, step: int, error: BadRequest | BudgetExceeded | RateLimited, at_ms: int) -> e.Body:
    """What a running turn does whose call is not made: where a rate limit is reached, it waits, if it has the time."""
    due_ms = again_ms(error, step, at_ms) if isinstance(error, RateLimited) else None
    if due_ms is None or due_ms >= turn.deadline_ms:
        failed: StatelineError = error
        return e.TurnFailed(response_id=turn.response_id, code=failed.code, message=failed.message)
    if step >= turn.limits.steps_max:
        # The timer would be the last step, with no call left to follow it.
        return e.TurnIncomplete(response_id=turn.response_id, reason="max_steps")
    return e.TimerSet(turn=turn.number_in_session, step=step, due_ms=due_ms)
