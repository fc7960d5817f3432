"""Submitting a turn: find its session, make its first events, wait until they are durable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import msgspec

from stateline.core import events as e
from stateline.core import ids
from stateline.core.acting import Pending
from stateline.core.calls import ModelRequest
from stateline.core.errors import BadRequest, Conflict, NotFound, Overloaded, StatelineError
from stateline.core.hosted import for_model
from stateline.core.ids import SessionRef
from stateline.core.items import HOSTED_ITEMS, Item, McpApprovalResponse
from stateline.core.limits import DEDUP_TTL_S, RETRY_DEDUP_TTL_S
from stateline.core.placing import CallFacts, responses_call
from stateline.core.session import Session, new_session
from stateline.core.tools import AGENT_PREFIX, Agent, Answer
from stateline.core.turn import unanswered_calls, with_ids
from stateline.core.view import NO_EVENTS, TurnView
from stateline.engine.answering import ANSWER_DIGEST, answer_keys, answers_in, asked_elsewhere
from stateline.engine.failover import check_room
from stateline.engine.node import Node
from stateline.engine.place import model_not_found, weighed
from stateline.engine.types import Accepted, Submission
from stateline.money.budgets import Payer
from stateline.ports import Duplicate, Fenced, HeadMoved, SessionMissing

_TRIES = 5
"""How often a submission looks again when somebody else moved the session under it."""

_REJECTIONS: dict[str, type[StatelineError]] = {
    "conversation_locked": BadRequest,
    "session_deleted": NotFound,
    "session_quarantined": Conflict,
}


async def submit(node: Node, s: Submission) -> Accepted:
    """Record the turn and start it; on return it is durable.

    Raises:
        Forbidden: ``contract_denied``.
        BadRequest: ``model_not_found``, ``previous_response_not_found``, ``response_in_progress``,
            ``conversation_locked``, ``missing_tool_output``, ``idempotency_key_reused``.
        NotFound: the conversation does not exist.
        Conflict: ``session_quarantined``.
        NoDeployment: every deployment of the model is out, and for some time.
        Overloaded: no room on this node.
    """
    agent = _agent(node, s)
    if s.request.servers:
        _check_labels(node, s)
    model = s.request.model if agent is None else agent.model
    candidates = node.catalogue.candidates(model)
    if not candidates:
        raise model_not_found(model, node.catalogue.names())
    again = s.idempotency_key is not None or s.retry
    if again:
        first = await node.store.find_duplicate(s.tenant, _dedup_key(s))
        if first is not None:
            return _attach(s, first)
    rules, meter = node.rules, node.meter
    priced = meter is None or meter.takes(candidates[0], s.request.service_tier)
    if rules is not None or not priced or weighed(candidates):
        params = s.request if agent is None else msgspec.structs.replace(s.request, model=model)
        asked = ModelRequest(params=params, items=for_model(s.input, node.shown_bytes), key="")
        judge = None if rules is None else rules.judge(_facts(s, agent))
        purse = None
        if meter is not None:
            payer = Payer(s.tenant, s.principal, model, s.conversation or "", "" if agent is None else agent.name)
            purse = meter.purse(payer, s.request.service_tier)
        check_room(node.catalogue, node.monitor, asked, patient=s.request.background, judge=judge, purse=purse)
    if any(type(item) in HOSTED_ITEMS for item in s.input):
        s = await _with_asked(node, s)
    try:
        for _ in range(_TRIES):
            accepted = await _try(node, s)
            if accepted is not None:
                return accepted
    except Duplicate as first:
        return _attach(s, first)
    except BadRequest:
        # What stands in its way may be its own first try, which was committed after the look above.
        first = await node.store.find_duplicate(s.tenant, _dedup_key(s)) if again else None
        if first is None:
            raise
        return _attach(s, first)
    raise Overloaded("the session is too busy; try again", retry_after_s=1.0)


def _agent(node: Node, s: Submission) -> Agent | None:
    """The agent that the request names as its model."""
    if not s.request.model.startswith(AGENT_PREFIX):
        return None
    agent = node.agents.get(s.request.model.removeprefix(AGENT_PREFIX))
    if agent is None:
        raise model_not_found(s.request.model, [AGENT_PREFIX + name for name in node.agents])
    return agent


def _check_labels(node: Node, s: Submission) -> None:
    """A server of a request's own may not go by the name of one of the operator's: policies know them by it."""
    for at, server in enumerate(s.request.servers):
        own = None if node.toolbox is None else node.toolbox.hosts.own(server.server_label, s.tenant)
        if (server.server_url is None) == (own is None):
            label, param = server.server_label, f"tools[{at}].server_label"
            if own is None:
                message = f"there is no server {label!r} here; name its 'server_url'"
                raise BadRequest(message, code="unknown_server", param=param)
            message = f"the label {label!r} is that of a server of the operator's; leave out its URL, or take another"
            raise BadRequest(message, code="server_label_taken", param=param)


def _facts(s: Submission, agent: Agent | None) -> CallFacts:
    return responses_call(
        s.tenant,
        s.principal,
        stateful=s.request.store or s.from_session or agent is not None,
        service_tier=s.request.service_tier,
        agent="" if agent is None else agent.name,
    )


async def _try(node: Node, s: Submission) -> Accepted | None:
    """One attempt; None when the session moved and another look is needed."""
    previous = s.request.previous_response_id
    if s.conversation is not None:
        return await _in_conversation(node, s, SessionRef(s.tenant, s.conversation))
    if previous is None:
        return await _begin(node, s, node.new_ref(s.tenant))
    parent = ids.parse_response_id(previous)
    if parent is None:
        raise previous_not_found(previous)
    ref = SessionRef(s.tenant, parent.session)
    worker = await node.idle(ref)
    try:
        session = worker.session if worker is not None else await _session(node, ref)
        if worker is None and session.last_response_id != previous:
            # Another node may have gone on since it was kept; a fork is only what is none of the newest.
            session = await node.load(ref)
    except NotFound:
        raise previous_not_found(previous) from None
    if previous in session.deleted_responses:
        raise previous_not_found(previous)
    if session.turn is None and session.last_response_id == previous and session.kind == "chain":
        return await _in_place(node, s, ref)
    return await _fork(node, s, session, previous, parent.after)


def previous_not_found(response_id: str) -> BadRequest:
    return BadRequest(
        f"previous response {response_id!r} was not found",
        code="previous_response_not_found",
        param="previous_response_id",
    )


async def _session(node: Node, ref: SessionRef) -> Session:
    """What is kept of an idle session, else what the store has; an append finds out if it moved."""
    kept = node.sessions.kept(ref)
    if kept is None:
        return await node.load(ref)
    if kept.deleted:
        raise NotFound("it was deleted")
    return kept


async def _begin(node: Node, s: Submission, ref: SessionRef) -> Accepted:
    """A new session."""
    session = new_session(ref)
    _check_calls(s.input)
    turn = _turn(node, s, session, after=0)
    created = e.SessionCreated(kind="chain")
    await node.adopt(session, [created, turn], _dedup(s, turn), create=True).started
    return Accepted(session=ref, response_id=turn.response_id, volatile=not node.durable)


async def _fork(node: Node, s: Submission, parent: Session, previous: str, after: int) -> Accepted:
    """A session that shares its parent's log up to the end of ``previous``."""
    view = TurnView(previous, cursor=NO_EVENTS)
    end = 0
    async for event in node.store.read(parent.ref, after):
        view.apply(event)
        if view.finished:
            end = event.seq
            break
    if view.requested is None:
        raise previous_not_found(previous)
    if not end:
        message = f"previous response {previous!r} is still being made; wait until it has ended, or cancel it"
        raise BadRequest(message, code="response_in_progress", param="previous_response_id")
    ref = node.new_ref(s.tenant)
    await node.store.create(ref, (parent.ref, end))
    session = await node.sessions.read(ref)
    _check_calls([*session.context, *s.input])
    turn = _turn(node, s, session, after=end)
    created = e.SessionCreated(kind="chain", parent=(previous, end))
    worker = node.adopt(session, [created, turn], _dedup(s, turn))
    try:
        await worker.started
    except Duplicate:
        await node.store.erase(ref)
        raise
    return Accepted(session=ref, response_id=turn.response_id)


