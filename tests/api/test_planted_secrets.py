"""Secrets that are planted where secrets go, and looked for everywhere else: in every file, answer and event."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from signal import SIGTERM
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tests.crash.harness import Server
from tests.ops.collector import collecting
from tests.tools.mcp_servers import Seen, odd, said, shop

from stateline.core import events as e
from stateline.identity.admin_file import read_admin_file
from stateline.identity.raw_keys import new_key
from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.scripted import Answer, Asked

VAULT = "vault-planted-7f3a9c51"
HEADER = "header-planted-91be20d4"
BEARER = "bearer-planted-5cc07e12"
SENT = "sent-planted-2d7e60bb"
"""In the vault, and sent to servers of the operator's."""
OUTPUT = "output-planted-e4418a6b"
"""What a tool answers: it is the session's own, and nobody else's."""
CONFIG = """
[tools]
allow_hosts = ["{host}"]

[vault]
key_file = "master.key"

[audit]
key_file = "audit.key"

[[mcp_servers]]
label = "ours"
url = "{url}"
authorization = "vault:sent"
headers = {{X-Sent = "vault:sent"}}

[[mcp_servers]]
label = "echo"
url = "{echo}"
authorization = "vault:sent"

[[mcp_servers]]
label = "lost"
url = "{url}"
authorization = "vault:gone"
"""


def model(asked: Asked, _: int) -> Answer:
    """Calls the tool that the user names, with what the user says."""
    if asked.tool_output is not None:
        return Answer(text="That is all.")
    name, _blank, arguments = asked.user_text.partition(" ")
    full = name if "-" in name else f"shop-{name}"
    return Answer(calls=(ScriptedCall(name=full, arguments=arguments or "{}"),))


