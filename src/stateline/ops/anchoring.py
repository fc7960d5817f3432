"""Signing the audit's chains while they grow, so that what was recorded cannot be told otherwise later."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from stateline.core.errors import StatelineError
from stateline.core.ids import SessionRef
from stateline.core.limits import AUDIT_ANCHORS_WAITING_MAX, AUDIT_LAST_ANCHORS_S
from stateline.ports import Clock, SessionMissing

log = logging.getLogger("stateline")


class Signer(Protocol):
    async def anchor(self, ref: SessionRef) -> bool:
        """Sign a session's chain as far as it goes; whether it has gone on since the last time.

        Raises:
            SessionMissing: it is not there.
        """
        ...


class Anchoring:
    """Anchors the chain of each session in which a turn has ended, once in so many seconds.

    A session whose turns end more often is signed once over all of them. One that a process leaves unsigned when it
    dies is signed after its next turn, or at an export.
    """

    def __init__(self, signer: Signer, clock: Clock, every_s: float) -> None:
        self._signer = signer
        self._clock = clock
        self._every_s = every_s
        self._waiting: dict[SessionRef, None] = {}
        self._full = asyncio.Event()

    def ended(self, ref: SessionRef) -> None:
        """A turn of this session has ended."""
        self._waiting[ref] = None
        if len(self._waiting) >= AUDIT_ANCHORS_WAITING_MAX:
            self._full.set()
        if len(self._waiting) > 2 * AUDIT_ANCHORS_WAITING_MAX:
            # It is signed after its next turn, or at an export.
            del self._waiting[next(iter(self._waiting))]

    async def keep(self) -> None:
        """Sign for ever."""
        while True:
            full = asyncio.ensure_future(self._full.wait())
            slept = asyncio.ensure_future(self._clock.sleep(self._every_s))
            try:
                await asyncio.wait((full, slept), return_when=asyncio.FIRST_COMPLETED)
            finally:
                full.cancel()
                slept.cancel()
            self._full.clear()
            await self._sign()

    async def close(self) -> None:
        """Sign what still waits, as far as that goes in AUDIT_LAST_ANCHORS_S."""
        try:
            async with asyncio.timeout(AUDIT_LAST_ANCHORS_S):
                await self._sign()
        except TimeoutError:
            log.warning("%d audit chains have no anchor over their last turn yet", len(self._waiting))

    async def _sign(self) -> None:
        while self._waiting:
            ref = next(iter(self._waiting))
            del self._waiting[ref]
            try:
                await self._signer.anchor(ref)
            except SessionMissing:
                continue  # It was erased meanwhile, or was never kept.
            except StatelineError as error:
                self._waiting[ref] = None
                log.warning("cannot sign audit chains, and try again: %s", error.message)
                return
            except Exception:
                log.exception("the audit chain of session %s cannot be signed", ref.id)
