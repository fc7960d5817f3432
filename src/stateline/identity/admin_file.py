"""``<database>.admin``: how the command line reaches a server that runs, and proves itself to it.

The server holds the database alone, so ``stateline keys`` has to ask it. Whoever can read this file can
read the database beside it, so the file gives nobody more than they had.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from stateline.core.errors import BadRequest


class AdminAccess(msgspec.Struct, frozen=True, kw_only=True):
    """``url`` is the server's own, without a trailing slash; ``pid`` is its process."""

    url: str
    token: str
    pid: int


def admin_path(database: Path) -> Path:
    return database.with_name(database.name + ".admin")


def new_token(entropy: Callable[[int], bytes]) -> str:
    return "sl-admin-" + entropy(32).hex()


@contextmanager
def admin_file(database: Path, url: str, token: str) -> Generator[Path]:
    """The file, readable by its owner alone, for as long as the block runs."""
    path = admin_path(database)
    fresh = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        fresh.unlink()
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(msgspec.json.encode(AdminAccess(url=url, token=token, pid=os.getpid())))
    fresh.replace(path)
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def read_admin_file(database: Path) -> AdminAccess | None:
    """What a running server wrote, or None; one that a killed server left behind may be stale.

    Raises:
        BadRequest: the file is there and cannot be read.
    """
    path = admin_path(database)
    try:
        return msgspec.json.decode(path.read_bytes(), type=AdminAccess)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise BadRequest(f"{path} cannot be read: {error}", code="admin_file_unreadable") from None
