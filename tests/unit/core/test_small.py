"""Token estimates and errors."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core import errors
from stateline.core.calls import EmbeddingParams, FunctionTool, JsonSchema, ModelParams, ModelRequest, TextConfig
from stateline.core.errors import BadRequest, Conflict, Forbidden, ModelError, NotFound, StatelineError, Unauthorized
from stateline.core.items import (
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    Message,
    ModelItem,
    OutputText,
    Sidecar,
)
from stateline.core.limits import IMAGE_TOKENS_MAX, ITEM_OVERHEAD_TOKENS, OVERHEAD_TOKENS
from stateline.core.tokens import BYTES_PER_TOKEN, IMAGE_TOKENS, ITEM_TOKENS, estimate_tokens, most_tokens


def estimate(*items: ModelItem, instructions: str | None = None, tools: tuple[FunctionTool, ...] = ()) -> int:
    params = ModelParams(model="m", instructions=instructions, tools=tools)
    return estimate_tokens(ModelRequest(params=params, items=items, key=""))


def said(text: str) -> Message:
    return Message(id="m", role="assistant", content=(OutputText(text=text),))


def test_nothing_takes_nothing() -> None:
    assert estimate() == 0


@given(st.text(max_size=200), st.text(max_size=200))
def test_more_text_takes_no_fewer_tokens(text: str, more: str) -> None:
    assert estimate(said(text)) <= estimate(said(text + more))
    assert estimate(said(text)) >= ITEM_TOKENS + len(text.encode()) // BYTES_PER_TOKEN
    assert estimate(instructions=text) <= estimate(instructions=text + more)


def test_an_inline_image_counts_as_an_image() -> None:
    image = InputImage(image_url="data:image/png;base64," + "A" * 1_000_000)
    assert estimate(Message(id="m", role="user", content=(image, image))) == ITEM_TOKENS + 2 * IMAGE_TOKENS
    assert estimate(FunctionCallOutput(id="o", call_id="c", output=(image,))) == ITEM_TOKENS + IMAGE_TOKENS


def test_files_calls_outputs_and_tools_count_by_their_bytes() -> None:
    text = "x" * 4_000
    for item in (
        Message(id="m", role="user", content=(InputFile(file_data=text),)),
        Message(id="m", role="user", content=(InputText(text=text),)),
        FunctionCall(id="f", call_id="c", name="f", arguments=text),
        FunctionCallOutput(id="o", call_id="c", output=text),
        FunctionCallOutput(id="o", call_id="c", output=(InputText(text=text),)),
    ):
        assert 1_000 <= estimate(item) <= 1_050
    assert 1_000 <= estimate(tools=(FunctionTool(name="f", description=text),)) <= 1_050
    assert estimate(Message(id="m", role="user", content=(InputFile(file_url="https://e.org"),))) == ITEM_TOKENS


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StatelineError)]


def made(kind: type[StatelineError]) -> StatelineError:
    return ModelError("what", retryable=True) if issubclass(kind, ModelError) else kind("what")


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_code_a_status_and_a_blame(kind: type[StatelineError]) -> None:
    error = made(kind)
    assert error.code == error.code.lower()
    assert error.code.replace("_", "").isalpha()
    assert error.message == str(error) == "what"
    assert (error.blame == "client") == (400 <= error.status < 500)
    assert (error.param, error.retry_after_s) == (None, None)


def test_an_error_keeps_what_it_is_told() -> None:
    error = BadRequest("no", code="unknown_model", param="model", status=422, retry_after_s=1.5)
    assert (error.code, error.param, error.status, error.retry_after_s) == ("unknown_model", "model", 422, 1.5)
    assert (BadRequest.code, BadRequest.status) == ("invalid_request", 400), "told to the instance alone"


def test_client_errors_can_be_told_apart_by_status() -> None:
    assert [kind("x").status for kind in (BadRequest, Unauthorized, Forbidden, NotFound, Conflict)] == [
        400,
        401,
        403,
        404,
        409,
    ]


def test_a_models_error_keeps_what_the_provider_said() -> None:
    error = ModelError(
        "busy", code="rate_limited", retryable=True, status=429, provider_status=529, provider_message="x", sent=False
    )
    assert (error.code, error.status, error.retryable) == ("rate_limited", 429, True)
    assert (error.provider_status, error.provider_message, error.sent) == (529, "x", False)


def test_an_estimate_counts_what_vectors_are_asked_of() -> None:
    embed = EmbeddingParams(input=msgspec.Raw(b'"' + b"x" * 400 + b'"'))
    request = ModelRequest(params=ModelParams(model="m"), items=(), key="k", embed=embed)
    assert estimate_tokens(request) >= 400 // BYTES_PER_TOKEN
    assert estimate_tokens(msgspec.structs.replace(request, embed=None)) == 0


# -- the most tokens that a request may take -------------------------------------------------------------


def most(*items: ModelItem, **fields: object) -> int:
    params = ModelParams(model="m", **fields)  # pyright: ignore[reportArgumentType]
    return most_tokens(ModelRequest(params=params, items=items, key="")) - OVERHEAD_TOKENS


@given(st.text(max_size=200))
def test_each_byte_of_a_text_may_be_a_token(text: str) -> None:
    assert most(said(text)) == ITEM_OVERHEAD_TOKENS + len(text.encode())
    assert most(instructions=text) == len(text.encode())


def test_everything_that_is_sent_counts_among_the_most_tokens() -> None:
    tool = FunctionTool(name="f", parameters={"type": "object"})
    assert most(tools=(tool,)) > len(msgspec.json.encode(tool))
    schema = JsonSchema(name="s", schema={"type": "object"})
    assert most(text=TextConfig(format=schema)) == len(msgspec.json.encode(schema))
    image = InputImage(image_url="data:image/png;base64,AAAA")
    file = InputFile(filename="a.txt", file_data="A" * 1_000)
    asked = Message(id="m", role="user", content=(image, file))
    assert most(asked) > ITEM_OVERHEAD_TOKENS + IMAGE_TOKENS_MAX + 1_000
    output = FunctionCallOutput(id="o", call_id="c", output=(image, InputText(text="x" * 10)))
    assert most(output) == ITEM_OVERHEAD_TOKENS + IMAGE_TOKENS_MAX + 10
    call = FunctionCall(id="f", call_id="c", name="f", arguments="{}")
    assert most(call) == ITEM_OVERHEAD_TOKENS + len(msgspec.json.encode(call))
    assert most(FunctionCallOutput(id="o", call_id="c", output="x" * 100)) > 100


def test_what_is_kept_beside_items_and_what_is_embedded_counts_among_the_most_tokens() -> None:
    params = ModelParams(model="m")
    sidecar = Sidecar(origin="o", data={"signature": "s" * 500})
    beside = ModelRequest(params=params, items=(), key="", sidecars={"m": sidecar})
    assert most_tokens(beside) > OVERHEAD_TOKENS + 500
    embed = EmbeddingParams(input=msgspec.Raw(b'"' + b"x" * 100 + b'"'))
    assert most_tokens(ModelRequest(params=params, items=(), key="", embed=embed)) == OVERHEAD_TOKENS + 102
