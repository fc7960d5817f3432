"""Where workspaces lie between runs: one file a session, and nothing that the server ever unpacks.

A file is a frame of JSON (`State`) and then the workspace as a tar archive in frames, as the launcher wrote it. It is
replaced whole, so a run that ends half-way leaves what was before it. Nothing in an archive is a file of this
machine: no link in it can be followed here, and erasing it is erasing one file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import struct
import time
from asyncio import StreamReader
from pathlib import Path
from typing import BinaryIO

import msgspec

from stateline.core.tools import ToolError, ToolResult

FRAME_MAX = 2 * 1024 * 1024
_HEAD_MAX = 256 * 1024 * 1024
_STALE_S = 2 * 3600
EMPTY = struct.pack(">I", 0)
"""An archive of nothing."""


class Answer(msgspec.Struct, frozen=True):
    """What one call was answered."""

    key: str
    result: ToolResult


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Whose workspace it is, and what the latest calls were answered."""

    tenant: str
    session: str
    answers: tuple[Answer, ...] = ()


def framed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


class Workspaces:
    """A folder of workspaces, which none but this user may enter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file_of(self, session: str) -> Path:
        """A name that holds for any session id, however it is written."""
        return self.folder / (hashlib.sha256(session.encode()).hexdigest()[:40] + ".workspace")

    def open(self, tenant: str, session: str) -> tuple[State, BinaryIO | None]:
        """What is known of a session, and its archive, at its beginning; None where there is none yet.

        Raises:
            ToolError: it cannot be read, or is another tenant's.
        """
        try:
            handle = os.open(self.file_of(session), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return State(tenant=tenant, session=session), None
        except OSError as error:
            raise unreadable(error.strerror or "an error") from error
        file = os.fdopen(handle, "rb")
        try:
            length = struct.unpack(">I", file.read(4))[0]
            state = msgspec.json.decode(file.read(min(length, _HEAD_MAX)), type=State)
        except (OSError, struct.error, msgspec.MsgspecError) as error:
            file.close()
            raise unreadable("its file is broken") from error
        if (state.tenant, state.session) != (tenant, session):
            file.close()
            raise unreadable("it is not this session's")
        return state, file

    def erase(self, session: str) -> None:
        """Remove a session's workspace, durably. One that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.file_of(session).unlink()
            self._sync_folder()

    def create(self) -> tuple[Path, BinaryIO]:
        """A file to write a workspace into, which becomes one by `replace`.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f".{secrets.token_hex(8)}.new"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return path, os.fdopen(handle, "wb")

    def replace(self, session: str, path: Path, file: BinaryIO) -> None:
        """Make a file that `create` gave the session's workspace, durable on return."""
        file.flush()
        os.fsync(file.fileno())
        file.close()
        path.rename(self.file_of(session))
        self._sync_folder()

    def clean(self) -> None:
        """Remove what writers left that were killed: what is older than any run can be."""
        for path in self.folder.glob(".*.new"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > _STALE_S:
                    path.unlink()

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unreadable(why: str) -> ToolError:
    return ToolError(f"The sandbox's workspace cannot be read: {why}.", code="sandbox_workspace", sent=False)


async def frame(source: StreamReader, most: int) -> bytes:
    """One frame from a launcher.

    Raises:
        asyncio.IncompleteReadError, ValueError: it ended, or is longer than it may be.
    """
    length = struct.unpack(">I", await source.readexactly(4))[0]
    if length > most:
        raise ValueError("frame")
    return await source.readexactly(length)


async def receive(source: StreamReader, file: BinaryIO, most: int) -> None:
    """Write an archive as it comes, up to ``most`` bytes.

    Raises:
        asyncio.IncompleteReadError, ValueError: it ended early, or is longer than it may be.
        OSError: it cannot be written.
    """
    total = 0
    while True:
        data = await frame(source, FRAME_MAX)
        total += len(data)
        if total > most:
            raise ValueError("archive")
        await asyncio.to_thread(file.write, framed(data))
        if not data:
            return
