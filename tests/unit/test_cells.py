"""Every format at every cloud: a golden call each, and the table in docs/models.md.

The table is made here from what the configuration takes, what is recorded and what these calls show, so that
it cannot say more than is so.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from stateline.config import ConfigError
from stateline.config import load as load_config
from stateline.core.calls import Finish, ModelDelta, ModelParams, ModelRequest, TextDelta
from stateline.core.errors import BadRequest
from stateline.core.items import InputText, Message
from stateline.engine.place import fitted
from stateline.models.client import HttpModelClient
from stateline.models.clouds import CLOUDS
from stateline.models.formats import FORMATS, wire_of
from stateline.ports import Deployment
from stateline.testing import Answer
from stateline.testing.anthropic_bodies import MessageBody
from stateline.testing.converse import ConverseBody, event
from stateline.testing.openai_bodies import ChatBody, ResponseBody
from stateline.testing.scripted import deltas_of
from stateline.wiring import deployments

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
RECORDED = Path(__file__).resolve().parents[3] / "shared" / "recorded"
BEGIN, END = "<!-- cells: begin -->", "<!-- cells: end -->"
KEY = "a-key"
MODEL = "claude-sonnet-4-5"


class Cell(NamedTuple):
    """What a call of a format at a cloud looks like from outside; the stream's path is in its own field."""

    path: str
    stream_path: str
    header: str
    model_in_body: bool = True


def _both(path: str, header: str, **fields: Any) -> Cell:
    return Cell(path, path, header, **fields)


_BEARER, _PUBLISHERS = "authorization", "/v1/projects/p/locations/global/publishers"
CELLS: dict[tuple[str, str], Cell] = {
    ("openai-responses", "openai"): _both("/v1/responses", _BEARER),
    ("openai-responses", "azure"): _both("/openai/v1/responses", "api-key"),
    ("openai-responses", "anthropic"): _both("/v1/responses", "x-api-key"),
    ("openai-responses", "aws"): _both("/openai/v1/responses", _BEARER),
    ("openai-responses", "openai-compatible"): _both("/v1/responses", _BEARER),
    ("openai-chat", "openai"): _both("/v1/chat/completions", _BEARER),
    ("openai-chat", "azure"): _both("/openai/v1/chat/completions", "api-key"),
    ("openai-chat", "anthropic"): _both("/v1/chat/completions", "x-api-key"),
    ("openai-chat", "aws"): _both("/openai/v1/chat/completions", _BEARER),
    ("openai-chat", "openai-compatible"): _both("/v1/chat/completions", _BEARER),
    ("anthropic-messages", "openai"): _both("/v1/messages", _BEARER),
    ("anthropic-messages", "azure"): _both("/anthropic/v1/messages", "x-api-key"),
    ("anthropic-messages", "anthropic"): _both("/v1/messages", "x-api-key"),
    ("anthropic-messages", "aws"): Cell(
        f"/model/{MODEL}/invoke", f"/model/{MODEL}/invoke-with-response-stream", _BEARER, model_in_body=False
    ),
    ("anthropic-messages", "google"): Cell(
        f"{_PUBLISHERS}/anthropic/models/{MODEL}:rawPredict",
        f"{_PUBLISHERS}/anthropic/models/{MODEL}:streamRawPredict",
        "x-goog-api-key",
        model_in_body=False,
    ),
    ("anthropic-messages", "openai-compatible"): _both("/v1/messages", _BEARER),
    ("bedrock-converse", "aws"): Cell(
        f"/model/{MODEL}/converse", f"/model/{MODEL}/converse-stream", _BEARER, model_in_body=False
    ),
    ("gemini", "google"): Cell(
        f"/v1beta/models/{MODEL}:generateContent",
        f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse",
        "x-goog-api-key",
        model_in_body=False,
    ),
}
"""Every pair that the configuration takes. Azure's older style has tests of its own."""

GATEWAY = {("openai-responses", "anthropic"), ("openai-chat", "anthropic"), ("anthropic-messages", "openai")}
"""Taken for gateways that stand in a provider's place and its way to send keys: the provider does not offer them."""

