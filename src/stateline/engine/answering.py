"""What persons say of calls that wait for them, before it becomes a turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from stateline.core import events as e
from stateline.core.acting import Pending
from stateline.core.approvals import by_another
from stateline.core.errors import BadRequest, Conflict, Forbidden, NotFound
from stateline.core.ids import item_session
from stateline.core.items import (
    EffectResolution,
    FunctionCall,
    Item,
    McpApprovalRequest,
    McpApprovalResponse,
    McpCall,
    Message,
    Reasoning,
)
from stateline.core.limits import ANSWERED_SESSIONS_MAX, APPROVAL_TTL_MS
from stateline.core.session import Session
from stateline.core.tools import Answer
from stateline.engine.types import Answerer

ANSWER_DIGEST = "answer"
"""The digest of the dedup keys of answers: no request's body has it."""
_ANSWER_TTL_S = 2 * APPROVAL_TTL_MS // 1000


def asked_elsewhere(items: Iterable[Item]) -> set[str]:
    """The sessions that have asked what is answered among ``items``.

    Raises:
        BadRequest: ``too_many_answers``.
    """
    every = list(items)
    told = _history(every)
    found = {
        item_session(item.approval_request_id)
        for at, item in enumerate(every)
        if type(item) is McpApprovalResponse and at >= told
    }
    sessions = {each for each in found if each is not None}
    if len(sessions) > ANSWERED_SESSIONS_MAX:
        raise BadRequest(
            f"'input' answers approvals of {len(sessions)} other sessions; {ANSWERED_SESSIONS_MAX} at most",
            code="too_many_answers",
            param="input",
        )
    return sessions


def _history(items: Sequence[Item]) -> int:
    """How many of the first items were said before: up to the last that a model or a tool has said.

    A client that keeps its context sends answers again that have had their effect; what came of them follows them.
    """
    for at in range(len(items) - 1, -1, -1):
        item = items[at]
        if type(item) in _SAID or (type(item) is Message and item.role == "assistant"):
            return at + 1
    return 0


_SAID: frozenset[type] = frozenset((FunctionCall, McpCall, Reasoning))


def answers_in(
    session: Session, items: Sequence[Item], who: Answerer, now_ms: int, elsewhere: Mapping[str, Pending]
) -> tuple[Answer, ...]:
    """The answers among a turn's input.

    Args:
        elsewhere: what waits in other sessions, by id. A client that keeps its context itself brings a request and
            its answer into another session; what it asks for must be there as it was asked.

    Raises:
        NotFound: ``approval_not_found``, ``effect_not_found``.
        Conflict: ``approval_answered``, ``effect_resolved``, ``approval_expired``.
        Forbidden: ``approval_by_requester``: another must answer; ``approval_needs_scope``: one who may approve.
        BadRequest: ``duplicate_answer``.
    """
    answers: list[Answer] = []
    by = who.principal
    told = _history(items)
    for at, item in enumerate(items):
        if type(item) is McpApprovalResponse:
            id_ = item.approval_request_id
            if at < told and id_ not in session.pending:
                continue
            moved = elsewhere.get(id_) if id_ not in session.pending else None
            waits = _waiting(session, id_, approval=True) if moved is None else moved
            _may(waits, id_, who, now_ms)
            if moved is not None:
                _same(moved, id_, items)
            answers.append(
                Answer(
                    id=id_,
                    decision="approve" if item.approve else "reject",
                    by=by,
                    by_another=waits.asked is not None and by_another(waits.asked, by, who.user),
                    call=None if moved is None else moved.call,
                    asked=None if moved is None else moved.asked,
                    tries=waits.tries,
                )
            )
        elif type(item) is EffectResolution:
            waits = _waiting(session, item.call_id, approval=False)
            answers.append(Answer(id=item.call_id, decision=item.decision, by=by, tries=waits.tries))
    if len({each.id for each in answers}) < len(answers):
        raise BadRequest("one call is answered twice in 'input'", code="duplicate_answer", param="input")
    return tuple(answers)


def _waiting(session: Session, id_: str, *, approval: bool) -> Pending:
    """What waits under this id, and for an answer of this kind: who lets a call go has not said what became of one."""
    waits = session.pending.get(id_)
    if waits is not None and waits.unknown != approval:
        return waits
    what = "approval" if approval else "effect"
    if approval and waits is None and any(_is_open(item, id_, session) for item in session.context):
        raise _expired(id_)
    if any(item.id == id_ and type(item) is (McpApprovalRequest if approval else McpCall) for item in session.context):
        code = "approval_answered" if approval else "effect_resolved"
        raise Conflict(f"{id_!r} is answered already; the first answer counts", code=code, param="input")
    raise NotFound(f"no {what} {id_!r} waits in this context", code=f"{what}_not_found", param="input")


def _same(waits: Pending, id_: str, items: Iterable[Item]) -> None:
    """The request beside an answer must be the one that was asked: what the client saw is what it lets go."""
    call = waits.call
    for item in items:
        if type(item) is McpApprovalRequest and item.id == id_:
            if (item.server_label, item.name, item.arguments) == (call.server, call.tool, call.arguments):
                return
            raise BadRequest(
                f"the approval request {id_!r} in 'input' is not what was asked", code="approval_changed", param="input"
            )
    raise NotFound(f"no approval {id_!r} waits in this context", code="approval_not_found", param="input")


def _is_open(item: Item, id_: str, session: Session) -> bool:
    """Whether the item is the request, and nothing in the session answers it."""
    return (
        type(item) is McpApprovalRequest
        and item.id == id_
        and not any(type(each) is McpApprovalResponse and each.approval_request_id == id_ for each in session.context)
    )


def _expired(id_: str) -> Conflict:
    return Conflict(
        f"the approval {id_!r} has expired; let the call be asked for anew", code="approval_expired", param="input"
    )


def _may(waits: Pending, id_: str, who: Answerer, now_ms: int) -> None:
    asked = waits.asked
    if asked is None or waits.unknown:
        raise NotFound(f"no approval {id_!r} waits in this context", code="approval_not_found", param="input")
    if now_ms >= asked.expires_ms:
        raise _expired(id_)
    if asked.demanded_by == "policy" and not who.may_approve:
        raise Forbidden("what the policy demands takes a key with the scope 'approve'", code="approval_needs_scope")
    if asked.demanded_by == "policy" and not by_another(asked, who.principal, who.user):
        raise Forbidden(
            "the policy wants another than whoever asked for this call to approve it", code="approval_by_requester"
        )


def answer_keys(answers: Iterable[Answer], response_id: str) -> tuple[e.Dedup, ...]:
    """Each answer counts once in the whole store, whatever branches its session has."""
    return tuple(
        [
            e.Dedup(key=f"answer:{each.id}/{each.tries}", ref=response_id, digest=ANSWER_DIGEST, ttl_s=_ANSWER_TTL_S)
            for each in answers
        ]
    )


def follow_on(requested: e.TurnRequested, *, in_conversation: bool, previous: str | None) -> e.TurnRequest:
    """The request of the background turn that goes on from an answer: as the one that asked."""
    return msgspec.structs.replace(
        requested.request,
        background=True,
        stream=False,
        store=True,
        in_conversation=in_conversation,
        previous_response_id=None if in_conversation else previous,
    )
