"""Deltas into chat completions and chunks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stateline.api.chat.encode import ChatAnswer, ChatChunks
from stateline.core.calls import (
    CallDelta,
    CallStart,
    Finish,
    ModelDelta,
    ReasoningDelta,
    RefusalDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)

USAGE = Usage(input_tokens=3, output_tokens=5, cached_tokens=1, reasoning_tokens=2)
# Indexes as a Responses upstream numbers its output items: the first call is not number 0.
CALLS: list[ModelDelta] = [
    CallStart(2, "a", "one"),
    CallStart(4, "b", "two"),
    CallDelta(4, '{"x":'),
    CallDelta(2, "{}"),
    CallDelta(4, " 1}"),
]


def _chunks(deltas: list[ModelDelta], *, include_usage: bool = False) -> list[dict[str, Any]]:
    encoder = ChatChunks("chatcmpl-1", 1, "m", include_usage=include_usage)
    raw = b"".join(bytes(encoder.encode([delta])) for delta in deltas)
    return [json.loads(part.removeprefix("data: ")) for part in raw.decode().split("\n\n") if part]


def _whole(deltas: list[ModelDelta]) -> dict[str, Any]:
    answer = ChatAnswer()
    answer.add(deltas)
    return json.loads(msgspec.json.encode(answer.completion("chatcmpl-1", 1, "m")))


def test_calls_are_numbered_from_zero_and_put_together() -> None:
    deltas = [*CALLS, Finish(reason="stop", usage=USAGE)]
    message = _whole(deltas)["choices"][0]
    assert message["finish_reason"] == "tool_calls"
    assert message["message"]["content"] is None
    calls = [(call["id"], call["function"]) for call in message["message"]["tool_calls"]]
    assert calls == [("a", {"name": "one", "arguments": "{}"}), ("b", {"name": "two", "arguments": '{"x": 1}'})]
    pieces = [piece for chunk in _chunks(deltas) for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert {piece["index"] for piece in pieces} == {0, 1}
    second = "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == 1)
    assert second == '{"x": 1}'
    assert _chunks(deltas)[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_usage_is_a_chunk_of_its_own_and_only_when_asked() -> None:
    deltas: list[ModelDelta] = [TextDelta("a"), Finish(reason="length", usage=USAGE, service_tier="flex")]
    asked = _chunks(deltas, include_usage=True)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert asked[-1]["usage"]["total_tokens"] == 8
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * 3
    plain = _chunks(deltas)
    assert all("usage" not in chunk for chunk in plain)
    assert plain[-1]["choices"][0]["finish_reason"] == "length"
    assert plain[-1]["service_tier"] == "flex"


def test_reasoning_and_refusals_have_fields_of_their_own() -> None:
    deltas: list[ModelDelta] = [
        SummaryDelta("s "),
        ReasoningDelta("r"),
        RefusalDelta("no"),
        Finish(reason="content_filter"),
    ]
    message = _whole(deltas)["choices"][0]
    assert message["message"]["reasoning_content"] == "s r"
    assert (message["message"]["refusal"], message["message"]["content"]) == ("no", None)
    assert message["finish_reason"] == "content_filter"
    assert "usage" not in _whole(deltas)


def test_logprobs_go_with_their_text() -> None:
    logprobs = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]
    deltas: list[ModelDelta] = [TextDelta("a", logprobs), Finish(reason="stop")]
    assert _whole(deltas)["choices"][0]["logprobs"] == {"content": logprobs, "refusal": None}
    assert _chunks(deltas)[1]["choices"][0]["logprobs"]["content"] == logprobs


@given(st.lists(st.text(), max_size=8))
def test_chunks_and_the_whole_say_the_same(texts: list[str]) -> None:
    deltas: list[ModelDelta] = [*map(TextDelta, texts), Finish(reason="stop")]
    streamed = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in _chunks(deltas))
    assert streamed == _whole(deltas)["choices"][0]["message"]["content"] == "".join(texts)