class Echo:
    """A server that repeats what it was shown: in the body of a refusal, in an error and in an answer."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    async def __call__(self, message: dict[str, Any], request: Request) -> Response | None:
        shown = request.headers["authorization"]
        tools = ("refuses", "errs", "repeats")
        if message["method"] == "tools/list":
            listed = [{"name": name, "description": shown, "inputSchema": {"type": "object"}} for name in tools]
            return said(message, {"tools": listed})
        if message["method"] != "tools/call":
            return None
        self.shown.append(shown)
        kind = message["params"]["name"]
        if kind == "refuses":
            return JSONResponse({"error": f"not with {shown}"}, status_code=403)
        if kind == "errs":
            return said(message, error={"code": -32000, "message": f"not with {shown}"})
        return said(message, {"content": [{"type": "text", "text": shown}], "structuredContent": {"got": shown}})


def forms(secret: str) -> list[bytes]:
    """As it is, and as those write it who encode it first."""
    raw = secret.encode()
    return [raw, raw.hex().encode(), base64.b64encode(raw), base64.b64encode(b"Bearer " + raw)]


def holds(data: bytes, secret: str) -> bool:
    return any(form in data for form in forms(secret))


def recorded(database: Path) -> dict[str, bytes]:
    """What is in the events of each session, decoded; and in all other tables, by their name."""
    out: dict[str, bytes] = {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT s.id, e.body FROM events e JOIN sessions s ON s.n = e.session").fetchall()
        for name, raw in rows:
            out[name] = out.get(name, b"") + repr(e.decode_body(raw)).encode() + raw
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table not in ("events", "chunks", "snapshots"):
                out[table] = b"".join(
                    [bytes(value) if isinstance(value, bytes) else str(value).encode() for row in
                     db.execute(f"SELECT * FROM {table}") for value in row]
                )  # fmt: skip
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Run:
    """A server, and everything that it answers."""

    def __init__(self, server: Server, http: aiohttp.ClientSession, url: str) -> None:
        self.server = server
        self.http = http
        self.url = url
        self.said: list[tuple[str, bytes]] = []
        admin = read_admin_file(server.database)
        assert admin is not None
        self._headers = {"authorization": f"Bearer {admin.token}"}

    async def __call__(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        headers = self._headers if path.startswith("/v1/admin") else {}
        async with self.http.request(method, self.server.root + path, json=body, headers=headers) as reply:
            raw = await reply.read()
            self.said.append((f"{method} {path} {reply.status}", raw))
            kind = reply.content_type
            return reply.status, json.loads(raw) if kind == "application/json" else raw

    async def turn(self, text: str, **tool: object) -> Any:
        used = {
            "type": "mcp",
            "server_label": "shop",
            "server_url": self.url,
            "authorization": BEARER,
            "headers": {"X-Secret": HEADER},
            "require_approval": "never",
        }
        return await self("POST", "/v1/responses", {"model": "scripted", "input": text, "tools": [used | tool]})


async def put_into_the_vault(run: Run) -> None:
    """Well, and in every wrong way."""
    good = {"tenant": "default", "name": "github", "value": VAULT}
    assert (await run("POST", "/v1/admin/secrets", good))[0] == 200
    assert (await run("POST", "/v1/admin/secrets", good | {"name": "gone"}))[0] == 200
    for wrong in ({"name": "no/name"}, {"value": [VAULT]}, {"value": VAULT * 10_000}, {"more": VAULT}, {"tenant": ""}):
        status, _ = await run("POST", "/v1/admin/secrets", good | wrong)
        assert status == 400, wrong
    assert (await run("DELETE", "/v1/admin/secrets/default/gone"))[0] == 200
    assert (await run("POST", "/v1/admin/secrets/rotate"))[0] == 200
    assert (await run("GET", "/v1/admin/secrets"))[0] == 200


async def call_tools(run: Run, seen: Seen) -> list[str]:
    """Turns whose tool gets the headers, and answers, repeats them, fails or cannot be reached; those that answer."""
    answered: list[str] = []
    for _ in range(2):
        status, made = await run.turn(f'put {{"value": "{OUTPUT}"}}')
        assert (status, made["status"]) == (200, "completed")
        answered.append(made["id"][5:29])
    status, made = await run.turn('refund {"cents": 5}')
    assert (status, made["status"]) == (200, "completed")
    assert seen.headers[-1]["x-secret"] == HEADER
    assert seen.headers[-1]["authorization"] == f"Bearer {BEARER}"
    for text in ("fails", "no_such_tool", 'refund {"cents": "x"}', "exits_not"):
        assert (await run.turn(text))[0] == 200
    for wrong in ({"server_url": "http://127.0.0.1:9/mcp"}, {"server_url": run.url + "/nowhere"}):
        assert (await run.turn("fails", **wrong))[1]["status"] == "failed"
    for wrong in ({"headers": [HEADER]}, {"headers": {"X-Secret": HEADER + "\n"}}, {"authorization": [BEARER]}):
        assert (await run.turn("fails", **wrong))[0] == 400
    return answered


async def call_with_the_vault(run: Run, seen: Seen, echo: Echo) -> list[str]:
    """Turns with the operator's servers that are told the secret; the errors that came of them."""
    assert (await run("POST", "/v1/admin/secrets", {"tenant": "default", "name": "sent", "value": SENT}))[0] == 200
    sessions: list[str] = []
    for label, text in (
        ("ours", 'ours-refund {"cents": 5}'),
        ("ours", "ours-secrets_back"),
        *(("echo", f"echo-{kind}") for kind in ("refuses", "errs", "repeats")),
    ):
        body = {"type": "mcp", "server_label": label, "require_approval": "never"}
        status, made = await run("POST", "/v1/responses", {"model": "scripted", "input": text, "tools": [body]})
        # A refusal leaves open what an unsafe call did, so that a person is asked.
        assert (status, made["status"]) == (200, "incomplete" if text == "echo-refuses" else "completed"), made
        sessions.append(made["id"][5:29])
    assert {(each["authorization"], each["x-sent"]) for each in seen.headers if "x-sent" in each} == {
        (f"Bearer {SENT}", SENT)
    }
    assert echo.shown == [f"Bearer {SENT}"] * 3
    body = {"type": "mcp", "server_label": "lost", "require_approval": "never"}
    _, made = await run("POST", "/v1/responses", {"model": "scripted", "input": "lost-put", "tools": [body]})
    assert made["error"]["code"] == "tool_secret_missing"
    assert "vault:gone" in made["error"]["message"]
    # A request names no secret of the vault, in whatever way.
    for given in ({"authorization": "vault:sent"}, {"headers": {"X-A": "Bearer vault:sent"}, "authorization": None}):
        status, refused = await run.turn("fails", **given)
        assert (status, refused["error"]["code"]) == (400, "vault_reference_refused")
    return sessions


