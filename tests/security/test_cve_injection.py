"""Hostile text in every place of the API and of the stores that takes text: nothing of it becomes SQL.

The places are generated: path and query parameters from the route table, fields of bodies from their types. What is
asked with hostile text must be answered as a name that nobody has is, show nothing of another tenant, and leave every
table as it is.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import pytest
from tests.api.tenants import BODIES, MARK, Caller, operator_key, planted, served
from tests.api.test_isolation import untouched
from tests.crash.tool_world import World
from tests.postgres import ask, new_database
from tests.security.hostile import HERE, bodies, put

from stateline.api.table import ROUTES, Route
from stateline.core.events import Dedup, Event, SessionUpdated
from stateline.core.ids import SessionRef
from stateline.core.principals import ADMIN
from stateline.ports import Balance, Hold, Ownership, SessionMissing, Store, Watch
from stateline.stores.postgres import open_postgres
from stateline.stores.postgres.connecting import Connection
from stateline.stores.sqlite import open_sqlite
from stateline.testing import ManualClock
from stateline.testing.postgres_server import PostgresServer

NOBODY = "zzz0"
"""Text as a name that is not there."""
SAYS_SQL = re.compile(
    r"syntax error|sqlite|asyncpg|postgres|unterminated|no such table|relation \"|near \"|\bSELECT\b|stateline_", re.I
)
NO_SQL = {"StartBackup"}
"""Bodies whose text is no value of a row: the folder of a backup."""
IN_STORE = re.compile(r"_id|conversation|metadata|cache_key|tenant|session")
"""Places of bodies whose text may come into a statement."""
HEADERS = (
    "idempotency-key", "x-request-id", "x-stainless-retry-count", "stateline-dialect", "traceparent", "user-agent",
    "x-forwarded-for", "openai-organization", "openai-project", "content-type", "accept", "anthropic-version",
)  # fmt: skip


def payloads(prefix: str) -> tuple[str, ...]:
    """Short enough for every field; ``prefix`` is that of the store's tables."""
    return (
        "' OR '1'='1",
        "x' OR 1=1 -- ",
        f"'; DROP TABLE {prefix}events; -- ",
        f"'); DELETE FROM {prefix}sessions; -- ",
        "'; CREATE TABLE canary (n int); -- ",
        f"x' UNION SELECT body FROM {prefix}events -- ",
        f"'||(SELECT max(id) FROM {prefix}sessions)||'",
        '" OR ""="',
        "%' OR id LIKE '%",
        "\\'; SELECT 1; --",
        "a') OR json_extract(body, '$.x') = '1",
        "$1 ? :name @p %s {0} ''",
        "x\0' OR 1=1",
    )


class Place(NamedTuple):
    """A request with HERE in one place. ``at`` names it."""

    route: Route
    at: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]

    def sent(self, text: str) -> tuple[str, str, Any, dict[str, str]]:
        path = self.path.replace(HERE, quote(text, safe=""))
        if self.query:
            path += "?" + "&".join(f"{name}={quote(put(value, text), safe='')}" for name, value in self.query.items())
        headers = {name: text if value == HERE else value for name, value in self.headers.items()}
        return self.route.method, path, None if self.body is None else put(self.body, text), headers


def found_places() -> Iterator[Place]:
    """Every path and query parameter, every text of every body, and headers of routes that look something up."""
    for route in ROUTES:
        plain = re.sub(r"{\w+(:path)?}", NOBODY, route.path)
        base = None if route.body is None else BODIES[route.body.__name__]
        for name in re.findall(r"{\w+(?::path)?}", route.path):
            path = re.sub(r"{\w+(:path)?}", NOBODY, route.path.replace(name, HERE))
            yield Place(route, f"path {name}", path, {}, base, {})
        for name in route.query:
            more = {"stream": "true"} if name == "starting_after" else {}
            yield Place(route, f"query {name}", plain, {name: HERE, **more}, base, {})
        if route.body is not None and base is not None and route.body.__name__ not in NO_SQL:
            for body in bodies(route.body, base):
                yield Place(route, f"body {json.dumps(body)[:120]}", plain, {}, body, {})
        if route.path in ("/v1/responses", "/v1/effects"):
            for name in HEADERS:
                yield Place(route, f"header {name}", plain, {}, base, {name: HERE})


def shape(status: int, text: str) -> tuple[int, str | None, int | None]:
    """What an answer says of what was found: its status, its error's code, and how many a list has."""
    try:
        found = json.loads(text)
    except ValueError:
        return status, None, None
    if status >= 400:
        error = found["error"]
        return status, error.get("code", error.get("type")), None
    data: list[Any] | None = found.get("data")
    return status, None, len(data) if data is not None and found.get("object") == "list" else None


