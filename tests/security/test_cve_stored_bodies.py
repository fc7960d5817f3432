"""Hostile bytes in the rows and files of a store: they are refused, or read as data, and never run.

Bodies are JSON of closed sets of types; nothing that is stored names a class, a module or a function to be called.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import re
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.crash.harness import Server
from tests.postgres import ask, new_database

from stateline.core.events import Event, SessionUpdated, encode_body
from stateline.core.ids import SessionRef
from stateline.core.limits import BLOB_BYTES_MIN, INBOX_UNREADABLE_S
from stateline.ports import Store
from stateline.stores.postgres import open_postgres
from stateline.stores.postgres.connecting import Connection
from stateline.stores.sqlite import open_sqlite
from stateline.testing import ManualClock, ScriptedUpstream
from stateline.testing.postgres_server import PostgresServer
from stateline.testing.scripted import Answer, Asked

Rows = Sequence[tuple[str, tuple[Any, ...]]]
"""Statements for SQLite, each with its arguments. For PostgreSQL they are rewritten."""


class Reduced:
    """What runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (self._command.split(),)


def hostile(canary: Path) -> dict[str, bytes]:
    """Bodies that make the named kinds of readers run a command, which makes the file ``canary``."""
    command = f"touch {canary}"
    pickled = pickle.dumps(Reduced(command))
    ext = msgspec.msgpack.encode(
        [msgspec.msgpack.Ext(code, msgspec.msgpack.encode(("os", "system", [command]))) for code in range(6)]
    )
    bodies: dict[str, Any] = {
        "pickle": pickled,
        "marked pickle": b"&" + pickled,
        "msgpack": ext,
        "yaml": f"!!python/object/apply:os.system ['{command}']".encode(),
        "source": f"__import__('os').system('{command}')".encode(),
        "json constructor": {"lc": 2, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": command}},
        "json with a method": {"lc": 2, "type": "constructor", "id": ["os"], "method": "system", "args": [command]},
        "jsonpickle": {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": [command]}]},
        "a type of ours": {"type": "pickle/1", "body": base64.b64encode(pickled).decode()},
        "a known type with more": {"type": "session_updated/1", "metadata": {"lc": 2, "id": ["os", "system"]}},
    }
    return {name: body if isinstance(body, bytes) else json.dumps(body).encode() for name, body in bodies.items()}


def test_the_hostile_bodies_are_hostile(tmp_path: Path) -> None:
    """A reader that would trust one of them makes the canary: the check below can fail."""
    bodies = hostile(tmp_path / "canary")
    pickle.loads(bodies["pickle"])
    assert (tmp_path / "canary").exists()
    (tmp_path / "canary").unlink()
    eval(bodies["source"])
    assert (tmp_path / "canary").exists()


async def change(server: Server, rows: Rows) -> None:
    """Write into the database, beside the server, which is not there."""
    if (url := server.folder / "url").exists():

        async def write(db: Connection) -> None:
            for statement, arguments in rows:
                done = await db.execute(_numbered(statement), *arguments)
                assert not done.endswith(" 0"), statement

        await ask(url.read_text(), write)
        return
    with closing(sqlite3.connect(server.database)) as db:
        for statement, arguments in rows:
            assert db.execute(statement, arguments).rowcount > 0, statement
        db.commit()


def _numbered(statement: str) -> str:
    """A statement for SQLite as PostgreSQL has it."""
    parts = re.sub(r"(UPDATE|INTO|FROM) (?!stateline_)", r"\1 stateline_", statement).split("?")
    return "".join(f"{part}${at}" for at, part in enumerate(parts[:-1], 1)) + parts[-1]


OF = "session = (SELECT n FROM sessions WHERE id = ?)"


def in_the_last_event(session: str, body: bytes) -> Rows:
    return [(f"UPDATE events SET body = ? WHERE {OF} AND seq = (SELECT max(seq) FROM events WHERE {OF} )",
             (body, session, session))]  # fmt: skip


def in_the_first_event(session: str, body: bytes) -> Rows:
    return [(f"UPDATE events SET body = ? WHERE {OF} AND seq = 1", (body, session))]


def in_all_chunks(session: str, body: bytes) -> Rows:
    return [(f"UPDATE chunks SET body = ? WHERE {OF}", (body, session))]


def in_a_snapshot(session: str, body: bytes) -> Rows:
    names = "tenant, session, seq, at_ms, epoch, body"
    return [(f"INSERT INTO snapshots ({names}) SELECT tenant, n, head, created_ms, epoch, ? FROM sessions WHERE id = ?",
             (body, session))]  # fmt: skip


def in_the_inbox(session: str, body: bytes) -> Rows:
    names = "tenant, session, post, at_ms, body"
    return [
        (f"INSERT INTO inbox ({names}) SELECT tenant, n, 1, created_ms, ? FROM sessions WHERE id = ?", (body, session)),
        ("UPDATE sessions SET inbox = 1, post = 1, due_ms = created_ms WHERE id = ?", (session,)),
    ]


PLACES: tuple[Callable[[str, bytes], Rows], ...] = (
    in_the_last_event, in_the_first_event, in_all_chunks, in_a_snapshot, in_the_inbox,
)  # fmt: skip


async def started(upstream: str, folder: Path, request: pytest.FixtureRequest, store: str) -> Server:
    (folder / "server").mkdir()
    if store == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        (folder / "server" / "url").write_text(await new_database(postgres))
    server = Server(folder / "server", upstream, store='url_file = "url"' if store == "postgresql" else None)
    await server.start()
    return server


async def asked(http: aiohttp.ClientSession, server: Server, **body: Any) -> tuple[int, str]:
    sent = {"model": "scripted", **body}
    async with http.post(f"{server.base_url}/responses", json=sent) as reply:
        return reply.status, await reply.text()


async def retrieved(http: aiohttp.ClientSession, server: Server, id_: str) -> Any:
    async with http.get(f"{server.base_url}/responses/{id_}") as reply:
        assert reply.status == 200
        return await reply.json()


async def made(http: aiohttp.ClientSession, server: Server, **body: Any) -> str:
    """A response; streamed, so that it has chunks."""
    status, text = await asked(http, server, stream=True, **body)
    assert status == 200, text
    created = next(line for line in text.splitlines() if line.startswith("data: ") and '"response.created"' in line)
    return json.loads(created.removeprefix("data: "))["response"]["id"]


def plain(_: Asked, __: int) -> Answer:
    return Answer(text="So it is.")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_hostile_bodies_in_the_rows_of_a_session_are_not_run(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """CVE-2025-64439 (LangGraph: a checkpoint's "json" form names a constructor that is called), CVE-2026-27794 (its
    cache falls back to pickle), CVE-2026-28277 (its msgpack makes objects): whoever can write a row runs code.
    """
    canary = tmp_path / "canary"
    held = asyncio.Event()

    def model(said: Asked, _: int) -> Answer:
        if said.user_text == "hold" and not held.is_set():
            held.set()
            return Answer(text="Never said.", first_byte_ms=60_000.0)
        return Answer(text="So it is, and more of it.")

    async with ScriptedUpstream(model) as upstream:
        server = await started(upstream, tmp_path, request, store)
        try:
            async with aiohttp.ClientSession() as http:
                good = await made(http, server, input="good")
                rows: list[tuple[str, tuple[Any, ...]]] = []
                planted: list[tuple[str, str]] = []
                for name, body in hostile(canary).items():
                    for place in PLACES:
                        id_ = await made(http, server, input="x")
                        rows += place(id_[5:29], body)
                        planted.append((f"{name} {place.__name__}", id_))
                _, text = await asked(http, server, input="hold", background=True)
                cut_off = json.loads(text)["id"]
                await asyncio.wait_for(held.wait(), 20)
                await server.kill()
                await change(server, rows)
                await server.start()
                outcomes: dict[str, list[int]] = {}
                for name, id_ in planted:
                    for query in ("?stream=true",) if name.endswith("chunks") else ("", "/input_items"):
                        async with http.get(f"{server.base_url}/responses/{id_}{query}") as reply:
                            text = await reply.text()
                            assert "Traceback" not in text
                            assert "touch" not in text
                            outcomes.setdefault(name, []).append(reply.status)
                    if not name.endswith("inbox"):  # What is posted to such a session waits with the rest.
                        status, text = await asked(http, server, input="more", previous_response_id=id_)
                        outcomes[name].append(status)
                        assert "touch" not in text
                # What was never read proves nothing: all but what is beside the log makes its session unreadable.
                for name, found in outcomes.items():
                    if name.endswith(("_event", "_snapshot")):
                        assert max(found) >= 500, (name, found)
                assert server.log.read_text().count("is left alone for 60 s") >= len(hostile(canary)) - 1
                # A turn that the kill cut off is taken up again, whatever waits for others. So are new ones answered.
                while (status := (await retrieved(http, server, cut_off))["status"]) == "in_progress":  # noqa: ASYNC110 - it is in another process.
                    await asyncio.sleep(0.05)
                assert status == "completed"
                async with http.get(f"{server.base_url}/responses/{good}") as reply:
                    assert reply.status == 200
                assert (await asked(http, server, input="more", previous_response_id=good))[0] == 200
                assert server.process is not None
                assert server.process.returncode is None
        finally:
            await server.close()
    assert not canary.exists()


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_an_inbox_that_cannot_be_read_holds_up_no_other_session(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What the tests above found: one such row ended the claiming of a node, or of all nodes over one database."""
    clock = ManualClock()
    url = await new_database(request.getfixturevalue("postgres")) if store == "postgresql" else ""

    async def opened() -> Store:
        path = tmp_path / "stateline.db"
        return await (open_postgres(url, clock=clock) if url else open_sqlite(path, clock=clock))

    async def write(statement: str, *arguments: object) -> None:
        if url:
            await ask(url, lambda db: db.execute(_numbered(statement), *arguments))
            return
        with closing(sqlite3.connect(tmp_path / "stateline.db")) as db:
            db.execute(statement, arguments)
            db.commit()

    bad, good = SessionRef("t", "bad"), SessionRef("t", "good")
    made = await opened()
    try:
        for ref in (bad, good):
            await made.create(ref)
            await made.post(ref, Event(session=ref, seq=0, at_ms=1, body=SessionUpdated(metadata={"a": "b"})))
        of_bad = "session = (SELECT n FROM sessions WHERE id = 'bad' )"
        before = encode_body(SessionUpdated(metadata={"a": "b"}))
        await write(f"UPDATE inbox SET body = ? WHERE {of_bad}", pickle.dumps(Reduced("true")))
        await write("UPDATE sessions SET crashed = ? WHERE id = 'bad'", True if url else 1)
        [own] = await made.claim("node", 10)
        assert (own.session, len(own.inbox)) == (good, 1)
        assert await made.claim("node", 10) == []
        # It is offered again later, as it was left; and then it can be read.
        await write(f"UPDATE inbox SET body = ? WHERE {of_bad}", before)
        clock.advance(INBOX_UNREADABLE_S - 1)
        assert await made.claim("node", 10) == []
        clock.advance(1)
        await made.renew("node", 60.0)
        [own] = await made.claim("node", 10)
        assert (own.session, own.crashed, [each.event.body for each in own.inbox]) == (
            bad, True, [SessionUpdated(metadata={"a": "b"})],
        )  # fmt: skip
        await made.append(
            own,
            own.head,
            [Event(session=bad, seq=own.head + 1, at_ms=1, body=own.inbox[0].event.body, post=own.inbox[0].post)],
        )
    finally:
        await made.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_large_content_that_was_changed_or_names_a_file_is_not_shown(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The class of CVE-2026-28277 in content that lies apart: a name that leads to another file, or hostile content
    under the right name. The name is the content's own under the tenant's key, so neither passes.
    """
    canary, secret = tmp_path / "canary", tmp_path / "secret"
    secret.write_text("a-planted-secret")
    picture = "data:image/png;base64," + base64.b64encode(os.urandom(BLOB_BYTES_MIN)).decode()
    parts = [{"type": "input_image", "image_url": picture}]
    async with ScriptedUpstream(plain) as upstream:
        server = await started(upstream, tmp_path, request, store)
        try:
            async with aiohttp.ClientSession() as http:
                changed = await made(http, server, input=[{"role": "user", "content": parts}])
                named = await made(http, server, input="x")
                await server.kill()
                for path in (server.folder / "stateline.db.blobs").glob("*/*"):
                    path.write_bytes(hostile(canary)["pickle"])
                if store == "postgresql":
                    body = hostile(canary)["pickle"]
                    await change(server, [("UPDATE stateline_blobs SET content = ?", (body,))])
                reference = f"stateline-blob:{'../' * 12}{secret.relative_to('/')}"
                await change(server, in_the_first_event(named[5:29], b'&{"image_url":"' + reference.encode() + b'"}'))
                await server.start()
                for id_ in (changed, named):
                    for path in (id_, f"{id_}/input_items"):
                        async with http.get(f"{server.base_url}/responses/{path}") as reply:
                            text = await reply.text()
                        assert "a-planted-secret" not in text
                        assert "touch" not in text
                    async with http.get(f"{server.base_url}/responses/{id_}/input_items") as reply:
                        found = await reply.json()
                    assert (reply.status, found["error"]["code"]) == (503, "blob_lost"), found
        finally:
            await server.close()
    assert not canary.exists()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_text_of_a_request_that_looks_like_an_object_stays_text(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """CVE-2025-64439 as it was reached from outside: half a surrogate pair made LangGraph store state in its "json"
    form, and the envelope in a message was called when it was read. Here there is one form, and text is text.
    """
    canary = tmp_path / "canary"
    envelopes = [body.decode() for name, body in hostile(canary).items() if name not in ("msgpack",) and body.isascii()]
    async with ScriptedUpstream(plain) as upstream:
        server = await started(upstream, tmp_path, request, store)
        try:
            async with aiohttp.ClientSession() as http:
                half = b'{"model": "scripted", "input": "\\ud800", "metadata": {"a": "\\udfff"}}'
                headers = {"content-type": "application/json"}
                async with http.post(f"{server.base_url}/responses", data=half, headers=headers) as reply:
                    assert (reply.status, (await reply.json())["error"]["code"]) == (400, "invalid_json")
                kept: list[tuple[str, str]] = []
                for text in envelopes:
                    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": text}
                    output = {"type": "function_call_output", "call_id": "c", "output": text}
                    items = [{"role": "user", "content": text}, call, output]
                    kept.append((text, await made(http, server, input=items, metadata={"a": text[:500]})))
                await server.kill()
                await server.start()
                for text, id_ in kept:
                    async with http.get(f"{server.base_url}/responses/{id_}/input_items?order=asc") as reply:
                        message, call, output = (await reply.json())["data"]
                    assert [message["content"][0]["text"], call["arguments"], output["output"]] == [text] * 3
                    async with http.get(f"{server.base_url}/responses/{id_}") as reply:
                        assert (await reply.json())["metadata"] == {"a": text[:500]}
                    assert (await asked(http, server, input="more", previous_response_id=id_))[0] == 200
        finally:
            await server.close()
    assert envelopes
    assert not canary.exists()
