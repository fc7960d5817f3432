"""The process that serves: its socket, its certificate, its signals, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn

from stateline import config as settings
from stateline.core.errors import StatelineError
from stateline.core.limits import SHUTDOWN_GRACE_S
from stateline.engine import Engine
from stateline.ops.reload import Reloader

log = logging.getLogger("stateline")


def certificates(context: ssl.SSLContext, server: settings.Server) -> None:
    """Give a TLS context the configured certificate; handshakes from now on show it.

    Raises:
        ConfigError: the files cannot be used.
    """
    assert server.tls_cert is not None
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key)
    except (OSError, ssl.SSLError) as error:
        message = f"server.tls_cert {server.tls_cert} and tls_key cannot be used: {error.strerror or error}"
        raise settings.ConfigError("config_secret_missing", message) from None


class Server(uvicorn.Server):
    """uvicorn, which drains, and stops the engine between the last request and the last answer.

    Args:
        drains_for_s: asked when a stop begins, since a reload may have changed it.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, drains_for_s: Callable[[], float]) -> None:
        super().__init__(config)
        self._engine = engine
        self._drains_for_s = drains_for_s
        self._interrupted = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.drain()
        # Others go on with what ran here, while this node answers from the log what it is still asked.
        await self._engine.hand_over()
        # A person at a terminal has no load balancer to wait for.
        drain_s = 0.0 if self._interrupted else self._drains_for_s()
        if drain_s > 0:
            log.info("draining for %g s: not ready, and still answering", drain_s)
            await asyncio.sleep(drain_s)
        log.info("stopping: running turns have %g s, then they are handed back", SHUTDOWN_GRACE_S)
        for server in self.servers:
            server.close()
        await self._engine.stop(grace_s=SHUTDOWN_GRACE_S)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # The second signal: everything acknowledged is durable, so there is nothing to wait for.
            os._exit(128 + sig)
        self._interrupted = sig == signal.SIGINT
        # Not uvicorn's own, which raises the signal again at the end: the process would die of it before
        # the store is closed, and a stop that went well would not exit with 0.
        self.should_exit = True


@contextlib.contextmanager
def reloading(reloader: Reloader) -> Generator[None]:
    """Reload on SIGHUP while the block runs, on systems that have it."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return

    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        with contextlib.suppress(StatelineError):  # It is in the log.
            await reloader.reload()

    def begin() -> None:
        task = loop.create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def calm_collector() -> None:
    """Let the garbage collector look seldom: nearly everything here is freed by its count of references.

    What the modules made is frozen, so it is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def listen(host: str, port: int) -> socket.socket:
    """The listening socket, taken before anything else so that a second start ends at once.

    Raises:
        StatelineError: ``address_in_use`` or ``address_unusable``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} of {host} is in use by another program; set server.port, or stop that one"
            raise StatelineError(message, code="address_in_use") from None
        message = f"cannot listen on {host}:{port}: {error.strerror or error}; check server.host"
        raise StatelineError(message, code="address_unusable") from None
    return listening
