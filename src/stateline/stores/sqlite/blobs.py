"""Large content as files beside the database: ``NAME.blobs/ab/abcd…``.

A file and its folder are durable before the event that refers to it is committed. Files are written
once a tenant, never changed, and deleted once nothing refers to them and nobody touched them for a
while; writing and deleting happen on one thread, so they cannot cross.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from stateline.core.blobs import MARK, NAME_CHARS, blob_name, join, may_hold, split, tenant_key
from stateline.core.errors import StoreUnavailable
from stateline.core.limits import BLOB_GRACE_S
from stateline.stores.backups import sync_folder
from stateline.stores.sqlite import opening
from stateline.stores.sqlite.requests import Request

_DURABLE_MAX = 10_000


class Blobs:
    """The files of one database."""

    def __init__(self, path: Path, secret: bytes) -> None:
        self.database = path
        self._folder = path.with_name(path.name + ".blobs")
        self._secret = secret
        self._durable: set[str] = set()
        """Names that this process knows to be on the disk."""
        self._lock = threading.Lock()
        self._wanted: Counter[str] = Counter()
        """Names of requests that are not committed yet: no row refers to them, and they must stay."""
        self._held = 0
        self.late: set[str] = set()
        """Names that lost a reference while nothing might be deleted; ``drop`` looks at them again."""

    # -- on the thread for blobs -----------------------------------------------------------------

    def move_out(self, request: Request) -> None:
        """Write the large content of a request's bodies and leave references in its place.

        Raises:
            StoreUnavailable: the disk would not take it. Nothing refers to what was written.
        """
        key = tenant_key(self._secret, request.session.tenant)
        request.blobs = set()

        def keep(content: bytes) -> str:
            name = blob_name(key, content)
            if name not in request.blobs:
                request.blobs.add(name)
                with self._lock:
                    self._wanted[name] += 1
            self._write(name, content)
            return name

        try:
            request.bodies = [split(raw, keep) if may_hold(raw) else raw for raw in request.bodies]
        except OSError as error:
            raise opening.unavailable(error) from error

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        folder = path.parent
        if path.exists():
            os.utime(path)  # Whoever deletes old files sees that this one is wanted.
            if name not in self._durable:
                sync_folder(folder)
        else:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                sync_folder(self._folder)
                sync_folder(self._folder.parent)
            temporary = folder / f".{name}"
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(folder)
        if len(self._durable) >= _DURABLE_MAX:
            self._durable.clear()
        self._durable.add(name)

    def collect(self, grace_s: float = BLOB_GRACE_S) -> int:
        """Delete files without a reference that nobody touched for ``grace_s``; returns how many."""
        deleted = 0
        if self._held or not self._folder.is_dir():
            return deleted
        with contextlib.closing(opening.connect(self.database, "ro")) as db:
            for path in self._files():
                if time.time() - path.stat().st_mtime >= grace_s and not _referenced(db, path.name):
                    path.unlink()
                    self._durable.discard(path.name)
                    deleted += 1
        return deleted

    def drop(self, names: Iterable[str]) -> int:
        """Delete files that lost a reference, at once, where it was their last; returns how many."""
        deleted = 0
        names = self.late | set(names)
        if self._held:
            self.late = names
            return deleted
        self.late = set()
        with contextlib.closing(opening.connect(self.database, "ro")) as db:
            for name in sorted(names):
                with self._lock:
                    wanted = self._wanted[name]
                if wanted or _referenced(db, name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    self._path(name).unlink()
                    deleted += 1
                self._durable.discard(name)
        return deleted

    def _files(self) -> Iterator[Path]:
        for folder in sorted(self._folder.iterdir()):
            if folder.is_dir():
                yield from sorted(folder.iterdir())

    # -- on any thread -------------------------------------------------------------------------------

    def put_back(self, tenant: str, raw: bytes) -> bytes:
        """A stored body as it was appended.

        Raises:
            StoreUnavailable: a file is missing or damaged.
        """
        if not raw.startswith(MARK):
            return raw
        key = tenant_key(self._secret, tenant)

        def load(name: str) -> bytes:
            try:
                content = self._path(name).read_bytes()
            except OSError as error:
                raise _lost(name, error.strerror or str(error)) from error
            if not hmac.compare_digest(blob_name(key, content), name):
                raise _lost(name, "its content has changed")
            return content

        return join(raw, load)

    def settled(self, request: Request) -> None:
        """A request with large content is answered: from now on only its rows count."""
        with self._lock:
            self._wanted -= Counter(request.blobs)

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Nothing is deleted inside the block: a backup reads files whose rows may go meanwhile."""
        with self._lock:
            self._held += 1
        try:
            yield
        finally:
            with self._lock:
                self._held -= 1

    @property
    def folder(self) -> Path:
        return self._folder

    def check(self, tenant: str, name: str, content: bytes) -> bool:
        """Whether ``content`` is what ``name`` was given to."""
        return hmac.compare_digest(blob_name(tenant_key(self._secret, tenant), content), name)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name


def _referenced(db: sqlite3.Connection, name: str) -> bool:
    if len(name) != NAME_CHARS:
        return False  # A file that was never finished.
    return db.execute("SELECT 1 FROM blob_refs WHERE name = ? LIMIT 1", (name,)).fetchone() is not None


def _lost(name: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"stored content {name[:16]}… cannot be read ({why}); restore the .blobs folder from a backup",
        code="blob_lost",
    )
