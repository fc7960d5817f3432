"""A rolling upgrade: two releases work over one database, and no client notices."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from signal import SIGTERM
from typing import Any

import openai
import pytest
from tests.crash.clients import Client, Turn
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.load import Json, judge, seed_of, under_load

import stateline

NEXT = "99.0.0"
_CHANGES = {
    "__init__.py": (f'__version__ = "{stateline.__version__}"', f'__version__ = "{NEXT}"'),
    "stores/postgres/schema.py": (
        "VERSION = len(MIGRATIONS)",
        '_NEXT = """\n'
        "ALTER TABLE stateline_sessions ADD COLUMN colour text NOT NULL DEFAULT 'none';\n"
        "ALTER TABLE stateline_events ADD COLUMN weight integer NOT NULL DEFAULT 0;\n"
        "CREATE TABLE stateline_colours (session bigint PRIMARY KEY, colour text NOT NULL);\n"
        '"""\n'
        "MIGRATIONS = (*MIGRATIONS, _NEXT)\nVERSION = len(MIGRATIONS)",
    ),
    "core/events.py": (
        "Body = (\n    SessionCreated\n",
        'class Painted(_Body, tag="painted/1", frozen=True, gc=False, kw_only=True):\n'
        '    """Readable in this release, written in the next."""\n\n    colour: str\n\n\n'
        "Body = (\n    Painted\n    | SessionCreated\n",
    ),
}
"""What the next release has: a version, a step of its tables, an event type that it can read."""


def next_release(folder: Path) -> Path:
    """A copy of this tree with those changes; the folder to import it from."""
    target = folder / "next"
    shutil.copytree(Path(stateline.__file__).parent, target / "stateline", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in _CHANGES.items():
        file = target / "stateline" / name
        text = file.read_text()
        assert text.count(old) == 1, f"{name} has changed: {old!r} is not in it once"
        file.write_text(text.replace(old, new))
    return target


class Strict(Client):
    """A client of default settings that takes every error down, those that it would mend by itself, too."""

    errors: list[str]

    async def turn(self) -> Turn:
        turn = await super().turn()
        if turn.outcome != "ended" or turn.resumptions:
            self.errors.append(f"{turn.name} {turn.mode} {turn.outcome} resumed {turn.resumptions}: {turn.error}")
        return turn

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await call()
        except (openai.APIConnectionError, openai.InternalServerError) as error:
            self.errors.append(repr(error))
            return await super()._patiently(call)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_rolling_upgrade_shows_no_client_an_error(tmp_path: Path) -> None:
    seed = seed_of()
    errors: list[str] = []

    def client(number: int, sdk: openai.AsyncOpenAI, seed: int) -> Client:
        made = Strict(number, sdk, seed)
        made.errors = errors
        return made

    async def fault(cluster: Cluster, random: Random) -> Json:
        release = next_release(tmp_path)
        for node in cluster.nodes:
            await asyncio.sleep(random.uniform(2.0, 3.0))
            assert await node.end(SIGTERM) in (0, -SIGTERM, 128 + SIGTERM)
            await asyncio.sleep(random.uniform(0.0, 1.0))
            node.environment["PYTHONPATH"] = str(release)
            await node.start()
            assert f"Stateline {NEXT} on" in node.tail()
        version = await cluster.ask("SELECT max(version) FROM stateline_schema")
        return {"nodes_upgraded": len(cluster.nodes), "schema_version": version[0][0]}

    async with running_cluster(tmp_path, "prompt", seed=seed) as cluster:
        result = await under_load(cluster, seed, fault, make=client, patient=False)
        judge("upgrade", result | {"client_errors": len(errors), "errors": errors[:5]}, cluster)
        assert errors == []
