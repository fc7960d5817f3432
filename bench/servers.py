"""The servers under test, each behind one adapter: how to start it, and what it can be asked.

All stand before the same fake upstream, on loopback, with one worker process, logs off where the
server has a switch for them, and everything else as it comes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from bench.load import Load, request_bytes
from bench.upstream_bodies import MODEL

HERE = Path(__file__).resolve().parent
VENVS = HERE / ".venvs"
WORK = HERE / ".work"
CONFIGS = HERE / "configs"
_START_MAX_S = 120.0
_STOP_MAX_S = 10.0


class NotRunnable(Exception):
    """This server cannot be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """How one server is started and what it serves.

    `kinds` are the loads it can answer as the row means them (a stored response must be stored).
    `models` name the same upstream by its wire format: the key goes into the row's name.
    """

    name: str
    package: str
    kinds: tuple[str, ...]
    models: dict[str, str]
    argv: tuple[str, ...]
    config: str
    env: dict[str, str] = field(default_factory=dict[str, str])
    note: str = ""

    @property
    def executable(self) -> Path:
        return Path(self.argv[0])


def adapters() -> dict[str, Adapter]:
    """Every server the bench knows, by name."""
    here = Path(sys.executable).parent
    every = ("chat-json", "chat-stream", "response-json", "response-stream")
    return {
        "stateline": Adapter(
            name="stateline",
            package="stateline",
            kinds=every,
            models={"openai-chat": "fake-chat", "openai-responses": "fake-responses"},
            argv=(str(here / "stateline"), "serve", "--config", "$config"),
            config="stateline.toml",
        ),
        "litellm": Adapter(
            name="litellm",
            package="litellm",
            kinds=("chat-json", "chat-stream"),
            models={"openai-chat": MODEL},
            argv=(
                str(VENVS / "litellm/bin/litellm"),
                *("--config", "$config", "--host", "127.0.0.1", "--port", "$port"),
                *("--num_workers", "1"),
            ),
            config="litellm.yaml",
            env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
            note="keeps no responses without a database, so it has no stored rows",
        ),
        "ogx": Adapter(
            name="ogx",
            package="ogx",
            kinds=every,
            models={"openai-chat": f"upstream/{MODEL}"},
            argv=(
                str(VENVS / "ogx/bin/ogx"),
                *("run", "$config", "--port", "$port", "--insecure"),
            ),
            config="ogx.yaml",
            # Without a network it reads its tokenizer's table from a folder; LiteLLM's wheel has it.
            env={
                "OGX_LOGGING": "all=error",
                "TIKTOKEN_CACHE_DIR": str(
                    VENVS / "litellm/lib/python3.11/site-packages/litellm/litellm_core_utils/tokenizers"
                ),
            },
        ),
    }


def free_port() -> int:
    """A port of loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Running:
    """A started server: its root process, its port, its log."""

    adapter: Adapter
    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    started: float

    @property
    def pid(self) -> int:
        return self.process.pid

    def log_tail(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-1500:]


def _fill(text: str, values: dict[str, str]) -> str:
    return Template(text).substitute(values)


def start(adapter: Adapter, upstream_port: int, *, prefix: tuple[str, ...] = ()) -> Running:
    """Start the server in a new folder and a session of its own; it may not be ready yet.

    `prefix` goes before its command line, for a profiler. Raises NotRunnable where it is not
    installed.
    """
    if not adapter.executable.exists():
        raise NotRunnable(f"{adapter.name} is not installed")
    port = free_port()
    folder = WORK / f"{adapter.name}-{port}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / adapter.config
    values = {
        "port": str(port),
        "upstream": f"http://127.0.0.1:{upstream_port}/v1",
        "folder": str(folder),
        "config": str(config),
    }
    config.write_text(_fill((CONFIGS / adapter.config).read_text(), values))
    argv = [*prefix, *(_fill(part, values) for part in adapter.argv)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STATELINE_")}
    environment |= adapter.env
    started = time.perf_counter()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(adapter, process, port, folder, started)


def _answers(running: Running, load: Load) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
            connection.sendall(request_bytes(load, 0))
            return connection.recv(16).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def wait_first_answer(running: Running) -> float:
    """Seconds from the start to the first chat completion answered 200.

    Raises NotRunnable with the end of its log where it ends or is not ready in two minutes.
    """
    model = next(iter(running.adapter.models.values()))
    load = Load(running.port, "chat-json", model, concurrency=1, requests=1, duration_s=1)
    while time.perf_counter() - running.started < _START_MAX_S:
        if _answers(running, load):
            return time.perf_counter() - running.started
        if running.process.poll() is not None:
            raise NotRunnable(f"{running.adapter.name} ended at start: {running.log_tail()}")
        time.sleep(0.005)
    raise NotRunnable(f"{running.adapter.name} gave no answer in {_START_MAX_S} s")


def stop(running: Running) -> None:
    """End the server and every process of its session."""
    running.process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        running.process.wait(_STOP_MAX_S)
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.process.wait(_STOP_MAX_S)
    shutil.rmtree(running.folder, ignore_errors=True)


@contextmanager
def serving(adapter: Adapter, upstream_port: int, *, prefix: tuple[str, ...] = ()) -> Generator[Running]:
    """A started server that is stopped at the end of the block."""
    running = start(adapter, upstream_port, prefix=prefix)
    try:
        yield running
    finally:
        stop(running)
