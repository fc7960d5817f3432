"""The stateless plane: one bare model call, at another deployment or again until something was said."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import msgspec

from stateline.core.billing import Charge, Reserved
from stateline.core.call_spans import BareCall, BareTry, ObserveCall
from stateline.core.calls import Finish, ModelDelta, ModelRequest, Usage
from stateline.core.errors import BadRequest, ModelError, StatelineError
from stateline.core.events import StatelessCallStarted
from stateline.core.ids import nonce
from stateline.core.limits import (
    BUDGET_TRIES_MAX,
    NO_DEPLOYMENT_WAIT_MS_MAX,
    RELAY_RETRIES_MAX,
    RETRY_AFTER_RELAY_MS_MAX,
)
from stateline.core.placing import CallFacts, nowhere
from stateline.core.turn import backoff_ms
from stateline.engine import correlation
from stateline.engine.failover import not_carried
from stateline.engine.health import Permit, movable
from stateline.engine.ledger import Ledger
from stateline.engine.meter import Meter, Quote, costs
from stateline.engine.node import Node
from stateline.engine.paying import paid
from stateline.engine.perform import unbilled
from stateline.engine.place import Placement, fitted, place, standings
from stateline.engine.rates import may_fail
from stateline.ports import BudgetExceeded, Clock, Deployment, Judge


def relay(
    node: Node, tenant: str, principal: str, request: ModelRequest, interface: str, *, traceparent: str = ""
) -> AsyncGenerator[list[ModelDelta], None]:
    """Deltas of a call. Once a delta was given, an error ends it: text is never spliced.

    Before that a failed call goes to the model's next deployment at once, and after the last of them, a little
    later, begins again.

    Where there are prices, budgets or rate limits, each try is in the ledger before it is sent.

    Args:
        traceparent: the caller's trace, as W3C writes it.

    Raises:
        ModelError: after the last try.
        BudgetExceeded: it is paid for nowhere.
        RateLimited: a rate limit is reached.
        NoDeployment: none can take the call within NO_DEPLOYMENT_WAIT_MS_MAX.
        Forbidden: ``contract_denied``: contracts deny it to every deployment.
        BadRequest: unknown model, or what no deployment's format can carry.
    """
    if not request.key:
        request = msgspec.structs.replace(request, key=f"{tenant}/{nonce(node.entropy(5))}")
    tries = _Tries(node, request, CallFacts(tenant, principal, "stateless", interface, request.params.service_tier))
    observe, batches = node.observe_call, _relayed(node, request, tries)
    if observe is None:
        return batches
    tries.told = told = BareCall(
        key=request.key,
        tenant=tenant,
        interface=interface,
        model=request.params.model,
        stream=request.stream,
        traceparent=traceparent,
        began_ms=node.clock.now_ms(),
    )
    return _watched(node.clock, told, batches, observe)


async def _watched(
    clock: Clock, told: BareCall, batches: AsyncGenerator[list[ModelDelta], None], observe: ObserveCall
) -> AsyncGenerator[list[ModelDelta], None]:
    """The same deltas; whoever observes is told of the call when it has ended, however it did."""
    correlation.enter(told.trace)
    try:
        async with aclosing(batches):
            async for deltas in batches:
                if deltas and not told.first_ms:
                    told.first_ms = clock.now_ms()
                yield deltas
    except (CancelledError, GeneratorExit):
        # Who has heard the end may leave.
        told.code = None if told.tries and told.tries[-1].reason is not None else "cancelled"
        raise
    except StatelineError as error:
        told.code = error.code
        raise
    except Exception:
        told.code = StatelineError.code
        raise
    finally:
        told.ended_ms = clock.now_ms()
        observe(told)


async def _relayed(node: Node, request: ModelRequest, tries: _Tries) -> AsyncGenerator[list[ModelDelta], None]:
    """See ``relay``."""
    while True:
        placement, entry = await tries.place()
        deployment, permit = placement.deployment, placement.permit
        if deployment is None:
            await tries.wait(placement)
            continue
        said = False
        failed: ModelError | BadRequest | None = None
        try:
            async with node.slots.of(deployment):
                if permit is not None:
                    permit.began()
                async for deltas in node.client.call(deployment, fitted(request, deployment, entry.reserved)):
                    if permit is not None:
                        _tell(permit, deltas, first=not said)
                    if not said:
                        entry.said()
                    said = True
                    if deltas and type(deltas[-1]) is Finish:
                        entry.finished(deltas[-1])
                    yield deltas
            return
        except (ModelError, BadRequest) as error:
            failed = error
            failure = _failure(error)
            if permit is not None:
                permit.failed(failure)
            entry.failed(failure, said=said)
        finally:
            if permit is not None:
                permit.end("unknown")
            entry.left()
        if said:
            raise failed
        await tries.after(deployment.name, failed)


class _Entry:
    """A try in the ledger, to be ended once; of a node that keeps none, nothing.

    It is what an observer is told of the try as well, where there is one.
    """

    __slots__ = ("_clock", "_id", "_ledger", "_meter", "_told", "reserved")

    def __init__(self, ledger: Ledger | None, id_: str, meter: Meter | None, reserved: Reserved | None) -> None:
        self._ledger = ledger
        self._id = id_
        self._meter = meter
        self._told: BareTry | None = None
        self._clock: Clock | None = None
        self.reserved = reserved

    def told(self, one: BareTry, clock: Clock) -> None:
        """Keep for an observer what becomes of it."""
        self._told, self._clock = one, clock

    def said(self) -> None:
        """Its first words have come."""
        if self._told is not None and self._clock is not None:
            self._told.first_ms = self._clock.now_ms()

    def finished(self, finish: Finish) -> None:
        """The answer is whole, whether or not its caller stays to hear it."""
        if self._told is not None and self._clock is not None:
            self._told.answered(finish, self._clock.now_ms())
            self._told = None
        ledger, meter = self._ledger, self._meter
        if ledger is not None and meter is not None:
            self._ledger = None
            charge = meter.charged(self.reserved, finish.usage, finish.service_tier)
            meter.count(ledger.end(self._id, charge, None, finish.usage))

    def failed(self, failure: ModelError, *, said: bool) -> None:
        self._tell_end(failure.code, failure.usage)
        self._end(None, failure.code, failure.usage, sent=said or not unbilled(failure))

    def left(self) -> None:
        """Its caller went away before the end, if it has not ended."""
        self._tell_end("cancelled", None)
        self._end(None, "cancelled")

    def _tell_end(self, code: str, usage: Usage | None) -> None:
        if self._told is not None and self._clock is not None:
            self._told.failed(code, usage, self._clock.now_ms())
            self._told = None

    def _end(self, charge: Charge | None, code: str | None, usage: Usage | None = None, *, sent: bool = True) -> None:
        if self._ledger is not None:
            charge = self._ledger.end(self._id, charge, code, usage, sent=sent)
            if self._meter is not None:
                self._meter.count(charge)
            self._ledger = None


def _failure(error: ModelError | BadRequest) -> ModelError:
    return error if isinstance(error, ModelError) else not_carried(error)


def _tell(permit: Permit, deltas: list[ModelDelta], *, first: bool) -> None:
    """What a batch says of its deployment. Its end counts before it is given: nobody may come for more."""
    if first:
        permit.said()
    last = deltas[-1] if deltas else None
    if isinstance(last, Finish):
        permit.end("good", used_tokens=None if last.usage is None else last.usage.total_tokens)


class _Tries:
    """The tries of one call: rounds through the model's deployments, with a wait between two rounds."""

    def __init__(self, node: Node, request: ModelRequest, facts: CallFacts) -> None:
        self.told: BareCall | None = None
        self._node = node
        self._facts = facts
        self._request = request
        self._tried: list[str] = []
        self._failures = 0
        self._rounds = 0
        self._waits = 0
        self._recorded = 0

    def _judge(self) -> Judge | None:
        """By the contracts of now: they may have been loaded anew since the last try."""
        rules = self._node.rules
        return None if rules is None else rules.judge(self._facts)

    async def place(self) -> tuple[Placement, _Entry]:
        """Where the next try goes, and its entry in the ledger, durable.

        Raises:
            BudgetExceeded: it is paid for nowhere.
            RateLimited: a rate limit is reached.
            BadRequest: unknown model, or what no deployment can carry.
        """
        node, request, facts = self._node, self._request, self._facts
        purse = None
        if node.meter is not None:
            payer = (facts.tenant, facts.user, request.params.model, "", "")
            purse = node.meter.purse(payer, request.params.service_tier)

        def asked() -> ModelRequest:
            return request

        look = partial(
            place,
            node.catalogue,
            node.monitor,
            request.params.model,
            affinity=request.params.prompt_cache_key or request.key,
            request=asked,
            tried=self._tried,
            judge=self._judge(),
        )
        for tries in range(BUDGET_TRIES_MAX + 1):
            placement, quote = paid(look, purse, asked, node.clock.now_ms())
            try:
                entry = await self._record(placement, quote)
                if self.told is not None and placement.deployment is not None:
                    self._begin(self.told, placement, placement.deployment, entry)
                return placement, entry
            except BudgetExceeded as error:
                _unplace(placement)
                assert purse is not None
                purse.found_short(error, tries + 1, BUDGET_TRIES_MAX)
            except BaseException:
                _unplace(placement)
                raise
        raise AssertionError("a budget that was found empty paid for a call")

    def _begin(self, told: BareCall, placement: Placement, deployment: Deployment, entry: _Entry) -> None:
        """Tell the observer of a try that goes out now."""
        one = BareTry(
            deployment=deployment.name,
            origin=deployment.origin,
            began_ms=self._node.clock.now_ms(),
            ruling=placement.ruling,
        )
        told.tries.append(one)
        entry.told(one, self._node.clock)

    async def _record(self, placement: Placement, quote: Quote) -> _Entry:
        node, facts, deployment = self._node, self._facts, placement.deployment
        if deployment is None or node.meter is None:
            return _Entry(None, "", None, None)
        self._recorded += 1
        started = StatelessCallStarted(
            id=f"{self._request.key}/{self._recorded}",
            tenant=facts.tenant,
            principal=facts.user,
            interface=facts.interface,
            deployment=deployment.name,
            model=self._request.params.model,
            passed=placement.passed,
            verdict=placement.ruling,
            refused=placement.refused,
            reserved=quote.reserved,
            priced=placement.priced,
            counted=quote.counted,
        )
        wait = costs(quote.reserved) or may_fail(quote.counting)
        await node.ledger.start(started, quote.counting, quote.covers, wait=wait)
        return _Entry(node.ledger, started.id, node.meter, quote.reserved)

    async def wait(self, placement: Placement) -> None:
        """Until the first deployment takes calls again, if a caller may be kept waiting for so long.

        Raises:
            NoDeployment, BadRequest: it may not, or there is none to wait for.
        """
        now_ms, until_ms = self._node.clock.now_ms(), placement.until_ms
        self._waits += 1
        too_long = until_ms is None or until_ms - now_ms > NO_DEPLOYMENT_WAIT_MS_MAX
        if until_ms is None or too_long or self._waits > RELAY_RETRIES_MAX:
            judge = self._judge()
            text_of = str if judge is None else judge.text_of
            raise nowhere(self._request.params.model, placement.passed, now_ms, placement.refused, text_of)
        self._tried.clear()
        await self._node.clock.sleep((until_ms - now_ms) / 1000)

    async def after(self, deployment: str, error: ModelError | BadRequest) -> None:
        """Return when the next try is due: at once, where another deployment takes the call.

        Raises:
            ModelError, BadRequest: ``error`` itself, where no try is left.
        """
        failure = _failure(error)
        self._failures += 1
        self._tried.append(deployment)
        if self._elsewhere(failure):
            return
        if not failure.retryable or self._rounds == RELAY_RETRIES_MAX:
            raise error
        wait_ms = backoff_ms(self._failures, self._request.key, int((failure.retry_after_s or 0) * 1000))
        if wait_ms > RETRY_AFTER_RELAY_MS_MAX:
            # Longer than a caller should be kept waiting: it is told how long, and decides.
            raise error
        self._rounds += 1
        self._tried.clear()
        await self._node.clock.sleep(wait_ms / 1000)

    def _elsewhere(self, failure: ModelError) -> bool:
        node, model = self._node, self._request.params.model
        if not movable(failure) or len(node.catalogue.candidates(model)) < 2:
            return False
        judge = self._judge()
        looked = standings(node.catalogue, node.monitor, model, lambda: self._request, self._tried, judge=judge)
        return any(each.why is None for each in looked)


def _unplace(placement: Placement) -> None:
    if placement.permit is not None:
        placement.permit.end("unknown")
