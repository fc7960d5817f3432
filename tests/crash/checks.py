"""What must hold after the crashes, from the database file and from the API.

Every check returns sentences, one for each violation, that name the turn.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from tests.crash.clients import Seen, Turn, seen_of

from stateline.core import events as e

_TEXT_DELTAS = ("response.output_text.delta", "response.function_call_arguments.delta")


class Log(NamedTuple):
    """The whole database, read without the server."""

    gaps: list[str]
    requested: dict[str, list[e.TurnRequested]]
    ends: dict[str, list[e.Body]]
    keys: Counter[str]
    quarantined: int
    resumed: set[str]
    records: int


class Rows(NamedTuple):
    """What a database holds: records by table in the order of each session, and the sessions' rows.

    A record is (session, seq, body); a session (number, name, head, first number of its own).
    """

    records: dict[str, list[tuple[int, int, bytes]]]
    sessions: list[tuple[int, str, int, int]]


RECORD_TABLES = ("events", "chunks", "snapshots")


def read_log(database: Path) -> Log:
    """Read all sessions of a database file."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
        rows = Rows(
            {
                table: db.execute(f"SELECT session, seq, body FROM {table} ORDER BY n").fetchall()
                for table in RECORD_TABLES
            },
            db.execute("SELECT n, id, head, parent_seq + 1 FROM sessions").fetchall(),
        )
    log = log_of(rows)
    if integrity != "ok":
        log.gaps.insert(0, f"the database is damaged: {integrity}")
    return log


def log_of(rows: Rows) -> Log:
    """All sessions; ``gaps`` lists those whose records do not count up to their head."""
    gaps: list[str] = []
    numbers: dict[int, list[int]] = defaultdict(list)
    ended: dict[int, set[int]] = defaultdict(set)
    snapshots: dict[int, int] = {}
    bodies: list[tuple[int, e.Body]] = []
    for table, records in rows.records.items():
        for session, seq, raw in records:
            numbers[session].append(seq)
            if table == "snapshots":
                snapshots[session] = seq
            if table == "events":
                bodies.append((session, e.decode_body(raw)))
                if isinstance(bodies[-1][1], e.TERMINAL):
                    ended[session].add(seq)
    for n, name, head, first in rows.sessions:
        missing = set(range(first, head + 1)) - set(numbers[n])
        # A snapshot replaces the one before it, whose number followed the end of a turn.
        replaced = {seq for seq in missing if seq < snapshots.get(n, 0) and seq - 1 in ended[n]}
        if missing - replaced or len(numbers[n]) != head + 1 - first - len(replaced):
            gaps.append(f"session {name}: records {sorted(numbers[n])}, not {first}..{head}")
    requested: dict[str, list[e.TurnRequested]] = defaultdict(list)
    ends: dict[str, list[e.Body]] = defaultdict(list)
    keys: Counter[str] = Counter()
    running: dict[int, str] = {}
    resumed: set[str] = set()
    for session, body in bodies:
        if isinstance(body, e.TurnRequested):
            running[session] = body.response_id
            requested[body.request.metadata.get("name", body.response_id)].append(body)
        elif isinstance(body, e.TERMINAL):
            ends[body.response_id].append(body)
        elif isinstance(body, e.ModelCallStarted):
            keys[f"{session}/{body.turn}/{body.step}"] += 1
        elif isinstance(body, e.TurnResumed):
            resumed.add(running[session])
    return Log(
        gaps=gaps,
        requested=requested,
        ends=ends,
        keys=keys,
        quarantined=sum(isinstance(body, e.SessionQuarantined) for _, body in bodies),
        resumed=resumed,
        records=sum(map(len, numbers.values())),
    )


def run_twice(turns: Sequence[Turn], log: Log) -> list[str]:
    """Client requests with more than one turn, and effects performed twice under one key."""
    found = [f"{name} was requested {len(made)} times" for name, made in log.requested.items() if len(made) > 1]
    found += [f"call {key} was started {count} times" for key, count in log.keys.items() if count > 1]
    found += [f"{name} ended {len(ends)} times" for name, ends in log.ends.items() if len(ends) > 1]
    for turn in turns:
        made = [body.response_id for body in log.requested.get(turn.name, [])]
        if turn.response_id is not None and made and made != [turn.response_id]:
            found.append(f"{turn.name} was told {turn.response_id}, but {made} was made")
    return found


def asked_twice(report: dict[str, Any]) -> list[str]:
    """Effect keys that reached the model's provider more than once."""
    keys = Counter(row["key"] for row in report["requests"])
    return [f"{key} was sent {count} times" for key, count in keys.items() if count > 1]


def lost_turns(turns: Sequence[Turn], log: Log) -> list[str]:
    """Turns whose id a client was given and that the log does not have."""
    return [
        f"{turn.name} ({turn.response_id}) is not in the log"
        for turn in turns
        if turn.response_id is not None and turn.name not in log.requested
    ]


def stuck(log: Log) -> list[str]:
    """Turns that began and have no end; those that no client was told of, too."""
    begun = [(name, body) for name, made in log.requested.items() for body in made]
    return [f"{name} ({body.response_id}) has no end" for name, body in begun if not log.ends[body.response_id]]


