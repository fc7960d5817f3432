"""Nodes as processes of their own: each does as it is told, a line of JSON a command and an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

Values = dict[str, Any]
"""Of a command, or of an answer."""
_END_S = 15.0


class NodeFailed(Exception):
    """A node's process ended, or said that it could not do what it was told."""


class NodeProcess:
    """The parent's end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, **command: object) -> None:
        """Send a command; `answer` waits for what it gives."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Values:
        """What the last command gave.

        Raises:
            NodeFailed: the process ended; what it had to say is on stderr.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NodeFailed(f"a node ended with {self._process.wait(_END_S)}; its words are above")
        return json.loads(line)

    def ask(self, **command: object) -> Values:
        self.tell(**command)
        return self.answer()


@contextmanager
def node(role: str, **options: object) -> Generator[NodeProcess]:
    """A node of that role, ready; it ends with the block."""
    argv = [sys.executable, "-m", "bench.shared.node", role]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        this = NodeProcess(process)
        try:
            this.ask(**options)
            yield this
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def all_ask(nodes: Sequence[NodeProcess], **command: object) -> list[Values]:
    """The same command to all at once, and their answers."""
    for each in nodes:
        each.tell(**command)
    return [each.answer() for each in nodes]
