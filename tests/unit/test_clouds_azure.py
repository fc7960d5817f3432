"""Azure's URLs: two styles of resources, told apart by the version."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from stateline.core.calls import ModelParams, ModelRequest, TextDelta
from stateline.core.errors import ModelError
from stateline.core.items import InputText, Message
from stateline.models.client import HttpModelClient
from stateline.models.clouds import CLOUDS
from stateline.models.clouds.anthropic import VERSION
from stateline.ports import Deployment
from stateline.testing.openai_bodies import ChatBody
from stateline.testing.scripted import Answer, deltas_of

HOST = "https://r.openai.azure.com"


@pytest.mark.parametrize(
    ("base_url", "version", "path", "url"),
    [
        (HOST, None, "/responses", f"{HOST}/openai/v1/responses"),
        (f"{HOST}/", None, "/chat/completions", f"{HOST}/openai/v1/chat/completions"),
        (f"{HOST}/openai/v1/", None, "/responses", f"{HOST}/openai/v1/responses"),
        (f"{HOST}/openai/v1", "preview", "/responses", f"{HOST}/openai/v1/responses?api-version=preview"),
        (HOST, "2025-04-01-preview", "/responses", f"{HOST}/openai/responses?api-version=2025-04-01-preview"),
        (
            "https://gateway.example/ai",
            "2024-10-21",
            "/chat/completions",
            "https://gateway.example/ai/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21",
        ),
    ],
)  # fmt: skip
def test_a_resource_is_found_in_either_style(base_url: str, version: str | None, path: str, url: str) -> None:
    place = Deployment(
        name="a", model="m", cloud="azure", format="openai-chat", base_url=base_url, upstream_model="my gpt",
        api_key="key", api_version=version,
    )  # fmt: skip
    cloud = CLOUDS["azure"]
    assert cloud.url(place, path) == url
    assert cloud.headers(place) == {"api-key": "key"}


@pytest.mark.parametrize("path", ["", "/", "/openai/v1", "/anthropic", "/anthropic/v1"])
def test_claude_on_foundry_has_a_path_and_a_header_of_its_own(path: str) -> None:
    place = Deployment(
        name="a", model="m", cloud="azure", format="anthropic-messages", base_url=HOST + path, upstream_model="claude",
        api_key="key",
    )  # fmt: skip
    cloud = CLOUDS["azure"]
    assert cloud.url(place, "/messages") == f"{HOST}/anthropic/v1/messages"
    assert cloud.headers(place) == {"x-api-key": "key", "anthropic-version": VERSION}


# -- Entra -----------------------------------------------------------------------------------------------

SECRET = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.entra-token-number-"


class Azure:
    """An issuer of tokens as App Service has it, and a resource that wants them."""

    def __init__(self) -> None:
        self.url = ""
        self.grants: list[dict[str, list[str]]] = []
        self.asked: list[str] = []
        self.life_s = 3600
        self.refuses = False
        self.rejected: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n"))}
        await reader.readexactly(int(headers.get("content-length", 0)))
        target = urlsplit(head.split(" ")[1])
        status, kind = "200 OK", "application/json"
        if target.path == "/token":
            self.grants.append(parse_qs(target.query))
            assert headers["x-identity-header"] == "identity"
            token = f"{SECRET}{len(self.grants)}"
            answer = json.dumps({"access_token": token, "expires_on": str(int(time.time()) + self.life_s)}).encode()
            if self.refuses:
                status, answer = "400 Bad Request", json.dumps({"message": f"no identity, said {token}"}).encode()
        elif headers["authorization"] in self.rejected:
            status, answer = "401 Unauthorized", b'{"error":{"message":"the token is not valid"}}'
        else:
            self.asked.append(headers["authorization"])
            body = ChatBody(1, "m", with_usage=True)
            answer = b"".join([body.begin(), *(body.events([each]) for each in deltas_of(Answer(text="hi"), 1))])
            kind = "text/event-stream"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(answer)}\r\n\r\n".encode())
        writer.write(answer)
        await writer.drain()
        writer.close()


@pytest_asyncio.fixture
async def azure(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Azure]:
    made = Azure()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{made.url}/token")
    monkeypatch.setenv("IDENTITY_HEADER", "identity")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    yield made
    server.close()


async def said(client: HttpModelClient, azure: Azure) -> bool:
    place = Deployment(
        name="a", model="m", cloud="azure", format="openai-chat", base_url=azure.url, upstream_model="m", auth="entra",
        timeout_s=10.0,
    )  # fmt: skip
    asked = Message(id="msg_1", role="user", content=(InputText(text="hello"),))
    request = ModelRequest(params=ModelParams(model="m"), items=[asked], key="s/1/1", stream=True)
    return TextDelta("hi") in [delta async for batch in client.call(place, request) for delta in batch]


async def test_a_managed_identitys_token_is_asked_for_once_and_sent_with_each_call(azure: Azure) -> None:
    client = HttpModelClient()
    assert await asyncio.gather(*(said(client, azure) for _ in range(3))) == [True] * 3
    await client.close()
    (grant,) = azure.grants
    assert grant["resource"] == ["https://cognitiveservices.azure.com"]
    assert azure.asked == [f"Bearer {SECRET}1"] * 3


async def test_a_refused_grant_is_the_operators_and_tells_no_secret(azure: Azure) -> None:
    azure.refuses = True
    client = HttpModelClient()
    with pytest.raises(ModelError) as caught:
        await said(client, azure)
    await client.close()
    assert (caught.value.code, caught.value.blame, caught.value.sent) == ("upstream_auth_failed", "operator", False)
    assert SECRET not in repr(caught.value) + caught.value.message
    assert azure.asked == []


def test_azure_identity_is_not_imported_before_it_is_needed() -> None:
    look = "import sys, stateline.wiring, stateline.models.clouds.azure; sys.exit('azure.identity' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
