"""Vectors, for the official SDK: over a model in process, and over HTTP with a deployment that fails."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.api.conftest import MODEL, Served
from tests.api.http import Client
from tests.crash.harness import Server

from stateline.core.limits import EMBEDDING_INPUTS_MAX
from stateline.testing import ScriptedUpstream
from stateline.testing.scripted import embeddings_of


@pytest.mark.parametrize("given", ["a text", ["two", "texts"], [1, 2, 3], [[1, 2], [3]]])
def test_the_sdk_gets_the_vectors_of_its_input(client: openai.OpenAI, given: Any) -> None:
    found = client.embeddings.create(model=MODEL, input=given)
    expected, used = embeddings_of(given, None, None)
    assert [each.embedding for each in found.data] == [pytest.approx(each["embedding"], abs=1e-6) for each in expected]
    assert (found.usage.prompt_tokens, found.usage.total_tokens, found.model) == (used, used, MODEL)


def test_the_number_of_dimensions_and_the_encoding_are_the_callers(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model=MODEL, input="x", dimensions=3, encoding_format="float")
    assert len(found.data[0].embedding) == 3


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"input": ""}, 400, "invalid_value", "input"),
        ({"input": []}, 400, "invalid_value", "input"),
        ({"input": ["a", 1]}, 400, "invalid_value", "input"),
        ({"input": [-1]}, 400, "invalid_value", "input"),
        ({"input": {"a": 1}}, 400, "invalid_value", "input"),
        ({"input": [1] * (EMBEDDING_INPUTS_MAX + 1)}, 400, "invalid_value", "input"),
        ({}, 400, "missing_required_parameter", "input"),
        ({"input": "x", "dimensions": 0}, 400, "integer_below_min_value", "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, 400, "invalid_value", "encoding_format"),
        ({"input": "x", "colour": 1}, 400, "unknown_parameter", "colour"),
        ({"input": "x", "model": "nobody"}, 404, "model_not_found", "model"),
    ],
)
def test_bad_input_is_named(server: Served, fields: dict[str, Any], status: int, code: str, param: str) -> None:
    with closing(Client(server.port)) as http:
        reply = http("POST", "/v1/embeddings", {"model": MODEL, **fields})
    error = reply.error
    assert (reply.status, error["code"], error["param"]) == (status, code, param)


async def test_a_deployment_that_fails_or_has_no_vectors_is_passed_over(tmp_path: Path) -> None:
    async with ScriptedUpstream() as url:
        more = "".join(
            f'[[deployments]]\nname = "{name}"\nmodel = "vectors"\ncloud = "{cloud}"\nformat = "{form}"\n'
            f'base_url = "{base}"\nauth = "none"\npriority = {at}\n\n'
            for at, (name, cloud, form, base) in enumerate(
                [
                    ("claude", "anthropic", "anthropic-messages", url),
                    ("away", "openai-compatible", "openai-chat", "http://127.0.0.1:9/v1"),
                    ("there", "openai-compatible", "openai-chat", url),
                ]
            )
        )
        server = Server(tmp_path, url, settings=more)
        try:
            await server.start()
            async with server.client() as client:
                found = await client.embeddings.create(model="vectors", input=["one", "two"])
            assert [each.index for each in found.data] == [0, 1]
        finally:
            await server.close()