RECORDINGS = {
    ("openai-responses", "openai"): ("openai", r"/v1/responses"),
    ("openai-responses", "azure"): ("azure", r".*/responses"),
    ("openai-chat", "openai"): ("openai", r"/v1/chat/completions"),
    ("openai-chat", "azure"): ("azure", r".*/chat/completions"),
    ("openai-chat", "openai-compatible"): ("gemini", r".*/openai/chat/.*"),
    ("anthropic-messages", "anthropic"): ("anthropic", r"/v1/messages"),
    ("bedrock-converse", "aws"): ("bedrock", r"converse(-stream)?"),
    ("gemini", "google"): ("gemini", r"(stream)?[gG]enerateContent"),
}
"""The cells that have recorded answers: their file in ../shared/recorded, and their calls there."""


# -- bodies, made apart from the formats ------------------------------------------------------------


def _frames(events: bytes) -> bytes:
    """Anthropic's events as InvokeModel frames them."""
    lines = [line[6:] for line in events.split(b"\n") if line.startswith(b"data: ")]
    return b"".join(event("chunk", {"bytes": base64.b64encode(line).decode(), "p": "abc"}) for line in lines)


def _gemini(text: str, *, stream: bool) -> bytes:
    answer = {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}]}
    body = json.dumps(answer | {"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2}}).encode()
    return b"data: " + body + b"\r\n\r\n" if stream else body


def _answer(wire_format: str, cloud: str, *, stream: bool) -> tuple[str, bytes]:
    """An answer's content type and body."""
    deltas = deltas_of(Answer(text="hi there"), 1)
    if wire_format == "gemini":
        return ("text/event-stream" if stream else "application/json"), _gemini("hi there", stream=stream)
    bodies = {
        "openai-chat": lambda: ChatBody(1, "m", with_usage=True),
        "openai-responses": lambda: ResponseBody(1, "m", {}),
        "anthropic-messages": lambda: MessageBody(1, "m"),
        "bedrock-converse": ConverseBody,
    }
    body = bodies[wire_format]()
    if not stream:
        return "application/json", body.whole(deltas)
    events = body.begin() + body.events(deltas)
    if cloud == "aws" and wire_format == "anthropic-messages":
        return "application/vnd.amazon.eventstream", _frames(events)
    return getattr(body, "content_type", "text/event-stream"), events


class Heard(NamedTuple):
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@asynccontextmanager
async def provider(kind: str, body: bytes) -> AsyncGenerator[tuple[str, list[Heard]]]:
    """A server that answers every call in one way, and keeps what it was asked."""
    heard: list[Heard] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        asked = await reader.readexactly(int(headers["content-length"]))
        heard.append(Heard(head[0].split(" ")[1], headers, json.loads(asked)))
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    finally:
        server.close()


# -- the configuration ------------------------------------------------------------------------------


def _configured(folder: Path, wire_format: str, cloud: str, url: str) -> Deployment | None:
    """The deployment as the configuration makes it, or None where it refuses the pair."""
    suffix = {
        "google": "/v1beta" if wire_format == "gemini" else "/v1/projects/p",
        "azure": "",
        # At Bedrock's own address this path follows from the format; an address of one's own is taken as it is.
        "aws": "/openai/v1" if wire_format.startswith("openai-") else "",
    }
    settings = {
        "name": "d", "model": MODEL, "cloud": cloud, "format": wire_format, "base_url": url + suffix.get(cloud, "/v1"),
        "api_key_env": "CELL_KEY",
    } | ({"region": "us-east-1"} if cloud == "aws" else {})  # fmt: skip
    file = folder / f"{wire_format}-{cloud}.toml"
    file.write_text("[[deployments]]\n" + "".join(f"{key} = {json.dumps(each)}\n" for key, each in settings.items()))
    try:
        config = load_config(file, {})
    except ConfigError:
        return None
    (made,) = deployments(config)
    return made


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELL_KEY", KEY)


def test_the_configuration_takes_the_cells_that_have_a_golden_call_and_no_other(tmp_path: Path) -> None:
    pairs = [(wire_format, cloud) for wire_format in FORMATS for cloud in CLOUDS]
    taken = {pair for pair in pairs if _configured(tmp_path, *pair, "http://127.0.0.1:9") is not None}
    assert taken == CELLS.keys()
    assert all(wire_of(*pair) is not None for pair in taken)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("wire_format", "cloud"), CELLS, ids=str)
async def test_a_call_of_each_cell_goes_where_it_belongs_and_its_answer_is_read(
    tmp_path: Path, wire_format: str, cloud: str, stream: bool
) -> None:
    cell = CELLS[wire_format, cloud]
    client = HttpModelClient()
    async with provider(*_answer(wire_format, cloud, stream=stream)) as (url, heard):
        place = _configured(tmp_path, wire_format, cloud, url)
        assert place is not None
        item = Message(id="msg_1", role="user", content=(InputText(text="hello"),))
        asked = ModelRequest(params=ModelParams(model=MODEL), items=[item], key="s/1/1", stream=stream)
        deltas: list[ModelDelta] = [delta async for batch in client.call(place, asked) for delta in batch]
    await client.close()
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == "hi there"
    assert isinstance(deltas[-1], Finish)
    assert deltas[-1].reason == "stop"
    (call,) = heard
    assert call.path == (cell.stream_path if stream else cell.path)
    assert call.headers[cell.header] == (f"Bearer {KEY}" if cell.header == _BEARER else KEY)
    assert [name for name, value in call.headers.items() if KEY in value] == [cell.header]
    assert call.body.get("model") == (MODEL if cell.model_in_body else None)


class Tier(NamedTuple):
    """Where a service tier stands in a call: a field of the body, or a header, and what it says there."""

    field: str
    header: str
    value: Any


_SERVICE_TIER, _NOT_SENT = ("service_tier", ""), Tier("", "", None)
_BEDROCK_HEADER, _PAID = "x-amzn-bedrock-service-tier", "x-vertex-ai-llm-shared-request-type"
TIERS = [
    ("openai-responses", "openai", "flex", Tier(*_SERVICE_TIER, "flex")),
    ("openai-chat", "openai", "scale", Tier(*_SERVICE_TIER, "scale")),
    ("openai-responses", "azure", "priority", Tier(*_SERVICE_TIER, "priority")),
    ("openai-chat", "aws", "flex", Tier(*_SERVICE_TIER, "flex")),
    ("anthropic-messages", "anthropic", "auto", Tier(*_SERVICE_TIER, "auto")),
    ("anthropic-messages", "anthropic", "default", Tier(*_SERVICE_TIER, "standard_only")),
    ("anthropic-messages", "azure", "default", _NOT_SENT),
    ("anthropic-messages", "google", "auto", _NOT_SENT),
    ("anthropic-messages", "aws", "reserved", Tier("", _BEDROCK_HEADER, "reserved")),
    ("anthropic-messages", "aws", "auto", _NOT_SENT),
    ("bedrock-converse", "aws", "priority", Tier("serviceTier", "", {"type": "priority"})),
    ("bedrock-converse", "aws", "auto", _NOT_SENT),
    ("gemini", "google", "flex", Tier("serviceTier", "", "flex")),
    ("gemini", "google", "default", _NOT_SENT),
    ("gemini", "vertex", "flex", Tier("", _PAID, "flex")),
    ("gemini", "vertex", "priority", Tier("", _PAID, "priority")),
    ("gemini", "vertex", "dedicated", Tier("", "x-vertex-ai-llm-request-type", "dedicated")),
    ("gemini", "vertex", "default", _NOT_SENT),
]
"""``vertex`` is a project's address at the cloud ``google``."""


@asynccontextmanager
async def _called(
    folder: Path, wire_format: str, cloud: str, tier: str
) -> AsyncGenerator[tuple[HttpModelClient, Deployment, ModelRequest, list[Heard]]]:
    at = "google" if cloud == "vertex" else cloud
    client = HttpModelClient()
    async with provider(*_answer(wire_format, at, stream=False)) as (url, heard):
        place = _configured(folder, wire_format, at, url)
        assert place is not None
        place = msgspec.structs.replace(place, service_tier=tier)
        if cloud == "vertex":
            place = msgspec.structs.replace(place, base_url=f"{url}/v1/projects/p")
        item = Message(id="msg_1", role="user", content=(InputText(text="hello"),))
        asked = ModelRequest(params=ModelParams(model=MODEL), items=[item], key="s/1/1")
        yield client, place, fitted(asked, place), heard
    await client.close()


@pytest.mark.parametrize(("wire_format", "cloud", "tier", "expected"), TIERS, ids=str)
async def test_a_deployments_service_tier_reaches_its_provider(
    tmp_path: Path, wire_format: str, cloud: str, tier: str, expected: Tier
) -> None:
    async with _called(tmp_path, wire_format, cloud, tier) as (client, place, asked, heard):
        async for _ in client.call(place, asked):
            pass
        (call,) = heard
    fields = {"service_tier", "serviceTier"} & call.body.keys()
    headers = {name for name in call.headers if "tier" in name or "llm" in name}
    assert fields == ({expected.field} if expected.field else set())
    assert headers == ({expected.header} if expected.header else set())
    if expected.field:
        assert call.body[expected.field] == expected.value
    if expected.header:
        assert call.headers[expected.header] == expected.value


@pytest.mark.parametrize(
    ("wire_format", "cloud", "tier"),
    [
        ("anthropic-messages", "anthropic", "flex"),
        ("anthropic-messages", "azure", "priority"),
        ("anthropic-messages", "google", "flex"),
        ("anthropic-messages", "google", "dedicated"),
        ("anthropic-messages", "aws", "scale"),
        ("bedrock-converse", "aws", "scale"),
        ("gemini", "google", "dedicated"),
        ("gemini", "vertex", "scale"),
    ],
)
async def test_a_service_tier_that_a_cloud_does_not_take_is_named_and_nothing_is_sent(
    tmp_path: Path, wire_format: str, cloud: str, tier: str
) -> None:
    async with _called(tmp_path, wire_format, cloud, tier) as (
        client,
        place,
        asked,
        heard,
    ):
        with pytest.raises(BadRequest) as refused:
            async for _ in client.call(place, asked):
                pass
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "service_tier")
        assert heard == []


