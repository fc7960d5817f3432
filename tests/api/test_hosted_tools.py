"""The real server, a real MCP server, and official SDKs: tools that are called, and those that wait for a person."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.crash.harness import Server
from tests.tools.mcp_servers import Seen, shop

from stateline.testing import ScriptedCall, ScriptedUpstream
from stateline.testing.scripted import Answer, Asked

CONFIG = """
[tools]
allow_hosts = ["{host}"]

[[mcp_servers]]
label = "shop"
url = "http://{host}/mcp"

[mcp_servers.tools.find_refund]
effect = "read"

[[agents]]
name = "clerk"
model = "scripted"
instructions = "You give money back."
description = "Answers customers"
tools = [{{server = "shop", allowed_tools = ["refund", "find_refund"]}}]

[[agents]]
name = "careful"
model = "scripted"
tools = [{{server = "shop", require_approval = "always"}}]
"""


def refunds(asked: Asked, _: int) -> Answer:
    """Asks for a refund, and says what came of it."""
    if asked.tool_output is not None:
        return Answer(text=f"It said: {asked.tool_output}")
    server = "mine" if asked.tool is not None and asked.tool[0].startswith("mine-") else "shop"
    return Answer(calls=(ScriptedCall(name=f"{server}-refund", arguments='{"cents": 500}'),))


@pytest.fixture
async def seen() -> Seen:
    return Seen()


@pytest.fixture
async def server(tmp_path: Path, seen: Seen) -> AsyncGenerator[Server]:
    upstream = ScriptedUpstream(refunds)
    async with upstream, shop(seen) as url:
        host = url.removeprefix("http://").partition("/")[0]
        server = Server(tmp_path, upstream.base_url, settings=CONFIG.format(host=host))
        try:
            await server.start()
            yield server
        finally:
            await server.close()


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Any:
    """A background response, once it has ended."""
    async with asyncio.timeout(20):
        while True:
            response = await client.responses.retrieve(response_id)
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.02)


async def test_an_agent_calls_its_tools_from_the_openai_sdk(server: Server, seen: Seen) -> None:
    assert "no [policy] is set" in server.log.read_text()
    async with server.client(max_retries=0) as client:
        response = await client.responses.create(model="agent/clerk", input="My parcel never came.")
        assert response.output_text == "It said: done"
        call = response.output[0]
        assert call.type == "mcp_call"
        assert (call.name, call.server_label, call.output, call.status) == ("refund", "shop", "done", "completed")
        assert len(seen.refunds) == 1
        assert seen.keys == seen.metas
        [key] = seen.refunds
        assert key.endswith("/1/2")
        types: list[str] = []
        async with client.responses.stream(model="agent/clerk", input="Again.") as stream:
            async for event in stream:
                types.append(event.type)
            final = await stream.get_final_response()
        assert final.output_text == "It said: done"
        assert "response.mcp_call.completed" in types
        assert {"agent/clerk", "agent/careful"} <= {model.id async for model in client.models.list()}
        effects: Any = await client.get("/effects?agent=clerk", cast_to=object)
        assert [each["status"] for each in effects["data"]] == ["committed", "committed"]
        agents: Any = await client.get("/agents", cast_to=object)
        assert [each["id"] for each in agents["data"]] == ["agent/careful", "agent/clerk"]  # pyright: ignore


async def test_an_approval_survives_a_kill_and_is_answered_from_outside(server: Server, seen: Seen) -> None:
    async with server.client(max_retries=0) as client:
        first = await client.responses.create(model="agent/careful", input="My parcel never came.")
        asked = first.output[-1]
        assert (first.status, asked.type) == ("completed", "mcp_approval_request")
        await server.kill()
        await server.start()
        waiting: Any = await client.get("/approvals", cast_to=object)
        names = [(each["id"], each["name"], each["demanded_by"]) for each in waiting["data"]]
        assert names == [(asked.id, "refund", "client")]
        assert not seen.refunds
        body = {"approve": True, "reason": "fine"}
        answered: Any = await client.post(f"/approvals/{asked.id}", body=body, cast_to=object)
        response = await ended(client, answered["response_id"])
        assert response.output_text == "It said: done"
        assert len(seen.refunds) == 1
        with pytest.raises(openai.ConflictError) as caught:
            await client.post(f"/approvals/{asked.id}", body=body, cast_to=object)
        assert caught.value.code == "approval_answered"
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert (await client.get("/approvals", cast_to=object))["data"] == []  # pyright: ignore


async def test_a_request_names_a_server_of_its_own(server: Server, seen: Seen) -> None:
    url = server.config.read_text().partition('\nurl = "http')[2].partition('"')[0]
    tool: Any = {
        "type": "mcp",
        "server_label": "mine",
        "server_url": f"http{url}",
        "headers": {"X-Secret": "s3cr3t-of-the-client"},
        "require_approval": "never",
        "allowed_tools": ["refund"],
    }
    async with server.client(max_retries=0) as client:
        response = await client.responses.create(model="scripted", input="hello", tools=[tool])
        assert [item.type for item in response.output] == ["mcp_list_tools", "mcp_call", "message"]
        assert response.output_text == "It said: done"
        assert seen.headers[-1]["x-secret"] == "s3cr3t-of-the-client"
        further = await client.responses.create(
            model="scripted", input="more", tools=[tool], previous_response_id=response.id
        )
        # What is known already is not listed again.
        assert "mcp_list_tools" not in [item.type for item in further.output]
    await server.end(signal.SIGTERM)
    for path in server.folder.iterdir():
        assert b"s3cr3t-of-the-client" not in path.read_bytes(), path


async def test_the_approval_flow_of_openai_agents_works(server: Server, seen: Seen) -> None:
    from agents import Agent, HostedMCPTool, OpenAIResponsesModel, RunConfig, Runner

    url = server.config.read_text().partition('\nurl = "http')[2].partition('"')[0]
    asked: list[str] = []

    def approve(request: Any) -> Any:
        asked.append(request.data.name)
        return {"approve": True}

    tool = HostedMCPTool(
        tool_config={
            "type": "mcp",
            "server_label": "mine",
            "server_url": f"http{url}",
            "require_approval": "always",
            "allowed_tools": ["refund"],
        },
        on_approval_request=approve,
    )
    async with server.client(max_retries=0) as client:
        model = OpenAIResponsesModel(model="scripted", openai_client=client)
        agent = Agent(name="Helper", instructions="Help.", model=model, tools=[tool])
        result = await Runner.run(agent, "My parcel never came.", run_config=RunConfig(tracing_disabled=True))
        assert result.final_output == "It said: done"
        assert asked == ["refund"]
        assert len(seen.refunds) == 1


async def test_a_request_cannot_take_the_label_of_the_operators_server(server: Server) -> None:
    tool: Any = {"type": "mcp", "server_label": "shop", "server_url": "https://example.org/mcp"}
    unknown: Any = {"type": "mcp", "server_label": "nowhere"}
    async with server.client(max_retries=0) as client:
        for one, code in ((tool, "server_label_taken"), (unknown, "unknown_server")):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.responses.create(model="scripted", input="hello", tools=[one])
            assert caught.value.code == code


async def test_a_tool_where_nothing_may_be_connected_to_is_refused(server: Server) -> None:
    tool: Any = {"type": "mcp", "server_label": "far", "server_url": "http://127.0.0.1:9/mcp"}
    async with server.client(max_retries=0) as client:
        response = await client.responses.create(model="scripted", input="hello", tools=[tool])
        assert response.status == "failed"
        assert response.error is not None
        assert json.dumps(response.error.code) == '"tool_host_denied"'
