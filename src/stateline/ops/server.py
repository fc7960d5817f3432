"""What an operator asks of a running server."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Protocol

import msgspec

from stateline import __version__
from stateline.api.operator import BackupState, Reloaded, ServerStatus
from stateline.core.errors import BadRequest, Conflict, NotFound, StatelineError
from stateline.core.ids import SessionRef
from stateline.core.limits import PRUNE_EVERY_S
from stateline.ops.reload import Reloader
from stateline.ports import Clock, Maintenance, Pruned, Witness

log = logging.getLogger("stateline")


class Auditor(Witness, Protocol):
    """Who signs sessions' audit chains, and keeps them when they are erased."""

    async def chain(self, tenant: str, session: str) -> list[str]:
        """The lines of an export, as ``api.operator.Operator.audit`` gives them."""
        ...


class ServerOperator:
    """A ``stateline.api.operator.Operator``, and the loop that keeps the store.

    Args:
        forget: told of the sessions that were erased.
        ready: whether the server takes turns.
    """

    def __init__(
        self,
        maintenance: Maintenance,
        reloader: Reloader,
        clock: Clock,
        *,
        forget: Callable[[tuple[SessionRef, ...]], None],
        ready: Callable[[], bool],
        auditor: Auditor | None = None,
    ) -> None:
        self._maintenance = maintenance
        self._reloader = reloader
        self._clock = clock
        self._forget = forget
        self._ready = ready
        self._auditor = auditor
        self._started_at = int(time())
        self._state = BackupState()
        self._backup: asyncio.Task[None] | None = None

    # -- the retention -----------------------------------------------------------------------------

    async def prune(self, *, dry_run: bool) -> Pruned:
        keep = self._reloader.config.retention
        pruned = await self._maintenance.prune(keep, dry_run=dry_run, witness=self._auditor)
        self._forget(pruned.erased)
        if not dry_run and (pruned.chunks or pruned.sessions or pruned.snapshots):
            log.info(
                "pruned %d chunks and %d snapshots, erased %d sessions",
                pruned.chunks,
                pruned.snapshots,
                pruned.sessions,
            )
        return pruned

    async def keep(self) -> None:
        """Prune every so often, for ever; what goes wrong once may go well the next time."""
        while True:
            await self._clock.sleep(min(PRUNE_EVERY_S, self._reloader.config.retention.chunks_s))
            try:
                await self.prune(dry_run=False)
            except StatelineError as error:
                log.warning("cannot prune: %s", error.message)
            except Exception:
                log.exception("pruning failed")

    # -- backups -----------------------------------------------------------------------------------

    def start_backup(self, path: str, *, force: bool) -> BackupState:
        if self._state.status == "running":
            raise Conflict("A backup is being made; wait until it is done.", code="backup_running")
        if not Path(path).is_absolute() or "\0" in path:
            raise BadRequest("The path of a backup must be absolute.", code="invalid_value", param="path")
        self._state = BackupState(status="running")
        self._backup = asyncio.get_running_loop().create_task(self._make(path, force=force))
        return self._state

    def backup_state(self) -> BackupState:
        return self._state

    async def _make(self, target: str, *, force: bool) -> None:
        try:
            made = await self._maintenance.backup(target, force=force, progress=self._progressed)
        except Exception as error:
            known = isinstance(error, StatelineError)
            code, message = (error.code, error.message) if known else ("internal_error", "the server's log has more")
            log.error("no backup was made: %s", message, exc_info=None if known else error)
            self._state = msgspec.structs.replace(self._state, status="failed", code=code, message=message)
        else:
            log.info("backed up to %s: %d bytes, %d files", made.path, made.bytes, made.files)
            self._state = msgspec.structs.replace(self._state, status="done", backup=made)

    def _progressed(self, done: int, total: int) -> None:
        """Called from the thread that copies: one assignment, which nobody sees half."""
        self._state = BackupState(status="running", done_bytes=done, total_bytes=total)

    async def close(self) -> None:
        """Wait for a backup that was told to stop."""
        if self._backup is not None:
            await asyncio.wait([self._backup])

    async def audit(self, tenant: str, session: str) -> list[str]:
        if self._auditor is None:
            raise NotFound("This server signs no audits; configure [audit] with a key.", code="audit_off")
        return await self._auditor.chain(tenant, session)

    # -- the rest ----------------------------------------------------------------------------------

    async def reload(self) -> Reloaded:
        return await self._reloader.reload()

    async def status(self) -> ServerStatus:
        return ServerStatus(
            version=__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            ready=self._ready(),
            store=await self._maintenance.status(),
        )
