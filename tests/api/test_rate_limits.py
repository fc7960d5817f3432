"""Rate limits as clients see them, over the real server: 429, when to come again, and how much is left."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.api.conftest import MODEL, Served
from tests.clocks import Within

from stateline.core.calls import Usage
from stateline.engine.meter import Meter
from stateline.money.rates import RateLimit
from stateline.testing import Answer

Serve = Callable[..., Served]
MESSAGES: Any = [{"role": "user", "content": "go"}]


@pytest.fixture
def serve(tmp_path: Path) -> Generator[Serve]:
    """A server with one rate limit for every key, and with so much of a minute left."""
    servers: list[Served] = []

    def start(left_ms: int = 55_000, **rates: int) -> Served:
        server = Served(tmp_path / "stateline.db", clock=Within(left_ms)).start()
        servers.append(server)
        server.script({MODEL: Answer(text="an answer", usage=Usage(input_tokens=1_000, output_tokens=100))})
        limit = RateLimit(name="every", **rates)  # pyright: ignore[reportArgumentType]
        meter = Meter({}, rate_limits=[limit])

        async def use() -> None:
            server.engine.meter = meter
            assert server.engine.volatile is not None
            server.engine.volatile.meter = meter

        server.run(use)
        return server

    yield start
    for server in servers:
        server.stop()


def test_past_the_limit_is_429_with_the_time_to_come_again(serve: Serve) -> None:
    server = serve(requests_per_minute=1)
    with server.openai() as client:
        client.responses.create(model=MODEL, input="go")
        messages = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0).messages
        refused: list[Any] = []
        for ask in (
            lambda: client.responses.create(model=MODEL, input="again"),
            lambda: client.responses.create(model=MODEL, input="again", store=False),
            lambda: client.responses.create(model=MODEL, input="again", stream=True),
            lambda: client.chat.completions.create(model=MODEL, messages=MESSAGES),
            lambda: client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True),
            lambda: client.embeddings.create(model=MODEL, input="go"),
            lambda: messages.create(model=MODEL, max_tokens=100, messages=MESSAGES),
        ):
            with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)) as caught:
                ask()
            refused.append(caught.value)
    for error in refused:
        assert "rate_limit_exceeded" in error.response.text
        headers = error.response.headers
        assert 1 <= int(headers["retry-after"]) <= 55
        assert "x-should-retry" not in headers
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("1", "0")
        assert abs(int(headers["x-ratelimit-reset-requests"].removesuffix("s")) - int(headers["retry-after"])) <= 1
    assert len(server.scripted.requests) == 1


def test_the_client_waits_until_the_minute_is_over_and_tries_again_by_itself(serve: Serve) -> None:
    server = serve(2_500, requests_per_minute=1)
    with server.openai(max_retries=1) as client:
        client.responses.create(model=MODEL, input="go")
        assert client.responses.create(model=MODEL, input="again").output_text == "an answer"
    assert len(server.scripted.requests) == 2


def test_every_answer_says_how_much_is_left(serve: Serve) -> None:
    server = serve(requests_per_minute=10, tokens_per_minute=50_000)
    left: list[int] = []
    with server.openai() as client:
        for ask in (
            lambda: client.responses.with_raw_response.create(model=MODEL, input="go"),
            lambda: client.responses.with_raw_response.create(model=MODEL, input="go", stream=True),
            lambda: client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES),
            lambda: client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, stream=True),
        ):
            answer = ask()
            answer.http_response.read()
            headers = answer.headers
            left.append(int(headers["x-ratelimit-remaining-requests"]))
            assert headers["x-ratelimit-limit-requests"] == "10"
            assert headers["x-ratelimit-limit-tokens"] == "50000"
            assert 40_000 < int(headers["x-ratelimit-remaining-tokens"]) < 50_000
            assert 1 <= int(headers["x-ratelimit-reset-tokens"].removesuffix("s")) <= 55
    assert left == [9, 8, 7, 6]


def test_who_is_not_limited_is_told_nothing_of_limits(serve: Serve) -> None:
    server = serve(max_concurrency=5)
    with server.openai() as client:
        answer = client.responses.with_raw_response.create(model=MODEL, input="go")
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


def test_a_request_that_is_larger_than_a_whole_minute_says_not_to_try_again(serve: Serve) -> None:
    server = serve(tokens_per_minute=100)
    with server.openai(max_retries=2) as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=200)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.response.headers
