"""Gemini's answers and errors that no recording has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.calls import CallStart, Finish, ModelDelta, RefusalDelta, TextDelta
from stateline.core.errors import ModelError
from stateline.models.formats import FORMATS

Json = dict[str, Any]
WIRE = FORMATS["gemini"]
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36.5s"}
DAY = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}],
}
BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "metadata": {"a": "b"}}


def whole(*parts: Json, reason: str | None = "STOP", **fields: Any) -> list[ModelDelta]:
    candidate = {"content": {"parts": list(parts)}, "finishReason": reason} | fields
    return WIRE.decode_response(json.dumps({"responseId": "r1", "candidates": [candidate]}).encode())


def stream(*events: Json) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"])
def test_an_answer_that_a_filter_ended_says_so(reason: str) -> None:
    finish = whole({"text": "a"}, reason=reason)[-1]
    assert isinstance(finish, Finish)
    assert finish.reason == "content_filter"


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "WHAT_IS_THIS"])
def test_an_answer_that_the_model_broke_is_an_error_with_its_words(reason: str) -> None:
    with pytest.raises(ModelError, match=f"{reason}.*its words") as caught:
        whole(reason=reason, finishMessage="its words")
    assert caught.value.code == "malformed_response"
    assert caught.value.retryable


def test_a_prompt_that_is_blocked_is_a_refusal() -> None:
    body = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "blockReasonMessage": "No."}}
    refusal, finish = WIRE.decode_response(json.dumps(body).encode())
    assert refusal == RefusalDelta("No.")
    assert isinstance(finish, Finish)
    assert finish.reason == "content_filter"


def test_calls_without_an_id_get_one_that_is_the_same_each_time_and_differs_among_them() -> None:
    call = {"functionCall": {"name": "go"}}
    ids = [delta.call_id for delta in whole(call, call) if isinstance(delta, CallStart)]
    assert len(set(ids)) == 2
    assert ids == [delta.call_id for delta in whole(call, call) if isinstance(delta, CallStart)]


@pytest.mark.parametrize("kind", ["inlineData", "fileData"])
def test_a_picture_in_an_answer_is_unsupported(kind: str) -> None:
    with pytest.raises(ModelError) as caught:
        whole({kind: {"mimeType": "image/png"}})
    assert caught.value.code == "unsupported_output"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"candidates": 1}', b'{"candidates": [{"content": {"parts": []}}]}', b"\xff"]
)  # fmt: skip
def test_an_answer_that_breaks_the_format_is_malformed(body: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        WIRE.decode_response(body)
    assert caught.value.code == "malformed_response"


def test_a_call_without_a_name_is_malformed() -> None:
    with pytest.raises(ModelError) as caught:
        whole({"functionCall": {"args": {}}})
    assert caught.value.code == "malformed_response"


def test_an_error_in_the_middle_of_a_stream_is_the_errors_own() -> None:
    decoder = WIRE.stream_decoder()
    said = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    text = {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}
    assert decoder.feed(stream(text)) == [TextDelta("a")]
    with pytest.raises(ModelError) as caught:
        decoder.feed(stream(said))
    assert (caught.value.code, caught.value.retryable) == ("upstream_overloaded", True)
    assert caught.value.provider_message == "The model is overloaded."


@given(st.binary(max_size=60))
def test_whatever_comes_in_a_stream_is_decoded_or_refused_with_a_code(junk: bytes) -> None:
    decoder = WIRE.stream_decoder()

    def read() -> None:
        decoder.feed(b"data: " + junk + b"\n\n")
        decoder.eof()

    with pytest.raises(ModelError):
        read()


@pytest.mark.parametrize(
    ("status", "name", "details", "message", "expected"),
    [
        (429, "RESOURCE_EXHAUSTED", [RETRY], "Quota exceeded", ("rate_limited", 36.5)),
        (429, "RESOURCE_EXHAUSTED", [RETRY, DAY], "Quota exceeded", ("insufficient_quota", None)),
        (429, "RESOURCE_EXHAUSTED", [], "Your prepayment credits are depleted.", ("insufficient_quota", None)),
        (400, "INVALID_ARGUMENT", [BAD_KEY], "API key not valid.", ("upstream_auth_failed", None)),
        (400, "INVALID_ARGUMENT", [], "API key not valid. Please pass one.", ("upstream_auth_failed", None)),
        (401, "UNAUTHENTICATED", [], "no", ("upstream_auth_failed", None)),
        (403, "PERMISSION_DENIED", [], "no", ("upstream_permission_denied", None)),
        (400, "FAILED_PRECONDITION", [], "User location is not supported", ("upstream_permission_denied", None)),
        (404, "NOT_FOUND", [], "no", ("upstream_model_not_found", None)),
        (
            400, "INVALID_ARGUMENT", [{"x": 1}, 3],
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            ("context_length_exceeded", None),
        ),
        (400, "INVALID_ARGUMENT", [], "Bad field", ("upstream_rejected", None)),
        (503, "UNAVAILABLE", [], "busy", ("upstream_overloaded", 7.0)),
        (504, "DEADLINE_EXCEEDED", [], "late", ("upstream_timeout", 7.0)),
        (500, "INTERNAL", [{"retryDelay": "soon"}], "oops", ("upstream_error", 7.0)),
    ],
)  # fmt: skip
def test_an_error_has_one_code_and_keeps_its_words(
    status: int, name: str, details: list[Any], message: str, expected: tuple[str, float | None]
) -> None:
    said = {"error": {"code": status, "message": message, "status": name, "details": details}}
    for body in (said, [said]):
        error = WIRE.decode_error(status, {"retry-after": "7"}, json.dumps(body).encode())
        assert (error.code, error.retry_after_s) == expected
        assert (error.provider_message, error.provider_status) == (message, status)


@pytest.mark.parametrize("body", [b"<html>no</html>", b"[]", b"{}"])
def test_an_error_that_is_no_status_is_read_by_its_number(body: bytes) -> None:
    assert WIRE.decode_error(503, {}, body).code == "upstream_overloaded"
