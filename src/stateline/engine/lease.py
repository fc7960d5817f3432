"""The lease under which a node owns sessions: renewed in time, or all work stops before it is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from stateline.core.errors import StatelineError
from stateline.core.limits import LEASE_TTL_S
from stateline.ports import Clock, Store

log = logging.getLogger("stateline.engine")

_RETRY_S = 0.5


class Leaseholder(Protocol):
    """What a lease needs of its node."""

    store: Store
    clock: Clock
    owner: str
    shared: bool

    async def lapse(self) -> None:
        """Stop all work, and become another owner."""
        ...

    async def regained(self) -> None:
        """The store takes renewals again; called before there may be new work."""
        ...


class Lease:
    """Says to the store that the node lives.

    It is renewed on the event loop that does the work, every third of its time, so a loop that is held up
    says nothing for its node. The end is counted from before the request was sent, and at two thirds of
    the way there work stops, so that nothing is done for a session which another node has.

    Where nobody shares the store there is nobody to make room for: then a late renewal is as good.
    """

    def __init__(self, node: Leaseholder) -> None:
        self._node = node
        self._ttl_s = LEASE_TTL_S
        self._sent_s = 0.0
        self.held = asyncio.Event()
        """Set while sessions may be claimed."""

    async def begin(self) -> None:
        """Renew for the first time.

        Raises:
            StoreUnavailable: the store does not take it.
        """
        await self._renew()

    async def keep(self) -> None:
        """Renew for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._ttl_s / 12 if self.held.is_set() else _RETRY_S)
            if self._node.shared and self.held.is_set() and self.left_s <= 0:
                self.held.clear()
                await self._node.lapse()
            if self.held.is_set() and loop.time() - self._sent_s < self._ttl_s / 3:
                continue
            with contextlib.suppress(TimeoutError):
                # An answer that does not come is waited for as long as work may go on.
                left_s = self.left_s if self._node.shared and self.held.is_set() else self._ttl_s / 3
                async with asyncio.timeout(left_s):
                    await self._try()

    @property
    def left_s(self) -> float:
        """Until work must stop."""
        return self._sent_s + self._ttl_s * 2 / 3 - asyncio.get_running_loop().time()

    async def _try(self) -> None:
        try:
            await self._renew()
        except StatelineError as error:
            log.warning("cannot renew the lease: %s", error.message)

    async def _renew(self) -> None:
        sent_s = asyncio.get_running_loop().time()
        await self._node.store.renew(self._node.owner, self._ttl_s)
        if not self.held.is_set():
            await self._node.regained()
        self._sent_s = sent_s
        self.held.set()
