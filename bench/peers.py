"""Installs the servers that Stateline is compared with, each in a new environment of its own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from bench.servers import CONFIGS, HERE, VENVS, Adapter, NotRunnable

_INSTALL_MAX_S = 1800


@dataclass(frozen=True, slots=True)
class Peer:
    """What the environment needs: a Python no older than this, and a list of requirements."""

    name: str
    python: str

    @property
    def requirements(self) -> str:
        return str(CONFIGS / f"{self.name}.txt")


PEERS = {"litellm": Peer("litellm", "3.11"), "ogx": Peer("ogx", "3.12")}


def ensure_installed(adapter: Adapter) -> None:
    """Install a peer unless it is there. Raises NotRunnable with uv's last words on a failure.

    Python is only looked for, never downloaded; the packages are hundreds of megabytes.
    """
    if adapter.executable.exists():
        return
    peer = PEERS[adapter.name]
    uv = str(HERE.parent / "scripts/uv")
    venv = VENVS / peer.name
    python = str(venv / "bin/python")
    for argv in (
        [uv, "venv", "--no-python-downloads", "--python", f">={peer.python}", str(venv)],
        [uv, "pip", "install", "--python", python, "--requirements", peer.requirements],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_MAX_S, check=False)
        if done.returncode != 0:
            raise NotRunnable(f"{peer.name} could not be installed: {done.stderr[-300:].strip()}")