async def tried(caller: Caller, place: Place, texts: tuple[str, ...]) -> list[str]:
    """What is wrong with the answers to hostile text in a place."""
    wrong: list[str] = []
    method, path, body, headers = place.sent(NOBODY)
    expected = shape(*await caller.sends(method, path, body, headers))
    for text in texts:
        if "\0" in text and place.at.startswith("header"):
            continue  # No client sends it, and no server reads it.
        method, path, body, headers = place.sent(text)
        status, said = await caller.sends(method, path, body, headers)
        shown = f"{method} {place.route.path} {place.at}: {text!r}: {status} {said[:200]}"
        if status != 400 and shape(status, said) != expected:
            wrong.append(f"not as a name that is not there, {expected}: {shown}")
        if status >= 500 and shape(status, said) != expected:
            wrong.append(f"fails: {shown}")
        if MARK in said:
            wrong.append(f"shows what is another's: {shown}")
        if status >= 400 and SAYS_SQL.search(json.loads(said)["error"]["message"].replace(text, "")):
            wrong.append(f"speaks of the database: {shown}")
    return wrong


async def tables_of(store: str, folder: Path) -> dict[str, int]:
    """The rows of each table, by its name."""
    if store == "sqlite":
        with closing(sqlite3.connect(f"file:{folder / 'stateline.db'}?mode=ro", uri=True)) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}

    async def look(db: Connection) -> dict[str, int]:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        names = [str(row[0]) for row in await db.fetch(query)]
        return {name: int(await db.fetchval(f'SELECT count(*) FROM "{name}"')) for name in names}

    return await ask((folder / "url").read_text(), look)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Which store; its ``[store]`` table, where it is not the server's default, is for ``config``."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        (tmp_path / "url").write_text(await new_database(server))
    return request.param


def config(store: str) -> str | None:
    return 'url_file = "url"' if store == "postgresql" else None


@pytest.mark.timeout(240)
async def test_hostile_text_in_any_place_of_the_api_is_a_name_that_nobody_has(store: str, tmp_path: Path) -> None:
    """CVE-2025-8709, CVE-2025-67644 (LangGraph: SQL by operators and keys of filters in its SQLite stores), and
    CVE-2026-42208 behind a good key: text of a request is joined into a statement instead of being bound to it.
    """
    world = World()
    texts = payloads("" if store == "sqlite" else "stateline_")
    async with served(tmp_path, config(store), world) as server, aiohttp.ClientSession() as http:
        operator = Caller(http, server.root, await operator_key(server))
        scopes = ("responses", "agents", "usage", "audit", "approve")
        keys = [
            await operator.json("POST", "/v1/admin/keys", {"tenant": tenant, "name": tenant, "scopes": scopes})
            for tenant in ("owner", "other")
        ]
        owner, other = [Caller(http, server.root, made["key"]) for made in keys]
        ids = await planted(owner, operator, world)
        # Something of its own as well: a filter that lets everything through shows that, too.
        await other.json("POST", "/v1/responses", {"model": "scripted", "input": "mine"})
        before = await tables_of(store, tmp_path)
        wrong: list[str] = []
        every = list(found_places())
        for number, place in enumerate(every):
            caller = operator if place.route.scope == ADMIN else other
            # Bodies have hundreds of places, of which most reach no statement: one payload each, all in turn.
            few = place.at.startswith("body") and place.route.scope != ADMIN and not IN_STORE.search(place.at)
            some = (texts[number % len(texts)],) if few else texts
            wrong += await tried(caller, place, some)
        assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:40])
        assert len(every) > 300
        after = await tables_of(store, tmp_path)
        parts = {name for name in before | after if name.startswith("stateline_chunks_")}
        assert after.keys() - parts == before.keys() - parts
        assert all(after[f"{'' if store == 'sqlite' else 'stateline_'}{name}"] > 0 for name in ("sessions", "events"))
        await untouched(owner, world, ids)
        assert len(world.ran) == 1


@pytest.mark.timeout(120)
async def test_a_key_with_sql_in_it_is_unknown_and_is_not_repeated(store: str, tmp_path: Path) -> None:
    """CVE-2026-42208 (LiteLLM): the caller's key is joined into the statement that looks it up, before anybody is let
    in. And what its 401 told: the table of keys, and the hash of the key that was sent.
    """
    texts = [each for each in payloads("" if store == "sqlite" else "stateline_") if "\0" not in each]
    async with served(tmp_path, config(store), World()) as server, aiohttp.ClientSession() as http:
        operator = Caller(http, server.root, await operator_key(server))
        key = (await operator.json("POST", "/v1/admin/keys", {"tenant": "owner", "name": "x"}))["key"]
        before = await tables_of(store, tmp_path)
        for route in ROUTES:
            if route.scope is None:
                continue
            path = re.sub(r"{\w+(:path)?}", NOBODY, route.path)
            body = None if route.body is None else BODIES[route.body.__name__]
            for number, text in enumerate(
                [*texts, f"{key}' OR '1'='1", f"' OR hash='{sha256(key.encode()).hexdigest()}"]
            ):
                header = {"x-api-key": text} if number % 2 else {"authorization": f"Bearer {text}"}
                async with http.request(route.method, server.root + path, json=body, headers=header) as reply:
                    said = await reply.text()
                assert reply.status == 401, f"{route.method} {path}: {text!r}: {reply.status} {said}"
                message = json.loads(said)["error"]["message"]
                assert "The API key is not known here, or was revoked." in message
                assert text not in said
                assert sha256(text.encode()).hexdigest() not in said
                assert not SAYS_SQL.search(said)
        assert await tables_of(store, tmp_path) == before
        assert await Caller(http, server.root, key).json("GET", "/v1/models")


