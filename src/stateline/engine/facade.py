"""What the API calls. Everything here answers for one tenant; another tenant's id does not exist."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

import msgspec

from stateline.core import events as e
from stateline.core import ids
from stateline.core.calls import ModelDelta, ModelRequest
from stateline.core.context import Context
from stateline.core.effected import EffectRecord
from stateline.core.errors import BadRequest, NotFound, StoreUnavailable
from stateline.core.ids import SessionRef, digest
from stateline.core.items import PREFIXES, EffectResolution, Item, McpApprovalResponse
from stateline.core.measures import Readings, label
from stateline.core.response import Dialect, Response, StreamEvent
from stateline.core.session import Session, fold, new_session
from stateline.core.tokens import estimate_tokens
from stateline.core.tools import AGENT_PREFIX
from stateline.core.view import NO_EVENTS, TurnView
from stateline.engine import correlation, effects
from stateline.engine.compact import Compacted, compact
from stateline.engine.effects import EffectsPage
from stateline.engine.node import Node
from stateline.engine.placements import PlacedPage, placements
from stateline.engine.relay import relay
from stateline.engine.submit import submit
from stateline.engine.types import Accepted, Answerer, BudgetState, Conversation, RateState, Submission
from stateline.engine.usage import UsagePage, usage
from stateline.money.budgets import Budget, Payer, balance_name
from stateline.money.rates import counts
from stateline.ports import Balance, Deployment


class Engine(Node):
    """A node, and the questions that the API asks it."""

    # -- turns --------------------------------------------------------------------------------------

    async def submit(self, s: Submission) -> Accepted:
        """See ``submit.submit``. ``store: false`` runs on the volatile node, over the same context."""
        if s.request.store or self.volatile is None:
            accepted = await submit(self, s)
        else:
            accepted = await submit(self.volatile, await self._detached(s))
        if self.observe is not None:
            correlation.enter_turn(accepted.response_id, s.traceparent)
        return accepted

    async def _detached(self, s: Submission) -> Submission:
        """A submission that carries its context with it, since its session will not be kept."""
        previous = s.request.previous_response_id
        if s.conversation is not None:
            context = (await self._conversation(s.tenant, s.conversation)).context
        elif previous is not None:
            context = await self.context_after(s.tenant, previous)
        else:
            return s
        carried = msgspec.structs.replace(s.request, previous_response_id=None, in_conversation=False)
        return msgspec.structs.replace(
            s,
            request=carried,
            input=(*context, *s.input),
            conversation=None,
            sidecars=context.sidecars(),
            from_session=True,
        )

    async def wait(self, a: Accepted, dialect: Dialect) -> Response:
        """The response once its turn has ended."""
        view = TurnView(a.response_id, dialect=dialect, cursor=NO_EVENTS)
        worker = self._home(a).workers.get(a.session)
        story = worker.story(a.response_id) if worker is not None else None
        if story is not None and (events := await story) is not None:
            for event in events:
                view.apply(event)
        else:
            async with contextlib.aclosing(self._follow(a)) as batches:
                async for events in batches:
                    for event in events:
                        if type(event.body) is not e.Chunk:
                            view.apply(event)
                    if view.finished:
                        break
        self._read(a)
        return view.response()

    async def stream(
        self, a: Accepted, *, cursor: int = -1, dialect: Dialect = "open-responses"
    ) -> AsyncGenerator[list[StreamEvent], None]:
        """Stream events after ``cursor``, in batches, to the terminal one."""
        view = TurnView(a.response_id, dialect=dialect, cursor=cursor)
        try:
            async with contextlib.aclosing(self._follow(a)) as batches:
                async for events in batches:
                    out: list[StreamEvent] = []
                    for event in events:
                        out += view.apply(event)
                    if out:
                        yield out
                    if view.finished:
                        return
        finally:
            self._read(a)

    def _home(self, a: Accepted) -> Node:
        return self.volatile if a.volatile and self.volatile is not None else self

    def _follow(self, a: Accepted) -> AsyncGenerator[list[e.Event], None]:
        """The turn's log from its beginning, and on as it grows."""
        parsed = ids.parse_response_id(a.response_id)
        assert parsed is not None
        return self._home(a).live.follow(a.session, parsed.after)

    def _read(self, a: Accepted) -> None:
        """The reader of a turn is gone: one of ``store: false`` has no other."""
        if a.volatile:
            self._home(a).discard_soon(a.session)

    async def locate(self, tenant: str, response_id: str) -> Accepted:
        """The turn behind a response id.

        Raises:
            NotFound: unknown, deleted, or another tenant's.
        """
        _, _ = await self._located(tenant, response_id)
        parsed = ids.parse_response_id(response_id)
        assert parsed is not None
        return Accepted(session=SessionRef(tenant, parsed.session), response_id=response_id, attached=True)

    async def response(self, tenant: str, response_id: str, dialect: Dialect) -> Response:
        """The response as of now."""
        view, _ = await self._located(tenant, response_id, dialect)
        return view.response()

    async def _located(
        self, tenant: str, response_id: str, dialect: Dialect = "open-responses"
    ) -> tuple[TurnView, int]:
        """The turn's view, and the sequence number of its last event (0 while it runs)."""
        missing = NotFound(f"response {response_id!r} was not found", code="response_not_found", param="response_id")
        parsed = ids.parse_response_id(response_id)
        if parsed is None:
            raise missing
        ref = SessionRef(tenant, parsed.session)
        try:
            session = await self.load(ref)
        except NotFound:
            raise missing from None
        if response_id in session.deleted_responses:
            raise missing
        view = TurnView(response_id, dialect=dialect, cursor=NO_EVENTS)
        end = 0
        async for event in self.store.read(ref, parsed.after):
            view.apply(event)
            if view.finished:
                end = event.seq
                break
        if view.requested is None:
            raise missing
        return view, end

    async def cancel(self, tenant: str, response_id: str, dialect: Dialect) -> Response:
        """Cancel a background response; one that has ended is returned as it is."""
        view, end = await self._located(tenant, response_id, dialect)
        assert view.requested is not None
        if not view.requested.request.background:
            raise BadRequest(
                "only a response that was created with background=true can be cancelled; "
                "close the connection of any other",
                code="response_not_cancellable",
                param="response_id",
            )
        if not end:
            accepted = Accepted(session=_ref(tenant, response_id), response_id=response_id, attached=True)
            await self.amend(accepted.session, e.CancelRequested(response_id=response_id))
            return await self.wait(accepted, dialect)
        return view.response()

    async def delete_response(self, tenant: str, response_id: str) -> None:
        """Hide a response. What it said stays in the context of what continued from it."""
        await self._located(tenant, response_id)
        await self.amend(_ref(tenant, response_id), e.ResponseDeleted(response_id=response_id))

    async def input_items(self, tenant: str, response_id: str) -> list[Item]:
        """What the model was given: the context before the turn, and its own input; oldest first."""
        view, _ = await self._located(tenant, response_id)
        assert view.requested is not None
        context: Context | None = None
        ref = _ref(tenant, response_id)
        session = new_session(ref)
        async for event in self.store.read(ref):
            if isinstance(event.body, e.TurnRequested) and event.body.response_id == response_id:
                context = session.context
                break
            session = fold(session, event)
        return [*(context or ()), *view.requested.input]

    async def context_after(self, tenant: str, response_id: str) -> Context:
        """The context of a turn that would follow ``response_id``.

        Raises:
            BadRequest: ``previous_response_not_found``: unknown, or it has not ended.
        """
        try:
            _, end = await self._located(tenant, response_id)
        except NotFound:
            end = 0
        if not end:
            raise BadRequest(
                f"previous response {response_id!r} was not found, or has not ended",
                code="previous_response_not_found",
                param="previous_response_id",
            )
        session = new_session(_ref(tenant, response_id))
        async for event in self.store.read(session.ref, until=end):
            session = fold(session, event)
        return session.context

    async def find_items(self, tenant: str, item_ids: Sequence[str]) -> dict[str, Item]:
        """Items by id, for item references; those that do not exist are left out."""
        out: dict[str, Item] = {}
        for session_id in {ids.item_session(item_id) for item_id in item_ids} - {None}:
            assert session_id is not None
            with contextlib.suppress(NotFound):
                session = await self.load(SessionRef(tenant, session_id))
                wanted = set(item_ids)
                out |= {item.id: item for item in session.context if item.id in wanted}
        return out

    # -- conversations --------------------------------------------------------------------------------------

    async def create_conversation(self, tenant: str, items: tuple[Item, ...], metadata: dict[str, str]) -> Conversation:
        session = new_session(self.new_ref(tenant))
        bodies: list[e.Body] = [e.SessionCreated(kind="conversation", metadata=metadata)]
        if items:
            bodies.append(e.ItemsAdded(items=self._with_new_ids(session.ref, items)))
        worker = self.adopt(session, bodies, create=True)
        await worker.started
        return _conversation(worker.session)

    async def conversation(self, tenant: str, session_id: str) -> Conversation:
        return _conversation(await self._conversation(tenant, session_id))

    async def _conversation(self, tenant: str, session_id: str) -> Session:
        missing = NotFound(
            f"conversation {ids.conversation_id(session_id)!r} was not found",
            code="conversation_not_found",
            param="conversation_id",
        )
        try:
            session = await self.load(SessionRef(tenant, session_id))
        except NotFound:
            raise missing from None
        if session.kind != "conversation":
            raise missing
        return session

    async def update_conversation(self, tenant: str, session_id: str, metadata: dict[str, str]) -> Conversation:
        session = await self._conversation(tenant, session_id)
        await self.amend(session.ref, e.SessionUpdated(metadata=metadata))
        return await self.conversation(tenant, session_id)

    async def delete_conversation(self, tenant: str, session_id: str) -> None:
        session = await self._conversation(tenant, session_id)
        await self.amend(session.ref, e.SessionDeleted())

    async def conversation_items(self, tenant: str, session_id: str) -> list[Item]:
        """All items, oldest first."""
        return list((await self._conversation(tenant, session_id)).context)

    async def add_items(self, tenant: str, session_id: str, items: tuple[Item, ...]) -> tuple[Item, ...]:
        session = await self._conversation(tenant, session_id)
        added = self._with_new_ids(session.ref, items)
        await self.amend(session.ref, e.ItemsAdded(items=added))
        return added

    async def delete_item(self, tenant: str, session_id: str, item_id: str) -> Conversation:
        session = await self._conversation(tenant, session_id)
        if session.context.find(item_id) is None:
            raise NotFound(f"item {item_id!r} was not found", code="item_not_found", param="item_id")
        await self.amend(session.ref, e.ItemDeleted(item_id=item_id))
        return _conversation(session)

    def _with_new_ids(self, ref: SessionRef, items: tuple[Item, ...]) -> tuple[Item, ...]:
        """Items from outside a turn: turn 0, and a random step that keeps two additions apart."""
        step = int.from_bytes(self.entropy(5), "big")
        return tuple(
            msgspec.structs.replace(item, id=ids.item_id(PREFIXES[type(item)], ref.id, 0, step, at))
            for at, item in enumerate(items)
        )

    # -- the stateless plane ----------------------------------------------------------------------------------

    def relay(
        self, tenant: str, principal: str, request: ModelRequest, interface: str = "chat", *, traceparent: str = ""
    ) -> AsyncGenerator[list[ModelDelta], None]:
        """A bare model call: placed, and retried until its first delta. ``interface`` as in ``CallFacts``."""
        return relay(self, tenant, principal, request, interface, traceparent=traceparent)

    async def compact(self, tenant: str, principal: str, request: ModelRequest, traceparent: str = "") -> Compacted:
        """See ``compact.compact``."""
        return await compact(self, tenant, principal, request, traceparent)

    def input_tokens(self, request: ModelRequest) -> int:
        """An estimate of the tokens that a request's input takes."""
        return estimate_tokens(request)

    def models(self) -> Sequence[str]:
        return [*self.catalogue.names(), *(AGENT_PREFIX + name for name in self.agents)]

    def deployments(self, model: str) -> Sequence[Deployment]:
        """Where a model is served, best first; empty for an unknown one. Another name of a model will do."""
        return self.catalogue.candidates(model)

    @property
    def ready(self) -> bool:
        """Whether turns should be sent here: not while this node drains or stops."""
        return not (self._draining or self._stopping)

    async def placements(self, tenant: str, *, session: str | None, after: str | None, limit: int) -> PlacedPage:
        """See ``placements.placements``."""
        return await placements(self.store, tenant, session=session, after=after, limit=limit)

    async def effects(
        self, tenant: str, wanted: Callable[[EffectRecord], bool], *, session: str | None, after: str | None
    ) -> EffectsPage:
        """See ``effects.effects``."""
        now_ms = self.clock.now_ms()
        return await effects.effects(self.store, tenant, wanted, now_ms=now_ms, session=session, after=after)

    async def answer(self, tenant: str, by: Answerer, item: McpApprovalResponse | EffectResolution) -> Accepted:
        """Go on from what a person says of a call that waits for one; see ``effects.answer``."""
        return await submit(self, await effects.answer(self, tenant, by, item))

    async def usage(self, tenant: str, span: tuple[int, int], after: str | None) -> UsagePage:
        """See ``usage.usage``."""
        return await usage(self.store, tenant, span, after)

    async def budgets(self, tenant: str | None, key: str = "") -> list[BudgetState]:
        """The budgets of a tenant and of one of its keys, or all of them, and what they stand at this month."""
        if self.meter is None:
            return []
        month = self.meter.month(self.clock.now_ms())
        shown = [
            each
            for each in self.meter.budgets
            if tenant is None or each.tenant == tenant or (each.tenant is None and each.key == key != "")
        ]
        balances = await self.store.balances([balance_name(each, month) for each in shown])
        return [BudgetState(each, month, balances.get(balance_name(each, month), Balance())) for each in shown]

    def is_rated(self, tenant: str, key: str, model: str) -> bool:
        """Whether a rate limit covers a key's calls of a model."""
        meter = self.meter
        return meter is not None and bool(meter.rate_limits and meter.limiting(Payer(tenant, key, model)))

    async def rates(self, tenant: str, key: str, model: str) -> list[RateState]:
        """What rate limits leave a key for calls of a model, as far as is committed."""
        if self.meter is None:
            return []
        payer, now_ms = Payer(tenant, key, model), self.clock.now_ms()
        found = counts(self.meter.limiting(payer), payer, now_ms)
        balances = await self.store.balances([each.balance for each in found])
        states: list[RateState] = []
        for each in found:
            balance = balances.get(each.balance, Balance())
            left = max(0, each.limit - int(balance.spent + balance.held))
            reset_s = -(-(each.until_ms - now_ms) // 1_000) if each.until_ms else 0
            states.append(RateState(each.kind, each.limit, left, reset_s))
        return states

    async def readings(self, *, budgets: bool = True) -> Readings:
        """All that is counted and measured here, for whoever shows it: there is no second bookkeeping.

        ``budgets``: what they stand at as well, which only the store knows; left out where it is away.
        """
        gauges, counters = {**self._gauges()}, {**self._counters()}
        for source in self.sources:
            more = source()
            gauges |= more.gauges
            counters |= more.counters
        if budgets:
            with contextlib.suppress(StoreUnavailable):
                for state in await self.budgets(None):
                    budget, balance = state.budget, state.balance
                    labels = f'{{budget="{label(_shown_name(budget))}",currency="{budget.currency}"}}'
                    gauges[f"budget_limit{labels}"] = float(budget.limit)
                    gauges[f"budget_spent{labels}"] = float(balance.spent)
                    gauges[f"budget_held{labels}"] = float(balance.held)
        return Readings(gauges, counters)

    def _counters(self) -> Mapping[str, float]:
        recorded = {f'events_recorded_total{{type="{name}"}}': count for name, count in self.metrics.items()}
        verdicts: Mapping[str, float] = {} if self.rules is None else self.rules.counters()
        charged: Mapping[str, float] = {} if self.meter is None else self.meter.counters()
        return {**recorded, **verdicts, **charged, "lease_losses_total": self.lease_losses}

    def _gauges(self) -> Mapping[str, float]:
        return self.monitor.gauges() | {
            "active_turns": sum(1 for worker in self.workers.values() if worker.busy),
            "cached_sessions": len(self.sessions),
            "cached_session_bytes": self.sessions.bytes,
        }


def _shown_name(budget: Budget) -> str:
    """A budget's name without whom it covers: one that has no name of its own is named by its key or session."""
    name = budget.name
    for one in (budget.key, budget.session):
        if one is not None and one in name:
            name = name.replace(one, digest(one.encode())[:8])
    return name


def _ref(tenant: str, response_id: str) -> SessionRef:
    parsed = ids.parse_response_id(response_id)
    assert parsed is not None
    return SessionRef(tenant, parsed.session)


def _conversation(session: Session) -> Conversation:
    return Conversation(
        id=ids.conversation_id(session.ref.id), created_at=session.created_at_ms // 1000, metadata=session.metadata
    )
