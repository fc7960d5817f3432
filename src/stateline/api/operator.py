"""What the API asks on an operator's behalf: the shapes of ``/v1/admin``, and who answers, as a protocol.

``ops`` implements it.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from stateline.ports import Backup, Pruned, StoreStatus


class BackupState(msgspec.Struct, frozen=True, kw_only=True):
    """The latest backup of this process. ``code`` and ``message`` say why it failed."""

    object: Literal["backup"] = "backup"
    status: Literal["none", "running", "done", "failed"] = "none"
    done_bytes: int = 0
    total_bytes: int = 0
    backup: Backup | None = None
    code: str | None = None
    message: str | None = None


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """Keys that are in force anew, and keys that differ and wait for a restart."""

    object: Literal["reload"] = "reload"
    changed: tuple[str, ...] = ()
    restart_needed: tuple[str, ...] = ()


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``started_at`` is Unix seconds."""

    object: Literal["server"] = "server"
    version: str
    pid: int
    started_at: int
    ready: bool
    store: StoreStatus


class Operator(Protocol):
    async def prune(self, *, dry_run: bool) -> Pruned:
        """Take away what is no longer to be kept, now."""
        ...

    def start_backup(self, path: str, *, force: bool) -> BackupState:
        """Begin a backup.

        Raises:
            Conflict: ``backup_running``.
            BadRequest: the path is not absolute.
        """
        ...

    def backup_state(self) -> BackupState: ...

    async def audit(self, tenant: str, session: str) -> list[str]:
        """A session's audit chain, as lines of an export.

        Raises:
            NotFound: ``audit_off``, ``session_not_found``.
        """
        ...

    async def reload(self) -> Reloaded:
        """Read the configuration anew.

        Raises:
            BadRequest: it cannot be used; nothing was changed.
        """
        ...

    async def status(self) -> ServerStatus: ...
