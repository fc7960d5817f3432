"""Anthropic's Messages: what is refused, what differs by cloud and model, and answers that break the format."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stateline.core.calls import (
    CallDelta,
    CallStart,
    Finish,
    FunctionTool,
    JsonObject,
    ModelDelta,
    ModelParams,
    ModelRequest,
    ReasoningConfig,
    RefusalDelta,
    SidecarDelta,
    TextConfig,
    TextDelta,
    Usage,
)
from stateline.core.errors import BadRequest, ModelError
from stateline.core.items import (
    Compaction,
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    InputVideo,
    Message,
    ModelItem,
    Reasoning,
    ReasoningText,
    Sidecar,
)
from stateline.models.clouds import CLOUDS
from stateline.models.formats.anthropic_messages import StreamDecoder, decode_response, encode_request
from stateline.models.formats.anthropic_messages_models import facts_of
from stateline.models.formats.errors import decode_error
from stateline.ports import Deployment

ORIGIN = "anthropic-messages/anthropic"
USER = Message(id="m", role="user", content=(InputText(text="hi"),))
TOOL = FunctionTool(name="f", parameters={"type": "object"})
CALL = FunctionCall(id="f", call_id="c", name="f", arguments="{}")
OUTPUT = FunctionCallOutput(id="o", call_id="c", output="x")


def _encode(*items: ModelItem, origin: str = ORIGIN, model: str = "claude-opus-4-8", **params: Any) -> dict[str, Any]:
    stream, sidecars = params.pop("stream", False), params.pop("sidecars", {})
    request = ModelRequest(
        params=ModelParams(model="m", **params), items=items or (USER,), key="k", stream=stream, sidecars=sidecars
    )
    return msgspec.json.decode(encode_request(request, model, origin))


# -- requests -----------------------------------------------------------------------------------------


def test_each_cloud_has_its_own_frame() -> None:
    rest = {"max_tokens": 32_000, "messages": [{"role": "user", "content": "hi"}]}
    direct = {"model": "claude-opus-4-8", "stream": True, **rest}
    assert _encode(stream=True) == direct
    assert _encode(stream=True, origin="anthropic-messages/azure") == direct
    vertex = {"anthropic_version": "vertex-2023-10-16", "stream": True, **rest}
    assert _encode(stream=True, origin="anthropic-messages/google") == vertex
    bedrock = {"anthropic_version": "bedrock-2023-05-31", **rest}
    assert _encode(stream=True, origin="anthropic-messages/aws") == bedrock


def _said(part: Any) -> Message:
    return Message(id="m", role="user", content=(part,))


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("seed", {"seed": 1}),
        ("presence_penalty", {"presence_penalty": 0.5}),
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("top_logprobs", {"logprobs": True}),
        ("temperature", {"temperature": 1.5}),
        ("service_tier", {"service_tier": "flex"}),
        ("text.verbosity", {"text": TextConfig(verbosity="low")}),
        ("text.format", {"text": TextConfig(format=JsonObject())}),
        ("max_output_tokens", {"max_output_tokens": 1024, "reasoning": ReasoningConfig(effort="low")}),
    ],
)
def test_what_the_format_cannot_carry_is_refused_by_its_name(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        _encode(model="claude-sonnet-4-5", **fields)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    "item",
    [
        Compaction(id="c", encrypted_content="x"),
        _said(InputVideo(video_url="https://x.test/v")),
        _said(InputImage(image_url=None)),
        _said(InputImage(image_url="data:image/tiff;base64,AAAA")),
        _said(InputImage(image_url="data:image/png,plain")),
        _said(InputFile(filename="x")),
        _said(InputFile(file_data="data:application/zip;base64,AAAA")),
        _said(InputFile(file_data="data:text/plain;base64,/w==")),
        Message(id="m", role="system", content=(InputImage(image_url="https://x.test/i"),)),
    ],
)
def test_items_that_the_format_cannot_carry_are_refused(item: ModelItem) -> None:
    with pytest.raises(BadRequest) as refused:
        _encode(item)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "input")


@pytest.mark.parametrize("part", [InputImage(image_url="https://x.test/i"), InputFile(file_url="https://x.test/f")])
def test_links_are_refused_where_the_cloud_follows_none(part: Any) -> None:
    assert _encode(_said(part))["messages"][0]["content"][0]["source"]["type"] == "url"
    for cloud in ("aws", "google"):
        with pytest.raises(BadRequest):
            _encode(_said(part), origin=f"anthropic-messages/{cloud}")


@pytest.mark.parametrize(
    ("model", "tokens", "adaptive", "xhigh"),
    [
        ("claude-3-haiku-20240307", 4096, False, False),
        ("claude-3-5-sonnet-20241022", 8192, False, False),
        ("claude-3-7-sonnet-latest", 32_000, False, False),
        ("claude-sonnet-4-20250514", 32_000, False, False),
        ("claude-sonnet-4@20250514", 32_000, False, False),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", 32_000, False, False),
        ("claude-opus-4-6", 32_000, True, False),
        ("eu.anthropic.claude-opus-4-8", 32_000, True, True),
        ("claude-sonnet-5", 32_000, True, True),
        ("somebody-elses", 32_000, True, True),
    ],
)
def test_a_models_name_says_what_it_takes(model: str, tokens: int, *, adaptive: bool, xhigh: bool) -> None:
    assert facts_of(model) == (tokens, adaptive, xhigh)


def test_thinking_is_asked_for_as_the_model_takes_it() -> None:
    high = ReasoningConfig(effort="xhigh", summary="auto")
    new = _encode(reasoning=high)
    assert (new["thinking"], new["output_config"]) == (
        {"type": "adaptive", "display": "summarized"},
        {"effort": "xhigh"},
    )
    assert _encode(reasoning=high, model="claude-opus-4-6")["output_config"] == {"effort": "max"}
    old = _encode(reasoning=high, model="claude-sonnet-4-5", max_output_tokens=8000)
    assert old["thinking"] == {"type": "enabled", "budget_tokens": 4000}
    assert _encode(reasoning=ReasoningConfig(effort="none"))["thinking"] == {"type": "disabled"}
    # Another model began the tool loop: one that takes budgets cannot think on from there.
    low = ReasoningConfig(effort="low")
    assert "thinking" not in _encode(USER, CALL, OUTPUT, model="claude-sonnet-4-5", reasoning=low)
    assert "thinking" in _encode(USER, CALL, OUTPUT, USER, model="claude-sonnet-4-5", reasoning=low)
    thought = Reasoning(id="r", content=(ReasoningText(text="t"),), encrypted_content="signature:s")
    own = {"r": Sidecar(origin=ORIGIN, data={"encrypted_content": "signature:s"})}
    body = _encode(USER, thought, CALL, OUTPUT, model="claude-sonnet-4-5", reasoning=low, sidecars=own)
    assert body["thinking"]["type"] == "enabled"
    assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "t", "signature": "s"}


def test_prompt_caching_has_its_breakpoints() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    body = _encode(instructions="i", tools=(TOOL,), prompt_cache_key="k")
    assert body["system"] == [{"type": "text", "text": "i", **mark}]
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hi", **mark}]}]
    assert mark.items() <= _encode(tools=(TOOL,), prompt_cache_key="k")["tools"][0].items()


# -- answers ------------------------------------------------------------------------------------------

START = {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": 5}}}
TEXT = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
STOP = {"type": "message_stop"}


def _piece(index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _end(reason: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, **more}, "usage": {"output_tokens": 2}}


def _block(index: int = 0, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _done(index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def _stream(*events: Any) -> list[ModelDelta]:
    decoder = StreamDecoder()
    body = b"".join(b"event: x\ndata: %b\n\n" % msgspec.json.encode(event) for event in events)
    return decoder.feed(body) + decoder.eof()


def test_unknown_events_and_pings_say_nothing() -> None:
    odd = {"type": "novelty", "delta": 7, "index": "x"}
    out = _stream(START, {"type": "ping"}, odd, TEXT, _piece(type="text_delta", text="a"), _done(), _end(), STOP, odd)
    usage = Usage(input_tokens=5, output_tokens=2)
    assert out == [TextDelta("a"), Finish(reason="stop", usage=usage, upstream_id="m", upstream_model="c")]


def test_a_stream_without_its_stop_event_ends_with_its_stop_reason() -> None:
    assert isinstance(_stream(START, _end())[-1], Finish)


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([START, TEXT], "answer_cut"),
        ([START, STOP], "malformed_stream"),
        ([{"type": "message_start"}], "malformed_stream"),
        ([START, {"type": "content_block_start", "index": 0}], "malformed_stream"),
        ([START, TEXT, TEXT], "malformed_stream"),
        ([START, TEXT, _piece(1, type="text_delta", text="a")], "malformed_stream"),
        ([START, TEXT, _piece(type="thinking_delta", thinking="a")], "malformed_stream"),
        ([START, TEXT, _done(3)], "malformed_stream"),
        ([START, TEXT, {"type": "content_block_delta", "index": 0}], "malformed_stream"),
        ([START, _block(type="thinking"), _piece(type="text_delta", text="a")], "malformed_stream"),
        ([START, _block(type="tool_use", name="f")], "malformed_stream"),
        ([START, _block(type="hologram")], "unsupported_output"),
        ([START, {"type": "message_delta", "delta": 3}], "malformed_stream"),
        ([START, _end("pause_turn")], "upstream_error"),
        ([START, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}], "upstream_overloaded"),
        ([START, {"type": "error", "error": {"type": "api_error", "message": "oh"}}], "upstream_error"),
        ([{"type": 7}], "malformed_stream"),
    ],
)
def test_a_stream_that_breaks_the_format_fails_with_its_code(events: list[Any], code: str) -> None:
    with pytest.raises(ModelError) as failed:
        _stream(*events)
    assert failed.value.code == code


def test_calls_without_arguments_have_an_empty_object() -> None:
    out = _stream(START, _block(type="tool_use", id="t", name="f", input={}), _done(), _end("tool_use"), STOP)
    assert out[:2] == [CallStart(0, "t", "f"), CallDelta(0, "{}")]
    finish = out[-1]
    assert isinstance(finish, Finish)
    assert finish.reason == "tool_calls"


def test_a_refusal_keeps_its_explanation() -> None:
    out = _stream(START, _end("refusal", stop_details={"type": "refusal", "explanation": "no"}), STOP)
    assert out[0] == RefusalDelta("no")
    assert isinstance(out[-1], Finish)
    assert out[-1].reason == "content_filter"


def test_signatures_come_in_pieces() -> None:
    thinking = _block(type="thinking", thinking="", signature="")
    pieces = [_piece(type="signature_delta", signature=each) for each in ("a", "b")]
    assert SidecarDelta({"encrypted_content": "signature:ab"}) in _stream(
        START, thinking, *pieces, _done(), _end(), STOP
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", "malformed_response"),
        (b"{}", "malformed_response"),
        (b'{"content": [], "id": "m"}', "malformed_response"),
        (b'{"content": [{"type": "hologram"}], "stop_reason": "end_turn"}', "unsupported_output"),
        (b'{"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}', "rate_limited"),
    ],
)
def test_a_whole_answer_that_breaks_the_format_fails_with_its_code(body: bytes, code: str) -> None:
    with pytest.raises(ModelError) as failed:
        decode_response(body)
    assert failed.value.code == code


@pytest.mark.parametrize(
    ("status", "kind", "message", "code"),
    [
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum", "context_length_exceeded"),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit", "context_length_exceeded"),
        (400, "invalid_request_error", "Output blocked by content filtering policy", "content_filter"),
        (400, "invalid_request_error", "Your credit balance is too low to access the API", "insufficient_quota"),
        (400, "invalid_request_error", "max_tokens: too large", "upstream_rejected"),
        (401, "authentication_error", "invalid x-api-key", "upstream_auth_failed"),
        (402, "billing_error", "pay", "insufficient_quota"),
        (403, "permission_error", "no", "upstream_permission_denied"),
        (404, "not_found_error", "model: x", "upstream_model_not_found"),
        (413, "request_too_large", "big", "request_too_large"),
        (429, "rate_limit_error", "slow", "rate_limited"),
        (500, "api_error", "oh", "upstream_error"),
        (504, "timeout_error", "late", "upstream_timeout"),
        (529, "overloaded_error", "Overloaded", "upstream_overloaded"),
    ],
)
def test_each_error_has_its_code_and_keeps_its_words(status: int, kind: str, *, message: str, code: str) -> None:
    body = msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}, "request_id": "r"})
    error = decode_error(status, {"request-id": "req_1"}, body)
    assert (error.code, error.provider_message, "req_1" in error.message) == (code, message, True)


# -- the cloud ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("", "https://api.anthropic.com/v1/messages"),
        ("https://gateway.test/anthropic/", "https://gateway.test/anthropic/v1/messages"),
        ("https://gateway.test/v1/", "https://gateway.test/v1/messages"),
    ],
)
def test_a_base_url_may_end_before_the_version_or_after_it(base: str, url: str) -> None:
    deployment = Deployment(
        name="d",
        model="m",
        cloud="anthropic",
        format="anthropic-messages",
        base_url=base,
        upstream_model="m",
        api_key="k",
    )
    cloud = CLOUDS["anthropic"]
    assert cloud.url(deployment, "/messages") == url
    assert cloud.headers(deployment) == {"x-api-key": "k", "anthropic-version": "2023-06-01"}
