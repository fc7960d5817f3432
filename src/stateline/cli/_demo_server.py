"""The demo's server: the real `stateline serve` as a child process, to be killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

from stateline.cli._demo_http import Api, Gone
from stateline.core.errors import Blame, StatelineError

DEFAULT_PORT = 8700
START_S_MAX = 60.0
"""A start takes about a second; a machine that swaps may take longer."""
STOP_S_MAX = 15.0
"""How long a gentle stop may take before it is made a hard one."""
LOG_TAIL_BYTES_MAX = 64 * 1024
_POLL_S = 0.02


class DemoError(StatelineError):
    """The demo cannot go on; its message is the one line that says why and what to do."""

    code = "demo_failed"
    blame: Blame = "operator"


class Interrupts:
    """Ctrl-C, SIGTERM and a closed terminal, as one KeyboardInterrupt that may be held back.

    It is raised once: what ends the demo must not be interrupted itself. A child that was started and
    not yet remembered would outlive the demo, so what starts and stops children runs inside `held`.

    Attributes:
        count: how many of them came; further ones hurry the end up.
    """

    def __init__(self) -> None:
        self.count = 0
        self._armed = True
        self._held = False

    def install(self) -> None:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None:
                signal.signal(number, self._handle)

    def disarm(self) -> None:
        """Raise no more."""
        self._armed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if not self._held:
            self._raise()

    def _raise(self) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        before = self.count
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.count > before:
            self._raise()


class ServerProcess:
    """One `stateline serve` at a time, always with the same configuration and port."""

    def __init__(self, config: Path, log: Path, port: int, interrupts: Interrupts) -> None:
        self.config = config
        self.log = log
        self.root = f"http://127.0.0.1:{port}"
        self.api = Api(self.root)
        self._interrupts = interrupts
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start it and wait until it answers; the seconds that this took.

        Raises:
            DemoError: it ended by itself, with the reason that it gave, or never answered.
        """
        began = time.monotonic()
        with self._interrupts.held():
            self._spawn()
        while not self._ready():
            if self.ended:
                raise DemoError(f"the server did not start: {self.last_words()}")
            if time.monotonic() - began > START_S_MAX:
                raise DemoError(f"the server did not answer within {START_S_MAX:.0f} s; its log is {self.log}")
            time.sleep(_POLL_S)
        return time.monotonic() - began

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                [sys.executable, "-c", "from stateline.cli import main; main()", "serve", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ(),
                # Out of the terminal's process group: Ctrl-C reaches the demo alone, which then stops it.
                start_new_session=True,
            )

    def _ready(self) -> bool:
        try:
            return self.api.get("/readyz", timeout_s=2.0) is not None
        except (Gone, StatelineError):
            return False

    def kill(self) -> int:
        """SIGKILL: no handler of the server runs, nothing is flushed. The process id that is no more."""
        process = self._process
        assert process is not None
        with self._interrupts.held():
            process.kill()
            process.wait()
            self._process = None
        return process.pid

    def stop(self) -> None:
        """End it gently, and at once where it takes too long or where Ctrl-C comes again."""
        process = self._process
        if process is None:
            return
        self._interrupts.disarm()
        process.terminate()
        count, limit = self._interrupts.count, time.monotonic() + STOP_S_MAX
        while process.poll() is None and self._interrupts.count == count and time.monotonic() < limit:
            time.sleep(_POLL_S)
        if process.poll() is None:
            process.kill()
        process.wait()
        self._process = None

    def wait(self) -> int:
        """Wait until it ends by itself: its exit code."""
        assert self._process is not None
        while True:
            # In steps, because some platforms deliver Ctrl-C only between two waits.
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(timeout=0.5)

    @property
    def started(self) -> bool:
        """Whether it was started and neither killed nor stopped, whatever it did itself."""
        return self._process is not None

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def last_words(self) -> str:
        """The last line of its log since its start, as a person would want it."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_from, end - LOG_TAIL_BYTES_MAX))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        for line in reversed(lines):
            try:
                record: dict[str, Any] = json.loads(line)
            except ValueError:
                return line.removeprefix("stateline: ")
            if "message" in record:
                return str(record["message"])
        return f"it did not say why; see {self.log}"


def environ() -> dict[str, str]:
    """The environment without what would override the demo's own configuration file."""
    return {name: value for name, value in os.environ.items() if not (name.startswith("STATELINE_") and "__" in name)}


def port_is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of 127.0.0.1 now."""
    with socket.socket() as probe:
        if os.name == "posix":
            # As the server does: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
