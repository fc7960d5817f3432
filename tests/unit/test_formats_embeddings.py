"""Embeddings of Google's and Bedrock's: bodies as their documentation has them, and vectors as OpenAI shows them."""

from __future__ import annotations

import base64
import importlib
import json
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import msgspec
import pytest
from google import genai
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.calls import EmbeddingParams, Finish, ModelParams, ModelRequest
from stateline.core.errors import BadRequest, ModelError
from stateline.models.formats import WireFormat, embedding_of
from stateline.models.formats.embeddings import encode_vector

Json = dict[str, Any]
GEMINI, PREDICTED = "gemini-embedding-001", "text-embedding-005"
TITAN, TITAN_V1 = "amazon.titan-embed-text-v2:0", "amazon.titan-embed-text-v1"
COHERE_V3, COHERE_V4 = "cohere.embed-multilingual-v3", "us.cohere.embed-v4:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"


def asked(
    given_input: Any, *, dimensions: int | None = None, encoding: Any = None, user: str | None = None, model: str = "m"
) -> ModelRequest:
    raw = msgspec.Raw(msgspec.json.encode(given_input))
    embed = EmbeddingParams(input=raw, dimensions=dimensions, encoding_format=encoding)
    return ModelRequest(params=ModelParams(model=model, user=user), items=(), key="", stream=False, embed=embed)


def wire(request: ModelRequest, model: str, *, vertex: bool = False) -> WireFormat:
    found = embedding_of(
        "gemini" if model in (GEMINI, PREDICTED) else "bedrock-converse", model, request, vertex=vertex
    )
    assert found is not None
    return found


def encoded(request: ModelRequest, model: str, *, vertex: bool = False) -> Json:
    return json.loads(wire(request, model, vertex=vertex).encode_request(request, model, "o"))


def decoded(request: ModelRequest, model: str, answer: Json | bytes, *, vertex: bool = False) -> Finish:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    (finish,) = wire(request, model, vertex=vertex).decode_response(body)
    assert isinstance(finish, Finish)
    return finish


def shown(finish: Finish) -> list[Json]:
    assert finish.embeddings is not None
    return json.loads(bytes(finish.embeddings))


EMPTY: Json = {}
BATCH = {"embeddings": [{"values": [0.5, -0.25]}, {"values": [1, 0.125]}]}
PREDICTIONS = {
    "predictions": [
        {"embeddings": {"statistics": {"truncated": False, "token_count": 6}, "values": [0.5, -0.25]}},
        {"embeddings": {"statistics": {"truncated": False, "token_count": 5.0}, "values": [1, 0.125]}},
    ],
    "metadata": {"billableCharacterCount": 11},
}
TITAN_ANSWER = {
    "embedding": [0.5, -0.25],
    "inputTextTokenCount": 7,
    "embeddingsByType": {"float": [0.5, -0.25]},
}
COHERE_BY_TYPE = {
    "embeddings": {"float": [[0.5, -0.25], [1, 0.125]]},
    "id": "8f5b",
    "response_type": "embeddings_by_type",
    "texts": ["a", "b"],
}
COHERE_FLOATS = {"embeddings": [[0.5, -0.25], [1, 0.125]], "id": "8f5b", "response_type": "embeddings_floats"}
TWO = [
    {"object": "embedding", "index": 0, "embedding": [0.5, -0.25]},
    {"object": "embedding", "index": 1, "embedding": [1.0, 0.125]},
]


def test_the_gemini_api_gets_a_batch_that_names_its_model_in_each_request() -> None:
    request = asked(["a", "b"], dimensions=768)
    said = {"model": "models/gemini-embedding-001", "outputDimensionality": 768}
    assert encoded(request, GEMINI) == {
        "requests": [{**said, "content": {"parts": [{"text": text}]}} for text in ("a", "b")]
    }
    assert wire(request, GEMINI).path == "/models/{model}:batchEmbedContents"


