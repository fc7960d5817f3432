"""Known defects, planted one at a time into a copy of the source: the simulator must find each.

A patch names its text exactly; text that is not there exactly once fails the check, so that the list
cannot rot. A mutant that no seed finds says that the simulator is blind there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

import stateline

SEEDS_MAX = 64
"""Seeds within which each must be found."""
Patch = tuple[str, str, str]
"""A file under ``stateline``, the text that is there once, and what takes its place."""

MUTANTS: dict[str, tuple[Patch, ...]] = {
    "no fence": (
        (
            "testing/sim/database.py",
            'raise Fenced(f"session {row.ref.id} has another owner")',
            "return False",
        ),
    ),
    "no expected_seq check": (("testing/sim/database.py", "if row.head != expected_seq:", "if False:"),),
    "lost renew": (
        (
            "engine/lease.py",
            "        await self._node.store.renew(self._node.owner, self._ttl_s)\n",
            "        if not self.held.is_set():\n"
            "            await self._node.store.renew(self._node.owner, self._ttl_s)\n",
        ),
    ),
    "dispatch before record": (
        (
            "engine/work.py",
            "                await self._append(session, events)\n                break",
            "                if self._to_perform is not None:\n"
            "                    before, self.session = self.session, session\n"
            "                    self._perform(*self._to_perform)\n"
            "                    self.session = before\n"
            "                await self._append(session, events)\n                break",
        ),
    ),
    "unsafe re-dispatch": (
        (
            "core/session.py",
            'changes |= {\n            "call": None,\n            "failures": turn.failures + (not lost),',
            'changes |= {\n            "call": None,\n            "steps": turn.steps - lost,\n'
            '            "failures": turn.failures + (not lost),',
        ),
    ),
    "double commit on a duplicate wake-up": (
        ("engine/work.py", "if posted.post > self._seen:", "if True:"),
        ("engine/live.py", "            if record.post > watched.watch.post:\n", "            if True:\n"),
        ("testing/sim/database.py", " or any(post not in row.inbox for post in posts)", ""),
        ("testing/sim/database.py", "del row.inbox[post]", "row.inbox.pop(post, None)"),
    ),
    "sequence-number reuse": (
        (
            "core/session.py",
            '"failures": turn.failures + (not lost),\n'
            '            "output_index": turn.output_index + len(body.items),\n'
            '            "number": max(turn.number, body.next_number),',
            '"failures": turn.failures + (not lost),\n            "output_index": turn.output_index + len(body.items),',
        ),
    ),
    "lost inbox wake-up": (("engine/live.py", "                watched.owner(record)\n", ""),),
    "lost cancel": (("core/session.py", 'changes["cancelling"] = True', "pass"),),
    "lost settlement": (("engine/work.py", "self._holds += settlement(session, body)", "pass"),),
    "no limit of a budget": (
        ("testing/sim/database.py", "if hold.limit is not None and now.held", "if hold.limit is None and now.held"),
    ),
    "wrong snapshot sequence": (
        (
            "core/session.py",
            "        ref=event.session,\n        seq=event.seq,\n        epoch=event.epoch,",
            "        ref=event.session,\n        seq=event.seq - 1,\n        epoch=event.epoch,",
        ),
    ),
}


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """How a mutant was found: after how many seeds, and by which rule."""

    mutant: str
    seeds: int | None
    finding: str = ""


def find_all(console: Console, *, jobs: int, out: Path | None = None) -> int:
    """Plant every mutant; 1 if one was not found."""
    results: list[Found] = []
    for mutant in MUTANTS:
        found = find(mutant, jobs=jobs)
        results.append(found)
        how = "[red]NOT FOUND[/]" if found.seeds is None else f"after {found.seeds} seeds: {found.finding}"
        console.print(f"{mutant:40} {how}", highlight=False, soft_wrap=True)
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    return 0 if all(found.seeds is not None for found in results) else 1


def find(mutant: str, *, jobs: int = 1, seeds_max: int = SEEDS_MAX) -> Found:
    """Run seeds of a mutated copy, one after the other, until one breaks."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "stateline"
        planted(mutant, root)
        for first in range(0, seeds_max, jobs):
            for seed, finding in _broken(Path(scratch), range(first, min(first + jobs, seeds_max))):
                if finding:
                    return Found(mutant=mutant, seeds=seed + 1, finding=finding)
    return Found(mutant=mutant, seeds=None)


def planted(mutant: str, root: Path) -> None:
    """Copy the source to ``root`` and patch it.

    Raises:
        ValueError: a patch's text is not there exactly once.
    """
    shutil.copytree(Path(stateline.__file__).parent, root, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in MUTANTS[mutant]:
        path = root / file
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{mutant}: {file} has {text.count(old)} times what is to be patched: {old!r}")
        path.write_text(text.replace(old, new), encoding="utf-8")


def _broken(scratch: Path, seeds: range) -> list[tuple[int, str]]:
    """Each seed in a process of its own, at the same time; what it broke, or nothing."""
    environment = {**os.environ, "PYTHONPATH": str(scratch), "COLUMNS": "400"}
    running = [
        (
            seed,
            subprocess.Popen(  # noqa: S603 - this very package
                [sys.executable, "-m", "stateline.testing.sim", "--seed", str(seed)],
                env=environment,
                cwd=scratch,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ),
        )
        for seed in seeds
    ]
    out: list[tuple[int, str]] = []
    for seed, process in running:
        said, _ = process.communicate()
        if process.returncode == 0:
            out.append((seed, ""))
        else:
            broken = re.search(r"^broken\s+(.*)$", said, re.MULTILINE)
            out.append((seed, broken[1].strip() if broken else said.strip().splitlines()[-1]))
    return out
