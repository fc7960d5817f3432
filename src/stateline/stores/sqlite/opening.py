"""Opening a database file: whose it is, whether it may be used, and making a new one.

A file that is not ours, is newer than this release, or is damaged is refused before anything is
written to it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path
from typing import IO
from urllib.parse import quote

from stateline.core.errors import StoreUnavailable
from stateline.stores.backups import sync_folder
from stateline.stores.sqlite import schema

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_CHECKED_BYTES_MAX = 16 * 1024 * 1024
"""Files up to this size are checked whole at each start; it takes some ten milliseconds."""
_SQLITE_MIN = (3, 37, 0)

# File systems on which SQLite's locks or shared memory do not hold.
# fmt: off
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "coda", "ncpfs", "lustre", "gfs2", "beegfs",
    "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone",
})
# fmt: on


def refuse(code: str, message: str) -> StoreUnavailable:
    """An error at the start, for whoever runs the server: one line."""
    return StoreUnavailable(message, code=code)


# -- the process that has it -------------------------------------------------------------------------


def reserve(path: str | Path) -> tuple[Path, IO[bytes]]:
    """Check where and what ``path`` is, and take its lock.

    Raises:
        StoreUnavailable: it may not be used; nothing was touched.
    """
    path = Path(path).absolute()
    check_place(path)
    check_file(path)
    return path, lock(path)


def lock(path: Path) -> IO[bytes]:
    """Take the lock file beside the database, for as long as the returned file is open.

    Raises:
        StoreUnavailable: another process has it, or the folder cannot be written.
    """
    name = path.with_name(path.name + ".lock")
    try:
        file = name.open("ab")
    except OSError as error:
        raise refuse("store_unwritable", f"cannot write {name}: {error.strerror}") from None
    try:
        _lock_file(file)
    except OSError:
        file.close()
        raise refuse(
            "store_in_use",
            f"{path} is in use by another process; a database has one server at a time",
        ) from None
    return file


def _lock_file(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- where it lies -----------------------------------------------------------------------------------


def check_place(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Refuse folders that are not there and network file systems (found on Linux alone)."""
    if not path.parent.is_dir():
        raise refuse("store_unwritable", f"the folder of {path} does not exist")
    if path.is_dir():
        raise refuse("store_foreign", f"{path} is a folder, not a database file")
    kind = filesystem(path.parent, mounts)
    if kind in _NETWORK:
        raise refuse(
            "store_network_fs",
            f"{path} is on a network file system ({kind}), where SQLite may lose data; use a local disk, or PostgreSQL",
        )


def filesystem(folder: Path, mounts: Path) -> str | None:
    """The type of the file system that holds ``folder``, or None where that cannot be told."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    place = str(folder.resolve())
    best, kind = -1, None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = _unescape(fields.split(" ")[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        # Of two mounts on one point the later one hides the earlier.
        if inside and len(point) >= best:
            best, kind = len(point), rest.split(" ")[0]
    return kind


def _unescape(field: str) -> str:
    """Mount points have their spaces and tabs as octal escapes."""
    return field.encode().decode("unicode_escape").encode("latin-1").decode()


# -- whose it is -------------------------------------------------------------------------------------


def check_file(path: Path) -> bool:
    """Whether there is a database to open; False for a file yet to be made.

    Reads the header alone.

    Raises:
        StoreUnavailable: foreign, newer than this release, or cut short.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refuse("store_unwritable", f"cannot read {path}: {error.strerror}") from None
    if not header:
        return False
    if not header.startswith(_MAGIC):
        raise refuse("store_foreign", f"{path} is not a Stateline database (nor any SQLite file)")
    if len(header) < _HEADER_BYTES:
        raise _corrupt(path, "its header is cut short")
    if _number(header, 68) != schema.APPLICATION_ID:
        raise refuse("store_foreign", f"{path} is a SQLite database of another program")
    _check_version(path, _number(header, 60))
    page = 65536 if header[16:18] == b"\0\1" else int.from_bytes(header[16:18], "big")
    if size < page * _number(header, 28) and not _has_wal(path):
        raise _corrupt(path, "it is shorter than its header says")
    return True


def schema_version(path: Path) -> int:
    """The schema version of a database that nobody uses; 0 where there is none.

    Raises:
        StoreUnavailable: foreign, newer than this release, or damaged.
    """
    if not check_file(path):
        return 0
    check_content(path)
    with contextlib.closing(connect(path, "ro")) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def _number(header: bytes, at: int) -> int:
    return int.from_bytes(header[at : at + 4], "big")


def _has_wal(path: Path) -> bool:
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except OSError:
        return False


