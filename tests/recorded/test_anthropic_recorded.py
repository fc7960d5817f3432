"""Every recorded answer in Anthropic's format, from Anthropic and from Bedrock, decoded and assembled."""

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

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "recorded"
WIRE = FORMATS["anthropic-messages"]
EVERY_CUT_BYTES_MAX = 7_000
"""Each byte boundary of a longer stream is cut in one pass, byte by byte, and not one by one."""
_CALLS = ("tool_use", "text", "thinking", "redacted_thinking")


def _load() -> list[Json]:
    rows: list[Json] = []
    for name, apis in (("anthropic", ("/v1/messages",)), ("bedrock", ("invoke",))):
        path = FOLDER / f"{name}.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        rows += [row for row in found if row["api"] in apis and (name == "anthropic" or "anthropic." in row["url"])]
    return rows


ROWS = _load()
pytestmark = pytest.mark.skipif(not ROWS, reason="../shared, with the recordings, is not here")


def _params(*, ok: bool = True, stream: bool | None = None) -> list[Any]:
    chosen = [row for row in ROWS if (row["status"] == 200) is ok and stream in (None, row["stream"])]
    return [pytest.param(row, id=f"{row['provider']}-{at}") for at, row in enumerate(chosen)]


def _decode(row: Json) -> list[ModelDelta]:
    body = row["response"].encode()
    return _feed([body]) if row["stream"] else WIRE.decode_response(body)


def _feed(pieces: list[bytes]) -> list[ModelDelta]:
    decoder = WIRE.stream_decoder()
    out = [delta for piece in pieces for delta in decoder.feed(piece)]
    assert decoder.done
    return whole_texts(out + decoder.eof())


def _build(deltas: list[ModelDelta]) -> tuple[StreamBuilder, tuple[Item, ...]]:
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(deltas)
    builder.take()
    items, _, _ = builder.end("incomplete")
    return builder, items


# -- what an answer says, read in the plainest way from the recorded JSON -------------------------


def _message(row: Json) -> Json:
    """The message; of a stream, put together as Anthropic's description says."""
    if not row["stream"]:
        return json.loads(row["response"])
    message: Json = {}
    for line in row["response"].splitlines():
        if not line.startswith("data: "):
            continue
        event = json.loads(line[6:])
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"] | {"json": ""})
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                for name in ("text", "thinking", "signature"):
                    if name in delta:
                        block[name] += delta[name]
                block["json"] += delta.get("partial_json", "")
                if "citation" in delta:
                    block.setdefault("citations", []).append(delta["citation"])
            case "content_block_stop":
                block = message["content"][event["index"]]
                if text := block.pop("json"):
                    block["input"] = json.loads(text)
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
            case _:
                pass
    return message


def _blocks(row: Json) -> list[Json]:
    return [block for block in _message(row)["content"] if block["type"] in _CALLS]


def _said(row: Json) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    for block in _blocks(row):
        if block["type"] == "tool_use":
            said.append(("call", block["id"], block["name"], block["input"]))
        elif block["type"] == "text":
            if block["text"] and said and said[-1][0] == "message":
                said[-1] += (block["text"],)
            elif block["text"]:
                said.append(("message", block["text"]))
        else:
            said.append(("reasoning", block.get("thinking", "")))
    return said


def _plain(item: Item) -> tuple[Any, ...]:
    if isinstance(item, Message):
        return ("message", *(part.text for part in item.content if isinstance(part, OutputText)))
    if isinstance(item, FunctionCall):
        return ("call", item.call_id, item.name, json.loads(item.arguments))
    assert isinstance(item, Reasoning)
    return ("reasoning", item.content[0].text if item.content else "")


@pytest.mark.parametrize("row", _params())
def test_every_answer_becomes_the_items_that_it_says(row: Json) -> None:
    _, items = _build(_decode(row))
    assert [_plain(item) for item in items] == _said(row)


@pytest.mark.parametrize("row", _params())
def test_every_answer_ends_with_its_usage_and_its_origin(row: Json) -> None:
    finish = _decode(row)[-1]
    assert isinstance(finish, Finish)
    message = _message(row)
    usage = message["usage"]
    assert (finish.upstream_id, finish.upstream_model) == (message["id"], message["model"])
    assert finish.usage is not None
    cached = usage["cache_read_input_tokens"]
    assert finish.usage.input_tokens == usage["input_tokens"] + usage["cache_creation_input_tokens"] + cached
    assert (finish.usage.cached_tokens, finish.usage.output_tokens) == (cached, usage["output_tokens"])
    assert finish.usage.reasoning_tokens == usage.get("output_tokens_details", {}).get("thinking_tokens", 0)
    assert finish.reason == {"end_turn": "stop", "tool_use": "tool_calls"}[message["stop_reason"]]


@pytest.mark.parametrize("row", [row for row in _params() if "thinking" in row.values[0]["features"]])
def test_signatures_and_redacted_thinking_are_kept_for_their_origin(row: Json) -> None:
    builder, items = _build(_decode(row))
    thoughts = [item for item in items if isinstance(item, Reasoning)]
    blocks = [block for block in _blocks(row) if "thinking" in block["type"]]
    for item, block in zip(thoughts, blocks, strict=True):
        sealed = f"redacted:{block['data']}" if "data" in block else f"signature:{block['signature']}"
        assert builder.sidecars[item.id]["encrypted_content"] == sealed
        assert item.encrypted_content == sealed


@pytest.mark.parametrize("row", _params())
def test_citations_that_name_a_url_are_kept_with_their_text(row: Json) -> None:
    _, items = _build(_decode(row))
    parts = [part for item in items if isinstance(item, Message) for part in item.content]
    texts = [block for block in _blocks(row) if block.get("text")]
    for part, block in zip(parts, texts, strict=True):
        assert isinstance(part, OutputText)
        cited = [each for each in block.get("citations") or () if "url" in each]
        assert [note.url for note in part.annotations] == [each["url"] for each in cited]
        assert all((note.start_index, note.end_index) == (0, len(part.text)) for note in part.annotations)


@pytest.mark.parametrize("row", _params(stream=True))
def test_where_a_stream_is_cut_into_pieces_makes_no_difference(row: Json) -> None:
    body = row["response"].encode()
    whole = _feed([body])
    assert _feed([body[at : at + 1] for at in range(len(body))]) == whole
    if len(body) <= EVERY_CUT_BYTES_MAX:
        for at in range(1, len(body)):
            assert _feed([body[:at], body[at:]]) == whole


@pytest.mark.parametrize("row", _params(stream=True))
def test_a_stream_that_ends_early_is_never_taken_for_a_whole_one(row: Json) -> None:
    body = row["response"].encode()
    end = body.index(b"event: message_delta")
    for at in range(0, end, max(1, end // 200)):
        decoder = WIRE.stream_decoder()
        decoder.feed(body[:at])
        assert not decoder.done
        with pytest.raises(ModelError) as caught:
            decoder.eof()
        assert caught.value.code in ("answer_cut", "malformed_stream")
        assert caught.value.retryable


@pytest.mark.parametrize("row", _params(ok=False))
def test_every_recorded_error_keeps_its_words(row: Json) -> None:
    error = WIRE.decode_error(row["status"], {"request-id": "req_1"}, row["response"].encode())
    said = json.loads(row["response"])["error"]
    assert error.provider_message == said["message"]
    assert "req_1" in error.message
    assert not error.retryable
    assert error.code == ("upstream_model_not_found" if row["status"] == 404 else "upstream_rejected")