@pytest.mark.timeout(120)
async def test_hostile_text_is_kept_and_given_back_to_the_letter(store: str, tmp_path: Path) -> None:
    """The other side of CVE-2025-67644: keys and values of metadata, ids and names are data, with nothing escaped,
    cut or lost on their way through the store.
    """
    texts = payloads("" if store == "sqlite" else "stateline_")
    async with served(tmp_path, config(store), World()) as server, aiohttp.ClientSession() as http:
        operator = Caller(http, server.root, await operator_key(server))
        key = (await operator.json("POST", "/v1/admin/keys", {"tenant": "owner", "name": "x"}))["key"]
        owner = Caller(http, server.root, key)
        metadata = {text: text for text in texts}
        made: list[tuple[str, str]] = []
        for text in texts:
            fields = {"prompt_cache_key": text, "safety_identifier": text, "instructions": text}
            body = {"model": "scripted", "input": text, "metadata": metadata, **fields}
            made.append((text, (await owner.json("POST", "/v1/responses", body))["id"]))
        talk = await owner.json("POST", "/v1/conversations", {"metadata": metadata})
        await server.kill()
        await server.start()
        for text, id_ in made:
            kept = await owner.json("GET", f"/v1/responses/{id_}")
            assert kept["metadata"] == metadata
            names = ("prompt_cache_key", "safety_identifier", "instructions")
            assert [kept[name] for name in names] == [text] * 3
            [item] = (await owner.json("GET", f"/v1/responses/{id_}/input_items"))["data"]
            assert item["content"][0]["text"] == text
        assert (await owner.json("GET", f"/v1/conversations/{talk['id']}"))["metadata"] == metadata


async def test_a_store_finds_nothing_by_names_with_sql_in_them(store: str, tmp_path: Path) -> None:
    """The stores themselves bind every name, whoever asks: those of tenants and sessions, and keys of retries."""
    clock = ManualClock()
    opened: Store = (
        await open_sqlite(tmp_path / "stateline.db", clock=clock)
        if store == "sqlite"
        else await open_postgres((tmp_path / "url").read_text(), clock=clock)
    )
    texts = [each for each in payloads("" if store == "sqlite" else "stateline_") if "\0" not in each]
    try:
        await opened.create(SessionRef("owner", "a1"))
        own = Ownership(session=SessionRef("owner", "a1"), owner="node", epoch=1, head=0)
        dedup = Dedup(key="k", ref="r", digest="d", ttl_s=3600)
        planted = Event(session=own.session, seq=1, at_ms=1, body=SessionUpdated(metadata={"a": MARK}), dedup=(dedup,))
        await opened.append(own, 0, [planted], holds=[Hold(budget="b", spent=Decimal(1))], release=True)
        for text in texts:
            for ref in (SessionRef(text, "a1"), SessionRef("owner", text), SessionRef(text, text)):
                with pytest.raises(SessionMissing):
                    _ = [each async for each in opened.read(ref)]
                with pytest.raises(SessionMissing):
                    await opened.post(ref, planted, None)
                await opened.erase(ref)
                assert await opened.tail([Watch(session=ref, after=0)]) == []
            assert await opened.find_duplicate("owner", text) is None
            assert await opened.find_duplicate(text, "k") is None
            assert await opened.sessions(text, None, 10) == []
            assert (await opened.balances([text])).get(text, Balance()) == Balance()
            assert await opened.claim(text, 10) == []
            # One that has such a name is itself alone.
            mine = SessionRef(text, text)
            await opened.create(mine)
            assert await opened.sessions(text, None, 10) == [text]
            assert [each async for each in opened.read(mine)] == []
            await opened.erase(mine)
            with pytest.raises(SessionMissing):
                _ = [each async for each in opened.read(mine)]
        [kept] = [each async for each in opened.read(own.session)]
        assert kept.body == planted.body
        assert (await opened.balances(["b"]))["b"].spent == 1
        assert await opened.sessions("owner", None, 10) == ["a1"]
    finally:
        await opened.close()
    assert (await tables_of(store, tmp_path)).keys() >= {f"{'' if store == 'sqlite' else 'stateline_'}events"}
