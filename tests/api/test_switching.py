"""A session changes its wire format in the middle of a tool loop: every pair of formats, five kinds of history.

One server and one upstream, which speaks all formats, for all cells. What the upstream received is looked through
for what the first format's provider gave, by marks that are written down here: it lacks exactly what the log, the
response and the table in docs/switching.md say.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import openai
import pytest
import pytest_asyncio
from openai.types.responses import Response, ResponseFunctionToolCall
from scripts.switching_table import KINDS, PIXEL, SIDES, Kind, Side, answer, losses
from tests.crash.harness import Server

from stateline.testing import Answer, ScriptedUpstream
from stateline.testing.anthropic_bodies import SIGNED
from stateline.testing.converse import signature_of
from stateline.testing.openai_bodies import SEALED
from stateline.testing.scripted import Asked

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOL: Any = {
    "type": "function",
    "name": "look_up",
    "description": "Looks a word up.",
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    "strict": False,
}
ENVIRONMENT = {
    "KEY_OF_THE_UPSTREAM": "a-key-for-tests",
    "AWS_ACCESS_KEY_ID": "AKIDTESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "secretsecretsecretsecretsecretsecretsecr",
    "AWS_EC2_METADATA_DISABLED": "true",
}
CELLS = [(by, to, kind) for kind in KINDS for by, to in itertools.product(SIDES, SIDES)]


def ids_of(value: object) -> str:
    return value.name if isinstance(value, Side) else str(value)


def loop(asked: Asked, _: int) -> Answer:
    """Calls at its first two steps, and ends once the outputs say that they are the last."""
    kind = cast("Kind", asked.user_text.rpartition(" ")[2])
    output = asked.tool_output
    if output is None:
        return answer(kind, 1)
    return answer(kind, 2) if output == "again" else Answer(text=f"Found for {kind}.")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncGenerator[ScriptedUpstream]:
    made = ScriptedUpstream(loop)
    async with made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    settings = ""
    for side in SIDES:
        base_url = upstream.base_url.removesuffix("/v1") if side.cloud == "anthropic" else upstream.base_url
        auth = 'region = "us-east-1"' if side.cloud == "aws" else 'api_key_env = "KEY_OF_THE_UPSTREAM"'
        settings += f"""
[[deployments]]
name = "{side.name}"
model = "{side.name}"
cloud = "{side.cloud}"
format = "{side.name}"
base_url = "{base_url}"
upstream_model = "{side.model}"
{auth}
"""
    made = Server(tmp_path_factory.mktemp("switching"), upstream.base_url, settings=settings, environment=ENVIRONMENT)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: Server) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with server.client(max_retries=0) as made:
        yield made


def question(kind: Kind) -> Any:
    content: list[Any] = [{"type": "input_text", "text": f"look it up: {kind}"}]
    if kind == "image":
        content.append({"type": "input_image", "image_url": PIXEL, "detail": "low"})
    return [{"role": "user", "content": content}]


def outputs(of: Response, text: str, kind: Kind) -> Any:
    calls = [item for item in of.output if isinstance(item, ResponseFunctionToolCall)]
    assert calls
    status = "incomplete" if kind == "failed" else "completed"
    return [
        {"type": "function_call_output", "call_id": call.call_id, "output": text, "status": status} for call in calls
    ]


def body_of(upstream: ScriptedUpstream) -> str:
    """The last request's body, as JSON with its strings as they are."""
    asked: Any = upstream.requests[-1]
    return json.dumps(asked.body, ensure_ascii=False)


FAILED = {
    "openai-responses": '"output": "again", "status": "incomplete"',
    "anthropic-messages": '"is_error": true',
    "bedrock-converse": '"status": "error"',
    "gemini": '"response": {"error": "again"}',
}
"""How each format says that a tool failed; Chat Completions cannot."""


def marks(side: Side, kind: Kind, step: int, to: Side) -> dict[str, list[str]]:
    """What the provider of a step gave, and how ``to`` is told of its tool, by the name that a loss of it has."""
    found: dict[str, list[str]] = {"image_detail": ['"detail": "low"']} if kind == "image" else {}
    if kind == "failed":
        found["output_status"] = [FAILED.get(to.name, "no place for it")]
    said = answer(kind, step)
    if said.summary:
        found["reasoning"] = [said.summary]
    match side.name:
        case "openai-responses":
            found["provider_id"] = ['"id": "fc_scripted']
            if said.summary:
                found["encrypted_reasoning"] = [SEALED]
        case "anthropic-messages" if said.summary:
            found["signature"] = [SIGNED + said.summary]
        case "bedrock-converse" if said.summary:
            found["signature"] = [signature_of(said.summary)]
        case "gemini":
            found["thought_signature"] = [signature_of(f"look_up {said.calls[0].arguments}")]
        case _:
            pass
    return found


def carries(body: str, kind: Kind, step: int) -> None:
    """What goes to every format is there: the question, what was said, the calls and their outputs."""
    said = answer(kind, step)
    assert f"look it up: {kind}" in body
    assert not said.text or said.text in body
    for call in said.calls:
        assert json.loads(call.arguments)["word"] in body
    if kind == "image":
        assert PIXEL.rpartition(",")[2] in body


def missing(body: str, found: dict[str, list[str]]) -> set[str]:
    return {name for name, texts in found.items() if not all(text in body for text in texts)}


def told(response: Response) -> list[tuple[str, int]]:
    """What the response says that its call did not get."""
    extra: Any = response.model_extra
    return [(each["what"], each["items"]) for each in extra["stateline"].get("dropped", [])]


@pytest.mark.parametrize(("by", "to", "kind"), CELLS, ids=ids_of)
async def test_a_session_changes_its_format_in_the_middle_of_a_tool_loop(
    by: Side, to: Side, kind: Kind, client: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    async def ask(side: Side, given: Any, last: Response | None) -> Response:
        response = await client.responses.create(
            model=side.name,
            input=given,
            previous_response_id=last.id if last else openai.omit,
            tools=[TOOL],
            reasoning={"effort": "low"} if kind == "reasoning" else openai.omit,
        )
        assert response.status == "completed", response.error
        return response

    first = await ask(by, question(kind), None)
    assert told(first) == [(each.what, each.items) for each in losses([], by, kind)]
    second = await ask(to, outputs(first, "again", kind), first)
    lost = losses([by], to, kind)
    assert told(second) == [tuple(each) for each in lost]
    body = body_of(upstream)
    carries(body, kind, 1)
    assert missing(body, marks(by, kind, 1, to)) == {each.what for each in lost}
    third = await ask(by, outputs(second, "last", kind), second)
    assert told(third) == [tuple(each) for each in losses([by, to], by, kind)]
    body = body_of(upstream)
    carries(body, kind, 1)
    carries(body, kind, 2)
    # What the first gave goes back to it as if there had been no change; what the other gave stays behind.
    assert missing(body, marks(by, kind, 1, by)) == {each.what for each in losses([by], by, kind)}
    assert missing(body, marks(to, kind, 2, by)) == {each.what for each in losses([to], by, kind)}
    assert third.output_text == f"Found for {kind}."