def _check_version(path: Path, version: int) -> None:
    if version > schema.VERSION:
        raise refuse(
            "store_newer",
            f"{path} has schema version {version}, this release knows {schema.VERSION}; "
            "use the release that wrote it, or a newer one",
        )


def _corrupt(path: Path, why: str) -> StoreUnavailable:
    return refuse("store_corrupt", f"{path} is damaged ({why}); restore it from a backup")


def check_content(path: Path) -> None:
    """Look into an existing database, without writing to it.

    Raises:
        StoreUnavailable: damaged, or newer than its header said.
    """
    try:
        try:
            _look_into(path, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise
            # A crash left something to roll back, which only a writer can do.
            _look_into(path, "rw")
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            raise _corrupt(path, str(error)) from None
        raise unavailable(error) from error
    except sqlite3.DatabaseError as error:
        raise _corrupt(path, str(error)) from None


def _look_into(path: Path, mode: str) -> None:
    with contextlib.closing(connect(path, mode)) as db:
        _check_version(path, db.execute("PRAGMA user_version").fetchone()[0])
        if path.stat().st_size <= _CHECKED_BYTES_MAX:
            found: str = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _corrupt(path, found.replace("\n", " "))
        for table in ("meta", "sessions", "events", "chunks", "inbox"):
            db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()


# -- connections -------------------------------------------------------------------------------------


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection in autocommit mode: ``ro``, ``rw`` or ``rwc``."""
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=5.0,
        cached_statements=256,
        check_same_thread=mode != "ro",
    )


def open_writer(path: Path, now_ms: int) -> sqlite3.Connection:
    """The one connection that writes, on a database that is made first if there is none.

    Sessions that were owned are due at ``now_ms``.

    Raises:
        StoreUnavailable: with one line that says what is wrong; an existing file was not touched.
    """
    if sqlite3.sqlite_version_info < _SQLITE_MIN:
        need = ".".join(map(str, _SQLITE_MIN))
        raise refuse("store_sqlite_old", f"SQLite {sqlite3.sqlite_version} is too old, {need} is needed")
    try:
        if not check_file(path):
            _create(path)
        check_content(path)
        db = connect(path, "rw")
    except (sqlite3.Error, OSError) as error:
        raise unavailable(error) from error
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA fullfsync = ON")
        db.execute("PRAGMA checkpoint_fullfsync = ON")
        db.execute("PRAGMA journal_size_limit = 67108864")
        # What is deleted is overwritten, so that no free page or gap of a page holds what was erased: also
        # what left its table long before, such as a pruned chunk. A turn deletes next to nothing.
        db.execute("PRAGMA secure_delete = ON")
        schema.migrate(db)
        # One process at a time: whoever owned a session before is gone.
        db.execute("DELETE FROM nodes")
        db.execute(
            f"UPDATE sessions SET owner = NULL, crashed = 1, head = {schema.HEAD}, due_ms = ? WHERE owner IS NOT NULL",
            (now_ms,),
        )
        # The header in the main file is what the next start looks at first.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        # The writer checkpoints between commits; this is for when it cannot.
        db.execute("PRAGMA wal_autocheckpoint = 16000")
    except sqlite3.Error as error:
        db.close()
        raise unavailable(error) from error
    return db


def _create(path: Path) -> None:
    """Make an empty database beside ``path`` and move it there once it is whole."""
    if _has_wal(path):
        raise refuse(
            "store_corrupt",
            f"{path}-wal is there without its database; restore that, or move the journal away",
        )
    new = path.with_name(path.name + ".new")
    for suffix in ("", "-journal", "-wal", "-shm"):
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    with contextlib.closing(connect(new, "rwc")) as db:
        db.execute(f"PRAGMA page_size = {schema.PAGE_BYTES}")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_mode = WAL")
        schema.migrate(db)
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


# -- errors ------------------------------------------------------------------------------------------

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file or its disk is read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an input/output error",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
    sqlite3.SQLITE_NOTADB: "the file is damaged; restore it from a backup",
    sqlite3.SQLITE_BUSY: "another program has the file locked",
    sqlite3.SQLITE_NOMEM: "out of memory",
}


def of_the_disk(error: BaseException) -> bool:
    """Whether the disk or the file is at fault, not what was asked."""
    return type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError) or isinstance(error, OSError)


def unavailable(error: BaseException) -> StoreUnavailable:
    """What a failed read or write of the disk is called here."""
    code = getattr(error, "sqlite_errorcode", None)
    reason = _REASONS.get(code & 0xFF) if isinstance(code, int) else None
    if reason is None and isinstance(error, OSError):
        reason = error.strerror
    return StoreUnavailable(f"the store cannot be used now: {reason or error}", retry_after_s=5.0)
