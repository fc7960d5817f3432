"""What agents do to the world in these tests, counted where it is done, and a model that asks for it at random."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from tests.tools.mcp_servers import serving

from stateline.core import events as e
from stateline.testing import ScriptedCall
from stateline.testing.scripted import Answer, Asked

KINDS = {"pay": "unsafe", "put": "idempotent", "look": "read"}
CONFIG = """
[tools]
allow_hosts = ["{host}"]

[[mcp_servers]]
label = "world"
url = "http://{host}/mcp"

[mcp_servers.tools.put]
effect = "idempotent"

[mcp_servers.tools.look]
effect = "read"

[[agents]]
name = "clerk"
model = "scripted"
tools = [{{server = "world"}}]
"""


class Ran(NamedTuple):
    """One execution, as the tool saw it. ``wish`` is the model's: no two calls that it asks for have the same."""

    tool: str
    wish: str
    key: str


class World:
    """The tools' side: what was executed, in order; and a place where a call can be held before it is answered."""

    def __init__(self) -> None:
        self.ran: list[Ran] = []
        self.holds: str | None = None
        self.arrived = asyncio.Event()
        self.let_go = asyncio.Event()

    def hold(self, tool: str) -> None:
        """The next call of this tool (``*``: of any) is executed, and not answered before ``release``."""
        self.holds = tool
        self.arrived.clear()
        self.let_go.clear()

    def release(self) -> None:
        self.holds = None
        self.let_go.set()

    async def done(self, tool: str, wish: str, context: Context) -> str:
        request: Any = context.request_context.request
        self.ran.append(Ran(tool, wish, str(request.headers.get("idempotency-key"))))
        if self.holds in (tool, "*"):
            self.holds = None
            self.arrived.set()
            await self.let_go.wait()
        return f"{tool} {wish} is done"

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncGenerator[str]:
        """The tools over streamable HTTP; gives the configuration of a server that uses them."""
        server = MCPServer("world", log_level="CRITICAL")

        @server.tool()
        async def pay(wish: str, context: Context) -> str:
            """Pay: twice is too much."""
            return await self.done("pay", wish, context)

        @server.tool()
        async def put(wish: str, context: Context) -> str:
            """Set: twice is as once."""
            return await self.done("put", wish, context)

        @server.tool()
        async def look(wish: str, context: Context) -> str:
            """Look: changes nothing."""
            return await self.done("look", wish, context)

        async with serving(server.streamable_http_app()) as url:
            yield CONFIG.format(host=url.removeprefix("http://"))


class Wishes:
    """A model that asks for one tool or two at random, up to a few times, and then says something."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._numbers = itertools.count(1)

    def __call__(self, asked: Asked, _: int) -> Answer:
        if asked.tool_output is not None and self._random.random() < 0.6:
            return Answer(text="That is all.")
        names = self._random.choices(list(KINDS), weights=(3, 2, 1), k=self._random.choice((1, 1, 2)))
        return Answer(calls=tuple(map(self.wish, names)))

    def wish(self, tool: str) -> ScriptedCall:
        return ScriptedCall(name=f"world-{tool}", arguments=json.dumps({"wish": f"w{next(self._numbers)}"}))


class Ledger(NamedTuple):
    """What the log has of tool calls. ``keys`` of each wish; the others are ids of items."""

    wishes: dict[str, str]
    keys: dict[str, str]
    committed: set[str]
    failed: set[str]
    unknown: set[str]


def ledger_of(database: Path) -> Ledger:
    """All tool calls of a SQLite database, read without the server."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT s.id, e.body FROM events e JOIN sessions s ON s.n = e.session ORDER BY e.session, e.seq"
        ).fetchall()
    return ledger_from([(name, e.decode_body(raw)) for name, raw in rows])


def ledger_from(bodies: Sequence[tuple[str, e.Body]]) -> Ledger:
    """The same of decoded events, each with its session's id."""
    out = Ledger({}, {}, set(), set(), set())
    for session, body in bodies:
        if isinstance(body, e.EffectDispatched):
            out.wishes[body.call.id] = wish = str(json.loads(body.call.arguments)["wish"])
            out.keys.setdefault(wish, f"{session}/{body.turn}/{body.step}")
        elif isinstance(body, e.EffectCommitted):
            out.committed.add(body.id)
        elif isinstance(body, e.EffectFailed):
            out.failed.add(body.id)
        elif isinstance(body, e.EffectUnknown):
            out.unknown.add(body.id)
    return out


def wrong(ran: Sequence[Ran], ledger: Ledger) -> dict[str, list[str]]:
    """What was done that should not have been, and what is recorded otherwise than it was done."""
    times = Counter((each.tool, each.wish) for each in ran)
    keys: dict[str, set[str]] = defaultdict(set)
    wishes: dict[str, set[str]] = defaultdict(set)
    for each in ran:
        keys[each.wish].add(each.key)
        wishes[each.key].add(each.wish)
    committed, failed = ({ledger.wishes[id_] for id_ in ids} for ids in (ledger.committed, ledger.failed))
    unknown = {ledger.wishes[id_] for id_ in ledger.unknown}
    unsafe = {wish for tool, wish in times if KINDS[tool] == "unsafe"}
    return {
        "unsafe_twice": [
            f"{wish}: {count} times" for (_, wish), count in times.items() if wish in unsafe and count > 1
        ],
        "keys_changed": [f"{wish}: {sorted(each)}" for wish, each in keys.items() if each != {ledger.keys.get(wish)}],
        "keys_shared": [f"{key}: {sorted(each)}" for key, each in wishes.items() if len(each) > 1],
        "done_but_failed": sorted(unsafe & failed),
        "committed_undone": sorted(committed - keys.keys()),
        "done_without_a_record": sorted(unsafe - committed - unknown),
        "unknown_though_repeatable": sorted(unknown & {wish for tool, wish in times if KINDS[tool] != "unsafe"}),
        "two_ends": sorted(ledger.committed & (ledger.failed | ledger.unknown)),
    }
