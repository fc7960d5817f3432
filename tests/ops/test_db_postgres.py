"""`stateline db` over PostgreSQL: beside a running server, and with none."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

import pytest
from openai import NotFoundError
from tests.crash.harness import Server, upstream_process
from tests.ops.histories import on_disk
from tests.ops.server import stateline
from tests.postgres import new_database

from stateline.testing.postgres_server import PostgresServer


async def test_a_served_database_is_pruned_backed_up_and_put_back(postgres: PostgresServer, tmp_path: Path) -> None:
    url = await new_database(postgres)
    async with upstream_process("auto") as upstream:
        server = Server(tmp_path, upstream, settings="[retention]\ndeleted_s = 0\n", store=f'url = "{url}"\n')
        try:
            await server.start()
            async with server.client() as client:
                kept = await client.responses.create(model="scripted", input="this one stays")
                gone = await client.responses.create(model="scripted", input="a-planted-string")
                await client.responses.delete(gone.id)
                pruned = await stateline(server.config, "db", "prune", "--json")
                assert pruned.json["sessions"] == 1
                made = await stateline(server.config, "db", "backup", "backup", "--json")
                assert made.json["sessions"] == 1
                saved = on_disk(tmp_path / "backup")
                assert b"this one stays" in saved
                assert b"a-planted-string" not in saved
                later = await client.responses.create(model="scripted", input="later")
            refused = await stateline(server.config, "db", "restore", "backup", "--force")
            assert refused.code == 2
            assert "run on" in refused.err
            await server.end(SIGTERM)
            refused = await stateline(server.config, "db", "restore", "backup")
            assert refused.code == 2
            assert "--force" in refused.err
            done = await stateline(server.config, "db", "restore", "backup", "--force")
            assert done.out.startswith("restored ")
            await server.start()
            async with server.client() as client:
                assert (await client.responses.retrieve(kept.id)).output_text == kept.output_text
                with pytest.raises(NotFoundError):
                    await client.responses.retrieve(later.id)
                again = await client.responses.create(model="scripted", input="on", previous_response_id=kept.id)
                assert again.status == "completed"
        finally:
            await server.close()
