"""A backup's folder: it gets its name once everything in it is on the disk, so a folder of that name is whole."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from stateline.core.errors import StoreUnavailable

MANIFEST = "manifest.json"


class Folder:
    """Where a backup goes.

    Args:
        target: the folder to make; its parent must be there.
        force: replace an earlier backup of that name once the new one is whole.
    """

    def __init__(self, target: Path, *, force: bool) -> None:
        self.target = target.absolute()
        self.partial = self.target.with_name(f".{self.target.name}.partial")
        self._force = force

    @contextmanager
    def filled(self, reason: Callable[[Exception], str | None]) -> Generator[Path]:
        """The folder to fill; it is put in its place at the end. Where that fails, nothing is left of it.

        Args:
            reason: of an error that is nobody's defect, in words; None for any other.

        Raises:
            StoreUnavailable: ``backup_exists`` or ``backup_failed``, in one line; an earlier backup is as it was.
        """
        self._check()
        try:
            shutil.rmtree(self.partial, ignore_errors=True)  # Of a process that died.
            self.partial.mkdir(mode=0o700)
            try:
                yield self.partial
                sync_all(self.partial)
                self._put_in_place()
            except BaseException:
                shutil.rmtree(self.partial, ignore_errors=True)
                raise
        except StoreUnavailable:
            raise
        except Exception as error:
            words = error.strerror if isinstance(error, OSError) else reason(error)
            if words is None:
                raise
            raise StoreUnavailable(f"no backup was made: {self.target}: {words}", code="backup_failed") from error

    def _check(self) -> None:
        if not self.target.parent.is_dir():
            raise StoreUnavailable(f"the folder {self.target.parent} does not exist", code="backup_failed")
        if not self.target.exists():
            return
        if not (self.target / MANIFEST).is_file():
            message = f"{self.target} is there and is no backup; it was not touched"
            raise StoreUnavailable(message, code="backup_exists")
        if not self._force:
            raise StoreUnavailable(f"{self.target} is there already; --force replaces it", code="backup_exists")

    def _put_in_place(self) -> None:
        old = self.target.with_name(f".{self.target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.target.exists():
            self.target.rename(old)
        self.partial.rename(self.target)
        sync_folder(self.target.parent)
        shutil.rmtree(old, ignore_errors=True)


def sync_all(folder: Path) -> None:
    """Make a folder and all that is in it durable."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
