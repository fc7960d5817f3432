"""``stateline serve`` that can be made to misbehave as real machines do.

The product has no hooks for this: what happens here is what a signal, a C extension or a scheduler can
do to any process.

SIGUSR1 blocks the event loop, SIGUSR2 holds the interpreter's lock, each for FAULTS_BLOCK_S seconds.
Where the file FAULTS_STOP names is found, the process deletes it and stops itself between the durable
record of a model call and the sending of it. FAULTS_LEASE_S makes the lease another one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

from stateline.core import limits

# Before anybody takes it over.
limits.LEASE_TTL_S = float(os.environ.get("FAULTS_LEASE_S") or limits.LEASE_TTL_S)

from stateline import wiring  # noqa: E402
from stateline.cli import main  # noqa: E402
from stateline.core.calls import ModelDelta, ModelRequest  # noqa: E402
from stateline.ports import Deployment  # noqa: E402

BLOCK_S = int(os.environ.get("FAULTS_BLOCK_S") or 15)


def block(*_: object) -> None:
    time.sleep(BLOCK_S)


def hold(*_: object) -> None:
    # Unlike CDLL, PyDLL does not let other threads run meanwhile.
    ctypes.PyDLL(None).sleep(BLOCK_S)


class StoppedClients(wiring.Clients):
    """Stops the process where a call is about to be sent: its record is durable by then."""

    def call(self, deployment: Deployment, request: ModelRequest) -> AsyncIterator[list[ModelDelta]]:
        trigger = Path(os.environ["FAULTS_STOP"])
        if trigger.exists():
            trigger.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().call(deployment, request)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, block)
    signal.signal(signal.SIGUSR2, hold)
    if "FAULTS_STOP" in os.environ:
        wiring.Clients = StoppedClients
    main()
