"""``/v1/embeddings``: the stateless plane. Nothing of it is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from stateline.api.auth import require_agent
from stateline.api.call import Call, WhileConnected
from stateline.api.params import Body, ModelName, UserId
from stateline.api.parse import decode_exact
from stateline.api.rates import show_rates
from stateline.api.service import Service
from stateline.core.calls import EmbeddingParams, Finish, ModelParams, ModelRequest
from stateline.core.errors import BadRequest
from stateline.core.limits import EMBEDDING_DIMENSIONS_MAX, EMBEDDING_INPUTS_MAX

_Texts = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=EMBEDDING_INPUTS_MAX)]
_Tokens = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1, max_length=EMBEDDING_INPUTS_MAX)]
_Lists = Annotated[list[_Tokens], Meta(min_length=1, max_length=EMBEDDING_INPUTS_MAX)]
_SHAPES = tuple(msgspec.json.Decoder(shape) for shape in (Annotated[str, Meta(min_length=1)], _Texts, _Tokens, _Lists))


class CreateEmbedding(Body, frozen=True, kw_only=True):
    """``POST /v1/embeddings``. ``input``: a text, texts, tokens, or lists of tokens."""

    model: ModelName
    input: msgspec.Raw
    dimensions: Annotated[int, Meta(ge=1, le=EMBEDDING_DIMENSIONS_MAX)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: UserId | None = None


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """``data``: OpenAI's embedding objects, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: Any
    model: str
    usage: EmbeddingUsage


_decoder = msgspec.json.Decoder(CreateEmbedding)


async def create(service: Service, call: Call) -> None:
    """Vectors of what was given; a call that fails goes to the model's next deployment."""
    params = decode_exact(_decoder, await call.body())
    _check_input(params.input)
    request = ModelRequest(
        params=ModelParams(model=params.model, user=params.user),
        items=(),
        key="",
        stream=False,
        embed=EmbeddingParams(input=params.input, dimensions=params.dimensions, encoding_format=params.encoding_format),
    )
    require_agent(call.principal, params.model)
    show_rates(service, call, params.model)
    finish: Finish | None = None
    async with WhileConnected(call):
        tenant, who, trace = call.tenant, call.principal.id, call.traceparent()
        batches = service.engine.relay(tenant, who, request, "embeddings", traceparent=trace)
        async for deltas in batches:
            finish = next((delta for delta in deltas if isinstance(delta, Finish)), finish)
    if finish is None:
        return  # The client is gone.
    used = finish.usage.input_tokens if finish.usage is not None else 0
    answer = EmbeddingList(data=finish.embeddings, model=params.model, usage=EmbeddingUsage(used, used))
    await call.reply_json(answer)


def _check_input(raw: msgspec.Raw) -> None:
    for shape in _SHAPES:
        try:
            shape.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError):
            continue
        return
    raise BadRequest(
        f"'input' is a text, or a list of 1 to {EMBEDDING_INPUTS_MAX} texts, of tokens, or of lists of tokens; "
        "none of them empty.",
        code="invalid_value",
        param="input",
    )
