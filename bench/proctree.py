"""CPU time and memory of a server's whole process tree, read from /proc.

The tree is every descendant of the root, and every process of the session that the root leads, so
that a worker which outlives its parent is still counted. A child that has died and been reaped is
in its parent's `cutime` and `cstime` (proc(5)); while it lives, or waits to be reaped, it is
counted as itself. So the sum never falls and counts nothing twice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The fields of one /proc/PID/stat line that the bench needs; times in clock ticks."""

    pid: int
    parent: int
    session: int
    ticks: int
    ticks_children: int


def parse_stat(line: str) -> ProcessStat:
    """Read one /proc/PID/stat line; the command may hold spaces and parentheses (proc(5))."""
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    # `tail` starts at field 3 of proc(5), the state.
    return ProcessStat(
        pid=int(head.split(" ", 1)[0]),
        parent=int(fields[1]),
        session=int(fields[3]),
        ticks=int(fields[11]) + int(fields[12]),
        ticks_children=int(fields[13]) + int(fields[14]),
    )


def _read_all() -> list[ProcessStat]:
    found: list[ProcessStat] = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            found.append(parse_stat((entry / "stat").read_text(errors="replace")))
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended between the listing and the reading.
    return found


def tree(root: int) -> list[ProcessStat]:
    """The root, its descendants and the members of the session it leads, by pid.

    Raises ProcessLookupError where the root is gone: its figures went with it.
    """
    processes = _read_all()
    if not any(p.pid == root for p in processes):
        raise ProcessLookupError(f"process {root} is gone")
    chosen = {root} | {p.pid for p in processes if p.session == root}
    grew = True
    while grew:  # Bounded: each round adds a process, and there are finitely many.
        more = {p.pid for p in processes if p.parent in chosen} - chosen
        chosen |= more
        grew = bool(more)
    return sorted((p for p in processes if p.pid in chosen), key=lambda p: p.pid)


def cpu_s(root: int) -> float:
    """Seconds of CPU, user and system, that the tree of `root` has used since it started."""
    return sum(p.ticks + p.ticks_children for p in tree(root)) / _TICKS_PER_S


def resident_mb(root: int) -> float:
    """Resident memory of the tree in MB of 10^6 bytes, shared pages counted once a process."""
    total_kib = 0
    for process in tree(root):
        try:
            status = (_PROC / str(process.pid) / "status").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                total_kib += int(line.split()[1])
    return total_kib * 1024 / 1e6
