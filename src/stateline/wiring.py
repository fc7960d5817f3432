"""The only place where parts meet: configuration in, a running server out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib.util
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import uvicorn

from stateline import __version__
from stateline import config as settings
from stateline.api import Options, create_app
from stateline.core.calls import ModelDelta, ModelRequest
from stateline.core.errors import ModelError, StatelineError, StoreUnavailable
from stateline.core.limits import LISTEN_BACKLOG, PRUNE_EVERY_S
from stateline.engine import Engine
from stateline.identity.admin_file import admin_file, new_token
from stateline.identity.keys import Keys, OpenAuthenticator
from stateline.logs import configure_logging
from stateline.models.catalogue import Catalogue
from stateline.models.client import HttpModelClient
from stateline.ports import Deployment, ModelClient, Store
from stateline.stores.clock import SystemClock
from stateline.stores.memory import MemoryStore
from stateline.stores.sqlite import open_sqlite

if TYPE_CHECKING:
    from stateline.models.local import LocalModel

SHUTDOWN_GRACE_S = 5.0
"""How long running turns may end by themselves before they are handed back."""

log = logging.getLogger("stateline")


class Clients:
    """One ModelClient over those of the clouds; the local one is imported only where it is deployed."""

    def __init__(self) -> None:
        self._http = HttpModelClient()
        self._local: LocalModel | None = None

    def call(self, deployment: Deployment, request: ModelRequest) -> AsyncIterator[list[ModelDelta]]:
        if deployment.cloud != "local":
            return self._http.call(deployment, request)
        return self._local_model().call(deployment, request)

    def _local_model(self) -> LocalModel:
        if self._local is None:
            from stateline.models.local import LocalModel

            self._local = LocalModel()
        return self._local

    async def warm(self, deployments: Iterable[Deployment]) -> None:
        """Load what the first call would wait for; a local model now, since loading it holds everything up."""
        self._http.warm(deployments)
        for deployment in deployments:
            if deployment.cloud == "local":
                try:
                    await self._local_model().load(deployment)
                except ModelError as error:
                    log.warning("the local model is not ready: %s", error.message)

    async def close(self) -> None:
        await self._http.close()
        if self._local is not None:
            await self._local.close()


def deployments(config: settings.Config) -> list[Deployment]:
    """What the configuration names, with its secrets; the local model where it names nothing."""
    if not config.deployments:
        return [local_deployment()] if importlib.util.find_spec("xllamacpp") else []
    out: list[Deployment] = []
    for item in config.deployments:
        out.append(
            Deployment(
                name=item.name,
                model=item.model,
                cloud=item.cloud,
                format=item.format,
                base_url=item.base_url or "",
                upstream_model=item.upstream_model,
                api_key=settings.api_key(item, os.environ),
                priority=item.priority,
                weight=item.weight,
                timeout_s=item.timeout_s,
                max_concurrency=item.max_concurrency,
                service_tier=item.service_tier,
            )
        )
    return out


def local_deployment() -> Deployment:
    """The model that needs no key and no configuration."""
    name = settings.LOCAL_MODEL
    return Deployment(name="local", model=name, cloud="local", format="openai-chat", base_url="", upstream_model=name)


class PruningStore(Store, Protocol):
    """What a database can, beside what the engine asks."""

    async def prune_chunks(self, before_ms: int) -> int:
        """Delete chunks written before ``before_ms`` of sessions at rest; how many."""
        ...


async def open_store(store: settings.Store, clock: SystemClock) -> PruningStore:
    """The configured store; PostgreSQL's driver is imported only where it is used.

    Raises:
        StoreUnavailable: it cannot be used, in one line.
    """
    if store.path is not None:
        return await open_sqlite(store.path, clock=clock)
    if importlib.util.find_spec("asyncpg") is None:
        raise StoreUnavailable(
            "PostgreSQL's driver is missing; install stateline[postgres]", code="store_driver_missing"
        )
    from stateline.stores.postgres import open_postgres

    # Several machines meet in one database, so its clock is everybody's.
    return await open_postgres(settings.store_url(store, os.environ))


@contextlib.asynccontextmanager
async def running_engine(config: settings.Config, client: ModelClient | None = None) -> AsyncGenerator[Engine]:
    """An engine over the configured store, started; stopped and closed at the end.

    Args:
        client: another way to the models, for tests and benchmarks.
    """
    clock = SystemClock()
    store = await open_store(config.store, clock)
    memory = MemoryStore(clock=clock)
    configured = deployments(config)
    if client is None:
        client = Clients()
        await client.warm(configured)
    catalogue = Catalogue(configured)

    shared = config.store.path is None

    def make(over: Store, volatile: Engine | None = None, *, durable: bool = True) -> Engine:
        return Engine(
            store=over,
            client=client,
            catalogue=catalogue,
            clock=clock,
            entropy=os.urandom,
            volatile=volatile,
            limits=config.limits,
            durable=durable,
            shared=shared and durable,
        )

    engine = make(store, make(memory, durable=False))
    pruning = asyncio.get_running_loop().create_task(prune(store, clock, config.retention.chunks_s))
    try:
        await engine.start()
        yield engine
    finally:
        pruning.cancel()
        await engine.stop(grace_s=0.0)
        await client.close()
        await memory.close()
        await store.close()


async def prune(store: PruningStore, clock: SystemClock, chunks_s: int) -> None:
    """Delete chunks once their retention is over, every so often, for ever."""
    while True:
        await clock.sleep(min(PRUNE_EVERY_S, chunks_s))
        try:
            pruned = await store.prune_chunks(clock.now_ms() - chunks_s * 1000)
        except StoreUnavailable as error:
            log.warning("cannot prune: %s", error.message)
        else:
            if pruned:
                log.info("pruned %d chunks older than %d s", pruned, chunks_s)


def serve(config: settings.Config) -> None:
    """Run the server until a signal ends it.

    The first signal ends gently, a second one at once.

    Raises:
        StatelineError: with one line, when the port is taken or the store cannot be used.
    """
    configure_logging()
    try:
        import uvloop
    except ImportError:  # pragma: no cover - Windows has none
        asyncio.run(_serve(config))
    else:
        uvloop.run(_serve(config))


class Server(uvicorn.Server):
    """uvicorn, with the engine stopped between the last request and the last answer."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping: running turns have %.0f s, then they are handed back", SHUTDOWN_GRACE_S)
        for server in self.servers:
            server.close()
        await self._engine.stop(grace_s=SHUTDOWN_GRACE_S)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # The second signal: everything acknowledged is durable, so there is nothing to wait for.
            os._exit(128 + sig)
        # Not uvicorn's own, which raises the signal again at the end: the process would die of it before
        # the store is closed, and a stop that went well would not exit with 0.
        self.should_exit = True


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