def numbers_back(turns: Sequence[Turn]) -> list[str]:
    """Streams, over all their resumptions, whose numbers do not go up by one from 0."""
    found: list[str] = []
    for turn in turns:
        numbers = [seen.number for seen in turn.events]
        if numbers and numbers[0] != 0:
            found.append(f"{turn.name} begins at {numbers[0]}")
        for before, after in pairwise(numbers):
            if after != before + 1:
                found.append(f"{turn.name}: {after} came after {before}")
    return found


def _part_texts(item: dict[str, Any]) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    parts: list[dict[str, Any]] = item.get("content") or []
    return "".join(part.get("text") or "" for part in parts)


def texts_differ(turns: Sequence[Turn]) -> list[str]:
    """Kept items whose text is not the sum of the deltas that the client saw."""
    found: list[str] = []
    for turn in turns:
        if not turn.streamed or turn.output is None:
            continue
        seen: dict[str | None, str] = defaultdict(str)
        for event in turn.events:
            if event.type in _TEXT_DELTAS:
                seen[event.item] += event.text or ""
        for item in turn.output:
            if item["type"] != "reasoning" and seen[item["id"]] != _part_texts(item):
                found.append(f"{turn.name}: saw {seen[item['id']]!r}, stored {_part_texts(item)!r}")
    return found


def mixed_attempts(turns: Sequence[Turn]) -> list[str]:
    """Outputs with words of two model calls: the scripted model signs every word with its call."""
    found: list[str] = []
    for turn in turns:
        for item in turn.output or []:
            stems = {word.rpartition("w")[0] for word in _part_texts(item).split() if "a" in word and "w" in word}
            if item["type"] == "message" and len(stems) > 1:
                found.append(f"{turn.name} mixes {sorted(stems)}")
    return found


def violations(turns: Sequence[Turn], log: Log, lost: list[str], report: dict[str, Any]) -> dict[str, list[str]]:
    """All that must be empty, by name. ``lost`` is what the API was found to have no more."""
    return {
        "acknowledged_lost": lost + lost_turns(turns, log),
        "gaps": log.gaps,
        "run_twice": run_twice(turns, log) + asked_twice(report),
        "stuck": stuck(log) + [f"{turn.name} still waits: {turn.error}" for turn in turns if turn.outcome == "running"],
        "texts_differ": texts_differ(turns) + mixed_attempts(turns),
        "numbers_back": numbers_back(turns),
        "refused": [f"{turn.name}: {turn.error}" for turn in turns if turn.outcome == "refused"],
    }


# -- through the API ------------------------------------------------------------------------------


async def replay(http: aiohttp.ClientSession, base_url: str, response_id: str, after: int | None) -> list[Any]:
    """The stream of a stored response after a cursor, as JSON; it must end with ``[DONE]``."""
    params = {"stream": "true"} | ({} if after is None else {"starting_after": str(after)})
    headers = {"Stateline-Dialect": "openai"}
    async with http.get(f"{base_url}/responses/{response_id}", params=params, headers=headers) as reply:
        body = await reply.read()
        assert reply.status == 200, f"{response_id}: {reply.status} {body!r}"
    blocks = [block for block in body.split(b"\n\n") if block.strip() and not block.startswith(b":")]
    assert blocks[-1] == b"data: [DONE]", f"{response_id} ends with {blocks[-1]!r}"
    out: list[Any] = []
    for block in blocks[:-1]:
        name, data = block.split(b"\n", 1)
        event = msgspec.json.decode(data.removeprefix(b"data: "))
        assert name == f"event: {event['type']}".encode()
        out.append(event)
    return out


async def conversations_lost(ids: Iterable[str], base_url: str) -> list[str]:
    """Conversations whose creation was acknowledged and that are not there."""
    found: list[str] = []
    async with aiohttp.ClientSession() as http:
        for conversation in ids:
            async with http.get(f"{base_url}/conversations/{conversation}") as reply:
                if reply.status != 200:
                    found.append(f"{conversation}: {reply.status}")
    return found


async def against_api(turns: Iterable[Turn], base_url: str) -> list[str]:
    """Acknowledged events that the API no longer has, or has otherwise; final objects likewise."""
    found: list[str] = []
    room = asyncio.Semaphore(8)
    async with aiohttp.ClientSession() as http:

        async def check(turn: Turn) -> None:
            assert turn.response_id is not None
            async with room:
                async with http.get(f"{base_url}/responses/{turn.response_id}") as reply:
                    stored: Any = await reply.json()
                    if reply.status != 200:
                        found.append(f"{turn.name}: {reply.status} {stored}")
                        return
                if turn.outcome == "ended" and stored["status"] != turn.status:
                    found.append(f"{turn.name} was {turn.status}, is {stored['status']}")
                if turn.outcome == "ended" and _essence(stored["output"]) != _essence(turn.output or []):
                    found.append(f"{turn.name}: its output is not what the client was given")
                if turn.events:
                    events = await replay(http, base_url, turn.response_id, None)
                    found.extend(_not_there(turn, [seen_of(event) for event in events]))

        await asyncio.gather(*[check(turn) for turn in turns if turn.response_id is not None])
    return found


def _essence(output: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(item["type"], item["id"], _part_texts(item)) for item in output]


def _not_there(turn: Turn, stored: list[Seen]) -> list[str]:
    by_number = {seen.number: seen for seen in stored}
    return [
        f"{turn.name}: saw {seen}, stored {by_number.get(seen.number)}"
        for seen in turn.events
        if by_number.get(seen.number) != seen
    ]
