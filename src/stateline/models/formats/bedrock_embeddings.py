"""Text embeddings by Bedrock's InvokeModel: Amazon's Titan and Cohere's Embed, each with bodies of its own.

Source: Amazon Bedrock User Guide, "Amazon Titan Embeddings Text", "Cohere Embed v3" and "Cohere Embed v4".
"""

from __future__ import annotations

from typing import Any

import msgspec

from stateline.core.calls import EmbeddingParams, ModelDelta, ModelRequest
from stateline.models.formats.embeddings import embed_of, finish_of, texts_of
from stateline.models.formats.openai_shared import malformed, refused

TITAN, COHERE = "Titan Text Embeddings", "Cohere Embed"
TOKENS_HEADER = b"x-amzn-bedrock-input-token-count"
"""Where Bedrock says what an input came to; in Cohere's bodies it is nowhere."""
_TITAN_V2, _COHERE_V4 = "titan-embed-text-v2", "cohere.embed-v4"
_FAMILIES = (("titan-embed-text-", "titan"), ("cohere.embed-", "cohere"))


class _Titan(msgspec.Struct, gc=False):
    embedding: list[float] = []
    inputTextTokenCount: int | None = None


class _ByType(msgspec.Struct, gc=False):
    floats: list[list[float]] = msgspec.field(default_factory=list, name="float")


class _Cohere(msgspec.Struct, gc=False):
    """By type where types were asked for; v4 may leave the type out where there is one."""

    embeddings: _ByType | list[list[float]]


_titan = msgspec.json.Decoder(_Titan)
_cohere = msgspec.json.Decoder(_Cohere)


def family_of(upstream_model: str, model: str) -> str | None:
    """``titan`` or ``cohere``, by the upstream's name, or by the client's where that is an ARN that does not say it."""
    for name in (upstream_model, model):
        for sign, family in _FAMILIES:
            if sign in name:
                return family
    return None


def _says(sign: str, upstream_model: str, request: ModelRequest) -> bool:
    named = upstream_model if family_of(upstream_model, "") else request.params.model
    return sign in named


def encode_titan(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """Titan's body, for one text. Vectors of v2 have unit length, as OpenAI's do; v1 takes the text alone.

    Raises:
        BadRequest: ``unsupported_parameter``: tokens, more than one text, a ``user``, or dimensions of v1.
    """
    del origin
    embed = embed_of(request, TITAN)
    texts = texts_of(embed, TITAN)
    if len(texts) > 1:
        raise refused("input", "More than one text a call", TITAN)
    body: dict[str, Any] = {"inputText": texts[0]}
    if _says(_TITAN_V2, upstream_model, request):
        body["normalize"] = True
        if embed.dimensions is not None:
            body["dimensions"] = embed.dimensions
    elif embed.dimensions is not None:
        raise refused("dimensions", "A number of dimensions", f"{TITAN} G1")
    return msgspec.json.encode(body)


def decode_titan(embed: EmbeddingParams, body: bytes) -> list[ModelDelta]:
    """A Finish with the vector and its usage.

    Raises:
        ModelError: ``malformed_response``.
    """
    try:
        answer = _titan.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(str(error), code="malformed_response") from None
    return finish_of([answer.embedding], embed, answer.inputTextTokenCount)


def encode_cohere(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """Cohere's body. Texts are documents: OpenAI's API does not say what a vector is for.

    Raises:
        BadRequest: ``unsupported_parameter``: tokens, a ``user``, or dimensions before v4.
    """
    del origin
    embed = embed_of(request, COHERE)
    body: dict[str, Any] = {
        "texts": texts_of(embed, COHERE),
        "input_type": "search_document",
        "embedding_types": ["float"],
    }
    if embed.dimensions is not None:
        if not _says(_COHERE_V4, upstream_model, request):
            raise refused("dimensions", "A number of dimensions", f"{COHERE} v3")
        body["output_dimension"] = embed.dimensions
    return msgspec.json.encode(body)


def decode_cohere(embed: EmbeddingParams, body: bytes) -> list[ModelDelta]:
    """A Finish with the vectors, without usage.

    Raises:
        ModelError: ``malformed_response``.
    """
    try:
        found = _cohere.decode(body).embeddings
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(str(error), code="malformed_response") from None
    return finish_of(found if isinstance(found, list) else found.floats, embed, None)
