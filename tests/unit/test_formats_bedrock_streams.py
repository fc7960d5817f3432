"""Any answer of Bedrock's, streamed in any pieces, says what the same answer says as a whole."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stateline.core.calls import Finish, ModelDelta
from stateline.core.items import Item
from stateline.core.stream import StreamBuilder
from stateline.models.formats.bedrock_converse import StreamDecoder, decode_response
from stateline.testing.converse import event

Json = dict[str, Any]

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
NAMES = st.sampled_from(["a", "look_up"])
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.dictionaries(st.sampled_from(["x", "y"]), NUMBERS | TEXTS, max_size=2)


def _text(text: str) -> Json:
    return {"text": text}


def _redacted(secret: str) -> Json:
    return {"reasoningContent": {"redactedContent": secret}}


def _thought(text: str, signature: str | None) -> Json:
    return {"reasoningContent": {"reasoningText": {"text": text} | ({"signature": signature} if signature else {})}}


def _use(at: int, name: str, given: Json) -> Json:
    return {"toolUse": {"toolUseId": f"t{at}", "name": name, "input": given}}


BLOCKS = st.one_of(
    st.builds(_text, TEXTS),
    st.builds(_thought, TEXTS, st.sampled_from([None, "c2ln"])),
    st.builds(_redacted, st.sampled_from(["YWI=", "YWJj"])),
    st.builds(_use, st.integers(0, 10**6), NAMES, VALUES),
)


def _pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    bounds = [0, *cuts, len(text)]
    return [text[one:other] for one, other in pairwise(bounds)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Json], bytes]:
    """Content blocks, and the bytes of a stream that says them."""
    blocks: list[Json] = draw(st.lists(BLOCKS, max_size=6))
    sent = event("messageStart", {"role": "assistant"})
    for at, block in enumerate(blocks):
        deltas: list[Json] = []
        use, thought = block.get("toolUse"), block.get("reasoningContent")
        if use is not None:
            start = {"toolUseId": use["toolUseId"], "name": use["name"]}
            sent += event("contentBlockStart", {"contentBlockIndex": at, "start": {"toolUse": start}})
            deltas = [{"toolUse": {"input": piece}} for piece in _pieces(draw, json.dumps(use["input"]))]
        elif thought is None:
            deltas = [{"text": piece} for piece in _pieces(draw, block["text"])]
        elif "redactedContent" in thought:
            deltas = [block]
        else:
            inner = thought["reasoningText"]
            deltas = [{"reasoningContent": {"text": piece}} for piece in _pieces(draw, inner["text"])]
            if "signature" in inner:
                deltas.append({"reasoningContent": {"signature": inner["signature"]}})
        for delta in deltas:
            sent += event("contentBlockDelta", {"contentBlockIndex": at, "delta": delta, "p": "abc"})
        sent += event("contentBlockStop", {"contentBlockIndex": at})
    return blocks, sent + event("messageStop", {"stopReason": "end_turn"}) + event("metadata", {"usage": {}})


def _built(deltas: list[ModelDelta]) -> tuple[tuple[Item, ...], dict[str, Any], Finish | None]:
    builder = StreamBuilder("s", 1, 1, 0, 0)
    builder.feed(deltas)
    items, _, _ = builder.end("incomplete")
    return items, builder.sidecars, builder.finish


def _neutral(items: tuple[Item, ...]) -> list[Any]:
    """Items with their arguments as values, since spaces in JSON say nothing."""
    shown: list[Any] = []
    for item in items:
        fields = {name: getattr(item, name) for name in item.__struct_fields__}
        if "arguments" in fields:
            fields["arguments"] = json.loads(fields["arguments"])
        shown.append((type(item).__name__, fields))
    return shown


@given(streams(), st.lists(st.integers(0, 10**6), max_size=5))
def test_a_stream_in_any_pieces_says_what_the_whole_answer_says(made: tuple[list[Json], bytes], at: list[int]) -> None:
    blocks, sent = made
    body = {"output": {"message": {"content": blocks}}, "stopReason": "end_turn", "usage": {}}
    items, sidecars, finish = _built(decode_response(json.dumps(body).encode()))
    bounds = [0, *sorted(each % (len(sent) + 1) for each in at), len(sent)]
    decoder = StreamDecoder()
    deltas: list[ModelDelta] = []
    for one, other in pairwise(bounds):
        deltas += decoder.feed(sent[one:other])
    assert decoder.done
    streamed, kept, ended = _built(deltas)
    assert (_neutral(streamed), kept, ended) == (_neutral(items), sidecars, finish)
