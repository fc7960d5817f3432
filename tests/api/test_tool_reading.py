"""A tool's long output over the real server: whole for the client, cut for the model, read on after a restart."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.crash.harness import Server, running_server

from stateline.core.limits import TOOL_OUTPUT_SHOWN_BYTES
from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.scripted import Answer, Asked

JOURNAL = "".join(f"{at}: nothing of note\n" for at in range(5000))
ENTRY = "4001: the needle\n"
WHOLE = JOURNAL.replace("4001: nothing of note\n", ENTRY)
MODULE = """
from stateline.tools import tool

@tool(effect="read")
def journal() -> str:
    \"\"\"The journal.\"\"\"
    return "".join(f"{at}: the needle\\n" if at == 4001 else f"{at}: nothing of note\\n" for at in range(5000))
"""
CONFIG = """
[tools]
functions = ["journal_of_a_test:journal"]

[[agents]]
name = "reader"
model = "scripted"
tools = [{server = "functions", require_approval = "never"}]
"""


class Reads:
    """A model that has the journal read, and then the rest of it; or looks for something under a handle."""

    def __init__(self) -> None:
        self.handle = ""

    def __call__(self, asked: Asked, _: int) -> Answer:
        told = asked.tool_output
        if told is None and asked.user_text.startswith("find "):
            search, handle = asked.user_text.split()[1:]
            return calling("stateline-read_output", handle=handle, search=search)
        if told is None:
            return calling("functions-journal")
        cut = re.search(r"\[Cut: .* handle (\S+), offset (\d+)\.\]", told)
        if cut is not None and asked.user_text == "all":
            self.handle = cut[1]
            return calling("stateline-read_output", handle=self.handle, offset=int(cut[2]))
        on = re.match(r"\[characters .* read on with offset (\d+)\]", told)
        if on is not None:
            return calling("stateline-read_output", handle=self.handle, offset=int(on[1]))
        return Answer(text=told)


def calling(name: str, **arguments: Any) -> Answer:
    return Answer(calls=(ScriptedCall(name=name, arguments=json.dumps(arguments)),))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[Server]:
    (tmp_path / "journal_of_a_test.py").write_text(MODULE)
    async with ScriptedUpstream(Reads()) as upstream, running_server(tmp_path, upstream, settings=CONFIG) as server:
        yield server


async def test_a_long_output_is_shown_in_part_and_searched_after_a_restart(server: Server) -> None:
    async with server.client(max_retries=0) as client:
        first = await client.responses.create(model="agent/reader", input="some")
        call = first.output[0]
        assert call.type == "mcp_call"
        assert call.output == WHOLE
        shown = first.output_text
        assert len(shown.encode()) <= TOOL_OUTPUT_SHOWN_BYTES
        assert shown.startswith("0: nothing of note\n1: ")
        assert shown.endswith("4999: nothing of note\n")
        assert ENTRY not in shown
        await server.kill()
        await server.start()
        found = await client.responses.create(
            model="agent/reader", input=f"find needle {call.id}", previous_response_id=first.id
        )
        assert found.output_text.splitlines()[1:] == [f"{WHOLE.index(ENTRY)}: {ENTRY.strip()}"]
        assert [item.type for item in found.output] == ["mcp_call", "message"]
        effects: Any = await client.get("/effects", cast_to=object)
        assert sorted((each["name"], each["effect"], each["status"]) for each in effects["data"]) == [
            ("journal", "read", "committed"),
            ("read_output", "read", "committed"),
        ]


async def test_a_model_reads_all_of_an_output_in_one_response(server: Server) -> None:
    async with server.client(max_retries=0) as client:
        response = await client.responses.create(model="agent/reader", input="all")
        calls = [item for item in response.output if item.type == "mcp_call"]
        assert [call.name for call in calls] == ["journal", *["read_output"] * (len(calls) - 1)]
        assert all(call.server_label == "stateline" for call in calls[1:])
        pieces = [str(call.output).partition("\n")[2] for call in calls[1:]]
        assert len(pieces) > 1
        assert WHOLE.endswith("".join(pieces))
        assert len(WHOLE) - len("".join(pieces)) < TOOL_OUTPUT_SHOWN_BYTES
        assert response.output_text.endswith("this is the end]\n" + pieces[-1])


async def test_no_server_of_a_request_may_have_the_runtimes_own_label(server: Server) -> None:
    async with server.client(max_retries=0) as client:
        for label in ("stateline", "Stateline"):
            tool: Any = {"type": "mcp", "server_label": label, "server_url": "https://example.org/mcp"}
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.create(model="scripted", input="hello", tools=[tool])
            assert (caught.value.code, caught.value.param) == ("server_label_reserved", "tools[0].server_label")