def test_vertex_gets_instances_and_parameters() -> None:
    assert encoded(asked(["a", "b"], dimensions=768), PREDICTED, vertex=True) == {
        "instances": [{"content": "a"}, {"content": "b"}],
        "parameters": {"outputDimensionality": 768},
    }
    assert encoded(asked("a"), PREDICTED, vertex=True) == {"instances": [{"content": "a"}]}
    assert wire(asked("a"), PREDICTED, vertex=True).path == "/models/{model}:predict"


def test_a_gemini_model_on_vertex_gets_a_batch_of_vertex() -> None:
    contents = [{"parts": [{"text": text}]} for text in ("a", "b")]
    assert encoded(asked(["a", "b"], dimensions=768), GEMINI, vertex=True) == {
        "requests": [{"content": each, "embedContentConfig": {"outputDimensionality": 768}} for each in contents]
    }
    assert encoded(asked(["a", "b"]), GEMINI, vertex=True) == {"requests": [{"content": each} for each in contents]}
    assert wire(asked("a"), GEMINI, vertex=True).path == "/models/{model}:batchEmbedContents"


def test_titan_gets_one_text_and_unit_length_where_it_can_be_asked_for() -> None:
    assert encoded(asked("a", dimensions=256), TITAN) == {"inputText": "a", "dimensions": 256, "normalize": True}
    assert encoded(asked(["a"]), TITAN_V1) == {"inputText": "a"}


def test_cohere_gets_documents_and_is_asked_for_floats() -> None:
    body = {"texts": ["a", "b"], "input_type": "search_document", "embedding_types": ["float"]}
    assert encoded(asked(["a", "b"]), COHERE_V3) == body
    assert encoded(asked(["a", "b"], dimensions=512), COHERE_V4) == {**body, "output_dimension": 512}


def test_the_family_behind_an_arn_is_said_by_the_clients_name() -> None:
    request = asked("a", model="titan-embed-text-v2", dimensions=512)
    assert encoded(request, ARN) == {"inputText": "a", "dimensions": 512, "normalize": True}
    assert embedding_of("bedrock-converse", ARN, asked("a"), vertex=False) is None
    assert embedding_of("anthropic-messages", TITAN, asked("a"), vertex=False) is None


@pytest.mark.parametrize(
    ("model", "vertex", "answer", "used"),
    [
        (GEMINI, False, {**BATCH, "usageMetadata": {"promptTokenCount": 11}}, 11),
        (GEMINI, False, BATCH, None),
        (GEMINI, True, BATCH, None),
        (PREDICTED, True, PREDICTIONS, 11),
        (COHERE_V3, False, COHERE_BY_TYPE, None),
        (COHERE_V4, False, COHERE_FLOATS, None),
    ],
)
def test_the_vectors_come_in_the_order_of_the_texts(model: str, vertex: bool, answer: Json, used: int | None) -> None:
    finish = decoded(asked(["a", "b"]), model, answer, vertex=vertex)
    assert shown(finish) == TWO
    assert (finish.usage.input_tokens if finish.usage else None) == used


def test_titans_vector_comes_with_its_usage() -> None:
    finish = decoded(asked("a"), TITAN, TITAN_ANSWER)
    assert shown(finish) == TWO[:1]
    assert finish.usage is not None
    assert finish.usage.input_tokens == 7


def test_base64_is_packed_here_where_the_provider_gives_floats() -> None:
    found = shown(decoded(asked(["a", "b"], encoding="base64"), COHERE_V3, COHERE_BY_TYPE))
    assert found[0]["embedding"] == base64.b64encode(b"\x00\x00\x00\x3f\x00\x00\x80\xbe").decode()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_base64_gives_every_float32_back(values: list[float]) -> None:
    raw = base64.b64decode(encode_vector(values))
    assert [each[0] for each in struct.iter_unpack("<f", raw)] == values


@given(st.lists(st.floats(allow_nan=False, min_value=-3e38, max_value=3e38), min_size=1))
def test_base64_gives_every_number_back_as_near_as_float32_has_it(values: list[float]) -> None:
    raw = base64.b64decode(encode_vector(values))
    assert [each[0] for each in struct.iter_unpack("<f", raw)] == pytest.approx(values, rel=1e-7, abs=1e-44)


