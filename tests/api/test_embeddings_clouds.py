"""Vectors of Google's and Bedrock's through the real server: the official SDK in front, a small provider behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from tests.api.test_bedrock import ACCESS_KEY, ENVIRONMENT
from tests.crash.harness import Server, free_port

Json = dict[str, Any]
VECTORS = [[0.5, -0.25], [1.0, 0.125]]
DEPLOYMENTS = (
    ("gemini", "google", "gemini-embedding-001", "/v1beta", 'auth = "none"'),
    ("vertex", "google", "text-embedding-005", "/v1/projects/p", 'auth = "none"\nregion = "europe-west4"'),
    ("titan", "aws", "amazon.titan-embed-text-v2:0", "", 'region = "us-east-1"'),
    ("cohere", "aws", "cohere.embed-v4:0", "", 'region = "us-east-1"'),
)
PUBLISHED = "/v1/projects/p/locations/europe-west4/publishers/google/models"
PATHS = {
    "gemini": "/v1beta/models/gemini-embedding-001:batchEmbedContents",
    "vertex": f"{PUBLISHED}/text-embedding-005:predict",
    "titan": "/model/amazon.titan-embed-text-v2:0/invoke",
    "cohere": "/model/cohere.embed-v4:0/invoke",
}


class Provider:
    """Answers at the four paths, and keeps what it was asked; a text ``fail`` is refused for its quota."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Json, dict[str, str]]] = []

    async def answer(self, request: web.Request) -> web.Response:
        body: Json = await request.json()
        self.seen.append((request.path, body, {name.lower(): value for name, value in request.headers.items()}))
        name = next((name for name, path in PATHS.items() if path == request.path), "")
        if '"fail"' in await request.text():
            if name in ("titan", "cohere"):
                headers = {"x-amzn-errortype": "ValidationException"}
                return web.json_response({"message": "too long"}, status=400, headers=headers)
            error = {"code": 400, "message": "too long", "status": "INVALID_ARGUMENT"}
            return web.json_response({"error": error}, status=400)
        if name == "gemini":
            shown = [{"values": each} for each in VECTORS[: len(body["requests"])]]
            return web.json_response({"embeddings": shown, "usageMetadata": {"promptTokenCount": 9}})
        if name == "vertex":
            found = [{"values": each, "statistics": {"token_count": 4, "truncated": False}} for each in VECTORS]
            return web.json_response({"predictions": [{"embeddings": each} for each in found]})
        if name == "titan":
            return web.json_response({"embedding": VECTORS[0], "inputTextTokenCount": 3})
        if name == "cohere":
            headers = {} if "uncounted" in body["texts"] else {"X-Amzn-Bedrock-Input-Token-Count": "8"}
            return web.json_response({"embeddings": {"float": VECTORS}, "id": "x"}, headers=headers)
        return web.json_response({"message": "no such path"}, status=404)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[tuple[Server, Provider]]:
    provider = Provider()
    app = web.Application()
    app.router.add_post("/{path:.*}", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    url = f"http://127.0.0.1:{port}"
    settings = "".join(
        f'[[deployments]]\nname = "{name}"\nmodel = "{name}"\ncloud = "{cloud}"\nupstream_model = "{model}"\n'
        f'base_url = "{url}{path}"\n{more}\n\n'
        for name, cloud, model, path, more in DEPLOYMENTS
    )
    server = Server(tmp_path, f"{url}/v1", settings=settings, environment=ENVIRONMENT)
    try:
        await server.start()
        yield server, provider
    finally:
        await server.close()
        await runner.cleanup()


@pytest.mark.parametrize(("name", "used", "signed"), [("gemini", 9, False), ("vertex", 8, False), ("cohere", 8, True)])
async def test_the_sdk_gets_the_vectors_of_its_texts(
    served: tuple[Server, Provider], name: str, used: int, signed: bool
) -> None:
    server, provider = served
    async with server.client(max_retries=0) as client:
        # The SDK asks for base64 by itself, and unpacks it.
        packed = await client.embeddings.create(model=name, input=["one", "two"], dimensions=256)
        plain = await client.embeddings.create(model=name, input=["one", "two"], encoding_format="float")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model=name, input=[[1, 2], [3]])
        with pytest.raises(openai.BadRequestError) as failed:
            await client.embeddings.create(model=name, input=["fail"])
    for found in (packed, plain):
        assert [(each.index, each.embedding) for each in found.data] == list(enumerate(VECTORS))
        assert (found.usage.prompt_tokens, found.usage.total_tokens, found.model) == (used, used, name)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "input")
    assert "too long" in str(failed.value)
    assert [path for path, _, _ in provider.seen] == [PATHS[name]] * 3
    authorization = provider.seen[0][2].get("authorization", "")
    assert authorization.startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/") is signed


async def test_an_answer_that_does_not_say_its_tokens_has_none(served: tuple[Server, Provider]) -> None:
    async with served[0].client(max_retries=0) as client:
        found = await client.embeddings.create(model="cohere", input=["uncounted", "two"])
    assert (len(found.data), found.usage.prompt_tokens) == (2, 0)


async def test_titan_gets_one_text_and_more_are_refused_by_name(served: tuple[Server, Provider]) -> None:
    server, provider = served
    async with server.client(max_retries=0) as client:
        found = await client.embeddings.create(model="titan", input="one", dimensions=256)
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="titan", input=["one", "two"])
    assert (found.data[0].embedding, found.usage.prompt_tokens) == (VECTORS[0], 3)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "input")
    ((path, body, headers),) = provider.seen
    assert (path, body) == (PATHS["titan"], {"inputText": "one", "normalize": True, "dimensions": 256})
    assert headers["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/")
