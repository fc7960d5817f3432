"""Stores with calls and what they cost, as the engine records them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

from tests.ops.histories import Writing, words
from tests.unit.money.usage import at, tariff

from stateline.core import events as e
from stateline.core.billing import Charge, Tariff
from stateline.core.calls import Usage
from stateline.core.ids import SessionRef
from stateline.money.meter import cost_of
from stateline.ports import Store

NEAR = tariff()
FAR = tariff("claude-opus-4-8", account="acc-2", cloud="aws", deployment="opus-aws")
# Sessions are made now, and calls never end before their session was made.
ONE_DAY, NEXT_DAY = date(2100, 11, 2), date(2100, 11, 3)
USED = Usage(input_tokens=1000, output_tokens=100, cached_tokens=200)

SETTINGS = """
[store]
url = "{url}"
"""


def charged(by: Tariff, usage: Usage) -> Charge:
    return Charge(tariff=by.id, amount=cost_of(by.price, usage), currency=by.price.currency)


class Ledger(Writing):
    """Writes turns with a call each, stateless calls, and the tariffs of both."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._turns = 0

    async def node(self, name: str, *tariffs: Tariff, day: date = ONE_DAY) -> SessionRef:
        """A node's session, with the tariffs that it records."""
        ref = await self.create(name, tenant="system")
        bodies = [e.TariffRecorded(tariff=each) for each in tariffs]
        await self.append(ref, at(day), e.SessionCreated(kind="system"), *bodies)
        return ref

    async def call(self, ref: SessionRef, by: Tariff | None, usage: Usage = USED, day: date = ONE_DAY) -> None:
        """A turn with one call, by the key ``key_1``; without a tariff, unpriced."""
        self._turns += 1
        turn = self._turns
        charge = None if by is None else charged(by, usage)
        deployment = "unpriced" if by is None else by.deployment
        await self.append(
            ref,
            at(day),
            self._asked("gpt-5" if by is None else by.model),
            e.ModelCallStarted(turn=turn, step=1, deployment=deployment, origin="o", model="up"),
            e.ModelCallFinished(turn=turn, step=1, finish_reason="stop", usage=usage, charge=charge),
            e.TurnCompleted(response_id=f"r{turn}"),
        )

    async def lost(self, ref: SessionRef, by: Tariff, amount: str, day: date = ONE_DAY) -> None:
        """A turn whose call was lost with its worker."""
        self._turns += 1
        turn = self._turns
        charge = Charge(tariff=by.id, amount=Decimal(amount), currency=by.price.currency, estimated=True)
        await self.append(
            ref,
            at(day),
            self._asked(by.model),
            e.ModelCallStarted(turn=turn, step=1, deployment=by.deployment, origin="o", model="up"),
            e.ModelCallFailed(turn=turn, step=1, code="worker_lost", message="", retryable=True, charge=charge),
            e.TurnFailed(response_id=f"r{turn}", code="worker_lost", message=""),
        )

    async def stateless(self, node: SessionRef, name: str, by: Tariff, *, ends: bool = True) -> None:
        """A call that is kept in no session, of the tenant ``other``."""
        started = e.StatelessCallStarted(
            id=name, tenant="other", principal="key_2", interface="chat", deployment=by.deployment, model=by.model
        )
        ended = e.StatelessCallEnded(id=name, usage=USED, charge=charged(by, USED))
        body = e.StatelessCalls(started=(started,), ended=(ended,) if ends else ())
        await self.append(node, at(ONE_DAY), body)

    def _asked(self, model: str) -> e.TurnRequested:
        return e.TurnRequested(
            response_id=f"r{self._turns}", turn=self._turns, request=e.TurnRequest(model=model),
            input=(words("hi"),), principal="key_1",
        )  # fmt: skip


def configure(folder: Path, url: str, more: str = "") -> str:
    """A configuration file over a store; its path."""
    path = folder / "stateline.toml"
    path.write_text(SETTINGS.format(url=url) + more)
    return str(path)