# -- the table --------------------------------------------------------------------------------------


def _mark(pair: tuple[str, str]) -> str:
    if pair not in CELLS:
        return "no"
    return "gateway" if pair in GATEWAY else ("recorded" if pair in RECORDINGS else "golden")


def table() -> str:
    """The table in Markdown."""
    clouds = list(CLOUDS)
    rows = [["`" + each + "`" for each in ("format", *clouds)], ["---"] * (len(clouds) + 1)]
    rows += [[f"`{name}`", *(_mark((name, cloud)) for cloud in clouds)] for name in FORMATS]
    rows[0][0] = "format"
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_the_table_in_the_docs_is_what_is_so() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.split(BEGIN)[1].split(END)[0].strip() == table()


@pytest.mark.skipif(not RECORDED.exists(), reason="../shared, with the recordings, is not here")
@pytest.mark.parametrize("pair", RECORDINGS, ids=str)
def test_what_the_table_calls_recorded_has_answers_that_the_cells_wire_reads(pair: tuple[str, str]) -> None:
    name, calls = RECORDINGS[pair]
    wire = wire_of(*pair)
    assert wire is not None
    rows = [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if re.fullmatch(calls, row["api"]) and row["status"] == 200 and not row["stream"]]
    # What the answers say is checked, one by one, by tests/recorded.
    assert isinstance(wire.decode_response(chosen[0]["response"].encode())[-1], Finish)


def test_a_cell_without_a_recording_is_not_called_recorded() -> None:
    assert RECORDINGS.keys() <= CELLS.keys() - GATEWAY
    assert _mark(("gemini", "aws")) == "no"
    assert _mark(("anthropic-messages", "aws")) == "golden"
