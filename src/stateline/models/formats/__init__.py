"""Wire formats: pure codecs between neutral values and a provider's bytes, one file a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from stateline.core.calls import ModelDelta, ModelRequest
from stateline.core.errors import ModelError
from stateline.models.formats import (
    anthropic_invoke,
    anthropic_messages,
    bedrock_converse,
    bedrock_embeddings,
    gemini,
    gemini_embeddings,
    openai_chat,
    openai_embeddings,
    openai_responses,
)
from stateline.models.formats.embeddings import NoStream
from stateline.models.formats.errors import decode_error


class Decoder(Protocol):
    """Decodes one stream, fed in pieces of any size; ``done`` once the Finish was given."""

    done: bool

    def feed(self, data: bytes) -> list[ModelDelta]: ...

    def eof(self) -> list[ModelDelta]: ...


class WireFormat(NamedTuple):
    """A wire format: its path below the base URL, and its codecs.

    Attributes:
        path: ``{model}`` in it stands for the deployment's upstream model, quoted.
        stream_path: where streams are asked at another one; else empty.
        stream_type: the content type of a stream.
        tokens_header: the header of an answer that says its input tokens, where the body may not; else empty.
        streams_json: whether a stream may come as JSON too, which its decoder then knows by its first byte.
    """

    path: str
    encode_request: Callable[[ModelRequest, str, str], bytes]
    decode_response: Callable[[bytes], list[ModelDelta]]
    stream_decoder: Callable[[], Decoder]
    decode_error: Callable[[int, Mapping[str, str], bytes], ModelError]
    stream_path: str = ""
    stream_type: str = "text/event-stream"
    streams_json: bool = False
    tokens_header: bytes = b""


FORMATS: dict[str, WireFormat] = {
    "openai-chat": WireFormat(
        "/chat/completions",
        openai_chat.encode_request,
        openai_chat.decode_response,
        openai_chat.StreamDecoder,
        decode_error,
    ),
    "openai-responses": WireFormat(
        "/responses",
        openai_responses.encode_request,
        openai_responses.decode_response,
        openai_responses.StreamDecoder,
        decode_error,
    ),
    "anthropic-messages": WireFormat(
        "/messages",
        anthropic_messages.encode_request,
        anthropic_messages.decode_response,
        anthropic_messages.StreamDecoder,
        decode_error,
    ),
    "bedrock-converse": WireFormat(
        "/model/{model}/converse",
        bedrock_converse.encode_request,
        bedrock_converse.decode_response,
        bedrock_converse.StreamDecoder,
        bedrock_converse.decode_error,
        stream_path="/model/{model}/converse-stream",
        stream_type="application/vnd.amazon.eventstream",
    ),
    "gemini": WireFormat(
        "/models/{model}:generateContent",
        gemini.encode_request,
        gemini.decode_response,
        gemini.StreamDecoder,
        gemini.decode_error,
        stream_path="/models/{model}:streamGenerateContent?alt=sse",
        streams_json=True,
    ),
}
"""By the name that a deployment's ``format`` has."""

_OF_CLOUDS: dict[tuple[str, str], WireFormat] = {
    ("anthropic-messages", "google"): FORMATS["anthropic-messages"]._replace(
        path="/models/{model}:rawPredict", stream_path="/models/{model}:streamRawPredict"
    ),
    ("anthropic-messages", "aws"): WireFormat(
        "/model/{model}/invoke",
        anthropic_messages.encode_request,
        anthropic_messages.decode_response,
        anthropic_invoke.StreamDecoder,
        anthropic_invoke.decode_error,
        stream_path="/model/{model}/invoke-with-response-stream",
        stream_type="application/vnd.amazon.eventstream",
    ),
}
"""Formats that a cloud places or frames in its own way, by format and cloud."""


EMBEDDINGS = WireFormat(
    "/embeddings",
    openai_embeddings.encode_request,
    openai_embeddings.decode_response,
    NoStream,
    decode_error,
)
"""Vectors, which are asked for in OpenAI's way wherever its formats are spoken."""


def embedding_of(wire_format: str, upstream_model: str, request: ModelRequest, *, vertex: bool) -> WireFormat | None:
    """How vectors are asked for where a format is spoken; None where they are not.

    ``request`` is one for vectors, and the answer is decoded as it wants them. ``vertex``: the format is
    spoken at Vertex AI.
    """
    if wire_format.startswith("openai-"):
        return EMBEDDINGS
    embed = request.embed
    assert embed is not None
    if wire_format == "gemini":
        if vertex and gemini_embeddings.predicts(upstream_model):
            decode = partial(gemini_embeddings.decode_predict, embed)
            encode = gemini_embeddings.encode_predict
            return WireFormat("/models/{model}:predict", encode, decode, NoStream, gemini.decode_error)
        decode = partial(gemini_embeddings.decode_batch, embed)
        encode = gemini_embeddings.encode_vertex_batch if vertex else gemini_embeddings.encode_batch
        return WireFormat("/models/{model}:batchEmbedContents", encode, decode, NoStream, gemini.decode_error)
    family = bedrock_embeddings.family_of(upstream_model, request.params.model)
    if wire_format != "bedrock-converse" or family is None:
        return None
    encode, decode = (
        (bedrock_embeddings.encode_titan, bedrock_embeddings.decode_titan)
        if family == "titan"
        else (bedrock_embeddings.encode_cohere, bedrock_embeddings.decode_cohere)
    )
    return WireFormat(
        "/model/{model}/invoke",
        encode,
        partial(decode, embed),
        NoStream,
        bedrock_converse.decode_error,
        tokens_header=bedrock_embeddings.TOKENS_HEADER,
    )


def wire_of(wire_format: str, cloud: str) -> WireFormat | None:
    """How a format is spoken at a cloud; None for a format that there is not."""
    return _OF_CLOUDS.get((wire_format, cloud)) or FORMATS.get(wire_format)
