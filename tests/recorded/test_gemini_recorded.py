"""Every recorded answer of Gemini, on the Gemini API and on Vertex, decoded and assembled into items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.recorded.texts import whole_texts

from stateline.core.calls import Finish, ModelDelta
from stateline.core.errors import ModelError
from stateline.core.items import FunctionCall, Item, Message, OutputText, Reasoning
from stateline.core.stream import StreamBuilder
from stateline.models.formats import FORMATS

Json = dict[str, Any]

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "recorded"
WIRE = FORMATS["gemini"]
REASONS = {
    "STOP": "stop", "SAFETY": "content_filter", "MODEL_ARMOR": "content_filter", "MAX_TOKENS": "length",
}  # fmt: skip


def _load() -> list[Json]:
    if not RECORDED.exists():
        return []
    lines = [line for name in ("gemini", "vertex") for line in (RECORDED / f"{name}.jsonl").read_text().splitlines()]
    rows: list[Json] = [json.loads(line) for line in lines]
    return [row for row in rows if row["api"] in ("generateContent", "streamGenerateContent")]


ROWS = _load()
pytestmark = pytest.mark.skipif(not ROWS, reason="../shared, with the recordings, is not here")


def _broken(row: Json) -> bool:
    return "UNEXPECTED_TOOL_CALL" in row["response"]


def _params(*, ok: bool = True, stream: bool | None = None, broken: bool = False) -> list[Any]:
    chosen = [row for row in ROWS if (row["status"] == 200) is ok and stream in (None, row["stream"])]
    return [pytest.param(row, id=f"{row['api']}-{at}") for at, row in enumerate(chosen) if _broken(row) is broken]


def _feed(pieces: list[bytes]) -> list[ModelDelta]:
    decoder = WIRE.stream_decoder()
    out = [delta for piece in pieces for delta in decoder.feed(piece)]
    out += decoder.eof()
    assert decoder.done
    return out


def _decode(row: Json) -> list[ModelDelta]:
    body = row["response"].encode()
    return _feed([body]) if row["stream"] else WIRE.decode_response(body)


# -- what an answer says, read in the plainest way -----------------------------------------------------


def _events(row: Json) -> list[Json]:
    if not row["stream"]:
        return [json.loads(row["response"])]
    return [json.loads(line[5:]) for line in row["response"].splitlines() if line.startswith("data:")]


def _said(row: Json) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    for event in _events(row):
        for part in event.get("candidates", [{}])[0].get("content", {}).get("parts", []):
            kind = "reasoning" if part.get("thought") else "message"
            if part.get("text"):
                if said and said[-1][0] == kind:
                    said[-1] = (kind, said[-1][1] + part["text"])
                else:
                    said.append((kind, part["text"]))
            elif "functionCall" in part:
                said.append(("function_call", part["functionCall"]["name"], part["functionCall"].get("args", {})))
    return said


def _plain(item: Item) -> tuple[Any, ...]:
    if isinstance(item, Message):
        return ("message", "".join(part.text for part in item.content if isinstance(part, OutputText)))
    if isinstance(item, FunctionCall):
        return ("function_call", item.name, json.loads(item.arguments))
    assert isinstance(item, Reasoning)
    return ("reasoning", "".join(part.text for part in item.summary))


def _build(row: Json, deltas: list[ModelDelta] | None = None) -> tuple[StreamBuilder, tuple[Item, ...]]:
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(_decode(row) if deltas is None else deltas)
    builder.take()
    items, _, _ = builder.end("incomplete")
    return builder, items


@pytest.mark.parametrize("row", _params())
def test_every_answer_becomes_the_items_that_it_says(row: Json) -> None:
    _, items = _build(row)
    assert [said for item in items if any((said := _plain(item))[1:])] == _said(row)


@pytest.mark.parametrize("row", _params())
def test_every_answer_ends_with_its_usage_and_its_reason(row: Json) -> None:
    finish, events = _decode(row)[-1], _events(row)
    assert isinstance(finish, Finish)
    said = [event["candidates"][0].get("finishReason") for event in events if event.get("candidates")]
    reason = REASONS[said[-1]] if said else "content_filter"
    calls = any(kind == "function_call" for kind, *_ in _said(row))
    assert finish.reason == ("tool_calls" if calls and reason == "stop" else reason)
    usage = events[-1]["usageMetadata"]
    assert finish.usage is not None
    assert finish.usage.total_tokens == usage.get("totalTokenCount", 0)
    assert finish.usage.cached_tokens == usage.get("cachedContentTokenCount", 0)
    assert finish.usage.reasoning_tokens == usage.get("thoughtsTokenCount", 0)
    assert finish.upstream_model == events[-1]["modelVersion"]


@pytest.mark.parametrize("row", _params())
def test_the_signature_of_every_call_is_kept_beside_it(row: Json) -> None:
    builder, items = _build(row)
    kept = [builder.sidecars.get(item.id, {}).get("thought_signature") for item in items if item.id[:3] == "fc_"]
    sent = [
        part.get("thoughtSignature")
        for event in _events(row)
        for part in event.get("candidates", [{}])[0].get("content", {}).get("parts", [])
        if "functionCall" in part
    ]
    assert kept == sent


# -- the same stream in both of its framings ------------------------------------------------------------

LONG_BYTES = 10_000
"""A longer body is cut at every 31st byte; at every one by a test that takes its time."""


def _as_array(row: Json) -> bytes:
    """The events as Google sends them without ``alt=sse``."""
    return b"[" + b"\n,\r\n".join(json.dumps(event, indent=2).encode() for event in _events(row)) + b"\n]\n"


def _body(row: Json, framing: str) -> bytes:
    return row["response"].encode() if framing == "events" else _as_array(row)


FRAMED = pytest.mark.parametrize("framing", ["events", "array"])


@FRAMED
@pytest.mark.parametrize("row", _params(stream=True))
def test_where_a_stream_is_cut_into_pieces_makes_no_difference(row: Json, framing: str) -> None:
    body = _body(row, framing)
    whole = whole_texts(_feed([body]))
    assert whole_texts(_feed([body[at : at + 1] for at in range(len(body))])) == whole
    for at in range(0, len(body), 1 if len(body) < LONG_BYTES else 31):
        assert whole_texts(_feed([body[:at], body[at:]])) == whole


@pytest.mark.slow
@FRAMED
@pytest.mark.parametrize("row", _params(stream=True))
def test_a_long_stream_too_may_be_cut_at_every_byte(row: Json, framing: str) -> None:
    body = _body(row, framing)
    whole = whole_texts(_feed([body]))
    for at in range(len(body) if len(body) >= LONG_BYTES else 0):
        assert whole_texts(_feed([body[:at], body[at:]])) == whole


@FRAMED
@pytest.mark.parametrize("row", _params(stream=True))
def test_a_stream_that_ends_early_is_never_taken_for_a_whole_one(row: Json, framing: str) -> None:
    body = _body(row, framing)
    # The array has an end of its own; events end with the body, once a reason was said.
    stop = body.index(b'"finishReason"') if framing == "events" else body.rindex(b"]")
    for at in (*range(0, stop, 7), stop):
        decoder = WIRE.stream_decoder()
        decoder.feed(body[:at])
        with pytest.raises(ModelError) as caught:
            decoder.eof()
        assert caught.value.retryable
        assert not decoder.done


@pytest.mark.parametrize("row", _params(stream=True))
def test_an_array_says_what_the_events_say(row: Json) -> None:
    deltas = _feed([_as_array(row)])
    _, items = _build(row, deltas)
    assert [said for item in items if any((said := _plain(item))[1:])] == _said(row)
    assert deltas[-1] == _decode(row)[-1]


@pytest.mark.parametrize("row", _params(stream=False))
def test_a_whole_answer_where_a_stream_was_asked_for_says_the_same(row: Json) -> None:
    body = row["response"].encode()
    assert _feed([body]) == _feed([b"[", body, b"]"]) == WIRE.decode_response(body)


@pytest.mark.parametrize("row", _params(broken=True))
def test_a_call_that_the_model_broke_is_an_error_that_may_be_tried_again(row: Json) -> None:
    with pytest.raises(ModelError, match="UNEXPECTED_TOOL_CALL") as caught:
        _decode(row)
    assert caught.value.code == "malformed_response"
    assert caught.value.retryable


@pytest.mark.parametrize("row", _params(ok=False))
def test_every_recorded_error_keeps_its_words(row: Json) -> None:
    error = WIRE.decode_error(row["status"], {}, row["response"].encode())
    assert error.provider_message == json.loads(row["response"])["error"]["message"]
    assert error.provider_status == row["status"]
    assert not error.retryable
    assert error.code == {404: "upstream_model_not_found", 400: "upstream_rejected"}[row["status"]]
