"""What the doctor looks at where the store is a SQLite file."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from stateline.config import Store
from stateline.core.errors import BadRequest, StoreUnavailable
from stateline.core.limits import (
    DISK_FREE_FAIL_BYTES,
    DISK_FREE_WARN_BYTES,
    DOCTOR_SYNCS,
    SYNC_FAST_MS,
    SYNC_SLOW_MS,
)
from stateline.ops.asking import ask_server
from stateline.ops.findings import Finding, fail, ok, warn
from stateline.stores.sqlite import opening, schema

StoreCheck = Callable[[Store], Iterable[Finding]]


def _path(store: Store) -> Path:
    assert store.path is not None
    return store.path.absolute()


def version(_: Store) -> Iterator[Finding]:
    if sqlite3.sqlite_version_info < (3, 37, 0):
        yield fail("sqlite", f"{sqlite3.sqlite_version} is too old", "use a Python whose SQLite is 3.37 or newer")
    else:
        # The corruption that 3.51.3 mends needs one connection that writes while another one checkpoints.
        yield ok("sqlite", f"{sqlite3.sqlite_version}; one connection writes and checkpoints, so every 3.37+ will do")


def place(store: Store) -> Iterator[Finding]:
    """A local disk, with room."""
    path = _path(store)
    try:
        opening.check_place(path)
    except StoreUnavailable as error:
        yield fail("file system", error.message, "set store.url to a file on a local disk")
        return
    kind = opening.filesystem(path.parent, Path("/proc/self/mountinfo")) or "unknown kind"
    yield ok("file system", f"{path.parent} is local ({kind})")
    usage = shutil.disk_usage(path.parent)
    message = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.1f} GiB are free"
    if usage.free < DISK_FREE_FAIL_BYTES:
        yield fail("disk space", message, "make room: a full disk refuses every turn")
    elif usage.free < DISK_FREE_WARN_BYTES:
        yield warn("disk space", message, "make room, shorten [retention], or run `stateline db prune`")
    else:
        yield ok("disk space", message)


def syncs(store: Store) -> Iterator[Finding]:
    """How long the disk takes to make a page durable: a turn waits for it twice."""
    folder = _path(store).parent
    if not folder.is_dir():
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".stateline-doctor-") as file:
            took = [_sync(file.fileno()) for _ in range(DOCTOR_SYNCS)]
    except OSError as error:
        yield fail("fsync", f"{folder} cannot be written: {error.strerror}", "let the server's user write there")
        return
    middle = statistics.median(took)
    message = f"{middle:.2f} ms in the middle, {max(took):.2f} ms at most, of {DOCTOR_SYNCS} writes"
    if middle > SYNC_SLOW_MS:
        yield warn("fsync", message, "use a faster disk: each turn waits twice for this")
    elif middle < SYNC_FAST_MS:
        yield warn("fsync", message, "no disk is as fast: what is acknowledged may not outlive a power failure")
    else:
        yield ok("fsync", message)


def _sync(descriptor: int) -> float:
    os.write(descriptor, bytes(schema.PAGE_BYTES))
    began = time.perf_counter()
    os.fsync(descriptor)
    return (time.perf_counter() - began) * 1000


def database(store: Store) -> Iterator[Finding]:
    """Whole and ours, or held by a server that answers."""
    path = _path(store)
    try:
        there = opening.check_file(path)
    except StoreUnavailable as error:
        yield fail("database", error.message, "see docs/running.md; `stateline db restore` puts a backup back")
        return
    if _is_held(path):
        yield _holder(path)
    elif there:
        yield _content(path)
    else:
        yield ok("database", f"{path} is made at the first start")
    if there:
        yield from _newest(path)


def _is_held(path: Path) -> bool:
    if not path.with_name(path.name + ".lock").exists():
        return False
    try:
        opening.lock(path).close()
    except StoreUnavailable as error:
        return error.code == "store_in_use"
    return False


def _holder(path: Path) -> Finding:
    with contextlib.suppress(BadRequest):
        if status := ask_server(path, "GET", "/v1/admin/status"):
            readiness = "ready" if status["ready"] else "not ready"
            return ok("database", f"held by Stateline {status['version']}, process {status['pid']}, {readiness}")
    return warn("database", f"{path} is held by a process that cannot be asked", "run this as the server's user")


def _content(path: Path) -> Finding:
    try:
        found = opening.schema_version(path)
    except StoreUnavailable as error:
        return fail("database", error.message, "restore a backup with `stateline db restore`")
    if found < schema.VERSION:
        return ok("database", f"{path}, schema {found}; the next start brings it to {schema.VERSION}")
    return ok("database", f"{path}, schema {found}, not in use")


def _newest(path: Path) -> Iterator[Finding]:
    """The log is ordered by numbers, but keys expire and timers ring by the clock."""
    try:
        with contextlib.closing(opening.connect(path, "ro")) as db:
            row = db.execute("SELECT at_ms FROM events ORDER BY n DESC LIMIT 1").fetchone()
    except sqlite3.Error:
        return
    ahead_s = 0 if row is None else row[0] / 1000 - time.time()
    if ahead_s > 60:
        yield fail("clock and log", f"the newest event is {ahead_s:.0f} s in the future", "set the machine's clock")


CHECKS: tuple[StoreCheck, ...] = (version, place, syncs, database)
