"""Reads a folder of policies, and cuts its files into statements that know their lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from stateline.core.limits import POLICY_FILE_BYTES_MAX, POLICY_FILES_MAX
from stateline.identity.policy.errors import PolicyError, Problem

SCHEMA = "schema.cedarschema"
_ENDING = ".cedar"
_TOKEN = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|;|[^";/\s]+|\s+|.', re.DOTALL)


class Statement(NamedTuple):
    """One policy as it is written, without what stands before it.

    Attributes:
        line: on which it begins, from 1; ``nth``: which of those that begin there it is, from 1.
    """

    file: str
    line: int
    nth: int
    text: str

    @property
    def name(self) -> str:
        """Its place, which is its name where it has no other."""
        return f"{self.file}:{self.line}" if self.nth == 1 else f"{self.file}:{self.line}.{self.nth}"


class Sources(NamedTuple):
    """What a folder holds. Names of files are those within it; ``folder`` is for messages."""

    folder: str
    files: tuple[tuple[str, str], ...]
    schema: str | None

    def place(self, name: str) -> str:
        return str(Path(self.folder) / name)


def read_folder(folder: Path) -> Sources:
    """Every ``.cedar`` file of a folder and of those in it, by name, and ``schema.cedarschema`` at its top.

    Names that begin with a dot are left out.

    Raises:
        PolicyError: ``policy_unreadable``.
    """
    if not folder.is_dir():
        raise _unreadable(folder, "no such folder; policy.path names one")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob(f"*{_ENDING}")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if len(names) > POLICY_FILES_MAX:
        raise _unreadable(folder, f"more than {POLICY_FILES_MAX} files")
    files = tuple((name, _read(folder / name)) for name in names)
    schema = _read(folder / SCHEMA) if (folder / SCHEMA).exists() else None
    return Sources(str(folder), files, schema)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(POLICY_FILE_BYTES_MAX + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _unreadable(path, "not UTF-8") from None
    if len(data) > POLICY_FILE_BYTES_MAX:
        raise _unreadable(path, f"larger than {POLICY_FILE_BYTES_MAX} bytes")
    return text


def _unreadable(path: Path, message: str) -> PolicyError:
    return PolicyError([Problem(str(path), 0, message)], code="policy_unreadable")


def split(file: str, text: str) -> list[Statement]:
    """The statements of a file. What follows the last semicolon is one as well, unless it says nothing."""
    out: list[Statement] = []
    pieces: list[str] = []
    line = begun = 1
    for match in _TOKEN.finditer(text):
        piece = match.group()
        said = not piece.isspace() and not piece.startswith("//")
        if said and not pieces:
            begun = line
        if said or pieces:
            pieces.append(piece)
        line += piece.count("\n")
        if piece == ";":
            _add(out, file, begun, pieces)
            pieces = []
    if pieces:
        _add(out, file, begun, pieces)
    return out


def _add(out: list[Statement], file: str, line: int, pieces: list[str]) -> None:
    nth = out[-1].nth + 1 if out and out[-1].line == line else 1
    out.append(Statement(file, line, nth, "".join(pieces)))
