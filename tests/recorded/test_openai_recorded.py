"""Every recorded answer of OpenAI's two text APIs, decoded and assembled into items."""

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
from stateline.models.formats import FORMATS, WireFormat

Json = dict[str, Any]

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recorded" / "openai.jsonl"
APIS = {"/v1/chat/completions": "openai-chat", "/v1/responses": "openai-responses"}
EVERY_CUT_BYTES_MAX = 9_000
"""Each byte boundary of a longer stream is cut in one pass, byte by byte, and not one by one."""


def _load() -> list[Json]:
    if not RECORDINGS.exists():
        return []
    rows: list[Json] = [json.loads(line) for line in RECORDINGS.read_text().splitlines()]
    return [row for row in rows if row["api"] in APIS]


ROWS = _load()
pytestmark = pytest.mark.skipif(not ROWS, reason="../shared, with the recordings, is not here")


def _params(*, ok: bool = True, stream: bool | None = None) -> list[Any]:
    chosen = [row for row in ROWS if (row["status"] == 200) is ok and stream in (None, row["stream"])]
    return [pytest.param(row, id=f"{row['api'][4:]}-{at}") for at, row in enumerate(chosen)]


def _wire(row: Json) -> WireFormat:
    return FORMATS[APIS[row["api"]]]


def _decode(row: Json) -> list[ModelDelta]:
    body = row["response"].encode()
    return _feed(_wire(row), [body]) if row["stream"] else _wire(row).decode_response(body)


def _feed(wire: WireFormat, pieces: list[bytes]) -> list[ModelDelta]:
    decoder = wire.stream_decoder()
    out = [delta for piece in pieces for delta in decoder.feed(piece)]
    assert decoder.done
    return whole_texts(out + decoder.eof())


def _build(deltas: list[ModelDelta]) -> tuple[StreamBuilder, tuple[Item, ...]]:
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(deltas)
    builder.take()
    items, _, _ = builder.end("incomplete")
    return builder, items


