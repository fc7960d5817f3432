"""Google's text embeddings: ``batchEmbedContents`` of the Gemini API, and two methods of Vertex AI.

Vertex has ``predict`` for the older models, and a ``batchEmbedContents`` of its own for those named Gemini, which
``predict`` takes one text of, or none at all. Google's SDK (google-genai 3.6) makes the same difference by the name.

Source: https://ai.google.dev/api/embeddings#method:-models.batchembedcontents and
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stateline.core.calls import EmbeddingParams, ModelDelta, ModelRequest
from stateline.models.formats.embeddings import embed_of, finish_of, texts_of
from stateline.models.formats.openai_shared import malformed

GEMINI, VERTEX = "Gemini embeddings", "Vertex AI embeddings"


class _Usage(msgspec.Struct, gc=False):
    promptTokenCount: int | None = None


class _Vector(msgspec.Struct, gc=False):
    values: list[float] = []


class _Batch(msgspec.Struct, gc=False):
    embeddings: list[_Vector] = []
    usageMetadata: _Usage | None = None


class _Statistics(msgspec.Struct, gc=False):
    """Google's own SDK reads the count as a float."""

    token_count: float | None = None


class _Counted(msgspec.Struct, gc=False):
    values: list[float] = []
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct, gc=False):
    embeddings: _Counted


class _Predictions(msgspec.Struct, gc=False):
    predictions: list[_Prediction] = []


_batch = msgspec.json.Decoder(_Batch)
_predictions = msgspec.json.Decoder(_Predictions)


def encode_batch(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of ``models/{model}:batchEmbedContents``.

    Raises:
        BadRequest: ``unsupported_parameter``: tokens, or a ``user``.
    """
    del origin
    embed = embed_of(request, GEMINI)
    shared: dict[str, Any] = {"model": f"models/{upstream_model}"}
    if embed.dimensions is not None:
        shared["outputDimensionality"] = embed.dimensions
    asked = [{**shared, "content": {"parts": [{"text": text}]}} for text in texts_of(embed, GEMINI)]
    return msgspec.json.encode({"requests": asked})


def decode_batch(embed: EmbeddingParams, body: bytes) -> list[ModelDelta]:
    """A Finish with the vectors; with usage where the answer has it.

    Raises:
        ModelError: ``malformed_response``.
    """
    try:
        answer = _batch.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(str(error), code="malformed_response") from None
    used = answer.usageMetadata.promptTokenCount if answer.usageMetadata is not None else None
    return finish_of([each.values for each in answer.embeddings], embed, used)


def predicts(upstream_model: str) -> bool:
    """Whether a model on Vertex is asked by ``predict``."""
    return "gemini" not in upstream_model


def encode_vertex_batch(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of Vertex's ``publishers/google/models/{model}:batchEmbedContents``.

    Raises:
        BadRequest: ``unsupported_parameter``: tokens, or a ``user``.
    """
    del upstream_model, origin
    embed = embed_of(request, VERTEX)
    shared = {} if embed.dimensions is None else {"embedContentConfig": {"outputDimensionality": embed.dimensions}}
    asked = [{"content": {"parts": [{"text": text}]}, **shared} for text in texts_of(embed, VERTEX)]
    return msgspec.json.encode({"requests": asked})


def encode_predict(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of ``publishers/google/models/{model}:predict``; the model is in the path alone.

    Raises:
        BadRequest: ``unsupported_parameter``: tokens, or a ``user``.
    """
    del upstream_model, origin
    embed = embed_of(request, VERTEX)
    body: dict[str, Any] = {"instances": [{"content": text} for text in texts_of(embed, VERTEX)]}
    if embed.dimensions is not None:
        body["parameters"] = {"outputDimensionality": embed.dimensions}
    return msgspec.json.encode(body)


def decode_predict(embed: EmbeddingParams, body: bytes) -> list[ModelDelta]:
    """A Finish with the vectors; its usage is the sum of what the texts came to.

    Raises:
        ModelError: ``malformed_response``.
    """
    try:
        found = [each.embeddings for each in _predictions.decode(body).predictions]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(str(error), code="malformed_response") from None
    counts = [each.statistics.token_count for each in found if each.statistics is not None]
    known = [count for count in counts if count is not None]
    return finish_of([each.values for each in found], embed, int(sum(known)) if known else None)