async def _in_conversation(node: Node, s: Submission, ref: SessionRef) -> Accepted | None:
    """A further turn of a conversation; a chain's id in its place is one that does not exist."""
    worker = await node.idle(ref)
    missing = NotFound(
        f"conversation {ids.conversation_id(ref.id)!r} was not found",
        code="conversation_not_found",
        param="conversation",
    )
    try:
        session = worker.session if worker is not None else await _session(node, ref)
    except NotFound:
        raise missing from None
    if session.kind != "conversation":
        raise missing
    return await _in_place(node, s, ref)


async def _in_place(node: Node, s: Submission, ref: SessionRef) -> Accepted | None:
    """A further turn of an idle session."""
    worker = await node.idle(ref)
    if worker is not None:
        if s.conversation is None:
            return None
        raise _rejected(e.InputRejected(response_id="", code="conversation_locked", message=_LOCKED))
    session = await _session(node, ref)
    if session.quarantined:
        raise Conflict("its worker crashed too often; start a new one", code="session_quarantined")
    if session.turn is not None:
        return await _elsewhere(node, s, session)
    _check_calls([*session.context, *s.input])
    turn = _turn(node, s, session, after=session.seq)
    try:
        await node.adopt(session, [turn], _dedup(s, turn)).started
    except HeadMoved:
        # Somebody appended since it was kept, or an input waits for it.
        node.sessions.forget(ref)
        return None
    except Fenced:
        node.sessions.forget(ref)
        return await _elsewhere(node, s, await node.load(ref))
    except SessionMissing:
        raise NotFound("it does not exist") from None
    return Accepted(session=ref, response_id=turn.response_id)