async def _serve(config: settings.Config) -> None:
    server = config.server
    listening = listen(server.host, server.port)
    scheme = "https" if server.tls_cert else "http"
    host = f"[{server.host}]" if ":" in server.host else server.host
    url = f"{scheme}://{host}:{listening.getsockname()[1]}"
    with contextlib.closing(listening):
        async with running_engine(config) as engine:
            token = new_token(os.urandom)
            keys = Keys(engine.store, engine.clock, os.urandom, token)
            await keys.load()
            auth = keys if config.auth.mode == "keys" else OpenAuthenticator(token)
            options = Options(cors_origins=server.cors_origins, trusted_proxies=server.trusted_proxies)
            app = create_app(engine, auth, options, keys)
            uvicorn_config = uvicorn.Config(
                app,
                http="httptools",
                loop="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ssl_certfile=server.tls_cert,
                ssl_keyfile=server.tls_key,
                timeout_graceful_shutdown=2,
                backlog=LISTEN_BACKLOG,
            )
            calm_collector()
            # On PostgreSQL the command line goes to the database itself, as every other node does.
            path = config.store.path
            with admin_file(path, url, token) if path is not None else contextlib.nullcontext():
                models = ", ".join(engine.models()) or "none: add [[deployments]], or install stateline[local]"
                log.info("Stateline %s on %s, store %s, models: %s", __version__, url, config.store.url, models)
                if sys.stderr.isatty():
                    log.info("Point an OpenAI client at base_url=%s/v1. Ctrl-C stops.", url)
                await Server(uvicorn_config, engine).serve([listening])