def _events(row: Json) -> list[Json]:
    lines = [line[6:] for line in row["response"].splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


# -- what an answer says, read in the plainest way from the recorded JSON -------------------------


def _said_chat(row: Json) -> list[tuple[str, ...]]:
    if row["stream"]:
        pieces = [choice["delta"] for event in _events(row) for choice in event["choices"]]
    else:
        pieces = [json.loads(row["response"])["choices"][0]["message"]]
    text = "".join(piece.get("content") or "" for piece in pieces)
    calls: dict[int, list[str]] = {}
    for piece in pieces:
        for at, call in enumerate(piece.get("tool_calls") or ()):
            into = calls.setdefault(call.get("index", at), [call.get("id", ""), call["function"].get("name", ""), ""])
            into[2] += call["function"]["arguments"]
    return ([("message", text)] if text else []) + [("function_call", *call) for call in calls.values()]


def _response(row: Json) -> Json:
    if not row["stream"]:
        return json.loads(row["response"])
    return next(event["response"] for event in _events(row) if event["type"] == "response.completed")


def _said_responses(row: Json) -> list[tuple[str, ...]]:
    said: list[tuple[str, ...]] = []
    for item in _response(row)["output"]:
        if item["type"] == "message":
            said.append(("message", *(part["text"] for part in item["content"])))
        elif item["type"] == "function_call":
            said.append(("function_call", item["call_id"], item["name"], item["arguments"]))
        elif item["type"] == "reasoning":
            said.append(("reasoning", *(part["text"] for part in item["summary"])))
    return said


def _plain(item: Item) -> tuple[str, ...]:
    if isinstance(item, Message):
        return ("message", *(part.text for part in item.content if isinstance(part, OutputText)))
    if isinstance(item, FunctionCall):
        return ("function_call", item.call_id, item.name, item.arguments)
    assert isinstance(item, Reasoning)
    return ("reasoning", *(part.text for part in item.summary))


@pytest.mark.parametrize("row", _params())
def test_every_answer_becomes_the_items_that_it_says(row: Json) -> None:
    _, items = _build(_decode(row))
    chat = APIS[row["api"]] == "openai-chat"
    assert [_plain(item) for item in items] == (_said_chat(row) if chat else _said_responses(row))


@pytest.mark.parametrize("row", _params())
def test_every_answer_ends_with_its_usage_and_its_origin(row: Json) -> None:
    finish = _decode(row)[-1]
    assert isinstance(finish, Finish)
    if APIS[row["api"]] == "openai-chat":
        answers = _events(row) if row["stream"] else [json.loads(row["response"])]
        usage = next((answer["usage"] for answer in reversed(answers) if answer["usage"]), None)
        names = ("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details")
    else:
        answers = [_response(row)]
        usage = answers[0]["usage"]
        names = ("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")
    assert (finish.upstream_id, finish.upstream_model) == (answers[0]["id"], answers[0]["model"])
    if usage is None:
        assert finish.usage is None
        return
    into, out, into_details, out_details = (usage[name] for name in names)
    assert finish.usage is not None
    assert (finish.usage.input_tokens, finish.usage.output_tokens) == (into, out)
    assert finish.usage.cached_tokens == into_details["cached_tokens"]
    assert finish.usage.reasoning_tokens == out_details["reasoning_tokens"]


@pytest.mark.parametrize("row", [each for each in _params() if each.values[0]["api"] == "/v1/responses"])
def test_ids_and_encrypted_reasoning_are_kept_for_their_origin(row: Json) -> None:
    builder, items = _build(_decode(row))
    done = {
        event["item"]["id"]: event["item"] for event in _events(row) if event["type"] == "response.output_item.done"
    }
    output = [done.get(item["id"], item) for item in _response(row)["output"]]
    theirs = [item for item in output if item["type"] in ("message", "function_call", "reasoning")]
    for item, their in zip(items, theirs, strict=True):
        assert builder.sidecars[item.id]["id"] == their["id"]
        if isinstance(item, Reasoning) and their.get("encrypted_content"):
            assert item.encrypted_content == their["encrypted_content"]
            assert builder.sidecars[item.id]["encrypted_content"] == their["encrypted_content"]


@pytest.mark.parametrize("row", _params(stream=True))
def test_where_a_stream_is_cut_into_pieces_makes_no_difference(row: Json) -> None:
    wire, body = _wire(row), row["response"].encode()
    whole = _feed(wire, [body])
    assert _feed(wire, [body[at : at + 1] for at in range(len(body))]) == whole
    if len(body) <= EVERY_CUT_BYTES_MAX:
        for at in range(1, len(body)):
            assert _feed(wire, [body[:at], body[at:]]) == whole


@pytest.mark.parametrize("row", _params(stream=True))
def test_a_stream_that_ends_early_is_never_taken_for_a_whole_one(row: Json) -> None:
    wire, body = _wire(row), row["response"].encode()
    chat = APIS[row["api"]] == "openai-chat"
    end = body.index(b'"finish_reason":"') if chat else body.index(b'{"type":"response.completed"')
    for at in range(0, end, max(1, end // 200)):
        decoder = wire.stream_decoder()
        decoder.feed(body[:at])
        assert not decoder.done
        with pytest.raises(ModelError) as caught:
            decoder.eof()
        assert caught.value.code in ("answer_cut", "malformed_stream")
        assert caught.value.retryable


@pytest.mark.parametrize("row", _params(ok=False))
def test_every_recorded_error_keeps_its_words(row: Json) -> None:
    error = _wire(row).decode_error(row["status"], {}, row["response"].encode())
    said = json.loads(row["response"])["error"]
    assert error.provider_message == said["message"]
    assert error.provider_status == row["status"]
    assert not error.retryable
    assert error.code == ("upstream_model_not_found" if said["code"] == "model_not_found" else "upstream_rejected")
    assert error.param == (said["param"] if error.code == "upstream_rejected" else None)
