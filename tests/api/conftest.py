"""A real server on a loopback port, over a real engine, a SQLite file and a scripted model."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import uvicorn
from starlette.routing import Route

from stateline.api import Authenticator, Options, create_app
from stateline.api.exchange import server_config
from stateline.core.calls import ModelDelta, ModelRequest
from stateline.core.errors import ModelError
from stateline.engine import Engine
from stateline.identity.keys import Keys, OpenAuthenticator
from stateline.identity.raw_keys import new_key
from stateline.identity.vault import Vault, master_keys
from stateline.models.catalogue import Catalogue
from stateline.ports import Clock, Deployment, ModelClient
from stateline.stores.clock import SystemClock
from stateline.stores.memory import MemoryStore
from stateline.stores.sqlite import open_sqlite
from stateline.testing import ScriptedModel
from stateline.testing.scripted import Answer, Asked, Script, auto, rule_of

T = TypeVar("T")
ADMIN_TOKEN = "sl-admin-for-tests"
MODEL = "scripted"
_TABLES = ("sessions", "events", "chunks", "inbox", "dedup")


class Served:
    """A server in a thread of its own, with its loop, so that a synchronous client can talk to it."""

    def __init__(
        self,
        database: Path,
        *,
        auth_mode: str = "open",
        options: Options | None = None,
        clock: Clock | None = None,
        auth: Authenticator | None = None,
    ) -> None:
        self._auth = auth
        self._clock = clock or SystemClock()
        self._rule = rule_of(auto)
        self.scripted = ScriptedModel(self._answer)
        self.model: ModelClient = self.scripted
        self.database = database
        self._auth_mode = auth_mode
        self._options = options or Options()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.keys: Keys
        self.vault: Vault
        self.engine: Engine
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, script: Script) -> None:
        """What the model says from now on."""
        self.model = self.scripted
        self._rule = rule_of(script)

    def call(self, deployment: Deployment, request: ModelRequest) -> AsyncIterator[list[ModelDelta]]:
        """The server's ModelClient: whichever the test has put in ``model``."""
        return self.model.call(deployment, request)

    async def close(self) -> None:
        await self.scripted.close()

    def _answer(self, asked: Asked, attempt: int) -> Answer:
        return self._rule(asked, attempt)

    def start(self) -> Served:
        self._thread.start()
        assert self._started.wait(20)
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(setattr, self._server, "should_exit", True)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(20)

    def stored(self) -> dict[str, int]:
        """Rows of each table of the database, as another process sees them."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _TABLES}

    def routes(self) -> set[tuple[str, str]]:
        """Method and path of everything that is routed."""
        found: set[tuple[str, str]] = set()
        for route in self._app.routes:
            assert isinstance(route, Route)
            methods = (route.methods or set()) - {"HEAD"}
            found |= {(method, route.path_format) for method in methods}
        return found

    def flush_access_log(self) -> None:
        """Write the lines that wait."""
        self._loop.call_soon_threadsafe(self._app.state.access.flush)
        self.run(_nothing)

    def openai(self, **options: Any) -> openai.OpenAI:
        options = {"base_url": self.url + "/v1", "api_key": "unused", "max_retries": 0, **options}
        return openai.OpenAI(**options)

    def async_openai(self, **options: Any) -> openai.AsyncOpenAI:
        options = {"base_url": self.url + "/v1", "api_key": "unused", "max_retries": 0, **options}
        return openai.AsyncOpenAI(**options)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failure = error
            self._started.set()
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        clock = self._clock
        store = await open_sqlite(self.database, clock=clock)
        memory = MemoryStore(clock=clock)
        catalogue = Catalogue([_deployment()])
        parts: dict[str, Any] = {"client": self, "catalogue": catalogue, "clock": clock, "entropy": os.urandom}
        self.engine = Engine(store=store, volatile=Engine(store=memory, durable=False, **parts), **parts)
        await self.engine.start()
        self.vault = Vault(store, clock, os.urandom, master_keys(new_key(os.urandom)))
        self.keys = Keys(store, clock, os.urandom, admin_token=ADMIN_TOKEN)
        auth = self._auth or (self.keys if self._auth_mode == "keys" else OpenAuthenticator(ADMIN_TOKEN))
        self._app = app = create_app(self.engine, auth, self._options, keys=self.keys, vault=self.vault)
        config = server_config(app, lifespan="off")
        self._server = uvicorn.Server(config)
        self._started.set()
        try:
            await self._server.serve([self._socket])
        finally:
            app.state.access.flush()
            await self.engine.stop(grace_s=0.0)
            await memory.close()
            await store.close()


async def _nothing() -> None:
    """Runs after whatever the loop had to do before it."""


def _deployment() -> Deployment:
    return Deployment(
        name="one", model=MODEL, cloud="openai", format="openai-chat", base_url="http://unused", upstream_model=MODEL
    )


def echo(asked: Asked, _: int) -> Answer:
    """Says back what the user said."""
    return Answer(text=f"You said: {asked.user_text}")


__all__ = ["ADMIN_TOKEN", "MODEL", "Answer", "ModelError", "Served", "echo"]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    served = Served(tmp_path_factory.mktemp("api") / "stateline.db").start()
    yield served
    served.stop()


@pytest.fixture
def server(shared_server: Served) -> Served:
    """The shared server, with a model that echoes."""
    shared_server.script(echo)
    return shared_server


@pytest.fixture
def client(server: Served) -> Generator[openai.OpenAI]:
    with server.openai() as made:
        yield made
