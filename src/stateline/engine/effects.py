"""What a tenant's agents did, and what of it waits for a person: a view of the logs of its sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from stateline.core import events as e
from stateline.core.effected import EffectRecord, Effects
from stateline.core.errors import BadRequest, Conflict, NotFound
from stateline.core.ids import SessionRef, item_session, may_be_session
from stateline.core.items import EffectResolution, Item, McpApprovalResponse
from stateline.core.limits import PLACEMENT_SESSIONS_MAX
from stateline.core.session import Session
from stateline.engine.answering import follow_on
from stateline.engine.node import Node
from stateline.engine.types import Answerer, Submission
from stateline.ports import SessionMissing, Store


class EffectsPage(NamedTuple):
    """``cursor`` is where the next page begins; None where there is none."""

    records: list[EffectRecord]
    cursor: str | None


async def effects(
    store: Store,
    tenant: str,
    wanted: Callable[[EffectRecord], bool],
    *,
    now_ms: int,
    session: str | None,
    after: str | None,
) -> EffectsPage:
    """The calls that are wanted, of up to PLACEMENT_SESSIONS_MAX sessions, the newest session and call first.

    Args:
        now_ms: Unix time, past which an approval may have expired.
        session: of this one alone.
        after: the ``cursor`` of the page before.

    Raises:
        BadRequest: ``invalid_cursor``.
        NotFound: ``session`` is no session of this tenant.
    """
    for name, text in (("after", after), ("session", session)):
        if text is not None and not may_be_session(text):
            if name == "session":
                raise NotFound("the session was not found", code="session_not_found", param="session")
            raise BadRequest("Invalid 'after': no such item in this list.", code="invalid_cursor", param="after")
    if session is not None:
        try:
            return EffectsPage(await _of(store, SessionRef(tenant, session), wanted, now_ms), None)
        except SessionMissing:
            raise NotFound("the session was not found", code="session_not_found", param="session") from None
    out: list[EffectRecord] = []
    names = await store.sessions(tenant, after, PLACEMENT_SESSIONS_MAX)
    for name in names:
        try:
            out += await _of(store, SessionRef(tenant, name), wanted, now_ms)
        except SessionMissing:
            continue  # It was erased meanwhile.
    return EffectsPage(out, names[-1] if len(names) == PLACEMENT_SESSIONS_MAX else None)


async def _of(store: Store, ref: SessionRef, wanted: Callable[[EffectRecord], bool], now_ms: int) -> list[EffectRecord]:
    found = Effects()
    async for event in store.read(ref):
        # A fork's prefix is seen as well: what waits there may have been answered here.
        found.see(event)
    return [each for each in reversed(found.as_of(now_ms)) if each.session == ref and wanted(each)]


async def answer(node: Node, tenant: str, by: Answerer, item: McpApprovalResponse | EffectResolution) -> Submission:
    """The background turn that goes on from what a person says of a call, as its session's own principal.

    Raises:
        NotFound: ``approval_not_found``, ``effect_not_found``.
        Conflict: ``approval_answered``, ``effect_resolved``: somebody was first; ``conversation_locked``: a turn runs.
    """
    approval = type(item) is McpApprovalResponse
    id_ = item.approval_request_id if type(item) is McpApprovalResponse else item.call_id  # pyright: ignore
    what = "approval" if approval else "effect"
    missing = NotFound(f"the {what} {id_!r} was not found", code=f"{what}_not_found", param="id")
    name = item_session(id_)
    if name is None:
        raise missing
    ref = SessionRef(tenant, name)
    try:
        session = await node.load(ref)
    except NotFound:
        raise missing from None
    waits = session.pending.get(id_)
    if waits is None or (waits.asked is None) == approval:
        if any(each.id == id_ for each in session.context):
            code = f"{what}_answered" if approval else "effect_resolved"
            raise Conflict(f"{id_!r} is answered already; the first answer counts", code=code)
        raise missing
    if session.turn is not None:
        raise Conflict(
            "a response is being made in its session; try again when that has ended", code="conversation_locked"
        )
    requested = await _requested(node.store, session, waits.response_id)
    conversation = session.kind == "conversation"
    return Submission(
        tenant=tenant,
        principal=waits.principal,
        request=follow_on(requested, in_conversation=conversation, previous=session.last_response_id),
        input=_input(item),
        conversation=session.ref.id if conversation else None,
        user=requested.user if waits.asked is None else waits.asked.user,
        answerer=by,
    )


def _input(item: McpApprovalResponse | EffectResolution) -> tuple[Item, ...]:
    return (item,)


async def _requested(store: Store, session: Session, response_id: str) -> e.TurnRequested:
    async for event in store.read(session.ref):
        if type(event.body) is e.TurnRequested and event.body.response_id == response_id:
            return event.body
    raise NotFound("the response that asked was not found", code="approval_not_found")
