"""OpenAI's Embeddings, and the many servers that speak it.

The vectors are not looked into: they come as numbers or in base64, as the request says, and go on as they came.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stateline.core.calls import Finish, ModelDelta, ModelRequest, Usage
from stateline.models.formats.errors import ErrorBody, translate
from stateline.models.formats.openai_shared import malformed

__all__ = ["decode_response", "encode_request"]


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None


class _Answer(msgspec.Struct, gc=False):
    data: list[msgspec.Raw] | None = None
    model: str | None = None
    usage: _Usage | None = None
    error: ErrorBody | str | None = None


_answer = msgspec.json.Decoder(_Answer)


def encode_request(request: ModelRequest, upstream_model: str, origin: str) -> bytes:
    """The body of ``POST /embeddings``."""
    embed = request.embed
    assert embed is not None
    body: dict[str, Any] = {
        "model": upstream_model,
        "input": embed.input,
        "dimensions": embed.dimensions,
        "encoding_format": embed.encoding_format,
        "user": request.params.user,
    }
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def decode_response(body: bytes) -> list[ModelDelta]:
    """A Finish with the vectors.

    Raises:
        ModelError: ``malformed_response``, or what an error inside the answer says.
    """
    try:
        answer = _answer.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(str(error), code="malformed_response") from None
    if answer.error is not None:
        error = answer.error
        raise translate(None, ErrorBody(message=error) if isinstance(error, str) else error)
    if not answer.data:
        raise malformed("no vectors in it", code="malformed_response")
    usage = Usage(input_tokens=answer.usage.prompt_tokens or 0) if answer.usage else None
    vectors = msgspec.Raw(msgspec.json.encode(answer.data))
    return [Finish(reason="stop", usage=usage, upstream_model=answer.model, embeddings=vectors)]