@pytest.mark.timeout(120)
async def test_a_planted_secret_is_found_nowhere(tmp_path: Path) -> None:
    seen = Seen()
    (tmp_path / "master.key").write_text(base64.b64encode(bytes(range(32))).decode() + "\n")
    (tmp_path / "audit.key").write_text(new_key(os.urandom) + "\n")
    echo = Echo()
    async with (
        ScriptedUpstream(model) as upstream,
        shop(seen) as url,
        odd(echo) as (echo_url, _),
        collecting() as collector,
        aiohttp.ClientSession() as http,
    ):
        hosts = '", "'.join(each.removeprefix("http://").partition("/")[0] for each in (url, echo_url))
        settings = CONFIG.format(host=hosts, url=url, echo=echo_url)
        # With the content of turns, so that all there is to tell is told.
        settings += f'\n[telemetry]\nendpoint = "{collector.url}"\nmetrics = true\ncontent = true\n'
        server = Server(tmp_path, upstream, settings=settings, environment={"OTEL_METRIC_EXPORT_INTERVAL": "250"})
        try:
            await server.start()
            run = Run(server, http, url)
            await put_into_the_vault(run)
            sessions = await call_tools(run, seen)
            told = await call_with_the_vault(run, seen, echo)
            own = len(run.said)
            for path in ("/metrics", "/v1/effects", "/v1/approvals", "/v1/placements", "/v1/usage", "/v1/admin/status"):
                assert (await run("GET", path))[0] == 200
            for each in (*sessions, *told):
                assert (await run("GET", f"/v1/audit?session={each}"))[0] == 200
            await collector.until(lambda: any(span.name.startswith("execute_tool") for span in collector.spans))
            await collector.until(lambda: "mcp.client.operation.duration" in collector.metrics)
            # What a kill leaves, and what a gentle end does.
            await server.kill()
            files = {f"killed {name}": data for name, data in files_of(tmp_path).items()}
            await server.start()
            await server.end(SIGTERM)
            files |= files_of(tmp_path)
        finally:
            await server.close()
    records = recorded(server.database)
    everywhere = [*files.items(), *run.said, *records.items()]
    assert collector.metrics.keys() >= {"mcp.client.operation.duration", "stateline.events.recorded"}
    everywhere += [("what the collector was sent", raw) for raw in collector.raw]
    planted = (VAULT, SENT, HEADER, BEARER)
    found = [(where, secret) for secret in planted for where, data in everywhere if holds(data, secret)]
    assert found == []
    # A tool's answer is in its session's own events, and in no other place but the answers to who asked.
    assert {name for name, data in records.items() if holds(data, OUTPUT)} == set(sessions)
    assert [name for name, data in files.items() if holds(data, OUTPUT) and ".db" not in name] == []
    listed = [where for where, data in run.said[own:] if holds(data, OUTPUT)]
    assert [where for where in listed if not where.startswith(("GET /v1/effects", "GET /v1/audit?session="))] == []
    # What servers repeated of it is told by its name.
    assert sum(b"[secret sent]" in records[name] for name in told) == 4
    # The search finds what is there.
    assert sum(holds(data, OUTPUT) for _, data in run.said[:own]) == len(sessions)