_LOCKED = "another response is being made in it; wait until that has ended"


async def _elsewhere(node: Node, s: Submission, session: Session) -> Accepted | None:
    """The session has another owner: it gets the turn through the inbox, and says whether it began."""
    turn = _turn(node, s, session, after=session.seq)
    # The owner writes the keys with the turn, and refuses it where another turn has one of them.
    rejected = await node.post_turn(session.ref, turn, session.seq, _dedup(s, turn))
    if rejected is None:
        return Accepted(session=session.ref, response_id=turn.response_id)
    if rejected.code == "duplicate":
        first = await node.store.find_duplicate(s.tenant, _dedup_key(s))
        if first is not None:
            raise first
        return None
    if rejected.code == "parent_moved":
        return None
    raise _rejected(rejected)


def _rejected(body: e.InputRejected) -> StatelineError:
    return _REJECTIONS.get(body.code, BadRequest)(body.message, code=body.code)


def _turn(node: Node, s: Submission, session: Session, *, after: int) -> e.TurnRequested:
    turn = session.turns + 1
    response_id = ids.response_id(session.ref.id, ids.nonce(node.entropy(5)), after)
    if s.secrets and node.toolbox is not None:
        node.toolbox.hosts.tell(response_id, s.secrets)
    return e.TurnRequested(
        response_id=response_id,
        turn=turn,
        request=s.request,
        input=with_ids(s.input, session, turn),
        limits=node.limits,
        principal=s.principal,
        user=s.user,
        sidecars=s.sidecars,
        from_session=s.from_session,
        agent=_agent(node, s),
        answers=_answers(node, s, session),
        traceparent=s.traceparent,
        shown_bytes=node.shown_bytes,
    )


async def _with_asked(node: Node, s: Submission) -> Submission:
    """With what other sessions have asked, where it is answered here.

    Raises:
        BadRequest: ``approval_needs_store``: who keeps nothing cannot keep that it was answered.
    """
    if not node.durable and any(type(item) is McpApprovalResponse for item in s.input):
        raise BadRequest(
            "an approval can only be answered in a response that is stored", code="approval_needs_store", param="store"
        )
    found: dict[str, Pending] = {}
    for id_ in asked_elsewhere(s.input):
        with contextlib.suppress(NotFound):
            found |= (await node.load(SessionRef(s.tenant, id_))).pending
    return msgspec.structs.replace(s, asked_elsewhere=found) if found else s


def _answers(node: Node, s: Submission, session: Session) -> tuple[Answer, ...]:
    if not any(type(item) in HOSTED_ITEMS for item in s.input):
        return ()
    return answers_in(session, s.input, s.answerer, node.clock.now_ms(), s.asked_elsewhere)


def _check_calls(items: Iterable[Item]) -> None:
    missing = unanswered_calls(items)
    if missing:
        raise BadRequest(
            f"no tool output found for function call {', '.join(missing[:5])}; send a function_call_output for each",
            code="missing_tool_output",
            param="input",
        )


# -- client retries --------------------------------------------------------------------------------------


def _dedup_key(s: Submission) -> str:
    if s.idempotency_key is not None:
        return "key:" + ids.digest(s.principal.encode(), s.idempotency_key.encode())
    return f"body:{s.principal}:{s.digest}"


def _dedup(s: Submission, turn: e.TurnRequested) -> tuple[e.Dedup, ...]:
    """Under what a retry of this request finds its turn, and another answer to the same question finds it taken.

    Without a key of the client's own only its body tells, so the same body sent anew replaces it.
    """
    response_id, answers = turn.response_id, answer_keys(turn.answers, turn.response_id)
    if not s.digest:
        return answers
    keyed = s.idempotency_key is not None
    entry = e.Dedup(
        key=_dedup_key(s),
        ref=response_id,
        digest=s.digest,
        ttl_s=DEDUP_TTL_S if keyed else RETRY_DEDUP_TTL_S,
        replace=not keyed and not s.retry,
    )
    return (entry, *answers)


def _attach(s: Submission, first: Duplicate) -> Accepted:
    """Follow the first turn instead of beginning another."""
    if first.digest == ANSWER_DIGEST:
        raise Conflict("it is answered already; the first answer counts", code="approval_answered", param="input")
    if first.digest != s.digest:
        raise BadRequest(
            "this Idempotency-Key was used with another request body; use a new key for a new request",
            code="idempotency_key_reused",
        )
    parsed = ids.parse_response_id(first.ref)
    assert parsed is not None
    return Accepted(session=SessionRef(s.tenant, parsed.session), response_id=first.ref, attached=True)
