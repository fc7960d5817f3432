"""Every recorded answer of Bedrock's Converse and ConverseStream, decoded and assembled into items."""

from __future__ import annotations

import base64
import importlib
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

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recorded" / "bedrock.jsonl"
WIRE = FORMATS["bedrock-converse"]
BUFFER: Any = importlib.import_module("botocore.eventstream").EventStreamBuffer


def _load() -> list[Json]:
    if not RECORDINGS.exists():
        return []
    rows: list[Json] = [json.loads(line) for line in RECORDINGS.read_text().splitlines()]
    return [row for row in rows if row["api"] in ("converse", "converse-stream")]


ROWS = _load()
pytestmark = pytest.mark.skipif(not ROWS, reason="../shared, with the recordings, is not here")


def _params(*, ok: bool = True, stream: bool | None = None) -> list[Any]:
    chosen = [row for row in ROWS if (row["status"] == 200) is ok and stream in (None, row["stream"])]
    return [pytest.param(row, id=f"{row['api']}-{at}") for at, row in enumerate(chosen)]


def _body(row: Json) -> bytes:
    return base64.b64decode(row["response_base64"]) if row["stream"] else row["response"].encode()


def _feed(pieces: list[bytes]) -> list[ModelDelta]:
    decoder = WIRE.stream_decoder()
    out = [delta for piece in pieces for delta in decoder.feed(piece)]
    assert decoder.done
    return out + decoder.eof()


def _decode(row: Json) -> list[ModelDelta]:
    return _feed([_body(row)]) if row["stream"] else WIRE.decode_response(_body(row))


def _build(row: Json) -> tuple[StreamBuilder, tuple[Item, ...]]:
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(_decode(row))
    builder.take()
    items, _, _ = builder.end("incomplete")
    return builder, items


# -- what an answer says, read in the plainest way, by botocore where it is a stream ----------------


def _events(row: Json) -> list[tuple[str, Json]]:
    buffer = BUFFER()
    buffer.add_data(_body(row))
    return [(each.headers[":event-type"], json.loads(each.payload)) for each in buffer]


def _blocks(row: Json) -> list[Json]:
    """The content blocks; those of a stream put together from its events."""
    if not row["stream"]:
        return json.loads(row["response"])["output"]["message"]["content"]
    blocks: dict[int, Json] = {}
    for name, body in _events(row):
        block = blocks.setdefault(body.get("contentBlockIndex", -1), {})
        if name == "contentBlockStart":
            block.update(body["start"])
        elif name == "contentBlockDelta":
            delta = body["delta"]
            thought = delta.get("reasoningContent", {})
            if "text" in delta:
                block["text"] = block.get("text", "") + delta["text"]
            elif "toolUse" in delta:
                block["toolUse"]["input"] = block["toolUse"].get("input", "") + delta["toolUse"]["input"]
            elif "redactedContent" in thought:
                block["reasoningContent"] = thought
            elif thought:
                known = block.setdefault("reasoningContent", {"reasoningText": {}})["reasoningText"]
                for field, value in thought.items():
                    known[field] = known.get(field, "") + value
    return [block for at, block in sorted(blocks.items()) if at >= 0]


def _ending(row: Json) -> Json:
    if not row["stream"]:
        return json.loads(row["response"])
    return {
        key: value for name, body in _events(row) if name in ("messageStop", "metadata") for key, value in body.items()
    }


def _said(row: Json) -> list[tuple[Any, ...]]:
    said: list[tuple[Any, ...]] = []
    for block in _blocks(row):
        thought = block.get("reasoningContent")
        if thought is not None:
            inner = thought.get("reasoningText", {})
            secret = f"signature:{inner['signature']}" if "signature" in inner else None
            if "redactedContent" in thought:
                secret = f"redacted:{thought['redactedContent']}"
            said.append(("reasoning", inner.get("text", ""), secret))
        elif block.get("text"):
            said.append(("message", block["text"]))
        elif "toolUse" in block and block["toolUse"].get("type") != "server_tool_use":
            use = block["toolUse"]
            given = use.get("input", "{}")
            given = json.loads(given) if isinstance(given, str) else given
            said.append(("function_call", use["toolUseId"], use["name"], given))
    return said


def _plain(item: Item, builder: StreamBuilder) -> tuple[Any, ...]:
    if isinstance(item, Message):
        (part,) = item.content
        assert isinstance(part, OutputText)
        return ("message", part.text)
    if isinstance(item, FunctionCall):
        return ("function_call", item.call_id, item.name, json.loads(item.arguments))
    assert isinstance(item, Reasoning)
    texts = item.content if isinstance(item.content, tuple) else ()
    secret = item.encrypted_content if isinstance(item.encrypted_content, str) else None
    assert builder.sidecars.get(item.id, {}).get("encrypted_content") == secret
    return ("reasoning", "".join(part.text for part in texts), secret)


@pytest.mark.parametrize("row", _params())
def test_every_answer_becomes_the_items_that_it_says(row: Json) -> None:
    builder, items = _build(row)
    assert [_plain(item, builder) for item in items] == _said(row)


@pytest.mark.parametrize("row", _params())
def test_every_answer_ends_with_its_usage_and_its_reason(row: Json) -> None:
    finish, ending = _decode(row)[-1], _ending(row)
    assert isinstance(finish, Finish)
    assert finish.reason == {"end_turn": "stop", "tool_use": "tool_calls"}[ending["stopReason"]]
    usage = ending["usage"]
    assert finish.usage is not None
    # Their total holds what was read from and written to the cache; their input does not.
    assert finish.usage.total_tokens == usage["totalTokens"]
    assert finish.usage.output_tokens == usage["outputTokens"]
    assert finish.usage.cached_tokens == usage.get("cacheReadInputTokens", 0)
    assert finish.usage.cache_write_tokens == usage.get("cacheWriteInputTokens", 0)


@pytest.mark.parametrize("row", _params(stream=True))
def test_where_a_stream_is_cut_into_pieces_makes_no_difference(row: Json) -> None:
    body = _body(row)
    whole = whole_texts(_feed([body]))
    assert whole_texts(_feed([body[at : at + 1] for at in range(len(body))])) == whole
    for at in range(1, len(body)):
        assert whole_texts(_feed([body[:at], body[at:]])) == whole


@pytest.mark.parametrize("row", _params(stream=True))
def test_a_stream_that_ends_early_is_never_taken_for_a_whole_one(row: Json) -> None:
    body = _body(row)
    stop = body.index(b"messageStop")
    for at in range(0, stop, 7):
        decoder = WIRE.stream_decoder()
        decoder.feed(body[:at])
        assert not decoder.done
        with pytest.raises(ModelError) as caught:
            decoder.eof()
        assert caught.value.code == "answer_cut"
        assert caught.value.retryable


@pytest.mark.parametrize("row", _params(ok=False))
def test_every_recorded_error_keeps_its_words(row: Json) -> None:
    error = WIRE.decode_error(row["status"], {"x-amzn-errortype": "ValidationException:http://x/"}, _body(row))
    said = json.loads(row["response"])["message"]
    assert error.provider_message == said
    assert error.provider_status == row["status"]
    assert not error.retryable
    assert error.code == ("upstream_model_not_found" if "identifier is invalid" in said else "upstream_rejected")
