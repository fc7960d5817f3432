"""What the embeddings of several providers share: which texts are asked for, and the vectors as OpenAI shows them."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import msgspec

from stateline.core.calls import EmbeddingParams, Finish, ModelDelta, ModelRequest, Usage
from stateline.core.errors import ModelError
from stateline.models.formats.openai_shared import malformed, refused

_texts = msgspec.json.Decoder(str | list[str])


class NoStream:
    """Of vectors there is no stream; a server that sends one does not speak the format."""

    done = False

    def feed(self, data: bytes) -> list[ModelDelta]:
        raise _no_stream()

    def eof(self) -> list[ModelDelta]:
        raise _no_stream()


def _no_stream() -> ModelError:
    return malformed("a stream where vectors were asked for", code="malformed_response")


def texts_of(embed: EmbeddingParams, wire: str) -> list[str]:
    """The texts to make vectors of.

    Raises:
        BadRequest: ``unsupported_parameter``, ``input`` is tokens, which mean something to one model only.
    """
    try:
        given = _texts.decode(embed.input)
    except msgspec.ValidationError:
        raise refused("input", "Tokens", wire) from None
    return [given] if isinstance(given, str) else given


def embed_of(request: ModelRequest, wire: str) -> EmbeddingParams:
    """What a request for vectors asks for, of a provider that takes no ``user``.

    Raises:
        BadRequest: ``unsupported_parameter``.
    """
    assert request.embed is not None
    if request.params.user:
        raise refused("user", "A user", wire)
    return request.embed


def encode_vector(values: Sequence[float]) -> str:
    """A vector as OpenAI's SDKs read ``base64``: float32, little endian.

    Raises:
        ModelError: ``malformed_response``, a number that float32 has no place for.
    """
    try:
        return b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    except OverflowError:
        raise malformed("a number in a vector is no float32", code="malformed_response") from None


def finish_of(vectors: Sequence[Sequence[float]], embed: EmbeddingParams, used_tokens: int | None) -> list[ModelDelta]:
    """A Finish with the provider's vectors, which are in the order of the texts.

    Raises:
        ModelError: ``malformed_response``, there is not one vector for each text.
    """
    wanted = len(texts_of(embed, "embeddings"))
    if len(vectors) != wanted or not all(vectors):
        raise malformed(f"{len(vectors)} vectors, some may be empty, for {wanted} texts", code="malformed_response")
    packed = embed.encoding_format == "base64"
    shown: list[dict[str, Any]] = [
        {"object": "embedding", "index": at, "embedding": encode_vector(values) if packed else values}
        for at, values in enumerate(vectors)
    ]
    usage = None if used_tokens is None else Usage(input_tokens=used_tokens)
    return [Finish(reason="stop", usage=usage, embeddings=msgspec.Raw(msgspec.json.encode(shown)))]
