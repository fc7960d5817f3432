"""Power loss: whatever was not synced is gone, and nothing that was acknowledged was not synced.

A writer runs under strace, which sees each write, sync and rename. From that record the disk is built
again as it may look when the power fails at some moment: what was synced is there; of the rest, every
piece may be there, be missing, or be cut at a sector. Then the store is opened on it.
"""

from __future__ import annotations

import ast
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.crash.store_child import check

CHILD = Path(__file__).with_name("store_child.py")
CUTS = 60
SECTOR_BYTES = 512
TRACED = (
    "openat,creat,close,write,pwrite64,pwritev,writev,fsync,fdatasync,ftruncate,fallocate,"
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"
)


# -- what strace saw ------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A system call: from ``began`` to ``ended``, as positions in the record."""

    name: str
    args: list[str]
    result: int
    began: int
    ended: int


def traced(log: Path) -> list[Call]:
    """All successful calls, in the order in which they ended."""
    begun: dict[str, tuple[str, int]] = {}
    calls: list[Call] = []
    for position, line in enumerate(log.read_text().splitlines()):
        thread, _, text = line.partition(" ")
        text = text.strip()
        began = position
        if text.endswith("<unfinished ...>"):
            begun[thread] = (text.removesuffix("<unfinished ...>").rstrip(), position)
            continue
        if text.startswith("<... "):
            start, began = begun.pop(thread)
            text = start + text.partition(" resumed>")[2]
        match = re.match(r"(\w+)\((.*)\)\s+= (-?\d+)", text)
        if match and int(match[3]) >= 0:
            # No string of ours holds a comma: all are written in hexadecimal.
            args = [arg.strip() for arg in match[2].split(", ")]
            calls.append(Call(match[1], args, int(match[3]), began, position))
    return calls


def text(arg: str) -> str:
    return raw(arg).decode()


def raw(arg: str) -> bytes:
    value = ast.literal_eval("b" + arg)
    assert isinstance(value, bytes)
    return value


# -- a disk that forgets ----------------------------------------------------------------------------------


class Write(NamedTuple):
    """A write at an offset, or with ``data`` None a truncation to it."""

    offset: int
    data: bytes | None


class File:
    def __init__(self) -> None:
        self.synced = bytearray()
        self.pending: list[Write] = []
        self.size = 0


def apply(content: bytearray, write: Write) -> None:
    if write.data is None:
        del content[write.offset :]
        content.extend(bytes(write.offset - len(content)))
        return
    content.extend(bytes(max(0, write.offset - len(content))))
    content[write.offset : write.offset + len(write.data)] = write.data


class Disk:
    """Files under a folder: what is surely on the disk, and what may be.

    A name is on the disk once its folder was synced, as the strictest file system has it.
    """

    def __init__(self, folder: Path) -> None:
        self._root = str(folder)
        self.acknowledged: list[str] = []
        self._open: dict[int, tuple[str, File | None, int]] = {}
        self._names: dict[str, File | None] = {self._root: None}
        self._durable: dict[str, File | None] = {self._root: None}
        self._changes: dict[str, list[dict[str, File | str | None]]] = {}

    def play(self, call: Call, syncing: dict[int, int]) -> None:
        """One call. ``syncing`` tells how many writes were done when a sync began."""
        name, args = call.name, call.args
        if name == "write" and args[0] == "1":
            self.acknowledged.append(text(args[1]).strip())
        elif name == "openat":
            self._opened(text(args[1]), args[2], call.result)
        elif name == "close":
            self._open.pop(int(args[0]), None)
        elif name in ("write", "pwrite64", "ftruncate"):
            self._written(call)
        elif name in ("fsync", "fdatasync"):
            self._synced(int(args[0]), syncing.get(call.began))
        elif name in ("rename", "unlink", "mkdir"):
            self._renamed(name, [text(arg) for arg in args if arg.startswith('"')])
        elif self._ours(call):
            raise AssertionError(f"the replay does not know {call}")

    def _ours(self, call: Call) -> bool:
        return call.args[0].isdigit() and int(call.args[0]) in self._open

    def pending(self, handle: int) -> int | None:
        """How many writes wait for a sync of what is open as ``handle``."""
        entry = self._open.get(handle)
        if entry is None:
            return None
        path, file, _ = entry
        return len(self._changes.get(path, [])) if file is None else len(file.pending)

    def _opened(self, path: str, flags: str, handle: int) -> None:
        if not path.startswith(self._root):
            return
        if path not in self._names:
            assert "O_CREAT" in flags
            self._change(path, {path: File()})
        file = self._names[path]
        if file is not None and "O_TRUNC" in flags and file.size:
            file.pending.append(Write(0, None))
            file.size = 0
        self._open[handle] = (path, file, 0)

    def _written(self, call: Call) -> None:
        handle = int(call.args[0])
        if handle not in self._open:
            return
        path, file, at = self._open[handle]
        assert file is not None
        if call.name == "ftruncate":
            write = Write(int(call.args[1]), None)
            file.size = write.offset
        else:
            offset = int(call.args[3]) if call.name == "pwrite64" else at
            write = Write(offset, raw(call.args[1])[: call.result])
            file.size = max(file.size, offset + call.result)
            if call.name == "write":
                self._open[handle] = (path, file, at + call.result)
        file.pending.append(write)

    def _synced(self, handle: int, count: int | None) -> None:
        if handle not in self._open or count is None:
            return
        path, file, _ = self._open[handle]
        if file is None:
            for change in self._changes.get(path, [])[:count]:
                _rename(self._durable, change)
            del self._changes.get(path, [])[:count]
        else:
            for write in file.pending[:count]:
                apply(file.synced, write)
            del file.pending[:count]

    def _renamed(self, name: str, paths: list[str]) -> None:
        if not paths[0].startswith(self._root):
            return
        if name == "mkdir":
            self._change(paths[0], {paths[0]: None})
        elif name == "unlink":
            self._change(paths[0], {paths[0]: "gone"})
        else:
            self._change(paths[0], {paths[1]: self._names[paths[0]], paths[0]: "gone"})

    def _change(self, path: str, change: dict[str, File | str | None]) -> None:
        _rename(self._names, change)
        self._changes.setdefault(path.rpartition("/")[0], []).append(change)

    def crash(self, target: Path, chance: random.Random | None) -> None:
        """Write what is left after a power loss into ``target``; without chance, only what is sure."""
        names = dict(self._durable)
        for changes in self._changes.values():
            for change in changes[: chance.randint(0, len(changes)) if chance else 0]:
                _rename(names, change)
        for path in sorted(names):
            place = target / path[len(self._root) :].lstrip("/")
            file = names[path]
            if path != self._root and not place.parent.is_dir():
                continue  # What lies in a folder whose own name is not on the disk cannot be found.
            if file is None:
                place.mkdir(exist_ok=True)
            else:
                place.write_bytes(_left(file, chance))


