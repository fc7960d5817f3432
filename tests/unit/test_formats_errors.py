"""A provider's errors, as decision tables."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.errors import ModelError
from stateline.core.limits import PROVIDER_MESSAGE_CHARS_MAX
from stateline.models.formats.errors import ErrorBody, decode_error, retry_after_s, translate


def _body(message: str = "no", **fields: object) -> bytes:
    return msgspec.json.encode({"error": {"message": message, **fields}})


@pytest.mark.parametrize(
    ("status", "body", "code", "answered", "retryable", "blame"),
    [
        (400, _body(param="x"), "upstream_rejected", 400, False, "client"),
        (400, _body(code="context_length_exceeded"), "context_length_exceeded", 400, False, "client"),
        (400, _body("maximum context length is 9 tokens"), "context_length_exceeded", 400, False, "client"),
        (400, _body(code=400, type="exceed_context_size_error"), "context_length_exceeded", 400, False, "client"),
        (400, _body(code="content_filter"), "content_filter", 400, False, "client"),
        (400, _body(code="model_not_found"), "upstream_model_not_found", 502, False, "operator"),
        (401, _body(code="invalid_api_key"), "upstream_auth_failed", 502, False, "operator"),
        (401, b"", "upstream_auth_failed", 502, False, "operator"),
        (402, _body(), "insufficient_quota", 429, False, "operator"),
        (403, _body(), "upstream_permission_denied", 502, False, "operator"),
        (404, _body(), "upstream_model_not_found", 502, False, "operator"),
        (408, b"", "upstream_timeout", 504, True, "upstream"),
        (409, b"", "upstream_error", 502, True, "upstream"),
        (413, b"", "request_too_large", 413, False, "client"),
        (422, b'{"detail": [{"loc": ["body"]}]}', "upstream_rejected", 400, False, "client"),
        (429, _body(code="rate_limit_exceeded", type="tokens"), "rate_limited", 429, True, "upstream"),
        (429, b"slow down", "rate_limited", 429, True, "upstream"),
        (429, _body(code="insufficient_quota"), "insufficient_quota", 429, False, "operator"),
        (429, _body(type="insufficient_quota", code=None), "insufficient_quota", 429, False, "operator"),
        (500, _body(type="server_error"), "upstream_error", 502, True, "upstream"),
        (501, b"", "upstream_error", 502, False, "upstream"),
        (502, b"<html>", "upstream_error", 502, True, "upstream"),
        (503, b"", "upstream_overloaded", 503, True, "upstream"),
        (504, b"", "upstream_timeout", 504, True, "upstream"),
        (529, b"", "upstream_overloaded", 503, True, "upstream"),
        (302, b"", "upstream_error", 502, False, "upstream"),
    ],
)
def test_each_failure_has_its_code_its_blame_and_its_way_out(
    status: int, body: bytes, *, code: str, answered: int, retryable: bool, blame: str
) -> None:
    error = decode_error(status, {}, body)
    assert (error.code, error.status, error.retryable, error.blame) == (code, answered, retryable, blame)
    assert error.provider_status == status
    assert error.sent


@pytest.mark.parametrize(
    ("code", "type_", "ours", "retryable"),
    [
        ("server_error", None, "upstream_error", True),
        (None, None, "upstream_error", True),
        ("rate_limit_exceeded", None, "rate_limited", True),
        (429, None, "rate_limited", True),
        (503, None, "upstream_overloaded", True),
        ("invalid_image", None, "upstream_rejected", False),
        (None, "invalid_request_error", "upstream_rejected", False),
        ("content_filter", None, "content_filter", False),
    ],
)
def test_an_error_inside_a_good_answer_is_read_by_the_same_tables(
    code: str | int | None, type_: str | None, ours: str, retryable: bool
) -> None:
    error = translate(None, ErrorBody("oops", type_, code))
    assert (error.code, error.retryable) == (ours, retryable)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "a"}}', "a"),
        (b'{"error": "b"}', "b"),
        (b'{"object": "error", "message": "c", "code": 404}', "c"),
        (b'{"detail": "d"}', "d"),
        (b'{"detail": [1]}', "[1]"),
        (b"<p>e</p>", "<p>e</p>"),
        (b"\xff", "\ufffd"),
        (b"[]", "[]"),
        (b"", None),
    ],
)
def test_the_providers_own_words_are_kept(body: bytes, said: str | None) -> None:
    error = decode_error(500, {}, body)
    assert error.provider_message == said
    assert (said or "no reason given") in error.message


def test_long_words_are_cut_at_the_bound() -> None:
    error = decode_error(500, {}, b"x" * (PROVIDER_MESSAGE_CHARS_MAX + 1))
    assert error.provider_message == "x" * PROVIDER_MESSAGE_CHARS_MAX


def test_a_bad_request_names_its_field_and_the_providers_request() -> None:
    error = decode_error(400, {"x-request-id": "req_1"}, _body("bad", param="temperature"))
    assert error.param == "temperature"
    assert "req_1" in str(error)


@pytest.mark.parametrize(("hint", "status", "retryable"), [("false", 429, False), ("true", 400, True)])
def test_the_providers_hint_decides_whether_to_retry(hint: str, status: int, retryable: bool) -> None:
    assert decode_error(status, {"x-should-retry": hint}, b"").retryable is retryable


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        (
            {"retry-after": "Sat, 22 Nov 2025 00:00:30 GMT", "date": "Sat, 22 Nov 2025 00:00:00 GMT"},
            30.0,
        ),
        (
            {"retry-after": "Sat, 22 Nov 2025 00:00:00 GMT", "date": "Sat, 22 Nov 2025 00:00:30 GMT"},
            0.0,
        ),
        ({"retry-after": "Sat, 22 Nov 2025 00:00:30 GMT"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6m0s"}, None),
        (
            {
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "20ms",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1.5s",
            },
            1.5,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "?"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12"}, 12.0),
        (
            {
                "anthropic-ratelimit-output-tokens-remaining": "0",
                "anthropic-ratelimit-output-tokens-reset": "2025-11-22T00:00:40Z",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2025-11-22T00:00:20Z",
                "anthropic-ratelimit-tokens-remaining": "10",
                "anthropic-ratelimit-tokens-reset": "2025-11-22T00:09:00Z",
                "date": "Sat, 22 Nov 2025 00:00:00 GMT",
            },
            40.0,
        ),
        ({"anthropic-ratelimit-tokens-remaining": "0", "date": "Sat, 22 Nov 2025 00:00:00 GMT"}, None),
        ({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "soon"}, None),
    ],
)
def test_the_wait_is_read_from_the_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds
    assert decode_error(429, headers, b"").retry_after_s == seconds
    assert decode_error(400, headers, b"").retry_after_s is None


@given(
    status=st.integers(300, 599),
    body=st.binary(max_size=200),
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "date", "retry-after-ms", "x-ratelimit-reset-tokens", "x-should-retry"]),
        st.text(max_size=40),
    ),
)
def test_no_answer_of_a_provider_breaks_the_translation(status: int, body: bytes, headers: dict[str, str]) -> None:
    error = decode_error(status, headers, body)
    assert isinstance(error, ModelError)
    assert error.retry_after_s is None or error.retry_after_s >= 0
