"""Claude by Bedrock's InvokeModel: Anthropic's events in Amazon's frames, cut anywhere, and its cell's requests."""

from __future__ import annotations

import itertools
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.recorded.texts import whole_texts
from tests.unit.test_clouds_aws import KEY, MODEL, Source, Upstream, called, request

from stateline.core.calls import Finish, ModelDelta, TextDelta
from stateline.core.errors import ModelError
from stateline.models.clouds.aws import AwsKeyring, Chain
from stateline.models.formats import anthropic_messages, wire_of
from stateline.models.formats.anthropic_invoke import StreamDecoder
from stateline.testing.anthropic_bodies import MessageBody
from stateline.testing.converse import event, exception
from stateline.testing.scripted import Answer, deltas_of

RECORDED = Path(__file__).parents[3] / "shared/recorded/bedrock.jsonl"
TYPE = "application/vnd.amazon.eventstream"


def events_of(text: str) -> list[bytes]:
    """The events of a streamed answer as Anthropic sends them, their data alone."""
    body = MessageBody(1, "m")
    sent = b"".join([body.begin(), *(body.events([delta]) for delta in deltas_of(Answer(text=text), 1))])
    return [line[6:] for line in sent.split(b"\n") if line.startswith(b"data: ")]


def framed(events: list[bytes]) -> bytes:
    return b"".join(event("chunk", {"bytes": b64encode(each).decode(), "p": "abcd"}) for each in events)


def plain(events: list[bytes]) -> list[ModelDelta]:
    decoder = anthropic_messages.StreamDecoder()
    return decoder.feed(b"".join(b"data: " + each + b"\n\n" for each in events)) + decoder.eof()


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), st.lists(st.integers(0, 10**6), max_size=6))
def test_any_pieces_say_what_anthropics_own_stream_says(text: str, cuts: list[int]) -> None:
    events = events_of(text)
    sent = framed(events)
    at = [0, *sorted(cut % (len(sent) + 1) for cut in cuts), len(sent)]
    decoder = StreamDecoder()
    deltas = [delta for one, other in itertools.pairwise(at) for delta in decoder.feed(sent[one:other])]
    deltas += decoder.eof()
    assert decoder.done
    assert whole_texts(deltas) == whole_texts(plain(events))


def test_every_cut_of_a_stream_is_the_same() -> None:
    sent = framed(events_of("two words"))
    whole = whole_texts(plain(events_of("two words")))
    for at in range(len(sent)):
        decoder = StreamDecoder()
        assert whole_texts([*decoder.feed(sent[:at]), *decoder.feed(sent[at:]), *decoder.eof()]) == whole


def test_a_stream_that_ends_early_is_never_taken_for_a_whole_one() -> None:
    sent = framed(events_of("two words"))
    last = len(framed(events_of("two words")[:-2]))
    for at in range(0, last, 7):
        decoder = StreamDecoder()
        decoder.feed(sent[:at])
        with pytest.raises(ModelError) as caught:
            decoder.eof()
        assert caught.value.code == "answer_cut"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (exception("throttlingException", "slow down"), "rate_limited"),
        (exception("modelStreamErrorException", "oh"), "upstream_error"),
        (event("chunk", {"bytes": "%%%"}), "malformed_stream"),
        (event("chunk", {"no": "bytes"}), "malformed_stream"),
    ],
)
def test_exceptions_and_nonsense_are_bedrocks_errors(sent: bytes, code: str) -> None:
    decoder = StreamDecoder()
    decoder.feed(framed(events_of("hi")[:2]))
    with pytest.raises(ModelError) as caught:
        decoder.feed(sent)
    assert caught.value.code == code


def _recorded() -> list[dict[str, Any]]:
    if not RECORDED.is_file():
        return []
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [row for row in rows if row["api"] == "invoke" and "anthropic" in row["url"]]


@pytest.mark.skipif(not RECORDED.is_file(), reason="the recorded traffic is not here")
def test_recorded_answers_decode() -> None:
    wire = wire_of("anthropic-messages", "aws")
    assert wire is not None
    assert _recorded()
    for row in _recorded():
        deltas = wire.decode_response(row["response"].encode())
        assert isinstance(deltas[-1], Finish)
        assert any(isinstance(delta, TextDelta) for delta in deltas)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_cell_is_asked_as_invoke_model_wants_it(stream: bool) -> None:
    events = events_of("hi")
    whole = MessageBody(1, "m").whole(deltas_of(Answer(text="hi"), 1))
    upstream = Upstream("200 OK", TYPE if stream else "application/json", lambda _: framed(events) if stream else whole)
    keyring = AwsKeyring(Chain(lambda: Source(KEY)))
    deltas = await called(upstream, request(stream=stream), keyring, format="anthropic-messages")
    assert TextDelta("hi") in deltas
    ((target, headers, body),) = upstream.requests
    assert target == f"/model/{MODEL.replace(':', '%3A')}/" + ("invoke-with-response-stream" if stream else "invoke")
    assert headers["accept"] == (TYPE if stream else "application/json")
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=")
    said = json.loads(body)
    assert said["anthropic_version"] == "bedrock-2023-05-31"
    assert said.keys().isdisjoint({"model", "stream"})


async def test_an_error_is_read_as_bedrocks() -> None:
    upstream = Upstream(
        "429 Too Many Requests\r\nx-amzn-ErrorType: ThrottlingException",
        "application/json",
        lambda _: b'{"message":"no"}',
    )
    with pytest.raises(ModelError) as caught:
        await called(upstream, request(), AwsKeyring(Chain(lambda: Source(KEY))), format="anthropic-messages")
    assert caught.value.code == "rate_limited"
