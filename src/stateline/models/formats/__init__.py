"""Wire formats: pure codecs between neutral values and a provider's bytes, one file a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from stateline.core.calls import ModelDelta, ModelRequest
from stateline.core.errors import ModelError
from stateline.models.formats import anthropic_messages, openai_chat, openai_responses
from stateline.models.formats.errors import decode_error


class Decoder(Protocol):
    """Decodes one stream, fed in pieces of any size; ``done`` once the Finish was given."""

    done: bool

    def feed(self, data: bytes) -> list[ModelDelta]: ...

    def eof(self) -> list[ModelDelta]: ...


class WireFormat(NamedTuple):
    """A wire format: its path below the base URL, and its codecs."""

    path: str
    encode_request: Callable[[ModelRequest, str, str], bytes]
    decode_response: Callable[[bytes], list[ModelDelta]]
    stream_decoder: Callable[[], Decoder]
    decode_error: Callable[[int, Mapping[str, str], bytes], ModelError]


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
}
"""By the name that a deployment's ``format`` has."""