@pytest.mark.parametrize(
    ("model", "vertex", "request_", "param"),
    [
        *(
            (model, vertex, asked([1, 2]), "input")
            for model, vertex in ((GEMINI, False), (GEMINI, True), (PREDICTED, True))
        ),
        *((model, False, asked([[1], [2]]), "input") for model in (TITAN, COHERE_V3)),
        (TITAN, False, asked(["a", "b"]), "input"),
        (TITAN_V1, False, asked("a", dimensions=256), "dimensions"),
        (COHERE_V3, False, asked("a", dimensions=256), "dimensions"),
        *((model, False, asked("a", user="u"), "user") for model in (GEMINI, TITAN, COHERE_V3)),
    ],
)
def test_what_a_provider_has_no_place_for_is_refused_by_name(
    model: str, vertex: bool, request_: ModelRequest, param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        encoded(request_, model, vertex=vertex)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("model", "vertex", "answer"),
    [
        (GEMINI, False, b"no"),
        (GEMINI, False, EMPTY),
        (GEMINI, False, {"embeddings": [EMPTY, {"values": [1]}]}),
        (GEMINI, False, {"embeddings": [{"values": [1]}]}),
        (PREDICTED, True, b"no"),
        (PREDICTED, True, {"predictions": [EMPTY]}),
        (TITAN, False, {"embedding": "x"}),
        (TITAN, False, TITAN_ANSWER),
        (COHERE_V3, False, EMPTY),
        (COHERE_V3, False, {"embeddings": {"int8": [[1]]}}),
        (COHERE_V3, False, {"embeddings": [[1e300], [1]]}),
    ],
)
def test_an_answer_without_a_vector_for_each_text_is_malformed(model: str, vertex: bool, answer: Json | bytes) -> None:
    with pytest.raises(ModelError) as caught:
        decoded(asked(["a", "b"], encoding="base64"), model, answer, vertex=vertex)
    assert (caught.value.code, caught.value.retryable) == ("malformed_response", True)


def test_a_stream_of_vectors_is_malformed() -> None:
    decoder = wire(asked("a"), GEMINI).stream_decoder()
    for read in (lambda: decoder.feed(b"x"), decoder.eof):
        with pytest.raises(ModelError, match="malformed"):
            read()


@contextmanager
def recorder(answer: Json) -> Generator[tuple[str, list[tuple[str, Json]]]]:
    """A server that gives one answer, and what it was asked."""
    seen: list[tuple[str, Json]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, json.loads(raw)))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("model", "vertex", "answer"), [(GEMINI, False, BATCH), (GEMINI, True, BATCH), (PREDICTED, True, PREDICTIONS)]
)
def test_googles_own_sdk_asks_the_same_and_reads_the_same(model: str, vertex: bool, answer: Json) -> None:
    with recorder(answer) as (url, seen):
        client = genai.Client(vertexai=vertex, api_key="k", http_options={"base_url": url})
        models: Any = client.models
        found = models.embed_content(model=model, contents=["a", "b"], config={"output_dimensionality": 2})
        client.close()
    request = asked(["a", "b"], dimensions=2)
    ((path, body),) = seen
    for each in body.get("requests", []):
        # The SDK says to the Gemini API whose words they are, which it need not be told.
        each["content"].pop("role", None)
    assert body == encoded(request, model, vertex=vertex)
    assert path.endswith(wire(request, model, vertex=vertex).path.replace("{model}", model))
    ours = [each["embedding"] for each in shown(decoded(request, model, answer, vertex=vertex))]
    assert [each.values for each in found.embeddings or ()] == ours


def test_botocore_invokes_a_model_at_the_same_path() -> None:
    service: Any = importlib.import_module("botocore.session").get_session().get_service_model("bedrock-runtime")
    operation = service.operation_model("InvokeModel")
    assert operation.http["requestUri"] == wire(asked("a"), TITAN).path.replace("{model}", "{modelId}")
    shape = operation.input_shape
    body = wire(asked("a"), TITAN).encode_request(asked("a"), TITAN, "o")
    validator: Any = importlib.import_module("botocore.validate").ParamValidator()
    report = validator.validate({"modelId": TITAN, "body": body}, shape)
    assert not report.has_errors(), report.generate_report()