def _rename(names: dict[str, File | None], change: dict[str, File | str | None]) -> None:
    for path, file in change.items():
        if isinstance(file, str):
            names.pop(path, None)
        else:
            names[path] = file


def _left(file: File, chance: random.Random | None) -> bytes:
    content = bytearray(file.synced)
    for write in file.pending if chance else ():
        fate = chance.random() if chance else 0.0
        if fate < 0.4:
            continue
        if fate < 0.6 and write.data is not None and len(write.data) > SECTOR_BYTES:
            sectors = chance.randrange(len(write.data) // SECTOR_BYTES) if chance else 0
            write = Write(write.offset, write.data[: sectors * SECTOR_BYTES])  # noqa: PLW2901
        apply(content, write)
    return bytes(content)


def replay(calls: list[Call], disk: Disk) -> Iterator[Call]:
    """Play the calls one by one, each given after it ended."""
    begins = sorted((call.began, call) for call in calls if call.name in ("fsync", "fdatasync"))
    syncing: dict[int, int] = {}
    for call in calls:
        # A sync covers what was written before it began, not what came while it ran.
        while begins and begins[0][0] <= call.ended:
            began, sync = begins.pop(0)
            count = disk.pending(int(sync.args[0]))
            if count is not None:
                syncing[began] = count
        disk.play(call, syncing)
        yield call


# -- the record, made once -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """The folder of a writer and all that it asked of the system."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("traced") / "data"
    folder.mkdir()
    log = folder.parent / "log"
    command = [strace, "-f", "-xx", "-s", "100000000", "-e", f"trace={TRACED}", "-o", str(log)]
    command += [sys.executable, str(CHILD), str(folder / "a.db"), "w", "7", "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("this machine does not let strace trace")
    assert done.returncode == 0, done.stderr
    return folder, traced(log)


def test_each_acknowledgement_follows_a_sync_of_the_journal_that_holds_it(record: tuple[Path, list[Call]]) -> None:
    """Not only is nothing lost: the sync is there, after the write and before the answer."""
    folder, calls = record
    disk = Disk(folder)
    journal = -1
    written = synced = acknowledged = 0
    marks: dict[bytes, int] = {}
    for call in replay(calls, disk):
        if call.name == "openat" and text(call.args[1]) == str(folder / "a.db-wal"):
            journal = call.result
        elif call.name == "pwrite64" and int(call.args[0]) == journal:
            written += 1
            for mark in re.findall(rb"<[\w-]+:\d+>", raw(call.args[1])):
                marks.setdefault(mark, call.ended)
        elif call.name == "fdatasync" and int(call.args[0]) == journal:
            synced = call.began
        elif call.name == "write" and call.args[0] == "1" and call.args[1].startswith('"\\x41'):
            _, name, head = text(call.args[1]).split()
            mark = f"<{name}:{head}>".encode()
            if mark in marks:  # An image's mark is in its file.
                assert marks[mark] < synced < call.began
                acknowledged += 1
    assert written > 100
    assert acknowledged > 50


@pytest.mark.parametrize("strict", [True, False], ids=["unsynced writes are gone", "some unsynced writes are there"])
async def test_no_acknowledged_event_is_lost_when_the_power_fails(
    record: tuple[Path, list[Call]], tmp_path: Path, strict: bool
) -> None:
    folder, calls = record
    chance = random.Random(20261122)
    cuts = set(chance.sample(range(len(calls)), CUTS)) | {len(calls) - 1}
    disk = Disk(folder)
    opened = 0
    for number, _ in enumerate(replay(calls, disk)):
        if number not in cuts:
            continue
        image = tmp_path / str(number)
        image.mkdir()
        disk.crash(image, None if strict else chance)
        for leftover in image.glob("a.db-shm"):
            leftover.unlink()  # Shared memory is not what a disk keeps.
        found = await check(image / "a.db", disk.acknowledged)
        opened += found > 0
        shutil.rmtree(image)
    assert opened > CUTS / 4
